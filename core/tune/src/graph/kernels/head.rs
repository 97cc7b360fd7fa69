//! The head's softmax over a vocabulary that is worked on in blocks.

use thumbprint_ggml::math::{self, exp};

use super::gemm::LANES;
use super::rows::cap_slope;

/// What is known of a token's logits so far: the largest, the sum of exponentials relative to it, the target's, by what the last block
/// shrank sums that were relative to the largest before, and the sum of those exponentials' squares.
pub const STATS: usize = 5;
/// Where the sum of exponentials is among them.
pub const SUM: usize = 1;
/// Where the target's logit is.
pub const LABEL: usize = 2;
/// Where the shrinkage is.
pub const SHRINK: usize = 3;

/// Where the sum of squares is.
const SQUARES: usize = 4;

/// The statistics before any logits.
pub fn begin() -> [f32; STATS] {
    [f32::NEG_INFINITY, 0.0, 0.0, 1.0, 0.0]
}

/// The same where the target is a distribution of this mean embedding: its logit is the distribution's mean logit.
pub fn begin_with_mean(h: &[f32], mean: &[f32]) -> [f32; STATS] {
    let products = h
        .iter()
        .zip(mean)
        .map(|(h, m)| f64::from(*h) * f64::from(*m));
    let mean_logit = products.sum::<f64>() as f32;
    [f32::NEG_INFINITY, 0.0, mean_logit, 1.0, 0.0]
}

/// Takes a block of logits (vocabulary entries `first ..`) into the statistics of one token.
#[inline]
pub fn accumulate(logits: &[f32], first: usize, label: usize, stats: &mut [f32]) {
    let max = stats[0].max(math::max(logits));
    // Lane sums in F32 over at most a few thousand terms, then F64 across lanes.
    let (mut lanes, mut squares) = ([0f32; LANES], [0f32; LANES]);
    let (blocks, rest) = logits.as_chunks::<LANES>();
    for block in blocks {
        for ((lane, square), x) in lanes.iter_mut().zip(&mut squares).zip(block) {
            let e = exp(x - max);
            *lane += e;
            *square += e * e;
        }
    }
    for (i, x) in rest.iter().enumerate() {
        let e = exp(x - max);
        lanes[i] += e;
        squares[i] += e * e;
    }
    let across = |lanes: &[f32]| lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
    let (sum, squares) = (across(&lanes), across(&squares));
    let shrink = if stats[SUM] == 0.0 {
        0.0
    } else {
        exp(stats[0] - max)
    };
    stats[0] = max;
    stats[SUM] = (f64::from(stats[SUM]) * f64::from(shrink) + sum) as f32;
    stats[SQUARES] = (f64::from(stats[SQUARES]) * f64::from(shrink).powi(2) + squares) as f32;
    stats[SHRINK] = shrink;
    if (first..first + logits.len()).contains(&label) {
        stats[2] = logits[label - first];
    }
}

/// Log-probability of the target, nats.
#[inline]
pub fn log_prob(stats: &[f32]) -> f64 {
    f64::from(stats[2]) - f64::from(stats[0]) - f64::from(stats[1]).ln()
}

/// Log of the sum over the vocabulary of squared probabilities.
#[inline]
pub fn log_sum_sq(stats: &[f32]) -> f64 {
    f64::from(stats[SQUARES]).ln() - 2.0 * f64::from(stats[SUM]).ln()
}

/// Turns a block of logits into exponentials relative to the largest so far.
#[inline]
pub fn exponentials(logits: &mut [f32], stats: &[f32]) {
    let max = stats[0];
    logits.iter_mut().for_each(|x| *x = exp(*x - max));
}

/// The same, each times the slope of the cap that made the logit.
#[inline]
pub fn capped_exponentials(logits: &mut [f32], stats: &[f32], cap: f32) {
    let max = stats[0];
    logits
        .iter_mut()
        .for_each(|x| *x = exp(*x - max) * cap_slope(*x, cap));
}
