//! Conservative DPO: the label is taken to be wrong with probability `e` (Mitchell 2023, "A note on DPO with noisy preferences").
//!
//! `L = -(1-e) log sigma(beta D) - e log sigma(-beta D)`. `dL/dD = -beta [(1-e) sigma(-beta D) - e sigma(beta D)]`.
//!
//! TRL has no loss of this name: its `sigmoid` ignores `label_smoothing`, and its `aot` with one pair a batch is this one.

use super::scores::Scores;
use super::{PairGrad, Term, smoothed};

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64, label_smoothing: f64) -> Term<PairGrad> {
    let (loss, slope) = smoothed::loss(beta * s.difference(), label_smoothing);
    s.of_difference(loss, beta * slope)
}
