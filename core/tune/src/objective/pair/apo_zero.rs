//! APO-zero: D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 7: for chosen answers that are better than the model's own.
//!
//! `L = 1 - sigma(beta rho_w) + sigma(beta rho_l)`; slopes are `-/+ beta sigma(x) sigma(-x)`.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math::{sigmoid, sigmoid_slope};

/// The loss of one pair, in (0, 2).
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let (w, l) = (beta * s.chosen, beta * s.rejected);
    Term {
        loss: sigmoid(-w) + sigmoid(l),
        grad: PairGrad {
            chosen: -beta * sigmoid_slope(w),
            rejected: beta * sigmoid_slope(l),
        },
    }
}
