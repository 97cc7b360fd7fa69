//! A model as the trainer sees it: a specification of its blocks, and weights mapped from its file.

mod error;
mod spec;
mod weights;

pub use error::ModelError;
pub use spec::{Activation, BlockSpec, Norm, Rope, RopeKind, trainable_architectures};
pub use weights::{Fused, LayerWeights, Model, Part};
