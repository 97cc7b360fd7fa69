//! What must not change the numbers: sharing a prompt, packing, recomputing, the number of threads, an adapter that changes nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;

use common::measure::{cosine, max_difference, relative_error};
use common::{Examples, ModelFile, exact, random_lora};
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::packed::Packing;
use thumbprint_tune::adapter::{Lora, LoraConfig, Module};
use thumbprint_tune::batch::Packed;
use thumbprint_tune::graph::{Kept, Kernels, NetworkOptions, Scratch};

/// Log-probabilities and the gradient of a fixed combination of them.
type Outcome = (Vec<Vec<f64>>, Vec<f32>);

fn tiny() -> ModelFile {
    ModelFile::new(&TinyModel::llama().writer())
}

fn quantized() -> ModelFile {
    let tiny = TinyModel {
        ty: GgmlType::Q4_1,
        ..TinyModel::llama()
    };
    ModelFile::new(&tiny.with_type("token_embd", GgmlType::Q8_0).writer())
}

/// Pairs whose parts fill tiles of attention and end within them.
fn pairs() -> Examples {
    Examples::random(31, 384, &[(40, &[37, 20]), (7, &[1, 12]), (65, &[33, 2])])
}

fn coefficients(n: usize) -> Vec<f64> {
    (0..n).map(|i| (1.7 * i as f64 + 0.4).sin()).collect()
}

fn outcome(file: &ModelFile, options: NetworkOptions, lora: &Lora, packed: &Packed) -> Outcome {
    let mut network = file.network(options, Some(lora));
    let scores = network.forward(packed).unwrap();
    let mut gradient = vec![0.0; lora.values.len()];
    let coefficients = coefficients(scores.logps.len());
    network
        .backward(packed, &coefficients, lora, &mut gradient)
        .unwrap();
    (scores.logps, gradient)
}

/// The largest difference of log-probabilities, and the relative error of the gradient.
fn distance((logps, gradient): &Outcome, (other_logps, other_gradient): &Outcome) -> (f64, f64) {
    let wide: Vec<f64> = other_gradient.iter().map(|x| f64::from(*x)).collect();
    let logp = max_difference(logps.iter().flatten(), other_logps.iter().flatten());
    (logp, relative_error(gradient, &wide))
}

fn assert_near(what: &str, a: &Outcome, b: &Outcome) {
    let (logp, gradient) = distance(a, b);
    println!("{what}: log-probabilities {logp:.1e}, gradient {gradient:.1e}");
    // Observed at most 6e-7 and 4e-7: products of one row and of many are cut differently.
    assert!(
        logp < 1e-5,
        "{what}: log-probabilities differ by {logp:.1e}"
    );
    assert!(
        gradient < 1e-5,
        "{what}: gradients differ by {gradient:.1e}"
    );
}

#[test]
fn a_shared_prompt_gives_what_a_prompt_of_its_own_gives() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let shared = outcome(&file, exact(512), &lora, &pairs().pack());
    let unshared = outcome(&file, exact(512), &lora, &pairs().unshared().pack());
    assert_near("shared and unshared", &shared, &unshared);
}

#[test]
fn packing_gives_what_one_example_at_a_time_gives() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let packed = outcome(&file, exact(512), &lora, &pairs().pack());

    let mut network = file.network(exact(512), Some(&lora));
    let mut single = (Vec::new(), vec![0.0; lora.values.len()]);
    let all = coefficients(packed.0.len());
    for example in pairs().0 {
        let packed = Examples(vec![example]).pack();
        let scores = network.forward(&packed).unwrap();
        let coefficients = &all[single.0.len()..][..scores.logps.len()];
        network
            .backward(&packed, coefficients, &lora, &mut single.1)
            .unwrap();
        single.0.extend(scores.logps);
    }
    assert_near("packed and single", &packed, &single);
}

