use std::any::Any;
use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use llama_cpp_sys_2 as sys;

use super::{LlamaError, Result, backend, check};
use crate::gguf::Gguf;

/// How to load a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelParams {
    /// Layers to put on a GPU; negative for all. Without a GPU in this build it has no effect.
    pub n_gpu_layers: i32,
    /// Map the file instead of reading it: pages are shared with other mappings of it and can be
    /// dropped under memory pressure.
    pub use_mmap: bool,
    /// Let llama.cpp copy Q4_0, K-quant and IQ4_NL weights into a layout that its CPU kernels like
    /// better. Costs the copy's size in anonymous memory, and weights laid out so cannot be read by
    /// anything else.
    pub repack: bool,
}

impl Default for ModelParams {
    fn default() -> Self {
        Self {
            n_gpu_layers: 0,
            use_mmap: true,
            repack: false,
        }
    }
}

/// A loaded language model: weights and vocabulary. Immutable, and shared by contexts and adapters.
pub struct Model {
    raw: NonNull<sys::llama_model>,
    path: PathBuf,
    gguf: Gguf,
    /// Held while llama.cpp changes its model object: adapters are registered in it, and a new
    /// context may adjust it.
    registration: Mutex<()>,
}

// SAFETY: after loading, llama.cpp only reads the model, except for what `registration` guards.
unsafe impl Send for Model {}
// SAFETY: as above; the functions called through `&Model` are documented as thread-safe
// (tokenizing) or read constants.
unsafe impl Sync for Model {}

