//! Where the recorded values are.
#![allow(dead_code)] // Each test crate uses a part.

use std::path::PathBuf;

/// `tests/golden`, or `THUMBPRINT_GOLDEN`.
pub fn golden(file: &str) -> PathBuf {
    let folder = std::env::var_os("THUMBPRINT_GOLDEN")
        .map_or_else(|| repository_tests().join("golden"), PathBuf::from);
    folder.join(file)
}

/// `tests/data`, or the folder `data` beside `THUMBPRINT_GOLDEN`.
pub fn data(file: &str) -> PathBuf {
    golden("").join("../data").join(file)
}

/// A recorded JSON file.
pub fn json(file: &str) -> serde_json::Value {
    let path = golden(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn repository_tests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}
