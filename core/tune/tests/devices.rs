//! What trains on a GPU, against what trains on the CPU: the same numbers out of ggml's own operations, on every device there is.
//!
//! The CPU counts as one, so that there always is something to compare; a build with a GPU feature finds its devices, too.
#![allow(clippy::unwrap_used)]

mod common;

use common::measure::{max_difference, relative_error};
use common::{Examples, ModelFile, exact, model_of_type, random_lora};
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{DeviceKind, devices};
use thumbprint_tune::adapter::{Lora, Module};
use thumbprint_tune::batch::Packed;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::graph::{Coefficient, DeviceOptions, NetworkError, NetworkOptions, Scratch};
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::plan::Plan;
use thumbprint_tune::trainer::Trainer;

/// How far a device may be off, in log-probabilities (nats) and in gradients (relative).
struct Tolerance {
    logps: f64,
    gradient: f64,
}

/// All devices, by name. GPUs multiply in half precision where they can, unless they are told not to.
fn all() -> Vec<(String, Tolerance)> {
    let single = std::env::var_os("GGML_VK_DISABLE_F16").is_some();
    let all = devices().into_iter().map(|device| {
        let tolerance = match device.kind {
            // Observed 1e-4 (weights at random) and 3e-5: sums in another order.
            DeviceKind::Cpu => Tolerance {
                logps: 5e-4,
                gradient: 1e-4,
            },
            _ if single => Tolerance {
                logps: 2e-3,
                gradient: 1e-3,
            },
            // Observed 0.1 and 0.05 at most (six layers of Gemma 3), 0.02 and 0.004 in most.
            _ => Tolerance {
                logps: 0.4,
                gradient: 0.1,
            },
        };
        (device.name, tolerance)
    });
    all.collect()
}

fn on(device: &str, options: NetworkOptions) -> NetworkOptions {
    NetworkOptions {
        device: Some(DeviceOptions {
            name: device.to_owned(),
            strict: false,
        }),
        ..options
    }
}

/// Pairs whose parts end within chunks of the head, beside a completion whose targets are distributions.
fn examples() -> Examples {
    Examples::random(31, 384, &[(40, &[37, 20]), (7, &[1, 12]), (9, &[6])])
}

struct Outcome {
    scores: Vec<Vec<f64>>,
    log_sum_sq: Vec<Vec<f64>>,
    gradient: Vec<f64>,
    /// Of the base alone.
    base: Vec<Vec<f64>>,
    fallbacks: Vec<String>,
}

/// `with_means`: whether the last completion's targets are the base's distributions. `dropout`: of the adapter's inputs.
fn outcome(
    file: &ModelFile,
    options: NetworkOptions,
    lora: &Lora,
    (with_means, dropout): (bool, f32),
) -> Outcome {
    let mut network = file.network(options, Some(lora));
    let mut packed: Packed = examples().pack();
    if with_means {
        let mut means = network.mean_embeddings(&packed).unwrap();
        let last = means.len() - 1;
        packed.means.insert(last, means.remove(last));
    }
    let base = network.score(&packed, false).unwrap();
    network.set_dropout(dropout, 7);
    let scores = network.forward(&packed).unwrap();
    let coefficients: Vec<Coefficient> = (0..scores.logps.len())
        .map(|i| Coefficient {
            head: (1.7 * i as f64 + 0.4).sin(),
            tail: 0.3,
            n_head: 5,
        })
        .collect();
    let mut gradient = vec![0.0; lora.values.len()];
    network
        .backward(&packed, &coefficients, lora, &mut gradient)
        .unwrap();
    Outcome {
        gradient: gradient.into_iter().map(f64::from).collect(),
        scores: scores.logps,
        log_sum_sq: scores.log_sum_sq,
        base: base.logps,
        fallbacks: network.fallbacks(),
    }
}

