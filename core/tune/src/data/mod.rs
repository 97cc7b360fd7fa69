//! Preference data in TRL's JSONL format, and rankings in one like it, streamed line by line. Nothing here tokenizes or renders a template.
//!
//! A line is an object with `chosen`, `rejected` and, unless implicit, `prompt`; each a string, or a list of messages
//! (`role`, `content`). Without a `prompt` (or with a string beside conversations) the prompt is what the two sides begin with in
//! common, as TRL's `maybe_extract_prompt` has it. Other fields are ignored, except those that TRL would render into the text.
//!
//! A ranking has `prompt` and `ranked`, a list of answers, the best first, each as `chosen` is.

mod reader;
mod row;

use std::path::PathBuf;

use serde_json::{Map, Value};

pub use reader::{JsonLines, PreferenceReader};

/// A prompt and two answers to it, of which the first is preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferenceRow {
    /// Never empty.
    pub prompt: Text,
    /// Of the same kind as the prompt; never empty, never equal to `rejected`.
    pub chosen: Text,
    /// Of the same kind as the prompt; never empty.
    pub rejected: Text,
}

impl PreferenceRow {
    /// From the fields of a line.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_fields(fields: &Map<String, Value>) -> Result<Self, Problem> {
        row::parse(fields)
    }
}

/// A prompt and several answers to it, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankingRow {
    /// Never empty.
    pub prompt: Text,
    /// Two at least, the best first; of the same kind as the prompt, never empty, all different.
    pub ranked: Vec<Text>,
}

impl RankingRow {
    /// From the fields of a line. A row of two sides is a ranking of two.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_fields(fields: &Map<String, Value>) -> Result<Self, Problem> {
        row::parse_ranking(fields)
    }
}

impl Text {
    /// The text in a field of a line.
    ///
    /// # Errors
    /// There is none, or it is neither a string nor a list of messages.
    pub fn from_field(fields: &Map<String, Value>, name: &'static str) -> Result<Self, Problem> {
        row::required(fields, name)
    }
}

/// Text as TRL's data sets hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// To be used as it is.
    Plain(String),
    /// To be rendered by the model's chat template. A completion is one assistant message, or several turns that end with one.
    Chat(Vec<ChatMessage>),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A line that cannot be used, with its place. Never quotes the line.
#[derive(Debug, thiserror::Error)]
#[error("{}, line {line}: {problem}", path.display())]
pub struct DataError {
    /// The file.
    pub path: PathBuf,
    /// 1-based; 0 where the file itself is at fault.
    pub line: usize,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Not a JSON object.
    #[error("is not JSON: {0}")]
    Json(String),
    /// Longer than any example has reason to be.
    #[error("is longer than {limit} bytes: is this a JSONL file?")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// A field that must be there.
    #[error("has no field `{0}`")]
    Missing(String),
    /// A field of the wrong kind.
    #[error("field `{field}` must be {expected}")]
    WrongKind {
        /// The field, as a path (`chosen[0].content`).
        field: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A field without text.
    #[error("field `{0}` is empty")]
    Empty(String),
    /// A conversation that cannot be an answer.
    #[error("field `{0}` must end with an assistant message")]
    NotAnAnswer(String),
    /// Both sides say the same.
    #[error("fields `chosen` and `rejected` are identical, so that nothing is preferred")]
    Identical,
    /// Two of several say the same.
    #[error("two answers of `{0}` are identical, so that neither is preferred")]
    Repeated(&'static str),
    /// A ranking of fewer than two.
    #[error("field `{0}` must hold two answers at least")]
    TooFew(&'static str),
    /// No prompt was given, and none can be found.
    #[error("has no field `prompt`, and `chosen` and `rejected` do not begin alike")]
    NoCommonPrefix,
    /// A field that would change the text, and that is not supported.
    #[error(
        "field `{0}` is not supported: leaving it out would train on another text than the data set means"
    )]
    Unsupported(String),
    /// Something else, said by who reads the row.
    #[error("{0}")]
    Other(String),
    /// A file without a single pair.
    #[error("holds no pairs")]
    NoRows,
}
