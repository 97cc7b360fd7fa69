//! Losses and gradients against TRL's recorded values, against finite differences, and their invariants.
#![allow(clippy::unwrap_used)]

mod recorded;

use std::f64::consts::LN_2;

use serde_json::Value;
use thumbprint_tune::objective::{
    BcoState, ClassRewards, FDivergence, LossType, MetricsSum, ObjectiveError, PairItem, PairLogps,
    PairObjective, PairTerm, PairWeights, Tails, Totals, UnpairedLogps, UnpairedLossType,
    UnpairedObjective, anchor, demonstration,
};

/// Observed: 8e-13, relative.
const GOLDEN: f64 = 1e-9;

fn pair_of(batch: &Value, i: usize) -> PairLogps {
    let tokens = |name: &str| numbers(&batch[name][i]);
    let sum = |name: &str| tokens(name).iter().sum();
    let n_shared = tokens("chosen_logps")
        .len()
        .min(tokens("rejected_logps").len());
    let tail = |name: &str| tokens(name)[n_shared..].iter().sum();
    let confidence = |side: &str| {
        let logps = tokens(&format!("{side}_logps"));
        let squares = tokens(&format!("{side}_log_sum_sq_probs"));
        let aligned = logps.iter().zip(squares).map(|(p, s)| p - s);
        aligned.sum::<f64>() / logps.len() as f64
    };
    PairLogps {
        chosen: sum("chosen_logps"),
        rejected: sum("rejected_logps"),
        ref_chosen: sum("ref_chosen_logps"),
        ref_rejected: sum("ref_rejected_logps"),
        n_chosen: tokens("chosen_logps").len(),
        n_rejected: tokens("rejected_logps").len(),
        tails: Tails {
            chosen: tail("chosen_logps"),
            rejected: tail("rejected_logps"),
            ref_chosen: tail("ref_chosen_logps"),
            ref_rejected: tail("ref_rejected_logps"),
        },
        log_confidence: confidence("chosen") + confidence("rejected"),
    }
}

fn item(index: usize, logps: &PairLogps, weights: &PairWeights) -> PairItem {
    PairItem {
        index,
        logps: *logps,
        weights: *weights,
    }
}

