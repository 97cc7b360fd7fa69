//! From a file to a loaded model: how much goes on a GPU, and with what sizes the engine runs.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thumbprint_ggml::llama::{
    ContextParams, FlashAttention, KvType, LlamaError, Model, ModelParams, gpu_devices,
};

use super::Result;

/// Where the model comes from.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A GGUF file.
    File(PathBuf),
    /// A model that is loaded already, with whatever of it is on a GPU.
    Loaded(Arc<Model>),
}

/// How to load a model and run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Tokens that a conversation can have, its reply included. Rounded up to a multiple of 256.
    /// Default: what the model was trained for, at most 4096.
    pub n_ctx: Option<u32>,
    /// Tokens of a prompt that are computed at once.
    pub n_batch: u32,
    /// Compute threads. Default: one for each processor, at most 8.
    pub n_threads: Option<u32>,
    /// Layers on a GPU. Default: all that fit.
    pub n_gpu_layers: Option<u32>,
    /// See [`ModelParams::use_mmap`].
    pub use_mmap: bool,
    /// See [`ModelParams::repack`].
    pub repack: bool,
    /// See [`FlashAttention`].
    pub flash_attention: FlashAttention,
    /// See [`KvType`].
    pub kv_type: KvType,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let ModelParams {
            use_mmap, repack, ..
        } = ModelParams::default();
        Self {
            n_ctx: None,
            n_batch: 512,
            n_threads: None,
            n_gpu_layers: None,
            use_mmap,
            repack,
            flash_attention: FlashAttention::default(),
            kv_type: KvType::default(),
        }
    }
}

/// The resolved sizes that contexts are made with.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    pub(super) n_ctx: u32,
    pub(super) n_batch: u32,
    pub(super) n_threads: u32,
    pub(super) flash_attention: FlashAttention,
    kv_type: KvType,
}

impl Sizes {
    pub(super) fn new(options: &EngineOptions, model: &Model) -> Self {
        let processors = || {
            std::thread::available_parallelism()
                .map_or(1, |n| n.get() as u32)
                .min(8)
        };
        Self {
            n_ctx: options
                .n_ctx
                .unwrap_or_else(|| model.n_ctx_train().clamp(256, 4096)),
            n_batch: options.n_batch,
            n_threads: options.n_threads.unwrap_or_else(processors),
            flash_attention: options.flash_attention,
            kv_type: options.kv_type,
        }
    }

    /// For one sequence and one row of logits.
    pub(super) fn context_params(&self) -> ContextParams {
        ContextParams {
            n_ctx: self.n_ctx,
            n_batch: self.n_batch,
            n_ubatch: self.n_batch,
            n_threads: self.n_threads,
            flash_attention: self.flash_attention,
            kv_type: self.kv_type,
            ..ContextParams::default()
        }
    }
}

/// A model and where it runs.
pub(super) struct Loaded {
    pub(super) model: Arc<Model>,
    /// `None` if it came loaded.
    pub(super) n_gpu_layers: Option<u32>,
    pub(super) warnings: Vec<String>,
}

/// Loads the model. What was asked for and does not happen is a warning.
pub(super) fn load(
    source: ModelSource,
    options: &EngineOptions,
    on_progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
) -> Result<Loaded> {
    let path = match source {
        ModelSource::Loaded(model) => {
            return Ok(Loaded {
                model,
                n_gpu_layers: None,
                warnings: Vec::new(),
            });
        }
        ModelSource::File(path) => path,
    };
    let mut warnings = Vec::new();
    let n_gpu_layers = gpu_layers(&path, options.n_gpu_layers, &mut warnings);
    let mut try_load = |n_gpu_layers: i32| {
        let params = ModelParams {
            n_gpu_layers,
            use_mmap: options.use_mmap,
            repack: options.repack,
        };
        Model::load(&path, &params, on_progress)
    };
    match try_load(n_gpu_layers) {
        Ok(model) => {
            let on_gpu = if n_gpu_layers < 0 {
                model.n_layer() + 1
            } else {
                n_gpu_layers as u32
            };
            Ok(Loaded {
                model,
                n_gpu_layers: Some(on_gpu),
                warnings,
            })
        }
        Err(LlamaError::ModelFile { reason, .. }) if n_gpu_layers != 0 => {
            warnings.push(format!(
                "the GPU could not take the model ({reason}): everything runs on the CPU"
            ));
            Ok(Loaded {
                model: try_load(0)?,
                n_gpu_layers: Some(0),
                warnings,
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// Negative means all layers.
fn gpu_layers(path: &Path, asked: Option<u32>, warnings: &mut Vec<String>) -> i32 {
    let devices = gpu_devices();
    if devices.is_empty() {
        if asked.is_some_and(|n| n > 0) {
            warnings.push("n_gpu_layers was asked for, but this build sees no GPU: everything runs on the CPU".into());
        }
        return 0;
    }
    if let Some(asked) = asked {
        return i32::try_from(asked).unwrap_or(i32::MAX);
    }
    // The weights, and as much again for cache and compute buffers.
    let free: u64 = devices.iter().map(|device| device.free_bytes).sum();
    let size = std::fs::metadata(path).map_or(u64::MAX, |file| file.len());
    if size.saturating_mul(2) <= free {
        return -1;
    }
    warnings.push(format!(
        "the GPU has {} MiB free, too little for a model of {} MiB: everything runs on the CPU (set n_gpu_layers to offload a part)",
        free >> 20,
        size >> 20
    ));
    0
}
