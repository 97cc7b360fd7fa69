//! DPO: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7.
//!
//! `L = -log sigma(beta D)`, `D = rho_w - rho_l`.
//! `dL/dlogp_w = -beta sigma(-beta D)`, `dL/dlogp_l = +beta sigma(-beta D)`.

use super::Term;
use super::math;
use super::pair::{PairGrad, PairLogps};

/// The loss of one pair, nats.
pub(super) fn loss(p: &PairLogps, beta: f64) -> Term<PairGrad> {
    let margin = beta * p.difference();
    let g = beta * math::sigmoid(-margin);
    Term {
        loss: -math::log_sigmoid(margin),
        grad: PairGrad {
            chosen: -g,
            rejected: g,
        },
    }
}
