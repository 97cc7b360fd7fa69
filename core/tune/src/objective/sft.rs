//! Likelihood of a completion: the `sft` term of a pair's chosen side, and demonstrations.
//!
//! `L = -log pi_theta(y|x) / T`, `T` the number of tokens that such terms score in the whole optimizer step.
//! `dL/dlogp = -1/T`. No reference. The mean over tokens couples the examples of a step through `T` alone.

use super::{ObjectiveError, Term, Totals, counted, finite};

/// `weight * nll / totals.nll_tokens` of a demonstration (an edited answer, say) of summed log-probability `logp`, nats.
///
/// # Errors
/// A value that is not finite, no tokens, or totals without tokens; each names the example by `index`.
pub fn demonstration(
    index: usize,
    logp: f64,
    n_tokens: usize,
    weight: f64,
    totals: &Totals,
) -> Result<Term<f64>, ObjectiveError> {
    finite(index, "log-probability", logp)?;
    let weight = super::weight(index, "weight", weight)?;
    if n_tokens == 0 {
        return Err(ObjectiveError::EmptyCompletion {
            index,
            side: "demonstrated",
        });
    }
    let tokens = counted(index, "tokens of likelihood terms", totals.nll_tokens)?;
    Ok(Term {
        loss: -weight * logp / tokens,
        grad: -weight / tokens,
    })
}
