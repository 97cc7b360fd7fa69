//! From curated text to the trainer's tokens.

use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::objective::{PairWeights, RankingWeights};

use super::recipe::Classes;
use crate::curation;
use crate::engine::{Chat, EngineError};
use crate::types::{Message, Role};

/// Conversations of a question each.
pub fn questions(prompts: &[&str]) -> Vec<Vec<Message>> {
    let prompts = prompts.iter();
    prompts.map(|prompt| vec![Message::user(*prompt)]).collect()
}

/// A conversation in which the model is told how to answer: in the system message, or, where the template takes none (`is_taken` tells), before
/// the last words.
pub fn told(
    prompt: &[Message],
    manner: &str,
    is_taken: impl Fn(&[Message]) -> bool,
) -> Vec<Message> {
    let mut told = prompt.to_vec();
    match told.first_mut() {
        Some(first) if first.role == Role::System => {
            first.content = format!("{} {manner}", first.content);
        }
        _ => told.insert(0, Message::system(manner)),
    }
    if is_taken(&told) {
        return told;
    }
    let mut told = prompt.to_vec();
    if let Some(last) = told.last_mut() {
        last.content = format!("{manner}\n\n{}", last.content);
    }
    told
}

/// Curated examples in tokens, side by side with where they came from.
pub struct Tokenized {
    /// The trainer's examples.
    pub examples: Vec<Example>,
    /// The index of each in the curated list.
    pub sources: Vec<usize>,
    /// Which of the curated example's completions its own are.
    pub sides: Vec<Vec<usize>>,
    /// Curated examples that are longer than `max_rows`.
    pub too_long: usize,
    /// Answers that were left out of rankings which are longer with them.
    pub ranked_left_out: usize,
}

/// Tokenizes curated examples for the model at hand, leaving out those that take more than `max_rows`. A ranking loses answers from its
/// middle before that, down to the best and the last: without some of its answers, a ranking is one of the others.
pub fn tokenize(
    curated: &[curation::Example],
    chat: &Chat,
    max_rows: usize,
) -> Result<Tokenized, EngineError> {
    let mut tokenized = Tokenized {
        examples: Vec::new(),
        sources: Vec::new(),
        sides: Vec::new(),
        too_long: 0,
        ranked_left_out: 0,
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
            curation::Kind::Ranking {
                completions,
                weight,
                nll,
            } => Kind::Ranking {
                completions: completions
                    .iter()
                    .map(completion)
                    .collect::<Result<_, _>>()?,
                weights: RankingWeights {
                    ranking: *weight,
                    nll: if *nll { *weight } else { 0.0 },
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
        let mut example = Example {
            prompt: chat.prompt_tokens(&example.prompt)?,
            kind,
        };
        let sides = thin_out(&mut example, max_rows);
        if example.n_rows() > max_rows || sides.is_empty() {
            tokenized.too_long += 1;
            continue;
        }
        let all = curated[index].kind.completions().len();
        tokenized.ranked_left_out += all - sides.len();
        tokenized.examples.push(example);
        tokenized.sources.push(index);
        tokenized.sides.push(sides);
    }
    Ok(tokenized)
}

/// Takes answers out of a ranking until it fits, from its middle; and those whose tokens repeat those of a better one. Says which of an
/// example's completions are left, none if nothing is left to be compared.
fn thin_out(example: &mut Example, max_rows: usize) -> Vec<usize> {
    let mut sides: Vec<usize> = (0..example.completions().len()).collect();
    let prompt = example.prompt.len();
    let Kind::Ranking { completions, .. } = &mut example.kind else {
        return sides;
    };
    sides.retain(|&at| !completions[..at].contains(&completions[at]));
    let rows = |sides: &[usize]| {
        let own = sides
            .iter()
            .map(|at| completions[*at].len().saturating_sub(1));
        prompt + own.sum::<usize>()
    };
    while sides.len() > 2 && rows(&sides) > max_rows {
        sides.remove(sides.len() / 2);
    }
    if sides.len() < 2 {
        sides.clear();
    }
    *completions = sides.iter().map(|at| completions[*at].clone()).collect();
    sides
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
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn how_to_answer_is_told_in_the_system_message_or_where_there_can_be_none_before_the_last_words()
     {
        let (asked, manner) = (Message::user("Why?"), "Answer briefly.");
        let said = |prompt: &[Message], has_system| {
            let is_taken = |messages: &[Message]| has_system || messages[0].role != Role::System;
            let told = told(prompt, manner, is_taken);
            let contents = told.iter().map(|message| message.content.clone());
            contents.collect::<Vec<_>>()
        };
        assert_eq!(said(from_ref(&asked), true), ["Answer briefly.", "Why?"]);
        let of_app = [Message::system("You are a cat."), asked.clone()];
        assert_eq!(
            said(&of_app, true),
            ["You are a cat. Answer briefly.", "Why?"]
        );
        let turns = [asked.clone(), Message::assistant("So."), asked];
        assert_eq!(
            said(&turns, false),
            ["Why?", "So.", "Answer briefly.\n\nWhy?"]
        );
    }

    #[test]
    fn a_ranking_that_is_too_long_loses_answers_from_its_middle() {
        let ranking = |lengths: &[i32]| Example {
            prompt: vec![1, 2],
            kind: Kind::Ranking {
                completions: lengths.iter().map(|n| (0..*n).collect()).collect(),
                weights: RankingWeights::default(),
            },
        };
        let kept = |lengths: &[i32], max_rows| {
            let mut example = ranking(lengths);
            let sides = thin_out(&mut example, max_rows);
            let left: Vec<i32> = sides.iter().map(|at| lengths[*at]).collect();
            assert_eq!(example, ranking(&left));
            sides
        };
        assert_eq!(kept(&[9, 8, 7, 6, 5], 40), [0, 1, 2, 3, 4]);
        assert_eq!(kept(&[9, 8, 7, 6, 5], 30), [0, 1, 3, 4]);
        assert_eq!(kept(&[9, 8, 7, 6, 5], 14), [0, 4]);
        // Never fewer than two: then it is left out as a whole.
        assert_eq!(kept(&[9, 8], 10), [0, 1]);
        assert_eq!(kept(&[9, 8, 9, 5], 99), [0, 1, 3]);
        assert_eq!(kept(&[9, 9], 99), [0usize; 0]);
    }

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
