//! Rankings: the loss and its gradient against recorded values, finite differences and the axioms, and training on them.
#![allow(clippy::unwrap_used)]

mod common;

use std::f64::consts::LN_2;

use common::{Examples, ModelFile};
use serde_json::Value;
use thumbprint_fixtures::TinyModel;
use thumbprint_tune::adapter::LoraConfig;
use thumbprint_tune::checkpoint::Checkpoint;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, ExampleError, Kind};
use thumbprint_tune::graph::Kernels;
use thumbprint_tune::objective::{
    MetricsSum, ObjectiveError, PairItem, PairLogps, PairObjective, PairWeights, RankingLogps,
    RankingObjective, RankingWeights, Totals, demonstration,
};
use thumbprint_tune::plan::Plan;
use thumbprint_tune::trainer::{StepMetrics, TrainError, Trainer};

const ALONE: Totals = Totals {
    pairs: 0,
    unpaired: 0,
    rankings: 1,
    nll_tokens: 0,
    anchor_tokens: 0,
};
const NO_LIKELIHOOD: RankingWeights = RankingWeights {
    ranking: 1.0,
    nll: 0.0,
};

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn of_rewards(rewards: &[f64], beta: f64) -> RankingLogps {
    RankingLogps {
        policy: rewards.iter().map(|r| -40.0 + r / beta).collect(),
        reference: vec![-40.0; rewards.len()],
        n_tokens: vec![9; rewards.len()],
    }
}

fn loss_of(rewards: &[f64]) -> f64 {
    let objective = RankingObjective::default();
    let logps = of_rewards(rewards, objective.beta);
    let term = objective.ranking(0, &logps, &NO_LIKELIHOOD, &ALONE);
    term.unwrap().loss
}

#[test]
fn losses_and_gradients_are_those_recorded() {
    let file: Value = serde_json::from_str(include_str!("recorded/ranking_losses.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    for (j, case) in cases.iter().enumerate() {
        let objective = RankingObjective {
            beta: case["beta"].as_f64().unwrap(),
            ..RankingObjective::default()
        };
        let logps = RankingLogps {
            policy: numbers(&case["policy"]),
            reference: numbers(&case["reference"]),
            n_tokens: serde_json::from_value(case["n_tokens"].clone()).unwrap(),
        };
        let term = objective
            .ranking(j, &logps, &NO_LIKELIHOOD, &ALONE)
            .unwrap();
        let wanted = numbers(&case["grad"]);
        // Observed 2e-14 and 1e-15: relative and absolute.
        let loss = case["loss"].as_f64().unwrap();
        assert!(
            (term.loss / loss - 1.0).abs() < 1e-9,
            "case {j}: {} {loss}",
            term.loss
        );
        for (got, want) in term.grad.iter().zip(wanted) {
            assert!((got - want).abs() < 1e-9 * want.abs().max(1e-3), "case {j}");
        }
    }
}

#[test]
fn a_fresh_adapter_has_the_logarithm_of_the_number_of_orders() {
    for (k, orders) in [(2, 2.0f64), (3, 6.0), (4, 24.0), (7, 5040.0)] {
        let loss = loss_of(&vec![0.0; k]);
        assert!((loss - orders.ln()).abs() < 1e-12, "{k}: {loss}");
    }
}

#[test]
fn a_ranking_of_two_is_a_pair() {
    let objective = RankingObjective::default();
    for (chosen, rejected) in [(-31.0, -52.0), (-77.5, -18.0), (-1e4, -1.0), (-1.0, -1e4)] {
        let pair = PairLogps {
            chosen,
            rejected,
            ref_chosen: -40.0,
            ref_rejected: -35.0,
            n_chosen: 8,
            n_rejected: 11,
            ..PairLogps::default()
        };
        let totals = Totals { pairs: 1, ..ALONE };
        let item = PairItem {
            index: 0,
            logps: pair,
            weights: PairWeights::default(),
        };
        let dpo = PairObjective::default().pair(&item, &totals).unwrap();
        let ranked = RankingLogps {
            policy: vec![chosen, rejected],
            reference: vec![-40.0, -35.0],
            n_tokens: vec![8, 11],
        };
        let term = objective
            .ranking(0, &ranked, &NO_LIKELIHOOD, &ALONE)
            .unwrap();
        // A sum of exponentials loses what is 1e-16 of the largest.
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12 * a.abs().max(1e-3);
        assert!(close(term.loss, dpo.loss), "{} {}", term.loss, dpo.loss);
        assert!(close(term.grad[0], dpo.grad.chosen));
        assert!(close(term.grad[1], dpo.grad.rejected));
        let (mut of_pair, mut of_ranking) = (MetricsSum::default(), MetricsSum::default());
        of_pair.add_pair(&pair, 0.1);
        of_ranking.add_ranking(&ranked, 0.1);
        assert_eq!(of_pair.mean(), of_ranking.mean());
    }
}

fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 1 {
        return vec![vec![0]];
    }
    let shorter = orders(n - 1).into_iter();
    let longer = shorter.flat_map(|order| {
        (0..n).map(move |at| {
            let mut order = order.clone();
            order.insert(at, n - 1);
            order
        })
    });
    longer.collect()
}