/// Windows, norms, experts: what makes an architecture another one must hold to packing as well.
#[test]
fn sharing_packing_and_recomputing_change_nothing_in_any_architecture() {
    for tiny in TinyModel::every_architecture() {
        let name = tiny.architecture;
        let file = ModelFile::new(&tiny.writer());
        let lora = random_lora(&file.open(), 3, &Module::ALL);
        let shared = outcome(&file, exact(512), &lora, &pairs().pack());
        let unshared = outcome(&file, exact(512), &lora, &pairs().unshared().pack());
        assert_near(name, &shared, &unshared);
        for kernels in [Kernels::EXACT, Kernels::BF16] {
            let run = |recomputed_layers, recompute_gate_up| {
                let options = NetworkOptions {
                    recomputed_layers,
                    recompute_gate_up,
                    kernels,
                    ..exact(512)
                };
                outcome(&file, options, &lora, &pairs().pack())
            };
            let plain = run(0, false);
            for layers in 0..=tiny.n_layer {
                let what = format!("{name}, {kernels:?}, {layers} blocks recomputed");
                assert!(plain == run(layers, false), "{what}");
                let gate_up = run(layers, true);
                // Every block is recomputed, or is the one whose memory those use.
                let is_same = layers + 1 >= tiny.n_layer || name == "qwen3moe";
                if kernels == Kernels::EXACT || is_same {
                    assert!(plain == gate_up, "{what}: gate and up");
                    continue;
                }
                // From what was rounded to BF16 before them, not after.
                assert!(plain.0 == gate_up.0, "{what}: gate and up");
                let cosine = cosine(&plain.1, &gate_up.1);
                println!("{what}: gate and up from BF16, cosine {cosine:.6}");
                assert!(cosine > 0.999, "{what}: {cosine:.6}");
            }
        }
    }
}

#[test]
fn kept_copies_of_the_weights_change_no_bit() {
    for packing in Packing::ALL {
        for tiny in [
            TinyModel::llama(),
            TinyModel::qwen3moe(),
            TinyModel::gemma3(),
        ] {
            let file = ModelFile::new(&tiny.writer());
            let lora = random_lora(&file.open(), 3, &Module::ALL);
            let options = |keep_weights| NetworkOptions {
                keep_weights,
                kernels: Kernels {
                    scratch: Scratch::Packed(packing),
                    ..Kernels::BF16
                },
                ..exact(512)
            };
            let anew = outcome(&file, options(false), &lora, &pairs().pack());
            let kept = outcome(&file, options(true), &lora, &pairs().pack());
            assert!(anew == kept, "{}, {packing:?}", tiny.architecture);
            let network = file.network(options(true), Some(&lora));
            let without = file.network(options(false), Some(&lora));
            let more = network.n_bytes() - without.n_bytes();
            let planned = Kept::n_bytes(network.model(), Scratch::Packed(packing));
            // Storages are padded.
            assert!(
                more >= planned && more < planned + (1 << 20),
                "{more} {planned}"
            );
        }
    }
}

/// An adapter of the last blocks has the gradient that these have in an adapter of all whose other blocks change nothing; and it makes no
/// difference whether what enters the first of them is computed again.
#[test]
fn the_last_blocks_alone_have_their_part_of_the_whole_gradient() {
    for tiny in [TinyModel::smollm3(), TinyModel::gemma3()] {
        let file = ModelFile::new(&tiny.writer());
        let n_last = 2;
        let first = tiny.n_layer - n_last;
        let mut whole = random_lora(&file.open(), 3, &Module::ALL);
        for tensor in whole.tensors.clone() {
            if tensor.layer < first {
                whole.values[tensor.b].fill(0.0);
            }
        }
        let config = LoraConfig {
            last_layers: Some(n_last),
            ..whole.config.clone()
        };
        let mut last = Lora::new(config, &common::shapes(&file.open())).unwrap();
        assert_eq!(last.first_layer(), first);
        let start = whole.values.len() - last.values.len();
        last.values.copy_from_slice(&whole.values[start..]);

        let packed = pairs().pack();
        let c = coefficients(packed.sequences.len());
        for (kernels, recomputed_layers) in [
            (Kernels::EXACT, 0),
            (Kernels::EXACT, 1),
            (Kernels::BF16, 0),
            (Kernels::BF16, 1),
        ] {
            let options = NetworkOptions {
                kernels,
                recomputed_layers,
                ..exact(512)
            };
            let expected = outcome(&file, options.clone(), &whole, &packed);
            let mut network = file.network(options, Some(&last));
            let below = network.states_below(&packed).unwrap();
            for below in [None, Some(&below[..])] {
                let scores = network.forward_from(&packed, below).unwrap();
                assert!(scores.logps == expected.0);
                let mut gradient = vec![0.0; last.values.len()];
                network.backward(&packed, &c, &last, &mut gradient).unwrap();
                assert!(
                    gradient == expected.1[start..],
                    "{kernels:?} {recomputed_layers}"
                );
            }
        }
    }
}

