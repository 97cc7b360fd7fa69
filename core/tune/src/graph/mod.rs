//! Forward and hand-written backward passes over a frozen model with a LoRA adapter, layer by layer.
//!
//! [`Network`] walks the layers over tensors of `memory`; `layer` builds one block's graphs out of `builder`'s fragments, `head` the
//! log-probabilities; [`kernels`] holds what custom operations compute.

mod adapter;
mod builder;
mod choose;
mod experts;
mod head;
pub mod kernels;
mod layer;
mod memory;
mod network;
mod products;
mod scratch;

pub use choose::Kernels;
pub use head::VOCAB_BLOCK;
pub use network::{Coefficient, Network, NetworkError, NetworkOptions, Scores, Spent};
pub use scratch::Scratch;
