//! Rankings at the command line: recorded, taken in, trained on.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Folder, Run, thumbprint, train};

/// Three, four and two answers.
const RANKED: [(&str, &[&str]); 3] = [
    (
        "Is it one?",
        &["Yes.", "It may be.", "It depends. It depends."],
    ),
    (
        "Is it two?",
        &["No.", "Hardly.", "Who knows?", "It depends. It depends."],
    ),
    ("Is it three?", &["Blue.", "It depends."]),
];

fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter().map(|row| format!("{row}\n")).collect()
}

fn rankings() -> String {
    lines(RANKED.map(|(prompt, ranked)| {
        let ranked: Vec<_> = ranked
            .iter()
            .map(|text| json!([{ "role": "assistant", "content": text }]))
            .collect();
        json!({ "prompt": [{ "role": "user", "content": prompt }], "ranked": ranked })
    }))
}

fn losses(command: &mut Command) -> Vec<f64> {
    let objects = Run::of(command.arg("--json")).ok().objects();
    let steps = objects.iter().filter(|object| object.get("step").is_some());
    steps.map(|step| step["loss"].as_f64().unwrap()).collect()
}

fn exact(model: &Path, data: &Path, out: &Path, losses: &str) -> Command {
    let mut command = train(model, data, out);
    command.args(["--loss-type", losses, "--kernels", "exact"]);
    command.args(["--max-steps", "8"]);
    command
}

fn plackett_luce(model: &Path, data: &Path, out: &Path) -> Command {
    exact(model, data, out, "plackett_luce")
}

#[test]
fn rankings_are_trained_on_whatever_form_they_have() {
    let folder = Folder::new();
    let (model, out) = (folder.tiny(), folder.path("out.gguf"));
    let own = folder.file("ranked.jsonl", rankings());
    let ultra = folder.file(
        "ultra.jsonl",
        lines(RANKED.map(|(prompt, ranked)| {
            // Rated, and not in order.
            let rated = ranked.iter().rev().enumerate();
            let completions: Vec<_> = rated
                .map(|(score, text)| json!({ "response": text, "overall_score": score }))
                .collect();
            json!({ "instruction": prompt, "completions": completions })
        })),
    );
    let nectar = folder.file(
        "nectar.jsonl",
        lines(RANKED.map(|(prompt, ranked)| {
            let ranked = ranked.iter().enumerate();
            let answers: Vec<_> = ranked
                .map(|(rank, text)| json!({ "answer": text, "rank": rank + 1 }))
                .collect();
            json!({ "prompt": format!("\n\nHuman: {prompt}\n\nAssistant: "), "answers": answers })
        })),
    );
    let of_own = losses(&mut plackett_luce(&model, &own, &out));
    let first = (6f64.ln() + 24f64.ln() + 2f64.ln()) / 3.0;
    assert!((of_own[0] - first).abs() < 1e-9, "{of_own:?}");
    assert!(of_own[7] < 0.5 * first, "{of_own:?}");
    let bytes = std::fs::read(&out).unwrap();
    for data in [ultra, nectar] {
        assert_eq!(losses(&mut plackett_luce(&model, &data, &out)), of_own);
        assert!(std::fs::read(&out).unwrap() == bytes);
    }
    let mut with_likelihood = exact(&model, &own, &out, "plackett_luce,sft");
    let with_likelihood = losses(with_likelihood.args(["--loss-weights", "1,0.5"]));
    assert!(with_likelihood[0] > of_own[0] + 0.5);
}

#[test]
fn pairs_are_rankings_of_two() {
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    let ranked = losses(&mut plackett_luce(&model, &data, &out));
    let mut sigmoid = train(&model, &data, &out);
    let sigmoid = losses(sigmoid.args(["--kernels", "exact", "--max-steps", "8"]));
    for (ranked, pair) in ranked.iter().zip(&sigmoid) {
        // Observed 1e-9: sums in another order, and then steps of their own.
        assert!((ranked - pair).abs() < 1e-4, "{ranked} {pair}");
    }
}

