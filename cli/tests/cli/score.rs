//! Scoring files: recorded log-probabilities, and what is counted.

use serde_json::Value;
use thumbprint_fixtures::{demo_model_path, golden_data, golden_dir};

use crate::harness::{Folder, Run, pair, score};

fn numbers(object: &Value, key: &str) -> Vec<f64> {
    serde_json::from_value(object[key].clone()).unwrap_or_else(|e| panic!("{key}: {e}"))
}

#[test]
fn the_first_recorded_pair_has_trls_tokens_and_pytorchs_log_probabilities() {
    let golden = std::fs::read_to_string(golden_dir().join("logps.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let recorded = &golden["pairs"][0];
    assert_eq!(
        (&recorded["set"], &recorded["index"]),
        (&"train".into(), &0.into())
    );
    let data = std::fs::read_to_string(golden_data("train.jsonl")).unwrap();
    let folder = Folder::new();
    let data = folder.file("first.jsonl", data.lines().next().unwrap());

    let run = Run::of(score(&demo_model_path(), &data).args(["--json", "--trl-tokens"])).ok();
    let objects = run.objects();
    let [scored, summary] = objects.as_slice() else {
        panic!("{}", run.stdout)
    };
    for ids in ["prompt_ids", "chosen_ids", "rejected_ids"] {
        assert_eq!(scored[ids], recorded[ids], "{ids}");
    }
    for side in ["chosen", "rejected"] {
        let got = numbers(scored, &format!("{side}_logps"));
        let expected = numbers(recorded, &format!("{side}_logps_f64"));
        assert_eq!(got.len(), expected.len());
        let worst = got
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        // Observed: 1e-5; PyTorch's own float32 is off by 3.5e-5.
        assert!(worst < 1e-4, "{side}: {worst}");
        let sum = scored[format!("{side}_logp")].as_f64().unwrap();
        assert!((sum - got.iter().sum::<f64>()).abs() < 1e-9);
    }
    assert_eq!(summary["pairs"], 1);
    assert_eq!(summary["ranked_right"], 1.0);
}

#[test]
fn pairs_are_ranked_by_their_summed_log_probabilities() {
    let folder = Folder::new();
    let (short, long) = ("Yes.", "It depends on a great many things.");
    // Any model finds the longer text less probable.
    let data = [
        pair("Is it?", short, long),
        pair("Is it?", long, short),
        pair("Was it?", short, long),
    ]
    .concat();
    let data = folder.file("mixed.jsonl", data);
    let model = folder.tiny();
    let objects = Run::of(score(&model, &data).arg("--json")).ok().objects();
    assert_eq!(objects.len(), 4);
    assert_eq!(objects[3]["ranked_right"].as_f64().unwrap(), 2.0 / 3.0);
    assert!(objects[3].get("rewards/accuracies").is_none());
    assert_eq!(objects[0]["line"], 1);
    let end = objects[0]["chosen_ids"].as_array().unwrap().last().unwrap();
    assert_eq!(
        numbers(&objects[0], "chosen_logps").len(),
        objects[0]["chosen_ids"].as_array().unwrap().len()
    );
    assert_eq!(
        end,
        objects[0]["rejected_ids"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
    );

    let text = Run::of(&mut score(&model, &data)).ok().stdout;
    assert!(text.contains("ranked right: 66.7 % of 3 pairs"), "{text}");
}

#[test]
fn a_score_does_not_depend_on_what_stands_beside_it() {
    let folder = Folder::new();
    let model = folder.tiny();
    let rows: Vec<_> = (0..20)
        .map(|i| pair(&format!("Is it {i}?"), "Yes, it is.", &"no ".repeat(9)))
        .collect();
    let all = folder.file("all.jsonl", rows.concat());
    let one = folder.file("one.jsonl", &rows[19]);
    let logps = |data: &std::path::Path, at: usize| {
        numbers(
            &Run::of(score(&model, data).arg("--json")).ok().objects()[at],
            "rejected_logps",
        )
    };
    let worst = logps(&all, 19)
        .iter()
        .zip(logps(&one, 0))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    // Observed: 0.
    assert!(worst < 1e-5, "{worst}");
}
