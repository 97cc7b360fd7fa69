//! Forward and hand-written backward passes over a frozen model with a LoRA adapter, layer by layer.
//!
//! [`Network`] walks the layers over tensors of `memory`; `layer` builds one block's graphs out of `fragments`, `head` the
//! log-probabilities; `runner` computes them. Fragments come in two makes: `builder`'s for the CPU, with what [`kernels`] compute, and
//! `portable`'s for any backend.

mod adapter;
mod attention;
mod builder;
mod choose;
mod experts;
mod fragments;
mod head;
mod kept;
pub mod kernels;
mod layer;
mod memory;
mod network;
mod portable;
mod products;
mod runner;
mod scratch;
mod targets;
mod update;

pub use choose::Kernels;
pub use head::VOCAB_BLOCK;
pub use kept::Kept;
pub use network::{
    Coefficient, DeviceOptions, Network, NetworkError, NetworkOptions, Scores, Spent,
};
pub use scratch::Scratch;
