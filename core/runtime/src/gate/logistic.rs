//! Logistic regression with a ridge, by Newton's method over the observations' inner products: of these there are few, and many
//! features.

use super::cholesky::{cholesky, solve};

/// Where Newton's method stops: the largest residual of the optimality condition.
const TOLERANCE: f64 = 1e-10;
const MOST_STEPS: usize = 100;

/// One observation: `P(target) = sigmoid(features . w)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub features: Vec<f64>,
    /// The probability that it is so, in [0, 1].
    pub target: f64,
    /// Factor on its loss, not negative.
    pub weight: f64,
}

/// Inner products of rows, `[n, n]`.
pub struct Gram {
    n: usize,
    products: Vec<f64>,
}

impl Gram {
    pub fn new(rows: &[Row]) -> Self {
        let n = rows.len();
        let mut products = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let product = dot(&rows[i].features, &rows[j].features);
                products[i * n + j] = product;
                products[j * n + i] = product;
            }
        }
        Self { n, products }
    }

    /// Those of some rows.
    fn of(&self, rows: &[usize]) -> Self {
        let mut products = Vec::with_capacity(rows.len() * rows.len());
        for i in rows {
            products.extend(rows.iter().map(|j| self.products[i * self.n + j]));
        }
        Self {
            n: rows.len(),
            products,
        }
    }

    fn times(&self, vector: &[f64]) -> Vec<f64> {
        self.products
            .chunks_exact(self.n.max(1))
            .map(|row| dot(row, vector))
            .collect()
    }
}

/// The weights that minimise `sum weight * cross-entropy + l2 / 2 * |w|^2` over the rows at `chosen`: the same steps as Newton's method
/// in `w`, as `w = X^T a / l2` (Rasmussen and Williams 2006, algorithm 3.1). `l2` must be above 0.
pub fn logistic(rows: &[Row], gram: &Gram, chosen: &[usize], l2: f64) -> Vec<f64> {
    let n_features = rows.first().map_or(0, |row| row.features.len());
    let a = dual(rows, &gram.of(chosen), chosen, l2);
    let mut weights = vec![0.0; n_features];
    for (row, a) in chosen.iter().zip(&a) {
        for (weight, feature) in weights.iter_mut().zip(&rows[*row].features) {
            *weight += a * feature / l2;
        }
    }
    weights
}

