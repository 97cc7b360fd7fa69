//! Feedback in files: what others recorded, and what others may train on. Knows texts only. Every format is read and written.
//!
//! | Format | A line | Says |
//! |---|---|---|
//! | [`Format::Preference`] | `prompt`, `chosen`, `rejected` (TRL; text or messages) | one reply was picked over another |
//! | [`Format::Unpaired`] | `prompt`, `completion`, `label` (TRL) | 👍 or 👎 |
//! | [`Format::ShareGpt`] | `conversations`, each `from` and `value`; perhaps `chosen` and `rejected` | the last answer is good; or a pick |
//! | [`Format::HhRlhf`] | `chosen`, `rejected`, each a transcript (`\n\nHuman: ...\n\nAssistant: ...`) | a pick |
//! | [`Format::UltraFeedback`] | `instruction`, `completions`, each `response` and `overall_score` | a ranking; of two, or where some were rated alike, a pick of every better one over every worse one |
//! | [`Format::Nectar`] | `prompt` (a transcript), `answers`, each `answer` and `rank` | the same |
//! | [`Format::Oasst`] | `prompt`, a tree of `text`, `role`, `rank`, `replies` | the same, at every turn of the person |
//! | [`Format::Ranking`] | `prompt`, `ranked` (the best first; text or messages) | the same |
//!
//! A file is read line by line and taken in whole or not at all. A row that was taken in before changes nothing. What is written says the
//! same when it is read again, or it is left out and counted: a transcript cannot hold a system message, say.

mod filter;
mod format;
mod near;
mod parse;
mod read;
mod write;

use std::collections::BTreeMap;

use thumbprint_tune::data::DataError;

pub use filter::{Filters, Pattern};
pub use format::Format;
pub(crate) use parse::comparison;
pub use read::Reader;
pub use write::export;

use crate::store::StoreError;
use crate::types::Message;

/// What a row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// 👍 or 👎.
    Judged {
        /// What was answered.
        prompt: Vec<Message>,
        /// The answer.
        completion: String,
        /// 👍.
        liked: bool,
    },
    /// One answer was picked over another.
    Preferred {
        /// What was answered.
        prompt: Vec<Message>,
        /// The answer that was picked.
        better: String,
        /// The other one.
        worse: String,
    },
    /// Several answers in order.
    Ranked {
        /// What was answered.
        prompt: Vec<Message>,
        /// The answers, two at least, the best first.
        answers: Vec<String>,
    },
}

impl Said {
    /// What was answered.
    pub fn prompt(&self) -> &[Message] {
        match self {
            Said::Judged { prompt, .. }
            | Said::Preferred { prompt, .. }
            | Said::Ranked { prompt, .. } => prompt,
        }
    }

    /// The answers, the better ones first.
    pub fn answers(&self) -> Vec<&str> {
        match self {
            Said::Judged { completion, .. } => vec![completion],
            Said::Preferred { better, worse, .. } => vec![better, worse],
            Said::Ranked { answers, .. } => answers.iter().map(String::as_str).collect(),
        }
    }
}

/// Why a row was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passed {
    /// The two sides answer different prompts.
    OtherPrompt,
    /// The two sides are the same, or were rated alike.
    Tie,
    /// A prompt or an answer without text.
    Empty,
    /// Longer than [`Filters::max_chars`].
    TooLong,
    /// Shorter than [`Filters::min_chars`].
    TooShort,
    /// What is liked refuses to answer ([`Filters::refusals`]).
    Refusal,
    /// What is liked holds a phrase that says nothing ([`Filters::boilerplate`]).
    Boilerplate,
    /// What is liked matches a pattern ([`Filters::patterns`]).
    Pattern,
    /// Says what an earlier row said ([`Filters::duplicates`]).
    Duplicate,
    /// Says nearly what an earlier row said ([`Filters::near_duplicates`]).
    NearDuplicate,
}

/// What an import came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Lines read.
    pub rows: u64,
    /// Events of feedback recorded.
    pub recorded: u64,
    /// Events that were in the log already.
    pub known: u64,
    /// What was passed over, and how often.
    pub passed: BTreeMap<Passed, u64>,
}

/// What an export came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// Lines written.
    pub lines: u64,
    /// What the log says that has no such line: a 👎 on its own in a form of pairs, a system message in a transcript.
    pub left_out: u64,
}

/// Why a file was not taken in; then nothing of it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A line that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}
