//! Feedback in and out of files: every format, nothing half taken in, and a round trip that keeps every character.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use thumbprint::exchange::{Exported, Filters, Format, Imported, Passed, Reader, Said};
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

fn ranking(prompt: &[Message], answers: &[&str]) -> Said {
    Said::Ranked {
        prompt: prompt.to_vec(),
        answers: answers.iter().map(|text| (*text).to_owned()).collect(),
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

fn export_counting(thumbprint: &Thumbprint, format: Format) -> (String, Exported) {
    let mut out = Vec::new();
    let exported = thumbprint.export_feedback(format, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count() as u64, exported.lines);
    (text, exported)
}

fn export(thumbprint: &Thumbprint, format: Format) -> String {
    export_counting(thumbprint, format).0
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
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
            vec![ranking(&why, &["So.", "Hm.", "No."])],
        ),
        (
            r#"{"instruction": "Why?", "completions": [{"response": "No.", "overall_score": 3}, {"response": "So.", "overall_score": 8}, {"response": "Hm.", "overall_score": 8}, {"response": " ", "overall_score": 1}]}"#,
            Format::UltraFeedback,
            // Two were rated alike, so that there is no order of all.
            vec![pick(&why, "So.", "No."), pick(&why, "Hm.", "No.")],
        ),
        (
            r#"{"prompt": "Why?", "ranked": ["So.", "Hm.", "No."]}"#,
            Format::Ranking,
            vec![ranking(&why, &["So.", "Hm.", "No."])],
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "Why?"}], "ranked": [[{"role": "assistant", "content": "So."}], [{"role": "assistant", "content": "No."}]]}"#,
            Format::Ranking,
            vec![pick(&why, "So.", "No.")],
        ),
        (
            r#"{"message_tree_id": "x", "prompt": {"text": "Why?", "role": "prompter", "replies": [{"text": "No.", "role": "assistant", "rank": 1}, {"text": "So.", "role": "assistant", "rank": 0, "replies": [{"text": "And?", "role": "prompter", "replies": [{"text": "1", "role": "assistant", "rank": 1}, {"text": "2", "role": "assistant", "rank": 0}, {"text": "3", "role": "assistant", "rank": 2}]}]}]}}"#,
            Format::Oasst,
            vec![
                pick(&why, "So.", "No."),
                ranking(&[u("Why?"), a("So."), u("And?")], &["2", "1", "3"]),
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
        (
            r#"{"prompt": "Why?", "completion": ["So."], "label": true}"#,
            "completion[0]",
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

    let good = r#"{"prompt": "Why?", "ranked": ["So.", "No."]}"#;
    for (bad, words) in [
        (r#"{"prompt": "Why?", "ranked": ["So."]}"#, "two answers"),
        (
            r#"{"prompt": "Why?", "ranked": "So."}"#,
            "a list of answers",
        ),
        (r#"{"prompt": "Why?", "ranked": ["So.", 3]}"#, "ranked[1]"),
        (r#"{"prompt": "Why?", "ranked": ["So.", ""]}"#, "ranked[1]"),
        (r#"{"ranked": ["So.", "No."]}"#, "no field `prompt`"),
        (
            r#"{"prompt": "Why?", "ranked": ["So.", [{"role": "assistant", "content": "No."}]]}"#,
            "a string, as `prompt` is",
        ),
    ] {
        let text = format!("{good}\n{bad}\n");
        let mut lines = reader(&text, None, Filters::default());
        let error = thumbprint.import(&mut lines).unwrap_err().to_string();
        assert!(error.starts_with("said.jsonl, line 2: "), "{error}");
        assert!(error.contains(words), "{error}");
        assert_eq!(thumbprint.readiness().unwrap().have.events, 1, "{bad}");
    }
}

#[test]
fn a_ranking_that_is_taken_in_again_is_known_and_another_order_is_not() {
    let folder = Folder::new();
    let thumbprint = folder.open();
    let line =
        |ranked: &[&str]| serde_json::json!({ "prompt": "Why?", "ranked": ranked }).to_string();
    let first = line(&["So.", "Hm.", "No."]);
    let imported = import(&thumbprint, &first);
    assert_eq!((imported.recorded, imported.known), (1, 0));
    let imported = import(&thumbprint, &first);
    assert_eq!((imported.recorded, imported.known), (0, 1));
    let imported = import(&thumbprint, &line(&["So.", "No.", "Hm."]));
    assert_eq!((imported.recorded, imported.known), (1, 0));
    // The later one counts, and replies of the same words are the same replies.
    let log = thumbprint.store().effective_feedback().unwrap();
    let [event] = log.as_slice() else { panic!() };
    assert!(matches!(&event.feedback, Feedback::Rank { over } if over.len() == 2));
    assert_eq!(event.ranked[0].text, "No.");
    assert_eq!(
        thumbprint
            .store()
            .replies_to_same_prompt(event.reply.id)
            .unwrap()
            .len(),
        3
    );
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
    assert_eq!(export(&thumbprint, Format::Preference).lines().count(), 3);
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
        ..Filters::default()
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
fn each_filter_passes_over_what_it_names() {
    let row = |prompt: &str, chosen: &str| {
        serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": "Something else." })
            .to_string()
    };
    let story = "The cat sleeps on the old mat all afternoon while the rain falls on the garden and the dog waits at the door.";
    let lines = [
        row("Tell me a story.", story),
        row("Tell me a story.", &story.replace("cat", "hen")),
        row(
            "And the capital of France?",
            "It is Paris, on the river Seine.",
        ),
        row(
            "What do you think?",
            "As an AI language model, I have no view.",
        ),
        row(
            "Who wrote it?",
            "I think that it was Jane. I hope this helps!",
        ),
        row("Short?", "Yes."),
        row("Link?", "See https://example.org for more about it."),
    ];
    let text = lines.join("\n");
    let passed = |filters: Filters| -> Vec<(Passed, u64)> {
        let mut filtered = reader(&text, None, filters);
        let n = filtered.by_ref().map(Result::unwrap).count() as u64;
        let passed: Vec<_> = filtered.counts().passed.clone().into_iter().collect();
        assert_eq!(n + passed.iter().map(|(_, n)| n).sum::<u64>(), 7);
        passed
    };
    let all = Filters::default;
    assert_eq!(passed(all()), []);
    let near = |similarity| Filters {
        near_duplicates: Some(similarity),
        ..all()
    };
    assert_eq!(passed(near(0.75)), [(Passed::NearDuplicate, 1)]);
    assert_eq!(passed(near(1.0)), []);
    assert_eq!(
        passed(Filters {
            boilerplate: true,
            ..all()
        }),
        [(Passed::Boilerplate, 2)]
    );
    assert_eq!(
        passed(Filters {
            min_chars: Some(10),
            ..all()
        }),
        [(Passed::TooShort, 1)]
    );
    let patterns = vec![
        r"https?://\S+".parse().unwrap(),
        "(?i)JANE".parse().unwrap(),
    ];
    assert_eq!(
        passed(Filters { patterns, ..all() }),
        [(Passed::Pattern, 2)]
    );
    assert!("(".parse::<thumbprint::exchange::Pattern>().is_err());
}

/// Each format with what it can hold of a log in which there is everything.
#[test]
fn every_format_says_what_it_can_and_counts_what_it_cannot() {
    let folder = Folder::new();
    let thumbprint = folder.open();
    let (u, a, system) = (Message::user, Message::assistant, Message::system);
    let say = |prompt: &[Message], text: &str, feedback: &Feedback| {
        thumbprint.record_external(prompt, text, feedback).unwrap();
    };
    let chat = [u("你好"), a("Ja?\n\nUnd?"), u("Why?")];
    say(&[u("Liked?")], "Da.", &Feedback::Up);
    say(
        &[u("Disliked?")],
        "Niet.",
        &Feedback::Down { reasons: vec![] },
    );
    say(
        &[system("Be brief."), u("Edit?")],
        "A long one.",
        &Feedback::Edit("Kurz.".into()),
    );
    let lines = [
        serde_json::json!({ "prompt": chat, "ranked": [[a("Eins.")], [a("Zwei.")], [a("Drei.")]] }),
        serde_json::json!({ "prompt": [u("One turn?")], "ranked": [[a("\u{1f642}.")], [a("B.")], [a("C.")], [a("D.")]] }),
        // A transcript cannot tell this from another turn.
        serde_json::json!({ "prompt": [u("Tricky?")], "chosen": [a("Yes.\n\nHuman: no.")], "rejected": [a("No.")] }),
    ];
    for line in lines {
        import(&thumbprint, &line.to_string());
    }
    let said_by = |format| {
        let (text, exported) = export_counting(&thumbprint, format);
        let read: Vec<Said> = reader(&text, Some(format), Filters::default())
            .map(Result::unwrap)
            .collect();
        (read, exported)
    };
    let (three, four) = (
        ranking(&chat, &["Eins.", "Zwei.", "Drei."]),
        ranking(&[u("One turn?")], &["\u{1f642}.", "B.", "C.", "D."]),
    );
    let edit = pick(&[system("Be brief."), u("Edit?")], "Kurz.", "A long one.");
    let tricky = pick(&[u("Tricky?")], "Yes.\n\nHuman: no.", "No.");
    let pairs_of = |said: &Said| -> Vec<Said> {
        let answers = said.answers();
        let better = answers.iter().enumerate();
        better
            .flat_map(|(i, better)| answers[i + 1..].iter().map(move |worse| (better, worse)))
            .map(|(better, worse)| pick(said.prompt(), better, worse))
            .collect()
    };
    let all_pairs = [pairs_of(&three), pairs_of(&four)].concat();
    let liked = judged(&[u("Liked?")], "Da.", true);
    let expected: [(Format, Vec<Said>, u64); 7] = [
        // Two thumbs have no pair.
        (
            Format::Preference,
            [&all_pairs[..], &[edit.clone(), tricky.clone()]].concat(),
            2,
        ),
        (
            Format::ShareGpt,
            [
                &all_pairs[..],
                &[edit.clone(), tricky.clone(), liked.clone()],
            ]
            .concat(),
            1,
        ),
        // And a transcript no system message.
        (Format::HhRlhf, all_pairs.clone(), 4),
        (
            Format::Ranking,
            vec![three.clone(), four.clone(), edit.clone(), tricky.clone()],
            2,
        ),
        // One question, and nothing before it.
        (Format::UltraFeedback, vec![four.clone(), tricky.clone()], 4),
        (
            Format::Nectar,
            vec![three.clone(), four.clone(), tricky.clone()],
            3,
        ),
        (
            Format::Oasst,
            vec![three.clone(), four.clone(), tricky.clone()],
            3,
        ),
    ];
    let key = |said: &Said| format!("{said:?}");
    for (format, mut expected, left_out) in expected {
        let (mut read, exported) = said_by(format);
        read.sort_by_key(key);
        expected.sort_by_key(key);
        assert_eq!(read, expected, "{}", format.name());
        assert_eq!(exported.left_out, left_out, "{}", format.name());
    }
    let (read, exported) = said_by(Format::Unpaired);
    // Two thumbs, two of the edit, the ends of two rankings, two of a pick.
    assert_eq!((read.len(), exported.left_out), (10, 0));
    assert!(
        read.contains(&judged(&chat, "Drei.", false))
            && !read.contains(&judged(&chat, "Zwei.", false))
    );

    // The log of a copy that was taken in says the same again.
    for format in Format::ALL {
        let exported = export(&thumbprint, format);
        let other = Folder::new();
        let copy = other.open();
        import(&copy, &exported);
        assert_eq!(
            sorted(&export(&copy, format)),
            sorted(&exported),
            "{}",
            format.name()
        );
    }
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

    let pairs = export(&thumbprint, Format::Preference);
    let thumbs = export(&thumbprint, Format::Unpaired);
    assert_eq!((pairs.lines().count(), thumbs.lines().count()), (2, 4));
    for (format, exported) in [(Format::Preference, pairs), (Format::Unpaired, thumbs)] {
        let other = Folder::new();
        let copy = other.open();
        import(&copy, &exported);
        let again = export(&copy, format);
        assert_eq!(sorted(&again), sorted(&exported), "{format:?}");
        assert!(exported.contains("为什么天是蓝的？"));
    }
}
