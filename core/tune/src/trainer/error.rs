//! What stops a run.

use crate::config::ConfigError;
use crate::example::ExampleError;
use crate::graph::NetworkError;
use crate::objective::ObjectiveError;
use crate::optimizer::OptimizerError;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An example was refused.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// No examples.
    #[error("there are no examples to learn from")]
    NoExamples,
    /// A pass failed or was stopped.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A loss could not be computed.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// An update was refused.
    #[error("step {step}: {source}")]
    Optimizer {
        /// The step, from 1.
        step: u64,
        /// What was refused.
        source: OptimizerError,
    },
    /// A gradient, parameter or moment that is NaN or infinite.
    #[error("step {step}: the {what} of `{tensor}` is {value}, not a finite number{then}")]
    NotFinite {
        /// The step, from 1; of a checkpoint the one after which it was saved.
        step: u64,
        /// Which of these it is.
        what: &'static str,
        /// The adapter's tensor, such as `blk.0.attn_q.weight.lora_a`.
        tensor: String,
        /// NaN or an infinity.
        value: f32,
        /// What follows for the run.
        then: &'static str,
    },
    /// The adapter was refused.
    #[error(transparent)]
    Adapter(#[from] crate::adapter::AdapterError),
    /// A reference adapter that is not made like the run's own.
    #[error(
        "the reference adapter's rank, alpha or matrices are not those of the adapter that is trained: start the run from it, or from one made alike"
    )]
    ReferenceAdapter,
    /// A step was asked for before the reference's log-probabilities of its examples were known.
    #[error("example {index}: the reference has not scored it yet; call `score_references` first")]
    NoReference {
        /// The example's index.
        index: usize,
    },
}

impl TrainError {
    /// Whether the step was stopped through the abort flag; it can be taken again.
    pub fn is_aborted(&self) -> bool {
        matches!(self, Self::Network(error) if error.is_aborted())
    }
}
