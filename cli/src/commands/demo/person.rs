//! What the simulated person does with an app: asks, retries, thumbs, votes.

use thumbprint::store::{NewVote, Outcome};
use thumbprint::{AdapterId, By, Feedback, Reply, Thumbprint};
use thumbprint_simulated_user::{Choice, Prompt, SimulatedUser, Thumb, User};

use crate::error::Result;
use crate::output::Output;
use crate::simulation::{answer, answered, plain, request};
use crate::watch::Watch;

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

/// Who teaches whom, and how.
pub struct Scene<'a> {
    pub thumbprint: &'a Thumbprint,
    pub user: &'a User,
    pub max_tokens: u32,
    /// Share of thumbs that go the wrong way.
    pub flips: f64,
    pub seed: u64,
    pub out: &'a Output,
}

/// The person at the app.
pub struct Session<'a> {
    scene: Scene<'a>,
    pub user: SimulatedUser,
}

impl<'a> Session<'a> {
    /// Asks every question, presses retry `retries` times, and thumbs each reply.
    pub fn teach(scene: Scene<'a>, prompts: &[Prompt], retries: usize) -> Result<(Self, Thumbs)> {
        // All at once: what the person would wait for one after another.
        let seed = scene.seed.wrapping_mul(1_000_003);
        let requests = (0..=retries).flat_map(|round| {
            let max_tokens = scene.max_tokens;
            prompts.iter().enumerate().map(move |(i, prompt)| {
                let draw = (round * prompts.len() + i) as u64;
                let sampling = plain(seed.wrapping_add(draw));
                request(&prompt.text, None, By::Active, max_tokens, sampling)
            })
        });
        let requests: Vec<_> = requests.collect();
        let watch = Watch::new(scene.out, requests.len(), "asking and retrying");
        let replies = answered(scene.thumbprint, requests, &watch)?;
        let rounds: Vec<&[Reply]> = replies.chunks(prompts.len()).collect();
        for reply in rounds.iter().take(retries).copied().flatten() {
            scene.thumbprint.record(reply.id, &Feedback::Retry)?;
        }
        // What is usual for this model is known from the first answers.
        let first: Vec<(&Prompt, &str)> = prompts
            .iter()
            .zip(rounds[0])
            .map(|(prompt, reply)| (prompt, reply.text.as_str()))
            .collect();
        let mut user = SimulatedUser::new(scene.user, &first, scene.seed, scene.flips);
        let mut thumbs = Thumbs::default();
        for replies in &rounds {
            for (prompt, reply) in prompts.iter().zip(*replies) {
                let feedback = match user.thumb(prompt, &reply.text) {
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
                scene.thumbprint.record(reply.id, &feedback)?;
            }
        }
        Ok((Self { scene, user }, thumbs))
    }

    /// Answers to held-out questions.
    pub fn answer(&self, prompts: &[Prompt], arm: Arm, what: &'static str) -> Result<Vec<Reply>> {
        let scene = &self.scene;
        let (by, told) = match arm {
            Arm::Plain(by) => (by, None),
            Arm::SystemPrompt => (By::Base, Some(scene.user.system_prompt.as_str())),
        };
        let requests = prompts.iter().enumerate().map(|(i, prompt)| {
            let seed = scene.seed.wrapping_mul(7_919);
            let sampling = answer(seed.wrapping_add(500_000 + i as u64));
            request(&prompt.text, told, by, scene.max_tokens, sampling)
        });
        let watch = Watch::new(scene.out, prompts.len(), what);
        answered(scene.thumbprint, requests.collect(), &watch)
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
            let candidate_first = coin(self.scene.seed, i as u64);
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
            self.scene.thumbprint.record_vote(&NewVote {
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

/// A fair coin that falls the same way again.
fn coin(seed: u64, i: u64) -> bool {
    let x = (seed ^ 0x5bd1_e995)
        .wrapping_add(i)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63 == 1
}
