//! SimPO: Meng et al. 2024 (arXiv 2405.14734), eq. 6, on log-probabilities per token without a reference.
//!
//! `L = -(1-e) log sigma(m) - e log sigma(-m)` with `m = beta (log p_w/|w| - log p_l/|l|) - gamma`.
//!
//! beta is not that of `sigmoid`: the paper takes 2 to 2.5.

use super::scores::Scores;
use super::{PairGrad, Term, smoothed};

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64, gamma: f64, label_smoothing: f64) -> Term<PairGrad> {
    let margin = beta * s.difference_per_token() - gamma;
    let (loss, slope) = smoothed::loss(margin, label_smoothing);
    s.of_difference_per_token(loss, beta * slope)
}