fn assert_equal(what: &str, tolerance: &Tolerance, found: &Outcome, expected: &Outcome) {
    let far =
        |a: &[Vec<f64>], b: &[Vec<f64>]| max_difference(a.iter().flatten(), b.iter().flatten());
    let logps = far(&found.scores, &expected.scores).max(far(&found.base, &expected.base));
    let squares = far(&found.log_sum_sq, &expected.log_sum_sq);
    let narrow: Vec<f32> = found.gradient.iter().map(|x| *x as f32).collect();
    let gradient = relative_error(&narrow, &expected.gradient);
    println!(
        "{what}: log-probabilities {logps:.1e}, squares {squares:.1e}, gradient {gradient:.1e}"
    );
    assert!(logps <= tolerance.logps, "{what}: {logps:.1e}");
    assert!(squares <= 2.0 * tolerance.logps, "{what}: {squares:.1e}");
    assert!(gradient <= tolerance.gradient, "{what}: {gradient:.1e}");
}

#[test]
fn every_architecture_has_the_same_numbers_on_every_device() {
    for tiny in TinyModel::every_architecture() {
        let file = ModelFile::new(&tiny.writer());
        let lora = random_lora(&file.open(), 3, &Module::ALL);
        // A distribution is not known by its mean embedding where logits are capped.
        let with_means = file.open().spec.logit_cap.is_none();
        let expected = outcome(&file, exact(256), &lora, (with_means, 0.0));
        for (device, tolerance) in all() {
            let what = format!("{} on {device}", tiny.architecture);
            let found = outcome(&file, on(&device, exact(256)), &lora, (with_means, 0.0));
            assert_equal(&what, &tolerance, &found, &expected);
        }
    }
}

#[test]
fn every_type_has_the_same_numbers_on_every_device() {
    for ty in thumbprint_tune::model::trainable_types() {
        let file = model_of_type(ty);
        let lora = random_lora(&file.open(), 3, &Module::ALL);
        let expected = outcome(&file, exact(256), &lora, (true, 0.0));
        for (device, tolerance) in all() {
            let found = outcome(&file, on(&device, exact(256)), &lora, (true, 0.0));
            assert_equal(
                &format!("{} on {device}", ty.name()),
                &tolerance,
                &found,
                &expected,
            );
        }
    }
}

#[test]
fn recomputing_chunks_and_parts_of_the_adapter_change_nothing_on_any_device() {
    let file = ModelFile::new(&TinyModel::qwen2().writer());
    for targets in [
        &[Module::K, Module::Down][..],
        &[Module::Q, Module::V, Module::Up],
    ] {
        let lora = random_lora(&file.open(), 3, targets);
        let expected = outcome(&file, exact(256), &lora, (true, 0.0));
        for (device, tolerance) in all() {
            for recomputed_layers in [1, 0] {
                let options = NetworkOptions {
                    recomputed_layers,
                    recompute_gate_up: recomputed_layers == 0,
                    head_rows: 3,
                    ..on(&device, exact(256))
                };
                let found = outcome(&file, options, &lora, (true, 0.0));
                let what = format!("{targets:?} on {device}");
                assert_equal(&what, &tolerance, &found, &expected);
            }
        }
    }
}

/// In BF16 products are those of a CPU that computes in BF16: observed 0.05 and 0.01.
#[test]
fn kept_copies_of_the_frozen_matrices_change_nothing_but_what_their_type_rounds() {
    for tiny in [TinyModel::qwen2(), TinyModel::gemma3(), TinyModel::phi3()] {
        let file = ModelFile::new(&tiny.writer());
        let lora = random_lora(&file.open(), 3, &Module::ALL);
        let expected = outcome(&file, exact(256), &lora, (true, 0.0));
        for (device, tolerance) in all() {
            for ty in [GgmlType::F32, GgmlType::BF16] {
                let mut options = NetworkOptions {
                    keep_weights: true,
                    ..on(&device, exact(256))
                };
                options.kernels.scratch = Scratch::Rows(ty);
                let tolerance = match ty {
                    GgmlType::F32 => &tolerance,
                    _ => &Tolerance {
                        logps: 1.0,
                        gradient: 0.3,
                    },
                };
                let found = outcome(&file, options, &lora, (true, 0.0));
                let what = format!("{} kept in {} on {device}", tiny.architecture, ty.name());
                assert_equal(&what, tolerance, &found, &expected);
            }
        }
    }
}

