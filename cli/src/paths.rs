//! Folders by convention: where models are cached, and where an app's data lies by default.

use std::env;
use std::path::PathBuf;

use crate::error::{CliError, Result};

/// File name of the demo model.
const DEMO_MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Folder of downloaded files: `$THUMBPRINT_CACHE`, else `$XDG_CACHE_HOME/thumbprint`, else `~/.cache/thumbprint`.
pub fn cache_folder() -> PathBuf {
    folder("THUMBPRINT_CACHE")
        .unwrap_or_else(|| base("XDG_CACHE_HOME", ".cache").join("thumbprint"))
}

/// The data folder where `--data-dir` says none: `$XDG_DATA_HOME/thumbprint`, else `~/.local/share/thumbprint`.
pub fn default_data_folder() -> PathBuf {
    base("XDG_DATA_HOME", ".local/share").join("thumbprint")
}

/// Where `make model` puts the demo model.
pub fn demo_model() -> PathBuf {
    cache_folder().join("models").join(DEMO_MODEL)
}

/// The demo model, if it is there.
pub fn require_demo_model() -> Result<PathBuf> {
    let path = demo_model();
    if path.is_file() {
        return Ok(path);
    }
    let at = path.display();
    Err(CliError::Failed(format!(
        "the demo model is not at {at}: run `make model`, or pass --model PATH"
    )))
}

fn base(variable: &str, below_home: &str) -> PathBuf {
    folder(variable).unwrap_or_else(|| folder("HOME").unwrap_or_default().join(below_home))
}

fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