#[test]
fn what_is_wrong_with_a_ranking_is_named_by_its_line() {
    let folder = Folder::new();
    let (model, out) = (folder.tiny(), folder.path("out.gguf"));
    for (bad, words) in [
        (
            json!({ "prompt": "Why?", "ranked": ["So."] }),
            "two answers",
        ),
        (
            json!({ "prompt": "Why?", "ranked": ["So.", "So."] }),
            "identical",
        ),
        (
            json!({ "prompt": "Why?", "ranked": ["So.", ""] }),
            "ranked[1]",
        ),
        (
            json!({ "prompt": "Why?", "completion": "So." }),
            "no field `ranked`",
        ),
    ] {
        let data = folder.file("bad.jsonl", rankings() + &lines([bad]));
        Run::of(&mut plackett_luce(&model, &data, &out)).failed(1, &["bad.jsonl, line 4", words]);
    }
    assert!(!out.exists());
    let data = folder.file("ranked.jsonl", rankings());
    for (loss_type, options, words) in [
        ("plackett_luce,hinge", "", "plackett_luce,sft"),
        ("sigmoid,plackett_luce", "", "plackett_luce,sft"),
        (
            "plackett_luce",
            "--label-smoothing 0.1",
            "--label-smoothing has no effect",
        ),
        (
            "plackett_luce",
            "--ld-alpha 0.5",
            "--ld-alpha has no effect",
        ),
        ("plackett_luce", "--loss-weights 1,2", "loss_weights"),
        ("plackett_luce,sft", "--loss-weights 0,1", "loss_weight"),
    ] {
        let mut command = exact(&model, &data, &out, loss_type);
        Run::of(command.args(options.split_whitespace())).failed(2, &[words]);
    }
    // A pair loss has no place for a third answer.
    Run::of(&mut train(&model, &data, &out)).failed(1, &["line 1", "no field `chosen`"]);
}

#[test]
fn a_ranking_is_recorded_exported_and_forgotten() {
    let folder = Folder::new();
    let run = |arguments: &[&str]| {
        let mut command = thumbprint();
        command
            .args(arguments)
            .arg("--json")
            .arg("--data-dir")
            .arg(folder.path("data"));
        Run::of(&mut command)
    };
    let data = folder.file("ranked.jsonl", rankings());
    let imported = run(&["import", data.to_str().unwrap()]).ok().object();
    assert_eq!(imported["recorded"], 3);
    let out = folder.path("out.jsonl");
    let export = |format: &str| {
        let path = out.to_str().unwrap();
        let exported = run(&["export", path, "--format", format]).ok().object();
        assert_eq!(exported["left_out"], 0);
        let text = std::fs::read_to_string(&out).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(exported["lines"], lines.len());
        lines
    };
    // Three, six and one pair; each ranking's ends; three lists.
    assert_eq!(export("preference").len(), 3 + 6 + 1);
    assert_eq!(export("unpaired").len(), 6);
    let ranked = export("ranking");
    let mut lengths: Vec<_> = ranked
        .iter()
        .map(|row| row["ranked"].as_array().unwrap().len())
        .collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [2, 3, 4]);

    // The replies are 1 to 3 of the first, in order of their being handed in.
    let said = run(&["feedback", "3", "rank", "--over", "1", "2"])
        .ok()
        .object();
    assert_eq!(said["feedback"], json!([4]));
    let first = export("ranking")
        .into_iter()
        .find(|row| row["prompt"][0]["content"] == "Is it one?");
    assert_eq!(first.unwrap()["ranked"][0][0]["content"], RANKED[0].1[2]);
    run(&["feedback", "3", "rank", "--over", "3"]).failed(1, &["over itself"]);
    run(&["feedback", "3", "rank", "--over", "4"]).failed(1, &["another prompt"]);
    run(&["feedback", "3", "rank"]).failed(2, &["required"]);
    run(&["forget", "feedback", "4"]).ok();
    assert_eq!(export("ranking").len(), 2);
}
