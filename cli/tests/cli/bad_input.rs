//! Input that cannot be used: the exit code, the message, and that nothing was lost.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use thumbprint::engine::{Engine, EngineOptions, GenerateOptions, ModelSource, Request};
use thumbprint::types::Message;
use thumbprint_fixtures::TinyModel;
use thumbprint_tune::adapter::{AdapterFile, Lora, LoraConfig};
use thumbprint_tune::model::Model;
use thumbprint_tune::trainer::lora_shapes;

use crate::harness::{Folder, Run, pair, score, thumbprint, train};

/// `train`, `score`, `doctor` and `bench` on a model that they must refuse.
fn every_command(folder: &Folder, model: &Path, words: &[&str]) {
    let data = folder.pairs();
    let out = folder.path("out.gguf");
    Run::of(&mut train(model, &data, &out)).failed(1, words);
    assert!(!out.exists());
    Run::of(&mut score(model, &data)).failed(1, words);
    Run::of(thumbprint().arg("doctor").arg("--model").arg(model)).failed(1, words);
    Run::of(thumbprint().arg("bench").arg("--model").arg(model)).failed(1, words);
}

#[test]
fn a_file_that_is_no_gguf_is_named() {
    let folder = Folder::new();
    let model = folder.file("notes.txt", "Dear diary, this is not a model at all.");
    every_command(&folder, &model, &["notes.txt", "not a GGUF file"]);
}

#[test]
fn a_truncated_model_is_named() {
    let folder = Folder::new();
    let bytes = TinyModel::llama().to_bytes();
    let model = folder.file("half.gguf", &bytes[..bytes.len() / 2]);
    every_command(&folder, &model, &["half.gguf", "ends too early"]);
}

#[test]
fn a_missing_model_is_named() {
    let folder = Folder::new();
    every_command(&folder, &folder.path("absent.gguf"), &["absent.gguf"]);
}

#[test]
fn a_missing_demo_model_says_how_to_get_it() {
    let folder = Folder::new();
    let data = folder.pairs();
    let mut command = thumbprint();
    command
        .env("THUMBPRINT_CACHE", folder.path("cache"))
        .args(["score", "--data"])
        .arg(data);
    Run::of(&mut command).failed(1, &["run `make model`, or pass --model PATH"]);
}

#[test]
fn an_architecture_that_cannot_be_trained_is_named_and_inference_with_it_works() {
    let folder = Folder::new();
    let exaone = TinyModel {
        architecture: "exaone",
        ..TinyModel::llama()
    };
    let model = folder.model("exaone.gguf", &exaone);
    let words = [
        "exaone.gguf",
        "architecture `exaone` cannot be trained",
        "generation with it works",
    ];
    Run::of(&mut train(
        &model,
        &folder.pairs(),
        &folder.path("out.gguf"),
    ))
    .failed(1, &words);
    Run::of(&mut score(&model, &folder.pairs())).failed(1, &words);

    let report = Run::of(
        thumbprint()
            .args(["doctor", "--json", "--model"])
            .arg(&model),
    )
    .ok()
    .object();
    assert_eq!(report["model"]["training"]["possible"], false);
    assert!(
        report["model"]["training"]["on"]
            .as_str()
            .unwrap()
            .contains("exaone")
    );
    let loading = &mut |_| ControlFlow::Continue(());
    let engine =
        Engine::start(ModelSource::File(model), &EngineOptions::default(), loading).unwrap();
    let options = GenerateOptions {
        max_tokens: 3,
        ..GenerateOptions::default()
    };
    let request = Request::chat(vec![Message::user("Hello")], options);
    let reply = engine.generate(&request).unwrap().wait().unwrap();
    assert!(!reply.tokens.is_empty());
}

#[test]
fn a_tensor_type_that_cannot_be_trained_is_named() {
    // Integers of the same size in the place of a norm's numbers.
    let mut bytes = TinyModel::llama().to_bytes();
    let name = b"blk.0.attn_norm.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap()
        + name.len();
    // After the name: the number of dimensions (u32), one dimension (u64), the type (u32).
    assert_eq!(bytes[at..at + 4], 1u32.to_le_bytes());
    bytes[at + 12..at + 16].copy_from_slice(&26u32.to_le_bytes());
    let folder = Folder::new();
    let model = folder.file("integers.gguf", bytes);
    let words = ["integers.gguf", "blk.0.attn_norm.weight", "i32"];
    Run::of(&mut train(
        &model,
        &folder.pairs(),
        &folder.path("out.gguf"),
    ))
    .failed(1, &words);
}