/// The term of one pair.
fn term(
    objective: &PairObjective,
    index: usize,
    logps: &PairLogps,
    totals: &Totals,
) -> Result<PairTerm, ObjectiveError> {
    objective.pair(&item(index, logps, &PairWeights::default()), totals)
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

/// The objective of a recorded case.
fn objective_of(config: &Value) -> PairObjective {
    let losses = names(&config["loss_type"]).into_iter();
    let number =
        |name: &str, default: f64| config.get(name).map_or(default, |x| x.as_f64().unwrap());
    let divergence = config.get("f_divergence_type").map(|f| f.as_str().unwrap());
    PairObjective {
        loss_type: losses.map(|name| name.parse().unwrap()).collect(),
        loss_weights: config.get("loss_weights").map(numbers).unwrap_or_default(),
        beta: number("beta", 0.1),
        label_smoothing: number("label_smoothing", 0.0),
        f_divergence_type: divergence.map_or(FDivergence::ReverseKl, |f| f.parse().unwrap()),
        f_alpha_divergence_coef: number("f_alpha_divergence_coef", 0.5),
        ld_alpha: config.get("ld_alpha").and_then(Value::as_f64),
        use_weighting: config.get("use_weighting").is_some_and(|w| w == true),
        discopop_tau: number("discopop_tau", 0.05),
        ..PairObjective::default()
    }
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
        let config = &case["config"];
        let objective = objective_of(config);
        // TRL spreads the weights of pairs over a likelihood that is the batch's; WPO has no such term.
        if case["nonfinite"] == true
            || (objective.use_weighting && objective.loss_type.contains(&LossType::Sft))
        {
            continue;
        }
        objective
            .validate()
            .unwrap_or_else(|e| panic!("case {j}, {config}: {e}"));
        let batch = &file["batches"][case["batch"].as_u64().unwrap() as usize];
        let n = batch["prompt_len"].as_array().unwrap().len();
        let pairs: Vec<PairLogps> = (0..n).map(|i| pair_of(batch, i)).collect();
        let items: Vec<PairItem> = pairs
            .iter()
            .enumerate()
            .map(|(i, p)| item(i, p, &PairWeights::default()))
            .collect();
        let terms = objective.pairs(&items, &totals_of(&pairs)).unwrap();
        let mut metrics = MetricsSum::default();
        for (i, (p, term)) in pairs.iter().zip(&terms).enumerate() {
            metrics.add_pair(&objective.discounted(p), objective.beta);
            let n_head = p.n_chosen.min(p.n_rejected);
            for (side, head, tail) in [
                ("chosen", term.grad.chosen, term.tail.chosen),
                ("rejected", term.grad.rejected, term.tail.rejected),
            ] {
                let what = format!("case {j}, {config}, gradient of {side} {i}");
                let per_token = &case[format!("grad_{side}_tokens")];
                if per_token.is_null() {
                    let want = case[format!("grad_{side}")][i].as_f64().unwrap();
                    assert_close(head, want, GOLDEN, &what);
                    assert_close(tail, want, GOLDEN, &what);
                } else {
                    for (at, want) in numbers(&per_token[i]).into_iter().enumerate() {
                        let got = if at < n_head { head } else { tail };
                        assert_close(got, want, GOLDEN, &what);
                    }
                }
            }
        }
        assert_close(
            terms.iter().map(|term| term.loss).sum(),
            case["loss"].as_f64().unwrap(),
            GOLDEN,
            &format!("case {j}, {config}, loss"),
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
        for loss_type in names(&config["loss_type"]) {
            *checked.entry(loss_type.to_owned()).or_default() += 1;
        }
    }
    // Everything that TRL's DPOTrainer has.
    let ours_alone = [
        LossType::Cdpo,
        LossType::Dpop,
        LossType::Cpo,
        LossType::Simpo,
        LossType::Orpo,
    ];
    for loss_type in LossType::ALL {
        let count = checked.get(loss_type.name()).copied().unwrap_or(0);
        assert_eq!(
            count == 0,
            ours_alone.contains(&loss_type),
            "{loss_type}: {checked:?}"
        );
        assert!(count == 0 || count >= 50, "{loss_type}: {checked:?}");
    }
}

#[test]
fn cdpo_is_trls_aot_with_one_pair_a_batch() {
    let file = recorded::json("dpo_losses.json");
    let mut checked = 0;
    for case in file["cases"].as_array().unwrap() {
        let batch = &file["batches"][case["batch"].as_u64().unwrap() as usize];
        let single = batch["prompt_len"].as_array().unwrap().len() == 1;
        if names(&case["config"]["loss_type"]) != ["aot"] || !single || case["nonfinite"] == true {
            continue;
        }
        let objective = PairObjective {
            loss_type: vec![LossType::Cdpo],
            ..objective_of(&case["config"])
        };
        let p = pair_of(batch, 0);
        let got = term(&objective, 0, &p, &totals_of(&[p])).unwrap();
        assert_close(got.loss, case["loss"].as_f64().unwrap(), GOLDEN, "loss");
        checked += 1;
    }
    assert!(checked >= 14, "only {checked} cases");
}

/// The batches of CPO and ORPO have no reference.
fn free_pair_of(batch: &Value, i: usize) -> PairLogps {
    let tokens = |name: &str| numbers(&batch[name][i]);
    PairLogps {
        chosen: tokens("chosen_logps").iter().sum(),
        rejected: tokens("rejected_logps").iter().sum(),
        n_chosen: tokens("chosen_logps").len(),
        n_rejected: tokens("rejected_logps").len(),
        ..PairLogps::default()
    }
}

#[test]
fn losses_without_a_reference_are_those_of_trl() {
    let mut checked = std::collections::BTreeMap::<LossTypeName, usize>::new();
    for (name, file) in [("cpo", "cpo_losses.json"), ("orpo", "orpo_losses.json")] {
        let file = recorded::json(file);
        for (j, case) in file["cases"].as_array().unwrap().iter().enumerate() {
            let config = &case["config"];
            let number = |name: &str, default: f64| {
                config.get(name).map_or(default, |x| x.as_f64().unwrap())
            };
            let loss_type = match (name, config.get("loss_type").and_then(Value::as_str)) {
                ("orpo", _) => LossType::Orpo,
                (_, Some("sigmoid")) => LossType::Cpo,
                (_, Some("simpo")) => LossType::Simpo,
                _ => continue,
            };
            // AlphaPO is another loss.
            if number("alpha", 0.0) != 0.0 || case["nonfinite"] == true {
                continue;
            }
            let likelihood = number("cpo_alpha", 1.0);
            let mut objective = PairObjective {
                loss_type: vec![loss_type],
                beta: number("beta", 0.1),
                label_smoothing: number("label_smoothing", 0.0),
                simpo_gamma: number("simpo_gamma", 0.5),
                ..PairObjective::default()
            };
            // TRL's likelihood of ORPO takes in the prompt: only the other term is compared.
            if loss_type != LossType::Orpo && likelihood > 0.0 {
                objective.loss_type.push(LossType::Sft);
                objective.loss_weights = vec![1.0, likelihood];
            }
            objective.validate().unwrap();
            assert!(!objective.needs_reference());
            let batch = &file["batches"][case["batch"].as_u64().unwrap() as usize];
            let n = batch["prompt_len"].as_array().unwrap().len();
            let pairs: Vec<PairLogps> = (0..n).map(|i| free_pair_of(batch, i)).collect();
            let totals = totals_of(&pairs);
            let mut loss = 0.0;
            let tokens = |name: &str, i: usize| numbers(&batch[name][i]);
            let (mut nll, mut n_nll) = (0.0, 0);
            for i in 0..n {
                for logps in [tokens("prompt_logps", i), tokens("chosen_logps", i)] {
                    nll -= logps.iter().sum::<f64>();
                    n_nll += logps.len();
                }
            }
            for (i, p) in pairs.iter().enumerate() {
                let got = term(&objective, i, p, &totals).unwrap();
                loss += got.loss;
                let what = format!("{name} {j}, {config}");
                for want in numbers(&case["grad_rejected_tokens"][i]) {
                    assert_close(got.grad.rejected, want, GOLDEN, &what);
                }
                for want in numbers(&case["grad_chosen_tokens"][i]) {
                    let of_likelihood = match loss_type {
                        LossType::Orpo => -1.0 / n_nll as f64,
                        _ => 0.0,
                    };
                    assert_close(got.grad.chosen + of_likelihood, want, GOLDEN, &what);
                }
            }
            if loss_type == LossType::Orpo {
                loss += nll / n_nll as f64;
            }
            let want = case["loss"].as_f64().unwrap();
            assert_close(loss, want, GOLDEN, &format!("{name} {j}, {config}, loss"));
            *checked.entry(loss_type.name()).or_default() += 1;
        }
    }
    assert_eq!(checked.len(), 3, "{checked:?}");
    assert!(checked.values().all(|n| *n >= 10), "{checked:?}");
}

type LossTypeName = &'static str;

#[test]
fn kto_and_apo_zero_unpaired_are_those_of_trl() {
    let file = recorded::json("kto_losses.json");
    let mut checked = std::collections::BTreeMap::<String, usize>::new();
    for case in file["cases"].as_array().unwrap() {
        let config = &case["config"];
        if case["nonfinite"] == true {
            continue;
        }
        let name = match &config["loss_type"] {
            Value::Array(names) => names[0].as_str().unwrap(),
            name => name.as_str().unwrap(),
        };
        let batch = &file["batches"][case["batch"].as_u64().unwrap() as usize];
        let labels: Vec<bool> = batch["label"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l.as_bool().unwrap())
            .collect();
        let objective = UnpairedObjective {
            loss_type: name.parse().unwrap(),
            beta: config["beta"].as_f64().unwrap(),
        };
        let (policy, reference) = (numbers(&batch["kl_logps"]), numbers(&batch["ref_kl_logps"]));
        let gained: f64 = policy.iter().zip(&reference).map(|(p, r)| p - r).sum();
        let shift = objective.shift(&BcoState::default(), gained / policy.len() as f64);
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
            let term = objective.unpaired(i, &u, shift, &totals).unwrap();
            loss += term.loss;
            let want = case["grad"][i].as_f64().unwrap();
            assert_close(term.grad, want, GOLDEN, "gradient");
        }
        assert_close(loss, case["loss"].as_f64().unwrap(), GOLDEN, "loss");
        *checked.entry(name.to_owned()).or_default() += 1;
    }
    for name in ["kto", "apo_zero_unpaired"] {
        assert!(checked.get(name).is_some_and(|n| *n >= 10), "{checked:?}");
    }
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
        ..PairLogps::default()
    };
    for (loss_type, label_smoothing, want) in [
        (LossType::Sigmoid, 0.0, LN_2),
        (LossType::Cdpo, 0.1, LN_2),
        (LossType::Robust, 0.1, LN_2),
        (LossType::Aot, 0.1, LN_2),
        (LossType::AotUnpaired, 0.1, LN_2),
        (LossType::SigmoidNorm, 0.0, LN_2),
        (LossType::Dpop, 0.0, LN_2),
        (LossType::Hinge, 0.0, 1.0),
        (LossType::Ipo, 0.0, 25.0),
        (LossType::SppoHard, 0.0, 50.0),
        (LossType::BcoPair, 0.0, 2.0 * LN_2),
        (LossType::NcaPair, 0.0, 2.0 * LN_2),
        (LossType::ApoZero, 0.0, 1.0),
        (LossType::ApoDown, 0.0, 1.0),
        // (ln 2 + 1) / 2, and the divergence of a fair coin from one of 0.001.
        (LossType::Discopop, 0.0, (LN_2 + 1.0) / 2.0),
        (
            LossType::ExoPair,
            0.001,
            0.5 * (0.25f64 / (0.001 * 0.999)).ln(),
        ),
        (LossType::Sft, 0.0, 50.0 / 9.0),
    ] {
        let objective = PairObjective {
            label_smoothing,
            ..PairObjective::new(loss_type, 0.1)
        };
        objective.validate().unwrap();
        let got = term(&objective, 0, &p, &totals_of(&[p])).unwrap().loss;
        assert_close(got, want, 1e-14, loss_type.name());
    }
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
            objective.unpaired(0, &u, 0.0, &totals).unwrap().loss
        };
        assert_close(first(UnpairedLossType::Bco), LN_2, 1e-15, "bco");
        assert_close(first(UnpairedLossType::Kto), 0.5, 1e-15, "kto");
        let zero = first(UnpairedLossType::ApoZeroUnpaired);
        assert_close(zero, 0.5, 1e-15, "apo_zero_unpaired");
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
        tails: Tails {
            chosen: 0.3 * chosen,
            rejected: 0.2 * rejected,
            ref_chosen: 0.25 * ref_chosen,
            ref_rejected: 0.3 * ref_rejected,
        },
        log_confidence: -0.4,
    };
    vec![
        pair(-53.6, -88.9, -54.2, -87.5, 15, 90),
        pair(-19.4, -362.4, -19.5, -362.1, 7, 180),
        pair(-69.0, -330.0, -60.0, -345.0, 22, 177),
        pair(-3.2, -2.9, -9.7, -31.4, 2, 1),
        pair(-40.0, -250.0, -41.5, -150.0, 11, 120),
        pair(-91.0, -21.0, -31.0, -23.0, 30, 9),
        pair(-12.2, -14.1, -12.0, -14.0, 5, 5),
        pair(-0.5, -70.0, -0.1, -72.5, 3, 44),
    ]
}

