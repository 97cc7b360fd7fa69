//! From lines of other people's formats to what they say.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value};
use thumbprint_tune::data::{ChatMessage, DataError, JsonLines, PreferenceRow, Problem, Text};

use super::filter::Sieve;
use super::{Filters, Imported, Passed, Said};
use crate::types::{Message, Role};

type Fields = Map<String, Value>;

/// How lines are to be understood.
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
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] = [
        Format::Preference,
        Format::Unpaired,
        Format::ShareGpt,
        Format::HhRlhf,
        Format::UltraFeedback,
        Format::Nectar,
        Format::Oasst,
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
        }
    }

    /// The format of a line, by the fields that it has; none where they fit no format.
    pub fn of_line(fields: &Fields) -> Option<Self> {
        let has = |name: &str| fields.contains_key(name);
        let transcript = |name: &str| {
            let text = fields.get(name).and_then(Value::as_str);
            text.is_some_and(|text| text.trim_start().starts_with("Human:"))
        };
        if has("conversations") {
            Some(Format::ShareGpt)
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

    fn parse(self, fields: &Fields) -> Result<Vec<Row>, Problem> {
        match self {
            Format::Preference => preference(fields).map(|row| vec![row]),
            Format::Unpaired => unpaired(fields).map(|row| vec![row]),
            Format::ShareGpt => share_gpt(fields).map(|row| vec![row]),
            Format::HhRlhf => hh_rlhf(fields).map(|row| vec![row]),
            Format::UltraFeedback => ultra_feedback(fields),
            Format::Nectar => nectar(fields),
            Format::Oasst => oasst(fields),
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

/// What the rows of a file say, in order; what is passed over is counted. Stops after the first error.
pub struct Reader<R> {
    lines: JsonLines<R>,
    /// What all lines have; if not given, that of the first line.
    format: Option<Format>,
    sieve: Sieve,
    counts: Imported,
    waiting: VecDeque<Said>,
}

/// What a row says, or why it says nothing.
type Row = Result<Said, Passed>;

impl Reader<BufReader<File>> {
    /// Opens a file; its format is found in its first line, if it is not given.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(
        path: impl AsRef<Path>,
        format: Option<Format>,
        filters: Filters,
    ) -> Result<Self, DataError> {
        Ok(Self::of_lines(JsonLines::open(path)?, format, filters))
    }
}

impl<R: BufRead> Reader<R> {
    /// The same from lines that are being read.
    pub fn of_lines(lines: JsonLines<R>, format: Option<Format>, filters: Filters) -> Self {
        Self {
            lines,
            format,
            sieve: Sieve::new(filters),
            counts: Imported::default(),
            waiting: VecDeque::new(),
        }
    }

    /// Lines read and rows passed over so far.
    pub fn counts(&self) -> &Imported {
        &self.counts
    }

    fn take_line(&mut self, fields: &Fields) -> Result<(), DataError> {
        self.counts.rows += 1;
        let format = match self.format.or_else(|| Format::of_line(fields)) {
            Some(format) => *self.format.insert(format),
            None => {
                let names = Format::ALL.map(Format::name).join(", ");
                return Err(self.lines.error(Problem::Other(format!(
                    "has the fields of no known format: name one of {names}"
                ))));
            }
        };
        let rows = match format.parse(fields) {
            Ok(rows) => rows,
            // In a file of many rows, one without a difference is no mistake.
            Err(Problem::Identical) => vec![Err(Passed::Tie)],
            Err(problem) => return Err(self.lines.error(problem)),
        };
        for row in rows {
            match row.and_then(|said| self.sieve.passes(&said).map(|()| said)) {
                Ok(said) => self.waiting.push_back(said),
                Err(passed) => *self.counts.passed.entry(passed).or_default() += 1,
            }
        }
        Ok(())
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Said, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(said) = self.waiting.pop_front() {
                return Some(Ok(said));
            }
            let taken = match self.lines.next()? {
                Ok(fields) => self.take_line(&fields),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                return Some(Err(error));
            }
        }
    }
}

// ---- formats ----

fn preference(fields: &Fields) -> Result<Row, Problem> {
    let (prompt, better, worse) = comparison(fields)?;
    Ok(Ok(Said::Preferred {
        prompt,
        better,
        worse,
    }))
}

/// A prompt with the better and the worse of two answers, in TRL's preference form.
pub(crate) fn comparison(fields: &Fields) -> Result<(Vec<Message>, String, String), Problem> {
    let row = PreferenceRow::from_fields(fields)?;
    let prompt = prompt_of(row.prompt, "prompt")?;
    let (chosen, rejected) = (
        answer_of(row.chosen, "chosen")?,
        answer_of(row.rejected, "rejected")?,
    );
    Ok((prompt, chosen, rejected))
}

fn unpaired(fields: &Fields) -> Result<Row, Problem> {
    let prompt = prompt_of(Text::from_field(fields, "prompt")?, "prompt")?;
    let completion = answer_of(Text::from_field(fields, "completion")?, "completion")?;
    let liked = match fields.get("label") {
        Some(Value::Bool(label)) => *label,
        None => return Err(Problem::Missing("label".to_owned())),
        Some(_) => return Err(wrong_kind("label", "true or false")),
    };
    Ok(Ok(Said::Judged {
        prompt,
        completion,
        liked,
    }))
}

fn share_gpt(fields: &Fields) -> Result<Row, Problem> {
    let mut messages = Vec::new();
    for (i, turn) in array(fields, "conversations")?.iter().enumerate() {
        let (role, content) = share_gpt_turn(turn, &format!("conversations[{i}]"))?;
        messages.push(message(
            &role,
            content,
            &format!("conversations[{i}].from"),
        )?);
    }
    if let (Some(chosen), Some(rejected)) = (fields.get("chosen"), fields.get("rejected")) {
        return Ok(Ok(Said::Preferred {
            prompt: messages,
            better: share_gpt_turn(chosen, "chosen")?.1,
            worse: share_gpt_turn(rejected, "rejected")?.1,
        }));
    }
    match messages.pop() {
        Some(Message {
            role: Role::Assistant,
            content,
        }) => Ok(Ok(Said::Judged {
            prompt: messages,
            completion: content,
            liked: true,
        })),
        _ => Err(Problem::NotAnAnswer("conversations")),
    }
}

fn share_gpt_turn(turn: &Value, at: &str) -> Result<(String, String), Problem> {
    let Value::Object(fields) = turn else {
        return Err(wrong_kind(at, "a turn with `from` and `value`"));
    };
    Ok((string(fields, "from", at)?, string(fields, "value", at)?))
}

fn hh_rlhf(fields: &Fields) -> Result<Row, Problem> {
    let side = |name: &'static str| {
        let mut turns = transcript(&string(fields, name, "")?, name)?;
        match turns.pop() {
            Some(Message {
                role: Role::Assistant,
                content,
            }) => Ok((turns, content)),
            _ => Err(Problem::NotAnAnswer(name)),
        }
    };
    let ((prompt, better), (other_prompt, worse)) = (side("chosen")?, side("rejected")?);
    if prompt != other_prompt {
        return Ok(Err(Passed::OtherPrompt));
    }
    Ok(Ok(Said::Preferred {
        prompt,
        better,
        worse,
    }))
}

fn ultra_feedback(fields: &Fields) -> Result<Vec<Row>, Problem> {
    let prompt = vec![Message::user(string(fields, "instruction", "")?)];
    let rated = rated(fields, "completions", "response", "overall_score")?;
    Ok(all_pairs(&prompt, &rated))
}

fn nectar(fields: &Fields) -> Result<Vec<Row>, Problem> {
    let mut prompt = transcript(&string(fields, "prompt", "")?, "prompt")?;
    // The transcript ends where the answer begins.
    if let Some(last) = prompt.last()
        && last.role == Role::Assistant
        && last.content.is_empty()
    {
        prompt.pop();
    }
    let mut rated = rated(fields, "answers", "answer", "rank")?;
    // The first rank is the best.
    rated.iter_mut().for_each(|(_, rank)| *rank = -*rank);
    Ok(all_pairs(&prompt, &rated))
}

fn oasst(fields: &Fields) -> Result<Vec<Row>, Problem> {
    let Some(Value::Object(root)) = fields.get("prompt") else {
        return Err(wrong_kind("prompt", "a message with `replies`"));
    };
    let mut rows = Vec::new();
    // Nodes that are yet to be looked at, each with the turns before it.
    let mut nodes = vec![(root, Vec::new(), "prompt".to_owned())];
    while let Some((node, mut turns, at)) = nodes.pop() {
        let role = match string(node, "role", &at)?.as_str() {
            "prompter" => Role::User,
            "assistant" => Role::Assistant,
            _ => {
                return Err(wrong_kind(
                    format!("{at}.role"),
                    "`prompter` or `assistant`",
                ));
            }
        };
        let content = string(node, "text", &at)?;
        turns.push(Message { role, content });
        let replies: &[Value] = match node.get("replies") {
            None | Some(Value::Null) => &[],
            Some(Value::Array(replies)) => replies,
            Some(_) => return Err(wrong_kind(format!("{at}.replies"), "a list")),
        };
        let mut ranked = Vec::new();
        for (i, reply) in replies.iter().enumerate() {
            let at = format!("{at}.replies[{i}]");
            let Value::Object(reply) = reply else {
                return Err(wrong_kind(at, "a message"));
            };
            if let (Role::User, Some(rank)) = (role, reply.get("rank").and_then(Value::as_f64)) {
                ranked.push((string(reply, "text", &at)?, -rank));
            }
            nodes.push((reply, turns.clone(), at));
        }
        rows.extend(all_pairs(&turns, &ranked));
    }
    Ok(rows)
}

// ---- parts ----

/// Every better answer over every worse one, the best first.
fn all_pairs(prompt: &[Message], rated: &[(String, f64)]) -> Vec<Row> {
    let mut rated: Vec<&(String, f64)> = rated.iter().collect();
    rated.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut rows = Vec::new();
    for (i, (better, high)) in rated.iter().enumerate() {
        for (worse, low) in &rated[i + 1..] {
            rows.push(match high > low {
                true => Ok(Said::Preferred {
                    prompt: prompt.to_vec(),
                    better: better.clone(),
                    worse: worse.clone(),
                }),
                false => Err(Passed::Tie),
            });
        }
    }
    rows
}

fn rated(
    fields: &Fields,
    list: &str,
    text: &str,
    number: &str,
) -> Result<Vec<(String, f64)>, Problem> {
    let mut rated = Vec::new();
    for (i, item) in array(fields, list)?.iter().enumerate() {
        let at = format!("{list}[{i}]");
        let Value::Object(item) = item else {
            return Err(wrong_kind(at, "an object"));
        };
        let value = match item.get(number) {
            // UltraFeedback leaves some unrated.
            None | Some(Value::Null) => continue,
            Some(value) => value.as_f64(),
        };
        let value = value.ok_or_else(|| wrong_kind(format!("{at}.{number}"), "a number"))?;
        rated.push((string(item, text, &at)?, value));
    }
    Ok(rated)
}

/// `\n\nHuman: ...\n\nAssistant: ...` as turns.
fn transcript(text: &str, field: &str) -> Result<Vec<Message>, Problem> {
    const SPEAKERS: [(&str, Role); 2] = [("Human:", Role::User), ("Assistant:", Role::Assistant)];
    let speaker = |part: &str| {
        SPEAKERS
            .iter()
            .find_map(|(name, role)| Some((*role, part.strip_prefix(name)?.to_owned())))
    };
    let mut turns: Vec<Message> = Vec::new();
    for part in text.trim_start().split("\n\n") {
        match (speaker(part), turns.last_mut()) {
            (Some((role, content)), _) => turns.push(Message { role, content }),
            (None, Some(turn)) => {
                turn.content.push_str("\n\n");
                turn.content.push_str(part);
            }
            (None, None) => {
                return Err(wrong_kind(field, "a transcript that begins with `Human:`"));
            }
        }
    }
    for turn in &mut turns {
        turn.content = turn.content.trim().to_owned();
    }
    Ok(turns)
}

fn prompt_of(text: Text, field: &str) -> Result<Vec<Message>, Problem> {
    match text {
        Text::Plain(text) => Ok(vec![Message::user(text)]),
        Text::Chat(messages) => messages
            .into_iter()
            .enumerate()
            .map(|(i, ChatMessage { role, content })| {
                message(&role, content, &format!("{field}[{i}].role"))
            })
            .collect(),
    }
}

fn answer_of(text: Text, field: &'static str) -> Result<String, Problem> {
    match text {
        Text::Plain(text) => Ok(text),
        Text::Chat(mut messages) => match (messages.pop(), messages.is_empty()) {
            (Some(last), true) if last.role == "assistant" => Ok(last.content),
            (Some(_), true) | (None, _) => Err(Problem::NotAnAnswer(field)),
            (Some(_), false) => Err(Problem::Other(format!(
                "field `{field}` has several turns: only one answer can be judged; move the others into `prompt`"
            ))),
        },
    }
}

fn message(role: &str, content: String, at: &str) -> Result<Message, Problem> {
    let role = match role {
        "system" | "developer" => Role::System,
        "user" | "human" | "prompter" => Role::User,
        "assistant" | "gpt" | "model" | "chatgpt" => Role::Assistant,
        _ => {
            return Err(wrong_kind(
                at,
                "system, user or assistant, or their names in ShareGPT",
            ));
        }
    };
    Ok(Message { role, content })
}

fn array<'a>(fields: &'a Fields, name: &str) -> Result<&'a [Value], Problem> {
    match fields.get(name) {
        Some(Value::Array(items)) => Ok(items),
        None => Err(Problem::Missing(name.to_owned())),
        Some(_) => Err(wrong_kind(name, "a list")),
    }
}

fn string(fields: &Fields, name: &str, at: &str) -> Result<String, Problem> {
    let path = match at {
        "" => name.to_owned(),
        at => format!("{at}.{name}"),
    };
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        None => Err(Problem::Missing(path)),
        Some(_) => Err(wrong_kind(path, "a string")),
    }
}

fn wrong_kind(field: impl Into<String>, expected: &'static str) -> Problem {
    Problem::WrongKind {
        field: field.into(),
        expected,
    }
}