#[test]
fn a_malformed_line_is_named_by_file_and_number() {
    let folder = Folder::new();
    let model = folder.tiny();
    let good = pair("Is it?", "Yes.", "No.");
    for (name, line, words) in [
        ("json", "{\"prompt\": \"the secret\", ", "is not JSON"),
        (
            "missing",
            "{\"prompt\": \"the secret\", \"chosen\": \"a\"}",
            "has no field `rejected`",
        ),
        ("empty", &pair("Is the secret?", "", "No."), "is empty"),
        (
            "identical",
            &pair("Is the secret?", "No.", "No."),
            "identical",
        ),
    ] {
        let data = folder.file(&format!("{name}.jsonl"), format!("{good}\n{line}"));
        let words = [&format!("{name}.jsonl, line 3: "), words];
        for mut command in [
            train(&model, &data, &folder.path("out.gguf")),
            score(&model, &data),
        ] {
            let run = Run::of(&mut command).failed(1, &words);
            assert!(!run.stderr.contains("secret"), "{}", run.stderr);
        }
    }
    assert!(!folder.path("out.gguf").exists());
}

#[test]
fn a_file_without_pairs_is_nothing_to_learn_from() {
    let folder = Folder::new();
    let data = folder.file("empty.jsonl", "\n \n");
    Run::of(&mut train(&folder.tiny(), &data, &folder.path("out.gguf")))
        .failed(3, &["empty.jsonl", "holds no pairs"]);
}

#[test]
fn examples_that_are_too_long_are_refused_by_line_or_skipped_and_counted() {
    let folder = Folder::new();
    let (model, out) = (folder.tiny(), folder.path("out.gguf"));
    let long = "on and on ".repeat(60);
    let rows = [
        pair("Is it?", "Yes.", "No."),
        pair("Is it?", "Yes.", &long),
        pair("Was it?", "Yes.", "No."),
    ];
    let data = folder.file("long.jsonl", rows.concat());
    let limited = |extra: &[&str]| {
        let mut command = train(&model, &data, &out);
        command
            .args(["--max-length", "64", "--max-steps", "1"])
            .args(extra);
        Run::of(&mut command)
    };
    limited(&[]).failed(
        1,
        &[
            "long.jsonl, line 2: longer than 64 tokens",
            "(lines 2)",
            "--truncation skip",
        ],
    );
    assert!(!out.exists());
    let run = limited(&["--truncation", "skip"]).ok();
    assert!(
        run.stderr.contains("skipped 1 of 3 pairs"),
        "{}",
        run.stderr
    );
    assert!(out.exists());
    Run::of(train(&model, &data, &out).args(["--max-length", "2", "--truncation", "skip"]))
        .failed(3, &["no pair is short enough"]);
    Run::of(train(&model, &data, &out).args(["--max-length", "4096"])).failed(2, &["4096", "1024"]);
}

#[test]
fn an_adapter_of_another_base_is_refused_by_hash_and_by_shape() {
    let folder = Folder::new();
    let (model, data, adapter) = (folder.tiny(), folder.pairs(), folder.path("adapter.gguf"));
    Run::of(train(&model, &data, &adapter).args(["--max-steps", "1"])).ok();
    let other = folder.model(
        "other.gguf",
        &TinyModel {
            seed: 2,
            ..TinyModel::llama()
        },
    );
    let words = ["adapter.gguf", "was made for the base model with SHA-256"];
    Run::of(score(&other, &data).arg("--adapter").arg(&adapter)).failed(1, &words);
    let out = folder.path("out.gguf");
    Run::of(
        train(&other, &data, &out)
            .arg("--init-adapter")
            .arg(&adapter),
    )
    .failed(1, &words);

    // One that does not say what it was made for.
    let wide = Model::open(&folder.model("wide.gguf", &TinyModel::wide_llama())).unwrap();
    let lora = Lora::new(LoraConfig::default(), &lora_shapes(&wide)).unwrap();
    let foreign = folder.path("foreign.gguf");
    AdapterFile {
        lora,
        architecture: "llama".to_owned(),
        base_sha256: None,
    }
    .write(&foreign)
    .unwrap();
    let words = [
        "foreign.gguf",
        "does not fit the base model",
        "blk.0.attn_q.weight",
    ];
    Run::of(score(&model, &data).arg("--adapter").arg(&foreign)).failed(1, &words);
    Run::of(
        train(&model, &data, &out)
            .arg("--init-adapter")
            .arg(&foreign),
    )
    .failed(1, &words);
    assert!(!out.exists());
}

#[test]
fn a_place_where_no_file_can_be_is_refused_before_training() {
    let folder = Folder::new();
    let (model, data) = (folder.tiny(), folder.pairs());
    let below_a_file = data.join("adapter.gguf");
    for out in [
        folder.path("absent/adapter.gguf"),
        below_a_file,
        "/dev/full".into(),
        folder.path("").to_owned(),
    ] {
        let run = Run::of(&mut train(&model, &data, &out));
        let run = run.failed(1, &["cannot write", out.to_str().unwrap()]);
        assert_eq!(run.stdout, "");
    }
}