#[test]
fn the_order_of_groups_does_not_matter() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let mut network = file.network(exact(512), Some(&lora));
    let forward = network.score(&pairs().pack(), true).unwrap().logps;
    let mut reversed = pairs();
    reversed.0.reverse();
    let backward = network.score(&reversed.pack(), true).unwrap().logps;
    let backward: Vec<_> = backward.chunks(2).rev().flatten().cloned().collect();
    let difference = max_difference(forward.iter().flatten(), backward.iter().flatten());
    // Observed 0.
    assert!(difference < 1e-5, "{difference:.1e}");
}

/// Changing the tokens of one completion must leave the log-probabilities of all others alone, to the last bit.
#[test]
fn completions_and_groups_do_not_see_one_another() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let mut network = file.network(exact(512), Some(&lora));
    let before = network.score(&pairs().pack(), true).unwrap().logps;
    let mut changed = pairs();
    for token in &mut changed.0[0].1[0] {
        *token = (*token + 17) % 384;
    }
    let after = network.score(&changed.pack(), true).unwrap().logps;
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1..], after[1..]);
}

#[test]
fn a_token_does_not_see_those_after_it() {
    let file = tiny();
    let mut network = file.network(exact(512), None);
    let examples = Examples::random(32, 384, &[(5, &[90])]);
    let before = network.score(&examples.pack(), false).unwrap().logps;
    let mut changed = examples;
    for token in &mut changed.0[0].1[0][60..] {
        *token = (*token + 17) % 384;
    }
    let after = network.score(&changed.pack(), false).unwrap().logps;
    assert_eq!(before[0][..60], after[0][..60]);
    assert_ne!(before[0][60..], after[0][60..]);
}

#[test]
fn recomputing_layers_gives_the_same_bits() {
    for file in [tiny(), quantized()] {
        let model = file.open();
        let all = random_lora(&model, 3, &Module::ALL);
        let some = random_lora(&model, 3, &[Module::K, Module::Up]);
        for lora in [all, some, layers_that_differ(&file)] {
            for kernels in [Kernels::EXACT, Kernels::BF16] {
                let plain = NetworkOptions {
                    kernels,
                    ..exact(512)
                };
                let recomputed = NetworkOptions {
                    recomputed_layers: usize::MAX,
                    ..plain.clone()
                };
                let plain = outcome(&file, plain, &lora, &pairs().pack());
                let recomputed = outcome(&file, recomputed, &lora, &pairs().pack());
                assert!(plain.1.iter().any(|g| *g != 0.0));
                assert!(
                    plain == recomputed,
                    "{kernels:?}, {:?}",
                    lora.config.targets
                );
            }
        }
    }
}

/// An adapter whose first block lacks modules that its second has, and the other way round.
fn layers_that_differ(file: &ModelFile) -> Lora {
    use Module::*;
    let kept: [&[Module]; 2] = [&[Q, Gate], &[Q, V, Down]];
    let shapes = common::shapes(&file.open());
    let shapes: Vec<_> = shapes
        .into_iter()
        .filter(|s| kept[s.layer].contains(&s.module))
        .collect();
    let config = LoraConfig {
        rank: 2,
        alpha: 5.0,
        targets: [Q, V, Gate, Down].into(),
        ..LoraConfig::default()
    };
    let mut lora = Lora::new(config, &shapes).unwrap();
    lora.randomize_b(0.1, 2);
    lora
}

