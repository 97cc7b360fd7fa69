use std::fs;
use std::path::Path;

use super::*;
use crate::types::Feedback;

const SECRET: &str = "xylophone-quartz";

fn key(byte: u8) -> Option<DatabaseKey> {
    Some(DatabaseKey::new([byte; 32]))
}

fn open(dir: &Path, key: Option<DatabaseKey>) -> Result<Store> {
    Store::open_under(dir, key).map(|(store, _)| store)
}

/// A folder with a reply that holds a secret.
fn sealed() -> (TempDir, ReplyId) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), key(1)).unwrap();
    let reply = store.record_reply(new_reply(SECRET, SECRET)).unwrap();
    store.record_feedback(reply, &Feedback::Up).unwrap();
    (dir, reply)
}

fn is_in_a_file(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    })
}

#[test]
fn what_was_said_is_in_no_file_and_comes_back_under_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), key(1)).unwrap();
    let reply = store.record_reply(new_reply(SECRET, SECRET)).unwrap();
    // While the log holds it, and when it has gone into the database.
    assert!(!is_in_a_file(dir.path(), SECRET));
    assert!(!is_in_a_file(dir.path(), "SQLite format 3"));
    store.suspend().unwrap();
    assert!(!is_in_a_file(dir.path(), SECRET));
    assert_eq!(store.reply(reply).unwrap().text, SECRET);
    drop(store);
    let store = open(dir.path(), key(1)).unwrap();
    assert_eq!(store.reply(reply).unwrap().text, SECRET);
}

#[test]
fn another_key_or_none_is_refused_and_changes_nothing() {
    let (dir, reply) = sealed();
    let path = dir.path().join(ENCRYPTED_DATABASE_FILE);
    let before = fs::read(&path).unwrap();
    let other = open(dir.path(), key(2));
    assert!(matches!(other, Err(StoreError::WrongKey { .. })));
    let none = open(dir.path(), None);
    assert!(matches!(none, Err(StoreError::KeyNeeded { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(!dir.path().join(DATABASE_FILE).exists());

    let store = open(dir.path(), key(1)).unwrap();
    assert_eq!(store.reply(reply).unwrap().text, SECRET);
    // It is open now: the same holds for whoever opens it beside.
    let other = open(dir.path(), key(2));
    assert!(matches!(other, Err(StoreError::WrongKey { .. })));
    let none = open(dir.path(), None);
    assert!(matches!(none, Err(StoreError::KeyNeeded { .. })));
    assert!(open(dir.path(), key(1)).is_ok());
}

#[test]
fn a_database_without_a_key_does_not_get_one() {
    let (dir, store) = fresh();
    let beside = open(dir.path(), key(1));
    assert!(matches!(beside, Err(StoreError::NotEncrypted { .. })));
    drop(store);
    let later = open(dir.path(), key(1));
    assert!(matches!(later, Err(StoreError::NotEncrypted { .. })));
    assert!(!dir.path().join(ENCRYPTED_DATABASE_FILE).exists());
}

#[test]
fn a_damaged_page_is_moved_aside_and_a_damaged_first_page_may_be_another_key() {
    let (dir, _) = sealed();
    let path = dir.path().join(ENCRYPTED_DATABASE_FILE);
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[3 * 4096 + 100] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let (store, report) = Store::open_under(dir.path(), key(1)).unwrap();
    let aside = report.moved_aside.unwrap();
    assert_eq!(fs::read(&aside).unwrap(), damaged);
    let name = aside.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("thumbprint.encrypted.db.corrupt-"));
    drop(store);

    damaged = whole;
    damaged[100] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let opened = open(dir.path(), key(1));
    assert!(matches!(opened, Err(StoreError::WrongKey { .. })));
    assert_eq!(fs::read(&path).unwrap(), damaged);
}

#[test]
fn what_is_forgotten_is_gone_under_the_key_too() {
    let (dir, reply) = sealed();
    let store = open(dir.path(), key(1)).unwrap();
    store.forget(Target::Reply(reply)).unwrap();
    assert!(matches!(
        store.reply(reply),
        Err(StoreError::UnknownReply(_))
    ));
}
