//! NCA: Chen et al. 2024 (arXiv 2402.05369), eq. 13 for two answers: it also asks that the chosen one's likelihood be kept.
//!
//! `L = -log sigma(b rho_w) - 1/2 log sigma(-b rho_w) - 1/2 log sigma(-b rho_l)`, `b` = beta.
//! `dL/drho_w = -b sigma(-b rho_w) + b/2 sigma(b rho_w)`, `dL/drho_l = b/2 sigma(b rho_l)`.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math::{log_sigmoid, sigmoid};

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let (w, l) = (beta * s.chosen, beta * s.rejected);
    Term {
        loss: -log_sigmoid(w) - 0.5 * log_sigmoid(-w) - 0.5 * log_sigmoid(-l),
        grad: PairGrad {
            chosen: beta * (0.5 * sigmoid(w) - sigmoid(-w)),
            rejected: beta * 0.5 * sigmoid(l),
        },
    }
}
