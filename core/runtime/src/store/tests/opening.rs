//! Opening a folder: twice, read-only, damaged, older, newer, suspended.

use std::fs;

use rusqlite::Connection;

use super::*;
use crate::types::Feedback;

#[test]
fn the_same_folder_opened_twice_is_one_store() {
    let (dir, store) = fresh();
    let detour = dir.path().join("..").join(dir.path().file_name().unwrap());
    let (again, report) = Store::open(detour).unwrap();
    assert!(report.already_open && !report.created);
    assert!(Arc::ptr_eq(&store.inner, &again.inner));
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    assert_eq!(again.reply(reply).unwrap().text, "a");
    drop(store);
    again.record_feedback(reply, &Feedback::Up).unwrap();
}

#[test]
fn many_threads_may_open_use_and_drop_a_folder_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let dir = dir.path();
            scope.spawn(move || {
                for round in 0..25 {
                    let (store, _) = Store::open(dir).unwrap();
                    let reply = store
                        .record_reply(new_reply("q", &format!("{thread} {round}")))
                        .unwrap();
                    assert_eq!(
                        store.reply(reply).unwrap().text,
                        format!("{thread} {round}")
                    );
                }
            });
        }
    });
    let (store, _) = Store::open(dir.path()).unwrap();
    assert_eq!(store.replies_to_same_prompt(ReplyId(1)).unwrap().len(), 100);
}

#[test]
fn suspending_releases_every_file_and_the_next_call_opens_them_again() {
    let (dir, store) = fresh();
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    store.suspend().unwrap();
    store.suspend().unwrap();
    let lock = fs::File::open(dir.path().join(LOCK_FILE)).unwrap();
    lock.try_lock().unwrap();
    assert!(!dir.path().join("thumbprint.db-wal").exists());
    assert!(
        matches!(store.reply(reply), Err(StoreError::InUse { .. })),
        "another holds the folder now"
    );
    lock.unlock().unwrap();
    assert_eq!(store.reply(reply).unwrap().text, "a");
    assert!(store.resume().unwrap().already_open);
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_not_touched() {
    let (dir, store) = fresh();
    drop(store);
    let path = dir.path().join(DATABASE_FILE);
    let newer = Connection::open(&path).unwrap();
    newer
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA user_version=7; PRAGMA wal_checkpoint(TRUNCATE)",
        )
        .unwrap();
    drop(newer);
    let before = fs::read(&path).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(
        error,
        StoreError::NewerVersion { found: 7, known: 3 }
    ));
    assert_eq!(
        error.to_string(),
        "database from a newer version 7, this library knows 3: update the app"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    let mut files: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, [DATABASE_FILE, LOCK_FILE]);
}

#[test]
fn an_older_database_is_migrated_with_all_it_holds() {
    let (dir, store) = fresh();
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    drop(store);
    let newer: Vec<&str> = database::MIGRATIONS
        .iter()
        .copied()
        .chain([
            "ALTER TABLE replies ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'",
            "CREATE TABLE moods (name TEXT)",
        ])
        .collect();
    let (store, report) = Store::open_with(dir.path(), None, &newer).unwrap();
    assert_eq!(
        report.migrated_from,
        Some(database::MIGRATIONS.len() as u32)
    );
    let mood: String = store
        .read(|db| {
            Ok(
                db.query_row("SELECT mood FROM replies WHERE id = ?", [reply], |row| {
                    row.get(0)
                })?,
            )
        })
        .unwrap();
    assert_eq!(mood, "calm");
    drop(store);
    let (_store, report) = Store::open_with(dir.path(), None, &newer).unwrap();
    assert_eq!(report, OpenReport::default());
}

#[test]
fn a_migration_that_fails_leaves_the_older_database_as_it_was() {
    let (dir, store) = fresh();
    drop(store);
    let broken = [
        database::MIGRATIONS,
        &["CREATE TABLE half (x); CREATE TABLE replies (x)"],
    ]
    .concat();
    assert!(matches!(
        Store::open_with(dir.path(), None, &broken),
        Err(StoreError::Sqlite(_))
    ));
    let (store, report) = Store::open(dir.path()).unwrap();
    assert_eq!(report, OpenReport::default());
    let halves: i64 = store
        .read(|db| {
            Ok(db.query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = 'half'",
                [],
                |row| row.get(0),
            )?)
        })
        .unwrap();
    assert_eq!(halves, 0);
}

