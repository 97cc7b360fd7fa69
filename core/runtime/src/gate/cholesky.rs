//! Linear equations with positive definite matrices, of some hundred unknowns.

use super::logistic::dot;

/// Replaces the lower triangle of a positive definite matrix by its Cholesky factor.
pub fn cholesky(matrix: &mut [f64], n: usize) {
    for i in 0..n {
        let (above, this) = matrix.split_at_mut(i * n);
        for j in 0..i {
            let other = &above[j * n..j * n + n];
            let sum = dot(&this[..j], &other[..j]);
            this[j] = (this[j] - sum) / other[j];
        }
        let sum = dot(&this[..i], &this[..i]);
        this[i] = (this[i] - sum).max(f64::MIN_POSITIVE).sqrt();
    }
}

/// Solves `L L^T x = b` in place.
pub fn solve(factor: &[f64], n: usize, b: &mut [f64]) {
    for i in 0..n {
        let row = &factor[i * n..i * n + n];
        b[i] = (b[i] - dot(&row[..i], &b[..i])) / row[i];
    }
    for i in (0..n).rev() {
        let x = b[i] / factor[i * n + i];
        b[i] = x;
        for j in 0..i {
            b[j] -= factor[i * n + j] * x;
        }
    }
}
