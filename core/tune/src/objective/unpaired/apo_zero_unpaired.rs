//! APO-zero on unpaired examples: D'Oosterlinck et al. 2024 (arXiv 2408.06266), as TRL's KTOTrainer has it.
//!
//! `L = 1 - sigma(r)` if desirable, `sigma(r)` if not, with `r = beta rho`.
//! `dL/dlogp = -beta sigma(r) sigma(-r)` if desirable, `+beta sigma(r) sigma(-r)` if not. No state, so it serves where a class
//! has too few examples for BCO's averages.

use crate::objective::{Term, math};

/// The loss of one example, in (0, 1), and d loss / d logp.
pub(super) fn loss(reward: f64, desirable: bool, beta: f64) -> Term<f64> {
    let sign = if desirable { 1.0 } else { -1.0 };
    let slope = beta * math::sigmoid_slope(reward);
    Term {
        loss: math::sigmoid(-sign * reward),
        grad: -sign * slope,
    }
}
