//! The benchmark on a tiny model: every kind of arm once, killed on the way, and what it writes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Folder, Run, few_replies, thumbprint};

/// People who like anything short, and one who rewrites.
fn users(folder: &Folder) -> PathBuf {
    let prompt = |text: String| json!({"text": text, "keywords": ["zzz"]});
    let prompts = |what: &str, n: usize| -> Vec<Value> {
        (0..n).map(|i| prompt(format!("{what} {i}?"))).collect()
    };
    let utility = json!([{"feature": {"length": 6}, "weight": 1.0}, {"feature": "word_letters", "weight": -0.5}]);
    let users = json!({
        "max_tokens": 16,
        "users": [
            {"name": "short", "about": "Likes it short.", "system_prompt": "Be short.", "utility": utility},
            {"name": "asks", "about": "Likes questions.", "system_prompt": "Ask.", "edits": [{"close_with": ["Is it so?"]}],
             "utility": [{"feature": "closing_question", "weight": 1.0, "mean": 0.0, "sd": 0.3}]},
        ],
        "training": prompts("What is number", 12),
        "held_out": prompts("Why is it", 5),
    });
    folder.file("users.json", users.to_string())
}

/// Every kind of arm once, with trainings of two steps.
fn plan(folder: &Folder) -> PathBuf {
    let few = json!({
        "folds": 0,
        "train": {"max_steps": 2},
        "west_of_n": few_replies(),
    });
    // What a model of random weights reads of replies tells little.
    let mut whatever_it_tells = few.clone();
    whatever_it_tells["limits"] = json!({"chance": 1.0});
    let arm = |name: &str, how: Value| json!({"name": name, "about": "", "how": how});
    let arms = json!([
        arm("base", json!("base")),
        arm("system_prompt", json!("system_prompt")),
        arm("stop_early", json!("stop_early")),
        arm("best_of_2", json!({"best_of": {"n": 2, "of": "default"}})),
        arm("default", json!({"trained": {"recipe": whatever_it_tells}})),
        arm("no_gate", json!({"full_scale": {"of": "default"}})),
        arm(
            "none_of_it",
            json!({"scaled": {"of": "default", "by": 0.0}})
        ),
        arm(
            "shuffled",
            json!({"trained": {"recipe": few, "shuffled": true}})
        ),
    ]);
    let all = [
        "stop_early",
        "default",
        "best_of_2",
        "no_gate",
        "none_of_it",
    ];
    let tiny = json!({
        "about": "For a test.", "users": "development", "flips": 0.1,
        "training": 12, "rounds": 4, "headroom": 2, "held_out": 4,
        "cells": [
            {"users": [1], "arms": all, "n": [16], "seeds": [1, 2]},
            {"users": [2], "arms": ["default"], "n": [16], "seeds": [1]},
            {"users": [1], "arms": ["shuffled"], "n": [16], "seeds": [1]},
            {"users": [9], "arms": ["default"], "n": [16], "seeds": [1]},
        ],
    });
    let plan = json!({"arms": arms, "sizes": {"tiny": tiny}});
    folder.file("plan.json", plan.to_string())
}

fn eval(folder: &Folder, out: &Path) -> Command {
    let mut command = thumbprint();
    command
        .args([
            "eval",
            "personalize",
            "--size",
            "tiny",
            "--threads",
            "1",
            "--json",
        ])
        .arg("--out")
        .arg(out)
        .arg("--model")
        .arg(folder.path("tiny.gguf"))
        .arg("--users")
        .arg(folder.path("users.json"))
        .arg("--plan")
        .arg(folder.path("plan.json"));
    command
}

fn results(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("results.json")).unwrap()).unwrap()
}

/// What does not depend on the clock or on this machine's memory.
fn timeless(mut results: Value) -> Value {
    for list in ["rows", "averages"] {
        for row in results[list].as_array_mut().unwrap() {
            for measured in ["seconds", "phases", "peak_rss_mib"] {
                row[measured] = Value::Null;
            }
        }
    }
    results
}

fn rows(results: &Value) -> Vec<(String, String, u64, u64)> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
    let rows = results["rows"].as_array().unwrap().iter();
    rows.map(|row| {
        (
            text(row, "user"),
            text(row, "arm"),
            number(row, "n"),
            number(row, "seed"),
        )
    })
    .collect()
}

