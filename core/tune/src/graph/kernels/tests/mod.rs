//! Each kernel against a naive reference in double precision.
#![allow(clippy::unwrap_used)]

mod attention;
mod dequantize;
mod gemm;
mod head;
mod rows;
mod thin;

use thumbprint_ggml::ggml::custom::View;
use thumbprint_ggml::ggml::f32_to_bf16;

/// Arbitrary numbers between -1 and 1.
fn numbers(seed: usize, n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37 + seed * 1013 + 11) as f32 * 0.7391).sin())
        .collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

fn bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|x| f32_to_bf16(*x)).collect()
}

/// A matrix of rows of `width` elements, without gaps.
fn view<T>(data: &[T], width: usize) -> View<'_, T> {
    let n_rows = data.len() / width;
    View {
        data,
        ne: [width, n_rows, 1, 1],
        stride: [1, width, data.len(), data.len()],
    }
}

/// `|a - b| / |b|`, 2-norms; infinite for NaN.
fn relative_error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum();
    let error = (difference / b.iter().map(|b| b * b).sum::<f64>()).sqrt();
    if error.is_nan() { f64::INFINITY } else { error }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
