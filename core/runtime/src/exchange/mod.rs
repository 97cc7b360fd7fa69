//! Feedback in files: what others recorded, and what others may train on. Knows texts only.
//!
//! | Format | A line | Says |
//! |---|---|---|
//! | [`Format::Preference`] | `prompt`, `chosen`, `rejected` (TRL; text or messages) | one reply was picked over another |
//! | [`Format::Unpaired`] | `prompt`, `completion`, `label` (TRL) | 👍 or 👎 |
//! | [`Format::ShareGpt`] | `conversations`, each `from` and `value`; perhaps `chosen` and `rejected` | the last answer is good; or a pick |
//! | [`Format::HhRlhf`] | `chosen`, `rejected`, each a transcript (`\n\nHuman: ...\n\nAssistant: ...`) | a pick |
//! | [`Format::UltraFeedback`] | `instruction`, `completions`, each `response` and `overall_score` | every better one over every worse one |
//! | [`Format::Nectar`] | `prompt` (a transcript), `answers`, each `answer` and `rank` | the same |
//! | [`Format::Oasst`] | `prompt`, a tree of `text`, `role`, `rank`, `replies` | the same, at every turn of the person |
//!
//! A file is read line by line and taken in whole or not at all. A row that was taken in before changes nothing.

mod filter;
mod read;
mod write;

use std::collections::BTreeMap;

use thumbprint_tune::data::DataError;

pub use filter::Filters;
pub(crate) use read::comparison;
pub use read::{Format, Reader};
pub use write::{ExportFormat, export};

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
    /// What is liked refuses to answer ([`Filters::refusals`]).
    Refusal,
    /// Says what an earlier row said ([`Filters::duplicates`]).
    Duplicate,
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
