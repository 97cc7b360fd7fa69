//! What is forgotten leaves no byte, and takes with it what was made of it.

use std::path::PathBuf;

use serde_json::json;

use super::keeping::{item, new_adapter, new_run};
use super::*;
use crate::types::{Feedback, completion_key};

const SECRET: &str = "xylophone-sonata-in-moonlight";

pub(super) fn assert_gone(dir: &Path, store: &Store) {
    assert!(!contains(&all_bytes(dir), "xylophone"), "while open");
    store.suspend().unwrap();
    assert!(!contains(&all_bytes(dir), "xylophone"), "when closed");
    store.resume().unwrap();
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
fn not_a_byte_of_a_forgotten_item_is_left_in_any_file() {
    let (dir, store) = fresh();
    for at in 0..200 {
        item(&store, &format!("harmless question {at}"));
    }
    // Longer than a page, so that it spills into overflow pages.
    let long = format!("{SECRET} ").repeat(400);
    let reply = store
        .record_reply(new_reply(&format!("about {SECRET}"), &long))
        .unwrap();
    let down = Feedback::Down {
        reasons: vec![format!("no more {SECRET}")],
    };
    let feedback = store.record_feedback(reply, &down).unwrap();
    store
        .record_feedback(reply, &Feedback::Edit(format!("rather {SECRET}")))
        .unwrap();
    for at in 200..400 {
        item(&store, &format!("harmless question {at}"));
    }
    assert!(contains(&all_bytes(dir.path()), SECRET));

    let forgotten = store.forget(Target::Feedback(feedback)).unwrap();
    assert_eq!(
        (forgotten.feedback.len(), forgotten.replies.as_slice()),
        (2, [reply].as_slice())
    );
    assert_gone(dir.path(), &store);
    assert_eq!(store.effective_feedback().unwrap().len(), 400);
    assert!(matches!(
        store.forget(Target::Feedback(feedback)),
        Err(StoreError::UnknownFeedback(_))
    ));
    // An id is never given twice.
    assert!(store.record_reply(new_reply("q", "a")).unwrap() > reply);
}

#[test]
fn rows_that_moved_between_pages_before_they_were_forgotten_leave_nothing_behind() {
    let (dir, store) = fresh();
    let mut secrets = Vec::new();
    for at in 0..120_usize {
        // From a few bytes to more than a page, so that pages split and merge.
        let text = format!("answer {at} {}", "words ".repeat(at * 37 % 900));
        let secret = at % 3 == 0;
        let text = if secret {
            text.replace("words", SECRET)
        } else {
            text
        };
        let reply = store
            .record_reply(new_reply(&format!("{at}"), &text))
            .unwrap();
        let edit = Feedback::Edit(if secret {
            SECRET.repeat(at % 7 + 1)
        } else {
            text
        });
        let feedback = store.record_feedback(reply, &edit).unwrap();
        if secret {
            secrets.push(feedback);
        }
    }
    for feedback in secrets {
        store.forget(Target::Feedback(feedback)).unwrap();
    }
    assert_eq!(store.effective_feedback().unwrap().len(), 80);
    assert_gone(dir.path(), &store);
}

#[test]
fn a_reader_in_the_middle_of_its_work_does_not_keep_bytes_alive() {
    let (dir, store) = fresh();
    let feedback = item(&store, SECRET);
    let (reading, started) = std::sync::mpsc::channel();
    let reader = store.clone();
    let thread = std::thread::spawn(move || {
        reader.read(|db| {
            let count: i64 = db.query_row("SELECT count(*) FROM feedback", [], |row| row.get(0))?;
            reading.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
            Ok(count)
        })
    });
    started.recv().unwrap();
    store.forget(Target::Feedback(feedback)).unwrap();
    assert_gone(dir.path(), &store);
    assert_eq!(thread.join().unwrap().unwrap(), 1);
}

#[test]
fn later_turns_of_a_stored_chat_go_too_in_every_branch() {
    let (dir, store) = fresh();
    let chat = store.create_conversation(Some("music")).unwrap();
    exchange(&store, chat, "hello", "hi");
    let (_, reply) = exchange(&store, chat, SECRET, "an answer");
    let fork = store
        .branch_conversation(store.conversation(chat).unwrap().head.unwrap(), None)
        .unwrap();
    let (_, later) = exchange(&store, chat, "more", &format!("{SECRET} again"));
    let (_, in_fork) = exchange(&store, fork, "other", "more words");
    let feedback = store.record_feedback(reply, &Feedback::Up).unwrap();
    store.record_feedback(in_fork, &Feedback::Up).unwrap();

    let forgotten = store.forget(Target::Feedback(feedback)).unwrap();
    assert_eq!(forgotten.replies, [reply, later, in_fork]);
    assert_eq!(forgotten.messages, 6, "three questions and three answers");
    assert_eq!(texts(&store, chat), ["hello", "hi"]);
    assert_eq!(texts(&store, fork), ["hello", "hi"]);
    assert_eq!(
        store.conversation(chat).unwrap().title.as_deref(),
        Some("music")
    );
    assert_gone(dir.path(), &store);
}

#[test]
fn a_question_stays_for_its_other_answers() {
    let (_dir, store) = fresh();
    let chat = store.create_conversation(None).unwrap();
    let (parent, first) = exchange(&store, chat, "q", "one");
    let prompt = Prompt::Turn {
        conversation: chat,
        parent,
    };
    let second = store.record_reply(reply_to(prompt, "two")).unwrap();
    store.forget(Target::Reply(second)).unwrap();
    assert_eq!(texts(&store, chat), ["q"]);
    assert_eq!(store.reply(first).unwrap().text, "one");
}

#[test]
fn a_title_goes_with_the_question_it_may_quote() {
    let (dir, store) = fresh();
    let chat = store.create_conversation(Some(SECRET)).unwrap();
    store
        .append_message(chat, &Message::system("Be brief."))
        .unwrap();
    let (_, reply) = exchange(&store, chat, SECRET, "an answer");
    store.forget(Target::Reply(reply)).unwrap();
    assert_eq!(store.conversation(chat).unwrap().title, None);
    assert_eq!(texts(&store, chat), ["Be brief."]);
    assert_gone(dir.path(), &store);
}

#[test]
fn later_prompts_of_an_app_that_keeps_its_own_chat_go_too() {
    let (dir, store) = fresh();
    let question = || Message::user("q");
    let reply = store.record_reply(new_reply("q", SECRET)).unwrap();
    let turns = [
        question(),
        Message::assistant(SECRET),
        Message::user("go on"),
    ];
    let quoting = store
        .record_reply(reply_to(Prompt::Messages(turns.to_vec()), "well"))
        .unwrap();
    // The app has cut off the beginning of its chat.
    let cut = store
        .record_reply(reply_to(Prompt::Messages(turns[1..].to_vec()), "well"))
        .unwrap();
    // Quotes only the answer that quoted it.
    let turns = [
        Message::user("go on"),
        Message::assistant("well"),
        Message::user("and?"),
    ];
    let indirect = store
        .record_reply(reply_to(Prompt::Messages(turns.to_vec()), "so"))
        .unwrap();
    let other = [
        question(),
        Message::assistant("something else"),
        Message::user("go on"),
    ];
    let unrelated = store
        .record_reply(reply_to(Prompt::Messages(other.to_vec()), "fine"))
        .unwrap();
    let feedback = store.record_feedback(reply, &Feedback::Up).unwrap();
    store.record_feedback(quoting, &Feedback::Up).unwrap();

    let forgotten = store.forget(Target::Feedback(feedback)).unwrap();
    assert_eq!(forgotten.replies, [reply, quoting, cut, indirect]);
    assert_eq!(store.reply(unrelated).unwrap().text, "fine");
    assert_gone(dir.path(), &store);
}

#[test]
fn a_chat_that_went_on_from_an_edit_is_forgotten_with_it() {
    let (dir, store) = fresh();
    let chat = store.create_conversation(None).unwrap();
    let (question, reply) = exchange(&store, chat, "q", "plain");
    let edit = store
        .record_feedback(reply, &Feedback::Edit(SECRET.into()))
        .unwrap();
    store.rewind_conversation(chat, Some(question)).unwrap();
    store
        .append_message(chat, &Message::assistant(SECRET))
        .unwrap();
    let (_, later) = exchange(&store, chat, "and then?", SECRET);
    let turns = vec![
        Message::user("q"),
        Message::assistant(SECRET),
        Message::user("so?"),
    ];
    let elsewhere = store
        .record_reply(reply_to(Prompt::Messages(turns), "hm"))
        .unwrap();

    let forgotten = store.forget(Target::Feedback(edit)).unwrap();
    assert_eq!(forgotten.replies, [reply, later, elsewhere]);
    assert_eq!(texts(&store, chat), [""; 0]);
    assert_gone(dir.path(), &store);
}

#[test]
fn the_loser_of_a_pick_goes_unless_more_was_said_about_it() {
    let (_dir, store) = fresh();
    let replies = ["a", "b", "c"].map(|text| store.record_reply(new_reply("q", text)).unwrap());
    let [winner, loser, judged] = replies;
    let pick = store
        .record_feedback(winner, &Feedback::Prefer { over: loser })
        .unwrap();
    store
        .record_feedback(winner, &Feedback::Prefer { over: judged })
        .unwrap();
    let up = store.record_feedback(judged, &Feedback::Up).unwrap();
    let forgotten = store.forget(Target::Feedback(pick)).unwrap();
    assert_eq!(forgotten.replies, [winner, loser]);
    assert_eq!(in_effect(&store), [up]);
}

#[test]
fn a_ranking_goes_with_any_of_its_replies_and_takes_those_that_only_it_speaks_of() {
    let (dir, store) = fresh();
    let record = |text: &str| store.record_reply(new_reply("q", text)).unwrap();
    let [best, judged, elsewhere, only] = [SECRET, "b", "c", "d xylophone"].map(record);
    let rank = |best, over: &[ReplyId]| {
        let over = over.to_vec();
        store
            .record_feedback(best, &Feedback::Rank { over })
            .unwrap()
    };
    let first = rank(best, &[judged, elsewhere, only]);
    let up = store.record_feedback(judged, &Feedback::Up).unwrap();
    // Replaced since, and a part of the log nevertheless.
    let second = rank(judged, &[elsewhere]);
    let adapter = store
        .insert_adapter(&new_adapter(&[first], "1.gguf"))
        .unwrap();
    let forgotten = store.forget(Target::Feedback(first)).unwrap();
    assert_eq!(forgotten.replies, [best, only]);
    assert_eq!(
        (forgotten.feedback, forgotten.adapters),
        (vec![first], vec![adapter])
    );
    assert_eq!(in_effect(&store), [up, second]);
    assert_gone(dir.path(), &store);

    let forgotten = store.forget(Target::Reply(elsewhere)).unwrap();
    assert_eq!(
        (forgotten.feedback, forgotten.replies),
        (vec![second], vec![elsewhere])
    );
    assert_eq!(in_effect(&store), [up]);
}

#[test]
fn not_a_byte_that_was_forgotten_before_a_migration_comes_back_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let old = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    old.execute_batch(include_str!("v1.sql")).unwrap();
    let mut insert = old
        .prepare("INSERT INTO feedback (reply, kind, body, created_at) VALUES (2, 'edit', ?, 1)")
        .unwrap();
    for _ in 0..50 {
        insert.execute([SECRET.repeat(30)]).unwrap();
    }
    drop(insert);
    drop(old);
    let (store, report) = Store::open(dir.path()).unwrap();
    assert_eq!(report.migrated_from, Some(1));
    assert!(contains(&all_bytes(dir.path()), SECRET));
    store.forget(Target::Reply(ReplyId(2))).unwrap();
    // The table that the migration dropped leaves nothing either.
    assert_gone(dir.path(), &store);
}

