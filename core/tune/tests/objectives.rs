//! Losses and gradients against TRL's recorded values, against finite differences, and their invariants.
#![allow(clippy::unwrap_used)]

mod recorded;

use std::f64::consts::LN_2;

use serde_json::Value;
use thumbprint_tune::objective::{
    BcoState, ClassRewards, LossType, MetricsSum, ObjectiveError, PairLogps, PairObjective,
    PairWeights, Term, Totals, UnpairedLogps, UnpairedLossType, UnpairedObjective, anchor,
    demonstration,
};

/// Observed: 8e-13, relative.
const GOLDEN: f64 = 1e-9;

fn pair_of(batch: &Value, i: usize) -> PairLogps {
    let tokens = |name: &str| numbers(&batch[name][i]);
    let sum = |name: &str| tokens(name).iter().sum();
    PairLogps {
        chosen: sum("chosen_logps"),
        rejected: sum("rejected_logps"),
        ref_chosen: sum("ref_chosen_logps"),
        ref_rejected: sum("ref_rejected_logps"),
        n_chosen: tokens("chosen_logps").len(),
        n_rejected: tokens("rejected_logps").len(),
    }
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

fn names(v: &Value) -> Vec<&str> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_str().unwrap())
        .collect()
}

/// The objective of a recorded case, where we have it. TRL's `aot` with one pair a batch is `cdpo`.
fn objective_of(config: &Value, pairs: usize) -> Option<PairObjective> {
    let known = ["loss_type", "beta", "label_smoothing", "loss_weights"];
    if !config
        .as_object()
        .unwrap()
        .keys()
        .all(|k| known.contains(&k.as_str()))
    {
        return None;
    }
    let loss_type = names(&config["loss_type"])
        .into_iter()
        .map(|name| match name {
            "aot" if pairs == 1 => Some(LossType::Cdpo),
            name => name.parse().ok(),
        })
        .collect::<Option<Vec<LossType>>>()?;
    let loss_weights = config.get("loss_weights").map(numbers).unwrap_or_default();
    let label_smoothing = config
        .get("label_smoothing")
        .map_or(0.0, |e| e.as_f64().unwrap());
    let objective = PairObjective {
        loss_type,
        loss_weights,
        beta: config["beta"].as_f64().unwrap(),
        label_smoothing,
    };
    objective.validate().unwrap();
    Some(objective)
}

fn totals_of(pairs: &[PairLogps]) -> Totals {
    let mut totals = Totals::default();
    pairs
        .iter()
        .for_each(|p| totals.add_pair(p.n_chosen, &PairWeights::default()));
    totals
}

fn assert_close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!(
        (got - want).abs() <= tolerance * want.abs().max(1e-3),
        "{what}: {got} instead of {want}"
    );
}

