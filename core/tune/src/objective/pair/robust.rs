//! Robust DPO: Chowdhury et al. 2024 (arXiv 2403.00409), eq. 9. Unbiased where labels are flipped with probability `e`.
//!
//! `L = [-(1-e) log sigma(beta D) + e log sigma(-beta D)] / (1-2e)`.
//! `dL/dD = -beta [(1-e) sigma(-beta D) + e sigma(beta D)] / (1-2e)`. Not bounded below: a large margin goes on being rewarded.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math;

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64, label_smoothing: f64) -> Term<PairGrad> {
    let e = label_smoothing;
    let margin = beta * s.difference();
    let loss = -(1.0 - e) * math::log_sigmoid(margin) + e * math::log_sigmoid(-margin);
    let slope = (1.0 - e) * math::sigmoid(-margin) + e * math::sigmoid(margin);
    s.of_difference(loss / (1.0 - 2.0 * e), -beta * slope / (1.0 - 2.0 * e))
}
