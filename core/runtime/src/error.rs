//! The library's error.

use std::path::PathBuf;

use thumbprint_tune::data::DataError;
use thumbprint_tune::durable::WriteError;

use crate::curation::Readiness;
use crate::engine::EngineError;
use crate::gate::IllegalTransition;
use crate::reward::Unfit;
use crate::store::StoreError;
use crate::types::AdapterId;

/// Why a call of [`Thumbprint`](crate::Thumbprint) failed. Never holds user text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of the data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Of the model or a generation.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Of training.
    #[error(transparent)]
    Train(#[from] thumbprint_tune::trainer::TrainError),
    /// A model that cannot be trained.
    #[error(transparent)]
    Model(#[from] thumbprint_tune::model::ModelError),
    /// No plan fits the memory budget.
    #[error(transparent)]
    OverBudget(#[from] thumbprint_tune::plan::OverBudget),
    /// Of an adapter's file.
    #[error(transparent)]
    Adapter(#[from] thumbprint_tune::adapter::AdapterError),
    /// Of a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] thumbprint_tune::checkpoint::CheckpointError),
    /// No model was named.
    #[error("no model: call `load`, or name one in `Options::model`")]
    NoModel,
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What an export writes to does not take it.
    #[error("cannot write: {source}")]
    Write {
        /// What the system said.
        source: std::io::Error,
    },
    /// A model's file has another hash than expected.
    #[error("{} has SHA-256 {found}, not {expected}: the download is damaged or another file; get it again", path.display())]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An adapter's file is not the one that was recorded.
    #[error(
        "adapter {adapter}: its file was changed since it was written; roll back, or personalize again"
    )]
    AdapterChanged {
        /// The adapter.
        adapter: AdapterId,
    },
    /// An adapter is taken in that learned from something that was forgotten here.
    #[error(
        "this is adapter {adapter}, which had learned from something that was forgotten since: it cannot come back"
    )]
    ForgottenAdapter {
        /// The adapter that it was.
        adapter: AdapterId,
    },
    /// An adapter cannot be used so.
    #[error("adapter {adapter}: {source}")]
    State {
        /// The adapter.
        adapter: AdapterId,
        /// Why.
        source: IllegalTransition,
    },
    /// There is nothing to be compared with or taken back.
    #[error("no adapter is active")]
    NoActiveAdapter,
    /// There is no head to judge by.
    #[error(
        "no reward head was fitted for this model: call `fit_head` (`thumbprint score --fit-head`)"
    )]
    NoHead,
    /// A head was fitted on the hidden states of another model.
    #[error(
        "the reward head was fitted for another model or template, or by an earlier version: fit it again"
    )]
    HeadOfAnotherModel,
    /// No head can be fitted on what there is.
    #[error("no reward head can be fitted: {0}")]
    Head(Unfit),
    /// The log does not say enough yet.
    #[error(
        "not enough feedback yet: {} of {} events, {} of {} for a reply, {} of {} against one",
        .0.have.events, .0.need.events, .0.have.liked, .0.need.liked, .0.have.disliked, .0.need.disliked
    )]
    TooLittleFeedback(Readiness),
    /// A file of questions cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A row of a file of questions does not fit the model.
    #[error(
        "line {line}: has {n} tokens, and the model was trained for {n_ctx}: shorten it, or leave it out"
    )]
    TooLong {
        /// The line, from 1.
        line: usize,
        /// Tokens of its longest text.
        n: usize,
        /// Tokens that the model was trained for.
        n_ctx: usize,
    },
    /// Nobody can be compared with themselves.
    #[error(
        "both sides are the same contestant: compare an adapter with another one, or with the base"
    )]
    SameContestant,
    /// There is nothing to be answered again.
    #[error("the conversation has no reply to take back")]
    NothingToRegenerate,
    /// There is no reply to be corrected.
    #[error("the conversation has no reply to correct")]
    NothingToEdit,
    /// A way of learning that makes no sense.
    #[error("the recipe cannot be used: {0}")]
    Recipe(String),
    /// A job's thread ended without an outcome.
    #[error("the job failed: {0}")]
    Job(String),
}

/// Result of the library.
pub type Result<T> = std::result::Result<T, Error>;

impl From<WriteError> for Error {
    fn from(WriteError { path, source, .. }: WriteError) -> Self {
        Self::File { path, source }
    }
}
