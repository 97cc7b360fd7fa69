//! Conservative DPO: the label is taken to be wrong with probability `e` (Mitchell 2023, "A note on DPO with noisy preferences").
//!
//! `L = -(1-e) log sigma(beta D) - e log sigma(-beta D)`, `D = rho_w - rho_l`.
//! `dL/dlogp_w = -beta [(1-e) sigma(-beta D) - e sigma(beta D)]`, and the opposite for `l`: zero at `beta D = log((1-e)/e)`,
//! so that the margin has a target instead of growing for ever.
//!
//! TRL has no loss of this name: its `sigmoid` ignores `label_smoothing`, and its `aot` with one pair a batch is this one.

use super::Term;
use super::math;
use super::pair::{PairGrad, PairLogps};

/// The loss of one pair, nats.
pub(super) fn loss(p: &PairLogps, beta: f64, label_smoothing: f64) -> Term<PairGrad> {
    let e = label_smoothing;
    let margin = beta * p.difference();
    let loss = -(1.0 - e) * math::log_sigmoid(margin) - e * math::log_sigmoid(-margin);
    let g = beta * ((1.0 - e) * math::sigmoid(-margin) - e * math::sigmoid(margin));
    Term {
        loss,
        grad: PairGrad {
            chosen: -g,
            rejected: g,
        },
    }
}
