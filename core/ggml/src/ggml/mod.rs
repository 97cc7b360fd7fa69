//! ggml: devices, backends, buffers, tensors, graphs, custom operations.

pub mod quant;
