//! Packing: prompts stored once, several examples in one ubatch, exact.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::graph::kernels::attention::Segment;

/// Completions of one prompt: the two sides of a pair, or a single one.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// Prompt tokens; at least one.
    pub prompt: &'a [i32],
    /// Completions, each with at least one token.
    pub completions: &'a [&'a [i32]],
}

impl Group<'_> {
    /// Rows that the group takes in a ubatch. The last token of a completion is only a label.
    pub fn n_rows(&self) -> usize {
        self.prompt.len()
            + self
                .completions
                .iter()
                .map(|c| c.len().saturating_sub(1))
                .sum::<usize>()
    }
}

/// A row whose hidden state predicts a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Row of the hidden state.
    pub row: usize,
    /// The token to predict.
    pub label: i32,
}

/// Several groups side by side. A completion's tokens see its prompt and themselves, at positions that follow the prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packed {
    /// Input tokens, one a row.
    pub tokens: Vec<i32>,
    /// Position of each row in its own sequence.
    pub positions: Vec<u32>,
    /// Which rows see which.
    pub segments: Vec<Segment>,
    /// Predictions, completion by completion.
    pub targets: Vec<Target>,
    /// The targets of each completion, in the order of groups and completions.
    pub sequences: Vec<Range<usize>>,
    /// Completions, by index, whose targets are distributions and not their labels: mean embeddings, `[n_tokens, n_embd]`.
    pub means: BTreeMap<usize, Arc<[f32]>>,
}

impl Packed {
    /// Packs groups in order.
    pub fn new(groups: &[Group<'_>]) -> Self {
        let mut packed = Self::default();
        for group in groups {
            packed.push(group);
        }
        packed
    }

    /// The mean embedding of each target that is a distribution, of width `n_embd`.
    pub fn means_of_targets(&self, n_embd: usize) -> Vec<Option<&[f32]>> {
        let mut all = vec![None; self.targets.len()];
        for (sequence, means) in &self.means {
            let targets = &mut all[self.sequences[*sequence].clone()];
            for (target, mean) in targets.iter_mut().zip(means.chunks_exact(n_embd)) {
                *target = Some(mean);
            }
        }
        all
    }

    fn push(&mut self, group: &Group<'_>) {
        let prompt = self.push_segment(group.prompt, 0, 0..0);
        for completion in group.completions {
            let input = &completion[..completion.len() - 1];
            let rows = if input.is_empty() {
                0..0
            } else {
                self.push_segment(input, group.prompt.len() as u32, prompt.clone())
            };
            let first = self.targets.len();
            // The prompt's last row predicts the first token, each row of the completion the next one.
            let predictors = std::iter::once(prompt.end - 1).chain(rows);
            let targets = predictors
                .zip(*completion)
                .map(|(row, &label)| Target { row, label });
            self.targets.extend(targets);
            self.sequences.push(first..self.targets.len());
        }
    }

    fn push_segment(
        &mut self,
        tokens: &[i32],
        position: u32,
        prefix: Range<usize>,
    ) -> Range<usize> {
        let rows = self.tokens.len()..self.tokens.len() + tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((position..).take(tokens.len()));
        self.segments.push(Segment {
            tokens: rows.clone(),
            prefix,
        });
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_stores_its_prompt_once_and_restarts_positions() {
        let packed = Packed::new(&[Group {
            prompt: &[1, 2, 3],
            completions: &[&[4, 5], &[6, 7, 8]],
        }]);
        assert_eq!(packed.tokens, [1, 2, 3, 4, 6, 7]);
        assert_eq!(packed.positions, [0, 1, 2, 3, 3, 4]);
        assert_eq!(packed.sequences, [0..2, 2..5]);
        let target = |row, label| Target { row, label };
        let expected = [
            target(2, 4),
            target(3, 5),
            target(2, 6),
            target(4, 7),
            target(5, 8),
        ];
        assert_eq!(packed.targets, expected);
        assert_eq!(
            packed.segments[2],
            Segment {
                tokens: 4..6,
                prefix: 0..3
            }
        );
    }

    #[test]
    fn a_completion_of_one_token_needs_no_rows_of_its_own() {
        let packed = Packed::new(&[Group {
            prompt: &[1, 2],
            completions: &[&[9]],
        }]);
        assert_eq!(packed.tokens, [1, 2]);
        assert_eq!(packed.targets, [Target { row: 1, label: 9 }]);
        assert_eq!(packed.segments.len(), 1);
    }
}
