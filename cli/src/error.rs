//! What ends a command early, and the exit code that says so.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use thumbprint::engine::EngineError;
use thumbprint::store::StoreError;
use thumbprint_ggml::ggml::GgmlError;
use thumbprint_ggml::ggml::quant::QuantError;
use thumbprint_ggml::gguf::GgufError;
use thumbprint_ggml::llama::LlamaError;
use thumbprint_tune::adapter::AdapterError;
use thumbprint_tune::checkpoint::CheckpointError;
use thumbprint_tune::data::{DataError, Problem};
use thumbprint_tune::graph::NetworkError;
use thumbprint_tune::model::ModelError;
use thumbprint_tune::plan::OverBudget;
use thumbprint_tune::trainer::TrainError;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// There is nothing to learn from, or what was learned was rejected.
    #[error("{0}")]
    Nothing(String),
    /// The same where the result on standard output says so already.
    #[error("{0}")]
    Told(String),
    /// Ctrl-C or a request to terminate.
    #[error("interrupted{0}")]
    Interrupted(String),
    /// Standard output cannot be written to.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// Anything without a type of its own.
    #[error("{0}")]
    Failed(String),
    /// A file that the system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A model that cannot be trained or read.
    #[error("{}: {source}", path.display())]
    Model {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: ModelError,
    },
    /// An adapter file that cannot be used.
    #[error("{}: {source}", path.display())]
    Adapter {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: AdapterError,
    },
    /// A line of a data file that cannot be used, beyond what [`DataError`] covers.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong. Never quotes the line.
        problem: String,
    },
    /// A malformed data file.
    #[error(transparent)]
    Data(#[from] DataError),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// From llama.cpp's handles.
    #[error(transparent)]
    Llama(#[from] LlamaError),
    /// From ggml.
    #[error(transparent)]
    Ggml(#[from] GgmlError),
    /// From ggml's number formats.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// A malformed GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An adapter that cannot be made or written.
    #[error(transparent)]
    Lora(#[from] AdapterError),
    /// A checkpoint that cannot be used or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// From a forward pass.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// From the trainer.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Not enough memory allowed.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// From the library.
    #[error(transparent)]
    Library(#[from] thumbprint::Error),
    /// From the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Results of commands.
pub type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// The exit code; README's table says what each means.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            CliError::Usage(_) => 2,
            CliError::Nothing(_)
            | CliError::Told(_)
            | CliError::Data(DataError {
                problem: Problem::NoRows,
                ..
            }) => 3,
            CliError::Interrupted(_) => 130,
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 141,
            _ => 1,
        })
    }

    /// Whether nobody is left to read the message.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
