//! Replies that the model gives to prompts again, and pairs of them that something other than a person ordered.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::trainer::Reference;

use super::super::Phase;
use super::{Context, Material, Step};
use crate::engine::{GenerateOptions, Prompt, Request, With};
use crate::gate::text::repeats;
use crate::types::{Message, Sampling};

/// A prompt with answers to it, in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    pub prompt: Vec<i32>,
    pub replies: Vec<Reply>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    pub tokens: Vec<i32>,
    pub finished: bool,
    /// Whether it goes in circles ([`repeats`]).
    pub repeats: bool,
}

/// What is sampled.
pub struct Samples<'a> {
    /// What the job is said to do meanwhile.
    pub phase: Phase,
    pub prompts: &'a [Vec<Message>],
    /// Replies to each prompt.
    pub n: usize,
    pub max_tokens: u32,
    pub temperature: f32,
    pub with: With,
    pub seed: u64,
    /// Tells these from other samples of the same seed.
    pub stream: u64,
}

/// Two replies to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledPair {
    pub prompt: Vec<i32>,
    pub chosen: Vec<i32>,
    pub rejected: Vec<i32>,
    /// Their log-probabilities under the base, nats.
    pub base: [f64; 2],
    pub margin: f64,
}

/// What a training is given of such pairs, with what the reference says of them.
#[derive(Debug, Clone, Default)]
pub struct Labelled {
    pub examples: Vec<Example>,
    pub references: Vec<Reference>,
}

impl Labelled {
    /// The pairs that take at most `longest` rows.
    pub fn new(pairs: &[LabelledPair], weights: PairWeights, longest: usize) -> Self {
        let (examples, references) = pairs
            .iter()
            .map(|pair| {
                let example = Example {
                    prompt: pair.prompt.clone(),
                    kind: Kind::Pair {
                        chosen: pair.chosen.clone(),
                        rejected: pair.rejected.clone(),
                        weights,
                    },
                };
                let reference = Reference {
                    logps: pair.base.to_vec(),
                    ..Reference::default()
                };
                (example, reference)
            })
            .filter(|(example, _)| example.n_rows() <= longest)
            .unzip();
        Self {
            examples,
            references,
        }
    }
}

/// At most `n` prompts of the feedback, each once, spread over the log, of those whose length in tokens will do.
pub fn own_prompts(
    material: &Material,
    n: usize,
    will_do: impl Fn(usize) -> bool,
) -> Vec<Vec<Message>> {
    let mut seen = HashSet::new();
    let tokenized = &material.tokenized;
    let prompts: Vec<&Vec<Message>> = (tokenized.examples.iter().zip(&tokenized.sources))
        .filter(|(example, _)| will_do(example.prompt.len()))
        .map(|(_, source)| &material.curated.examples[*source])
        .filter(|curated| seen.insert(curated.prompt_key))
        .map(|curated| &curated.prompt)
        .collect();
    let n = prompts.len().min(n);
    let spread = (0..n).map(|i| prompts[i * prompts.len() / n].clone());
    spread.collect()
}

impl Sampled {
    /// The best of the finished replies and the worst of all by their rewards, the first of equal ones, with the difference. One that
    /// repeats itself is neither.
    pub fn extremes(&self, reward: impl Fn(usize) -> f64) -> Option<(usize, usize, f64)> {
        let best = self.best(&reward)?;
        let sound = (0..self.replies.len()).filter(|at| !self.replies[*at].repeats);
        let worst = sound.min_by(|a, b| reward(*a).total_cmp(&reward(*b)))?;
        let differ = self.replies[best].tokens != self.replies[worst].tokens;
        differ.then(|| (best, worst, reward(best) - reward(worst)))
    }

    /// The best reply that is finished and does not repeat itself, and the first that does.
    pub fn best_and_repeating(&self, reward: impl Fn(usize) -> f64) -> Option<(usize, usize)> {
        let repeating = self.replies.iter().position(|reply| reply.repeats);
        self.best(&reward).zip(repeating)
    }

