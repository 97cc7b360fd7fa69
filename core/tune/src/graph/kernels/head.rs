//! The head's softmax over a vocabulary that is worked on in blocks.

use thumbprint_ggml::math::{self, exp};

use super::gemm::LANES;
use super::rows::cap_slope;

/// What is known of a token's logits so far: running maximum, sum of exponentials relative to it, the target's logit.
pub const STATS: usize = 3;
/// Where the target's logit is among them.
pub const LABEL: usize = 2;

/// The statistics before any logits.
pub fn begin() -> [f32; STATS] {
    [f32::NEG_INFINITY, 0.0, 0.0]
}

/// The same where the target is a distribution of this mean embedding: its logit is the distribution's mean logit.
pub fn begin_with_mean(h: &[f32], mean: &[f32]) -> [f32; STATS] {
    let products = h
        .iter()
        .zip(mean)
        .map(|(h, m)| f64::from(*h) * f64::from(*m));
    [f32::NEG_INFINITY, 0.0, products.sum::<f64>() as f32]
}

/// Takes a block of logits (vocabulary entries `first ..`) into the statistics of one token.
#[inline]
pub fn accumulate(logits: &[f32], first: usize, label: usize, stats: &mut [f32]) {
    let max = stats[0].max(math::max(logits));
    // Lane sums in F32 over at most a few thousand terms, then F64 across lanes.
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = logits.as_chunks::<LANES>();
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += exp(x - max);
        }
    }
    let sum: f64 = lanes.iter().map(|x| f64::from(*x)).sum::<f64>()
        + rest.iter().map(|x| f64::from(exp(x - max))).sum::<f64>();
    let before = if stats[1] == 0.0 {
        0.0
    } else {
        f64::from(stats[1]) * f64::from(exp(stats[0] - max))
    };
    stats[0] = max;
    stats[1] = (before + sum) as f32;
    if (first..first + logits.len()).contains(&label) {
        stats[2] = logits[label - first];
    }
}

/// Log-probability of the target, nats.
#[inline]
pub fn log_prob(stats: &[f32]) -> f64 {
    f64::from(stats[2]) - f64::from(stats[0]) - f64::from(stats[1]).ln()
}

/// Turns a block of logits into probabilities.
#[inline]
pub fn probabilities(logits: &mut [f32], stats: &[f32]) {
    let (max, factor) = (stats[0], 1.0 / stats[1]);
    logits.iter_mut().for_each(|x| *x = exp(*x - max) * factor);
}

/// The same, each times the slope of the cap that made the logit.
#[inline]
pub fn capped_probabilities(logits: &mut [f32], stats: &[f32], cap: f32) {
    let (max, factor) = (stats[0], 1.0 / stats[1]);
    logits
        .iter_mut()
        .for_each(|x| *x = exp(*x - max) * factor * cap_slope(*x, cap));
}