/// With dropout the loss is still a function of the adapter, since the pattern is fixed by its key; so its gradient can be compared with
/// differences of our own losses, as far as single precision goes.
#[test]
fn dropout_has_the_gradient_of_its_own_pattern() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let packed = pairs().pack();
    let c = coefficients(packed.sequences.len());
    let mut network = file.network(exact(512), Some(&lora));
    network.set_dropout(0.3, 17);
    network.forward(&packed).unwrap();
    let mut gradient = vec![0.0; lora.values.len()];
    network.backward(&packed, &c, &lora, &mut gradient).unwrap();
    let mut loss_at = |step: f64, direction: &[f64]| {
        let mut moved = lora.clone();
        let values = moved.values.iter_mut().zip(direction);
        values.for_each(|(x, d)| *x = (f64::from(*x) + step * d) as f32);
        network.update_adapter(&moved).unwrap();
        let scores = network.forward(&packed).unwrap();
        (0..c.len()).map(|i| c[i] * scores.sum(i)).sum::<f64>()
    };
    for tensor in &lora.tensors {
        for range in [&tensor.a, &tensor.b] {
            let norm = gradient[range.clone()]
                .iter()
                .map(|g| f64::from(*g).powi(2))
                .sum::<f64>()
                .sqrt();
            let mut direction = vec![0.0; gradient.len()];
            range
                .clone()
                .for_each(|at| direction[at] = f64::from(gradient[at]) / norm);
            // A step that moves the loss by about 0.02.
            let step = 0.01 / norm;
            let slope = (loss_at(step, &direction) - loss_at(-step, &direction)) / (2.0 * step);
            let error = (slope / norm - 1.0).abs();
            // Observed at most 8e-4.
            assert!(error < 5e-3, "{}: {error:.1e}", tensor.base);
        }
    }
}

#[test]
fn dropout_is_off_when_scoring_and_recomputed_to_the_bit() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let packed = pairs().pack();
    let run = |kernels, (recomputed_layers, recompute_gate_up), key| {
        let options = NetworkOptions {
            kernels,
            recomputed_layers,
            recompute_gate_up,
            ..exact(512)
        };
        let mut network = file.network(options, Some(&lora));
        let plain = network.score(&packed, true).unwrap();
        network.set_dropout(0.3, key);
        assert_eq!(network.score(&packed, true).unwrap(), plain);
        let scores = network.forward(&packed).unwrap();
        assert_ne!(scores, plain);
        let mut gradient = vec![0.0; lora.values.len()];
        let c = coefficients(scores.logps.len());
        network.backward(&packed, &c, &lora, &mut gradient).unwrap();
        (scores, gradient)
    };
    for kernels in [Kernels::EXACT, Kernels::BF16] {
        let once = run(kernels, (0, false), 1);
        let recomputed = run(kernels, (1, false), 1);
        assert!(once == recomputed, "{kernels:?}: recomputed");
        assert!(
            once != run(kernels, (0, false), 2),
            "{kernels:?}: another key"
        );
    }
    let gate_up = run(Kernels::EXACT, (0, true), 1);
    assert!(run(Kernels::EXACT, (0, false), 1) == gate_up, "gate and up");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for file in [tiny(), quantized()] {
        let lora = random_lora(&file.open(), 3, &Module::ALL);
        for kernels in [Kernels::EXACT, Kernels::BF16] {
            let with = |n_threads| {
                let options = NetworkOptions {
                    n_threads,
                    kernels,
                    ..exact(512)
                };
                outcome(&file, options, &lora, &pairs().pack())
            };
            let one = with(1);
            assert!(one == with(2), "{kernels:?}: 2 threads");
            assert!(one == with(3), "{kernels:?}: 3 threads");
        }
    }
}

