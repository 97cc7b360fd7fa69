//! The report on a machine and a model.

use thumbprint_fixtures::TinyModel;

use crate::harness::{Folder, Run, thumbprint};

#[test]
fn a_model_is_described_with_what_would_run_where() {
    let folder = Folder::new();
    let model = folder.model("tiny.gguf", &TinyModel::llama());
    let report = Run::of(
        thumbprint()
            .args(["doctor", "--json", "--threads", "3", "--model"])
            .arg(&model),
    )
    .ok()
    .object();
    assert_eq!(report["system"]["threads"], 3);
    assert!(
        report["system"]["devices"]
            .as_array()
            .unwrap()
            .iter()
            .any(|device| device["kind"] == "CPU")
    );
    let described = &report["model"];
    assert_eq!(described["architecture"], "llama");
    assert_eq!(
        (
            &described["layers"],
            &described["width"],
            &described["context"]
        ),
        (&2.into(), &64.into(), &1024.into())
    );
    assert_eq!(described["chat_template"], "its own");
    assert_eq!(described["end_of_turn"], "<|im_end|>");
    assert_eq!(described["training"]["possible"], true);
    let memory = |key: &str| described["training"][key].as_u64().unwrap();
    assert!(memory("memory_least_mib") <= memory("memory_mib"));
    let hash = described["sha256"].as_str().unwrap();
    assert_eq!(hash.len(), 64);
}

#[test]
fn without_a_model_the_rest_is_reported_and_how_to_get_one() {
    let folder = Folder::new();
    let doctor = || {
        let mut command = thumbprint();
        command.env("THUMBPRINT_CACHE", folder.path("cache")).args([
            "doctor",
            "--data-dir",
            "/somewhere",
        ]);
        command
    };
    let report = Run::of(doctor().arg("--json")).ok().object();
    assert_eq!(report["model"], serde_json::Value::Null);
    assert_eq!(report["folders"]["demo_model_present"], false);
    assert_eq!(
        report["folders"]["cache"],
        folder.path("cache").to_str().unwrap()
    );
    assert_eq!(report["folders"]["data"], "/somewhere");
    let text = Run::of(&mut doctor()).ok().stdout;
    assert!(
        text.contains("run `make model`, or pass --model PATH"),
        "{text}"
    );
}
