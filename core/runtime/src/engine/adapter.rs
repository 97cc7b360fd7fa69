use std::path::PathBuf;
use std::sync::Arc;

use thumbprint_ggml::llama::Adapter;

/// Where an adapter comes from: a GGUF LoRA.
#[derive(Debug, Clone)]
pub enum AdapterSource {
    /// A file.
    File(PathBuf),
    /// The contents of a file.
    Bytes(Vec<u8>),
}

/// An adapter in memory, ready to be put in force or used for single requests. Clones share it.
#[derive(Debug, Clone)]
pub struct LoadedAdapter {
    pub(super) adapter: Arc<Adapter>,
    pub(super) version: String,
    pub(super) scale: f32,
}

impl LoadedAdapter {
    /// The name it was loaded under; replies tell it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Factor on its contribution; 1 is as trained.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Whether caches computed under one are valid under the other.
    pub(super) fn same(a: Option<&Self>, b: Option<&Self>) -> bool {
        match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a.adapter, &b.adapter) && a.scale == b.scale,
            _ => false,
        }
    }
}
