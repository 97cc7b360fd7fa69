//! What can go wrong in this layer.

use crate::GgmlType;

/// An error of the ggml layer. Nothing here is raised by ggml itself, which would abort: shapes and types are checked first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgmlError {
    /// Operands whose shapes or types do not fit the operation.
    #[error("{op}: {reason} (operands {operands})")]
    Shape {
        /// The operation's name.
        op: &'static str,
        /// What does not fit.
        reason: String,
        /// The operands, as `type[ne0, ne1, ne2, ne3]`.
        operands: String,
    },
    /// A tensor of a type that the operation cannot read or write.
    #[error("{op}: tensor type {} is not supported here", .ty.name())]
    Type {
        /// The operation's name.
        op: &'static str,
        /// The offending type.
        ty: GgmlType,
    },
    /// The graph has no room for another node; make it with a larger capacity.
    #[error("graph: more than the {capacity} nodes it was made for")]
    GraphFull {
        /// Nodes it was made for.
        capacity: usize,
    },
    /// Memory could not be had.
    #[error("could not allocate {bytes} bytes for {what}")]
    Memory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A tensor and the host data for it differ in size.
    #[error("tensor data: the tensor holds {tensor} bytes, the host side {host}")]
    Size {
        /// Bytes in the tensor.
        tensor: usize,
        /// Bytes on the host side.
        host: usize,
    },
    /// Tensor data of a file that lies where ggml cannot use it in place.
    #[error(
        "the model's tensor data is not aligned to {alignment} bytes in memory, which ggml needs; \
         map the file, and write it with a `general.alignment` of {alignment} or a multiple"
    )]
    Misaligned {
        /// Bytes.
        alignment: usize,
    },
    /// The computation was stopped through its abort flag.
    #[error("computation stopped on request")]
    Aborted,
    /// A custom operation panicked; the panic was caught at the C boundary.
    #[error("custom operation {op} panicked: {reason}")]
    Panicked {
        /// The operation's name.
        op: &'static str,
        /// The panic's message.
        reason: String,
    },
    /// ggml reported a failure.
    #[error("{what} failed with status {status}")]
    Failed {
        /// What was attempted.
        what: &'static str,
        /// ggml's status code.
        status: i32,
    },
    /// No backend of a scheduler can compute this, or none where the tensor lies that it changes.
    #[error("no backend can compute {op}")]
    NoBackend {
        /// The operation's name.
        op: String,
    },
    /// No such device.
    #[error("no device named {0}; `doctor` lists those that exist")]
    NoDevice(String),
}

/// Result of the ggml layer.
pub type Result<T> = std::result::Result<T, GgmlError>;
