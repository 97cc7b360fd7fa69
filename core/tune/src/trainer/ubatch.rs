//! From examples to ubatches and back.

use crate::batch::{Group, Packed};
use crate::example::Example;
use crate::graph::Scores;

/// Cuts a list of examples into runs that fit ubatches of `max_tokens` rows.
pub(super) fn pack(examples: &[Example], indices: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut chunks: Vec<Vec<usize>> = Vec::new();
    let mut rows = usize::MAX;
    for &index in indices {
        let n = examples[index].n_rows();
        if rows.saturating_add(n) > max_tokens {
            chunks.push(Vec::new());
            rows = 0;
        }
        rows += n;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(index);
        }
    }
    chunks
}

pub(super) fn packed(examples: &[Example], chunk: &[usize]) -> Packed {
    let completions: Vec<_> = chunk.iter().map(|i| examples[*i].completions()).collect();
    let groups: Vec<_> = chunk
        .iter()
        .zip(&completions)
        .map(|(i, completions)| Group {
            prompt: &examples[*i].prompt,
            completions,
        })
        .collect();
    Packed::new(&groups)
}

/// Log-probabilities of each example's completions in a ubatch, summed over tokens.
pub(super) fn sums(examples: &[Example], chunk: &[usize], scores: &Scores) -> Vec<Vec<f64>> {
    let mut sequences = 0..scores.logps.len();
    let mut of = |index: &usize| {
        let n = examples[*index].completions().len();
        sequences.by_ref().take(n).map(|s| scores.sum(s)).collect()
    };
    chunk.iter().map(&mut of).collect()
}