fn some_objectives() -> Vec<PairObjective> {
    let of = |loss_type: &[LossType], loss_weights: &[f64], beta, label_smoothing| PairObjective {
        loss_type: loss_type.to_vec(),
        loss_weights: loss_weights.to_vec(),
        beta,
        label_smoothing,
        ..PairObjective::default()
    };
    let mut all = vec![
        of(&[LossType::Sigmoid, LossType::Sft], &[1.0, 0.2], 0.1, 0.0),
        of(
            &[LossType::Cdpo, LossType::Ipo, LossType::Sft],
            &[0.5, 0.1, 2.0],
            0.2,
            0.25,
        ),
    ];
    let smooths = [
        LossType::Cdpo,
        LossType::Robust,
        LossType::ExoPair,
        LossType::Simpo,
    ];
    for loss_type in LossType::ALL {
        let smoothing = if smooths.contains(&loss_type) {
            0.1
        } else {
            0.0
        };
        all.push(of(&[loss_type], &[], 0.3, smoothing));
    }
    for f_divergence_type in FDivergence::ALL {
        all.push(PairObjective {
            f_divergence_type,
            use_weighting: true,
            ..of(&[LossType::Sigmoid, LossType::SigmoidNorm], &[], 0.05, 0.0)
        });
    }
    all.push(PairObjective {
        ld_alpha: Some(0.3),
        ..of(
            &[LossType::Cdpo, LossType::BcoPair, LossType::Sft],
            &[],
            0.1,
            0.1,
        )
    });
    all.iter().for_each(|o| o.validate().unwrap());
    all
}

