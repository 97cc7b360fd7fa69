//! DPO-positive: Pal et al. 2024, Smaug (arXiv 2402.13228), eq. 3: a chosen answer that gets less likely costs margin.
//!
//! `L = -log sigma(beta u)` with `u = rho_w - rho_l - lambda max(0, -rho_w)`.
//! `dL/drho_w = -beta sigma(-beta u) (1 + lambda [rho_w < 0])`, `dL/drho_l = beta sigma(-beta u)`. TRL has no such loss.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math;

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64, lambda: f64) -> Term<PairGrad> {
    let margin = beta * (s.difference() - lambda * (-s.chosen).max(0.0));
    let slope = beta * math::sigmoid(-margin);
    let penalty = if s.chosen < 0.0 { 1.0 + lambda } else { 1.0 };
    Term {
        loss: -math::log_sigmoid(margin),
        grad: PairGrad {
            chosen: -slope * penalty,
            rejected: slope,
        },
    }
}
