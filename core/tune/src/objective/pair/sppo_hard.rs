//! SPPO with hard labels: Wu et al. 2024 (arXiv 2405.00675), eq. 4.7 with a probability of 1 for the winner.
//!
//! `L = (rho_w - 1/(2 beta))^2 + (rho_l + 1/(2 beta))^2`; slopes are twice the brackets.

use super::scores::Scores;
use super::{PairGrad, Term};

/// The loss of one pair, squared nats.
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let (w, l) = (s.chosen - 0.5 / beta, s.rejected + 0.5 / beta);
    Term {
        loss: w * w + l * l,
        grad: PairGrad {
            chosen: 2.0 * w,
            rejected: 2.0 * l,
        },
    }
}
