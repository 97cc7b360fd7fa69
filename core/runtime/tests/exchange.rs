//! Feedback in and out of files: every format, nothing half taken in, and a round trip that keeps every character.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use thumbprint::exchange::{ExportFormat, Filters, Format, Imported, Passed, Reader, Said};
use thumbprint::{Feedback, Message, Options, Thumbprint};
use thumbprint_tune::data::JsonLines;

fn reader(text: &str, format: Option<Format>, filters: Filters) -> Reader<Cursor<Vec<u8>>> {
    let lines = JsonLines::new("said.jsonl", Cursor::new(text.as_bytes().to_vec()));
    Reader::of_lines(lines, format, filters)
}

fn said(text: &str) -> Vec<Said> {
    reader(text, None, Filters::default())
        .map(Result::unwrap)
        .collect()
}

fn pick(prompt: &[Message], better: &str, worse: &str) -> Said {
    Said::Preferred {
        prompt: prompt.to_vec(),
        better: better.into(),
        worse: worse.into(),
    }
}

fn judged(prompt: &[Message], completion: &str, liked: bool) -> Said {
    Said::Judged {
        prompt: prompt.to_vec(),
        completion: completion.into(),
        liked,
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Thumbprint {
        Thumbprint::open(Options::new(self.0.path())).unwrap()
    }
}

fn import(thumbprint: &Thumbprint, text: &str) -> Imported {
    thumbprint
        .import(&mut reader(text, None, Filters::default()))
        .unwrap()
}

fn export(thumbprint: &Thumbprint, format: ExportFormat) -> String {
    let mut out = Vec::new();
    let n = thumbprint.export_feedback(format, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count() as u64, n);
    text
}

#[test]
fn every_format_is_known_by_its_fields_and_says_what_it_means() {
    let (u, a) = (Message::user, Message::assistant);
    let why = [u("Why?")];
    let cases = [
        (
            r#"{"prompt": "Why?", "chosen": "So.", "rejected": "No."}"#,
            Format::Preference,
            vec![pick(&why, "So.", "No.")],
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "Why?"}], "chosen": [{"role": "assistant", "content": "So."}], "rejected": [{"role": "assistant", "content": "No."}]}"#,
            Format::Preference,
            vec![pick(&why, "So.", "No.")],
        ),
        (
            r#"{"prompt": "Why?", "completion": "So.", "label": false}"#,
            Format::Unpaired,
            vec![judged(&why, "So.", false)],
        ),
        (
            r#"{"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}"#,
            Format::ShareGpt,
            vec![judged(
                &[Message::system("Be brief."), u("Why?")],
                "So.",
                true,
            )],
        ),
        (
            r#"{"conversations": [{"from": "human", "value": "Why?"}], "chosen": {"from": "gpt", "value": "So."}, "rejected": {"from": "gpt", "value": "No."}}"#,
            Format::ShareGpt,
            vec![pick(&why, "So.", "No.")],
        ),
        (
            r#"{"chosen": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHow are you?\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHow are you?\n\nHuman: Why?\n\nAssistant: No."}"#,
            Format::HhRlhf,
            vec![pick(
                &[u("Hi."), a("Hello.\n\nHow are you?"), u("Why?")],
                "So.",
                "No.",
            )],
        ),
        (
            r#"{"instruction": "Why?", "completions": [{"response": "No.", "overall_score": 3.5}, {"response": "So.", "overall_score": 8}, {"response": "Unrated.", "overall_score": null}]}"#,
            Format::UltraFeedback,
            vec![pick(&why, "So.", "No.")],
        ),
        (
            r#"{"prompt": "\n\nHuman: Why?\n\nAssistant: ", "answers": [{"answer": "No.", "rank": 3}, {"answer": "So.", "rank": 1}, {"answer": "Hm.", "rank": 2}]}"#,
            Format::Nectar,
            vec![
                pick(&why, "So.", "Hm."),
                pick(&why, "So.", "No."),
                pick(&why, "Hm.", "No."),
            ],
        ),
        (
            r#"{"message_tree_id": "x", "prompt": {"text": "Why?", "role": "prompter", "replies": [{"text": "No.", "role": "assistant", "rank": 1}, {"text": "So.", "role": "assistant", "rank": 0, "replies": [{"text": "And?", "role": "prompter", "replies": [{"text": "1", "role": "assistant", "rank": 1}, {"text": "2", "role": "assistant", "rank": 0}]}]}]}}"#,
            Format::Oasst,
            vec![
                pick(&why, "So.", "No."),
                pick(&[u("Why?"), a("So."), u("And?")], "2", "1"),
            ],
        ),
    ];
    for (line, format, expected) in cases {
        let fields: serde_json::Value = serde_json::from_str(line).unwrap();
        let found = Format::of_line(fields.as_object().unwrap());
        assert_eq!(found, Some(format), "{line}");
        assert_eq!(format.name().parse(), Ok(format));
        assert_eq!(said(line), expected, "{line}");
    }
}

