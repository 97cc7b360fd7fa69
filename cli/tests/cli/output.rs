//! What every command has in common: exit codes, errors, pipes, colour.

use std::process::Stdio;

use crate::harness::{Folder, Run, score, thumbprint};

#[test]
fn help_and_version_succeed_and_wrong_usage_is_exit_code_2() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["train", "--help"],
        &["help", "score"],
    ] {
        let run = Run::of(thumbprint().args(arguments)).ok();
        assert!(!run.stdout.is_empty() && run.stderr.is_empty());
    }
    for arguments in [
        &[][..],
        &["nonsense"],
        &["train"],
        &["score", "--data"],
        &["doctor", "--nonsense"],
    ] {
        assert_eq!(
            Run::of(thumbprint().args(arguments)).code,
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn with_json_an_error_is_also_an_object_of_one_line() {
    let folder = Folder::new();
    let data = folder.pairs();
    let run = Run::of(score(&folder.path("absent.gguf"), &data).arg("--json"))
        .failed(1, &["absent.gguf"]);
    let object = run.object();
    let message = object["error"].as_str().unwrap();
    assert_eq!(run.stderr, format!("error: {message}\n"));

    let usage = Run::of(thumbprint().args(["--json", "train", "--nonsense"]));
    assert_eq!(usage.code, Some(2));
    assert!(
        usage.object()["error"]
            .as_str()
            .unwrap()
            .contains("--nonsense")
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let folder = Folder::new();
    let mut command = score(&folder.tiny(), &folder.pairs());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn what_is_not_a_terminal_gets_no_colour() {
    let folder = Folder::new();
    let model = folder.tiny();
    let run = Run::of(thumbprint().arg("doctor").arg("--model").arg(&model)).ok();
    assert!(!run.stdout.contains('\x1b'));
    let run =
        Run::of(&mut score(&model, &folder.path("absent.jsonl"))).failed(1, &["absent.jsonl"]);
    assert!(!run.stderr.contains('\x1b'));
}
