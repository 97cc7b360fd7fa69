//! The base model: for training, for tokenizing, and its name by hash.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thumbprint::engine::Chat;
use thumbprint_ggml::gguf::{Gguf, check_adapter_for};
use thumbprint_ggml::llama;
use thumbprint_tune::adapter::{AdapterError, AdapterFile};
use thumbprint_tune::model::{Model, ModelError};

use crate::error::{CliError, Result};

/// Opens a model for training.
///
/// # Errors
/// The file is missing, malformed, or cannot be trained.
pub fn open(path: &Path) -> Result<Model> {
    Model::open(path).map_err(|error| of_file(path, error))
}

/// Names the file in errors that do not.
pub fn of_file(path: &Path, error: ModelError) -> CliError {
    match error {
        ModelError::File(error) => CliError::Gguf(error),
        source => CliError::Model {
            path: path.to_owned(),
            source,
        },
    }
}

/// Loads a model into llama.cpp, with no layer on a GPU.
///
/// # Errors
/// llama.cpp, or our own checks before it, refused the file.
pub fn load(path: &Path) -> Result<Arc<llama::Model>> {
    load_with(path, &llama::ModelParams::default())
}

/// The same with all layers on GPUs.
///
/// # Errors
/// As [`load`].
pub fn load_on_gpu(path: &Path) -> Result<Arc<llama::Model>> {
    let params = llama::ModelParams {
        n_gpu_layers: -1,
        ..llama::ModelParams::default()
    };
    load_with(path, &params)
}

fn load_with(path: &Path, params: &llama::ModelParams) -> Result<Arc<llama::Model>> {
    Ok(llama::Model::load(path, params, &mut |_| {
        ControlFlow::Continue(())
    })?)
}

/// The model's vocabulary and chat template.
///
/// # Errors
/// As [`load`], or a template that does not compile.
pub fn load_chat(path: &Path) -> Result<Chat> {
    Ok(Chat::new(load(path)?)?)
}

/// A base model by path and hash.
pub struct Base {
    /// Its file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

impl Base {
    /// Hashes the file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            sha256: thumbprint::hash_file(path)?,
        })
    }

    /// Reads an adapter that was made for this base, whose file is open as `gguf`.
    ///
    /// # Errors
    /// The file is malformed, names another base, or has matrices that this one does not.
    pub fn read_adapter(&self, path: &Path, gguf: &Gguf) -> Result<AdapterFile> {
        let of_file = |source| CliError::Adapter {
            path: path.to_owned(),
            source,
        };
        let file = Gguf::open(path)?;
        let adapter = AdapterFile::from_gguf(&file).map_err(of_file)?;
        adapter.check_base(&self.sha256).map_err(of_file)?;
        check_adapter_for(&file, gguf).map_err(|error| of_file(AdapterError::Gguf(error)))?;
        Ok(adapter)
    }
}
