//! Losses and their gradients: pure f64 arithmetic over sequence log-probabilities, one loss a file, no tensors.
//!
//! A head yields the summed log-probability of each completion, in nats; an objective turns it into a loss and into
//! d loss / d (that sum), the one coefficient per sequence from which the backward pass starts. All values are already
//! divided by the counts of the whole optimizer step ([`Totals`]), so that adding up micro-batches gives the step's mean.
//!
//! Per kind of example: pairs, rankings and unpaired examples are `sum of weight * loss / number of examples of that kind` (dividing by the
//! sum of weights would cancel them); likelihood terms and anchors are `sum of weight * loss / number of tokens they score`.
//!
//! Notation: `rho = log pi_theta(y|x) - log pi_ref(y|x)`, `sigma` the logistic function, `w` chosen, `l` rejected.

mod anchor;
mod math;
mod metrics;
mod pair;
mod plackett_luce;
mod sft;
mod unpaired;

pub use anchor::anchor;
pub use metrics::{Metrics, MetricsSum};
pub use pair::{
    FDivergence, LossType, PairGrad, PairItem, PairLogps, PairObjective, PairTerm, PairWeights,
    Tails,
};
pub use plackett_luce::{RankingLogps, RankingObjective, RankingWeights};
pub use sft::demonstration;
pub use unpaired::{BcoState, ClassRewards, UnpairedLogps, UnpairedLossType, UnpairedObjective};

/// A loss and its gradient with respect to the sequence log-probabilities it was given.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Term<G> {
    /// The loss, nats where the formula is a log-probability.
    pub loss: f64,
    /// d loss / d (sequence log-probability), per sequence.
    pub grad: G,
}

/// What one optimizer step holds in all its micro-batches: the denominators of its means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Preference pairs.
    pub pairs: usize,
    /// Unpaired examples.
    pub unpaired: usize,
    /// Rankings.
    pub rankings: usize,
    /// Tokens scored by a likelihood term: of demonstrations, and of the chosen side of pairs and the best of rankings whose `nll`
    /// weight is not zero.
    pub nll_tokens: usize,
    /// Tokens of anchors.
    pub anchor_tokens: usize,
}

impl Totals {
    /// Counts a pair whose chosen completion has `n_chosen` tokens.
    pub fn add_pair(&mut self, n_chosen: usize, weights: &PairWeights) {
        self.pairs += 1;
        if weights.nll != 0.0 {
            self.nll_tokens += n_chosen;
        }
    }

    /// Counts an unpaired example.
    pub fn add_unpaired(&mut self) {
        self.unpaired += 1;
    }

    /// Counts a ranking whose best completion has `n_best` tokens.
    pub fn add_ranking(&mut self, n_best: usize, weights: &RankingWeights) {
        self.rankings += 1;
        if weights.nll != 0.0 {
            self.nll_tokens += n_best;
        }
    }

    /// Counts a demonstration of `n_tokens` tokens.
    pub fn add_demonstration(&mut self, n_tokens: usize) {
        self.nll_tokens += n_tokens;
    }

    /// Counts an anchor of `n_tokens` tokens.
    pub fn add_anchor(&mut self, n_tokens: usize) {
        self.anchor_tokens += n_tokens;
    }
}

/// Why an objective was refused, or an example could not be scored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// A loss name that does not exist.
    #[error("unknown loss type `{given}`: use one of {valid}")]
    UnknownLoss {
        /// What was asked for.
        given: String,
        /// The names that exist, separated by commas.
        valid: String,
    },
    /// A setting out of range, or a combination that makes no sense.
    #[error("{setting}: {reason}")]
    Invalid {
        /// TRL's name of the setting.
        setting: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A log-probability, loss or gradient that is NaN or infinite.
    #[error(
        "example {index}: {what} is {value}, not a finite number; training stops before it reaches the adapter"
    )]
    NotFinite {
        /// The example's index, as the caller counts.
        index: usize,
        /// Which value.
        what: &'static str,
        /// NaN or an infinity.
        value: f64,
    },
    /// A weight that is negative, NaN or infinite.
    #[error("example {index}: {what} is {value}; it must be finite and at least 0")]
    Weight {
        /// The example's index, as the caller counts.
        index: usize,
        /// Which weight.
        what: &'static str,
        /// What it is.
        value: f64,
    },
    /// A completion without tokens.
    #[error("example {index}: the {side} completion has no tokens")]
    EmptyCompletion {
        /// The example's index, as the caller counts.
        index: usize,
        /// chosen, rejected, one of the ranked, or the only one.
        side: &'static str,
    },
    /// A ranking of fewer than two.
    #[error("example {index}: a ranking needs two answers at least")]
    TooFew {
        /// The example's index, as the caller counts.
        index: usize,
    },
    /// The step's totals do not count the example that is being scored.
    #[error(
        "example {index}: the step's totals count no {what}; add every example of the step to `Totals` first"
    )]
    NotCounted {
        /// The example's index, as the caller counts.
        index: usize,
        /// pairs, rankings, unpaired examples or tokens.
        what: &'static str,
    },
}

/// Refuses NaN and infinities, naming the example and the value.
fn finite(index: usize, what: &'static str, value: f64) -> Result<f64, ObjectiveError> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(ObjectiveError::NotFinite { index, what, value })
    }
}

/// Refuses weights that are negative or not finite.
fn weight(index: usize, what: &'static str, value: f64) -> Result<f64, ObjectiveError> {
    if value.is_finite() && value >= 0.0 {
        Ok(value)
    } else {
        Err(ObjectiveError::Weight { index, what, value })
    }
}

/// A denominator as f64, refusing zero.
fn counted(index: usize, what: &'static str, count: usize) -> Result<f64, ObjectiveError> {
    if count == 0 {
        Err(ObjectiveError::NotCounted { index, what })
    } else {
        Ok(count as f64)
    }
}

fn check_beta(beta: f64) -> Result<(), ObjectiveError> {
    if beta.is_finite() && beta > 0.0 {
        return Ok(());
    }
    Err(ObjectiveError::Invalid {
        setting: "beta",
        reason: format!("must be finite and above 0, got {beta}"),
    })
}

fn check_label_smoothing(e: f64) -> Result<(), ObjectiveError> {
    if (0.0..0.5).contains(&e) {
        return Ok(());
    }
    let reason =
        format!("must be at least 0 and under 0.5 (at 0.5 neither side is preferred), got {e}");
    Err(ObjectiveError::Invalid {
        setting: "label_smoothing",
        reason,
    })
}
