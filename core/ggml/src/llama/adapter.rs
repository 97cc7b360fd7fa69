use std::io::Write;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use llama_cpp_sys_2 as sys;

use super::{LlamaError, Model, Result, backend, check};

/// A LoRA adapter in memory, of one model. It can be loaded while contexts of the model live, set
/// on any of them, and is freed when the last of its owners drops it.
pub struct Adapter {
    raw: NonNull<sys::llama_adapter_lora>,
    model: Arc<Model>,
    /// Read while a context that has the adapter set is computing; written while its weights are
    /// overwritten.
    weights: RwLock<()>,
}

// SAFETY: contexts only read the adapter; its registration in the model is guarded by the model's
// lock, its weights by `weights`.
unsafe impl Send for Adapter {}
// SAFETY: as above.
unsafe impl Sync for Adapter {}

impl Adapter {
    /// Loads a GGUF LoRA file.
    ///
    /// # Errors
    /// [`LlamaError::Adapter`] when it is missing, malformed, or made for another architecture or
    /// other shapes.
    pub fn load(model: &Arc<Model>, path: &Path) -> Result<Arc<Self>> {
        let origin = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|e| LlamaError::Adapter {
            origin: origin.clone(),
            reason: e.to_string(),
        })?;
        Self::new(model, bytes, origin)
    }

    /// Loads a GGUF LoRA that is held in memory, without a file on disk where the system allows it.
    ///
    /// # Errors
    /// As [`Adapter::load`].
    pub fn from_bytes(model: &Arc<Model>, bytes: Vec<u8>) -> Result<Arc<Self>> {
        Self::new(model, bytes, "(bytes)".into())
    }

    /// The model it belongs to.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// A file is read once, checked, and given to llama.cpp from those same bytes: what was checked
    /// is what is parsed.
    fn new(model: &Arc<Model>, bytes: Vec<u8>, origin: String) -> Result<Arc<Self>> {
        let load = || {
            let checked = check::adapter(bytes, model.gguf())?;
            let file = MemoryFile::new(checked.bytes())
                .map_err(|e| format!("no memory for a copy: {e}"))?;
            let init = || {
                let (model, file) = (model.as_ptr(), file.0.as_ptr().cast());
                // SAFETY: the model is alive, and registration is exclusive; the stream is open,
                // at its start, and only read; exceptions are caught inside this function.
                NonNull::new(unsafe { sys::llama_adapter_lora_init_from_file_ptr(model, file) })
            };
            backend::explain(|| model.registering(init))
        };
        let raw = load().map_err(|reason| LlamaError::Adapter { origin, reason })?;
        Ok(Arc::new(Self {
            raw,
            model: Arc::clone(model),
            weights: RwLock::new(()),
        }))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_adapter_lora {
        self.raw.as_ptr()
    }

    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.weights.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writing(&self) -> RwLockWriteGuard<'_, ()> {
        self.weights.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // SAFETY: contexts hold an `Arc` of the adapters set on them, so none points here; the
        // model is alive, and its set of adapters is changed under its lock.
        self.model
            .registering(|| unsafe { sys::llama_adapter_lora_free(self.raw.as_ptr()) });
    }
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter").finish_non_exhaustive()
    }
}

/// A C stream over a copy of some bytes.
struct MemoryFile(NonNull<libc::FILE>);

impl MemoryFile {
    fn new(bytes: &[u8]) -> std::io::Result<Self> {
        use std::os::fd::IntoRawFd;
        let mut file = anonymous_file()?;
        file.write_all(bytes)?;
        std::io::Seek::rewind(&mut file)?;
        let fd = file.into_raw_fd();
        // SAFETY: `fd` is open and ours; on success the stream owns it.
        match NonNull::new(unsafe { libc::fdopen(fd, c"rb".as_ptr()) }) {
            Some(stream) => Ok(Self(stream)),
            None => {
                let error = std::io::Error::last_os_error();
                // SAFETY: `fd` was not taken over.
                unsafe { libc::close(fd) };
                Err(error)
            }
        }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // SAFETY: open, and closed once.
        unsafe { libc::fclose(self.0.as_ptr()) };
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn anonymous_file() -> std::io::Result<std::fs::File> {
    use std::os::fd::FromRawFd;
    // SAFETY: the name is nul-terminated; the returned descriptor is new and owned by nobody else.
    unsafe {
        let fd = libc::memfd_create(c"adapter".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(std::fs::File::from_raw_fd(fd))
        }
    }
}

/// Elsewhere: a file in the temporary folder that has no name any more once it is open.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn anonymous_file() -> std::io::Result<std::fs::File> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "thumbprint-adapter-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let path = std::env::temp_dir().join(name);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
