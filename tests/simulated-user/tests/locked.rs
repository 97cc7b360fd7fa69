//! The locked users and their prompts are what they were before any default was tuned.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use sha2::{Digest, Sha256};

#[test]
fn the_locked_users_are_those_that_were_hashed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("users");
    let recorded = std::fs::read_to_string(folder.join("locked.sha256")).unwrap();
    let file = std::fs::read(folder.join("locked.json")).unwrap();
    let hash: String = Sha256::digest(&file)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // As sha256sum writes it, so that it can check it too.
    assert_eq!(
        recorded,
        format!("{hash}  locked.json\n"),
        "locked.json was changed: whatever was tuned since then was tuned on other users"
    );
}
