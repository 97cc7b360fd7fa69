//! Everything that llama.cpp is given passes here first: wrong key types or sizes would abort
//! inside ggml's own reader.

use std::path::Path;

use crate::gguf::{Gguf, check_adapter_for, check_model};

/// Opens and checks a model file. The error says what is wrong with it.
pub(super) fn model_file(path: &Path) -> Result<Gguf, String> {
    let gguf = Gguf::open(path).map_err(|e| e.to_string())?;
    check_model(&gguf).map_err(|e| e.to_string())?;
    Ok(gguf)
}

/// Parses the bytes of a LoRA adapter, and checks them against the model that it is for.
pub(super) fn adapter(bytes: Vec<u8>, base: &Gguf) -> Result<Gguf, String> {
    let gguf = Gguf::parse(bytes).map_err(|e| e.to_string())?;
    check_adapter_for(&gguf, base).map_err(|e| e.to_string())?;
    Ok(gguf)
}