#[test]
fn a_withdrawn_pick_of_a_reply_that_stays_can_be_forgotten_with_its_loser() {
    let (_dir, store) = fresh();
    let [winner, loser] = ["a", "b"].map(|text| store.record_reply(new_reply("q", text)).unwrap());
    let pick = store
        .record_feedback(winner, &Feedback::Prefer { over: loser })
        .unwrap();
    let withdrawal = store.withdraw(pick).unwrap();
    let forgotten = store.forget(Target::Reply(loser)).unwrap();
    assert_eq!(forgotten.feedback, [pick, withdrawal]);
    assert_eq!(forgotten.replies, [loser]);
    assert_eq!(store.feedback_count().unwrap(), 0);
}

#[test]
fn adapters_and_runs_that_learnt_from_it_are_condemned_and_others_are_not() {
    let (_dir, store) = fresh();
    let (secret, harmless) = (item(&store, SECRET), item(&store, "harmless"));
    let serve = |items: &[FeedbackId], file: &str| {
        let id = store.insert_adapter(&new_adapter(items, file)).unwrap();
        store
            .activate("base", Some(id), Some(AdapterState::Trial), "gate")
            .unwrap();
        id
    };
    let innocent = serve(&[harmless], "adapters/1.gguf");
    let guilty = serve(&[harmless, secret], "adapters/2.gguf");
    let run = store.begin_run(&new_run(&[secret])).unwrap();
    let progress = RunProgress {
        state: RunState::Paused,
        phase: "train".into(),
        step: 1,
        total_steps: 24,
        checkpoint: Some("runs/1".into()),
        outcome: None,
    };
    store.update_run(run, &progress).unwrap();
    store
        .append_run_steps(
            run,
            &[RunStep {
                step: 1,
                metrics: json!({"loss": 0.7}),
            }],
        )
        .unwrap();
    for (adapter, run) in [
        (Some(guilty), None),
        (None, Some(run)),
        (Some(innocent), None),
    ] {
        store
            .record_decision(&NewDecision {
                adapter,
                run,
                kind: "gate".into(),
                numbers: json!({}),
            })
            .unwrap();
    }
    let reply = store.effective_feedback().unwrap()[0].reply.clone();
    let key = completion_key(&[0; 32], &reply.text);
    store
        .put_reference_logps(reply.id, &key, "base", &[-1.0])
        .unwrap();
    for candidate_reply in [Some(reply.id), None] {
        let vote = NewVote {
            adapter: innocent,
            candidate_reply,
            baseline_reply: None,
            candidate_first: true,
            outcome: Outcome::Win,
        };
        store.record_vote(&vote).unwrap();
    }

    let forgotten = store.forget(Target::Feedback(secret)).unwrap();
    assert_eq!(
        (forgotten.adapters.as_slice(), forgotten.runs.as_slice()),
        ([guilty].as_slice(), [run].as_slice())
    );
    assert_eq!(forgotten.served, [("base".to_string(), Some(innocent))]);
    assert_eq!(store.active_adapter("base").unwrap().unwrap().id, innocent);
    let condemned = ["adapters/2.gguf", "runs/1"].map(PathBuf::from);
    assert_eq!(forgotten.delete, condemned);
    assert_eq!(store.pending_deletions().unwrap(), condemned);
    store.confirm_deleted(&condemned[0]).unwrap();
    assert_eq!(store.pending_deletions().unwrap(), condemned[1..]);

    let row = store.adapter(guilty).unwrap();
    assert_eq!(
        (row.state, row.manifest, row.config),
        (AdapterState::Forgotten, json!(null), json!({"r": 8}))
    );
    assert_eq!(store.adapter_items(guilty).unwrap(), []);
    assert_eq!(store.decisions(None).unwrap().len(), 1);
    assert_eq!(store.votes(innocent).unwrap().len(), 1);
    assert_eq!(forgotten.votes, 1);
    assert_eq!(store.reference_logps(&key, "base").unwrap(), None);
    assert_eq!(store.run_steps(run).unwrap(), []);
    assert_eq!(store.run(run).unwrap().progress.state, RunState::Forgotten);

    // Whatever was under way at that moment cannot come back.
    assert!(matches!(
        store.update_run(run, &progress),
        Err(StoreError::ForgottenRun(_))
    ));
    let late = store.insert_adapter(&new_adapter(&[harmless, secret], "adapters/3.gguf"));
    assert!(matches!(late, Err(StoreError::ForgottenItem(id)) if id == secret));
    assert!(matches!(
        store.begin_run(&new_run(&[secret])),
        Err(StoreError::ForgottenItem(_))
    ));
    let revived = store.activate("base", Some(guilty), Some(AdapterState::Trial), "by hand");
    assert!(matches!(revived, Err(StoreError::NotServable { .. })));
}