#[test]
fn the_orders_of_some_answers_have_probabilities_that_add_up_to_one() {
    let rewards = [0.4, -1.3, 2.2, 0.0, 0.7];
    let all = orders(5);
    assert_eq!(all.len(), 120);
    let sum: f64 = all
        .iter()
        .map(|order| {
            let ordered: Vec<f64> = order.iter().map(|i| rewards[*i]).collect();
            (-loss_of(&ordered)).exp()
        })
        .sum();
    assert!((sum - 1.0).abs() < 1e-12, "{sum}");
}

#[test]
fn without_one_of_its_answers_a_ranking_is_one_of_the_others() {
    let (rewards, extra) = ([1.1, 0.2, -0.6], 0.5);
    // Wherever the fourth answer might have stood.
    let sum: f64 = (0..=3)
        .map(|at| {
            let mut longer = rewards.to_vec();
            longer.insert(at, extra);
            (-loss_of(&longer)).exp()
        })
        .sum();
    assert!((sum - (-loss_of(&rewards)).exp()).abs() < 1e-12);
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let objective = RankingObjective {
        beta: 0.2,
        loss_weight: 0.7,
        sft_weight: 0.3,
    };
    let weights = RankingWeights {
        ranking: 1.5,
        nll: 0.5,
    };
    let logps = RankingLogps {
        policy: vec![-53.6, -88.9, -19.4, -30.0],
        reference: vec![-54.2, -87.5, -40.5, -21.0],
        n_tokens: vec![15, 40, 7, 9],
    };
    let mut totals = Totals::default();
    totals.add_ranking(15, &weights);
    totals.add_ranking(22, &weights);
    assert_eq!((totals.rankings, totals.nll_tokens), (2, 37));
    let at = |i: usize, x: f64| {
        let mut moved = logps.clone();
        moved.policy[i] = x;
        objective.ranking(0, &moved, &weights, &totals).unwrap()
    };
    for (i, &x) in logps.policy.iter().enumerate() {
        let h = 1e-5;
        let slope = (at(i, x + h).loss - at(i, x - h).loss) / (2.0 * h);
        let grad = at(i, x).grad[i];
        assert!((slope - grad).abs() < 1e-8, "{i}: {slope} {grad}");
    }
    // A constant added to all rewards changes no choice; the likelihood is its own.
    let best = demonstration(0, -53.6, 15, 0.5, &totals).unwrap();
    let sum: f64 = at(0, -53.6).grad.iter().sum();
    assert!((sum - 0.3 * best.grad).abs() < 1e-12, "{sum}");
}

#[test]
fn huge_margins_stay_finite_and_keep_their_digits() {
    for rewards in [
        vec![1e7, 0.0, -1e7],
        vec![-1e7, 0.0, 1e7],
        vec![0.0, 800.0, -800.0, 0.0],
    ] {
        let loss = loss_of(&rewards);
        assert!(loss.is_finite() && loss >= 0.0, "{rewards:?}: {loss}");
    }
    // Won by 40: the loss is exp(-40), not nothing.
    let loss = loss_of(&[40.0, 0.0]);
    assert!((loss / (-40f64).exp() - 1.0).abs() < 1e-9, "{loss}");
}

#[test]
fn metrics_tell_the_best_from_the_others_and_the_share_of_comparisons_that_are_right() {
    let mut metrics = MetricsSum::default();
    metrics.add_ranking(&of_rewards(&[1.0, 2.0, -3.0], 0.1), 0.1);
    let mean = metrics.mean();
    let close = |value: Option<f64>, want: f64| (value.unwrap() - want).abs() < 1e-12;
    assert!(close(mean.rewards_chosen, 1.0) && close(mean.rewards_rejected, -0.5));
    assert!(close(mean.rewards_margins, 1.5) && close(mean.rewards_accuracies, 2.0 / 3.0));
    assert!(close(mean.logps_chosen, -30.0) && close(mean.logps_rejected, -45.0));
}

