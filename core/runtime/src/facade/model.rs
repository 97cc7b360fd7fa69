//! The model of a data folder: loaded at first use, with its active adapter in force, and unloaded.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Thumbprint, hash_file, lock};
use crate::engine::{Engine, ModelSource};
use crate::error::{Error, Result};

/// A model that is loaded.
pub(crate) struct Loaded {
    pub engine: Engine,
    pub path: PathBuf,
    /// Hash of the model's file.
    pub sha256: String,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("sha256", &self.sha256)
            .finish_non_exhaustive()
    }
}

impl Thumbprint {
    /// Loads a model and puts its active adapter in force. `on_progress` is called with 0.0 to 1.0; `Break` cancels.
    ///
    /// # Errors
    /// [`Error::Engine`] when the file is no model; [`Error::AdapterChanged`] when the active adapter's file is damaged (the base
    /// is served until it is rolled back).
    pub fn load(
        &self,
        model: impl Into<PathBuf>,
        on_progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<()> {
        *lock(&self.0.model) = Some(model.into());
        self.unload();
        self.ensure_loaded(on_progress).map(drop)
    }

    /// Unloads the model; it is loaded again at the next use. A running job is paused.
    pub fn unload(&self) {
        let job = self.current_job();
        if let Some(job) = &job {
            job.pause();
        }
        if let Some(loaded) = lock(&self.0.loaded).take() {
            loaded.engine.shutdown();
        }
        if let Some(job) = job {
            // How it ended is told to whoever waits for it. It may have loaded the model just now.
            job.wait_until_at_rest();
            if let Some(loaded) = lock(&self.0.loaded).take() {
                loaded.engine.shutdown();
            }
        }
    }

    /// Facts of the loaded model, loading it if need be.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn engine(&self) -> Result<Engine> {
        Ok(self.loaded()?.engine.clone())
    }

    pub(crate) fn loaded(&self) -> Result<Arc<Loaded>> {
        self.ensure_loaded(&mut |_| ControlFlow::Continue(()))
    }

    /// The same where the active adapter's file is damaged or gone: the base is served then, which is enough to learn again.
    pub(crate) fn loaded_whatever_its_adapter(&self) -> Result<Arc<Loaded>> {
        match self.loaded() {
            Err(error) => lock(&self.0.loaded).clone().ok_or(error),
            loaded => loaded,
        }
    }

    fn ensure_loaded(
        &self,
        on_progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Arc<Loaded>> {
        let mut slot = lock(&self.0.loaded);
        if let Some(loaded) = slot.as_ref() {
            return Ok(Arc::clone(loaded));
        }
        let path = lock(&self.0.model).clone().ok_or(Error::NoModel)?;
        let engine = Engine::start(
            ModelSource::File(path.clone()),
            &self.0.engine_options,
            on_progress,
        )?;
        let sha256 = self.model_hash(&path)?;
        self.0.store.put_model(&sha256, &json!({ "architecture": engine.info().architecture, "description": engine.info().description }))?;
        let loaded = Arc::new(Loaded {
            engine,
            path,
            sha256,
        });
        *slot = Some(Arc::clone(&loaded));
        // Still under the lock: another `load` must not end this engine before its adapter is in force.
        self.apply_active(&loaded)?;
        Ok(loaded)
    }

    /// The model's hash, computed again only when its file changes.
    pub(super) fn model_hash(&self, path: &Path) -> Result<String> {
        #[derive(Serialize, Deserialize, PartialEq)]
        struct Known {
            path: PathBuf,
            len: u64,
            modified_ns: u128,
            sha256: String,
        }
        let at = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let meta = std::fs::metadata(path).map_err(at)?;
        let modified = meta
            .modified()
            .ok()
            .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.map_or(0, |t| t.as_nanos());
        let key = "model_hash";
        if let Some(known) = self.0.store.setting::<Known>(key)?
            && (known.path.as_path(), known.len, known.modified_ns)
                == (path, meta.len(), modified_ns)
        {
            return Ok(known.sha256);
        }
        let sha256 = hash_file(path)?;
        let known = Known {
            path: path.to_owned(),
            len: meta.len(),
            modified_ns,
            sha256: sha256.clone(),
        };
        self.0.store.set_setting(key, &known)?;
        Ok(sha256)
    }
}
