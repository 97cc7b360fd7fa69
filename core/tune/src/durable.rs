//! Replacing a file so that it holds either what it held before or all of the new, whatever happens in between.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that could not be replaced. It still holds what it held before.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: {source}; what it held before is unchanged", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What was being done.
    pub step: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

/// Replaces `path` by what `write` writes: into a temporary file beside it, which is synced and renamed, and the folder synced.
/// Until that is done the old file stays.
///
/// # Errors
/// What the system or `write` refused. The temporary file is removed.
pub fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WriteError> {
    let temporary = temporary_beside(path);
    let result = write_and_rename(&temporary, path, write);
    if result.is_err() {
        // The error to report is the first one.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Removes what a killed process left beside `path`, and returns how many files that were. Nothing may be replacing `path` meanwhile.
///
/// # Errors
/// The folder cannot be read, or a file not be removed.
pub fn remove_leftovers(path: &Path) -> io::Result<usize> {
    let prefix = prefix_of(path);
    let mut removed = 0;
    for entry in fs::read_dir(folder_of(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(SUFFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

const SUFFIX: &str = ".tmp";

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WriteError> {
    let failed = |step| {
        move |source| WriteError {
            path: path.to_owned(),
            step,
            source,
        }
    };
    // Truncated: no living process uses this name, so what is there was left by a dead one of the same number.
    let file = File::create(temporary);
    let mut out = BufWriter::with_capacity(
        1 << 16,
        file.map_err(failed("create a temporary file beside"))?,
    );
    write(&mut out).map_err(failed("write"))?;
    let file = out
        .into_inner()
        .map_err(|e| failed("write")(e.into_error()))?;
    file.sync_all().map_err(failed("sync"))?;
    drop(file);
    fs::rename(temporary, path).map_err(failed("replace"))?;
    sync_folder(path).map_err(failed("sync the folder of"))
}

/// A name in the same folder, so that the rename stays within one file system, that no other call uses.
fn temporary_beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let mut name = prefix_of(path);
    name.push(format!(
        "{}-{}{SUFFIX}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ));
    path.with_file_name(name)
}

fn prefix_of(path: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes a rename durable. Windows has no such call, and needs none.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder_of(path))?.sync_all()
    } else {
        Ok(())
    }
}
