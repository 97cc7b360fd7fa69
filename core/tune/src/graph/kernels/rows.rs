//! Operations on single rows: norms, the gated activation, rotary embedding. Each beside its gradient.

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

/// `silu(gate) * up`.
#[inline(always)]
pub fn swiglu(gate: f32, up: f32) -> f32 {
    gate * sigmoid(gate) * up
}

/// The gradients of [`swiglu`] with respect to gate and up, given the output's.
#[inline(always)]
pub fn swiglu_backward(gate: f32, up: f32, dy: f32) -> (f32, f32) {
    let s = sigmoid(gate);
    let silu = gate * s;
    (dy * up * (s + silu * (1.0 - s)), dy * silu)
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
