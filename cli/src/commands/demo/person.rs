//! What the simulated person does with an app: asks, retries, thumbs, votes.

use thumbprint::store::{NewVote, Outcome};
use thumbprint::{
    AdapterId, By, Feedback, GenerateOptions, Message, Overflow, Reply, Request, Sampling,
    Thumbprint,
};
use thumbprint_simulated_user::{Choice, Prompt, SimulatedUser, Thumb, utility};

use crate::error::Result;
use crate::output::Output;

use super::watch::Watch;

/// Tokens of a reply at most.
const MAX_TOKENS: u32 = 192;
/// Replies generated side by side.
const PARALLEL: usize = 32;
/// What one would write instead of teaching.
pub const SYSTEM_PROMPT: &str = "Answer in one or two short sentences.";

/// Who answers held-out questions, and told what.
#[derive(Clone, Copy)]
pub enum Arm {
    /// The question alone.
    Plain(By),
    /// The base model, with the taste in words.
    SystemPrompt,
}

/// Thumbs given.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Thumbs {
    /// 👍
    pub up: usize,
    /// 👎
    pub down: usize,
}

/// The person at the app.
pub struct Session<'a> {
    pub thumbprint: &'a Thumbprint,
    pub user: SimulatedUser,
    pub seed: u64,
    pub out: &'a Output,
}

impl Session<'_> {
    /// Asks every question, presses retry `retries` times, and thumbs each reply.
    pub fn teach(&mut self, prompts: &[Prompt], retries: usize) -> Result<Thumbs> {
        // All at once: what the person would wait for one after another.
        let seed = self.seed.wrapping_mul(1_000_003);
        let requests = (0..=retries).flat_map(|round| {
            prompts.iter().enumerate().map(move |(i, prompt)| {
                let draw = (round * prompts.len() + i) as u64;
                let seed = seed.wrapping_add(draw);
                let mut request = Request::new(vec![Message::user(prompt.text)]);
                request.options = options(Sampling {
                    seed,
                    ..Sampling::plain()
                });
                request
            })
        });
        let requests: Vec<_> = requests.collect();
        let watch = Watch::new(self.out, requests.len(), "asking and retrying");
        let replies = self
            .thumbprint
            .generate_batch(requests, PARALLEL, &mut |_| watch.step())?;
        let rounds: Vec<&[Reply]> = replies.chunks(prompts.len()).collect();
        for reply in rounds.iter().take(retries).copied().flatten() {
            self.thumbprint.record(reply.id, &Feedback::Retry)?;
        }
        // What is usual for this model is known from the first answers.
        let first: Vec<f64> = prompts
            .iter()
            .zip(rounds[0])
            .map(|(p, r)| utility(p, &r.text))
            .collect();
        self.user.calibrate(&first);
        let mut thumbs = Thumbs::default();
        for replies in &rounds {
            for (prompt, reply) in prompts.iter().zip(*replies) {
                let feedback = match self.user.thumb(prompt, &reply.text) {
                    Thumb::Up => {
                        thumbs.up += 1;
                        Feedback::Up
                    }
                    Thumb::Down => {
                        thumbs.down += 1;
                        Feedback::Down {
                            reasons: Vec::new(),
                        }
                    }
                };
                self.thumbprint.record(reply.id, &feedback)?;
            }
        }
        Ok(thumbs)
    }

    /// Answers to held-out questions.
    pub fn answer(&self, prompts: &[Prompt], arm: Arm, what: &'static str) -> Result<Vec<Reply>> {
        let requests = prompts.iter().enumerate().map(|(i, prompt)| {
            let mut messages = vec![Message::user(prompt.text)];
            let by = match arm {
                Arm::Plain(by) => by,
                Arm::SystemPrompt => {
                    messages.insert(0, Message::system(SYSTEM_PROMPT));
                    By::Base
                }
            };
            let seed = self
                .seed
                .wrapping_mul(7_919)
                .wrapping_add(500_000 + i as u64);
            let options = options(Sampling {
                temperature: 0.7,
                seed,
                ..Sampling::plain()
            });
            Request {
                options,
                by,
                ..Request::new(messages)
            }
        });
        let watch = Watch::new(self.out, prompts.len(), what);
        Ok(self
            .thumbprint
            .generate_batch(requests.collect(), PARALLEL, &mut |_| watch.step())?)
    }

    /// Votes blind between two answers to each question, sides at random.
    pub fn vote(
        &mut self,
        prompts: &[Prompt],
        adapter: AdapterId,
        tuned: &[Reply],
        base: &[Reply],
    ) -> Result<()> {
        for (i, ((prompt, tuned), base)) in prompts.iter().zip(tuned).zip(base).enumerate() {
            let candidate_first = coin(self.seed, i as u64);
            let (left, right) = if candidate_first {
                (tuned, base)
            } else {
                (base, tuned)
            };
            let choice = self.user.vote_blind(prompt, &left.text, &right.text);
            let outcome = match (choice, candidate_first) {
                (Choice::Tie, _) => Outcome::Tie,
                (Choice::Left, true) | (Choice::Right, false) => Outcome::Win,
                _ => Outcome::Loss,
            };
            self.thumbprint.record_vote(&NewVote {
                adapter,
                candidate_reply: Some(tuned.id),
                baseline_reply: Some(base.id),
                candidate_first,
                outcome,
            })?;
        }
        Ok(())
    }
}

fn options(sampling: Sampling) -> GenerateOptions {
    GenerateOptions {
        max_tokens: MAX_TOKENS,
        sampling,
        stop: Vec::new(),
        overflow: Overflow::Error,
    }
}

/// A fair coin that falls the same way again.
fn coin(seed: u64, i: u64) -> bool {
    let x = (seed ^ 0x5bd1_e995)
        .wrapping_add(i)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63 == 1
}
