//! The commands over an app's data folder: what they record, what they refuse, and that nothing is lost.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use thumbprint::{Feedback, Message, Options, Thumbprint};

use crate::harness::{Folder, Run, thumbprint};

fn command(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = thumbprint();
    command
        .args(arguments)
        .arg("--data-dir")
        .arg(folder.path("data"));
    command
}

fn run(folder: &Folder, arguments: &[&str]) -> Run {
    Run::of(&mut command(folder, arguments))
}

fn send(folder: &Folder, model: &Path, message: &str) -> Command {
    let mut command = command(
        folder,
        &[
            "send",
            "--max-tokens",
            "8",
            "--seed",
            "1",
            "--json",
            message,
        ],
    );
    command.arg("--model").arg(model);
    command
}

#[test]
fn a_reply_is_sent_judged_changed_and_forgotten() {
    let folder = Folder::new();
    let model = folder.tiny();
    let reply = Run::of(&mut send(&folder, &model, "Hello")).ok().object();
    let id = reply["id"].to_string();
    assert_eq!(
        (&reply["seed"], &reply["adapter"]),
        (&1.into(), &serde_json::Value::Null)
    );

    // None of these has a model.
    for what in [
        &["up"][..],
        &["down", "too long"],
        &["edit", "Hi."],
        &["retry"],
        &["withdraw"],
    ] {
        run(&folder, &[&["feedback", &id], what].concat()).ok();
    }
    run(&folder, &["feedback", &id, "withdraw"]).failed(1, &["no feedback on reply"]);
    run(&folder, &["feedback", &id, "prefer", "--over", &id]).failed(1, &["over itself"]);
    run(&folder, &["feedback", &id, "edit", " "]).failed(1, &["the edit is empty"]);
    run(&folder, &["forget", "reply", &id]).ok();
    run(&folder, &["feedback", &id, "up"]).failed(1, &[&format!("no reply {id}")]);
    run(&folder, &["forget", "everything"]).failed(2, &["--yes"]);
    run(&folder, &["forget", "everything", "--yes"]).ok();
}

#[test]
fn a_streamed_reply_is_its_pieces() {
    let folder = Folder::new();
    let model = folder.tiny();
    let objects = Run::of(send(&folder, &model, "Hello").arg("--stream"))
        .ok()
        .objects();
    let (reply, pieces) = objects.split_last().unwrap();
    let text: String = pieces
        .iter()
        .map(|piece| piece["token"].as_str().unwrap())
        .collect();
    assert_eq!(reply["text"], text.as_str());
}

#[test]
fn bad_prompts_and_unknown_things_are_named() {
    let folder = Folder::new();
    let model = folder.tiny();
    Run::of(&mut send(&folder, &model, "  ")).failed(1, &["the prompt is empty"]);
    Run::of(&mut send(&folder, &model, &"word ".repeat(3000)))
        .failed(1, &["the context holds", "shorten"]);
    Run::of(send(&folder, &model, "Hello").args(["--conversation", "7"]))
        .failed(1, &["no conversation 7"]);
    run(&folder, &["feedback", "77", "up"]).failed(1, &["no reply 77"]);
    run(&folder, &["adapters", "show", "7"]).failed(1, &["no adapter 7"]);
    run(&folder, &["forget", "feedback", "7"]).failed(1, &["no feedback 7"]);
    let mut rollback = command(&folder, &["adapters", "rollback"]);
    Run::of(rollback.arg("--model").arg(&model)).failed(1, &["no adapter is active"]);
}

#[test]
fn too_little_feedback_is_nothing_to_learn() {
    let folder = Folder::new();
    let mut command = command(&folder, &["personalize", "--json"]);
    let run = Run::of(command.arg("--model").arg(folder.tiny()))
        .failed(3, &["not enough feedback yet: 0 of 10"]);
    let outcome = run
        .objects()
        .into_iter()
        .find(|object| object.get("outcome").is_some())
        .unwrap();
    assert_eq!(
        (&outcome["outcome"], &outcome["need"]["events"]),
        (&"nothing_to_learn".into(), &10.into())
    );
}

