//! Every gradient of the adapter against central differences of a double-precision forward pass that shares no code with ours.
//!
//! The loss is a sum of log-probabilities with arbitrary coefficients, one for each completion's first tokens and one for the rest, so
//! that no token's gradient can stand in for another's. Alpha is not the rank and B is not zero: either would hide a wrong factor.
#![allow(clippy::unwrap_used)]

mod common;

use common::measure::{max_difference, relative_error};
use common::reference::Reference;
use common::{Examples, ModelFile, exact, other_architectures, random_lora};
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::gguf::GgufWriter;
use thumbprint_tune::adapter::{Lora, Module};
use thumbprint_tune::graph::Coefficient;
use thumbprint_tune::rng::Rng;

/// Steps of the differences. The truncation error is of the order of the step squared; the rounding error 1e-16 over the step.
const STEP: f64 = 1e-5;

/// Small enough to differentiate by every single parameter.
fn smallest() -> TinyModel {
    TinyModel {
        n_embd: 32,
        head_dim: 8,
        n_ff: 48,
        n_vocab: 260,
        ..TinyModel::llama()
    }
}

/// Three groups in one ubatch: a pair, a single completion of one token, and three completions, one of them of one token.
fn three_groups(n_vocab: usize) -> Examples {
    Examples::random(21, n_vocab, &[(5, &[6, 4]), (4, &[1]), (3, &[3, 1, 2])])
}

struct Case {
    file: ModelFile,
    reference: Reference,
    lora: Lora,
    examples: Examples,
    coefficients: Vec<Coefficient>,
}

impl Case {
    fn new(writer: &GgufWriter<'_>, rank: usize, targets: &[Module], examples: Examples) -> Self {
        let file = ModelFile::new(writer);
        let reference = Reference::open(&file.path);
        let lora = random_lora(&file.open(), rank, targets);
        let mut rng = Rng::new(5);
        let mut coefficient = || Coefficient {
            head: rng.normal(),
            tail: rng.normal(),
            n_head: 2,
        };
        let coefficients = examples.sequences().map(|_| coefficient()).collect();
        Self {
            file,
            reference,
            lora,
            examples,
            coefficients,
        }
    }

    /// Our gradient, after a check that the log-probabilities that it belongs to are right.
    fn gradient(&self) -> Vec<f32> {
        let mut network = self.file.network(exact(512), Some(&self.lora));
        let packed = self.examples.pack();
        let scores = network.forward(&packed).unwrap();
        let exact = self
            .reference
            .merged(&self.lora, &self.values())
            .logps(&self.examples);
        let error = max_difference(scores.logps.iter().flatten(), exact.iter().flatten());
        // Observed at most 2e-5.
        assert!(error < 1e-4, "log-probabilities differ by {error:.1e}");
        let mut gradient = vec![0.0; self.lora.values.len()];
        network
            .backward(&packed, &self.coefficients, &self.lora, &mut gradient)
            .unwrap();
        gradient
    }

    fn values(&self) -> Vec<f64> {
        self.lora.values.iter().map(|x| f64::from(*x)).collect()
    }

    /// The derivative of the loss along `direction`, which is zero outside of tensor `index`.
    fn derivative(&self, index: usize, direction: &[(usize, f64)]) -> f64 {
        let mut values = self.values();
        let mut merged = self.reference.merged(&self.lora, &values);
        let mut loss_at = |step: f64| {
            direction.iter().for_each(|(at, d)| values[*at] += step * d);
            merged.merge(&self.lora, &values, index);
            direction.iter().for_each(|(at, d)| values[*at] -= step * d);
            let logps = merged.logps(&self.examples);
            let terms = logps.iter().zip(&self.coefficients).map(|(logps, c)| {
                let (head, tail) = logps.split_at(c.n_head.min(logps.len()));
                c.head * head.iter().sum::<f64>() + c.tail * tail.iter().sum::<f64>()
            });
            terms.sum::<f64>()
        };
        (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP)
    }

    /// Relative error of each factor's gradient, every entry compared.
    fn errors(&self) -> Vec<(String, f64)> {
        let gradient = self.gradient();
        let mut errors = Vec::new();
        for (index, tensor) in self.lora.tensors.iter().enumerate() {
            for (name, range) in [(tensor.a_name(), &tensor.a), (tensor.b_name(), &tensor.b)] {
                let exact: Vec<f64> = range
                    .clone()
                    .map(|at| self.derivative(index, &[(at, 1.0)]))
                    .collect();
                errors.push((name, relative_error(&gradient[range.clone()], &exact)));
            }
        }
        errors
    }

    /// The same estimated from `n` random directions of signs: the mean square of the error along such a direction is the square of
    /// the error's norm (Hutchinson).
    fn estimated_errors(&self, n: usize) -> Vec<(String, f64)> {
        let gradient = self.gradient();
        let mut rng = Rng::new(6);
        let mut errors = Vec::new();
        for (index, tensor) in self.lora.tensors.iter().enumerate() {
            for (name, range) in [(tensor.a_name(), &tensor.a), (tensor.b_name(), &tensor.b)] {
                let squares = (0..n).map(|_| {
                    let mut sign = |at| (at, if rng.below(2) == 0 { 1.0 } else { -1.0 });
                    let direction: Vec<_> = range.clone().map(&mut sign).collect();
                    let ours: f64 = direction
                        .iter()
                        .map(|(at, d)| f64::from(gradient[*at]) * d)
                        .sum();
                    (ours - self.derivative(index, &direction)).powi(2)
                });
                let error = (squares.sum::<f64>() / n as f64).sqrt();
                let norm = gradient[range.clone()]
                    .iter()
                    .map(|g| f64::from(*g).powi(2))
                    .sum::<f64>();
                errors.push((name, error / norm.sqrt()));
            }
        }
        errors
    }
}

