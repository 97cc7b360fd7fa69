//! DPO: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7.
//!
//! `L = -log sigma(beta D)`. `dL/dD = -beta sigma(-beta D)`.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math;

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let margin = beta * s.difference();
    s.of_difference(-math::log_sigmoid(margin), -beta * math::sigmoid(-margin))
}
