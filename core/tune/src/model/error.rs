//! Why a model cannot be trained.

use thumbprint_ggml::ggml::GgmlError;
use thumbprint_ggml::gguf::GgufError;

/// A model that cannot be trained, or not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file is not a GGUF model that can be read.
    #[error(transparent)]
    File(#[from] GgufError),
    /// The architecture has no training specification.
    #[error(
        "architecture `{architecture}` cannot be trained yet (trainable: {}); generation with it works",
        super::spec::trainable_architectures().join(", ")
    )]
    Architecture {
        /// `general.architecture` of the file.
        architecture: String,
    },
    /// The architecture is known, but this model uses a part of it that is not trained.
    #[error(
        "this `{architecture}` model uses {feature}, which cannot be trained yet; generation with it works"
    )]
    Feature {
        /// `general.architecture` of the file.
        architecture: String,
        /// The part in question.
        feature: String,
    },
    /// A required metadata key is missing or has an impossible value.
    #[error("model metadata `{key}`: {reason}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is missing or has the wrong shape.
    #[error("model tensor `{name}`: {reason}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// ggml cannot dequantize a weight's type.
    #[error(
        "model tensor `{name}` has type {ty}, which cannot be trained on: ggml does not dequantize it"
    )]
    TensorType {
        /// The tensor's name.
        name: String,
        /// ggml's name of the type.
        ty: &'static str,
    },
    /// The ggml layer refused.
    #[error(transparent)]
    Ggml(#[from] GgmlError),
}
