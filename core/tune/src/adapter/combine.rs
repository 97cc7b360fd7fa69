//! Weighted sums of adapters, and the best approximation of an adapter at a smaller rank.

use std::collections::BTreeMap;

use super::{AdapterError, Lora, LoraConfig, LoraShape};

/// Sweeps of Jacobi rotations: convergence is quadratic, and no core of rank 512 has been seen to need more than a dozen.
const MAX_SWEEPS: usize = 60;

impl Lora {
    /// `sum of weight * adapter`, exact but for the rounding of B: the inner dimensions are laid side by side, so that the rank is
    /// the sum of the ranks, and weights and scales go into B. What an adapter does not change it adds nothing to. `a - b` is
    /// `[(1.0, a), (-1.0, b)]`.
    ///
    /// # Errors
    /// No adapters, a weight that is not finite, or adapters that disagree about a matrix's size.
    pub fn weighted_sum(parts: &[(f32, &Lora)]) -> Result<Lora, AdapterError> {
        let invalid = |setting, reason: String| AdapterError::Invalid { setting, reason };
        if let Some((weight, _)) = parts.iter().find(|(weight, _)| !weight.is_finite()) {
            return Err(invalid("weight", format!("must be finite, got {weight}")));
        }
        let rank = parts.iter().map(|(_, part)| part.config.rank).sum();
        if rank == 0 {
            return Err(invalid("adapters", "there are none to add up".to_owned()));
        }
        let mut shapes: BTreeMap<_, LoraShape> = BTreeMap::new();
        for tensor in parts.iter().flat_map(|(_, part)| &part.tensors) {
            let shape = tensor.shape();
            let known = shapes.entry((tensor.layer, tensor.module)).or_insert(shape);
            if *known != shape {
                let problem = format!(
                    "is [{}, {}] in one adapter and [{}, {}] in another",
                    known.n_in, known.n_out, shape.n_in, shape.n_out
                );
                let tensor = tensor.base.clone();
                return Err(AdapterError::Tensor { tensor, problem });
            }
        }
        let pairs = shapes.into_values().map(|shape| {
            let mut a = vec![0.0; rank * shape.n_in];
            let mut b = vec![0.0; shape.n_out * rank];
            let mut first = 0;
            for (weight, part) in parts {
                let r = part.config.rank;
                if let Some(tensor) = part.tensor(shape.layer, shape.module) {
                    a[first * shape.n_in..][..r * shape.n_in].copy_from_slice(part.a(tensor));
                    let factor = f64::from(*weight) * f64::from(part.scale());
                    for (into, from) in b.chunks_mut(rank).zip(part.b(tensor).chunks(r)) {
                        for (into, from) in into[first..first + r].iter_mut().zip(from) {
                            *into = (factor * f64::from(*from)) as f32;
                        }
                    }
                }
                first += r;
            }
            (shape, a, b)
        });
        let pairs = pairs.collect();
        Lora::assemble(unscaled(rank), pairs)
    }

    /// The nearest adapter of rank `rank` in each matrix, by the singular values of its change (Eckart and Young 1936), and the share
    /// of the squared norm of all changes that is lost. An adapter that has no larger rank is given back as it is.
    ///
    /// # Errors
    /// A rank of 0.
    pub fn truncated(&self, rank: usize) -> Result<(Lora, f64), AdapterError> {
        if rank >= self.config.rank {
            return Ok((self.clone(), 0.0));
        }
        let (mut kept, mut lost) = (0.0, 0.0);
        let mut pairs = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            let shape = tensor.shape();
            let scale = f64::from(self.scale());
            let factors = Factors {
                a: columns(self.a(tensor), shape.n_in, false, 1.0),
                b: columns(self.b(tensor), self.config.rank, true, scale),
            };
            let (a, b, values) = factors.decompose();
            for (i, value) in values.iter().enumerate() {
                *(if i < rank { &mut kept } else { &mut lost }) += value * value;
            }
            let a = a[..rank].iter().flatten().map(|x| *x as f32).collect();
            let b = (0..shape.n_out)
                .flat_map(|row| b[..rank].iter().map(move |column| column[row] as f32));
            pairs.push((shape, a, b.collect()));
        }
        let all: f64 = kept + lost;
        let share = if all > 0.0 { lost / all } else { 0.0 };
        Ok((Lora::assemble(unscaled(rank), pairs)?, share))
    }
}

/// Scales are in the matrices.
fn unscaled(rank: usize) -> LoraConfig {
    LoraConfig {
        rank,
        alpha: rank as f32,
        ..LoraConfig::default()
    }
}