impl Model {
    /// Loads a GGUF file. `progress` is called with 0.0 to 1.0 on this thread; `Break` cancels. A
    /// panic in it continues here once llama.cpp has returned.
    ///
    /// # Errors
    /// [`LlamaError::ModelFile`] when the file is missing, malformed, or not a decoder-only
    /// language model; [`LlamaError::LoadCancelled`].
    pub fn load(
        path: &Path,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Arc<Self>> {
        let refuse = |reason: String| LlamaError::ModelFile {
            path: path.to_owned(),
            reason,
        };
        let gguf = check::model_file(path).map_err(refuse)?;
        let c_path = path
            .to_str()
            .and_then(|p| CString::new(p).ok())
            .ok_or_else(|| refuse("the path is not UTF-8, which llama.cpp needs".into()))?;

        backend::init();
        let mut state = Progress {
            call: progress,
            cancelled: false,
            panic: None,
        };
        // SAFETY: reads constants.
        let mut raw_params = unsafe { sys::llama_model_default_params() };
        raw_params.n_gpu_layers = params.n_gpu_layers;
        raw_params.load_mode = if params.use_mmap {
            sys::LLAMA_LOAD_MODE_MMAP
        } else {
            sys::LLAMA_LOAD_MODE_NONE
        };
        raw_params.use_extra_bufts = params.repack;
        raw_params.progress_callback = Some(on_progress);
        raw_params.progress_callback_user_data = (&raw mut state).cast();

        let loaded = backend::explain(|| {
            // SAFETY: the path is nul-terminated; `state` outlives the call, which is the only time
            // the callback runs; exceptions are caught inside this function of llama.cpp.
            NonNull::new(unsafe { sys::llama_model_load_from_file(c_path.as_ptr(), raw_params) })
        });
        let model = loaded.map(|raw| Self {
            raw,
            path: path.to_owned(),
            gguf,
            registration: Mutex::new(()),
        });
        if let Some(panic) = state.panic {
            resume_unwind(panic);
        }
        if state.cancelled {
            return Err(LlamaError::LoadCancelled);
        }
        let model = model.map_err(refuse)?;
        model.require_decoder().map_err(refuse)?;
        Ok(Arc::new(model))
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's metadata and tensors, mapped a second time: pages that are not touched cost
    /// nothing.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// `general.architecture`, such as `llama`.
    pub fn architecture(&self) -> String {
        self.metadata("general.architecture").unwrap_or_default()
    }

    /// A metadata value as text, if the key exists. Arrays have none.
    pub fn metadata(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        // SAFETY: the buffer and its size belong together, as `read_string` gives them; the key is
        // nul-terminated.
        read_string(|buffer, size| unsafe {
            sys::llama_model_meta_val_str(self.as_ptr(), key.as_ptr(), buffer, size)
        })
    }

    /// The chat template that the file carries (Jinja), if any.
    pub fn chat_template(&self) -> Option<String> {
        self.metadata("tokenizer.chat_template")
    }

    /// Size, architecture and quantization in words, such as `llama 135M Q4_1`.
    pub fn description(&self) -> String {
        // SAFETY: as in `metadata`.
        read_string(|buffer, size| unsafe { sys::llama_model_desc(self.as_ptr(), buffer, size) })
            .unwrap_or_default()
    }

    /// Context length that the model was trained with, in tokens.
    pub fn n_ctx_train(&self) -> u32 {
        // SAFETY: reads a constant of a live model.
        unsafe { sys::llama_model_n_ctx_train(self.as_ptr()) }.max(0) as u32
    }

    /// Width of the hidden state.
    pub fn n_embd(&self) -> u32 {
        // SAFETY: reads a constant of a live model.
        unsafe { sys::llama_model_n_embd(self.as_ptr()) }.max(0) as u32
    }

    /// Number of layers.
    pub fn n_layer(&self) -> u32 {
        // SAFETY: reads a constant of a live model.
        unsafe { sys::llama_model_n_layer(self.as_ptr()) }.max(0) as u32
    }

    /// Bytes of all weights.
    pub fn size_bytes(&self) -> u64 {
        // SAFETY: reads a constant of a live model.
        unsafe { sys::llama_model_size(self.as_ptr()) }
    }

    /// Number of parameters.
    pub fn n_params(&self) -> u64 {
        // SAFETY: reads a constant of a live model.
        unsafe { sys::llama_model_n_params(self.as_ptr()) }
    }

    /// Whether the memory can drop the tail of a sequence. Recurrent and hybrid models cannot.
    pub fn can_truncate(&self) -> bool {
        // SAFETY: reads constants of a live model.
        unsafe {
            !sys::llama_model_is_recurrent(self.as_ptr())
                && !sys::llama_model_is_hybrid(self.as_ptr())
        }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.raw.as_ptr()
    }

    pub(super) fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: a live model always has a vocabulary object, which lives as long as the model.
        unsafe { sys::llama_model_get_vocab(self.as_ptr()) }
    }

    /// Runs `f` while no other thread changes llama.cpp's model object.
    pub(super) fn registering<T>(&self, f: impl FnOnce() -> T) -> T {
        let _guard = self
            .registration
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        f()
    }

    /// The calls of this module assume a decoder with a vocabulary; on anything else llama.cpp
    /// would assert.
    fn require_decoder(&self) -> std::result::Result<(), String> {
        // SAFETY: reads constants of a live model.
        let (encoder, decoder, diffusion, vocab_type) = unsafe {
            (
                sys::llama_model_has_encoder(self.as_ptr()),
                sys::llama_model_has_decoder(self.as_ptr()),
                sys::llama_model_is_diffusion(self.as_ptr()),
                sys::llama_vocab_type(self.vocab()),
            )
        };
        if encoder || !decoder || diffusion {
            return Err(format!(
                "its architecture '{}' is not a decoder-only language model",
                self.architecture()
            ));
        }
        if vocab_type == sys::LLAMA_VOCAB_TYPE_NONE || self.n_vocab() == 0 {
            return Err("it has no vocabulary".into());
        }
        Ok(())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: contexts and adapters hold an `Arc` of the model, so none is left.
        unsafe { sys::llama_model_free(self.as_ptr()) }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path)
            .field("description", &self.description())
            .finish()
    }
}

struct Progress<'a> {
    call: &'a mut dyn FnMut(f32) -> ControlFlow<()>,
    cancelled: bool,
    panic: Option<Box<dyn Any + Send>>,
}

unsafe extern "C" fn on_progress(progress: f32, user_data: *mut c_void) -> bool {
    // SAFETY: `Model::load` passes a pointer to its `Progress`, which outlives the call and is not
    // touched meanwhile.
    let state = unsafe { &mut *user_data.cast::<Progress<'_>>() };
    if state.cancelled || state.panic.is_some() {
        return false;
    }
    match catch_unwind(AssertUnwindSafe(|| (state.call)(progress))) {
        Ok(ControlFlow::Continue(())) => true,
        Ok(ControlFlow::Break(())) => {
            state.cancelled = true;
            false
        }
        Err(panic) => {
            state.panic = Some(panic);
            false
        }
    }
}

/// Calls a function of the shape of `snprintf`, which returns the length it needs or a negative
/// number for "absent".
fn read_string(mut call: impl FnMut(*mut c_char, usize) -> i32) -> Option<String> {
    let mut buffer = vec![0u8; 256];
    loop {
        let length = usize::try_from(call(buffer.as_mut_ptr().cast(), buffer.len())).ok()?;
        if length < buffer.len() {
            buffer.truncate(length);
            return Some(String::from_utf8_lossy(&buffer).into_owned());
        }
        buffer.resize(length + 1, 0);
    }
}
