//! Pairs of the base's own replies, ordered by a reward head that is fitted on the feedback: few thumbs say enough to tell good replies
//! from bad ones, and replies to be told apart can be had for the asking. Best and worst of several is West-of-N (arXiv 2401.12086).

use std::path::Path;

use serde::{Deserialize, Serialize};
use thumbprint_tune::example::Example;
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::trainer::Trainer;

use super::super::Phase;
use super::super::recipe::WestOfN;
use super::sampled::{Labelled, LabelledPair, Sampled, Samples, own_prompts};
use super::{Context, Material, Resolved, Step};
use crate::curation::fold_of;
use crate::engine::{Canceller, Chat, EngineError, Priority, With};
use crate::facade::HeadMaterial;
use crate::gate::replay;
use crate::reward::{self, HeadOptions, Judged};
use crate::types::Message;

/// Texts whose states are computed between two looks at whether to go on.
const CHUNK: usize = 8;
/// Tells these samples from a run's others.
const STREAM: u64 = 1 << 20;

/// Last hidden states: of the replies that were judged, and of the samples, prompt by prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct States {
    judged: Vec<Vec<f32>>,
    sampled: Vec<Vec<Vec<f32>>>,
}

/// A pair by its places among the samples.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    prompt: usize,
    best: usize,
    worst: usize,
    margin: f64,
}

/// What is answered again.
pub struct Again {
    /// The feedback's own prompts, spread over the log, then neutral ones.
    pub prompts: Vec<Vec<Message>>,
    /// Tokens of a reply, at most.
    pub max_tokens: u32,
    /// Rows of the longest pair that can come of it.
    pub rows: usize,
}

/// Decides it. A prompt of the feedback is left out where its pair would be longer than any example of the feedback and any neutral pair:
/// nothing here makes a run take much more memory.
pub fn again(
    material: &Material,
    west: &WestOfN,
    chat: &Chat,
    n_ctx: usize,
) -> Result<Again, EngineError> {
    let neutral: Vec<Vec<Message>> = replay::PROMPTS
        .iter()
        .map(|prompt| vec![Message::user(*prompt)])
        .collect();
    let mut longest = 0;
    for prompt in &neutral {
        longest = longest.max(chat.prompt_tokens(prompt)?.len());
    }
    // The end of a turn is added to what was cut off.
    let room = n_ctx.saturating_sub(longest + 1);
    let max_tokens = west.max_tokens.min(room as u32);
    let both = 2 * max_tokens as usize;
    let of_feedback = material
        .tokenized
        .examples
        .iter()
        .map(Example::n_rows)
        .max();
    let rows = (longest + both).max(of_feedback.unwrap_or(0));
    let own = own_prompts(material, west.prompts / 2, |prompt| {
        prompt + both <= rows && prompt + (max_tokens as usize) < n_ctx
    });
    let prompts = match max_tokens {
        0 => Vec::new(),
        _ => own.into_iter().chain(neutral).take(west.prompts).collect(),
    };
    Ok(Again {
        prompts,
        max_tokens,
        rows,
    })
}

/// Pairs that are learned from, of so many prompts.
pub fn n_pairs(n_prompts: usize, west: &WestOfN) -> usize {
    (west.keep * n_prompts as f64).ceil() as usize
}

