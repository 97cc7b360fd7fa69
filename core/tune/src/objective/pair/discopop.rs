//! DiscoPOP: Lu et al. 2024 (arXiv 2406.08414), eq. 5: a logistic and an exponential loss, blended by the margin.
//!
//! `L = (1-b) (-log sigma(m)) + b exp(-m)` with `m = beta D` and `b = sigma(m / tau)`.
//! `dL/dm = -(1-b) sigma(-m) - b exp(-m) + [exp(-m) + log sigma(m)] b (1-b) / tau`.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math;

/// The loss of one pair.
pub(super) fn loss(s: &Scores, beta: f64, tau: f64) -> Term<PairGrad> {
    let margin = beta * s.difference();
    let (log_blend, log_rest) = (
        math::log_sigmoid(margin / tau),
        math::log_sigmoid(-margin / tau),
    );
    // exp(-m) alone overflows where the blend makes it vanish.
    let exponential = (log_blend - margin).exp();
    let logistic = -math::log_sigmoid(margin) * log_rest.exp();
    let slope = -log_rest.exp() * math::sigmoid(-margin) - exponential
        + (exponential * log_rest.exp() - logistic * log_blend.exp()) / tau;
    s.of_difference(logistic + exponential, beta * slope)
}