/// The columns of a matrix whose rows are `n_per_row` long, or its rows.
fn columns(values: &[f32], n_per_row: usize, transpose: bool, factor: f64) -> Vec<Vec<f64>> {
    let wide = |x: &f32| factor * f64::from(*x);
    if !transpose {
        let rows = values.chunks(n_per_row);
        return rows.map(|row| row.iter().map(wide).collect()).collect();
    }
    let column = |at: usize| values[at..].iter().step_by(n_per_row).map(wide).collect();
    (0..n_per_row).map(column).collect()
}

/// `sum over i of b_i a_i^T`.
struct Factors {
    a: Vec<Vec<f64>>,
    b: Vec<Vec<f64>>,
}

impl Factors {
    /// The same sum with orthogonal `a_i` and orthogonal `b_i`, the largest first, and the norm of each. A singular value is split
    /// between its two vectors evenly, as fits gradients that go on from here.
    fn decompose(mut self) -> (Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<f64>) {
        // Once b is orthogonal, one-sided rotations of a weighted with b's norms leave the singular vectors.
        orthogonalize(&mut self.b, &mut self.a);
        for (b, a) in self.b.iter_mut().zip(&mut self.a) {
            let n = norm(b);
            if n > 0.0 {
                b.iter_mut().for_each(|x| *x /= n);
            }
            a.iter_mut().for_each(|x| *x *= n);
        }
        orthogonalize(&mut self.a, &mut self.b);
        let mut order: Vec<usize> = (0..self.a.len()).collect();
        let values: Vec<f64> = self.a.iter().map(|a| norm(a)).collect();
        order.sort_by(|i, j| values[*j].total_cmp(&values[*i]).then(i.cmp(j)));
        let scaled = |vector: &[f64], factor: f64| vector.iter().map(|x| factor * x).collect();
        let root = |i: usize| values[i].sqrt();
        let a = order.iter().map(|&i| match values[i] > 0.0 {
            true => scaled(&self.a[i], 1.0 / root(i)),
            false => scaled(&self.a[i], 0.0),
        });
        let b = order.iter().map(|&i| scaled(&self.b[i], root(i)));
        let (a, b) = (a.collect(), b.collect());
        (a, b, order.iter().map(|&i| values[i]).collect())
    }
}

/// One-sided Jacobi (Hestenes 1958): rotates pairs of `u` until all are orthogonal, and their partners in `v` along, which leaves
/// `sum over i of u_i v_i^T` as it is.
fn orthogonalize(u: &mut [Vec<f64>], v: &mut [Vec<f64>]) {
    for _ in 0..MAX_SWEEPS {
        let mut largest = 0.0f64;
        for i in 0..u.len() {
            for j in i + 1..u.len() {
                let (alpha, beta) = (dot(&u[i], &u[i]), dot(&u[j], &u[j]));
                let gamma = dot(&u[i], &u[j]);
                let size = (alpha * beta).sqrt();
                if size == 0.0 || gamma.abs() <= 1e-15 * size {
                    continue;
                }
                largest = largest.max(gamma.abs() / size);
                let zeta = (beta - alpha) / (2.0 * gamma);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cosine = 1.0 / t.hypot(1.0);
                rotate(u, i, j, cosine, cosine * t);
                rotate(v, i, j, cosine, cosine * t);
            }
        }
        if largest < 1e-14 {
            return;
        }
    }
}