impl Context<'_> {
    /// What stands beside the feedback in the training of each fold, ordered by a head that has not seen the fold, and last in that
    /// on everything.
    pub(super) fn labelled(
        &self,
        material: &Material,
        resolved: &Resolved,
        dir: &Path,
    ) -> Step<Vec<Labelled>> {
        let trainings = resolved.folds as usize + 1;
        let Some(west) = &resolved.recipe.west_of_n else {
            return Ok(vec![Labelled::default(); trainings]);
        };
        let again = self.again(material, west)?;
        let longest = resolved.plan.max_tokens;
        let mut sampled = self.kept(dir, "west-samples.json", |this| {
            this.sample(&Samples {
                phase: Phase::Replay,
                prompts: &again.prompts,
                n: west.replies,
                max_tokens: again.max_tokens,
                with: With::Base,
                stream: STREAM,
            })
        })?;
        // Under a tight budget memory was planned for less.
        sampled.iter_mut().for_each(|sampled| sampled.keep(longest));
        let judged = HeadMaterial::of_log(&material.log, &self.loaded)?;
        let states = self.kept(dir, "west-states.json", |this| {
            this.states(&judged, &sampled)
        })?;
        let everything = judged.judged.iter().map(|(_, judged)| *judged).collect();
        let without = |fold| {
            let rest = (judged.judged.iter())
                .filter(|(prompt_key, _)| fold_of(prompt_key, resolved.folds) != fold);
            rest.map(|(_, judged)| *judged).collect()
        };
        let sets: Vec<Vec<Place>> = (0..resolved.folds)
            .map(without)
            .chain([everything])
            .map(|judged: Vec<Judged>| self.ordered(west, &judged, &sampled, &states))
            .collect();
        let weights = PairWeights {
            pair: west.weight,
            nll: west.nll,
            label_smoothing: Some(west.label_smoothing),
        };
        let pairs = self.with_references(&sampled, &sets, resolved, dir)?;
        Ok(pairs
            .into_iter()
            .map(|pairs| Labelled::new(&pairs, weights, longest))
            .collect())
    }

    pub(super) fn again(&self, material: &Material, west: &WestOfN) -> Step<Again> {
        let engine = &self.loaded.engine;
        let info = engine.info();
        let n_ctx = info.n_ctx.min(info.n_ctx_train) as usize;
        Ok(again(material, west, engine.chat(), n_ctx)?)
    }

    fn states(&self, judged: &HeadMaterial, sampled: &[Sampled]) -> Step<States> {
        let chat = self.loaded.engine.chat();
        let whole = |sampled: &Sampled, at: usize| {
            let reply = &sampled.replies[at];
            let ends = (!reply.finished).then(|| chat.end_of_turn()).flatten();
            let tokens = sampled.prompt.iter().chain(&reply.tokens).copied();
            tokens.chain(ends).collect::<Vec<i32>>()
        };
        let of_samples = sampled
            .iter()
            .flat_map(|sampled| (0..sampled.replies.len()).map(move |at| whole(sampled, at)));
        let texts: Vec<Vec<i32>> = judged.texts.iter().cloned().chain(of_samples).collect();
        let canceller: Canceller = self.shared.canceller();
        let mut states = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(CHUNK) {
            self.check()?;
            self.progress(Phase::Replay, states.len() as u64, texts.len() as u64);
            let engine = &self.loaded.engine;
            states.extend(engine.embed(
                Priority::Background,
                chunk.to_vec(),
                With::Base,
                &canceller,
            )?);
        }
        let mut of_samples = states.split_off(judged.texts.len()).into_iter();
        let sampled = sampled
            .iter()
            .map(|sampled| of_samples.by_ref().take(sampled.replies.len()).collect())
            .collect();
        Ok(States {
            judged: states,
            sampled,
        })
    }

    /// The pairs of the largest margins, in the order of their prompts; none where no head can be fitted.
    fn ordered(
        &self,
        west: &WestOfN,
        judged: &[Judged],
        sampled: &[Sampled],
        states: &States,
    ) -> Vec<Place> {
        // What is usual of a feature is told by all replies, judged or not.
        let all: Vec<Vec<f32>> = states
            .judged
            .iter()
            .chain(states.sampled.iter().flatten())
            .cloned()
            .collect();
        let template = &self.loaded.engine.info().template_hash;
        let options = HeadOptions { l2: Some(west.l2) };
        let Ok(head) = reward::fit(&self.loaded.sha256, template, &all, judged, &options) else {
            return Vec::new();
        };
        let rewards: Vec<Vec<f64>> = states
            .sampled
            .iter()
            .map(|states| {
                let reward = |state: &Vec<f32>| head.score(state).unwrap_or_default();
                states.iter().map(reward).collect()
            })
            .collect();
        widest(sampled, &rewards, west)
    }

    /// Pairs with the log-probabilities of their sides under the base.
    fn with_references(
        &self,
        sampled: &[Sampled],
        sets: &[Vec<Place>],
        resolved: &Resolved,
        dir: &Path,
    ) -> Step<Vec<Vec<LabelledPair>>> {
        let mut wanted: Vec<(usize, usize)> = sets
            .iter()
            .flatten()
            .flat_map(|place| [(place.prompt, place.best), (place.prompt, place.worst)])
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let scores: Vec<f64> = self.kept(dir, "west-references.json", |this| {
            let texts: Vec<Example> = wanted
                .iter()
                .map(|(prompt, reply)| sampled[*prompt].text(*reply))
                .collect();
            if texts.is_empty() {
                return Ok(Vec::new());
            }
            let mut trainer = this.trainer(texts.clone(), 1, resolved)?;
            let mut scores = Vec::with_capacity(texts.len());
            for chunk in texts.chunks(CHUNK) {
                this.progress(Phase::Reference, scores.len() as u64, texts.len() as u64);
                let of_chunk = this.uninterrupted(&mut trainer, |trainer: &mut Trainer| {
                    trainer.score_examples(chunk, false)
                })?;
                scores.extend(of_chunk.iter().filter_map(|scores| scores.first().copied()));
            }
            Ok(scores)
        })?;
        let base = |side: (usize, usize)| {
            let found = wanted.binary_search(&side).ok();
            found.and_then(|at| scores.get(at).copied())
        };
        let pair = |place: &Place| {
            let Sampled { prompt, replies } = &sampled[place.prompt];
            Some(LabelledPair {
                prompt: prompt.clone(),
                chosen: replies[place.best].tokens.clone(),
                rejected: replies[place.worst].tokens.clone(),
                base: [
                    base((place.prompt, place.best))?,
                    base((place.prompt, place.worst))?,
                ],
                margin: place.margin,
            })
        };
        Ok(sets
            .iter()
            .map(|set| set.iter().filter_map(pair).collect())
            .collect())
    }
}