/// Which elements are dropped follows from integers that no other backend computes with.
#[test]
fn dropout_is_computed_on_the_cpu_and_that_is_told_and_refused_where_it_must_not_be() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let expected = outcome(&file, exact(256), &lora, (false, 0.3));
    for (device, tolerance) in all() {
        let found = outcome(&file, on(&device, exact(256)), &lora, (false, 0.3));
        assert_equal(
            &format!("dropout on {device}"),
            &tolerance,
            &found,
            &expected,
        );
        let is_cpu = device == "CPU";
        assert_eq!(found.fallbacks.is_empty(), is_cpu, "{:?}", found.fallbacks);
        if is_cpu {
            continue;
        }
        let mut options = on(&device, exact(256));
        options.device.as_mut().unwrap().strict = true;
        let mut network = file.network(options, Some(&lora));
        let packed = examples().pack();
        network.forward(&packed).unwrap();
        network.set_dropout(0.3, 7);
        match network.forward(&packed) {
            Err(NetworkError::Fallback { device: named, .. }) => assert_eq!(named, device),
            other => panic!("{other:?}"),
        }
    }
}

/// A run of eight steps on three pairs, where it stands at the beginning.
fn run(file: &ModelFile, device: Option<&str>, config: TrainConfig) -> Trainer {
    let pairs = Examples::random(5, 384, &[(12, &[9, 14]), (8, &[20, 6]), (17, &[11, 3])]);
    let example = |(prompt, sides): &(Vec<i32>, Vec<Vec<i32>>)| Example {
        prompt: prompt.clone(),
        kind: Kind::Pair {
            chosen: sides[0].clone(),
            rejected: sides[1].clone(),
            weights: PairWeights::default(),
        },
    };
    let examples: Vec<Example> = pairs.0.iter().map(example).collect();
    let lora = random_lora(&file.open(), 4, &Module::ALL);
    let options = exact(256);
    let plan = Plan {
        kernels: options.kernels,
        n_threads: 1,
        max_tokens: 256,
        head_rows: 16,
        recomputed_layers: 0,
        last_layers: None,
        recompute_gate_up: false,
        keep_weights: false,
        device: device.map(|name| DeviceOptions {
            name: name.to_owned(),
            strict: false,
        }),
    };
    let config = TrainConfig {
        max_steps: 8,
        learning_rate: 3e-3,
        lora: lora.config.clone(),
        ..config
    };
    let base = "base".to_owned();
    let mut trainer =
        Trainer::with_adapter(file.open(), base, examples, config, plan, lora).unwrap();
    while !trainer.score_references().unwrap().is_empty() {}
    trainer
}