#[test]
fn losses_gradients_and_metrics_are_those_of_trl() {
    let file = recorded::json("dpo_losses.json");
    let mut checked = std::collections::BTreeMap::<String, usize>::new();
    for (j, case) in file["cases"].as_array().unwrap().iter().enumerate() {
        let batch = &file["batches"][case["batch"].as_u64().unwrap() as usize];
        let n = batch["prompt_len"].as_array().unwrap().len();
        let Some(objective) = objective_of(&case["config"], n) else {
            continue;
        };
        if case["nonfinite"] == true {
            continue;
        }
        let pairs: Vec<PairLogps> = (0..n).map(|i| pair_of(batch, i)).collect();
        let totals = totals_of(&pairs);
        let mut loss = 0.0;
        let mut metrics = MetricsSum::default();
        for (i, p) in pairs.iter().enumerate() {
            let term = objective
                .pair(i, p, &PairWeights::default(), &totals)
                .unwrap();
            loss += term.loss;
            metrics.add_pair(p, objective.beta);
            for (side, got) in [
                ("chosen", term.grad.chosen),
                ("rejected", term.grad.rejected),
            ] {
                let what = format!("case {j}, gradient of {side} {i}");
                let per_token = &case[format!("grad_{side}_tokens")];
                if per_token.is_null() {
                    assert_close(
                        got,
                        case[format!("grad_{side}")][i].as_f64().unwrap(),
                        GOLDEN,
                        &what,
                    );
                } else {
                    numbers(&per_token[i])
                        .into_iter()
                        .for_each(|want| assert_close(got, want, GOLDEN, &what));
                }
            }
        }
        assert_close(
            loss,
            case["loss"].as_f64().unwrap(),
            GOLDEN,
            &format!("case {j}, loss"),
        );
        let got = serde_json::to_value(metrics.mean()).unwrap();
        for (name, want) in case["metrics"].as_object().unwrap() {
            // TRL's accuracies went through f32.
            let tolerance = if name == "rewards/accuracies" {
                1e-6
            } else {
                GOLDEN
            };
            assert_close(
                got[name].as_f64().unwrap(),
                want.as_f64().unwrap(),
                tolerance,
                &format!("case {j}, {name}"),
            );
        }
        *checked
            .entry(case["config"]["loss_type"].to_string())
            .or_default() += 1;
    }
    let least = [
        (r#"["sigmoid"]"#, 40),
        (r#"["ipo"]"#, 40),
        (r#"["sft"]"#, 40),
        (r#"["aot"]"#, 14),
        (r#"["sigmoid","sft"]"#, 7),
        (r#"["ipo","sft"]"#, 7),
    ];
    for (name, count) in least {
        assert!(
            checked.get(name).is_some_and(|n| *n >= count),
            "{name}: {checked:?}"
        );
    }
}

#[test]
fn apo_zero_unpaired_is_that_of_trl() {
    let file = recorded::json("kto_losses.json");
    let mut checked = 0;
    for case in file["cases"].as_array().unwrap() {
        let config = &case["config"];
        if case["nonfinite"] == true
            || !config["loss_type"]
                .to_string()
                .contains("apo_zero_unpaired")
        {
            continue;
        }
        let batch = &file["batches"][case["batch"].as_u64().unwrap() as usize];
        let labels: Vec<bool> = batch["label"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l.as_bool().unwrap())
            .collect();
        let beta = config["beta"].as_f64().unwrap();
        let objective = UnpairedObjective {
            loss_type: UnpairedLossType::ApoZeroUnpaired,
            beta,
        };
        let totals = Totals {
            unpaired: labels.len(),
            ..Totals::default()
        };
        let mut loss = 0.0;
        for (i, desirable) in labels.into_iter().enumerate() {
            let weight = config.get(if desirable {
                "desirable_weight"
            } else {
                "undesirable_weight"
            });
            let u = UnpairedLogps {
                logp: numbers(&batch["logps"][i]).iter().sum(),
                reference: numbers(&batch["ref_logps"][i]).iter().sum(),
                n_tokens: batch["logps"][i].as_array().unwrap().len(),
                desirable,
                weight: weight.map_or(1.0, |w| w.as_f64().unwrap()),
            };
            let term = objective
                .unpaired(i, &u, &BcoState::default(), &totals)
                .unwrap();
            loss += term.loss;
            assert_close(
                term.grad,
                case["grad"][i].as_f64().unwrap(),
                GOLDEN,
                "gradient",
            );
        }
        assert_close(loss, case["loss"].as_f64().unwrap(), GOLDEN, "loss");
        checked += 1;
    }
    assert!(checked >= 10, "only {checked} cases");
}

#[test]
fn a_fresh_adapter_has_the_first_loss_that_the_formula_gives() {
    let p = PairLogps {
        chosen: -50.0,
        rejected: -90.0,
        ref_chosen: -50.0,
        ref_rejected: -90.0,
        n_chosen: 9,
        n_rejected: 30,
    };
    let first = |loss_type, label_smoothing| {
        let objective = PairObjective {
            label_smoothing,
            ..PairObjective::new(loss_type, 0.1)
        };
        objective
            .pair(0, &p, &PairWeights::default(), &totals_of(&[p]))
            .unwrap()
            .loss
    };
    assert_close(first(LossType::Sigmoid, 0.0), LN_2, 1e-15, "sigmoid");
    assert_close(first(LossType::Cdpo, 0.1), LN_2, 1e-15, "cdpo");
    assert_close(first(LossType::Ipo, 0.0), 25.0, 1e-15, "ipo");
    assert_close(first(LossType::Sft, 0.0), 50.0 / 9.0, 1e-15, "sft");
    for desirable in [true, false] {
        let u = UnpairedLogps {
            logp: -50.0,
            reference: -50.0,
            n_tokens: 9,
            desirable,
            weight: 1.0,
        };
        let totals = Totals {
            unpaired: 1,
            ..Totals::default()
        };
        let first = |loss_type| {
            let objective = UnpairedObjective {
                loss_type,
                beta: 0.1,
            };
            objective
                .unpaired(0, &u, &BcoState::default(), &totals)
                .unwrap()
                .loss
        };
        assert_close(first(UnpairedLossType::Bco), LN_2, 1e-15, "bco");
        assert_close(
            first(UnpairedLossType::ApoZeroUnpaired),
            0.5,
            1e-15,
            "apo_zero_unpaired",
        );
    }
}

fn some_pairs() -> Vec<PairLogps> {
    let pair = |chosen, rejected, ref_chosen, ref_rejected, n_chosen, n_rejected| PairLogps {
        chosen,
        rejected,
        ref_chosen,
        ref_rejected,
        n_chosen,
        n_rejected,
    };
    vec![
        pair(-53.6, -88.9, -54.2, -87.5, 15, 90),
        pair(-19.4, -362.4, -19.5, -362.1, 7, 180),
        pair(-69.0, -330.0, -60.0, -345.0, 22, 177),
        pair(-3.2, -2.9, -9.7, -31.4, 2, 1),
        pair(-40.0, -250.0, -41.5, -150.0, 11, 120),
        pair(-91.0, -21.0, -31.0, -23.0, 30, 9),
        pair(-12.0, -14.0, -12.0, -14.0, 5, 5),
        pair(-0.5, -70.0, -0.1, -72.0, 3, 44),
    ]
}

fn some_objectives() -> Vec<PairObjective> {
    let of = |loss_type: &[LossType], loss_weights: &[f64], beta, label_smoothing| PairObjective {
        loss_type: loss_type.to_vec(),
        loss_weights: loss_weights.to_vec(),
        beta,
        label_smoothing,
    };
    let all = vec![
        of(&[LossType::Sigmoid], &[], 0.1, 0.0),
        of(&[LossType::Cdpo], &[], 0.3, 0.1),
        of(&[LossType::Ipo], &[], 0.5, 0.0),
        of(&[LossType::Sft], &[], 0.1, 0.0),
        of(&[LossType::Sigmoid, LossType::Sft], &[1.0, 0.2], 0.1, 0.0),
        of(
            &[LossType::Cdpo, LossType::Ipo, LossType::Sft],
            &[0.5, 0.1, 2.0],
            0.2,
            0.25,
        ),
    ];
    all.iter().for_each(|o| o.validate().unwrap());
    all
}

fn some_weights(i: usize) -> PairWeights {
    let label_smoothing = [None, Some(0.25), Some(0.0)][i % 3];
    PairWeights {
        pair: 0.5 + i as f64 / 4.0,
        nll: (i % 2) as f64,
        label_smoothing,
    }
}

fn some_thumbs() -> Vec<UnpairedLogps> {
    some_pairs()
        .into_iter()
        .enumerate()
        .map(|(i, p)| UnpairedLogps {
            logp: p.chosen,
            reference: p.ref_chosen,
            n_tokens: p.n_chosen,
            desirable: i % 3 != 0,
            weight: 1.0 + i as f64 / 3.0,
        })
        .collect()
}

/// Central differences of a loss against its gradient. Observed 2e-9, relative.
fn check_slope(gradient: f64, at: f64, what: &str, loss: impl Fn(f64) -> f64) {
    let h = 1e-5;
    let slope = (loss(at + h) - loss(at - h)) / (2.0 * h);
    let noise = 1e-16 * loss(at).abs() / h;
    assert!(
        (slope - gradient).abs() <= 1e-7 * gradient.abs() + 10.0 * noise + 1e-9,
        "{what}: {gradient}, slope {slope}"
    );
}

#[test]
fn gradients_of_pair_objectives_are_the_slopes_of_their_losses() {
    let pairs = some_pairs();
    for objective in some_objectives() {
        for (i, p) in pairs.iter().enumerate() {
            let weights = some_weights(i);
            let mut totals = Totals::default();
            pairs
                .iter()
                .enumerate()
                .for_each(|(i, p)| totals.add_pair(p.n_chosen, &some_weights(i)));
            let loss = |p: &PairLogps| objective.pair(i, p, &weights, &totals).unwrap().loss;
            let grad = objective.pair(i, p, &weights, &totals).unwrap().grad;
            check_slope(grad.chosen, p.chosen, "chosen", |x| {
                loss(&PairLogps { chosen: x, ..*p })
            });
            check_slope(grad.rejected, p.rejected, "rejected", |x| {
                loss(&PairLogps { rejected: x, ..*p })
            });
        }
    }
}

#[test]
fn gradients_of_all_other_objectives_are_the_slopes_of_their_losses() {
    let thumbs = some_thumbs();
    let totals = Totals {
        unpaired: thumbs.len(),
        nll_tokens: 77,
        anchor_tokens: 31,
        ..Totals::default()
    };
    let state = BcoState {
        desirable_mean: 0.8,
        undesirable_mean: -0.3,
    };
    for (i, u) in thumbs.iter().enumerate() {
        for loss_type in UnpairedLossType::ALL {
            let objective = UnpairedObjective {
                loss_type,
                beta: 0.2,
            };
            let term = |x: f64| {
                objective
                    .unpaired(i, &UnpairedLogps { logp: x, ..*u }, &state, &totals)
                    .unwrap()
            };
            check_slope(term(u.logp).grad, u.logp, loss_type.name(), |x| {
                term(x).loss
            });
        }
        let term = |x: f64| demonstration(i, x, u.n_tokens, u.weight, &totals).unwrap();
        check_slope(term(u.logp).grad, u.logp, "demonstration", |x| term(x).loss);
        let term = |x: f64| anchor(i, x, u.reference, u.weight, &totals).unwrap();
        check_slope(term(u.logp).grad, u.logp, "anchor", |x| term(x).loss);
        assert_eq!(term(u.reference).loss, 0.0);
    }
}

#[test]
fn eight_micro_batches_of_one_are_one_of_eight() {
    // Nothing but the totals knows how the step was split: the loop below is what a trainer does with either split.
    let run = |micro_batch: usize| {
        let (pairs, thumbs) = (some_pairs(), some_thumbs());
        let objective = PairObjective {
            loss_type: vec![LossType::Cdpo, LossType::Sft],
            loss_weights: vec![1.0, 0.2],
            beta: 0.1,
            label_smoothing: 0.1,
        };
        let unpaired = UnpairedObjective::default();
        let mut state = BcoState {
            desirable_mean: 0.1,
            undesirable_mean: 0.0,
        };
        let mut out: Vec<f64> = Vec::new();
        for _step in 0..3 {
            let mut totals = Totals::default();
            for (i, p) in pairs.iter().enumerate() {
                totals.add_pair(p.n_chosen, &some_weights(i));
                totals.add_unpaired();
            }
            let mut rewards = ClassRewards::default();
            for start in (0..pairs.len()).step_by(micro_batch) {
                for i in start..start + micro_batch {
                    let t = objective
                        .pair(i, &pairs[i], &some_weights(i), &totals)
                        .unwrap();
                    let u = unpaired.unpaired(i, &thumbs[i], &state, &totals).unwrap();
                    rewards.add(unpaired.reward(&thumbs[i]), thumbs[i].desirable);
                    out.extend([t.loss, t.grad.chosen, t.grad.rejected, u.loss, u.grad]);
                }
            }
            state.update(&rewards);
            out.extend([state.desirable_mean, state.undesirable_mean]);
        }
        out.into_iter().map(f64::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(8));
    assert_eq!(run(2), run(8));
}

#[test]
fn the_shift_of_bco_sits_between_the_classes_however_unequal_they_are() {
    let mut state = BcoState::default();
    for _ in 0..200 {
        let mut rewards = ClassRewards::default();
        (0..19).for_each(|_| rewards.add(1.0, true));
        rewards.add(-3.0, false);
        state.update(&rewards);
    }
    assert!((state.midpoint() + 1.0).abs() < 1e-6, "{state:?}");
    let before = state;
    state.update(&ClassRewards::default());
    assert_eq!(
        state, before,
        "a step without unpaired examples moves nothing"
    );
    let mut one = ClassRewards::default();
    one.add(2.0, true);
    state.update(&one);
    assert!(
        (state.desirable_mean - 1.1).abs() < 1e-6
            && state.undesirable_mean == before.undesirable_mean
    );
}

#[test]
fn a_pair_without_likelihood_weight_neither_scores_nor_counts_its_tokens() {
    let p = some_pairs()[0];
    let mut totals = Totals::default();
    let weights = PairWeights {
        nll: 0.0,
        ..PairWeights::default()
    };
    totals.add_pair(p.n_chosen, &weights);
    assert_eq!(totals.nll_tokens, 0);
    let objective = PairObjective {
        loss_type: vec![LossType::Sigmoid, LossType::Sft],
        ..PairObjective::default()
    };
    let with = objective.pair(0, &p, &weights, &totals).unwrap();
    let without = PairObjective::default()
        .pair(0, &p, &weights, &totals)
        .unwrap();
    assert_eq!(with, without);
}

#[test]
fn a_value_that_is_not_finite_names_its_example() {
    let good = some_pairs()[0];
    let totals = totals_of(&[good]);
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        let weights = PairWeights {
            nll: bad,
            ..PairWeights::default()
        };
        let error = PairObjective::default()
            .pair(17, &good, &weights, &totals)
            .unwrap_err();
        assert!(
            matches!(error, ObjectiveError::Weight { index: 17, .. }),
            "{error}"
        );
    }
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let broken = [
            PairLogps {
                chosen: bad,
                ..good
            },
            PairLogps {
                rejected: bad,
                ..good
            },
            PairLogps {
                ref_chosen: bad,
                ..good
            },
            PairLogps {
                ref_rejected: bad,
                ..good
            },
        ];
        for p in broken {
            for objective in some_objectives() {
                let error = objective
                    .pair(17, &p, &PairWeights::default(), &totals)
                    .unwrap_err();
                assert!(
                    matches!(error, ObjectiveError::NotFinite { index: 17, .. }),
                    "{error}"
                );
                assert!(error.to_string().starts_with("example 17: "), "{error}");
            }
        }
        let weights = PairWeights {
            pair: bad,
            ..PairWeights::default()
        };
        assert!(
            PairObjective::default()
                .pair(17, &good, &weights, &totals)
                .is_err()
        );
        let u = UnpairedLogps {
            logp: bad,
            ..some_thumbs()[0]
        };
        let totals = Totals {
            unpaired: 1,
            nll_tokens: 1,
            anchor_tokens: 1,
            pairs: 0,
        };
        assert!(
            UnpairedObjective::default()
                .unpaired(17, &u, &BcoState::default(), &totals)
                .is_err()
        );
        assert!(demonstration(17, bad, 3, 1.0, &totals).is_err());
        assert!(anchor(17, bad, -3.0, 1.0, &totals).is_err());
        assert!(anchor(17, -3.0, bad, 1.0, &totals).is_err());
        assert!(anchor(17, -3.0, -3.0, bad, &totals).is_err());
    }
}

#[test]
fn huge_margins_stay_finite() {
    let extreme = |chosen, rejected| PairLogps {
        chosen,
        rejected,
        ref_chosen: -1.0,
        ref_rejected: -1.0,
        n_chosen: 1,
        n_rejected: 1,
    };
    for p in [extreme(-1e8, -1.0), extreme(-1.0, -1e8)] {
        for objective in some_objectives() {
            let Term { loss, grad } = objective
                .pair(0, &p, &PairWeights::default(), &totals_of(&[p]))
                .unwrap();
            assert!(loss.is_finite() && grad.chosen.is_finite() && grad.rejected.is_finite());
        }
    }
    let won = PairObjective::default().pair(
        0,
        &extreme(-1.0, -1e8),
        &PairWeights::default(),
        &Totals {
            pairs: 1,
            ..Totals::default()
        },
    );
    assert!(won.unwrap().loss < 1e-300);
}

#[test]
fn empty_completions_and_examples_that_were_not_counted_are_refused() {
    let p = some_pairs()[0];
    let objective = PairObjective {
        loss_type: vec![LossType::Sigmoid, LossType::Sft],
        ..PairObjective::default()
    };
    let run = |p: &PairLogps, totals: &Totals| {
        objective
            .pair(4, p, &PairWeights::default(), totals)
            .unwrap_err()
    };
    assert!(matches!(
        run(&PairLogps { n_chosen: 0, ..p }, &totals_of(&[p])),
        ObjectiveError::EmptyCompletion {
            index: 4,
            side: "chosen"
        }
    ));
    assert!(matches!(
        run(&PairLogps { n_rejected: 0, ..p }, &totals_of(&[p])),
        ObjectiveError::EmptyCompletion {
            index: 4,
            side: "rejected"
        }
    ));
    assert!(matches!(
        run(
            &p,
            &Totals {
                nll_tokens: 5,
                ..Totals::default()
            }
        ),
        ObjectiveError::NotCounted { .. }
    ));
    assert!(matches!(
        run(
            &p,
            &Totals {
                pairs: 1,
                ..Totals::default()
            }
        ),
        ObjectiveError::NotCounted { .. }
    ));
    assert!(matches!(
        anchor(4, -2.0, -2.0, 1.0, &Totals::default()).unwrap_err(),
        ObjectiveError::NotCounted { index: 4, .. }
    ));
}

#[test]
fn settings_that_make_no_sense_are_refused_with_their_name() {
    let base = PairObjective::default();
    let with = |f: &dyn Fn(&mut PairObjective)| {
        let mut objective = base.clone();
        f(&mut objective);
        objective.validate().unwrap_err().to_string()
    };
    for beta in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        assert!(with(&|o| o.beta = beta).starts_with("beta: "));
        assert!(
            UnpairedObjective {
                beta,
                ..Default::default()
            }
            .validate()
            .is_err()
        );
    }
    for e in [-0.1, 0.5, 1.0, f64::NAN] {
        let says = with(&|o| {
            o.loss_type = vec![LossType::Cdpo];
            o.label_smoothing = e;
        });
        assert!(says.starts_with("label_smoothing: "), "{says}");
    }
    assert!(with(&|o| o.label_smoothing = 0.1).contains("use `cdpo`"));
    assert!(with(&|o| o.loss_type.clear()).starts_with("loss_type: "));
    assert!(with(&|o| o.loss_type = vec![LossType::Sigmoid; 2]).contains("twice"));
    assert!(
        with(&|o| o.loss_type = vec![LossType::Sigmoid, LossType::Cdpo]).contains("same margin")
    );
    assert!(with(&|o| o.loss_weights = vec![1.0, 2.0]).starts_with("loss_weights: "));
    assert!(with(&|o| o.loss_weights = vec![0.0]).starts_with("loss_weights: "));
    assert!(with(&|o| o.loss_weights = vec![f64::NAN]).starts_with("loss_weights: "));
}

#[test]
fn names_are_trls_and_an_unknown_one_lists_those_that_exist() {
    for t in LossType::ALL {
        assert_eq!(t.name().parse::<LossType>().unwrap(), t);
        assert_eq!(serde_json::to_value(t).unwrap(), t.name());
    }
    for t in UnpairedLossType::ALL {
        assert_eq!(t.name().parse::<UnpairedLossType>().unwrap(), t);
        assert_eq!(serde_json::to_value(t).unwrap(), t.name());
    }
    let error = "dpo".parse::<LossType>().unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown loss type `dpo`: use one of sigmoid, cdpo, ipo, sft"
    );
    let objective: PairObjective =
        serde_json::from_str(r#"{"loss_type": ["cdpo", "sft"], "loss_weights": [1, 0.2]}"#)
            .unwrap();
    assert_eq!(objective.loss_type, [LossType::Cdpo, LossType::Sft]);
    assert!(serde_json::from_str::<PairObjective>(r#"{"los_type": ["cdpo"]}"#).is_err());
}
