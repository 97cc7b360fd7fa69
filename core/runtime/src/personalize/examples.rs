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

/// Shortens an anchor or a demonstration to `max_rows`, for which memory was planned; false where nothing of it is left.
pub fn shorten(example: &mut Example, max_rows: usize) -> bool {
    let room = (max_rows + 1).saturating_sub(example.prompt.len());
    if let Kind::Anchor { completion, .. } | Kind::Demonstration { completion, .. } =
        &mut example.kind
    {
        completion.truncate(room);
    }
    example.completions().iter().all(|c| !c.is_empty()) && example.n_rows() <= max_rows
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_cut_to_the_rows_that_were_planned_for() {
        let anchor = |n: i32| Example {
            prompt: vec![1, 2],
            kind: Kind::Anchor {
                completion: (0..n).collect(),
                weight: 1.0,
            },
        };
        let mut long = anchor(60);
        assert!(shorten(&mut long, 40));
        assert_eq!(long.n_rows(), 40);
        let mut short = anchor(30);
        assert!(shorten(&mut short, 40));
        assert_eq!(short, anchor(30));
        assert!(!shorten(&mut anchor(60), 1));
    }
}
