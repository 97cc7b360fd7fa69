//! TRL's preference JSONL: what is read, and what is refused and how.
#![allow(clippy::unwrap_used)]

mod recorded;

use std::io::Write;

use thumbprint_tune::data::{
    ChatMessage, DataError, PreferenceReader, PreferenceRow, Problem, Text,
};

fn read(lines: &str) -> Result<Vec<PreferenceRow>, DataError> {
    PreferenceReader::new("pairs.jsonl", lines.as_bytes()).collect()
}

fn one(line: &str) -> PreferenceRow {
    let rows = read(line).unwrap();
    assert_eq!(rows.len(), 1);
    rows.into_iter().next().unwrap()
}

fn plain(s: &str) -> Text {
    Text::Plain(s.to_owned())
}

fn chat(messages: &[(&str, &str)]) -> Text {
    let message = |(role, content): &(&str, &str)| ChatMessage {
        role: (*role).to_owned(),
        content: (*content).to_owned(),
    };
    Text::Chat(messages.iter().map(message).collect())
}

#[test]
fn the_recorded_pairs_are_read_whole() {
    for (file, count) in [("train.jsonl", 64), ("heldout.jsonl", 32)] {
        let rows = PreferenceReader::read_all(recorded::data(file)).unwrap();
        assert_eq!(rows.len(), count, "{file}");
        for row in rows {
            let (Text::Chat(prompt), Text::Chat(chosen), Text::Chat(rejected)) =
                (row.prompt, row.chosen, row.rejected)
            else {
                panic!("{file} is conversational");
            };
            assert_eq!((chosen.len(), rejected.len()), (1, 1));
            assert_eq!(
                (
                    prompt.last().unwrap().role.as_str(),
                    chosen[0].role.as_str()
                ),
                ("user", "assistant")
            );
        }
    }
}

#[test]
fn plain_and_conversational_rows_are_read() {
    let row = one(r#"{"prompt": "Sky?", "chosen": " Blue.", "rejected": " Green."}"#);
    assert_eq!(
        row,
        PreferenceRow {
            prompt: plain("Sky?"),
            chosen: plain(" Blue."),
            rejected: plain(" Green.")
        }
    );
    let row = one(
        r#"{"prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "Sky?"}],
            "chosen": [{"role": "assistant", "content": "Blue."}, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}],
            "rejected": [{"role": "assistant", "content": "Green."}]}"#
            .replace('\n', " ")
            .as_str(),
    );
    assert_eq!(row.prompt, chat(&[("system", ""), ("user", "Sky?")]));
    assert_eq!(
        row.chosen,
        chat(&[
            ("assistant", "Blue."),
            ("user", "Sure?"),
            ("assistant", "Yes.")
        ])
    );
}

#[test]
fn unknown_fields_blank_lines_a_byte_order_mark_and_carriage_returns_do_not_matter() {
    let line = r#"{"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": 9.5, "tools": [], "images": null}"#;
    let rows = read(&format!("\u{feff}{line}\r\n\n  \n{line}")).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], rows[1]);
}