fn some_weights(i: usize) -> PairWeights {
    let label_smoothing = [None, Some(0.25), Some(0.01)][i % 3];
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
    let mut totals = Totals::default();
    for (i, p) in pairs.iter().enumerate() {
        totals.add_pair(p.n_chosen, &some_weights(i));
    }
    for objective in some_objectives() {
        // All pairs at once, since some losses compare them with each other.
        let terms_with = |changed: usize, p: PairLogps| {
            let items: Vec<PairItem> = pairs
                .iter()
                .enumerate()
                .map(|(i, same)| item(i, if i == changed { &p } else { same }, &some_weights(i)))
                .collect();
            objective.pairs(&items, &totals).unwrap()
        };
        for (i, p) in pairs.iter().enumerate() {
            let loss = |p: PairLogps| terms_with(i, p).iter().map(|term| term.loss).sum();
            let term = terms_with(i, *p)[i];
            let name = format!(
                "{:?} {:?}, pair {i}",
                objective.loss_type, objective.f_divergence_type
            );
            check_slope(
                term.grad.chosen,
                p.chosen,
                &format!("{name}, chosen"),
                |x| loss(PairLogps { chosen: x, ..*p }),
            );
            check_slope(
                term.grad.rejected,
                p.rejected,
                &format!("{name}, rejected"),
                |x| loss(PairLogps { rejected: x, ..*p }),
            );
            // A token of the tail is in both sums.
            let tail = |x: f64, side: fn(&mut PairLogps) -> (&mut f64, &mut f64)| {
                let mut p = *p;
                let (sum, tail) = side(&mut p);
                *sum += x;
                *tail += x;
                loss(p)
            };
            check_slope(
                term.tail.chosen,
                0.0,
                &format!("{name}, chosen tail"),
                |x| tail(x, |p| (&mut p.chosen, &mut p.tails.chosen)),
            );
            check_slope(
                term.tail.rejected,
                0.0,
                &format!("{name}, rejected tail"),
                |x| tail(x, |p| (&mut p.rejected, &mut p.tails.rejected)),
            );
        }
    }
}