#[test]
fn a_run_on_a_device_takes_the_steps_of_a_run_on_the_cpu() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    // With decay and a limit that clips.
    let config = || {
        let mut config = TrainConfig::default();
        config.adamw.weight_decay = 0.1;
        config.max_grad_norm = 0.5;
        config
    };
    let outcome = |device: Option<&str>| {
        let mut trainer = run(&file, device, config());
        let mut steps = Vec::new();
        while !trainer.is_finished() {
            steps.push(trainer.step().unwrap());
        }
        let losses: Vec<f64> = steps.iter().map(|step| step.loss).collect();
        let norms: Vec<f64> = steps.iter().map(|step| step.grad_norm).collect();
        let checkpoint = trainer.checkpoint().unwrap();
        assert_eq!(checkpoint.values, trainer.lora().unwrap().values);
        (losses, norms, checkpoint)
    };
    let (losses, norms, expected) = outcome(None);
    assert!(losses[7] < losses[0], "{losses:?}");
    assert!(norms.iter().any(|norm| *norm > 0.5), "{norms:?}");
    let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    for (device, tolerance) in all() {
        let (losses_there, norms_there, found) = outcome(Some(&device));
        let off = max_difference(&losses_there, &losses);
        let norms_off = max_difference(&norms_there, &norms);
        let values = relative_error(&found.values, &wide(&expected.values));
        let moments = relative_error(&found.m, &wide(&expected.m))
            .max(relative_error(&found.v, &wide(&expected.v)));
        println!(
            "on {device}: losses {off:.1e}, norms {norms_off:.1e}, parameters {values:.1e}, moments {moments:.1e}"
        );
        assert!(off <= 10.0 * tolerance.logps, "{device}: {off:.1e}");
        assert!(
            norms_off <= 10.0 * tolerance.logps,
            "{device}: {norms_off:.1e}"
        );
        assert!(
            values <= 10.0 * tolerance.gradient,
            "{device}: {values:.1e}"
        );
        assert!(
            moments <= 10.0 * tolerance.gradient,
            "{device}: {moments:.1e}"
        );
    }
}

#[test]
fn a_run_that_is_resumed_on_a_device_gives_the_bits_of_one_that_went_through() {
    let file = ModelFile::new(&TinyModel::qwen2().writer());
    for (device, _) in all() {
        let mut whole = run(&file, Some(&device), TrainConfig::default());
        let mut halfway = None;
        while !whole.is_finished() {
            if whole.steps_done() == 3 {
                halfway = Some(whole.checkpoint().unwrap());
            }
            whole.step().unwrap();
        }
        let mut resumed = run(&file, Some(&device), TrainConfig::default());
        resumed.resume(halfway.unwrap()).unwrap();
        while !resumed.is_finished() {
            resumed.step().unwrap();
        }
        let [whole, resumed] = [whole, resumed].map(|mut run| run.checkpoint().unwrap());
        assert_eq!(
            (whole.values, whole.m, whole.v),
            (resumed.values, resumed.m, resumed.v)
        );
    }
}

/// Its adapter is not seen while the reference is: an earlier stage's is, in its place.
#[test]
fn a_reference_adapter_on_a_device_leaves_the_trained_one_as_it_is() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    for (device, _) in all() {
        let mut trainer = run(&file, Some(&device), TrainConfig::default());
        trainer.step().unwrap();
        let before = trainer.lora().unwrap().clone();
        let mut reference = before.clone();
        reference.values.iter_mut().for_each(|value| *value *= 0.5);
        trainer.set_reference_adapter(reference).unwrap();
        while !trainer.score_references().unwrap().is_empty() {}
        assert_eq!(trainer.lora().unwrap(), &before);
        trainer.step().unwrap();
        assert_ne!(trainer.lora().unwrap(), &before);
    }
}

/// With every B at 0 the adapter changes nothing, while gradients of B grow with A.
#[test]
fn a_gradient_that_is_not_finite_on_a_device_is_named_and_one_whose_square_is_not_is_clipped() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let with_factors = |device: &str, a: f32, beta: f64| {
        let mut config = TrainConfig::default();
        config.pair.beta = beta;
        let mut trainer = run(&file, Some(device), config);
        let mut checkpoint = trainer.checkpoint().unwrap();
        for tensor in &trainer.lora().unwrap().tensors {
            checkpoint.values[tensor.a.clone()]
                .iter_mut()
                .for_each(|value| *value *= a);
            checkpoint.values[tensor.b.clone()].fill(0.0);
        }
        trainer.resume(checkpoint).unwrap();
        trainer
    };
    for (device, _) in all() {
        let mut huge = with_factors(&device, 1e24, 0.1);
        let step = huge.step().unwrap();
        assert!(
            step.grad_norm.is_finite() && step.grad_norm > 1e20,
            "{step:?}"
        );
        assert!(
            huge.lora()
                .unwrap()
                .values
                .iter()
                .all(|value| value.is_finite())
        );

        let mut infinite = with_factors(&device, 1e37, 1e3);
        let before = infinite.lora().unwrap().clone();
        let message = match infinite.step() {
            Err(error) => error.to_string(),
            Ok(step) => panic!("{step:?}"),
        };
        println!("{message}");
        assert!(message.contains("not a finite number"), "{message}");
        assert!(message.contains("gradient of `blk."), "{message}");
        assert_eq!(infinite.steps_done(), 0);
        assert_eq!(infinite.lora().unwrap(), &before);
    }
}

