//! Number formats: exact ones, or those that are fastest on this machine.

use std::collections::BTreeMap;
use std::path::Path;

use thumbprint_ggml::ggml::devices;
use thumbprint_tune::durable;
use thumbprint_tune::graph::{Kernels, NetworkError};

use crate::error::Result;
use crate::options::Precision;
use crate::paths;

/// The trainer's number formats.
///
/// # Errors
/// Memory for measuring cannot be had.
pub fn kernels(precision: Precision, n_threads: usize) -> Result<Kernels> {
    match precision {
        Precision::Exact => Ok(Kernels::EXACT),
        Precision::Fast => fastest(&paths::cache_folder().join("kernels-3.json"), n_threads),
    }
}

/// Measured once for this CPU and number of threads, and remembered in a file: measured again, two formats that are equally fast
/// might change places, and a run that was interrupted could not go on.
fn fastest(file: &Path, n_threads: usize) -> Result<Kernels> {
    let cpu = devices()
        .into_iter()
        .next()
        .map(|device| device.description)
        .unwrap_or_default();
    let key = format!("{cpu}, {n_threads} threads");
    let mut known = read(file);
    if let Some(kernels) = known.get(&key) {
        return Ok(*kernels);
    }
    let measured = Kernels::measure(n_threads).map_err(NetworkError::from)?;
    known.insert(key, measured);
    // Where it cannot be remembered, it is measured again.
    let _ = std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")));
    let _ = durable::replace(file, |out| Ok(serde_json::to_writer_pretty(out, &known)?));
    Ok(measured)
}

/// What is not there, or cannot be read, is as if it had never been measured.
fn read(file: &Path) -> BTreeMap<String, Kernels> {
    let text = std::fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_measured_once_is_taken_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/kernels.json");
        let measured = fastest(&file, 1).unwrap();
        assert_eq!(fastest(&file, 1).unwrap(), measured);

        // Another answer in the file is believed.
        let mut known = read(&file);
        assert_eq!(known.len(), 1);
        let other = Kernels::EXACT;
        known.values_mut().for_each(|kernels| *kernels = other);
        std::fs::write(&file, serde_json::to_vec(&known).unwrap()).unwrap();
        assert_eq!(fastest(&file, 1).unwrap(), other);
        assert_ne!(measured, other);

        // And a damaged one is measured again.
        std::fs::write(&file, "{").unwrap();
        fastest(&file, 1).unwrap();
        assert_eq!(read(&file).len(), 1);
    }
}