#[test]
fn a_broken_line_is_named_and_nothing_is_taken_in() {
    let folder = Folder::new();
    let thumbprint = folder.open();
    let good = r#"{"prompt": "Why?", "completion": "So.", "label": true}"#;
    for (bad, words) in [
        (
            r#"{"prompt": "Why?", "completion": "So."}"#,
            "no field `label`",
        ),
        (
            r#"{"prompt": "Why?", "completion": "So.", "label": "yes"}"#,
            "true or false",
        ),
        (r#"{"prompt": "Why?", "completion": "#, "not JSON"),
        (r#"["Why?"]"#, "not an object"),
        (
            r#"{"prompt": [{"role": "wizard", "content": "Why?"}], "completion": "So.", "label": true}"#,
            "prompt[0].role",
        ),
        (
            r#"{"prompt": "Why?", "completion": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}], "label": true}"#,
            "several turns",
        ),
    ] {
        let text = format!("{good}\n\n{bad}\n");
        let error = thumbprint
            .import(&mut reader(&text, None, Filters::default()))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("said.jsonl, line 3: "), "{error}");
        assert!(error.contains(words), "{error}");
        assert_eq!(thumbprint.readiness().unwrap().have.events, 0, "{bad}");
    }
    let error = thumbprint
        .import(&mut reader(
            r#"{"question": "Why?"}"#,
            None,
            Filters::default(),
        ))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no known format: name one of preference")
    );
    assert_eq!(import(&thumbprint, good).recorded, 1);
}

#[test]
fn a_file_that_is_taken_in_twice_counts_once() {
    let folder = Folder::new();
    let thumbprint = folder.open();
    let text = r#"{"prompt": "Why?", "chosen": "So.", "rejected": "No."}
{"prompt": "Why?", "chosen": "So.", "rejected": "Hm."}
{"prompt": "When?", "chosen": "So.", "rejected": "No."}"#;
    let first = import(&thumbprint, text);
    assert_eq!((first.rows, first.recorded, first.known), (3, 3, 0));
    let second = import(&thumbprint, text);
    assert_eq!((second.rows, second.recorded, second.known), (3, 0, 3));
    // A reply in two rows is one reply.
    assert_eq!(
        export(&thumbprint, ExportFormat::Preference)
            .lines()
            .count(),
        3
    );
}

#[test]
fn what_says_nothing_is_passed_over_and_counted() {
    let row = |prompt: &str, chosen: &str, rejected: &str| {
        serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }).to_string()
    };
    let lines = [
        row("Why?", "So.", "No."),
        row("why", "SO!", "no"),
        row("Why?", "Same.", "Same."),
        row(
            "Why?",
            "I\u{2019}m sorry, but I can\u{2019}t help with that.",
            "So.",
        ),
        row("Why?", &"long ".repeat(40), "So."),
    ];
    let filters = Filters {
        max_chars: Some(100),
        refusals: true,
        duplicates: true,
    };
    let text = lines.join("\n");
    let mut filtered = reader(&text, None, filters);
    assert_eq!(filtered.by_ref().map(Result::unwrap).count(), 1);
    let passed = &filtered.counts().passed;
    for why in [
        Passed::Duplicate,
        Passed::Tie,
        Passed::Refusal,
        Passed::TooLong,
    ] {
        assert_eq!(passed.get(&why), Some(&1), "{passed:?}");
    }
    let mut all = reader(&text, None, Filters::default());
    assert_eq!(
        all.by_ref().map(Result::unwrap).count(),
        4,
        "without filters only the tie goes"
    );
    let diverged =
        r#"{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}"#;
    let mut diverged = reader(diverged, None, Filters::default());
    assert!(diverged.next().is_none());
    assert_eq!(diverged.counts().passed.get(&Passed::OtherPrompt), Some(&1));
}

#[test]
fn a_round_trip_keeps_every_turn_and_every_character() {
    let turns = [
        Message::system("Antworte kurz. \u{1F1E8}\u{1F1ED}"),
        Message::user("为什么天是蓝的？\n\tZweite Zeile mit \"Anführung\" und \\."),
        Message::assistant("نعم، بسبب التشتت."),
        Message::user("e\u{301} \u{200d} \u{0000} ok?"),
    ];
    let folder = Folder::new();
    let thumbprint = folder.open();
    thumbprint
        .record_external(&turns, "Curto e direto: é o espalhamento.", &Feedback::Up)
        .unwrap();
    let long = Feedback::Down {
        reasons: vec!["too long".into()],
    };
    thumbprint
        .record_external(&turns, "Очень долгий ответ.\n\n\u{1F642}", &long)
        .unwrap();
    let edit = Feedback::Edit("Besser so.".into());
    thumbprint
        .record_external(&[Message::user("Und?")], "So lala.", &edit)
        .unwrap();

    let pairs = export(&thumbprint, ExportFormat::Preference);
    let thumbs = export(&thumbprint, ExportFormat::Unpaired);
    assert_eq!((pairs.lines().count(), thumbs.lines().count()), (2, 4));
    for (format, exported) in [
        (ExportFormat::Preference, pairs),
        (ExportFormat::Unpaired, thumbs),
    ] {
        let other = Folder::new();
        let copy = other.open();
        import(&copy, &exported);
        let again = export(&copy, format);
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&again), sorted(&exported), "{format:?}");
        assert!(exported.contains("为什么天是蓝的？"));
    }
}
