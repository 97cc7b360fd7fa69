//! Files that commands read and write.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use thumbprint_tune::durable;

use crate::error::{CliError, Result};

/// A file's bytes.
///
/// # Errors
/// The system refuses, with the path.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| CliError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

/// Checks before hours of work that a file can be written at the end of them, and removes what a killed run left beside it.
///
/// # Errors
/// The path names something else than a file, or its folder refuses new files.
pub fn check_writable(path: &Path) -> Result<()> {
    let failed = |source| CliError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(there) if !there.is_file() => {
            return Err(failed(io::Error::other("it exists and is not a file")));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let Some(name) = path.file_name() else {
        return Err(failed(io::Error::other("it names no file")));
    };
    let mut probe = std::ffi::OsString::from(".");
    probe.push(name);
    probe.push(format!(".{}-probe.tmp", std::process::id()));
    let probe = path.with_file_name(probe);
    File::create(&probe)
        .and_then(|_| fs::remove_file(&probe))
        .map_err(failed)?;
    durable::remove_leftovers(path).map_err(failed)?;
    Ok(())
}

/// Peak resident memory of this process and its anonymous part now, MiB, where the system tells.
pub fn resident_memory_mib() -> Option<(f64, f64)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<f64>()
            .ok()
            .map(|kib| kib / 1024.0)
    };
    Some((field("VmHWM:")?, field("RssAnon:")?))
}

/// Lets the peak that [`resident_memory_mib`] tells begin anew, where the system can; elsewhere it stays the process's.
pub fn forget_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}