#[test]
fn a_conversation_is_forgotten_whole() {
    let (dir, store) = fresh();
    let chat = store.create_conversation(Some(SECRET)).unwrap();
    let (question, judged) = exchange(&store, chat, SECRET, SECRET);
    store.record_feedback(judged, &Feedback::Up).unwrap();
    let fork = store.branch_conversation(question, None).unwrap();
    let other = store.create_conversation(Some("other")).unwrap();
    exchange(&store, other, "q", "a");
    let forgotten = store.forget(Target::Conversation(chat)).unwrap();
    assert_eq!((forgotten.feedback.len(), forgotten.messages), (1, 2));
    assert_eq!(texts(&store, fork), [""; 0]);
    assert_eq!(texts(&store, other), ["q", "a"]);
    assert!(matches!(
        store.conversation(chat),
        Err(StoreError::UnknownConversation(_))
    ));
    assert_gone(dir.path(), &store);
}

#[test]
fn a_branch_is_forgotten_with_the_turns_it_inherited_from_a_deleted_chat() {
    let (dir, store) = fresh();
    let origin = store.create_conversation(None).unwrap();
    let (_, judged) = exchange(&store, origin, SECRET, "an answer");
    let branch = store
        .branch_conversation(store.conversation(origin).unwrap().head.unwrap(), None)
        .unwrap();
    exchange(&store, branch, "and?", SECRET);
    store.record_feedback(judged, &Feedback::Up).unwrap();
    store.delete_conversation(origin).unwrap();
    assert_eq!(texts(&store, branch).len(), 4);
    let forgotten = store.forget(Target::Conversation(branch)).unwrap();
    assert_eq!((forgotten.replies.len(), forgotten.messages), (2, 4));
    assert_gone(dir.path(), &store);
}

#[test]
fn everything_can_be_forgotten() {
    let (dir, store) = fresh();
    let chat = store.create_conversation(Some(SECRET)).unwrap();
    exchange(&store, chat, SECRET, SECRET);
    let feedback = item(&store, SECRET);
    store.put_model("base", &json!({"name": "m"})).unwrap();
    store
        .insert_adapter(&new_adapter(&[feedback], "1.gguf"))
        .unwrap();
    let forgotten = store.forget(Target::Everything).unwrap();
    assert_eq!(forgotten.delete, [PathBuf::from("1.gguf")]);
    assert_eq!(store.conversations().unwrap(), []);
    assert_eq!(store.effective_feedback().unwrap(), []);
    assert_eq!(store.models().unwrap().len(), 1);
    assert_gone(dir.path(), &store);
}