#[test]
fn ranks_make_partners_of_pairs_that_never_met() {
    let pairs = some_pairs();
    let items = |order: &[usize]| -> Vec<PairItem> {
        let of = |i: &usize| item(*i, &pairs[*i], &PairWeights::default());
        order.iter().map(of).collect()
    };
    let totals = totals_of(&pairs);
    for loss_type in [LossType::Aot, LossType::AotUnpaired] {
        let objective = PairObjective::new(loss_type, 0.1);
        assert!(objective.couples());
        let order = [3, 1, 7, 0, 2, 6, 5, 4];
        let sorted = objective
            .pairs(&items(&[0, 1, 2, 3, 4, 5, 6, 7]), &totals)
            .unwrap();
        let shuffled = objective.pairs(&items(&order), &totals).unwrap();
        for (at, i) in order.iter().enumerate() {
            assert_eq!(
                shuffled[at], sorted[*i],
                "{loss_type}, the order of pairs does not matter"
            );
        }
        let alone: f64 = pairs
            .iter()
            .map(|p| term(&objective, 0, p, &totals).unwrap().loss)
            .sum();
        let together: f64 = sorted.iter().map(|term| term.loss).sum();
        assert!(
            (alone - together).abs() > 1e-3,
            "{loss_type}: {alone} {together}"
        );
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
    for (i, u) in thumbs.iter().enumerate() {
        for loss_type in UnpairedLossType::ALL {
            let objective = UnpairedObjective {
                loss_type,
                beta: 0.2,
            };
            let term = |x: f64| {
                objective
                    .unpaired(i, &UnpairedLogps { logp: x, ..*u }, 0.25, &totals)
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
            ..PairObjective::default()
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
                    let t = objective.pair(&item(i, &pairs[i], &some_weights(i)), &totals);
                    let t = t.unwrap();
                    let shift = unpaired.shift(&state, 0.0);
                    let u = unpaired.unpaired(i, &thumbs[i], shift, &totals).unwrap();
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
    let with = objective.pair(&item(0, &p, &weights), &totals).unwrap();
    let without = PairObjective::default().pair(&item(0, &p, &weights), &totals);
    let without = without.unwrap();
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
            .pair(&item(17, &good, &weights), &totals)
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
                let error = term(&objective, 17, &p, &totals).unwrap_err();
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
                .pair(&item(17, &good, &weights), &totals)
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
            ..Totals::default()
        };
        assert!(
            UnpairedObjective::default()
                .unpaired(17, &u, 0.0, &totals)
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
        ..PairLogps::default()
    };
    for p in [
        extreme(-1e8, -1.0),
        extreme(-1.0, -1e8),
        extreme(0.0, -1e4),
        extreme(-1e4, 0.0),
    ] {
        for objective in some_objectives() {
            // exp(-rho) is what forward_kl asks for.
            if objective.f_divergence_type == FDivergence::ForwardKl {
                continue;
            }
            let PairTerm { loss, grad, .. } = term(&objective, 0, &p, &totals_of(&[p])).unwrap();
            assert!(loss.is_finite() && grad.chosen.is_finite() && grad.rejected.is_finite());
        }
    }
    let p = extreme(-1.0, -1e8);
    let won = term(&PairObjective::default(), 0, &p, &totals_of(&[p]));
    assert!(won.unwrap().loss < 1e-300);
}

#[test]
fn empty_completions_and_examples_that_were_not_counted_are_refused() {
    let p = some_pairs()[0];
    let objective = PairObjective {
        loss_type: vec![LossType::Sigmoid, LossType::Sft],
        ..PairObjective::default()
    };
    let run = |p: &PairLogps, totals: &Totals| term(&objective, 4, p, totals).unwrap_err();
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
    assert!(with(&|o| o.loss_type = vec![LossType::ExoPair]).starts_with("label_smoothing: "));
    assert!(
        with(&|o| o.loss_type = vec![LossType::Cpo, LossType::Hinge]).contains("has no reference")
    );
    for loss_type in [
        LossType::NcaPair,
        LossType::Aot,
        LossType::Simpo,
        LossType::Dpop,
    ] {
        let says = with(&|o| {
            o.loss_type = vec![loss_type];
            o.f_divergence_type = FDivergence::JsDivergence;
        });
        assert!(says.starts_with("f_divergence_type: "), "{says}");
    }
    for loss_type in [LossType::Sft, LossType::AotUnpaired, LossType::Orpo] {
        let says = with(&|o| {
            o.loss_type = vec![loss_type];
            o.use_weighting = true;
        });
        assert!(says.starts_with("use_weighting: "), "{says}");
    }
    let says = with(&|o| {
        o.loss_type = vec![LossType::Simpo];
        o.ld_alpha = Some(0.5);
    });
    assert!(says.starts_with("ld_alpha: "), "{says}");
    for bad in [-0.1, 1.1, f64::NAN] {
        assert!(with(&|o| o.ld_alpha = Some(bad)).starts_with("ld_alpha: "));
    }
    assert!(with(&|o| o.discopop_tau = 0.0).starts_with("discopop_tau: "));
    assert!(with(&|o| o.dpop_lambda = -1.0).starts_with("dpop_lambda: "));
    assert!(with(&|o| o.simpo_gamma = f64::NAN).starts_with("simpo_gamma: "));
    assert!(
        with(&|o| o.f_alpha_divergence_coef = f64::INFINITY)
            .starts_with("f_alpha_divergence_coef: ")
    );
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
    assert!(
        error.starts_with("unknown loss type `dpo`: use one of sigmoid, cdpo, robust, hinge, ipo,"),
        "{error}"
    );
    for f in FDivergence::ALL {
        assert_eq!(f.name().parse::<FDivergence>().unwrap(), f);
        assert_eq!(serde_json::to_value(f).unwrap(), f.name());
    }
    assert!(
        "kl".parse::<FDivergence>()
            .unwrap_err()
            .to_string()
            .contains("reverse_kl")
    );
    let objective: PairObjective =
        serde_json::from_str(r#"{"loss_type": ["cdpo", "sft"], "loss_weights": [1, 0.2]}"#)
            .unwrap();
    assert_eq!(objective.loss_type, [LossType::Cdpo, LossType::Sft]);
    assert!(serde_json::from_str::<PairObjective>(r#"{"los_type": ["cdpo"]}"#).is_err());
}
