//! Operations on single rows: norms, gated activations, caps, rotary embedding. Each beside its gradient.

use thumbprint_ggml::math::{exp, fma};

/// `out = x / rms(x) * weight`.
#[inline]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = inverse_rms(x, eps);
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

/// Adds the gradient of [`rms_norm`] with respect to `x` to `dx`, given the output's gradient `dy`.
#[inline]
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    let scale = inverse_rms(x, eps);
    let mut inner = 0.0f32;
    for ((x, w), dy) in x.iter().zip(weight).zip(dy) {
        inner = fma(dy * w, *x, inner);
    }
    let pull = inner * scale * scale / x.len() as f32;
    for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
        *dx += scale * (dy * w - x * pull);
    }
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let sum = super::gemm::dot(x, x);
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

/// `out = (x - mean) / deviation * weight`.
#[inline]
pub fn layer_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let (mean, scale) = mean_and_scale(x, eps);
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = (x - mean) * scale * w;
    }
}

/// Adds the gradient of [`layer_norm`] with respect to `x` to `dx`, given the output's gradient `dy`.
#[inline]
pub fn layer_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    let (mean, scale) = mean_and_scale(x, eps);
    let (mut sum, mut inner) = (0.0f32, 0.0f32);
    for ((x, w), dy) in x.iter().zip(weight).zip(dy) {
        sum += dy * w;
        inner = fma(dy * w, x - mean, inner);
    }
    let n = x.len() as f32;
    let (shift, pull) = (sum / n, inner * scale * scale / n);
    for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
        *dx += scale * (dy * w - shift - (x - mean) * pull);
    }
}

fn mean_and_scale(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().fold(0.0, |sum, x| fma(x - mean, x - mean, sum)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// A feed-forward part's non-linearity over a gate and what it lets through.
pub trait Gated {
    /// The product.
    fn value(gate: f32, up: f32) -> f32;
    /// Its gradients with respect to gate and up, given its own.
    fn gradient(gate: f32, up: f32, dy: f32) -> (f32, f32);
}

/// `silu(gate) * up`.
pub struct SwiGlu;

impl Gated for SwiGlu {
    #[inline(always)]
    fn value(gate: f32, up: f32) -> f32 {
        gate * sigmoid(gate) * up
    }

    #[inline(always)]
    fn gradient(gate: f32, up: f32, dy: f32) -> (f32, f32) {
        let s = sigmoid(gate);
        let silu = gate * s;
        (dy * up * (s + silu * (1.0 - s)), dy * silu)
    }
}

/// `gelu(gate) * up` with `gelu(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016).
pub struct GeGlu;

impl GeGlu {
    /// `sqrt(2 / pi)`.
    pub const ROOT: f32 = 0.797_884_6;
    /// What the cube of `x` counts in the tangent.
    pub const CUBIC: f32 = 0.044_715;

    #[inline(always)]
    fn tanh(x: f32) -> f32 {
        tanh(Self::ROOT * x * (1.0 + Self::CUBIC * x * x))
    }
}

impl Gated for GeGlu {
    #[inline(always)]
    fn value(gate: f32, up: f32) -> f32 {
        0.5 * gate * (1.0 + Self::tanh(gate)) * up
    }

    #[inline(always)]
    fn gradient(gate: f32, up: f32, dy: f32) -> (f32, f32) {
        let t = Self::tanh(gate);
        let inner = Self::ROOT * (1.0 + 3.0 * Self::CUBIC * gate * gate);
        let slope = 0.5 * (1.0 + t) + 0.5 * gate * (1.0 - t * t) * inner;
        (dy * up * slope, dy * 0.5 * gate * (1.0 + t))
    }
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub fn capped(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// The slope of [`capped`] where its value is `y`.
#[inline(always)]
pub fn cap_slope(y: f32, cap: f32) -> f32 {
    1.0 - (y / cap) * (y / cap)
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    // Of the two ways to write it, the one whose exponential cannot overflow.
    let small = exp(-2.0 * x.abs());
    ((1.0 - small) / (1.0 + small)).copysign(x)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Rotates one head's first `2 * cos.len()` dimensions; `sign` 1 forward, -1 for the gradient.
#[inline]
pub fn rotate_interleaved(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let (a, b, sin) = (pair[0], pair[1], sin * sign);
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}

/// The same for the layout in halves.
#[inline]
pub fn rotate_halves(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (first, second) = head[..2 * cos.len()].split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (x, y, sin) = (*a, *b, sin * sign);
        (*a, *b) = (x * cos - y * sin, x * sin + y * cos);
    }
}
