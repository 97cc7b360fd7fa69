//! A run that is killed again and again, wherever it happens to be, ends with the bytes of one that was left alone.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Examples, ModelFile, adapter_file, folder};
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_tune::adapter::LoraConfig;
use thumbprint_tune::checkpoint::Checkpoint;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::graph::Kernels;
use thumbprint_tune::model::Model;
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::plan::Plan;
use thumbprint_tune::rng::Rng;
use thumbprint_tune::trainer::Trainer;

const FOLDER: &str = "THUMBPRINT_TEST_KILLS";
/// Blocks at the end that are adapted; all if 0.
const LAST_LAYERS: &str = "THUMBPRINT_TEST_LAST_LAYERS";
/// Of each kind of run.
const KILLS: usize = 50;
/// For a process to start and take one step.
const PATIENCE: Duration = Duration::from_secs(60);

fn trainer(folder: &Path, last_layers: Option<usize>) -> Trainer {
    let model = Model::open(&folder.join("model.gguf")).unwrap();
    let n_vocab = model.spec.n_vocab;
    let lengths: [(usize, &[usize]); 6] = [
        (40, &[60, 90]),
        (20, &[30, 70]),
        (9, &[80, 20]),
        (33, &[12, 50]),
        (5, &[64, 64]),
        (50, &[7, 41]),
    ];
    let pairs = Examples::random(41, n_vocab, &lengths).0.into_iter();
    let example = |(prompt, sides): (Vec<i32>, Vec<Vec<i32>>)| Example {
        prompt,
        kind: Kind::Pair {
            chosen: sides[0].clone(),
            rejected: sides[1].clone(),
            weights: PairWeights::default(),
        },
    };
    let config = TrainConfig {
        batch_size: 4,
        max_steps: 300,
        lora: LoraConfig {
            rank: 4,
            dropout: 0.1,
            last_layers,
            ..LoraConfig::default()
        },
        ..TrainConfig::default()
    };
    let plan = Plan {
        kernels: Kernels::BF16,
        n_threads: 1,
        // A step takes several ubatches.
        max_tokens: 256,
        head_rows: 32,
        recomputed_layers: 0,
        last_layers,
        recompute_gate_up: false,
        keep_weights: false,
        device: None,
    };
    Trainer::new(model, "base", pairs.map(example).collect(), config, plan).unwrap()
}

/// What a process does until it is killed or done: goes on from the checkpoint, writes one after each step, and the adapter at the end.
fn run(folder: &Path, last_layers: Option<usize>) {
    let mut trainer = trainer(folder, last_layers);
    let path = folder.join("run.checkpoint");
    if let Some(checkpoint) = Checkpoint::load(&path, &trainer.hashes()).unwrap() {
        trainer.resume(checkpoint).unwrap();
    }
    while !trainer.score_references().unwrap().is_empty() {}
    while !trainer.is_finished() {
        trainer.step().unwrap();
        trainer.checkpoint().unwrap().save(&path).unwrap();
    }
    let adapter = adapter_file(trainer.lora().unwrap(), "llama");
    adapter.write(&folder.join("adapter.gguf")).unwrap();
}

fn child(folder: &Path, last_layers: Option<usize>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .env(LAST_LAYERS, last_layers.unwrap_or(0).to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Not a test by itself: the others start it.
#[test]
fn the_process_that_is_killed() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let last: usize = std::env::var(LAST_LAYERS).unwrap().parse().unwrap();
        run(Path::new(&folder), Some(last).filter(|n| *n > 0));
    }
}

#[test]
fn runs_killed_a_hundred_times_end_with_the_bytes_of_ones_left_alone() {
    for last_layers in [None, Some(1)] {
        killed_again_and_again(last_layers);
    }
}

fn killed_again_and_again(last_layers: Option<usize>) {
    let tiny = TinyModel {
        ty: GgmlType::Q4_1,
        ..TinyModel::llama()
    };
    let model = ModelFile::new(&tiny.writer());
    let folders = [folder(), folder()];
    for folder in &folders {
        std::fs::copy(&model.path, folder.path().join("model.gguf")).unwrap();
    }
    let [alone, killed] = folders.each_ref().map(|folder| folder.path());
    assert!(child(alone, last_layers).status().unwrap().success());

    let checkpoint = killed.join("run.checkpoint");
    let mut rng = Rng::new(7);
    let mut progress = 0;
    for kill in 0..KILLS {
        let before = std::fs::read(&checkpoint).ok();
        let mut process = child(killed, last_layers).spawn().unwrap();
        // Every other one reaches a step, however slow the machine; the rest are mostly killed before their first.
        if kill % 2 == 1 {
            let start = Instant::now();
            while std::fs::read(&checkpoint).ok() == before {
                assert!(start.elapsed() < PATIENCE, "no step in {PATIENCE:?}");
                sleep(Duration::from_micros(500));
            }
        }
        sleep(Duration::from_micros(rng.below(10_000)));
        let done = process.try_wait().unwrap();
        assert!(
            done.is_none(),
            "over after {kill} kills: make the run longer"
        );
        process.kill().unwrap();
        process.wait().unwrap();
        progress += usize::from(std::fs::read(&checkpoint).ok() != before);
    }
    // Otherwise nothing was interrupted but the start.
    assert!(
        progress > KILLS / 4,
        "only {progress} of {KILLS} got anywhere"
    );
    assert!(child(killed, last_layers).status().unwrap().success());
    let adapter = |folder: &Path| std::fs::read(folder.join("adapter.gguf")).unwrap();
    assert!(adapter(alone) == adapter(killed));
    println!("{KILLS} kills, {progress} of them after a step");
}
