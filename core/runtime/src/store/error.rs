//! What can go wrong with the store. No message ever holds text that a person wrote.

use std::path::PathBuf;

use crate::types::{AdapterId, ConversationId, FeedbackId, MatchId, MessageId, ReplyId, RunId};

use super::AdapterState;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The data folder cannot be created or opened.
    #[error("cannot use the data folder {}: {source}", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data folder may not be written to.
    #[error("the data folder {} is read-only: choose a folder that the app may write to", dir.display())]
    ReadOnly {
        /// The folder.
        dir: PathBuf,
    },
    /// Another process holds the data folder.
    #[error(
        "the data folder {} is in use by another process{}: close that one first, or choose another folder",
        dir.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The other process, where it is known.
        pid: Option<u32>,
    },
    /// A later version of this library wrote the database. Nothing was touched.
    #[error("database from a newer version {found}, this library knows {known}: update the app")]
    NewerVersion {
        /// Version of the database.
        found: u32,
        /// The newest version that this library reads.
        known: u32,
    },
    /// A key of another length.
    #[error(
        "the key has {given} bytes, where 32 are needed: draw them at random and keep them where the platform keeps secrets"
    )]
    KeyLength {
        /// Bytes that were given.
        given: usize,
    },
    /// A key was given to a build that cannot encrypt.
    #[error(
        "this build cannot encrypt a database: build it with the feature sqlcipher, or open the folder without a key"
    )]
    CannotEncrypt,
    /// The database is encrypted, and no key was given.
    #[error("the database in {} is encrypted: open it with its key", dir.display())]
    KeyNeeded {
        /// The folder.
        dir: PathBuf,
    },
    /// The database is not encrypted, and a key was given.
    #[error("the database in {} is not encrypted: open it without a key, or choose another folder", dir.display())]
    NotEncrypted {
        /// The folder.
        dir: PathBuf,
    },
    /// The key is another one. Nothing was touched.
    #[error("the key does not open the database in {}: give the one that it was created with", dir.display())]
    WrongKey {
        /// The folder.
        dir: PathBuf,
    },
    /// The database turned out to be damaged while in use.
    #[error(
        "the database is damaged: close the folder and open it again, which moves the file aside and starts a new one"
    )]
    Corrupt,
    /// No space is left. What was acknowledged before is safe.
    #[error("no space left on the device that holds the database: free some and try again")]
    DiskFull,
    /// What was to be recorded together ended in an error; nothing of it was recorded.
    #[error("nothing was recorded")]
    Abandoned,
    /// A row does not hold what this library writes there.
    #[error("row {id} of table {table} cannot be read: it was not written by this library")]
    Unreadable {
        /// The table.
        table: &'static str,
        /// The row.
        id: i64,
    },
    /// There is no such reply, or it was forgotten.
    #[error("there is no reply {0}")]
    UnknownReply(ReplyId),
    /// There is no such feedback, or it was forgotten.
    #[error("there is no feedback {0}")]
    UnknownFeedback(FeedbackId),
    /// There is no such conversation.
    #[error("there is no conversation {0}")]
    UnknownConversation(ConversationId),
    /// There is no such message.
    #[error("there is no message {0}")]
    UnknownMessage(MessageId),
    /// There is no such adapter.
    #[error("there is no adapter {0}")]
    UnknownAdapter(AdapterId),
    /// There is no such side-by-side, or it was forgotten.
    #[error("there is no match {0}")]
    UnknownMatch(MatchId),
    /// A side-by-side has one vote: who was on which side is known after it.
    #[error("match {0} has its vote")]
    AlreadyVoted(MatchId),
    /// There is no such run.
    #[error("there is no run {0}")]
    UnknownRun(RunId),
    /// The run was trained on something that has been forgotten since: drop it and start anew.
    #[error("run {0} has seen feedback that was forgotten since: start a new one")]
    ForgottenRun(RunId),
    /// An item that something was trained on has been forgotten since.
    #[error("feedback {0} was forgotten while it was in use: start again without it")]
    ForgottenItem(FeedbackId),
    /// Two replies that should answer one prompt answer different ones.
    #[error(
        "reply {0} answers another prompt: a preference or a retry needs two replies to one prompt"
    )]
    OtherPrompt(ReplyId),
    /// A reply preferred over itself.
    #[error("reply {0} cannot be preferred over itself")]
    SameReply(ReplyId),
    /// Something that must hold text is empty.
    #[error("{what} is empty")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// The adapter is in a state in which it may not be served.
    #[error("adapter {adapter} is {}, so it cannot be activated", state.as_str())]
    NotServable {
        /// The adapter.
        adapter: AdapterId,
        /// Its state.
        state: AdapterState,
    },
    /// The adapter was made for another base model.
    #[error(
        "adapter {adapter} was made for another base model: load that model, or train a new adapter"
    )]
    OtherBase {
        /// The adapter.
        adapter: AdapterId,
    },
    /// Anything else that SQLite reports.
    #[error("the database reports: {0}")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::*;
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => StoreError::Corrupt,
            Some(DiskFull) => StoreError::DiskFull,
            _ => StoreError::Sqlite(error),
        }
    }
}
