//! What a step is made of: losses that look at more than one pair, at part of a completion, or at no reference.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Examples, ModelFile};
use thumbprint_fixtures::TinyModel;
use thumbprint_tune::adapter::LoraConfig;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::graph::Kernels;
use thumbprint_tune::objective::{
    LossType, PairObjective, PairWeights, UnpairedLossType, UnpairedObjective,
};
use thumbprint_tune::plan::Plan;
use thumbprint_tune::trainer::{StepMetrics, Trainer};

const N_VOCAB: usize = 384;

fn tiny() -> ModelFile {
    ModelFile::new(&TinyModel::llama().writer())
}

fn random() -> Examples {
    Examples::random(
        10,
        N_VOCAB,
        &[(6, &[8, 12]), (5, &[9, 7]), (4, &[3, 15]), (7, &[11, 2])],
    )
}

fn pairs() -> Vec<Example> {
    let pair = |(prompt, completions): &(Vec<i32>, Vec<Vec<i32>>)| Example {
        prompt: prompt.clone(),
        kind: Kind::Pair {
            chosen: completions[0].clone(),
            rejected: completions[1].clone(),
            weights: PairWeights::default(),
        },
    };
    random().0.iter().map(pair).collect()
}

fn thumbs() -> Vec<Example> {
    let thumb = |(i, (prompt, completions)): (usize, &(Vec<i32>, Vec<Vec<i32>>))| Example {
        prompt: prompt.clone(),
        kind: Kind::Unpaired {
            completion: completions[0].clone(),
            desirable: i % 2 == 0,
            weight: 1.0,
        },
    };
    random().0.iter().enumerate().map(thumb).collect()
}

fn trainer(
    file: &ModelFile,
    examples: Vec<Example>,
    max_tokens: usize,
    settings: impl Fn(&mut TrainConfig),
) -> Trainer {
    let mut config = TrainConfig {
        lora: LoraConfig {
            rank: 4,
            ..LoraConfig::default()
        },
        learning_rate: 1e-2,
        batch_size: 4,
        max_steps: 12,
        shuffle: false,
        ..TrainConfig::default()
    };
    settings(&mut config);
    let plan = Plan {
        kernels: Kernels::EXACT,
        n_threads: 2,
        max_tokens,
        head_rows: 32,
        recomputed_layers: 0,
        last_layers: None,
        recompute_gate_up: false,
        keep_weights: false,
        device: None,
    };
    Trainer::new(file.open(), "tiny", examples, config, plan).unwrap()
}

fn steps(trainer: &mut Trainer, n: usize) -> Vec<StepMetrics> {
    while !trainer.score_references().unwrap().is_empty() {}
    (0..n).map(|_| trainer.step().unwrap()).collect()
}

fn with(loss_type: LossType) -> impl Fn(&mut TrainConfig) {
    move |config| config.pair = PairObjective::new(loss_type, 0.1)
}

#[test]
fn pairs_are_ranked_over_the_whole_step_however_it_is_packed() {
    let file = tiny();
    for loss_type in [LossType::Aot, LossType::AotUnpaired] {
        let run = |max_tokens| {
            let mut trainer = trainer(&file, pairs(), max_tokens, with(loss_type));
            steps(&mut trainer, 4)
        };
        let (whole, cut) = (run(256), run(30));
        for (whole, cut) in whole.iter().zip(&cut) {
            // Observed 1e-6.
            assert!(
                (whole.loss - cut.loss).abs() < 1e-4,
                "{loss_type}: {whole:?} {cut:?}"
            );
            let norm = (whole.grad_norm - cut.grad_norm).abs() / whole.grad_norm;
            assert!(norm < 1e-2, "{loss_type}: {whole:?} {cut:?}");
        }
        assert!(whole[3].loss < whole[0].loss);
    }
}

#[test]
fn tails_that_count_whole_change_nothing_and_tails_that_do_not_are_not_pushed() {
    let file = tiny();
    let run = |ld_alpha| {
        let settings = |config: &mut TrainConfig| config.pair.ld_alpha = ld_alpha;
        let mut trainer = trainer(&file, pairs(), 256, settings);
        let metrics = steps(&mut trainer, 6);
        (metrics, trainer.lora().unwrap().values.clone())
    };
    let (plain, all) = (run(None), run(Some(1.0)));
    assert_eq!(plain.1, all.1);
    let shared = run(Some(0.0)).0;
    assert!((shared[0].loss - std::f64::consts::LN_2).abs() < 1e-6);
    assert!(shared[5].loss < 0.5 * shared[0].loss, "{:?}", shared[5]);
    let (whole, part) = (
        plain.0[0].metrics.logps_rejected,
        shared[0].metrics.logps_rejected,
    );
    assert!(part > whole, "the tail is not counted: {part:?} {whole:?}");
}

#[test]
fn a_loss_without_a_reference_asks_for_none() {
    let file = tiny();
    let mut trainer = trainer(&file, pairs(), 256, |config| {
        config.pair.loss_type = vec![LossType::Simpo];
        config.pair.beta = 2.0;
    });
    assert!(trainer.score_references().unwrap().is_empty());
    let metrics = steps(&mut trainer, 6);
    let m = metrics[0].metrics;
    let (reward, logp) = (m.rewards_chosen.unwrap(), m.logps_chosen.unwrap());
    assert!((reward - 2.0 * logp).abs() < 1e-9, "{reward} {logp}");
    assert!(metrics[5].loss < metrics[0].loss);
}

#[test]
fn pairs_that_the_model_would_not_write_weigh_less() {
    let file = tiny();
    let run = |use_weighting| {
        let settings = |config: &mut TrainConfig| config.pair.use_weighting = use_weighting;
        steps(&mut trainer(&file, pairs(), 256, settings), 1)[0].loss
    };
    let (weighed, plain) = (run(true), run(false));
    // Random tokens are less likely than what the model would sample.
    assert!(weighed > 0.0 && weighed < plain, "{weighed} {plain}");
}

#[test]
fn kto_compares_with_the_divergence_of_completions_that_are_not_their_prompts_own() {
    let file = tiny();
    let unpaired = UnpairedObjective {
        loss_type: UnpairedLossType::Kto,
        beta: 0.1,
    };
    let settings = |config: &mut TrainConfig| config.unpaired = unpaired;
    let mut trainer = trainer(&file, thumbs(), 256, settings);
    let first = steps(&mut trainer, 3)[0].loss;
    assert!((first - 0.5).abs() < 1e-6, "{first}");

    let examples = thumbs();
    let n = examples.len();
    let mismatched: Vec<Example> = (0..n)
        .map(|i| Example {
            prompt: examples[i].prompt.clone(),
            kind: examples[(i + n - 1) % n].kind.clone(),
        })
        .collect();
    let mut gained = |examples: &[Example]| -> Vec<f64> {
        let with = trainer.score_examples(examples, true).unwrap();
        let without = trainer.score_examples(examples, false).unwrap();
        with.iter()
            .zip(&without)
            .map(|(p, r)| p[0] - r[0])
            .collect()
    };
    let kl = (gained(&mismatched).iter().sum::<f64>() / n as f64).max(0.0);
    let losses = gained(&examples).into_iter().enumerate().map(|(i, rho)| {
        let margin = if i % 2 == 0 { rho - kl } else { kl - rho };
        1.0 / (1.0 + (0.1 * margin).exp())
    });
    let expected = losses.sum::<f64>() / n as f64;
    let loss = trainer.step().unwrap().loss;
    // Observed 1e-8.
    assert!((loss - expected).abs() < 1e-6, "{loss} {expected}, kl {kl}");
}
