//! From the log to lines that TRL's trainers load.

use std::io::Write;

use serde_json::{Value, json};

use crate::curation::{Curated, Kind, Options, curate};
use crate::types::{Feedback, LoggedFeedback, Message};

/// What a line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// `prompt`, `chosen`, `rejected`: pairs, as they are learned from, and edits over what was edited. For TRL's DPOTrainer.
    Preference,
    /// `prompt`, `completion`, `label`: each verdict by itself; an edit is good and what was edited is not, and so is a pick. For TRL's
    /// KTOTrainer.
    Unpaired,
}

/// Writes feedback in effect, one object a line, messages as TRL's conversational form has them. Returns the number of lines.
///
/// # Errors
/// Of the writer.
pub fn export(
    log: &[LoggedFeedback],
    format: ExportFormat,
    out: &mut dyn Write,
) -> std::io::Result<u64> {
    let mut lines = 0;
    let mut line = |value: Value| {
        lines += 1;
        writeln!(out, "{value}")
    };
    match format {
        ExportFormat::Preference => {
            for example in pairs(log).examples {
                if let Kind::Pair {
                    chosen, rejected, ..
                } = &example.kind
                {
                    line(json!({
                        "prompt": example.prompt,
                        "chosen": answer(&chosen.text),
                        "rejected": answer(&rejected.text),
                    }))?;
                }
            }
        }
        ExportFormat::Unpaired => {
            for event in log {
                for (text, label) in verdicts(event) {
                    line(json!({
                        "prompt": event.reply.prompt,
                        "completion": answer(text),
                        "label": label,
                    }))?;
                }
            }
        }
    }
    Ok(lines)
}

/// Every pair that the log gives.
fn pairs(log: &[LoggedFeedback]) -> Curated {
    let options = Options {
        pairs_per_prompt: usize::MAX,
        edit_pairs: true,
        ..Options::default()
    };
    curate(log, &options)
}

/// What an event says of single replies.
fn verdicts(event: &LoggedFeedback) -> Vec<(&str, bool)> {
    let text = event.reply.text.as_str();
    let verdicts = match &event.feedback {
        Feedback::Up => vec![(text, true)],
        Feedback::Down { .. } => vec![(text, false)],
        Feedback::Edit(edit) => vec![(edit.as_str(), true), (text, false)],
        Feedback::Prefer { .. } => {
            let other = event.other.iter().map(|other| (other.text.as_str(), false));
            [(text, true)].into_iter().chain(other).collect()
        }
        Feedback::Retry => Vec::new(),
    };
    let says = |(text, _): &(&str, bool)| !text.trim().is_empty();
    verdicts.into_iter().filter(says).collect()
}

fn answer(text: &str) -> [Message; 1] {
    [Message::assistant(text)]
}
