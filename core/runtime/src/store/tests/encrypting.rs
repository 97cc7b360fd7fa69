//! Databases under a key. All but the first two need the feature `sqlcipher`: `make test-encryption`.

use super::*;

#[cfg(feature = "sqlcipher")]
mod with_sqlcipher;

#[test]
fn a_key_has_thirty_two_bytes_and_is_never_printed() {
    assert!(matches!(
        DatabaseKey::try_from(&[7; 31][..]),
        Err(StoreError::KeyLength { given: 31 })
    ));
    let key = DatabaseKey::try_from(&[0xAB; 32][..]).unwrap();
    assert_eq!(key, DatabaseKey::new([0xAB; 32]));
    assert_eq!(format!("{key:?}"), "DatabaseKey(..)");
}

#[test]
#[cfg(not(feature = "sqlcipher"))]
fn a_build_that_cannot_encrypt_says_so_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Store::open_under(dir.path(), Some(DatabaseKey::new([7; 32])));
    assert!(matches!(opened, Err(StoreError::CannotEncrypt)));
    assert!(!dir.path().join(ENCRYPTED_DATABASE_FILE).exists());
    // Nor does it take the folder of one that can for a new one.
    std::fs::write(dir.path().join(ENCRYPTED_DATABASE_FILE), "sealed").unwrap();
    let opened = Store::open(dir.path());
    assert!(matches!(opened, Err(StoreError::KeyNeeded { .. })));
    assert!(!dir.path().join(DATABASE_FILE).exists());
}
