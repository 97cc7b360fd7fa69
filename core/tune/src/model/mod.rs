//! A model as the trainer sees it: a specification of its blocks, and weights mapped from its file.

mod error;
mod spec;
mod weights;

pub use error::ModelError;
pub use spec::{
    Activation, BlockSpec, Experts, Layout, Norm, QkNorms, Rope, RopeKind, Window, Yarn,
    has_fused_matrices, trainable_architectures,
};
pub use weights::{ExpertWeights, Fused, LayerWeights, Model, NormWeights, Part, trainable_types};