#[test]
fn rankings_and_settings_that_make_no_sense_are_refused() {
    let objective = RankingObjective::default();
    let good = of_rewards(&[0.3, 0.1, 0.0], 0.1);
    let refused = |logps: &RankingLogps, weights: &RankingWeights, totals: &Totals| {
        objective.ranking(17, logps, weights, totals).unwrap_err()
    };
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut broken = good.clone();
        broken.policy[1] = bad;
        let error = refused(&broken, &NO_LIKELIHOOD, &ALONE);
        assert!(matches!(error, ObjectiveError::NotFinite { index: 17, .. }));
        let mut broken = good.clone();
        broken.reference[2] = bad;
        assert!(matches!(
            refused(&broken, &NO_LIKELIHOOD, &ALONE),
            ObjectiveError::NotFinite { index: 17, .. }
        ));
    }
    for weights in [
        RankingWeights {
            ranking: -1.0,
            nll: 0.0,
        },
        RankingWeights {
            ranking: 1.0,
            nll: f64::NAN,
        },
    ] {
        let error = refused(&good, &weights, &ALONE);
        assert!(matches!(error, ObjectiveError::Weight { index: 17, .. }));
    }
    let mut empty = good.clone();
    empty.n_tokens[2] = 0;
    assert!(matches!(
        refused(&empty, &NO_LIKELIHOOD, &ALONE),
        ObjectiveError::EmptyCompletion { index: 17, .. }
    ));
    assert!(matches!(
        refused(&of_rewards(&[0.1], 0.1), &NO_LIKELIHOOD, &ALONE),
        ObjectiveError::TooFew { index: 17 }
    ));
    assert!(matches!(
        refused(&good, &NO_LIKELIHOOD, &Totals::default()),
        ObjectiveError::NotCounted { index: 17, .. }
    ));
    for (bad, setting) in [
        (
            RankingObjective {
                beta: 0.0,
                ..objective
            },
            "beta: ",
        ),
        (
            RankingObjective {
                loss_weight: 0.0,
                ..objective
            },
            "loss_weights: ",
        ),
        (
            RankingObjective {
                sft_weight: -0.1,
                ..objective
            },
            "loss_weights: ",
        ),
    ] {
        let says = bad.validate().unwrap_err().to_string();
        assert!(says.starts_with(setting), "{says}");
    }
}

// ---- training ----

fn rankings(lengths: &[(usize, &[usize])]) -> Vec<Example> {
    let ranking = |(prompt, completions): (Vec<i32>, Vec<Vec<i32>>)| Example {
        prompt,
        kind: Kind::Ranking {
            completions,
            weights: RankingWeights::default(),
        },
    };
    Examples::random(12, 384, lengths)
        .0
        .into_iter()
        .map(ranking)
        .collect()
}

fn three_rankings() -> Vec<Example> {
    rankings(&[(6, &[8, 12, 5]), (5, &[9, 7]), (4, &[3, 15, 6, 10])])
}

fn trainer(
    file: &ModelFile,
    examples: Vec<Example>,
    max_tokens: usize,
    settings: impl Fn(&mut TrainConfig),
) -> Result<Trainer, TrainError> {
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
        n_threads: 1,
        max_tokens,
        head_rows: 32,
        recomputed_layers: 0,
        last_layers: None,
        recompute_gate_up: false,
        keep_weights: false,
        device: None,
    };
    Trainer::new(file.open(), "tiny", examples, config, plan)
}

fn steps(trainer: &mut Trainer, n: usize) -> Vec<StepMetrics> {
    while !trainer.score_references().unwrap().is_empty() {}
    (0..n).map(|_| trainer.step().unwrap()).collect()
}

#[test]
fn rankings_are_learned_and_a_step_does_not_depend_on_how_it_is_packed() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let run = |max_tokens| {
        let mut trainer = trainer(&file, three_rankings(), max_tokens, |_| {}).unwrap();
        steps(&mut trainer, 8)
    };
    let (whole, cut) = (run(256), run(40));
    let first = (6f64.ln() + LN_2 + 24f64.ln()) / 3.0;
    assert!((whole[0].loss - first).abs() < 1e-5, "{}", whole[0].loss);
    for (whole, cut) in whole.iter().zip(&cut) {
        // Observed 1e-6.
        assert!((whole.loss - cut.loss).abs() < 1e-4, "{whole:?} {cut:?}");
    }
    let last = whole[7].metrics;
    assert!(whole[7].loss < 0.3 * first, "{}", whole[7].loss);
    assert_eq!(last.rewards_accuracies, Some(1.0));
    // Each prompt once for each of its completions.
    assert_eq!(whole[0].num_tokens, 3 * 6 + 25 + 2 * 5 + 16 + 4 * 4 + 34);
}

