//! The head and multiple choice on the demo model, whose words mean something.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use thumbprint::arena::Contestant;
use thumbprint::engine::Canceller;
use thumbprint::evaluate::{choices, comparisons};
use thumbprint::reward::HeadOptions;
use thumbprint::{Feedback, Judge, Options, Thumbprint};
use thumbprint_fixtures::{demo_model_path, golden_data};

/// Pairs that the head is fitted on, and that it is asked about.
const FITTED: usize = 12;
const ASKED: usize = 10;

#[test]
fn a_head_fitted_on_a_dozen_pairs_knows_the_better_reply_to_prompts_it_has_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path()).model(demo_model_path());
    let tp = Thumbprint::open(options).unwrap();
    let pairs = comparisons::read(&golden_data("train.jsonl")).unwrap();
    for pair in &pairs[..FITTED] {
        let down = Feedback::Down { reasons: vec![] };
        for (text, feedback) in [(&pair.chosen, Feedback::Up), (&pair.rejected, down)] {
            tp.record_external(&pair.prompt, text, &feedback).unwrap();
        }
    }
    let head = tp
        .fit_head(&HeadOptions::default(), &Canceller::default())
        .unwrap();
    println!("l2 {}, {:?}", head.l2, head.cross_validated);
    assert_eq!((head.pairs, head.weights.len()), (FITTED, 2 * 576 + 2));
    let unseen = &comparisons::read(&golden_data("heldout.jsonl")).unwrap()[..ASKED];
    let report = tp
        .evaluate_reward(unseen, Judge::Head, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    println!("{report:?}");
    // People's short answers against the model's own long ones: observed 10 of 10.
    assert!(report.all.right >= 8.0 && report.seen == 0);
}

#[test]
fn easy_questions_are_answered_right_by_log_likelihood() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path().join("data")).model(demo_model_path());
    let tp = Thumbprint::open(options).unwrap();
    let question = |stem: &str, choices: [&str; 3], right: usize| {
        let labels = ["A", "B", "C"];
        let row = serde_json::json!({
            "question": stem,
            "choices": { "text": choices, "label": labels },
            "answerKey": labels[right],
        });
        format!("{row}\n")
    };
    let rows = [
        question(
            "What is the capital of France?",
            ["a glass of milk", "Paris", "running slowly"],
            1,
        ),
        question(
            "What do people use to cut paper?",
            ["scissors", "the moon", "a river"],
            0,
        ),
        question(
            "Which animal barks?",
            ["the chair", "the sea", "the dog"],
            2,
        ),
        question(
            "What falls from clouds when it rains?",
            ["water", "bread", "music"],
            0,
        ),
    ];
    let path = folder.path().join("arc.jsonl");
    std::fs::write(&path, rows.concat()).unwrap();
    let questions = choices::read(&path, None).unwrap();
    let report = tp
        .evaluate_choices(&questions, Contestant::Base, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    println!("{report:?}");
    assert_eq!(report.acc.right, 4.0);
}