/// A shell that limits files to 16 blocks of 512 bytes, as a full disk would.
fn with_full_disk(command: &Command) -> Run {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    Run::of(&mut shell)
}

#[test]
fn a_full_disk_leaves_the_old_adapter_and_no_remains() {
    let folder = Folder::new();
    let (model, data, out) = (
        folder.tiny(),
        folder.pairs(),
        folder.file("out.gguf", "the old one"),
    );
    let before = folder.names();
    let mut command = train(&model, &data, &out);
    with_full_disk(command.args(["--max-steps", "2"]))
        .failed(1, &["cannot write", "out.gguf", "unchanged"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"the old one");
    assert_eq!(folder.names(), before);
}

#[test]
fn a_full_disk_under_a_checkpoint_ends_the_run() {
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    let before = folder.names();
    let mut command = train(&model, &data, &out);
    command
        .args(["--max-steps", "9", "--save-steps", "2", "--checkpoint"])
        .arg(folder.path("run.ck"));
    let run = with_full_disk(&command).failed(1, &["cannot write", "run.ck"]);
    assert!(
        run.stdout
            .lines()
            .last()
            .unwrap()
            .trim_start()
            .starts_with("2 "),
        "{}",
        run.stdout
    );
    assert_eq!(folder.names(), before);
}

#[test]
fn a_full_standard_output_is_an_error() {
    let folder = Folder::new();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = train(&folder.tiny(), &folder.pairs(), &folder.path("out.gguf"));
    let mut child = command
        .stdout(full)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(!folder.path("out.gguf").exists());
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_the_old_adapter_stays() {
    let folder = Folder::new();
    let (model, data, out) = (
        folder.tiny(),
        folder.pairs(),
        folder.file("out.gguf", "the old one"),
    );
    let run = Run::of(train(&model, &data, &out).args(["--learning-rate", "1e30"]));
    let run = run.failed(1, &["pairs.jsonl, line ", "not a finite number"]);
    assert!(
        run.stdout
            .lines()
            .any(|line| line.trim_start().starts_with("1 ")),
        "{}",
        run.stdout
    );
    assert_eq!(std::fs::read(&out).unwrap(), b"the old one");
}

#[test]
fn settings_out_of_range_are_wrong_usage() {
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    for (arguments, word) in [
        (&["--loss-type", "kto_pair"][..], "unknown loss type"),
        (&["--beta", "0"], "beta"),
        (&["--label-smoothing", "0.1"], "label_smoothing"),
        (
            &["--loss-type", "sigmoid,sft", "--loss-weights", "1"],
            "loss_weights",
        ),
        (&["--loss-type", "sigmoid,bco"], "bco"),
        (&["--loss-type", "kto", "--ld-alpha", "0.5"], "--ld-alpha"),
        (
            &["--loss-type", "kto", "--per-device-train-batch-size", "1"],
            "at least 2 for kto",
        ),
        (
            &["--loss-type", "aot", "--lora-dropout", "0.1"],
            "lora_dropout",
        ),
        (&["--loss-type", "exo_pair"], "0.001"),
        (
            &["--loss-type", "aot", "--f-divergence-type", "forward_kl"],
            "f_divergence_type",
        ),
        (&["--loss-type", "cpo,sigmoid"], "no reference"),
        (&["--lora-r", "0"], "rank"),
        (&["--lora-dropout", "1"], "dropout"),
        (&["--lora-target-modules", "q_proj,lm_head"], "lm_head"),
        (&["--lr-scheduler-type", "polynomial"], "cosine"),
        (&["--learning-rate=-1"], "learning_rate"),
        (&["--max-steps", "0"], "max-steps"),
        (
            &["--max-steps", "1", "--num-train-epochs", "1"],
            "num-train-epochs",
        ),
        (&["--adam-beta1", "1"], "adam_beta1"),
        (&["--threads", "0"], "threads"),
        (&["--require-gpu"], "--device"),
    ] {
        let run = Run::of(train(&model, &data, &out).args(arguments));
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
        assert!(
            run.stderr.starts_with("error: ") && run.stderr.contains(word),
            "{arguments:?}: {}",
            run.stderr
        );
    }
    assert!(!out.exists());
}

#[test]
fn a_device_that_is_not_there_is_named_with_those_that_are() {
    let folder = Folder::new();
    let mut command = train(&folder.tiny(), &folder.pairs(), &folder.path("out.gguf"));
    Run::of(command.args(["--device", "Abacus0"])).failed(1, &["no device `Abacus0`", "cpu, CPU"]);
}

#[test]
fn too_little_memory_says_how_much_would_do() {
    let folder = Folder::new();
    let mut command = train(&folder.tiny(), &folder.pairs(), &folder.path("out.gguf"));
    Run::of(command.args(["--memory-mib", "1"]))
        .failed(1, &["training needs at least", "the budget is 1 MiB"]);
}
