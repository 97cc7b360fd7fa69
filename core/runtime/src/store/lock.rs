//! The lock file of a data folder: one process at a time, released by the system whatever happens.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::StoreError;

/// Name of the lock file within the data folder.
pub const LOCK_FILE: &str = "thumbprint.lock";

/// A held lock. The file says which process holds it, and whether the last one closed properly.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
    /// Whether the previous holder closed the database properly.
    pub was_closed: bool,
}

impl FolderLock {
    /// Takes the lock of `dir`, or says who holds it.
    pub fn acquire(dir: &Path) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_FILE))
            .map_err(|source| folder_error(dir, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read(&mut file)
                    .split_whitespace()
                    .next()
                    .and_then(|pid| pid.parse().ok());
                return Err(StoreError::InUse {
                    dir: dir.into(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => return Err(folder_error(dir, source)),
        }
        let was_closed = read(&mut file).trim_end().ends_with("closed");
        let mut lock = Self { file, was_closed };
        lock.mark("open")
            .map_err(|source| folder_error(dir, source))?;
        Ok(lock)
    }

    /// Lets the lock go. `closed` promises that the database needs no check at the next opening.
    pub fn release(mut self, closed: bool) {
        if closed {
            // Without the mark the next opening merely checks the database.
            let _ = self.mark("closed");
        }
    }

    fn mark(&mut self, state: &str) -> std::io::Result<()> {
        // Empty means open, so that a full disk need not keep the folder from being opened.
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        let _ = writeln!(self.file, "{} {state}", std::process::id());
        Ok(())
    }
}

pub(super) fn folder_error(dir: &Path, source: std::io::Error) -> StoreError {
    match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly { dir: dir.into() }
        }
        ErrorKind::StorageFull => StoreError::DiskFull,
        _ => StoreError::Folder {
            dir: dir.into(),
            source,
        },
    }
}

/// The other process may be writing, or the system may forbid reading: then nothing is known.
fn read(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.read_to_string(&mut text);
    text
}
