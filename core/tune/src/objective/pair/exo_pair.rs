//! EXO: Ji et al. 2024 (arXiv 2402.00856), eq. 16: the reverse KL divergence of the model's choice from a smoothed label.
//!
//! `L = q (log q - log(1-e)) + (1-q) (log(1-q) - log e)` with `q = sigma(beta D)` and `e > 0`.
//! `dL/dD = beta q (1-q) [beta D - log((1-e)/e)]`.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math;

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64, label_smoothing: f64) -> Term<PairGrad> {
    let margin = beta * s.difference();
    let (log_right, log_wrong) = ((-label_smoothing).ln_1p(), label_smoothing.ln());
    let (q, not_q) = (math::sigmoid(margin), math::sigmoid(-margin));
    let loss = q * (math::log_sigmoid(margin) - log_right)
        + not_q * (math::log_sigmoid(-margin) - log_wrong);
    s.of_difference(loss, beta * q * not_q * (margin - (log_right - log_wrong)))
}