#[test]
fn every_kind_of_arm_is_run_and_a_killed_benchmark_goes_on_where_it_was() {
    let folder = Folder::new();
    folder.tiny();
    users(&folder);
    plan(&folder);
    let whole = folder.path("whole");
    let run = Run::of(&mut eval(&folder, &whole)).ok();
    let results_of_whole = results(&whole);
    assert_eq!(run.object(), results_of_whole);
    let mut found = rows(&results_of_whole);
    found.sort();
    let row = |user: &str, arm: &str, n, seed| (user.to_owned(), arm.to_owned(), n, seed);
    let mut expected = vec![
        row("asks", "base", 0, 0),
        row("asks", "default", 16, 1),
        row("asks", "system_prompt", 0, 0),
        row("short", "base", 0, 0),
        row("short", "shuffled", 16, 1),
        row("short", "system_prompt", 0, 0),
    ];
    for seed in [1, 2] {
        for arm in [
            "best_of_2",
            "default",
            "no_gate",
            "none_of_it",
            "stop_early",
        ] {
            expected.push(row("short", arm, 16, seed));
        }
    }
    expected.sort();
    assert_eq!(found, expected);
    for row in results_of_whole["rows"].as_array().unwrap() {
        for key in [
            "win_rate",
            "ci",
            "lc_win_rate",
            "keyword_recall",
            "ppl_ratio",
            "kl",
            "mean_tokens",
            "state",
            "seconds",
            "peak_rss_mib",
        ] {
            assert!(row.get(key).is_some(), "{key} is missing: {row}");
        }
        if row["arm"] == "none_of_it" {
            assert_eq!((&row["win_rate"], &row["gain"]), (&json!(0.5), &json!(0.0)));
        }
        if row["arm"] == "default" {
            assert!(
                ["trial", "rejected"].contains(&row["state"].as_str().unwrap()),
                "{row}"
            );
            let said = ["up", "down", "edits"].map(|key| row[key].as_u64().unwrap());
            // Nobody says more of a prompt than an edit.
            let least = if row["user"] == "asks" { 12 } else { 16 };
            assert!(said.iter().sum::<u64>() >= least, "{row}");
            assert_eq!(row["user"] == "asks", said[2] > 0, "{row}");
        }
    }
    // Thumbs about nothing train nothing, and are counted all the same.
    let shuffled = &results_of_whole["shuffled"];
    assert_eq!(
        (&shuffled["logs"], &shuffled["trained"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(shuffled["allowed"], 0.05);
    assert_eq!(results_of_whole["users"][0]["headroom_prompts"], 2);
    let report = std::fs::read_to_string(whole.join("report.md")).unwrap();
    assert!(report.contains("16 of 16 cells are done") && report.contains("![Win rate"));
    for chart in ["win_rate.svg", "length.svg", "kl.svg", "cost.svg"] {
        assert!(whole.join(chart).is_file(), "{chart}");
    }
    assert!(
        !whole.join("work").read_dir().unwrap().any(|_| true),
        "what was only needed on the way is gone"
    );

    // Again: nothing is run any more.
    let began = Instant::now();
    let again = Run::of(&mut eval(&folder, &whole)).ok();
    assert!(!again.stderr.contains("cell "), "{}", again.stderr);
    assert_eq!(
        timeless(results(&whole)),
        timeless(results_of_whole.clone())
    );
    let without_work = began.elapsed();

    // Killed again and again, each time a little later, until it comes to its end; now and then with cells side by side.
    let killed = folder.path("killed");
    let mut patience = Duration::from_millis(400);
    let mut kills = 0;
    loop {
        let jobs = if kills % 2 == 1 { "3" } else { "1" };
        let mut child = eval(&folder, &killed)
            .args(["--jobs", jobs])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if began.elapsed() > patience + without_work => break None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        match status {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                patience += patience / 2;
            }
        }
    }
    assert!(kills > 1, "it was killed {kills} times");
    assert_eq!(timeless(results(&killed)), timeless(results_of_whole));
}

#[test]
fn what_cannot_be_run_is_refused_with_its_place() {
    let folder = Folder::new();
    folder.tiny();
    plan(&folder);
    let out = folder.path("out");
    folder.file(
        "users.json",
        r#"{"users": [], "training": [], "held_out": []}"#,
    );
    Run::of(&mut eval(&folder, &out)).failed(1, &["users.json", "it has no users"]);
    users(&folder);
    folder.file(
        "plan.json",
        r#"{"arms": [{"name": "a", "about": "", "how": "guess"}], "sizes": {}}"#,
    );
    Run::of(&mut eval(&folder, &out))
        .failed(1, &["plan.json", "unknown variant `guess`", "line 1"]);
    plan(&folder);
    let mut command = thumbprint();
    command
        .args(["eval", "personalize", "--size", "week", "--out"])
        .arg(&out);
    Run::of(&mut command).failed(2, &["there is no `week`", "ci, hour, night, second"]);
    assert!(!out.exists(), "nothing was begun");
}
