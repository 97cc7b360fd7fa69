//! What needs no data folder.

use std::path::Path;

use crate::translate::Translate;
use crate::{Machine, MemoryEstimate, Result};

/// What this machine and this build have.
#[uniffi::export]
pub fn machine() -> Machine {
    thumbprint::machine().translate()
}

/// What a model needs of memory for a context of `n_ctx` tokens, and for examples that take up to `example_tokens`, from its file
/// alone: nothing is loaded.
#[uniffi::export]
pub fn estimate_memory(model: String, n_ctx: u32, example_tokens: u32) -> Result<MemoryEstimate> {
    let estimate = thumbprint::estimate_memory(Path::new(&model), n_ctx, example_tokens as usize);
    Ok(estimate?.translate())
}

/// SHA-256 of a file, in hex.
#[uniffi::export]
pub fn hash_file(path: String) -> Result<String> {
    Ok(thumbprint::hash_file(Path::new(&path))?)
}

/// Checks that a downloaded model is the file that was meant.
#[uniffi::export]
pub fn verify_model(path: String, sha256: String) -> Result<()> {
    Ok(thumbprint::verify_model(Path::new(&path), &sha256)?)
}