#[test]
fn a_parameter_that_an_update_makes_infinite_is_named_and_never_leaves_the_trainer() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let mut decay = TrainConfig::default();
    decay.adamw.weight_decay = 1e300;
    let places = all().into_iter().map(|(device, _)| Some(device));
    for device in [None].into_iter().chain(places) {
        let mut trainer = run(&file, device.as_deref(), decay.clone());
        let before = trainer.checkpoint().unwrap();
        let message = trainer.step().unwrap_err().to_string();
        println!("{device:?}: {message}");
        let named = "the parameter of `blk.0.attn_q.weight.lora_a`";
        assert!(
            message.contains("step 1") && message.contains(named),
            "{message}"
        );
        match device {
            None => {
                assert!(message.contains("no update was made"), "{message}");
                assert_eq!(trainer.checkpoint().unwrap(), before);
            }
            Some(_) => {
                assert!(message.contains("last checkpoint"), "{message}");
                assert!(trainer.lora().is_err() && trainer.checkpoint().is_err());
                trainer.resume(before.clone()).unwrap();
                assert_eq!(trainer.checkpoint().unwrap(), before);
            }
        }
    }
}

#[test]
fn a_checkpoint_with_a_value_that_is_not_finite_is_refused_by_tensor_and_changes_nothing() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let places = all().into_iter().map(|(device, _)| Some(device));
    for device in [None].into_iter().chain(places) {
        let mut trainer = run(&file, device.as_deref(), TrainConfig::default());
        trainer.step().unwrap();
        let good = trainer.checkpoint().unwrap();
        trainer.step().unwrap();
        let now = trainer.checkpoint().unwrap();
        let at = trainer.lora().unwrap().tensors[3].b.start + 1;
        let name = trainer.lora().unwrap().name_at(at).unwrap();
        type Pick = fn(&mut thumbprint_tune::checkpoint::Checkpoint) -> &mut Vec<f32>;
        let parts: [(&str, Pick); 3] = [
            ("parameter", |c| &mut c.values),
            ("first moment", |c| &mut c.m),
            ("second moment", |c| &mut c.v),
        ];
        for (what, part) in parts {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut broken = good.clone();
                part(&mut broken)[at] = bad;
                let message = trainer.resume(broken).unwrap_err().to_string();
                let named = format!("step 1: the {what} of `{name}` is {bad}");
                assert!(message.contains(&named), "{message}");
                assert_eq!(trainer.checkpoint().unwrap(), now);
            }
        }
        let mut short = good.clone();
        for values in [&mut short.values, &mut short.m, &mut short.v] {
            values.pop();
        }
        assert!(trainer.resume(short).is_err());
        assert_eq!(trainer.checkpoint().unwrap(), now);
        trainer.resume(good.clone()).unwrap();
        assert_eq!(trainer.checkpoint().unwrap(), good);
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_by_name() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let error = thumbprint_tune::graph::Network::new(file.open(), on("Abacus0", exact(64)), None);
    let message = error.err().unwrap().to_string();
    assert!(message.contains("Abacus0"), "{message}");
}
