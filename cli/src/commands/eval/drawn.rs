//! Replies of the base model that all cells share, drawn once: what people are taught on, and answers to held-out prompts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thumbprint::{By, Request, Sampling, Thumbprint};
use thumbprint_simulated_user::{Population, Prompt};

use super::folder::Folder;
use super::plan::Size;
use super::scores::Answer;
use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::simulation::{answer, answered, plain, request};
use crate::watch::Watch;

/// Replies that are drawn between two times that they are kept.
const CHUNK: usize = 128;
/// Draws of which the best is compared with one more.
pub const BEST_OF: usize = 16;
/// Seeds of draws that have nothing to do with each other lie this far apart.
const APART: u64 = 1_000_003;

/// A reply that was drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// Its id in the folder that it was drawn in.
    pub id: i64,
    #[serde(flatten)]
    pub answer: Answer,
}

/// A list of draws, by name.
type Kept = BTreeMap<String, Drawn>;

/// Draws what is missing of `wanted`, by name, and keeps it in `file`. Names tell everything that a draw depends on, but what the
/// caller puts into the file's name.
pub struct Drawer<'a> {
    pub folder: &'a Folder,
    pub out: &'a Output,
    pub interrupt: &'a Interrupt,
}

impl Drawer<'_> {
    /// What was drawn under these names, in their order.
    ///
    /// # Errors
    /// Of generating, of the disk, or an interrupt between two chunks.
    pub fn draw(
        &self,
        thumbprint: &Thumbprint,
        file: &str,
        what: &'static str,
        wanted: Vec<(String, Request)>,
    ) -> Result<Vec<Drawn>> {
        let mut kept: Kept = self.folder.read(file).unwrap_or_default();
        let names: Vec<String> = wanted.iter().map(|(name, _)| name.clone()).collect();
        let missing: Vec<_> = wanted
            .into_iter()
            .filter(|(name, _)| !kept.contains_key(name))
            .collect();
        if !missing.is_empty() {
            let watch = Watch::new(self.out, missing.len(), what);
            for chunk in missing.chunks(CHUNK) {
                self.interrupt.check()?;
                let requests = chunk.iter().map(|(_, request)| request.clone()).collect();
                let replies = answered(thumbprint, requests, &watch)?;
                for ((name, _), reply) in chunk.iter().zip(&replies) {
                    let drawn = Drawn {
                        id: reply.id.0,
                        answer: reply.into(),
                    };
                    kept.insert(name.clone(), drawn);
                }
                self.folder.write(file, &kept)?;
            }
        }
        let drawn = names.iter().map(|name| kept.get(name).cloned());
        let whole: Option<Vec<Drawn>> = drawn.collect();
        whole.ok_or_else(|| CliError::Failed(format!("{file} lacks a reply that was drawn")))
    }
}

/// Seed of a draw: of prompt `at`, for the `round`-th time.
fn seed(round: usize, at: usize) -> u64 {
    (round as u64 + 1) * APART + at as u64
}

/// How held-out prompt `at` is answered, for the `round`-th time: by every arm alike, so that what differs is the arm.
pub fn held_out_sampling(round: usize, at: usize) -> Sampling {
    answer(seed(round, at) ^ 0x5555_0000_0000)
}

/// What people are taught on: for each training prompt `rounds` replies, or `1 + BEST_OF` for the first `headroom` of them.
pub fn teaching(size: &Size, population: &Population) -> Vec<(String, Request)> {
    let prompts = population.training.iter().take(size.training).enumerate();
    prompts
        .flat_map(|(at, prompt)| {
            let rounds = match at < size.headroom {
                true => size.rounds.max(1 + BEST_OF),
                false => size.rounds,
            };
            (0..rounds).map(move |round| {
                let sampling = plain(seed(round, at));
                named(prompt, round, By::Base, population.max_tokens, sampling)
            })
        })
        .collect()
}

/// Answers to held-out prompts for one round.
pub fn answers(prompts: &[Prompt], max_tokens: u32, round: usize) -> Vec<(String, Request)> {
    let prompts = prompts.iter().enumerate();
    prompts
        .map(|(at, prompt)| {
            let sampling = held_out_sampling(round, at);
            named(prompt, round, By::Base, max_tokens, sampling)
        })
        .collect()
}

/// The same under instructions, which stand in the name.
pub fn instructed(prompts: &[Prompt], max_tokens: u32, told: &str) -> Vec<(String, Request)> {
    let prompts = prompts.iter().enumerate();
    prompts
        .map(|(at, prompt)| {
            let sampling = held_out_sampling(0, at);
            let name = format!("{} / told: {told}", prompt.text);
            let request = request(&prompt.text, Some(told), By::Base, max_tokens, sampling);
            (name, request)
        })
        .collect()
}

fn named(
    prompt: &Prompt,
    round: usize,
    by: By,
    max_tokens: u32,
    sampling: Sampling,
) -> (String, Request) {
    let name = format!("{} / {round}", prompt.text);
    (name, request(&prompt.text, None, by, max_tokens, sampling))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;
    use crate::commands::eval::plan::Plans;

    #[test]
    fn every_draw_has_a_name_and_a_seed_of_its_own() {
        let plans = Plans::built_in().unwrap();
        let population = Population::locked();
        let night = &plans.sizes["night"];
        let draws = teaching(night, population);
        assert_eq!(draws.len(), 80 * 8 + 40 * 17);
        let names: HashSet<_> = draws.iter().map(|(name, _)| name).collect();
        let seeds: HashSet<_> = draws.iter().map(|(_, r)| r.options.sampling.seed).collect();
        assert_eq!((names.len(), seeds.len()), (draws.len(), draws.len()));
        let rounds = (0..5).flat_map(|round| answers(&population.held_out, 192, round));
        let seeds: HashSet<_> = rounds.map(|(_, r)| r.options.sampling.seed).collect();
        assert_eq!(seeds.len(), 1000);
    }
}