/// Mean loss of rows under some weights, nats; `None` where they weigh nothing.
pub fn mean_loss<'a>(rows: impl Iterator<Item = &'a Row>, weights: &[f64]) -> Option<f64> {
    let (mut sum, mut total) = (0.0, 0.0);
    for row in rows {
        sum += row.weight * cross_entropy(dot(&row.features, weights), row.target);
        total += row.weight;
    }
    (total > 0.0).then(|| sum / total)
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Eight sums, so that it is computed in vectors, the same way everywhere.
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8
        .remainder()
        .iter()
        .zip(b8.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a8.zip(b8) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

fn dual(rows: &[Row], gram: &Gram, chosen: &[usize], l2: f64) -> Vec<f64> {
    let n = chosen.len();
    let row = |i: usize| &rows[chosen[i]];
    let mut a = vec![0.0; n];
    let mut f = vec![0.0; n];
    let objective = |a: &[f64], f: &[f64]| {
        let loss = (0..n).map(|i| row(i).weight * cross_entropy(f[i], row(i).target));
        loss.sum::<f64>() + 0.5 * dot(a, f)
    };
    let mut value = objective(&a, &f);
    for _ in 0..MOST_STEPS {
        let p: Vec<f64> = f.iter().map(|f| sigmoid(*f)).collect();
        let gradient = |i: usize| row(i).weight * (row(i).target - p[i]);
        let residual = (0..n).map(|i| (a[i] - gradient(i)).abs());
        if residual.fold(0.0, f64::max) < TOLERANCE {
            break;
        }
        let root: Vec<f64> = (0..n)
            .map(|i| (row(i).weight * p[i] * (1.0 - p[i])).sqrt())
            .collect();
        // B = I + W^1/2 K W^1/2, with K = gram / l2.
        let mut b: Vec<f64> = gram.products.clone();
        for i in 0..n {
            for j in 0..n {
                b[i * n + j] *= root[i] * root[j] / l2;
            }
            b[i * n + i] += 1.0;
        }
        cholesky(&mut b, n);
        let target: Vec<f64> = (0..n)
            .map(|i| root[i] * root[i] * f[i] + gradient(i))
            .collect();
        let mut inner: Vec<f64> = gram.times(&target);
        for (inner, root) in inner.iter_mut().zip(&root) {
            *inner *= root / l2;
        }
        solve(&b, n, &mut inner);
        let wanted: Vec<f64> = (0..n).map(|i| target[i] - root[i] * inner[i]).collect();
        // The objective is convex, but a full step may overshoot from far away.
        let mut share = 1.0;
        loop {
            let next: Vec<f64> = a
                .iter()
                .zip(&wanted)
                .map(|(a, w)| a + share * (w - a))
                .collect();
            let next_f: Vec<f64> = gram.times(&next).iter().map(|f| f / l2).collect();
            let next_value = objective(&next, &next_f);
            if next_value <= value + 1e-12 * value.abs() || share < 1e-6 {
                (a, f, value) = (next, next_f, next_value);
                break;
            }
            share /= 2.0;
        }
    }
    a
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `-target log sigmoid(x) - (1 - target) log sigmoid(-x)`, without overflow.
fn cross_entropy(x: f64, target: f64) -> f64 {
    x.max(0.0) - target * x + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use thumbprint_tune::rng::Rng;

    use super::*;

    fn rows(n: usize, n_features: usize, seed: u64) -> Vec<Row> {
        let mut rng = Rng::new(seed);
        (0..n)
            .map(|i| Row {
                features: (0..n_features).map(|_| rng.normal()).collect(),
                target: [1.0, 0.0, 0.9, 1.0, 0.25][i % 5],
                weight: [1.0, 0.5, 2.0][i % 3],
            })
            .collect()
    }

    fn fitted(rows: &[Row], l2: f64) -> Vec<f64> {
        let all: Vec<usize> = (0..rows.len()).collect();
        logistic(rows, &Gram::new(rows), &all, l2)
    }

    /// Plain gradient descent, with a step that cannot overshoot.
    fn naive(rows: &[Row], l2: f64) -> Vec<f64> {
        let n_features = rows[0].features.len();
        let curvature: f64 = rows
            .iter()
            .map(|row| 0.25 * row.weight * dot(&row.features, &row.features))
            .sum();
        let mut w = vec![0.0; n_features];
        for _ in 0..200_000 {
            let mut gradient: Vec<f64> = w.iter().map(|w| l2 * w).collect();
            for row in rows {
                let z: f64 = row.features.iter().zip(&w).map(|(x, w)| x * w).sum();
                let slope = row.weight * (1.0 / (1.0 + (-z).exp()) - row.target);
                for (g, x) in gradient.iter_mut().zip(&row.features) {
                    *g += slope * x;
                }
            }
            for (w, g) in w.iter_mut().zip(&gradient) {
                *w -= g / (curvature + l2);
            }
        }
        w
    }

    #[test]
    fn the_fit_is_that_of_gradient_descent_with_more_features_than_rows_and_with_fewer() {
        for (n, n_features) in [(7, 12), (40, 5)] {
            let rows = rows(n, n_features, 3);
            let (fast, slow) = (fitted(&rows, 0.3), naive(&rows, 0.3));
            for (fast, slow) in fast.iter().zip(&slow) {
                assert!((fast - slow).abs() < 1e-8, "{fast} {slow}");
            }
        }
    }

    #[test]
    fn the_fit_meets_its_first_order_conditions() {
        let rows = rows(60, 20, 9);
        let w = fitted(&rows, 0.01);
        for feature in 0..20 {
            let data: f64 = rows
                .iter()
                .map(|row| {
                    let p = sigmoid(dot(&row.features, &w));
                    row.weight * (row.target - p) * row.features[feature]
                })
                .sum();
            assert!((data - 0.01 * w[feature]).abs() < 1e-7, "{feature}");
        }
    }

    #[test]
    fn rows_that_can_be_told_apart_exactly_have_a_finite_fit() {
        let separable: Vec<Row> = (0..30)
            .map(|i| Row {
                features: vec![if i % 2 == 0 { 40.0 } else { -40.0 }, 1.0],
                target: f64::from(i % 2 == 0),
                weight: 1.0,
            })
            .collect();
        let w = fitted(&separable, 1e-3);
        assert!(w.iter().all(|w| w.is_finite()) && w[0] > 0.05, "{w:?}");
        assert_eq!(fitted(&separable, 1e-3), w);
    }

    #[test]
    fn rows_that_are_left_out_change_nothing() {
        let all = rows(20, 6, 1);
        let gram = Gram::new(&all);
        let some: Vec<usize> = (0..20).filter(|i| i % 4 != 1).collect();
        let alone: Vec<Row> = some.iter().map(|i| all[*i].clone()).collect();
        assert_eq!(logistic(&all, &gram, &some, 0.5), fitted(&alone, 0.5));
    }

    #[test]
    fn the_loss_is_the_cross_entropy() {
        let naive = |x: f64, t: f64| {
            let p = 1.0 / (1.0 + (-x).exp());
            -t * p.ln() - (1.0 - t) * (1.0 - p).ln()
        };
        for x in [-3.0, 0.0, 0.4, 5.0] {
            for t in [0.0, 0.1, 1.0] {
                assert!((cross_entropy(x, t) - naive(x, t)).abs() < 1e-12);
            }
        }
        assert_eq!(cross_entropy(800.0, 0.0), 800.0);
        let one = Row {
            features: vec![0.0],
            target: 1.0,
            weight: 3.0,
        };
        assert_eq!(
            mean_loss([&one].into_iter(), &[7.0]),
            Some(std::f64::consts::LN_2)
        );
        assert_eq!(mean_loss(std::iter::empty(), &[7.0]), None);
    }
}