fn rotate(vectors: &mut [Vec<f64>], i: usize, j: usize, cosine: f64, sine: f64) {
    let (left, right) = vectors.split_at_mut(j);
    for (x, y) in left[i].iter_mut().zip(&mut right[0]) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(vector: &[f64]) -> f64 {
    dot(vector, vector).sqrt()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Module;
    use super::*;

    const SHAPES: [LoraShape; 2] = [
        LoraShape {
            layer: 0,
            module: Module::Q,
            n_in: 12,
            n_out: 10,
        },
        LoraShape {
            layer: 1,
            module: Module::Down,
            n_in: 16,
            n_out: 12,
        },
    ];

    fn random(rank: usize, alpha: f32, seed: u64, shapes: &[LoraShape]) -> Lora {
        let config = LoraConfig {
            rank,
            alpha,
            seed,
            targets: shapes.iter().map(|shape| shape.module).collect(),
            ..LoraConfig::default()
        };
        let mut lora = Lora::new(config, shapes).unwrap();
        lora.randomize_b(0.3, seed + 100);
        lora
    }

    /// `scale B A` of one matrix; zeros where the adapter has none.
    fn change(lora: &Lora, shape: &LoraShape) -> Vec<f64> {
        let mut product = vec![0.0; shape.n_out * shape.n_in];
        let Some(tensor) = lora.tensor(shape.layer, shape.module) else {
            return product;
        };
        let (a, b, r) = (lora.a(tensor), lora.b(tensor), lora.config.rank);
        for row in 0..shape.n_out {
            for k in 0..r {
                let factor = f64::from(lora.scale()) * f64::from(b[row * r + k]);
                for column in 0..shape.n_in {
                    product[row * shape.n_in + column] +=
                        factor * f64::from(a[k * shape.n_in + column]);
                }
            }
        }
        product
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        norm(&difference)
    }

    #[test]
    fn a_weighted_sum_changes_each_matrix_by_the_weighted_sum_of_the_changes() {
        let one = random(3, 5.0, 1, &SHAPES);
        // Another rank, another scale, and only one of the matrices.
        let other = random(2, 8.0, 2, &SHAPES[1..]);
        let sum = Lora::weighted_sum(&[(0.75, &one), (-2.0, &other)]).unwrap();
        assert_eq!((sum.config.rank, sum.scale()), (5, 1.0));
        assert_eq!(sum.tensors.len(), 2);
        for shape in &SHAPES {
            let wanted: Vec<f64> = change(&one, shape)
                .iter()
                .zip(change(&other, shape))
                .map(|(a, b)| 0.75 * a - 2.0 * b)
                .collect();
            let error = distance(&change(&sum, shape), &wanted) / norm(&wanted);
            // Observed 3e-8: B is rounded to single precision.
            assert!(error < 3e-7, "{error:.1e}");
        }
    }

    #[test]
    fn an_adapter_less_itself_changes_nothing() {
        let one = random(4, 6.0, 3, &SHAPES);
        let nothing = Lora::weighted_sum(&[(1.0, &one), (-1.0, &one)]).unwrap();
        for shape in &SHAPES {
            assert!(change(&nothing, shape).iter().all(|x| x.abs() < 1e-12));
        }
        // What has no change has rank 0, and any rank holds it.
        let (truncated, lost) = nothing.truncated(1).unwrap();
        assert!(lost < 1e-12 || truncated.values.iter().all(|x| x.abs() < 1e-6));
    }

    #[test]
    fn truncation_loses_nothing_that_has_a_smaller_rank_and_no_more_than_any_other_of_its_rank() {
        let (one, other) = (random(3, 5.0, 4, &SHAPES), random(2, 7.0, 5, &SHAPES));
        let sum = Lora::weighted_sum(&[(1.0, &one), (0.5, &one), (2.0, &one)]).unwrap();
        let (back, lost) = sum.truncated(3).unwrap();
        assert!(lost < 1e-12, "{lost:.1e}");
        for shape in &SHAPES {
            let (whole, back) = (change(&sum, shape), change(&back, shape));
            let error = distance(&whole, &back) / norm(&whole);
            assert!(error < 1e-6, "{error:.1e}");
        }

        let sum = Lora::weighted_sum(&[(1.0, &one), (1.0, &other)]).unwrap();
        let (best, lost) = sum.truncated(3).unwrap();
        assert!(lost > 0.0 && lost < 0.5, "{lost}");
        let (mut squares, mut of_best) = (0.0, 0.0);
        for shape in &SHAPES {
            let whole = change(&sum, shape);
            let error = distance(&whole, &change(&best, shape));
            squares += norm(&whole).powi(2);
            of_best += error.powi(2);
            // Leaving out the smaller of the two is another one of rank 3.
            assert!(error < distance(&whole, &change(&one, shape)));
        }
        assert!((of_best / squares / lost - 1.0).abs() < 1e-4, "{lost}");
    }

    #[test]
    fn sums_that_make_no_sense_are_refused() {
        let one = random(2, 4.0, 6, &SHAPES);
        let wide = LoraShape {
            n_in: 13,
            ..SHAPES[0]
        };
        let other = random(2, 4.0, 7, &[wide]);
        let refused = |parts: &[(f32, &Lora)]| Lora::weighted_sum(parts).unwrap_err().to_string();
        assert!(refused(&[]).starts_with("adapters: "));
        assert!(refused(&[(f32::NAN, &one)]).starts_with("weight: "));
        let error = refused(&[(1.0, &one), (1.0, &other)]);
        assert!(
            error.contains("blk.0.attn_q.weight") && error.contains("[13, 10]"),
            "{error}"
        );
        assert!(one.truncated(0).is_err());
    }
}
