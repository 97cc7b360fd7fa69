//! What a run was made of, in a file, and another run made of the same.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thumbprint_ggml::ggml::devices;
use thumbprint_tune::checkpoint::Hashes;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::durable;
use thumbprint_tune::plan::Plan;

use super::options::{Objective, Options, Truncation};
use crate::error::{CliError, Result};
use crate::files;

/// Everything that decides an adapter, and what it came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this form of file.
    manifest: u32,
    /// The version that wrote it.
    thumbprint: String,
    /// The machine's processor.
    cpu: String,
    /// Base, examples, settings and plan.
    hashes: Hashes,
    pub data: Preparing,
    pub config: TrainConfig,
    pub plan: Plan,
    /// Steps taken.
    steps: u64,
    /// Operations that the CPU computed because the device has no kernel for them.
    fallbacks: Vec<String>,
    /// The SHA-256 of the adapter's file.
    pub adapter_sha256: String,
}

/// How a file of data becomes examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Preparing {
    pub objective: Objective,
    pub max_length: usize,
    pub truncation: Truncation,
    pub trl_tokens: bool,
}

impl Preparing {
    /// As the options say.
    ///
    /// # Errors
    /// More tokens than the model was trained for.
    pub fn of(options: &Options, objective: Objective, n_ctx_train: usize) -> Result<Self> {
        Ok(Self {
            objective,
            max_length: options.max_length(n_ctx_train)?,
            truncation: options.truncation,
            trl_tokens: options.trl_tokens,
        })
    }
}

/// The only form there has been.
const FORM: u32 = 1;

impl Manifest {
    pub fn new(hashes: Hashes, data: Preparing, config: TrainConfig, plan: Plan) -> Self {
        Self {
            manifest: FORM,
            thumbprint: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: cpu(),
            hashes,
            data,
            config,
            plan,
            steps: 0,
            fallbacks: Vec::new(),
            adapter_sha256: String::new(),
        }
    }

    /// Adds what the run came to.
    pub fn ended(self, steps: u64, fallbacks: Vec<String>, adapter: &Path) -> Result<Self> {
        Ok(Self {
            steps,
            fallbacks,
            adapter_sha256: thumbprint::hash_file(adapter)?,
            ..self
        })
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let written = durable::replace(path, |out| Ok(serde_json::to_writer_pretty(out, self)?));
        written.map_err(thumbprint::Error::from)?;
        Ok(())
    }

    /// Reads one, and checks what a file could have wrong.
    ///
    /// # Errors
    /// It cannot be read, is none, or has settings that no run has.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read(path)?;
        let not_one = |reason: String| {
            CliError::Failed(format!("{}: not a manifest: {reason}", path.display()))
        };
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|error| not_one(error.to_string()))?;
        if manifest.manifest != FORM {
            let form = manifest.manifest;
            return Err(not_one(format!(
                "of form {form}, and this version knows {FORM}"
            )));
        }
        manifest
            .config
            .validate()
            .map_err(|e| not_one(e.to_string()))?;
        manifest
            .plan
            .validate()
            .map_err(|e| not_one(e.to_string()))?;
        Ok(manifest)
    }

    /// Refuses a run of other inputs.
    ///
    /// # Errors
    /// Names the parts that differ.
    pub fn check(&self, path: &Path, hashes: &Hashes) -> Result<()> {
        let differences = self.hashes.differences(hashes);
        match differences.as_slice() {
            [] => Ok(()),
            parts => Err(CliError::Failed(format!(
                "{}: the run that it tells of had another {}",
                path.display(),
                parts.join(", another ")
            ))),
        }
    }

    /// Why bits may differ all the same.
    pub fn elsewhere(&self) -> Option<String> {
        let (cpu, version) = (cpu(), env!("CARGO_PKG_VERSION"));
        match (self.cpu == cpu, self.thumbprint == version) {
            (true, true) => None,
            (false, _) => Some(format!("it was computed on another CPU, {}", self.cpu)),
            (true, false) => Some(format!("version {} computed it", self.thumbprint)),
        }
    }
}

/// A manifest that is followed, and its file.
pub struct Replay {
    pub path: PathBuf,
    pub manifest: Manifest,
}

impl Replay {
    /// The one that the options name, if any.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn of(options: &Options) -> Result<Option<Self>> {
        let read = |path: &PathBuf| {
            Ok(Self {
                manifest: Manifest::read(path)?,
                path: path.clone(),
            })
        };
        options.replay.as_ref().map(read).transpose()
    }
}

fn cpu() -> String {
    let first = devices().into_iter().next();
    first.map(|device| device.description).unwrap_or_default()
}
