//! Anchors: the divergence from the base's whole distribution, and its gradient, from one mean embedding a token.
#![allow(clippy::unwrap_used)]

mod common;

use common::measure::relative_error;
use common::{Examples, ModelFile, exact, random_lora};
use thumbprint_fixtures::TinyModel;
use thumbprint_tune::adapter::{LoraConfig, Module};
use thumbprint_tune::batch::Packed;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::graph::{Kernels, Network, NetworkOptions};
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::plan::Plan;
use thumbprint_tune::trainer::{Reference, TrainError, Trainer};

const N_VOCAB: usize = 260;

fn tiny() -> ModelFile {
    let tiny = TinyModel {
        n_vocab: N_VOCAB,
        ..TinyModel::llama()
    };
    ModelFile::new(&tiny.writer())
}

/// The first examples' completions as usual, the last one's against the base's distribution.
fn last_is_anchored(examples: &Examples, network: &mut Network) -> Packed {
    let mut packed = examples.pack();
    let mut means = network.mean_embeddings(&packed).unwrap();
    let last = means.len() - 1;
    packed.means.insert(last, means.remove(last));
    packed
}

/// `sum_v p_v d log q_v` is the gradient of imitating every token of the vocabulary, each as often as the base would say it.
#[test]
fn an_anchors_value_and_gradient_are_those_of_imitating_the_whole_vocabulary() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    // Chunks of the head that end within the anchor.
    let options = NetworkOptions {
        head_rows: 3,
        ..exact(512)
    };
    let mut network = file.network(options, Some(&lora));
    network.update_adapter(&lora).unwrap();
    let anchor = Examples::random(8, N_VOCAB, &[(5, &[7])]);
    let (prompt, completion) = (&anchor.0[0].0, &anchor.0[0].1[0]);

    let (mut expected, mut naive) = (0.0, vec![0.0; lora.values.len()]);
    for t in 0..completion.len() {
        let before = [prompt, &completion[..t]].concat();
        let every_token = (0..N_VOCAB as i32).map(|token| vec![token]).collect();
        let all = Examples(vec![(before, every_token)]).pack();
        let base = network.score(&all, false).unwrap();
        let p: Vec<f64> = base.logps.iter().map(|logp| logp[0].exp()).collect();
        let policy = network.forward(&all).unwrap();
        expected += (p.iter().zip(&policy.logps))
            .map(|(p, logq)| p * logq[0])
            .sum::<f64>();
        network.backward(&all, &p, &lora, &mut naive).unwrap();
    }

    let packed = last_is_anchored(&anchor, &mut network);
    let scores = network.forward(&packed).unwrap();
    let mut gradient = vec![0.0; lora.values.len()];
    network
        .backward(&packed, &[1.0], &lora, &mut gradient)
        .unwrap();
    let naive: Vec<f64> = naive.iter().map(|x| f64::from(*x)).collect();
    let error = relative_error(&gradient, &naive);
    println!(
        "value {:.1e}, gradient {error:.1e}",
        scores.sum(0) - expected
    );
    // Observed 2e-6 and 1e-6.
    assert!((scores.sum(0) - expected).abs() < 1e-4);
    assert!(error < 1e-4, "{error:.1e}");
}

#[test]
fn an_anchor_leaves_the_log_probabilities_beside_it_alone() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let mut network = file.network(exact(512), Some(&lora));
    network.update_adapter(&lora).unwrap();
    let examples = Examples::random(9, N_VOCAB, &[(6, &[5, 9]), (4, &[11])]);
    let without = network.score(&examples.pack(), true).unwrap();
    let packed = last_is_anchored(&examples, &mut network);
    let with = network.score(&packed, true).unwrap();
    assert_eq!(with.logps[..2], without.logps[..2]);
    assert_ne!(with.logps[2], without.logps[2]);
}

#[test]
fn means_of_another_length_are_refused_with_both_sizes() {
    let file = tiny();
    let mut network = file.network(exact(512), None);
    let mut packed = Examples::random(9, N_VOCAB, &[(6, &[5])]).pack();
    packed.means.insert(0, vec![0.0; 7].into());
    let error = network.score(&packed, false).unwrap_err().to_string();
    assert!(
        error.contains("7 numbers") && error.contains("5 targets"),
        "{error}"
    );
    packed.means = [(3, vec![0.0; 7].into())].into();
    let error = network.score(&packed, false).unwrap_err().to_string();
    assert!(error.contains("completion 3 of 1"), "{error}");
}

fn trainer(file: &ModelFile, weight: f64) -> Trainer {
    let examples = Examples::random(10, N_VOCAB, &[(6, &[8, 12]), (5, &[9, 7]), (2, &[30])]);
    let kind = |completions: &[Vec<i32>]| match completions {
        [chosen, rejected] => Kind::Pair {
            chosen: chosen.clone(),
            rejected: rejected.clone(),
            weights: PairWeights::default(),
        },
        [text] => Kind::Anchor {
            completion: text.clone(),
            weight,
        },
        _ => unreachable!(),
    };
    let examples = examples.0.iter().map(|(prompt, completions)| Example {
        prompt: prompt.clone(),
        kind: kind(completions),
    });
    let config = TrainConfig {
        lora: LoraConfig {
            rank: 4,
            ..LoraConfig::default()
        },
        learning_rate: 1e-2,
        batch_size: 3,
        max_steps: 12,
        ..TrainConfig::default()
    };
    let plan = Plan {
        kernels: Kernels::EXACT,
        n_threads: 2,
        max_tokens: 128,
        head_rows: 32,
        recomputed_layers: 0,
        last_layers: None,
        recompute_gate_up: false,
        keep_weights: false,
        device: None,
    };
    Trainer::new(file.open(), "tiny", examples.collect(), config, plan).unwrap()
}

/// Loss of the first and last step, and how far the anchor's text moved: nats.
fn trained(file: &ModelFile, weight: f64) -> (f64, f64, f64) {
    let mut trainer = trainer(file, weight);
    while !trainer.score_references().unwrap().is_empty() {}
    let first = trainer.step().unwrap().loss;
    let mut last = first;
    while !trainer.is_finished() {
        last = trainer.step().unwrap().loss;
    }
    let anchor = [trainer.examples()[2].clone()];
    let mut logp = |adapter| trainer.score_examples(&anchor, adapter).unwrap()[0][0];
    let moved = logp(true) - logp(false);
    (first, last, moved)
}

#[test]
fn an_anchor_holds_its_text_while_pairs_are_learned() {
    let file = tiny();
    let (first, last, free) = trained(&file, 0.0);
    assert!((first - std::f64::consts::LN_2).abs() < 1e-6, "{first}");
    let (first_held, last_held, held) = trained(&file, 30.0);
    println!("free: {last:.4}, moved {free:.4}; held: {last_held:.4}, moved {held:.4}");
    // Nothing has moved yet, so that the anchor adds nothing.
    assert!((first_held - first).abs() < 1e-6, "{first_held}");
    assert!(last_held < 0.8 * first_held, "{last_held}");
    assert!(held.abs() < 0.3 * free.abs(), "{held} of {free}");
}

#[test]
fn an_anchor_whose_base_is_unknown_is_refused() {
    let file = tiny();
    let mut trainer = trainer(&file, 1.0);
    for index in 0..3 {
        let logps = vec![-1.0, -1.0];
        trainer.set_reference(
            index,
            Reference {
                logps,
                ..Reference::default()
            },
        );
    }
    let error = trainer.step().unwrap_err();
    assert!(
        matches!(error, TrainError::NoReference { index: 2 }),
        "{error}"
    );
}
