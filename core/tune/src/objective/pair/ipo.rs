//! IPO: Azar et al. 2023 (arXiv 2310.12036), eq. 17, normalised by length as TRL does.
//!
//! `L = d^2` with `d = s_w/|w| - s_l/|l| - 1/(2 beta)`; its slope is `2 d`.
//!
//! beta is not that of `sigmoid`: 0.1 aims at a margin of 5 nats per token.

use super::scores::Scores;
use super::{PairGrad, Term};

/// The loss of one pair, squared nats per token.
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let d = s.difference_per_token() - 0.5 / beta;
    s.of_difference_per_token(d * d, 2.0 * d)
}
