//! KTO: Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 8, as TRL's KTOTrainer has it.
//!
//! `L = 1 - sigma(r - z)` if desirable, `1 - sigma(z - r)` if not, with `r = beta rho` and the shift `z = beta max(0, KL)` a constant: `KL` is
//! estimated as the mean log-ratio of completions under prompts that are not their own.
//! `dL/dlogp = -/+ beta sigma(r - z) sigma(z - r)`.

use crate::objective::{Term, math};

/// The loss of one example, in (0, 1), and d loss / d logp.
pub(super) fn loss(reward: f64, desirable: bool, shift: f64, beta: f64) -> Term<f64> {
    let sign = if desirable { 1.0 } else { -1.0 };
    let margin = sign * (reward - shift);
    Term {
        loss: math::sigmoid(-margin),
        grad: -sign * beta * math::sigmoid_slope(margin),
    }
}