#[test]
fn a_log_is_learned_from_with_progress_and_the_adapter_is_exported_and_scores() {
    let folder = Folder::new();
    let model = folder.tiny();
    {
        let tp = Thumbprint::open(Options::new(folder.path("data"))).unwrap();
        for i in 0..12 {
            let (text, feedback) = match i % 2 {
                0 => ("Yes.", Feedback::Up),
                _ => ("It depends.", Feedback::Down { reasons: vec![] }),
            };
            let prompt = [Message::user(format!("Is it number {i}?"))];
            tp.record_external(&prompt, text, &feedback).unwrap();
        }
    }
    let mut learn = command(&folder, &["personalize", "--json", "--threads", "1"]);
    learn.arg("--recipe").arg(folder.small_recipe());
    let learned = Run::of(learn.arg("--model").arg(&model));
    let objects = learned.objects();
    for phase in ["reference", "train", "gate"] {
        assert!(objects.iter().any(|object| object["phase"] == phase));
    }
    // Of twelve thumbs a held-out ranking could tell next to nothing.
    assert!(objects.iter().all(|object| object["phase"] != "fold"));
    let outcome = objects.last().unwrap();
    let code = match outcome["outcome"].as_str().unwrap() {
        "trial" => 0,
        "rejected" => 3,
        other => panic!("{other}"),
    };
    assert_eq!(learned.code, Some(code), "{}", learned.stderr);

    let id = outcome["adapter"].to_string();
    let adapter = folder.path("mine.gguf");
    let mut export = command(&folder, &["adapters", "export", &id]);
    Run::of(export.arg(&adapter)).ok();
    let mut score = crate::harness::score(&model, &folder.pairs());
    Run::of(score.arg("--adapter").arg(&adapter).arg("--json")).ok();
}

#[test]
fn a_second_process_is_told_who_has_the_folder() {
    let folder = Folder::new();
    let holder = Thumbprint::open(Options::new(folder.path("data"))).unwrap();
    let prompt = [Message::user("Hello")];
    holder
        .record_external(&prompt, "Hi.", &Feedback::Up)
        .unwrap();
    let pid = std::process::id().to_string();
    run(&folder, &["feedback", "1", "up"]).failed(1, &["in use by another process", &pid]);
    holder.suspend().unwrap();
    run(&folder, &["feedback", "1", "down"]).ok();
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_untouched() {
    let folder = Folder::new();
    run(&folder, &["adapters", "list"]).ok();
    let path = folder.path("data/thumbprint.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60..64].copy_from_slice(&99u32.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    run(&folder, &["adapters", "list"]).failed(1, &["newer version 99", "update"]);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_data_folder_where_none_can_be_is_named() {
    let folder = Folder::new();
    folder.file("data", "a file in its place");
    run(&folder, &["adapters", "list"]).failed(1, &["cannot use the data folder"]);
}

#[test]
fn a_chat_from_a_pipe_goes_on_after_mistakes_and_is_stored() {
    let folder = Folder::new();
    let mut chat = command(
        &folder,
        &["chat", "--json", "--max-tokens", "6", "--seed", "1"],
    );
    let script = "/up\nHello\n/up\n/retry\n/edit\nTwo\nlines\n.\n/nonsense\nAnd now?\n/down too long\n/stats\n/quit\nnever\n";
    let mut child = chat
        .arg("--model")
        .arg(folder.tiny())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let objects = Run::from(child.wait_with_output().unwrap()).ok().objects();
    let with = |key: &str| {
        objects
            .iter()
            .filter(|object| object.get(key).is_some())
            .count()
    };
    // Replies to "Hello", to /retry and to "And now?"; feedback by /up, /edit and /down.
    assert_eq!(
        (with("text"), with("feedback"), with("error")),
        (3, 3, 2),
        "{objects:?}"
    );

    let stored = Thumbprint::open(Options::new(folder.path("data"))).unwrap();
    let messages = stored
        .conversation(Some(thumbprint::ConversationId(1)))
        .unwrap()
        .messages()
        .unwrap();
    let contents: Vec<_> = messages
        .iter()
        .map(|m| m.message.content.as_str())
        .take(3)
        .collect();
    assert_eq!(contents, ["Hello", "Two\nlines", "And now?"]);
}

#[test]
fn feedback_goes_out_and_comes_in_again() {
    let folder = Folder::new();
    let data = folder.pairs();
    let out = folder.path("out.jsonl");
    let imported = run(&folder, &["import", data.to_str().unwrap(), "--json"]);
    let imported = imported.ok().object();
    assert_eq!(
        (&imported["rows"], &imported["recorded"]),
        (&8.into(), &8.into())
    );
    let exported = ["export", out.to_str().unwrap(), "--json"];
    assert_eq!(run(&folder, &exported).ok().object()["lines"], 8);
    let again = run(&folder, &["import", out.to_str().unwrap()]).ok();
    assert!(again.stdout.contains("recorded 0 events") && again.stdout.contains("8 were known"));

    let broken = folder.file(
        "broken.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": true}\n{}\n",
    );
    run(&folder, &["import", broken.to_str().unwrap()])
        .failed(1, &["broken.jsonl", "line 2", "no field `prompt`"]);
    let nowhere = folder.path("no/such/folder.jsonl");
    run(&folder, &["export", nowhere.to_str().unwrap()]).failed(1, &["folder.jsonl"]);
}
