//! DPO on scores per token: the length-normalised loss of Lambert et al. 2024, Tulu 3 (arXiv 2411.15124), section 5.1.
//!
//! `L = -log sigma(beta d)` with `d = s_w/|w| - s_l/|l|`; its slope is `-beta sigma(-beta d)`.
//!
//! beta is not that of `sigmoid`: about 5.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math;

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let margin = beta * s.difference_per_token();
    s.of_difference_per_token(-math::log_sigmoid(margin), -beta * math::sigmoid(-margin))
}
