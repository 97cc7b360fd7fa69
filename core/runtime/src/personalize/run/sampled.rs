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
    /// Whether the model ended it.
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
    /// Whether the better side was ended.
    pub finished: bool,
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
                        weights: PairWeights {
                            // Raising the likelihood of a reply without its end teaches not to end.
                            nll: if pair.finished { weights.nll } else { 0.0 },
                            ..weights
                        },
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
    /// The best and the worst reply by their rewards, the first of equal ones, with the difference. Both are chosen from the same ones, all
    /// that do not repeat themselves: what could win but not lose, or lose but not win, would be taught whatever the rewards say
    /// (docs/adr/023).
    pub fn extremes(&self, reward: impl Fn(usize) -> f64) -> Option<(usize, usize, f64)> {
        let sound = || (0..self.replies.len()).filter(|at| !self.replies[*at].repeats);
        let best = sound().max_by(|a, b| reward(*a).total_cmp(&reward(*b)).then(b.cmp(a)))?;
        let worst = sound().min_by(|a, b| reward(*a).total_cmp(&reward(*b)))?;
        let differ = self.replies[best].tokens != self.replies[worst].tokens;
        differ.then(|| (best, worst, reward(best) - reward(worst)))
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
        let mut sampled = self.sample_each(samples)?;
        sampled.retain(|sampled| !sampled.replies.is_empty());
        Ok(sampled)
    }

    /// The same for every prompt, those that got no reply that says anything among them.
    pub(super) fn sample_each(&self, samples: &Samples<'_>) -> Step<Vec<Sampled>> {
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
            let made = Reply {
                finished: reply.stop_reason.is_finished(),
                tokens: reply.tokens,
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
        Ok(of_prompt.collect())
    }
}

#[cfg(test)]
mod tests {
    use thumbprint_tune::rng::Rng;

    use super::*;

    fn of(replies: &[(i32, bool)], rewards: &[f64]) -> Option<(usize, usize, f64)> {
        let reply = |(length, repeats): &(i32, bool)| Reply {
            tokens: (0..*length).collect(),
            finished: true,
            repeats: *repeats,
        };
        let sampled = Sampled {
            prompt: vec![1],
            replies: replies.iter().map(reply).collect(),
        };
        sampled.extremes(|at| rewards[at])
    }

    #[test]
    fn the_best_reply_stands_over_the_worst_and_one_that_goes_in_circles_is_neither() {
        let all = [(5, false), (6, false), (7, false)];
        assert_eq!(of(&all, &[2.0, -2.0, 2.0]), Some((0, 1, 4.0)));
        let mut circling = all;
        circling[1].1 = true;
        assert_eq!(of(&circling, &[1.0, -2.0, 2.0]), Some((2, 0, 1.0)));
        assert_eq!(of(&circling, &[1.0, 9.0, 2.0]), Some((2, 0, 1.0)));
        // Nothing is better than itself.
        assert_eq!(of(&[(5, false); 2], &[1.0, 0.0]), None);
        assert_eq!(of(&[], &[]), None);
    }

    #[test]
    fn the_opposite_taste_turns_every_pair_around() {
        // Nothing may win that may not lose, or pairs would teach it whatever the rewards say.
        let mut rng = Rng::new(7);
        for _ in 0..200 {
            let replies: Vec<_> = (0..4).map(|at| (at + 3, rng.below(3) == 0)).collect();
            let rewards: Vec<f64> = replies.iter().map(|_| rng.normal()).collect();
            let opposite: Vec<f64> = rewards.iter().map(|reward| -reward).collect();
            let turned = of(&replies, &opposite).map(|(best, worst, by)| (worst, best, by));
            assert_eq!(of(&replies, &rewards), turned);
        }
    }

    #[test]
    fn only_what_the_model_ended_is_imitated() {
        let pair = |finished| LabelledPair {
            prompt: vec![1],
            chosen: vec![2, 3],
            finished,
            rejected: vec![4],
            base: [-1.0, -2.0],
            margin: 1.0,
        };
        let weights = PairWeights {
            nll: 0.7,
            ..PairWeights::default()
        };
        let labelled = Labelled::new(&[pair(true), pair(false)], weights, 100);
        let found: Vec<_> = labelled
            .examples
            .iter()
            .map(|example| match &example.kind {
                Kind::Pair { weights, .. } => (weights.pair, weights.nll),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(found, [(weights.pair, 0.7), (weights.pair, 0.0)]);
    }
}
