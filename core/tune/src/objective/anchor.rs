//! Anchors: texts on which the policy is held to the reference's next-token distributions.
//!
//! `L = KL(ref || theta) / T`, nats per token, `T` the number of anchors' tokens in the whole optimizer step. Over the whole vocabulary, so
//! that its gradient has none of the noise of imitating the reference's samples, and is zero where nothing moved. With
//! `s = sum over tokens t, entries v of p_ref(v|t) log p_theta(v|t)`, `KL = s_ref - s` and `dL/ds = -1/T`.

use super::{ObjectiveError, Term, Totals, counted, finite};

/// `weight * KL / totals.anchor_tokens`, where `expected` and `reference` are `s` of the policy and of the reference itself, nats.
///
/// # Errors
/// A value that is not finite, a weight below 0, or totals without tokens; each names the example by `index`.
pub fn anchor(
    index: usize,
    expected: f64,
    reference: f64,
    weight: f64,
    totals: &Totals,
) -> Result<Term<f64>, ObjectiveError> {
    finite(index, "expected log-probability", expected)?;
    finite(index, "reference's expected log-probability", reference)?;
    let weight = super::weight(index, "weight", weight)?;
    let tokens = counted(index, "tokens of anchors", totals.anchor_tokens)?;
    Ok(Term {
        loss: weight * (reference - expected) / tokens,
        grad: -weight / tokens,
    })
}
