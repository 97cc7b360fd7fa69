//! IPO: Azar et al. 2023 (arXiv 2310.12036), eq. 17, normalised by length as TRL does.
//!
//! `L = (rho_w/|w| - rho_l/|l| - 1/(2 beta))^2`.
//! `dL/dlogp_w = 2 d / |w|`, `dL/dlogp_l = -2 d / |l|`, with `d` the value in brackets.
//!
//! beta is not that of `sigmoid`: 0.1 aims at a margin of 5 nats per token.

use super::Term;
use super::pair::{PairGrad, PairLogps};

/// The loss of one pair, squared nats per token.
pub(super) fn loss(p: &PairLogps, beta: f64) -> Term<PairGrad> {
    let (n_chosen, n_rejected) = (p.n_chosen as f64, p.n_rejected as f64);
    let d = p.rho_chosen() / n_chosen - p.rho_rejected() / n_rejected - 0.5 / beta;
    Term {
        loss: d * d,
        grad: PairGrad {
            chosen: 2.0 * d / n_chosen,
            rejected: -2.0 * d / n_rejected,
        },
    }
}
