//! ORPO's odds-ratio term: Hong et al. 2024 (arXiv 2403.07691), eq. 7, without a reference.
//!
//! `L = -beta log sigma(o)` with `o = (c - r) - [log(1 - exp c) - log(1 - exp r)]`, `c` and `r` the mean log-probabilities per token.
//! `dL/dc = -beta sigma(-o) / (1 - exp c)`, and the opposite for `r`.
//!
//! The whole of ORPO is this and `sft` with a weight of 1. TRL counts the prompt's tokens in that likelihood, too; we score
//! completions alone.

use super::scores::Scores;
use super::{PairGrad, Term};
use crate::objective::math;

/// Log-probabilities per token are taken to be at most this: at 0 the odds are infinite.
const CERTAIN: f64 = -1e-6;

/// The loss of one pair, nats.
pub(super) fn loss(s: &Scores, beta: f64) -> Term<PairGrad> {
    let chosen = log_odds(s.chosen / s.n_chosen);
    let rejected = log_odds(s.rejected / s.n_rejected);
    let ratio = chosen.0 - rejected.0;
    let slope = beta * math::sigmoid(-ratio);
    Term {
        loss: -beta * math::log_sigmoid(ratio),
        grad: PairGrad {
            chosen: -slope * chosen.1 / s.n_chosen,
            rejected: slope * rejected.1 / s.n_rejected,
        },
    }
}

/// Log-odds of a log-probability, and their slope.
fn log_odds(logp: f64) -> (f64, f64) {
    let slope = if logp > CERTAIN {
        0.0
    } else {
        -1.0 / logp.exp_m1()
    };
    let logp = logp.min(CERTAIN);
    (logp - (-logp.exp_m1()).ln(), slope)
}
