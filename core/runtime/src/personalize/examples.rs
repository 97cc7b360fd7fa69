//! From curated text to the trainer's tokens.

use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::objective::PairWeights;

use super::recipe::Classes;
use crate::curation;
use crate::engine::{Chat, EngineError};

/// Curated examples in tokens, side by side with where they came from.
pub struct Tokenized {
    /// The trainer's examples.
    pub examples: Vec<Example>,
    /// The index of each in the curated list.
    pub sources: Vec<usize>,
    /// Curated examples that are longer than `max_rows`.
    pub too_long: usize,
}

/// Tokenizes curated examples for the model at hand, leaving out those that take more than `max_rows`.
pub fn tokenize(
    curated: &[curation::Example],
    chat: &Chat,
    max_rows: usize,
) -> Result<Tokenized, EngineError> {
    let mut tokenized = Tokenized {
        examples: Vec::new(),
        sources: Vec::new(),
        too_long: 0,
    };
    for (index, example) in curated.iter().enumerate() {
        let completion = |completion: &curation::Completion| -> Result<Vec<i32>, EngineError> {
            match &completion.tokens {
                Some(tokens) if !tokens.is_empty() => Ok(tokens.clone()),
                _ => {
                    let mut tokens = chat.completion_tokens(&completion.text)?;
                    if !completion.finished && tokens.len() > 1 {
                        tokens.pop();
                    }
                    Ok(tokens)
                }
            }
        };
        let kind = match &example.kind {
            curation::Kind::Pair {
                chosen,
                rejected,
                weight,
                label_smoothing,
                nll,
            } => Kind::Pair {
                chosen: completion(chosen)?,
                rejected: completion(rejected)?,
                weights: PairWeights {
                    pair: *weight,
                    nll: if *nll { *weight } else { 0.0 },
                    label_smoothing: Some(*label_smoothing),
                },
            },
            curation::Kind::Unpaired {
                completion: text,
                desirable,
                weight,
            } => Kind::Unpaired {
                completion: completion(text)?,
                desirable: *desirable,
                weight: *weight,
            },
            curation::Kind::Demonstration {
                completion: text,
                weight,
            } => Kind::Demonstration {
                completion: completion(text)?,
                weight: *weight,
            },
        };
        let example = Example {
            prompt: chat.prompt_tokens(&example.prompt)?,
            kind,
        };
        if example.n_rows() > max_rows {
            tokenized.too_long += 1;
        } else {
            tokenized.examples.push(example);
            tokenized.sources.push(index);
        }
    }
    Ok(tokenized)
}

/// What unpaired feedback the examples hold.
pub fn classes(examples: &[Example]) -> Classes {
    let mut classes = Classes {
        only_dislikes: true,
        ..Classes::default()
    };
    for example in examples {
        match &example.kind {
            Kind::Unpaired {
                desirable: false, ..
            } => classes.undesirable += 1,
            Kind::Unpaired {
                desirable: true, ..
            } => {
                classes.desirable += 1;
                classes.only_dislikes = false;
            }
            _ => classes.only_dislikes = false,
        }
    }
    classes
}
