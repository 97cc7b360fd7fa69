//! llama.cpp handles: model, context, adapter, sampler.