/// Of each prompt the best reply over the worst one; of these, the share with the largest margins.
fn widest(sampled: &[Sampled], rewards: &[Vec<f64>], west: &WestOfN) -> Vec<Place> {
    let places = sampled.iter().zip(rewards).enumerate();
    let mut places: Vec<Place> = places
        .filter_map(|(prompt, (sampled, rewards))| {
            let (best, worst, margin) = sampled.extremes(|at| rewards[at])?;
            Some(Place {
                prompt,
                best,
                worst,
                margin,
            })
        })
        .filter(|place| place.margin > 0.0)
        .collect();
    places.sort_by(|a, b| b.margin.total_cmp(&a.margin).then(a.prompt.cmp(&b.prompt)));
    places.truncate(n_pairs(sampled.len(), west));
    places.sort_by_key(|place| place.prompt);
    places
}

#[cfg(test)]
mod tests {
    use super::super::sampled::Reply;
    use super::*;

    #[test]
    fn the_widest_margins_are_kept_in_the_order_of_their_prompts() {
        let sampled: Vec<Sampled> = (0..4)
            .map(|prompt| Sampled {
                prompt: vec![prompt],
                replies: (0..3)
                    .map(|reply| Reply {
                        tokens: vec![reply; 3],
                        finished: true,
                    })
                    .collect(),
            })
            .collect();
        let rewards = [
            vec![0.0, 0.1, 0.0],
            vec![3.0, 1.0, 0.0],
            vec![0.0, 0.0, 0.0],
            vec![0.0, 2.0, 1.0],
        ];
        let west = WestOfN {
            keep: 0.5,
            ..WestOfN::default()
        };
        let places = widest(&sampled, &rewards, &west);
        let found: Vec<_> = places
            .iter()
            .map(|place| (place.prompt, place.best, place.worst))
            .collect();
        assert_eq!(found, [(1, 0, 2), (3, 1, 0)]);
        let all = widest(&sampled, &rewards, &WestOfN { keep: 1.0, ..west });
        assert_eq!(all.len(), 3, "where nothing differs, nothing is better");
    }
}
