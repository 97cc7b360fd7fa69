//! ggml: devices, backends, tensors, graphs, operations of our own.
//!
//! The shape of use: tensors that last live in a [`Storage`]; a [`Graph`] reads and writes them; a [`Workspace`] computes it on
//! a [`Backend`], a [`Scheduler`] on several.

mod convert;
pub(crate) mod cpu;
pub mod custom;
mod device;
mod error;
mod graph;
mod ops;
pub mod packed;
pub mod quant;
mod scheduler;
mod storage;
mod tensor;
mod workspace;

pub use convert::{bf16_to_f32, can_dequantize, convert_row, dequantize_row, f32_to_bf16};
pub use cpu::cpu_features;
pub use device::{Backend, DeviceInfo, DeviceKind, devices};
pub use error::{GgmlError, Result};
pub use graph::Graph;
pub use ops::{AdamW, Binary, Rotation, Unary};
pub use scheduler::{Placement, Scheduler};
pub use storage::{Storage, StorageBuilder, TensorId};
pub use tensor::Tensor;
pub use workspace::Workspace;
