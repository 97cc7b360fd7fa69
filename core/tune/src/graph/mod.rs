//! Forward and hand-written backward passes over a frozen model with a LoRA adapter, layer by layer.
//!
//! [`Network`] owns the memory and walks the layers; `layer` builds one block's graphs out of `builder`'s fragments, `head` the
//! log-probabilities; [`kernels`] holds what custom operations compute.

mod adapter;
mod builder;
mod choose;
mod head;
pub mod kernels;
mod layer;
mod network;

pub use head::VOCAB_BLOCK;
pub use network::{Kernels, Network, NetworkError, NetworkOptions, Scores};
