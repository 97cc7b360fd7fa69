//! What a trainer learns from: tokens only, with their weights.

use sha2::{Digest, Sha256};

use crate::batch::Group;
use crate::objective::{PairWeights, RankingWeights};

/// One example. Completions hold the tokens to be scored, the end token included where the answer was finished.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Tokens before the completion: at least one.
    pub prompt: Vec<i32>,
    /// What is learned from it.
    pub kind: Kind,
}

/// The kinds of examples.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// One completion is preferred over another.
    Pair {
        /// The preferred completion.
        chosen: Vec<i32>,
        /// The other one.
        rejected: Vec<i32>,
        /// Factors on the objective's terms.
        weights: PairWeights,
    },
    /// Several completions in order.
    Ranking {
        /// Two at least, the best first.
        completions: Vec<Vec<i32>>,
        /// Factors on the objective's terms.
        weights: RankingWeights,
    },
    /// A completion that was liked or disliked on its own.
    Unpaired {
        /// The completion.
        completion: Vec<i32>,
        /// Liked.
        desirable: bool,
        /// Factor on the loss, at least 0.
        weight: f64,
    },
    /// A completion to be imitated: its negative log-likelihood is lowered.
    Demonstration {
        /// The completion.
        completion: Vec<i32>,
        /// Factor on the loss, at least 0.
        weight: f64,
    },
    /// A text on which nothing shall change: the divergence of the policy's next-token distributions from the reference's is lowered.
    Anchor {
        /// The text.
        completion: Vec<i32>,
        /// Factor on the loss, at least 0.
        weight: f64,
    },
}

/// Why an example cannot be learned from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExampleError {
    /// A prompt without tokens.
    #[error("example {index}: the prompt has no tokens")]
    EmptyPrompt {
        /// The example's index.
        index: usize,
    },
    /// A completion without tokens.
    #[error("example {index}: a completion has no tokens")]
    EmptyCompletion {
        /// The example's index.
        index: usize,
    },
    /// A ranking of fewer than two.
    #[error("example {index}: a ranking needs two completions at least")]
    TooFew {
        /// The example's index.
        index: usize,
    },
    /// A pair, or two of a ranking, that are the same.
    #[error(
        "example {index}: chosen and rejected, or two of a ranking, are identical, so there is nothing to prefer"
    )]
    Identical {
        /// The example's index.
        index: usize,
    },
    /// An example that does not fit a ubatch.
    #[error(
        "example {index}: {rows} tokens do not fit the {max} that memory was planned for; shorten it or raise the limit"
    )]
    TooLong {
        /// The example's index.
        index: usize,
        /// Rows that it takes.
        rows: usize,
        /// Rows that fit.
        max: usize,
    },
}

impl Example {
    /// The completions, chosen or best first.
    pub fn completions(&self) -> Vec<&[i32]> {
        match &self.kind {
            Kind::Pair {
                chosen, rejected, ..
            } => vec![chosen, rejected],
            Kind::Ranking { completions, .. } => completions.iter().map(Vec::as_slice).collect(),
            Kind::Unpaired { completion, .. }
            | Kind::Demonstration { completion, .. }
            | Kind::Anchor { completion, .. } => vec![completion],
        }
    }

    /// Whether its loss compares with the reference.
    pub fn needs_reference(&self) -> bool {
        !matches!(self.kind, Kind::Demonstration { .. })
    }

    /// Rows that it takes in a ubatch.
    pub fn n_rows(&self) -> usize {
        Group {
            prompt: &self.prompt,
            completions: &self.completions(),
        }
        .n_rows()
    }

    /// Tokens that a trainer without shared prompts would process: the prompt once per completion.
    pub fn n_tokens(&self) -> usize {
        self.completions()
            .iter()
            .map(|c| self.prompt.len() + c.len())
            .sum()
    }

    /// SHA-256 over everything in the example: equal examples have equal keys, whatever stands beside them.
    pub fn key(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut tokens = |tokens: &[i32]| {
            hash.update((tokens.len() as u64).to_le_bytes());
            tokens
                .iter()
                .for_each(|token| hash.update(token.to_le_bytes()));
        };
        tokens(&self.prompt);
        self.completions().into_iter().for_each(&mut tokens);
        let (tag, numbers) = match &self.kind {
            Kind::Pair { weights, .. } => (
                0u8,
                [
                    weights.pair,
                    weights.nll,
                    weights.label_smoothing.unwrap_or(-1.0),
                ],
            ),
            Kind::Unpaired {
                desirable, weight, ..
            } => (1, [f64::from(u8::from(*desirable)), *weight, 0.0]),
            Kind::Demonstration { weight, .. } => (2, [*weight, 0.0, 0.0]),
            Kind::Anchor { weight, .. } => (3, [*weight, 0.0, 0.0]),
            Kind::Ranking { weights, .. } => (4, [weights.ranking, weights.nll, 0.0]),
        };
        hash.update([tag]);
        numbers.iter().for_each(|n| hash.update(n.to_le_bytes()));
        hash.finalize().into()
    }

    /// Checks that the example can be learned from in ubatches of `max` rows.
    ///
    /// # Errors
    /// [`ExampleError`] with the index given.
    pub fn check(&self, index: usize, max: usize) -> Result<(), ExampleError> {
        if self.prompt.is_empty() {
            return Err(ExampleError::EmptyPrompt { index });
        }
        if self
            .completions()
            .iter()
            .any(|completion| completion.is_empty())
        {
            return Err(ExampleError::EmptyCompletion { index });
        }
        let compared = match &self.kind {
            Kind::Pair { .. } => self.completions(),
            Kind::Ranking { completions, .. } if completions.len() < 2 => {
                return Err(ExampleError::TooFew { index });
            }
            Kind::Ranking { .. } => self.completions(),
            _ => Vec::new(),
        };
        for (at, completion) in compared.iter().enumerate() {
            if compared[..at].contains(completion) {
                return Err(ExampleError::Identical { index });
            }
        }
        let rows = self.n_rows();
        if rows > max {
            return Err(ExampleError::TooLong { index, rows, max });
        }
        Ok(())
    }
}