#[test]
fn the_size_of_memory_and_of_the_heads_chunks_does_not_matter() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let usual = outcome(&file, exact(512), &lora, &pairs().pack());
    let tight = outcome(
        &file,
        exact(pairs().pack().tokens.len()),
        &lora,
        &pairs().pack(),
    );
    assert!(usual == tight);
    let one_chunk = NetworkOptions {
        head_rows: 256,
        ..exact(512)
    };
    assert_near(
        "one chunk",
        &usual,
        &outcome(&file, one_chunk, &lora, &pairs().pack()),
    );
    let single_rows = NetworkOptions {
        head_rows: 1,
        ..exact(512)
    };
    assert_near(
        "single rows",
        &usual,
        &outcome(&file, single_rows, &lora, &pairs().pack()),
    );
}

#[test]
fn the_reference_is_the_model_without_the_adapter_bit_for_bit() {
    let file = quantized();
    let model = file.open();
    let fresh = Lora::new(LoraConfig::default(), &common::shapes(&model)).unwrap();
    let trained = random_lora(&model, 3, &Module::ALL);
    for kernels in [Kernels::EXACT, Kernels::BF16] {
        let options = NetworkOptions {
            kernels,
            ..exact(512)
        };
        let packed = pairs().pack();
        let base = file
            .network(options.clone(), None)
            .score(&packed, false)
            .unwrap();
        let mut network = file.network(options.clone(), Some(&fresh));
        assert_eq!(network.score(&packed, true).unwrap(), base, "B is 0");
        assert_eq!(network.score(&packed, false).unwrap(), base);
        assert_eq!(network.forward(&packed).unwrap(), base);
        let mut network = file.network(options, Some(&trained));
        assert_eq!(network.score(&packed, false).unwrap(), base);
        assert_ne!(network.score(&packed, true).unwrap(), base);
    }
}

#[test]
fn with_b_zero_the_gradient_of_a_is_zero_and_that_of_b_is_not() {
    let file = tiny();
    let lora = Lora::new(LoraConfig::default(), &common::shapes(&file.open())).unwrap();
    let (_, gradient) = outcome(&file, exact(512), &lora, &pairs().pack());
    for tensor in &lora.tensors {
        assert!(
            gradient[tensor.a.clone()].iter().all(|g| *g == 0.0),
            "{}",
            tensor.a_name()
        );
        assert!(
            gradient[tensor.b.clone()].iter().any(|g| *g != 0.0),
            "{}",
            tensor.b_name()
        );
    }
}

#[test]
fn updating_the_adapter_gives_what_a_network_made_with_it_gives() {
    let file = tiny();
    let first = random_lora(&file.open(), 3, &Module::ALL);
    let mut second = first.clone();
    second.randomize_b(0.2, 77);
    second.values.iter_mut().for_each(|x| *x *= 1.25);
    let packed = pairs().pack();
    let mut network = file.network(exact(512), Some(&first));
    network.score(&packed, true).unwrap();
    network.update_adapter(&second).unwrap();
    let updated = network.score(&packed, true).unwrap();
    assert_eq!(
        updated,
        file.network(exact(512), Some(&second))
            .score(&packed, true)
            .unwrap()
    );
}

#[test]
fn gradients_add_up_over_ubatches_and_scale_with_their_coefficients() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let mut network = file.network(exact(512), Some(&lora));
    let packed = pairs().pack();
    network.forward(&packed).unwrap();
    let c = coefficients(packed.sequences.len());
    let mut once = vec![0.0; lora.values.len()];
    network.backward(&packed, &c, &lora, &mut once).unwrap();
    let mut twice = once.clone();
    network.backward(&packed, &c, &lora, &mut twice).unwrap();
    let doubled: Vec<f32> = once.iter().map(|g| 2.0 * g).collect();
    assert_eq!(twice, doubled);
    let c: Vec<f64> = c.iter().map(|c| -4.0 * c).collect();
    let mut scaled = vec![0.0; lora.values.len()];
    network.backward(&packed, &c, &lora, &mut scaled).unwrap();
    let expected: Vec<f32> = once.iter().map(|g| -4.0 * g).collect();
    assert_eq!(scaled, expected, "a power of two changes no rounding");
    let mut none = vec![0.0; lora.values.len()];
    network
        .backward(&packed, &vec![0.0; c.len()], &lora, &mut none)
        .unwrap();
    assert!(none.iter().all(|g| *g == 0.0));
}