    fn best(&self, reward: &impl Fn(usize) -> f64) -> Option<usize> {
        let wins = |at: &usize| self.replies[*at].finished && !self.replies[*at].repeats;
        let winners = (0..self.replies.len()).filter(wins);
        winners.max_by(|a, b| reward(*a).total_cmp(&reward(*b)).then(b.cmp(a)))
    }

    /// A reply by itself, to be scored.
    pub fn text(&self, reply: usize) -> Example {
        Example {
            prompt: self.prompt.clone(),
            kind: Kind::Demonstration {
                completion: self.replies[reply].tokens.clone(),
                weight: 1.0,
            },
        }
    }
}

impl Context<'_> {
    /// Draws from the model's own distribution at some temperature, nothing cut off. Prompts without a reply that says anything are left out.
    pub(super) fn sample(&self, samples: &Samples<'_>) -> Step<Vec<Sampled>> {
        let n = samples.prompts.len() * samples.n;
        let requests: Vec<_> = (0..n)
            .map(|i| Request {
                prompt: Prompt::Messages(samples.prompts[i / samples.n].clone()),
                options: GenerateOptions {
                    max_tokens: samples.max_tokens,
                    sampling: Sampling {
                        seed: samples
                            .seed
                            .wrapping_mul(31)
                            .wrapping_add(samples.stream << 32 | i as u64),
                        temperature: samples.temperature,
                        ..Sampling::plain()
                    },
                    ..GenerateOptions::default()
                },
                with: samples.with.clone(),
            })
            .collect();
        let mut replies: Vec<Option<(Vec<i32>, Reply)>> = requests.iter().map(|_| None).collect();
        let engine = &self.loaded.engine;
        let mut batch = engine.generate_batch(&requests, engine.info().side_by_side())?;
        let mut done = 0;
        while let Some((index, reply)) = batch.next()? {
            self.check()?;
            done += 1;
            self.progress(samples.phase, done, n as u64);
            let finished = reply.stop_reason.is_finished();
            let made = Reply {
                tokens: reply.tokens,
                finished,
                repeats: repeats(&reply.text),
            };
            replies[index] = Some((reply.prompt_tokens, made));
        }
        let of_prompt = replies.chunks(samples.n.max(1)).map(|replies| {
            let mut prompts = replies.iter().flatten().map(|(prompt, _)| prompt.clone());
            let replies = replies.iter().flatten().map(|(_, reply)| reply.clone());
            Sampled {
                prompt: prompts.next().unwrap_or_default(),
                replies: replies.filter(|reply| !reply.tokens.is_empty()).collect(),
            }
        });
        Ok(of_prompt
            .filter(|sampled| !sampled.replies.is_empty())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_finished_reply_stands_over_the_worst_of_all() {
        let reply = |length: i32, finished| Reply {
            tokens: (0..length).collect(),
            finished,
            repeats: false,
        };
        let of = |replies: Vec<Reply>, rewards: &[f64]| {
            let sampled = Sampled {
                prompt: vec![1],
                replies,
            };
            sampled.extremes(|at| rewards[at])
        };
        let all = || vec![reply(5, true), reply(6, true), reply(7, true)];
        assert_eq!(of(all(), &[2.0, -2.0, 2.0]), Some((0, 1, 4.0)));
        let cut = vec![reply(5, false), reply(6, true), reply(7, true)];
        assert_eq!(of(cut, &[9.0, -2.0, 2.0]), Some((2, 1, 4.0)));
        assert_eq!(
            of(vec![reply(5, false), reply(6, false)], &[1.0, 0.0]),
            None
        );
        let mut circling = all();
        circling[1].repeats = true;
        assert_eq!(of(circling.clone(), &[1.0, -2.0, 2.0]), Some((2, 0, 1.0)));
        let sampled = Sampled {
            prompt: vec![1],
            replies: circling,
        };
        let pair = sampled.best_and_repeating(|at| [1.0, 9.0, 2.0][at]);
        assert_eq!(pair, Some((2, 1)));
        // Nothing is better than itself.
        assert_eq!(of(vec![reply(5, true), reply(5, true)], &[1.0, 0.0]), None);
    }
}