/// Observed: the worst factor of a case 6e-7 to 3e-6.
const TOLERANCE: f64 = 1e-4;

fn assert_small(case: &str, errors: &[(String, f64)]) {
    let worst = errors.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    println!(
        "{case}: worst of {} factors {:.1e} ({})",
        errors.len(),
        worst.1,
        worst.0
    );
    for (name, error) in errors {
        assert!(
            *error < TOLERANCE,
            "{case}: {name}: relative error {error:.1e}"
        );
    }
}

#[test]
fn every_entry_of_every_gradient_equals_central_differences() {
    let case = Case::new(&smallest().writer(), 2, &Module::ALL, three_groups(260));
    let errors = case.errors();
    assert_eq!(errors.len(), 2 * 7 * 2);
    assert_small("all modules", &errors);
}

#[test]
fn gradients_hold_for_every_subset_of_modules_that_shares_a_product() {
    use Module::*;
    let subsets: [&[Module]; 9] = [
        &[Q],
        &[K],
        &[V],
        &[Q, V],
        &[K, O],
        &[Gate],
        &[Up, Down],
        &[Down],
        &[Q, K, V, O],
    ];
    for targets in subsets {
        let case = Case::new(&smallest().writer(), 3, targets, three_groups(260));
        let errors = case.estimated_errors(2);
        assert_eq!(errors.len(), 2 * 2 * targets.len());
        assert_small(&format!("{targets:?}"), &errors);
    }
}

#[test]
fn gradients_hold_for_every_variant_of_every_architecture() {
    let tiny = TinyModel {
        n_vocab: 260,
        ..TinyModel::llama()
    };
    let mut scaled = tiny.writer();
    scaled.set("llama.rope.scaling.factor", 4.0f32);
    let mut partly_rotated = tiny.writer();
    partly_rotated.set("llama.rope.dimension_count", 6u32);
    let mut biased = tiny.writer();
    for layer in 0..tiny.n_layer {
        for (module, n) in [
            (Module::Q, 64),
            (Module::K, 32),
            (Module::Up, 128),
            (Module::Down, 64),
        ] {
            let values: Vec<f32> = (0..n).map(|i| 0.3 * (i as f32).sin()).collect();
            let name = format!("blk.{layer}.{}.bias", module.gguf_name());
            biased.tensor_f32(&name, &[i64::from(n)], &values);
        }
    }
    let variants = [
        (
            "a key head for each query head",
            TinyModel {
                n_head_kv: 4,
                ..tiny.clone()
            }
            .writer(),
        ),
        (
            "one key head",
            TinyModel {
                n_head_kv: 1,
                ..tiny.clone()
            }
            .writer(),
        ),
        (
            "untied",
            TinyModel {
                tied: false,
                ..tiny.clone()
            }
            .writer(),
        ),
        (
            "heads of 20",
            TinyModel {
                n_head: 5,
                n_head_kv: 5,
                head_dim: 20,
                ..tiny.clone()
            }
            .writer(),
        ),
        (
            "frequency factors",
            TinyModel {
                llama3_rope: true,
                ..tiny.clone()
            }
            .writer(),
        ),
        ("widths of no vector's multiple", odd_widths().writer()),
        ("linear scaling", scaled),
        ("heads rotated in part", partly_rotated),
        ("biases", biased),
    ];
    let others = other_architectures().into_iter().map(|tiny| {
        let tiny = TinyModel {
            n_vocab: 260,
            ..tiny
        };
        (tiny.architecture, tiny.writer())
    });
    for (name, writer) in variants.into_iter().chain(others) {
        let case = Case::new(&writer, 5, &Module::ALL, three_groups(260));
        assert_small(name, &case.estimated_errors(2));
    }
}

fn odd_widths() -> TinyModel {
    TinyModel {
        n_embd: 36,
        n_head: 3,
        n_head_kv: 1,
        head_dim: 14,
        n_ff: 52,
        n_vocab: 261,
        ..TinyModel::llama()
    }
}

#[test]
fn gradients_hold_for_sequences_longer_than_the_tiles_of_attention() {
    let examples = Examples::random(22, 260, &[(70, &[67, 33]), (1, &[66]), (33, &[2])]);
    let case = Case::new(&smallest().writer(), 2, &Module::ALL, examples);
    assert_small("long sequences", &case.estimated_errors(2));
}

#[test]
fn gradients_hold_where_layers_adapt_different_modules() {
    use Module::*;
    let mut case = Case::new(&smallest().writer(), 2, &Module::ALL, three_groups(260));
    let kept: [&[Module]; 2] = [&[Q, Gate], &[Q, V, Down]];
    let shapes: Vec<_> = common::shapes(&case.file.open())
        .into_iter()
        .filter(|shape| kept[shape.layer].contains(&shape.module))
        .collect();
    let mut config = case.lora.config.clone();
    config.targets = [Q, V, Gate, Down].into();
    case.lora = Lora::new(config, &shapes).unwrap();
    case.lora.randomize_b(0.1, 9);
    assert_small("different layers", &case.estimated_errors(2));
}
