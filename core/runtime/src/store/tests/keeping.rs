//! Conversations, runs, adapters, votes, caches.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::types::{AdapterId, ConversationId, Feedback};

#[test]
fn a_conversation_grows_is_renamed_and_rewound() {
    let (_dir, store) = fresh();
    let id = store.create_conversation(Some("Weather")).unwrap();
    store
        .append_message(id, &Message::system("Be brief."))
        .unwrap();
    let (question, first) = exchange(&store, id, "Rain?", "No.");
    assert_eq!(texts(&store, id), ["Be brief.", "Rain?", "No."]);
    assert_eq!(store.messages(id).unwrap()[2].reply, Some(first));

    store.rewind_conversation(id, Some(question)).unwrap();
    let prompt = Prompt::Turn {
        conversation: id,
        parent: question,
    };
    let second = store.record_reply(reply_to(prompt, "Not today.")).unwrap();
    assert_eq!(texts(&store, id), ["Be brief.", "Rain?", "Not today."]);
    assert_eq!(
        store.reply(second).unwrap().prompt,
        store.reply(first).unwrap().prompt
    );
    // The first answer is still there to be shown again.
    store
        .rewind_conversation(id, store.reply(first).unwrap().message)
        .unwrap();
    assert_eq!(texts(&store, id), ["Be brief.", "Rain?", "No."]);

    store.rename_conversation(id, None).unwrap();
    assert_eq!(store.conversation(id).unwrap().title, None);
    store.rewind_conversation(id, None).unwrap();
    assert_eq!(store.messages(id).unwrap(), []);
}