/// One after another or all at once, with pairs and thumbs beside them.
#[test]
fn eight_micro_batches_of_one_are_one_of_eight() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let mut examples = three_rankings();
    for (i, (prompt, completions)) in Examples::random(13, 384, &[(5, &[4usize, 6][..]); 5])
        .0
        .into_iter()
        .enumerate()
    {
        let kind = match i % 2 {
            0 => Kind::Pair {
                chosen: completions[0].clone(),
                rejected: completions[1].clone(),
                weights: PairWeights::default(),
            },
            _ => Kind::Unpaired {
                completion: completions[0].clone(),
                desirable: i == 1,
                weight: 1.0,
            },
        };
        examples.push(Example { prompt, kind });
    }
    let run = |max_tokens| {
        let settings = |config: &mut TrainConfig| {
            config.batch_size = 8;
            config.ranking.sft_weight = 0.2;
        };
        let mut trainer = trainer(&file, examples.clone(), max_tokens, settings).unwrap();
        let metrics = steps(&mut trainer, 3);
        (metrics, trainer.lora().unwrap().values.clone())
    };
    let longest = examples.iter().map(Example::n_rows).max().unwrap();
    let ((together, a), (apart, b)) = (run(512), run(longest));
    for (together, apart) in together.iter().zip(&apart) {
        assert!((together.loss - apart.loss).abs() < 1e-5);
    }
    let error = common::measure::max_difference_f32(&a, &b);
    // Observed 1e-4: Adam divides small gradients by their own size.
    assert!(error < 2e-3, "{error}");
}

#[test]
fn a_run_on_rankings_goes_on_to_the_same_bytes() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let make = || {
        let settings = |config: &mut TrainConfig| {
            config.batch_size = 2;
            config.shuffle = true;
            config.lora.dropout = 0.1;
        };
        trainer(&file, three_rankings(), 256, settings).unwrap()
    };
    let mut whole = make();
    steps(&mut whole, 7);
    let mut first = make();
    steps(&mut first, 3);
    let folder = common::folder();
    let path = folder.path().join("run.checkpoint");
    first.checkpoint().unwrap().save(&path).unwrap();
    let mut second = make();
    let checkpoint = Checkpoint::load(&path, &second.hashes()).unwrap().unwrap();
    second.resume(checkpoint).unwrap();
    steps(&mut second, 4);
    let bits = |trainer: &mut Trainer| -> Vec<u32> {
        trainer
            .lora()
            .unwrap()
            .values
            .iter()
            .map(|x| x.to_bits())
            .collect()
    };
    assert_eq!(bits(&mut whole), bits(&mut second));
}

#[test]
fn settings_from_before_there_were_rankings_keep_their_form() {
    let json = serde_json::to_value(TrainConfig::default()).unwrap();
    assert!(json.get("ranking").is_none());
    let read: TrainConfig = serde_json::from_value(json).unwrap();
    assert_eq!(read, TrainConfig::default());
    let mut config = TrainConfig::default();
    config.ranking.beta = 0.3;
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(serde_json::from_value::<TrainConfig>(json).unwrap(), config);
}

#[test]
fn rankings_that_cannot_be_trained_on_are_refused_by_number() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let refused = |change: fn(&mut Vec<Vec<i32>>), max_tokens| {
        let mut examples = three_rankings();
        if let Kind::Ranking { completions, .. } = &mut examples[2].kind {
            change(completions);
        }
        match trainer(&file, examples, max_tokens, |_| {}).err().unwrap() {
            TrainError::Example(error) => error,
            other => panic!("{other}"),
        }
    };
    assert_eq!(
        refused(|all| all.truncate(1), 256),
        ExampleError::TooFew { index: 2 }
    );
    assert_eq!(
        refused(|all| all[3] = all[1].clone(), 256),
        ExampleError::Identical { index: 2 }
    );
    assert_eq!(
        refused(|all| all[0].clear(), 256),
        ExampleError::EmptyCompletion { index: 2 }
    );
    assert!(matches!(
        refused(|_| {}, 30),
        ExampleError::TooLong {
            index: 2,
            rows: 34,
            ..
        }
    ));
    // The order is part of what an example says.
    let mut turned = three_rankings();
    if let Kind::Ranking { completions, .. } = &mut turned[0].kind {
        completions.swap(0, 1);
    }
    assert_ne!(turned[0].key(), three_rankings()[0].key());
}