// As `maybe_extract_prompt` and `extract_prompt` of trl/data_utils.py.
#[test]
fn an_implicit_prompt_is_what_both_sides_begin_with() {
    let conversation = |answer: &str| {
        format!(
            r#"[{{"role": "user", "content": "Sky?"}}, {{"role": "assistant", "content": "{answer}"}}]"#
        )
    };
    let sides = format!(
        r#""chosen": {}, "rejected": {}"#,
        conversation("Blue."),
        conversation("Green.")
    );
    let want = PreferenceRow {
        prompt: chat(&[("user", "Sky?")]),
        chosen: chat(&[("assistant", "Blue.")]),
        rejected: chat(&[("assistant", "Green.")]),
    };
    assert_eq!(one(&format!("{{{sides}}}")), want);
    assert_eq!(one(&format!(r#"{{"prompt": null, {sides}}}"#)), want);
    assert_eq!(one(&format!(r#"{{"prompt": "Sky?", {sides}}}"#)), want);

    let row = one(r#"{"chosen": "The sky is blue.", "rejected": "The sky is green."}"#);
    assert_eq!(
        row,
        PreferenceRow {
            prompt: plain("The sky is"),
            chosen: plain(" blue."),
            rejected: plain(" green.")
        }
    );
    let row = one(r#"{"chosen": "Wo? Zürich", "rejected": "Wo? Zäziwil"}"#);
    assert_eq!(
        row,
        PreferenceRow {
            prompt: plain("Wo? Z"),
            chosen: plain("ürich"),
            rejected: plain("äziwil")
        }
    );

    let longer = r#"{"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    assert_eq!(one(longer).chosen, chat(&[("assistant", "b")]));
}

#[test]
fn a_line_that_cannot_be_used_is_refused_with_its_number_and_field_and_without_its_text() {
    let good = r#"{"prompt": "p", "chosen": "c", "rejected": "r"}"#;
    let cases: [(&str, &str); 21] = [
        ("{\"prompt\": \"SECRET", "is not JSON"),
        ("[\"SECRET\"]", "is not JSON: the line is not an object"),
        (
            r#"{"prompt": "SECRET", "chosen": "SECRET"}"#,
            "has no field `rejected`",
        ),
        (
            r#"{"prompt": "SECRET", "rejected": "SECRET"}"#,
            "has no field `chosen`",
        ),
        (
            r#"{"prompt": 3, "chosen": "SECRET", "rejected": "r"}"#,
            "field `prompt` must be a string or a list",
        ),
        (
            r#"{"prompt": "", "chosen": "SECRET", "rejected": "r"}"#,
            "field `prompt` is empty",
        ),
        (
            r#"{"prompt": [], "chosen": [{"role": "assistant", "content": "SECRET"}], "rejected": [{"role": "assistant", "content": "r"}]}"#,
            "field `prompt` is empty",
        ),
        (
            r#"{"prompt": "SECRET", "chosen": "", "rejected": "r"}"#,
            "field `chosen` is empty",
        ),
        (
            r#"{"prompt": "SECRET", "chosen": "c", "rejected": " \n"}"#,
            "field `rejected` is empty",
        ),
        (
            r#"{"prompt": "SECRET", "chosen": "same", "rejected": "same"}"#,
            "are identical",
        ),
        (
            r#"{"chosen": "SECRET", "rejected": "SECRET"}"#,
            "are identical",
        ),
        (
            r#"{"chosen": "SECRET", "rejected": "other"}"#,
            "do not begin alike",
        ),
        (
            r#"{"prompt": "SECRET", "chosen": "c", "rejected": [{"role": "assistant", "content": "r"}]}"#,
            "field `rejected` must be a string, as `chosen` is",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "SECRET"}], "chosen": "c", "rejected": "r"}"#,
            "field `prompt` must be a string, as",
        ),
        (
            r#"{"prompt": "p", "chosen": ["SECRET"], "rejected": []}"#,
            "field `chosen[0]` must be a message",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": null}], "chosen": [], "rejected": []}"#,
            "field `prompt[0].content` must be a string",
        ),
        (
            r#"{"prompt": [{"content": "SECRET"}], "chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]}"#,
            "has no field `prompt[0].role`",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": " "}], "rejected": [{"role": "assistant", "content": "SECRET"}]}"#,
            "field `chosen` is empty",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": "c"}, {"role": "user", "content": "SECRET"}], "rejected": [{"role": "assistant", "content": "r"}]}"#,
            "field `chosen` must end with an assistant message",
        ),
        (
            r#"{"prompt": "p", "chosen": "SECRET", "rejected": "r", "tools": [{"name": "SECRET"}]}"#,
            "field `tools` is not supported",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": "", "tool_calls": [1]}], "rejected": [{"role": "assistant", "content": "r"}]}"#,
            "field `chosen[0].tool_calls` is not supported",
        ),
    ];
    for (line, says) in cases {
        let error = read(&format!("{good}\n\n{line}\n{good}"))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("pairs.jsonl, line 3: "), "{error}");
        assert!(error.contains(says), "`{error}` does not say `{says}`");
        assert!(!error.contains("SECRET"), "{error}");
    }
}

#[test]
fn bytes_that_are_not_utf_8_are_refused_with_their_line() {
    let bytes = b"{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n{\"prompt\": \"\xff\xfe\"}\n";
    let mut reader = PreferenceReader::new("pairs.jsonl", bytes.as_slice());
    assert!(reader.next().unwrap().is_ok());
    let error = reader.next().unwrap().unwrap_err();
    assert!(matches!((error.line, error.problem), (2, Problem::Json(_))));
    assert!(reader.next().is_none(), "nothing is read after an error");
}

#[test]
fn missing_and_empty_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("absent.jsonl");
    let error = PreferenceReader::read_all(&missing).unwrap_err();
    assert!(matches!(error.problem, Problem::Io(_)) && error.path == missing);

    let empty = folder.path().join("empty.jsonl");
    std::fs::File::create(&empty)
        .unwrap()
        .write_all(b"\n\n")
        .unwrap();
    let error = PreferenceReader::read_all(&empty).unwrap_err();
    assert!(matches!(error.problem, Problem::NoRows), "{error}");
}
