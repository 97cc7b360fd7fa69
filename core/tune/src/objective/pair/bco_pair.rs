//! BCO on both sides of a pair: Jung et al. 2024 (arXiv 2404.04656), without a shift, as TRL's DPOTrainer has it.
//!
//! `L = -log sigma(beta rho_w) - log sigma(-beta rho_l)`.
//! `dL/drho_w = -beta sigma(-beta rho_w)`, `dL/drho_l = beta sigma(beta rho_l)`.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math::{log_sigmoid, sigmoid};

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let (w, l) = (beta * s.chosen, beta * s.rejected);
    Term {
        loss: -log_sigmoid(w) - log_sigmoid(-l),
        grad: PairGrad {
            chosen: -beta * sigmoid(-w),
            rejected: beta * sigmoid(l),
        },
    }
}
