//! What losses over pairs look at: one number per side, and the completions' lengths.

use super::PairGrad;
use crate::objective::Term;

/// The two sides of one pair, nats: scores `s = f(rho)` of log-ratios, or log-probabilities where a loss has no reference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    pub(super) chosen: f64,
    pub(super) rejected: f64,
    /// Tokens of each completion.
    pub(super) n_chosen: f64,
    pub(super) n_rejected: f64,
}

impl Scores {
    /// `D = s_w - s_l`.
    pub(super) fn difference(&self) -> f64 {
        self.chosen - self.rejected
    }

    /// `s_w/|w| - s_l/|l|`.
    pub(super) fn difference_per_token(&self) -> f64 {
        self.chosen / self.n_chosen - self.rejected / self.n_rejected
    }

    /// A loss of `D` alone: its value, and `dL/dD`.
    pub(super) fn of_difference(&self, loss: f64, slope: f64) -> Term<PairGrad> {
        Term {
            loss,
            grad: PairGrad {
                chosen: slope,
                rejected: -slope,
            },
        }
    }

    /// A loss of the difference per token alone, as [`of_difference`](Self::of_difference).
    pub(super) fn of_difference_per_token(&self, loss: f64, slope: f64) -> Term<PairGrad> {
        Term {
            loss,
            grad: PairGrad {
                chosen: slope / self.n_chosen,
                rejected: -slope / self.n_rejected,
            },
        }
    }
}
