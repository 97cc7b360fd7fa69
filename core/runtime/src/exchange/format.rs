//! The formats by name, and by what their lines look like.

use std::str::FromStr;

use serde_json::{Map, Value};

/// What the lines of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TRL's preference form.
    Preference,
    /// TRL's unpaired form.
    Unpaired,
    /// ShareGPT's conversations.
    ShareGpt,
    /// Transcripts as in HH-RLHF.
    HhRlhf,
    /// Rated completions as in UltraFeedback.
    UltraFeedback,
    /// Ranked answers as in Nectar.
    Nectar,
    /// Trees as in OASST.
    Oasst,
    /// Answers in order, the best first: our own.
    Ranking,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 8] = [
        Format::Preference,
        Format::Unpaired,
        Format::ShareGpt,
        Format::HhRlhf,
        Format::UltraFeedback,
        Format::Nectar,
        Format::Oasst,
        Format::Ranking,
    ];

    /// The name in commands and messages.
    pub fn name(self) -> &'static str {
        match self {
            Format::Preference => "preference",
            Format::Unpaired => "unpaired",
            Format::ShareGpt => "sharegpt",
            Format::HhRlhf => "hh-rlhf",
            Format::UltraFeedback => "ultrafeedback",
            Format::Nectar => "nectar",
            Format::Oasst => "oasst",
            Format::Ranking => "ranking",
        }
    }

    /// The format of a line, by the fields that it has; none where they fit no format.
    pub fn of_line(fields: &Map<String, Value>) -> Option<Self> {
        let has = |name: &str| fields.contains_key(name);
        let transcript = |name: &str| {
            let text = fields.get(name).and_then(Value::as_str);
            text.is_some_and(|text| text.trim_start().starts_with("Human:"))
        };
        if has("conversations") {
            Some(Format::ShareGpt)
        } else if has("ranked") {
            Some(Format::Ranking)
        } else if has("answers") {
            Some(Format::Nectar)
        } else if has("completions") {
            Some(Format::UltraFeedback)
        } else if has("chosen") && has("rejected") {
            match !has("prompt") && transcript("chosen") {
                true => Some(Format::HhRlhf),
                false => Some(Format::Preference),
            }
        } else if has("completion") && has("label") {
            Some(Format::Unpaired)
        } else if fields.get("prompt").is_some_and(Value::is_object) {
            Some(Format::Oasst)
        } else {
            None
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut formats = Format::ALL.into_iter();
        formats.find(|format| format.name() == name).ok_or_else(|| {
            let names = Format::ALL.map(Format::name).join(", ");
            format!("there is no format {name}: use one of {names}")
        })
    }
}
