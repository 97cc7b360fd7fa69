//! APO-down: D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 8: for chosen answers that are worse than the model's own.
//!
//! `L = sigma(beta rho_w) + 1 - sigma(beta (rho_w - rho_l))`.
//! `dL/drho_w = beta [S(beta rho_w) - S(beta D)]`, `dL/drho_l = beta S(beta D)`, `S(x) = sigma(x) sigma(-x)`.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math::{sigmoid, sigmoid_slope};

/// The loss of one pair, in (0, 2).
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let (w, margin) = (beta * s.chosen, beta * s.difference());
    Term {
        loss: sigmoid(w) + sigmoid(-margin),
        grad: PairGrad {
            chosen: beta * (sigmoid_slope(w) - sigmoid_slope(margin)),
            rejected: beta * sigmoid_slope(margin),
        },
    }
}
