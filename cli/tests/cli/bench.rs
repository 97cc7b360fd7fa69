//! The benchmark's output; its figures on a tiny model mean nothing.

use serde_json::Value;
use thumbprint_fixtures::TinyModel;

use crate::harness::{Folder, Run, thumbprint};

fn positive(value: &Value, name: &str) {
    assert!(value.as_f64().is_some_and(|v| v > 0.0), "{name}: {value}");
}

/// What both forms of the command tell.
fn both(figures: &Value) {
    for name in [
        "step_over_pp",
        "utilisation",
        "pair_tok_s",
        "forward_tok_s",
        "step_tok_s",
        "pp512_tok_s",
        "rounds",
    ] {
        positive(&figures[name], name);
    }
    for ty in ["bf16", "f16", "f32", "q8_0"] {
        positive(&figures["mul_mat_gflops"][ty], ty);
    }
    if cfg!(target_os = "linux") {
        for name in [
            "peak_rss_mib",
            "peak_rss_low_mib",
            "anon_rss_mib",
            "anon_rss_low_mib",
        ] {
            positive(&figures[name], name);
        }
    }
}

#[test]
fn every_figure_is_there_and_nothing_is_left_behind() {
    let folder = Folder::new();
    let model = folder.model("tiny.gguf", &TinyModel::llama());
    let mut command = thumbprint();
    command
        .args([
            "bench",
            "--json",
            "--rounds",
            "1",
            "--rows",
            "500",
            "--threads",
            "1",
            "--model",
        ])
        .arg(model);
    let figures = Run::of(command.arg("--data-dir").arg(folder.path("data")))
        .ok()
        .object();
    let mut names = figures.as_object().unwrap().keys();
    assert_eq!(names.next().unwrap(), "step_over_pp");
    both(&figures);
    for name in ["record_p99_ms", "fsync_p99_ms", "swap_ms"] {
        positive(&figures[name], name);
    }
    positive(&figures["engine_over_bare"]["pp"], "engine_over_bare.pp");
    assert_eq!(folder.names(), ["tiny.gguf"]);
}

#[test]
fn training_in_detail_has_its_names_and_each_context_and_phase_a_figure() {
    let folder = Folder::new();
    let model = folder.model("tiny.gguf", &TinyModel::llama());
    let mut command = thumbprint();
    command.args([
        "bench",
        "train",
        "--json",
        "--rounds",
        "1",
        "--threads",
        "1",
    ]);
    let figures = Run::of(command.arg("--model").arg(model)).ok().object();
    both(&figures);
    for name in [
        "step_gflop",
        "planned_rss_mib",
        "planned_rss_low_mib",
        "threads",
    ] {
        positive(&figures[name], name);
    }
    let phases = figures["per_phase_ms"].as_object().unwrap();
    let names: Vec<_> = phases.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["blocks_backward", "blocks_forward", "head", "update"]
    );
    phases
        .iter()
        .for_each(|(name, value)| positive(value, name));
    // The model was trained for 1024 tokens.
    let contexts = figures["ctx_scaling"].as_array().unwrap();
    let tokens: Vec<_> = contexts
        .iter()
        .map(|at| at["tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(tokens, [256, 512, 1024]);
    for at in contexts {
        positive(&at["step_ms"], "step_ms");
        positive(&at["planned_rss_mib"], "planned_rss_mib");
        if cfg!(target_os = "linux") {
            positive(&at["peak_rss_mib"], "peak_rss_mib");
        }
    }
    assert_eq!(figures["fallbacks"], serde_json::json!([]));
    for name in ["model", "products_in", "cpu"] {
        assert!(figures[name].is_string(), "{name}: {}", figures[name]);
    }
}
