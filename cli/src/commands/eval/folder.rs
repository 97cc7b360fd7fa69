//! The folder of a benchmark: what is done already, kept so that a killed run goes on where it was.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use thumbprint_tune::durable;

use crate::error::{CliError, Result};

/// Where a benchmark writes.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Opens it, making it if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(path: &Path) -> Result<Self> {
        make(path)?;
        Ok(Self(path.to_owned()))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What a file holds; `None` where it is not there, or is of another shape: then it is made again.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let bytes = fs::read(self.path(name)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Replaces a file, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec(value).map_err(|e| CliError::Failed(e.to_string()))?;
        bytes.push(b'\n');
        self.write_bytes(name, &bytes)
    }

    /// The same for text.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            make(parent)?;
        }
        durable::replace(&path, |file| file.write_all(bytes)).map_err(|error| CliError::File {
            doing: "write",
            path: error.path,
            source: error.source,
        })
    }

    /// Removes a folder with what is in it.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(CliError::File {
                doing: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Copies the files of one folder into another, which is made anew. Folders in it are left out.
    ///
    /// # Errors
    /// Something cannot be read or written.
    pub fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.remove(to)?;
        let to = self.path(to);
        make(&to)?;
        for (name, path) in files(&self.path(from))? {
            fs::copy(&path, to.join(name)).map_err(failed("copy", &path))?;
        }
        Ok(())
    }

    /// Copies the files whose names begin so from one folder into another that lacks them, each whole or not at all.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub fn share(&self, begins: &str, from: &str, to: &str) -> Result<()> {
        for (name, path) in files(&self.path(from))? {
            let name = name.to_string_lossy();
            let shared = format!("{to}/{name}");
            if name.starts_with(begins) && !self.path(&shared).exists() {
                let bytes = fs::read(&path).map_err(failed("read", &path))?;
                self.write_bytes(&shared, &bytes)?;
            }
        }
        Ok(())
    }
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<(OsString, PathBuf)>> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.map_err(failed("read", folder))?;
    let files = entries.into_iter().map(|e| (e.file_name(), e.path()));
    Ok(files.filter(|(_, path)| path.is_file()).collect())
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::File {
        doing,
        path,
        source,
    }
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| CliError::File {
        doing: "create",
        path: path.to_owned(),
        source,
    })
}

/// SHA-256 of what a value is in JSON, in hexadecimal: tells whether something was made under other settings.
///
/// # Errors
/// It has no JSON.
pub fn fingerprint(value: &impl Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(value).map_err(|e| CliError::Failed(e.to_string()))?;
    Ok(Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_read_back_and_broken_ones_are_as_if_they_were_not_there() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::new(&temporary.path().join("a/b")).unwrap();
        assert_eq!(folder.read::<Vec<u32>>("cells/x.json"), None);
        folder.write("cells/x.json", &vec![1, 2]).unwrap();
        assert_eq!(folder.read::<Vec<u32>>("cells/x.json"), Some(vec![1, 2]));
        fs::write(folder.path("cells/x.json"), "[1,").unwrap();
        assert_eq!(folder.read::<Vec<u32>>("cells/x.json"), None);
        folder.copy("cells", "copy").unwrap();
        assert!(folder.path("copy/x.json").is_file());
        folder.remove("copy").unwrap();
        folder.remove("copy").unwrap();
        assert!(!folder.path("copy").exists());
    }

    #[test]
    fn a_fingerprint_tells_settings_apart() {
        assert_eq!(fingerprint(&[1, 2]).unwrap(), fingerprint(&[1, 2]).unwrap());
        assert_ne!(fingerprint(&[1, 2]).unwrap(), fingerprint(&[2, 1]).unwrap());
    }
}
