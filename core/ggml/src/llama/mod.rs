//! llama.cpp handles: model, context, adapter, sampler, over `llama-cpp-sys-2`.
//!
//! What these add to the raw calls:
//! - **Teardown order by ownership**: a [`Context`] owns an `Arc` of its [`Model`] and of every
//!   [`Adapter`] that is set on it; an adapter owns an `Arc` of its model. So contexts go before
//!   adapters, and adapters before models, whatever the drop order in the caller.
//! - **No assertion can fire**: token ids, sequence ids, positions, batch and context sizes are
//!   checked before llama.cpp sees them, since its `GGML_ASSERT` and its C++ exceptions would end
//!   the process.
//! - **Adapters while a context lives**, several at once, from a path or from memory, and freed
//!   when dropped.
//! - **Cancel within a graph node**: decoding takes an `AtomicBool` and stops at the next node once
//!   it is true.
//! - **Faster prompts and batches**: products with many tokens at once go to our own kernel where it is faster than ggml's
//!   ([`Products`]).
//! - **Silence**: llama.cpp's log goes nowhere; the text of an error while loading becomes part of
//!   our error.

mod adapter;
mod adapter_tensors;
mod backend;
mod batch;
mod check;
mod context;
mod draw;
mod error;
mod model;
mod products;
mod sampler;
mod states;
mod vocab;

pub use adapter::Adapter;
pub use adapter_tensors::AdapterTensors;
pub use backend::{GpuDevice, gpu_devices, system_info};
pub use batch::Batch;
pub use context::{Context, ContextParams, FlashAttention, KvType, Products};
pub use error::{LlamaError, Result};
pub use model::{Model, ModelParams};
pub use sampler::{Sampler, SamplingParams};
pub use states::States;

/// A token id: an index into the model's vocabulary.
pub type Token = i32;
