//! The work that is timed: preference pairs, packed into one full ubatch.

use std::path::Path;

use serde::{Deserialize, Serialize};
use thumbprint::engine::Chat;
use thumbprint_ggml::llama::Token;
use thumbprint_tune::batch::{Group, Packed};
use thumbprint_tune::data::PreferenceReader;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::objective::PairWeights;

use crate::error::Result;
use crate::pairs::{Preparation, Rows};

/// Rows of a full ubatch: llama.cpp's `n_ubatch`, and what its pp512 reads.
pub const UBATCH: usize = 512;

/// Short answers preferred over long ones, as thumbs give them.
const PAIRS: &str = include_str!("pairs.jsonl");

/// Pairs that take exactly so many rows together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BenchBatch {
    pairs: Vec<[Vec<Token>; 3]>,
    n_rows: usize,
}

impl BenchBatch {
    /// Takes whole pairs while they fit, and goes on with the last one's tokens until there are `n_rows`.
    ///
    /// # Errors
    /// The model's chat template refuses the conversations.
    pub fn new(chat: &Chat, n_rows: usize) -> Result<Self> {
        let rows = PreferenceReader::new("pairs.jsonl", PAIRS.as_bytes());
        let pairs = Rows::from_reader(Path::new("pairs.jsonl"), rows, chat, Preparation::EndToken)?;
        let mut batch = Self {
            pairs: Vec::new(),
            n_rows,
        };
        for row in pairs.rows.iter().cycle() {
            let sides = [&row.prompt[..], row.chosen(), row.rejected()];
            batch.pairs.push(sides.map(<[Token]>::to_vec));
            let n = batch.packed().tokens.len();
            if n < n_rows {
                continue;
            }
            if n > n_rows && batch.pairs.len() > 1 {
                batch.pairs.pop();
            }
            break;
        }
        batch.fill();
        Ok(batch)
    }

    /// One pair alone that takes so many rows: a long context, where [`new`](Self::new) makes a wide batch.
    pub fn of_one_pair(&self, n_rows: usize) -> Self {
        let mut batch = Self {
            pairs: self.pairs[..1].to_vec(),
            n_rows,
        };
        batch.fill();
        batch
    }

    /// As the trainer takes them.
    pub fn examples(&self) -> Vec<Example> {
        let example = |[prompt, chosen, rejected]: &[Vec<Token>; 3]| Example {
            prompt: prompt.clone(),
            kind: Kind::Pair {
                chosen: chosen.clone(),
                rejected: rejected.clone(),
                weights: PairWeights::default(),
            },
        };
        self.pairs.iter().map(example).collect()
    }

    /// As one ubatch.
    pub fn packed(&self) -> Packed {
        let completions: Vec<[&[Token]; 2]> = self
            .pairs
            .iter()
            .map(|[_, c, r]| [&c[..], &r[..]])
            .collect();
        let groups = self.pairs.iter().zip(&completions);
        Packed::new(
            &groups
                .map(|([prompt, ..], c)| Group {
                    prompt,
                    completions: c,
                })
                .collect::<Vec<_>>(),
        )
    }

    /// Rows that are computed.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Tokens as a trainer without shared prompts counts them: 2P + C + R for each pair.
    pub fn n_pair_tokens(&self) -> usize {
        self.examples().iter().map(Example::n_tokens).sum()
    }

    /// A prompt to generate from.
    pub fn prompt(&self) -> &[Token] {
        &self.pairs[0][0]
    }

    fn fill(&mut self) {
        let n = self.packed().tokens.len();
        let Some([.., rejected]) = self.pairs.last_mut() else {
            return;
        };
        if n > self.n_rows {
            rejected.truncate((rejected.len() + self.n_rows).saturating_sub(n).max(2));
        } else {
            let more: Vec<Token> = rejected
                .iter()
                .copied()
                .cycle()
                .take(self.n_rows - n)
                .collect();
            rejected.extend(more);
        }
    }
}