#[test]
fn a_database_of_version_1_is_read_by_this_library() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    old.execute_batch(include_str!("v1.sql")).unwrap();
    drop(old);
    let (store, report) = Store::open(dir.path()).unwrap();
    assert_eq!((report.moved_aside, report.migrated_from), (None, Some(1)));

    let log = store.effective_feedback().unwrap();
    let said: Vec<_> = log
        .iter()
        .map(|event| (event.id.0, event.reply.id.0, event.feedback.clone()))
        .collect();
    assert_eq!(
        said,
        [
            (2, 2, Feedback::Up),
            (4, 4, Feedback::Edit("Brief.".into())),
            (5, 3, Feedback::Prefer { over: ReplyId(5) }),
            (6, 1, Feedback::Retry),
        ]
    );
    assert_eq!(
        log[3].other.as_ref().unwrap().id,
        ReplyId(2),
        "kept: the chat went on from it"
    );
    assert_eq!(log[0].reply.tokens, Some(vec![1, 2]));
    let chat = store.conversations().unwrap().remove(0);
    assert_eq!(
        texts(&store, chat.id),
        ["Hello?", "Hi there.", "How are you?"]
    );
    assert_eq!(
        store
            .reply(ReplyId(1))
            .unwrap()
            .generation
            .unwrap()
            .stop_reason,
        StopReason::MaxTokens
    );
    let active = store.active_adapter("base").unwrap().unwrap();
    assert_eq!(
        (active.state, store.adapter_items(active.id).unwrap()),
        (AdapterState::Promoted, vec![FeedbackId(2)])
    );
    assert_eq!(
        store.votes(active.id).unwrap()[0].vote.outcome,
        Outcome::Win
    );
    assert_eq!(store.runs().unwrap()[0].progress.state, RunState::Finished);
    assert_eq!(
        store.run_steps(store.runs().unwrap()[0].id).unwrap().len(),
        1
    );
    assert_eq!(
        store.decisions(None).unwrap()[0].decision.kind,
        "offline_gate"
    );
    assert_eq!(
        store.reference_logps(&[0xab; 32], "base").unwrap(),
        Some(vec![-1.5])
    );
    assert_eq!(store.setting("share").unwrap(), Some(0.1));
    assert_eq!(store.open_matches("base").unwrap(), []);
    assert_eq!(store.head("base").unwrap(), None);
    // And what is new goes on where the old ended.
    assert_eq!(
        store.record_feedback(ReplyId(1), &Feedback::Up).unwrap(),
        FeedbackId(9)
    );
    let over = vec![ReplyId(5)];
    let ranking = store.record_feedback(ReplyId(3), &Feedback::Rank { over });
    assert_eq!(ranking.unwrap(), FeedbackId(10));
    let violations: i64 = store
        .read(|db| {
            Ok(
                db.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| {
                    row.get(0)
                })?,
            )
        })
        .unwrap();
    assert_eq!(violations, 0);
}

#[test]
fn an_id_that_was_erased_before_a_migration_is_not_given_again_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    old.execute_batch(include_str!("v1.sql")).unwrap();
    old.execute_batch("DELETE FROM feedback WHERE id >= 6")
        .unwrap();
    drop(old);
    let (store, _) = Store::open(dir.path()).unwrap();
    assert_eq!(
        store.record_feedback(ReplyId(1), &Feedback::Up).unwrap(),
        FeedbackId(9)
    );
}

/// Opens a folder whose database is damaged; says what lies aside.
fn moved_aside(dir: &Path) -> std::path::PathBuf {
    let (store, report) = Store::open(dir).unwrap();
    assert!(report.created);
    let aside = report
        .moved_aside
        .expect("a damaged database is moved aside");
    assert!(
        aside
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("thumbprint.db.corrupt-")
    );
    store.record_reply(new_reply("q", "a new life")).unwrap();
    aside
}

#[test]
fn a_file_that_is_no_database_is_moved_aside_and_kept() {
    for garbage in [
        b"not a database, but something that somebody may want back".repeat(9),
        b"short".to_vec(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(DATABASE_FILE), &garbage).unwrap();
        fs::write(dir.path().join("thumbprint.db-wal"), b"a log").unwrap();
        let aside = moved_aside(dir.path());
        assert_eq!(fs::read(&aside).unwrap(), garbage);
        assert_eq!(
            fs::read(format!("{}-wal", aside.display())).unwrap(),
            b"a log"
        );
    }
}

#[test]
fn damage_in_the_middle_of_a_database_is_found_at_opening() {
    let (dir, store) = fresh();
    for at in 0..200 {
        let reply = store
            .record_reply(new_reply(&format!("question {at}"), &"text ".repeat(50)))
            .unwrap();
        store.record_feedback(reply, &Feedback::Up).unwrap();
    }
    drop(store);
    let path = dir.path().join(DATABASE_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let aside = moved_aside(dir.path());
    assert_eq!(fs::read(aside).unwrap(), bytes);
}

#[test]
fn damage_met_while_open_is_an_error_and_the_next_opening_deals_with_it() {
    let (dir, store) = fresh();
    for at in 0..200 {
        store
            .record_reply(new_reply(&format!("question {at}"), &"text ".repeat(50)))
            .unwrap();
    }
    store.suspend().unwrap();
    store.resume().unwrap();
    let path = dir.path().join(DATABASE_FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8192..].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let met = (1..=200).any(|id| matches!(store.reply(ReplyId(id)), Err(StoreError::Corrupt)));
    assert!(met);
    drop(store);
    moved_aside(dir.path());
}

#[test]
fn an_empty_database_file_is_a_new_database() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(DATABASE_FILE), b"").unwrap();
    let (_store, report) = Store::open(dir.path()).unwrap();
    assert_eq!((report.created, report.moved_aside), (true, None));
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Store::open(file.join("data")).unwrap_err();
    assert!(matches!(&error, StoreError::Folder { dir, .. } if dir.ends_with("file/data")));
}

#[test]
fn no_error_repeats_what_a_person_wrote() {
    let (_dir, store) = fresh();
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    let secret = "xylophone";
    store
        .write(Durability::Full, |db| {
            db.execute(
                "UPDATE replies SET prompt = ?",
                [format!("[{{\"role\": \"{secret}\"}}]")],
            )?;
            db.execute(
                "INSERT INTO feedback (reply, kind, body, created_at) VALUES (?, 'down', ?, 0)",
                rusqlite::params![reply, format!("{{\"{secret}\": 1}}")],
            )?;
            Ok(())
        })
        .unwrap();
    for error in [
        store.reply(reply).unwrap_err(),
        store.effective_feedback().unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unreadable { .. }));
        assert!(!format!("{error} {error:?}").contains(secret));
    }
}
