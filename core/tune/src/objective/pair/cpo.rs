//! CPO's preference term: Xu et al. 2024 (arXiv 2401.08417), eq. 5, on log-probabilities without a reference.
//!
//! `L = -(1-e) log sigma(beta D) - e log sigma(-beta D)` with `D = log p_w - log p_l`. The whole of CPO is this and `sft`, whose
//! weight is TRL's `cpo_alpha`.

use super::scores::Scores;
use super::{PairGrad, Term, cdpo};

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64, label_smoothing: f64) -> Term<PairGrad> {
    cdpo::loss(s, beta, label_smoothing)
}
