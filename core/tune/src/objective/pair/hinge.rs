//! Hinge loss on the implicit reward's margin: Zhao et al. 2023, SLiC-HF (arXiv 2305.10425), with a reference as in Liu et al.
//! 2023, RSO (arXiv 2309.06657).
//!
//! `L = max(0, 1 - beta D)`. `dL/dD = -beta` below the kink, 0 from it on.

use super::scores::Scores;
use super::{PairGrad, Term};

/// The loss of one pair.
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let short = 1.0 - beta * s.difference();
    let slope = if short > 0.0 { -beta } else { 0.0 };
    s.of_difference(short.max(0.0), slope)
}
