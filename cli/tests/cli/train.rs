//! Training on files: it learns, the same seed gives the same bytes, and being killed changes nothing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Folder, Run, score, thumbprint, train};

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn number(object: &Value, key: &str) -> f64 {
    object[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no {key} in {object}"))
}

#[test]
fn training_lowers_the_loss_from_ln_2_and_the_adapter_prefers_the_chosen_side() {
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    let run = Run::of(train(&model, &data, &out).args(["--json", "--max-steps", "20"])).ok();
    let objects = run.objects();
    assert_eq!(objects.len(), 21);
    let (first, last, summary) = (&objects[0], &objects[19], &objects[20]);
    // Observed: equal.
    assert!(
        (number(first, "loss") - std::f64::consts::LN_2).abs() < 1e-12,
        "{first}"
    );
    // Observed: 2e-5.
    assert!(number(last, "loss") < 0.2, "{last}");
    assert_eq!(number(last, "step"), 20.0);
    for key in [
        "epoch",
        "grad_norm",
        "learning_rate",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "num_tokens",
    ] {
        number(last, key);
    }
    assert_eq!(number(summary, "total_steps"), 20.0);
    assert_eq!(summary["adapter"], out.to_str().unwrap());

    // The same out of operations that every device has.
    let on_device = ["--json", "--max-steps", "20", "--device", "CPU"];
    let run = Run::of(train(&model, &data, &folder.path("device.gguf")).args(on_device)).ok();
    let off = (number(&run.objects()[5], "loss") - number(&objects[5], "loss")).abs();
    assert!(off < 1e-2, "{off}");

    let scored = Run::of(score(&model, &data).args(["--json", "--adapter"]).arg(&out))
        .ok()
        .objects();
    assert_eq!(scored.last().unwrap()["rewards/accuracies"], 1.0);
}

#[test]
fn llama_cpp_loads_what_was_trained() {
    use thumbprint_ggml::llama;
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    Run::of(train(&model, &data, &out).args([
        "--max-steps",
        "1",
        "--lora-target-modules",
        "q_proj,down_proj",
    ]))
    .ok();
    let loaded = llama::Model::load(&model, &llama::ModelParams::default(), &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    llama::Adapter::load(&loaded.unwrap(), &out).unwrap();
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let folder = Folder::new();
    let (model, data) = (folder.tiny(), folder.pairs());
    let run = |name: &str, seed: &str| {
        let out = folder.path(name);
        let mut command = train(&model, &data, &out);
        Run::of(command.args(["--max-steps", "4", "--lora-dropout", "0.1", "--seed", seed])).ok();
        bytes(&out)
    };
    let first = run("a.gguf", "7");
    assert_eq!(first, run("b.gguf", "7"));
    assert_ne!(first, run("c.gguf", "8"));
}

#[test]
fn a_sequential_run_takes_pairs_as_they_stand_in_the_file() {
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    let scored = Run::of(score(&model, &data).arg("--json")).ok().objects();
    let mut command = train(&model, &data, &out);
    // Nothing is learned to speak of, so that each step shows what the base says of its pair.
    command.args(["--json", "--max-steps", "8", "--learning-rate", "1e-12"]);
    command.args(["--kernels", "exact"]);
    command.args(["--per-device-train-batch-size", "1", "--seed", "3"]);
    let run = Run::of(command.args(["--train-sampling-strategy", "sequential"])).ok();
    for (step, pair) in run.objects().iter().zip(&scored[..8]) {
        let difference = number(step, "logps/chosen") - number(pair, "chosen_logp");
        assert!(difference.abs() < 1e-3, "{step} {pair}");
    }
}

#[test]
fn micro_batches_that_make_up_the_same_batch_give_the_same_bytes() {
    let folder = Folder::new();
    let (model, data) = (folder.tiny(), folder.pairs());
    let run = |name: &str, size: &str, accumulation: &str| {
        let out = folder.path(name);
        let mut command = train(&model, &data, &out);
        command.args(["--max-steps", "2", "--per-device-train-batch-size", size]);
        Run::of(command.args(["--gradient-accumulation-steps", accumulation])).ok();
        bytes(&out)
    };
    assert_eq!(run("a.gguf", "4", "1"), run("b.gguf", "1", "4"));
}

#[test]
fn every_objective_trains() {
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    for arguments in [
        &["--objective", "sigmoid"][..],
        &["--loss-type", "cdpo", "--label-smoothing", "0.1"],
        &["--loss-type", "ipo", "--beta", "0.2"],
        &["--loss-type", "sft"],
        &["--loss-type", "sigmoid,sft", "--loss-weights", "1,0.5"],
        &["--loss-type", "robust", "--label-smoothing", "0.1"],
        &["--loss-type", "hinge"],
        &["--loss-type", "exo_pair", "--label-smoothing", "0.001"],
        &["--loss-type", "nca_pair"],
        &["--loss-type", "bco_pair"],
        &["--loss-type", "sppo_hard"],
        &["--loss-type", "aot"],
        &["--loss-type", "aot_unpaired"],
        &["--loss-type", "apo_zero"],
        &["--loss-type", "apo_down"],
        &["--loss-type", "discopop"],
        &["--loss-type", "sigmoid_norm", "--beta", "5"],
        &["--loss-type", "dpop"],
        &["--loss-type", "cpo,sft"],
        &["--loss-type", "simpo", "--beta", "2"],
        &["--loss-type", "orpo,sft"],
        &["--ld-alpha", "0.5"],
        &["--use-weighting"],
        &["--f-divergence-type", "js_divergence"],
        &["--loss-type", "bco"],
        &["--loss-type", "kto"],
        &["--loss-type", "apo_zero_unpaired"],
    ] {
        let run = Run::of(
            train(&model, &data, &out)
                .args(["--json", "--max-steps", "12"])
                .args(arguments),
        )
        .ok();
        let objects = run.objects();
        let (first, last) = (number(&objects[0], "loss"), number(&objects[11], "loss"));
        assert!(last < first, "{arguments:?}: {first} to {last}");
    }
}

#[test]
fn checkpointed_activations_give_the_same_first_gradient() {
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    let norm = |arguments: &[&str]| {
        let mut command = train(&model, &data, &out);
        let run = Run::of(
            command
                .args(["--json", "--max-steps", "1", "--kernels", "exact"])
                .args(arguments),
        )
        .ok();
        number(&run.objects()[0], "grad_norm")
    };
    let (plain, recomputed) = (norm(&[]), norm(&["--gradient-checkpointing"]));
    // Observed: equal.
    assert!(
        (plain / recomputed - 1.0).abs() < 1e-6,
        "{plain} {recomputed}"
    );
}

#[test]
fn training_goes_on_from_another_adapter() {
    let folder = Folder::new();
    let (model, data) = (folder.tiny(), folder.pairs());
    let (first, second) = (folder.path("first.gguf"), folder.path("second.gguf"));
    Run::of(train(&model, &data, &first).args(["--max-steps", "10", "--lora-r", "4"])).ok();
    let mut command = train(&model, &data, &second);
    let run = Run::of(
        command
            .args(["--json", "--max-steps", "1", "--init-adapter"])
            .arg(&first),
    )
    .ok();
    // The reference is the base, so that the loss is not ln 2 any more. Observed: 7e-5.
    assert!(number(&run.objects()[0], "loss") < 0.5, "{}", run.stdout);
    assert_eq!(bytes(&first).len(), bytes(&second).len());
}

/// A run that prints more than a pipe holds: unless somebody reads on, it cannot end before it is stopped.
#[test]
fn the_next_stage_compares_with_what_the_last_one_made() {
    let folder = Folder::new();
    let (model, data) = (folder.tiny(), folder.pairs());
    let (first, second) = (folder.path("first.gguf"), folder.path("second.gguf"));
    Run::of(train(&model, &data, &first).args(["--max-steps", "6"])).ok();
    let mut command = train(&model, &data, &second);
    command.args(["--json", "--max-steps", "6", "--ref-adapter"]);
    command.arg(&first).arg("--init-adapter").arg(&first);
    let objects = Run::of(&mut command).ok().objects();
    // Policy and reference are the same again.
    let loss = number(&objects[0], "loss");
    assert!((loss - std::f64::consts::LN_2).abs() < 1e-6, "{loss}");
    assert!(number(&objects[5], "loss") < loss);

    let mut other = train(&model, &data, &second);
    other.args(["--max-steps", "1", "--lora-r", "2", "--ref-adapter"]);
    Run::of(other.arg(&first)).failed(1, &["reference adapter", "rank"]);
}

fn long_run(folder: &Folder, out: &Path) -> Command {
    let mut command = train(&folder.path("tiny.gguf"), &folder.path("pairs.jsonl"), out);
    command.args([
        "--json",
        "--max-steps",
        "400",
        "--per-device-train-batch-size",
        "2",
    ]);
    command.args(["--lora-dropout", "0.1", "--lr-scheduler-type", "cosine"]);
    command
}

fn with_checkpoint(mut command: Command, checkpoint: &Path) -> Command {
    command
        .args(["--save-steps", "3", "--checkpoint"])
        .arg(checkpoint);
    command
}

/// Starts it, waits until it has printed `steps` steps, and leaves the rest of its output alone.
fn run_until(mut command: Command, steps: usize) -> Child {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    for _ in 0..steps {
        lines.next().unwrap().unwrap();
    }
    child
}

#[test]
fn a_run_that_was_killed_gives_the_bytes_of_one_that_was_not() {
    let folder = Folder::new();
    folder.tiny();
    folder.pairs();
    let (whole, killed, checkpoint) = (
        folder.path("whole.gguf"),
        folder.path("killed.gguf"),
        folder.path("run.ck"),
    );
    Run::of(&mut long_run(&folder, &whole)).ok();

    for steps in [4, 10] {
        let mut child = run_until(
            with_checkpoint(long_run(&folder, &killed), &checkpoint),
            steps,
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!killed.exists() && checkpoint.exists());
    }
    let run = Run::of(&mut with_checkpoint(
        long_run(&folder, &killed),
        &checkpoint,
    ))
    .ok();
    let resumed = number(run.objects().last().unwrap(), "resumed_from_step");
    assert!((6.0..400.0).contains(&resumed), "{resumed}");
    assert!(run.stderr.contains("resuming after step"), "{}", run.stderr);
    assert_eq!(bytes(&whole), bytes(&killed));
    assert_eq!(
        folder.names(),
        ["killed.gguf", "pairs.jsonl", "tiny.gguf", "whole.gguf"]
    );
}

#[test]
fn ctrl_c_saves_the_run_and_exits_with_130() {
    let folder = Folder::new();
    folder.tiny();
    folder.pairs();
    let (whole, stopped, checkpoint) = (
        folder.path("whole.gguf"),
        folder.path("stopped.gguf"),
        folder.path("run.ck"),
    );
    Run::of(&mut long_run(&folder, &whole)).ok();

    let child = run_until(with_checkpoint(long_run(&folder, &stopped), &checkpoint), 1);
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    let run = Run::from(child.wait_with_output().unwrap())
        .failed(130, &["interrupted", "goes on after step"]);
    assert!(!stopped.exists() && checkpoint.exists(), "{}", run.stderr);
    Run::of(&mut with_checkpoint(
        long_run(&folder, &stopped),
        &checkpoint,
    ))
    .ok();
    assert_eq!(bytes(&whole), bytes(&stopped));
}

#[test]
fn ctrl_c_without_a_checkpoint_says_that_nothing_was_written() {
    let folder = Folder::new();
    folder.tiny();
    folder.pairs();
    let out = folder.path("out.gguf");
    let child = run_until(long_run(&folder, &out), 1);
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    Run::from(child.wait_with_output().unwrap())
        .failed(130, &["interrupted", "no adapter was written"]);
    assert!(!out.exists());
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_kept() {
    let folder = Folder::new();
    folder.tiny();
    folder.pairs();
    let (out, checkpoint) = (folder.path("out.gguf"), folder.path("run.ck"));
    let mut child = run_until(with_checkpoint(long_run(&folder, &out), &checkpoint), 4);
    child.kill().unwrap();
    child.wait().unwrap();
    let saved = bytes(&checkpoint);
    let mut other = with_checkpoint(long_run(&folder, &out), &checkpoint);
    Run::of(other.args(["--beta", "0.3"]))
        .failed(1, &["run.ck", "belongs to another run", "configuration"]);
    assert_eq!(bytes(&checkpoint), saved);
    std::fs::write(&checkpoint, &saved[..saved.len() - 1]).unwrap();
    Run::of(&mut with_checkpoint(long_run(&folder, &out), &checkpoint))
        .failed(1, &["run.ck", "cut or added to"]);
}

#[test]
fn a_preset_is_the_options_that_it_stands_for_and_options_override_it() {
    let folder = Folder::new();
    let (model, data) = (folder.tiny(), folder.pairs());
    let run = |name: &str, options: &str| {
        let out = folder.path(name);
        let mut command = train(&model, &data, &out);
        command.args(["--kernels", "exact", "--max-steps", "4", "--seed", "3"]);
        Run::of(command.args(options.split(' '))).ok();
        bytes(&out)
    };
    // The harness gives a learning rate, which a preset does not override.
    let published =
        "--beta 0.1 --lr-scheduler-type linear --warmup-ratio 0.1 --per-device-train-batch-size 32";
    let own_losses = "--loss-type cdpo,sft --loss-weights 1,2 --label-smoothing 0.1";
    let own = "--lr-scheduler-type cosine --warmup-ratio 0.1 --per-device-train-batch-size 4 --max-kl 0.3";
    let small = "--beta 0.5 --lr-scheduler-type cosine --warmup-ratio 0.1 --per-device-train-batch-size 128";
    for (preset, losses, options) in [
        ("zephyr", "--loss-type sigmoid", published),
        ("tulu2", "--loss-type sigmoid", published),
        ("smollm2", "--loss-type sigmoid", small),
        ("thumbprint", own_losses, own),
    ] {
        let of_preset = run("preset.gguf", &format!("--preset {preset}"));
        assert!(
            of_preset == run("options.gguf", &format!("{losses} {options}")),
            "{preset}"
        );
        let overridden = run(
            "preset.gguf",
            &format!("--preset {preset} --beta 0.7 --loss-type hinge"),
        );
        assert!(of_preset != overridden, "{preset}");
        // A loss of one's own choice brings neither weights nor smoothing of the preset's.
        let loss = run(
            "options.gguf",
            &format!("{options} --beta 0.7 --loss-type hinge"),
        );
        assert!(loss == overridden, "{preset}");
    }
    // And without options, the preset's rate and number of steps.
    let out = folder.path("alone.gguf");
    let mut command = crate::harness::thumbprint();
    command.args([
        "train",
        "--json",
        "--threads",
        "1",
        "--preset",
        "smollm2",
        "--model",
    ]);
    let objects = Run::of(
        command
            .arg(&model)
            .arg("--data")
            .arg(&data)
            .arg("--out")
            .arg(&out),
    )
    .ok()
    .objects();
    // Two passes over eight pairs fit one batch of 128.
    assert_eq!(objects.len(), 2);
    assert!(
        (number(&objects[0], "learning_rate") - 1e-5).abs() < 1e-12,
        "{}",
        objects[0]
    );
    let out = folder.path("none.gguf");
    Run::of(train(&model, &data, &out).args(["--preset", "zephir"])).failed(2, &["smollm2"]);
}

/// `train` in another folder, whose own defaults are other number formats.
fn elsewhere(folder: &Folder, model: &Path, data: &Path, out: &Path) -> Command {
    let mut command = thumbprint();
    command.env("THUMBPRINT_CACHE", folder.path("cache"));
    command.arg("train").arg("--model").arg(model);
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

/// Makes this folder's remembered number formats others than the ones that were measured.
fn remember_exact_formats(folder: &Folder, model: &Path, data: &Path) {
    let mut first = elsewhere(folder, model, data, &folder.path("first.gguf"));
    Run::of(first.args(["--threads", "2", "--max-steps", "1"])).ok();
    let file = folder.path("cache/kernels-3.json");
    let mut known: Value = serde_json::from_slice(&bytes(&file)).unwrap();
    for formats in known.as_object_mut().unwrap().values_mut() {
        *formats = serde_json::json!({ "scratch": "bf16", "saved": "f32" });
    }
    std::fs::write(&file, known.to_string()).unwrap();
}

#[test]
fn a_run_replayed_from_anothers_manifest_gives_its_bytes_where_other_defaults_hold() {
    let (here, there) = (Folder::new(), Folder::new());
    let (model, data) = (here.tiny(), here.pairs());
    let (out, manifest) = (here.path("out.gguf"), here.path("run.json"));
    let settings = "--max-steps 4 --seed 7 --lora-dropout 0.1 --beta 0.3 --loss-type dpop,sft";
    let mut command = train(&model, &data, &out);
    command.args(settings.split(' '));
    command.args(["--kernels", "exact", "--memory-mib", "60"]);
    Run::of(command.arg("--manifest").arg(&manifest)).ok();
    let told: Value = serde_json::from_slice(&bytes(&manifest)).unwrap();
    assert_eq!(told["plan"]["kernels"]["scratch"], "f32", "{told}");
    assert_eq!(told["steps"], 4, "{told}");

    let (model, data) = (there.tiny(), there.pairs());
    remember_exact_formats(&there, &model, &data);
    let own = there.path("own.gguf");
    let mut command = elsewhere(&there, &model, &data, &own);
    command.args(["--threads", "2", "--learning-rate", "0.01"]);
    Run::of(command.args(settings.split(' '))).ok();
    assert_ne!(bytes(&own), bytes(&out), "defaults are the same");

    let replayed = there.path("replayed.gguf");
    let mut command = elsewhere(&there, &model, &data, &replayed);
    let run = Run::of(command.arg("--json").arg("--replay").arg(&manifest)).ok();
    assert!(bytes(&replayed) == bytes(&out));
    assert_eq!(run.objects().last().unwrap()["same_bytes"], true);
    // A manifest of the replay tells of the same run.
    let again = there.path("again.json");
    let mut command = elsewhere(&there, &model, &data, &replayed);
    command.arg("--replay").arg(&manifest).arg("--manifest");
    Run::of(command.arg(&again)).ok();
    assert_eq!(bytes(&again), bytes(&manifest));
}

#[test]
fn a_replay_starts_from_the_same_adapter_and_takes_rankings_as_the_first_run_did() {
    let folder = Folder::new();
    let (model, data) = (folder.tiny(), folder.pairs());
    let (first, out) = (folder.path("first.gguf"), folder.path("out.gguf"));
    Run::of(train(&model, &data, &first).args(["--max-steps", "2"])).ok();
    let (manifest, replayed) = (folder.path("run.json"), folder.path("replayed.gguf"));
    let mut command = train(&model, &data, &out);
    command.args(["--max-steps", "3", "--loss-type", "kto"]);
    command.arg("--init-adapter").arg(&first);
    Run::of(command.arg("--manifest").arg(&manifest)).ok();
    let mut command = elsewhere(&folder, &model, &data, &replayed);
    command.arg("--replay").arg(&manifest);
    Run::of(command.arg("--init-adapter").arg(&first)).ok();
    assert!(bytes(&replayed) == bytes(&out));
    // Without it the run begins elsewhere.
    let mut command = elsewhere(&folder, &model, &data, &replayed);
    Run::of(command.arg("--replay").arg(&manifest)).failed(1, &["run.json", "base model"]);
}

#[test]
fn a_replay_of_other_inputs_or_with_settings_of_its_own_is_refused() {
    let folder = Folder::new();
    let (model, data, out) = (folder.tiny(), folder.pairs(), folder.path("out.gguf"));
    let manifest = folder.path("run.json");
    let mut command = train(&model, &data, &out);
    command.args(["--max-steps", "1"]);
    Run::of(command.arg("--manifest").arg(&manifest)).ok();
    let replay = |model: &Path, data: &Path, manifest: &Path| {
        let mut command = elsewhere(&folder, model, data, &folder.path("new.gguf"));
        command.arg("--replay").arg(manifest);
        command
    };
    let fewer = String::from_utf8(bytes(&data)).unwrap();
    let fewer: String = fewer.split_inclusive('\n').take(5).collect();
    let fewer = folder.file("fewer.jsonl", fewer);
    Run::of(&mut replay(&model, &fewer, &manifest)).failed(1, &["run.json", "training data"]);
    let other = thumbprint_fixtures::TinyModel {
        seed: 9,
        ..Default::default()
    };
    let other = folder.model("other.gguf", &other);
    Run::of(&mut replay(&other, &data, &manifest)).failed(1, &["run.json", "base model"]);
    for option in [
        ["--seed", "1"],
        ["--threads", "2"],
        ["--beta", "0.1"],
        ["--device", "gpu"],
    ] {
        let mut command = replay(&model, &data, &manifest);
        Run::of(command.args(option)).failed(2, &[option[0]]);
    }
    let told = String::from_utf8(bytes(&manifest)).unwrap();
    for (from, to, word) in [
        ("\"manifest\": 1", "\"manifest\": 2", "form 2"),
        ("\"n_threads\": 1", "\"n_threads\": 0", "threads"),
        ("\"n_threads\": 1", "\"n_threads\": 99999", "threads"),
        (
            "\"learning_rate\": 0.01",
            "\"learning_rate\": -1.0",
            "learning_rate",
        ),
        ("{", "[", "not a manifest"),
    ] {
        assert!(told.contains(from), "{from}: {told}");
        let wrong = folder.file("wrong.json", told.replacen(from, to, 1));
        Run::of(&mut replay(&model, &data, &wrong)).failed(1, &["wrong.json", word]);
    }
    assert!(!folder.path("new.gguf").exists());
}