#[test]
fn a_branch_shares_the_turns_before_it_and_outlives_its_origin() {
    let (_dir, store) = fresh();
    let origin = store.create_conversation(None).unwrap();
    exchange(&store, origin, "q1", "a1");
    let shared = store.conversation(origin).unwrap().head.unwrap();
    exchange(&store, origin, "q2", "a2");
    let branch = store.branch_conversation(shared, Some("branch")).unwrap();
    exchange(&store, branch, "q3", "a3");
    assert_eq!(texts(&store, origin), ["q1", "a1", "q2", "a2"]);
    assert_eq!(texts(&store, branch), ["q1", "a1", "q3", "a3"]);
    assert_eq!(
        store.conversations().unwrap()[0].id,
        branch,
        "the latest used comes first"
    );

    store.delete_conversation(origin).unwrap();
    assert_eq!(texts(&store, branch), ["q1", "a1", "q3", "a3"]);
    assert!(matches!(
        store.messages(origin),
        Err(StoreError::UnknownConversation(_))
    ));
    store.delete_conversation(branch).unwrap();
    let left: i64 = store
        .read(|db| Ok(db.query_row("SELECT count(*) FROM messages", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(left, 0);
}

#[test]
fn deleting_a_conversation_keeps_what_feedback_rests_on_and_no_more() {
    let (dir, store) = fresh();
    let id = store.create_conversation(Some("a telling title")).unwrap();
    exchange(&store, id, "kept question", "kept answer");
    let (_, judged) = exchange(&store, id, "judged question", "judged answer");
    let (_, unjudged) = exchange(&store, id, "vanishing question", "vanishing answer");
    store.record_feedback(judged, &Feedback::Up).unwrap();
    store.delete_conversation(id).unwrap();

    assert_eq!(store.conversations().unwrap(), []);
    assert!(matches!(
        store.reply(unjudged),
        Err(StoreError::UnknownReply(_))
    ));
    let prompt: Vec<_> = store
        .reply(judged)
        .unwrap()
        .prompt
        .into_iter()
        .map(|message| message.content)
        .collect();
    assert_eq!(prompt, ["kept question", "kept answer", "judged question"]);
    let bytes = all_bytes(dir.path());
    assert!(contains(&bytes, "judged question"));
    assert!(!contains(&bytes, "vanishing") && !contains(&bytes, "telling title"));
}

#[test]
fn unknown_conversations_and_messages_are_refused() {
    let (_dir, store) = fresh();
    let id = ConversationId(7);
    let unknown =
        |result: Result<()>| assert!(matches!(result, Err(StoreError::UnknownConversation(_))));
    unknown(store.messages(id).map(drop));
    unknown(store.append_message(id, &Message::user("q")).map(drop));
    unknown(store.rename_conversation(id, None));
    unknown(store.delete_conversation(id));
    let known = store.create_conversation(None).unwrap();
    let nowhere = MessageId(7);
    assert!(matches!(
        store.rewind_conversation(known, Some(nowhere)),
        Err(StoreError::UnknownMessage(_))
    ));
    assert!(matches!(
        store.branch_conversation(nowhere, None),
        Err(StoreError::UnknownMessage(_))
    ));
    let lost = store.record_reply(reply_to(
        Prompt::Turn {
            conversation: known,
            parent: nowhere,
        },
        "a",
    ));
    assert!(matches!(lost, Err(StoreError::UnknownMessage(_))));
}

pub(super) fn item(store: &Store, question: &str) -> FeedbackId {
    let reply = store
        .record_reply(new_reply(question, &format!("answer to {question}")))
        .unwrap();
    store.record_feedback(reply, &Feedback::Up).unwrap()
}

pub(super) fn new_run(items: &[FeedbackId]) -> NewRun {
    NewRun {
        base_hash: "base".into(),
        config: json!({"beta": 0.1}),
        seed: u64::MAX,
        items: items.to_vec(),
        total_steps: 24,
    }
}

pub(super) fn new_adapter(items: &[FeedbackId], file: &str) -> NewAdapter {
    NewAdapter {
        base_hash: "base".into(),
        run: None,
        config: json!({"r": 8}),
        manifest: json!({"n": items.len()}),
        items: items.to_vec(),
        file: file.into(),
        file_hash: "abc".into(),
        seed: u64::MAX,
    }
}

#[test]
fn a_run_is_found_where_it_stood() {
    let (_dir, store) = fresh();
    let items = [item(&store, "one"), item(&store, "two")];
    let id = store.begin_run(&new_run(&items)).unwrap();
    assert_eq!(store.run(id).unwrap().progress.state, RunState::Running);
    let progress = RunProgress {
        state: RunState::Paused,
        phase: "train".into(),
        step: 8,
        total_steps: 24,
        checkpoint: Some("runs/1/checkpoint".into()),
        outcome: None,
    };
    store.update_run(id, &progress).unwrap();
    let step = |step, loss: f64| RunStep {
        step,
        metrics: json!({"loss": loss}),
    };
    store
        .append_run_steps(id, &[step(1, 0.7), step(2, 0.6)])
        .unwrap();
    // Done again after a resume.
    store
        .append_run_steps(id, &[step(2, 0.65), step(3, 0.1 + 0.2)])
        .unwrap();

    let run = store.run(id).unwrap();
    assert_eq!(
        (run.progress, run.seed, run.config),
        (progress.clone(), u64::MAX, json!({"beta": 0.1}))
    );
    assert_eq!(
        store.run_steps(id).unwrap(),
        [step(1, 0.7), step(2, 0.65), step(3, 0.1 + 0.2)]
    );
    assert_eq!(store.run_items(id).unwrap(), items);
    assert_eq!(store.unfinished_runs().unwrap().len(), 1);
    let finished = RunProgress {
        state: RunState::Finished,
        outcome: Some(json!({"state": "trial"})),
        ..progress
    };
    store.update_run(id, &finished).unwrap();
    assert_eq!(store.unfinished_runs().unwrap(), []);
    assert_eq!(store.runs().unwrap()[0].progress, finished);
    assert!(matches!(
        store.run(crate::types::RunId(9)),
        Err(StoreError::UnknownRun(_))
    ));
}

#[test]
fn an_adapter_is_activated_promoted_and_rolled_back() {
    let (_dir, store) = fresh();
    let items = [item(&store, "one")];
    let serve = |file| {
        let id = store.insert_adapter(&new_adapter(&items, file)).unwrap();
        store
            .set_adapter_gate(id, &json!({"passed": true}), 0.5, AdapterState::Trial)
            .unwrap();
        store.activate("base", Some(id), None, "gate").unwrap();
        id
    };
    assert_eq!(store.active_adapter("base").unwrap(), None);
    let first = serve("1.gguf");
    store
        .set_adapter_state(first, AdapterState::Promoted)
        .unwrap();
    let second = serve("2.gguf");
    let active = store.active_adapter("base").unwrap().unwrap();
    assert_eq!(
        (active.id, active.scale, active.state),
        (second, 0.5, AdapterState::Trial)
    );
    assert_eq!(
        (active.seed, active.gate, active.file),
        (u64::MAX, Some(json!({"passed": true})), "2.gguf".into())
    );
    assert_eq!(store.active_adapter("other base").unwrap(), None);

    assert_eq!(store.roll_back("base", "votes").unwrap(), Some(first));
    assert_eq!(
        store.adapter(second).unwrap().state,
        AdapterState::RolledBack
    );
    assert_eq!(store.roll_back("base", "by hand").unwrap(), None);
    assert_eq!(store.roll_back("base", "by hand").unwrap(), None);
    let history: Vec<_> = store
        .activations("base")
        .unwrap()
        .into_iter()
        .map(|change| change.adapter)
        .collect();
    assert_eq!(history, [Some(first), Some(second), Some(first), None]);
}

#[test]
fn an_adapter_is_put_on_trial_and_served_in_one_step_or_not_at_all() {
    let (_dir, store) = fresh();
    let id = store.insert_adapter(&new_adapter(&[], "1.gguf")).unwrap();
    assert!(matches!(
        store.activate("base", Some(id), None, ""),
        Err(StoreError::NotServable { .. })
    ));
    let wrong_base = store.activate("other", Some(id), Some(AdapterState::Trial), "");
    assert!(matches!(wrong_base, Err(StoreError::OtherBase { .. })));
    assert_eq!(
        store.adapter(id).unwrap().state,
        AdapterState::Candidate,
        "a failure changes nothing"
    );
    store
        .activate("base", Some(id), Some(AdapterState::Trial), "")
        .unwrap();
    assert_eq!(
        store.active_adapter("base").unwrap().unwrap().state,
        AdapterState::Trial
    );
    store.activate("base", None, None, "by hand").unwrap();
    assert_eq!(store.active_adapter("base").unwrap(), None);
    let nobody = AdapterId(9);
    assert!(matches!(
        store.activate("base", Some(nobody), None, ""),
        Err(StoreError::UnknownAdapter(_))
    ));
    assert!(matches!(
        store.set_adapter_state(nobody, AdapterState::Trial),
        Err(StoreError::UnknownAdapter(_))
    ));
}

#[test]
fn votes_and_decisions_come_back_in_order() {
    let (_dir, store) = fresh();
    let adapter = store.insert_adapter(&new_adapter(&[], "1.gguf")).unwrap();
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    let votes = [Outcome::Win, Outcome::Loss, Outcome::Tie].map(|outcome| NewVote {
        adapter,
        candidate_reply: Some(reply),
        baseline_reply: None,
        candidate_first: outcome == Outcome::Win,
        outcome,
    });
    for vote in &votes {
        store.record_vote(vote).unwrap();
    }
    assert_eq!(
        store
            .votes(adapter)
            .unwrap()
            .iter()
            .map(|vote| vote.vote)
            .collect::<Vec<_>>(),
        votes
    );
    let unknown = NewVote {
        adapter: AdapterId(9),
        ..votes[0]
    };
    assert!(matches!(
        store.record_vote(&unknown),
        Err(StoreError::UnknownAdapter(_))
    ));
    let unknown = NewVote {
        baseline_reply: Some(ReplyId(9)),
        ..votes[0]
    };
    assert!(matches!(
        store.record_vote(&unknown),
        Err(StoreError::UnknownReply(_))
    ));

    let decision = NewDecision {
        adapter: Some(adapter),
        run: None,
        kind: "e_process".into(),
        numbers: json!({"e": 41.5}),
    };
    store.record_decision(&decision).unwrap();
    store
        .record_decision(&NewDecision {
            adapter: None,
            ..decision.clone()
        })
        .unwrap();
    assert_eq!(store.decisions(None).unwrap().len(), 2);
    let about: Vec<_> = store
        .decisions(Some(adapter))
        .unwrap()
        .into_iter()
        .map(|row| row.decision)
        .collect();
    assert_eq!(about, [decision]);
}

#[test]
fn caches_models_and_settings_come_back_bit_for_bit() {
    let (_dir, store) = fresh();
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    let logps = [-0.1, f64::MIN_POSITIVE, -1e300, -0.0];
    store
        .put_reference_logps(reply, &[1; 32], "base", &logps)
        .unwrap();
    let bits = |values: &[f64]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        bits(&store.reference_logps(&[1; 32], "base").unwrap().unwrap()),
        bits(&logps)
    );
    assert_eq!(store.reference_logps(&[1; 32], "other").unwrap(), None);
    assert_eq!(store.reference_logps(&[2; 32], "base").unwrap(), None);

    store
        .put_model("base", &json!({"architecture": "llama"}))
        .unwrap();
    assert_eq!(
        store.models().unwrap(),
        [("base".to_string(), json!({"architecture": "llama"}))]
    );
    assert_eq!(store.setting::<PathBuf>("model").unwrap(), None);
    store
        .set_setting("model", &PathBuf::from("m.gguf"))
        .unwrap();
    assert_eq!(
        store.setting("model").unwrap(),
        Some(PathBuf::from("m.gguf"))
    );
    assert!(matches!(
        store.setting::<u32>("model"),
        Err(StoreError::Unreadable { .. })
    ));
}
