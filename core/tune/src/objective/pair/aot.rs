//! AOT: Melnyk et al. 2024 (arXiv 2406.05882), eqs. 8 and 11: the model's margins as a distribution dominate the reference's.
//!
//! Both kinds sort the two sides of all pairs of a step and compare what has the same rank. `aot` compares the model's
//! `log p_w - log p_l` with the reference's; `aot_unpaired` compares `rho_w` with `rho_l`, so that who met whom does not matter.
//! `L = -(1-e) log sigma(beta d) - e log sigma(-beta d)`, `d` the difference at a rank; its slope belongs to the examples that hold the rank.
//!
//! TRL sorts within a micro-batch; here it is the whole optimizer step, so that the split into micro-batches changes nothing.

use super::scores::Scores;
use super::{PairGrad, Term, smoothed};

/// A pair among all of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranked {
    /// What is ranked: the model's log-probabilities, or log-ratios.
    pub(super) scores: Scores,
    /// The reference's log-probabilities.
    pub(super) reference: Scores,
    /// Probability that the label is wrong.
    pub(super) smoothing: f64,
    /// Factor on the loss of a rank that the pair holds.
    pub(super) weight: f64,
}

/// The losses of all pairs of a step by `aot`.
pub(super) fn paired(pairs: &[Ranked], beta: f64) -> Vec<Term<PairGrad>> {
    let policy = ranks(pairs.iter().map(|pair| pair.scores.difference()));
    let reference = ranks(pairs.iter().map(|pair| pair.reference.difference()));
    let mut terms = vec![Term::default(); pairs.len()];
    for (ours, theirs) in policy.into_iter().zip(reference) {
        let pair = &pairs[ours];
        let d = pair.scores.difference() - pairs[theirs].reference.difference();
        let (loss, slope) = smoothed::loss(beta * d, pair.smoothing);
        terms[ours] = pair
            .scores
            .of_difference(pair.weight * loss, pair.weight * beta * slope);
    }
    terms
}

/// The losses of all pairs of a step by `aot_unpaired`. A rank's loss, weight and label are those of its chosen side.
pub(super) fn unpaired(pairs: &[Ranked], beta: f64) -> Vec<Term<PairGrad>> {
    let chosen = ranks(pairs.iter().map(|pair| pair.scores.chosen));
    let rejected = ranks(pairs.iter().map(|pair| pair.scores.rejected));
    let mut terms = vec![Term::<PairGrad>::default(); pairs.len()];
    for (w, l) in chosen.into_iter().zip(rejected) {
        let Ranked {
            scores,
            smoothing,
            weight,
            ..
        } = pairs[w];
        let d = scores.chosen - pairs[l].scores.rejected;
        let (loss, slope) = smoothed::loss(beta * d, smoothing);
        terms[w].loss = weight * loss;
        terms[w].grad.chosen = weight * beta * slope;
        terms[l].grad.rejected = -weight * beta * slope;
    }
    terms
}

/// Indices in the order of their values; equal ones stay in place.
fn ranks(values: impl Iterator<Item = f64>) -> Vec<usize> {
    let values: Vec<f64> = values.collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    order
}
