//! Safe access to ggml, GGUF files and llama.cpp handles: the only crate of the project with `unsafe` code.
//!
//! It knows nothing of losses, feedback or policy.

pub mod ggml;
pub mod gguf;
pub mod llama;
pub mod math;

pub use gguf::GgmlType;