#[test]
fn confidence_is_that_of_the_whole_distribution() {
    let file = tiny();
    let mut network = file.network(exact(512), None);
    let packed = pairs().pack();
    let n_vocab = file.open().spec.n_vocab;
    let logits = network.logits(&packed, false).unwrap();
    let scores = network.score(&packed, false).unwrap();
    let mut rows = logits.chunks(n_vocab).zip(&packed.targets);
    for (sequence, log_sum_sq) in scores.log_sum_sq.iter().enumerate() {
        let mut aligned = 0.0;
        for found in log_sum_sq {
            let (logits, target) = rows.next().unwrap();
            let exp: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
            let sum: f64 = exp.iter().sum();
            let squares = exp.iter().map(|e| (e / sum).powi(2)).sum::<f64>().ln();
            // Observed 2e-6.
            assert!((found - squares).abs() < 1e-5, "{found} {squares}");
            aligned += (exp[target.label as usize] / sum).ln() - squares;
        }
        let mean = aligned / log_sum_sq.len() as f64;
        assert!((scores.log_confidence(sequence) - mean).abs() < 1e-5);
    }
    assert!(rows.next().is_none());
}

#[test]
fn a_raised_flag_stops_a_pass_and_the_next_one_gives_the_same_numbers() {
    let file = tiny();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let packed = pairs().pack();
    let undisturbed = outcome(&file, exact(512), &lora, &packed);
    let mut network = file.network(exact(512), Some(&lora));
    let abort = network.abort_flag();
    let mut gradient = vec![0.0; lora.values.len()];
    let c = coefficients(packed.sequences.len());
    abort.store(true, Ordering::Relaxed);
    assert!(network.forward(&packed).unwrap_err().is_aborted());
    abort.store(false, Ordering::Relaxed);
    let scores = network.forward(&packed).unwrap();
    abort.store(true, Ordering::Relaxed);
    assert!(
        network
            .backward(&packed, &c, &lora, &mut gradient)
            .unwrap_err()
            .is_aborted()
    );
    abort.store(false, Ordering::Relaxed);
    gradient.fill(0.0);
    network.forward(&packed).unwrap();
    network.backward(&packed, &c, &lora, &mut gradient).unwrap();
    assert!((scores.logps, gradient) == undisturbed);
}

/// Kernels that round more than F32 ones may turn the gradient a little, never much.
#[test]
fn faster_kernels_keep_the_direction_of_the_gradient() {
    let file = quantized();
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let (_, exact_gradient) = outcome(&file, exact(512), &lora, &pairs().pack());
    // Observed 0.99968, 0.99971, 0.99997, 0.9971 and 0.99968.
    for (scratch, saved, least) in [
        (Scratch::Rows(GgmlType::BF16), GgmlType::BF16, 0.999),
        (Scratch::Rows(GgmlType::BF16), GgmlType::F32, 0.999),
        (Scratch::Rows(GgmlType::F16), GgmlType::BF16, 0.999),
        (Scratch::Rows(GgmlType::Q8_0), GgmlType::BF16, 0.99),
        (Scratch::Packed(Packing::Bf16), GgmlType::BF16, 0.999),
        (Scratch::Packed(Packing::F32), GgmlType::BF16, 0.999),
    ] {
        let options = NetworkOptions {
            kernels: Kernels { scratch, saved },
            ..exact(512)
        };
        let (_, gradient) = outcome(&file, options, &lora, &pairs().pack());
        let cosine = cosine(&gradient, &exact_gradient);
        println!(
            "{} and {}: cosine {cosine:.6}",
            scratch.name(),
            saved.name()
        );
        assert!(
            cosine > least,
            "{} and {}: cosine {cosine}",
            scratch.name(),
            saved.name()
        );
    }
}
