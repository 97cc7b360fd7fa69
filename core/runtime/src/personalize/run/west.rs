//! Pairs of the base's own replies, ordered by a reward head that is fitted on the feedback: few thumbs say enough to tell good replies
//! from bad ones, and replies to be told apart can be had for the asking. Best and worst of several is West-of-N (arXiv 2401.12086).

use std::iter::repeat_n;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thumbprint_tune::example::Example;
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::trainer::Trainer;

use super::super::Phase;
use super::super::examples::{questions, told};
use super::super::recipe::WestOfN;
use super::sampled::{Labelled, LabelledPair, Reply, Sampled, Samples, own_prompts};
use super::{Context, Material, Resolved, Step};
use crate::curation::fold_of;
use crate::engine::{Canceller, Chat, Embedded, EngineError, Priority, ScoreText, With};
use crate::facade::whole;
use crate::gate::{self, Evidence, replay};
use crate::reward::{self, Alike, Head, HeadOptions, Judged};
use crate::types::Message;

/// Texts whose features are computed between two looks at whether to go on.
const CHUNK: usize = 8;
/// Tells these samples from a run's others.
const STREAM: u64 = 1 << 20;
/// The same for what is drawn when the base is told how to answer.
const TOLD_STREAM: u64 = STREAM + 1;

/// Neutral prompts that are answered and kept together. All runs share them, and each asks for as many as it lacks.
const BLOCK: usize = 32;
/// Seed of the base's answers to neutral prompts.
const NEUTRAL_SEED: u64 = 20_261_126;

/// How each prompt is answered.
#[derive(Debug, Clone, Copy, Serialize)]
struct Draws {
    replies: usize,
    max_tokens: u32,
    temperature: f32,
}

impl Draws {
    /// `n` replies of the base to each prompt, drawn like this.
    fn samples(self, prompts: &[Vec<Message>], n: usize, seed: u64, stream: u64) -> Samples<'_> {
        Samples {
            phase: Phase::Replay,
            prompts,
            n,
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            with: With::Base,
            seed,
            stream,
        }
    }
}

/// The base's answers to a prompt, each with its features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Answers {
    sampled: Sampled,
    features: Vec<Vec<f32>>,
}

impl Answers {
    /// Without those that take more than `rows` with their prompt.
    fn of_rows(self, rows: usize) -> Self {
        let Sampled { prompt, replies } = self.sampled;
        let room = rows.saturating_sub(prompt.len());
        let answers = replies.into_iter().zip(self.features);
        let (replies, features) = answers
            .filter(|(reply, _)| reply.tokens.len() <= room)
            .unzip();
        Self {
            sampled: Sampled { prompt, replies },
            features,
        }
    }
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
    /// Some of the feedback's own prompts, spread over the log.
    pub own: Vec<Vec<Message>>,
    /// Neutral ones beside them.
    pub n_neutral: usize,
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
    let mut longest = 0;
    for prompt in questions(replay::PROMPTS) {
        longest = longest.max(chat.prompt_tokens(&prompt)?.len());
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
    let prompts = match max_tokens {
        0 => 0,
        _ => west.prompts,
    };
    let own = own_prompts(material, prompts / 2, |prompt| {
        prompt + both <= rows && prompt + (max_tokens as usize) < n_ctx
    });
    Ok(Again {
        n_neutral: (prompts - own.len()).min(replay::PROMPTS.len()),
        own,
        max_tokens,
        rows,
    })
}

impl Again {
    pub fn n_prompts(&self) -> usize {
        self.own.len() + self.n_neutral
    }
}

/// Pairs that are learned from, at most, of so many prompts.
pub fn n_pairs(n_prompts: usize, west: &WestOfN) -> usize {
    (west.keep * n_prompts as f64).ceil() as usize
}

impl Material {
    /// Whether the feedback tells replies with these features apart at all; none where that cannot be asked.
    pub(super) fn evidence(&self, features: &[Vec<f32>]) -> Option<Evidence> {
        let alike = Alike::new(features);
        gate::evidence(&self.judged.opinions(), |a, b| alike.of(a, b))
    }
}

/// What the person's feedback says of other replies.
#[derive(Debug)]
pub struct Lesson {
    /// What stands beside the feedback in the training of each fold, ordered by a head that has not seen the fold, and last in that on
    /// everything.
    pub labelled: Vec<Labelled>,
    /// What orders replies by all that was said; none where that does not tell good ones from bad ones.
    pub head: Option<Head>,
}

impl Context<'_> {
    /// What a head reads of each reply that was judged.
    pub(super) fn features_of_feedback(
        &self,
        material: &Material,
        dir: &Path,
    ) -> Step<Vec<Vec<f32>>> {
        self.kept(dir, "feedback-features.json", |this| {
            this.features(material.judged.texts.clone())
        })
    }

    /// Has a head learn from the feedback, and order the base's own replies.
    pub(super) fn lesson(
        &self,
        material: &Material,
        features: Vec<Vec<f32>>,
        resolved: &Resolved,
        dir: &Path,
    ) -> Step<Lesson> {
        let judged = &material.judged;
        let everything = || judged.judged.iter().map(|(_, judged)| *judged);
        let trainings = resolved.folds as usize + 1;
        let Some(west) = &resolved.recipe.west_of_n else {
            return Ok(Lesson {
                labelled: vec![Labelled::default(); trainings],
                head: self.head(
                    &everything().collect::<Vec<_>>(),
                    &features,
                    WestOfN::default().l2,
                ),
            });
        };
        let longest = resolved.plan.max_tokens;
        let answers = self.answers_again(material, west, longest, dir)?;
        // What is usual of a feature is told by all replies, judged or not.
        let of_answers = answers.iter().flat_map(|answers| &answers.features);
        let features: Vec<Vec<f32>> = features.iter().chain(of_answers).cloned().collect();
        let without = |fold| {
            let rest = (judged.judged.iter())
                .filter(|(prompt_key, _)| fold_of(prompt_key, resolved.folds) != fold);
            rest.map(|(_, judged)| *judged).collect()
        };
        let mut heads: Vec<Option<Head>> = (0..resolved.folds)
            .map(without)
            .chain([everything().collect()])
            .map(|judged: Vec<Judged>| self.head(&judged, &features, west.l2))
            .collect();
        let sets: Vec<Vec<Place>> = heads
            .iter()
            .map(|head| {
                let head = head.as_ref();
                head.map_or_else(Vec::new, |head| ordered(west, head, &answers))
            })
            .collect();
        let weights = PairWeights {
            pair: west.weight,
            nll: west.nll,
            label_smoothing: Some(west.label_smoothing),
        };
        let pairs = self.with_references(&answers, &sets, resolved, dir)?;
        Ok(Lesson {
            labelled: pairs
                .into_iter()
                .map(|pairs| Labelled::new(&pairs, weights, longest))
                .collect(),
            head: heads.pop().flatten(),
        })
    }

    /// The base's answers to some of the feedback's own prompts and to neutral ones, those that take at most `longest` tokens with their
    /// prompt: under a tight budget memory was planned for less.
    fn answers_again(
        &self,
        material: &Material,
        west: &WestOfN,
        longest: usize,
        dir: &Path,
    ) -> Step<Vec<Answers>> {
        let again = self.again(material, west)?;
        let draws = Draws {
            replies: west.replies,
            max_tokens: again.max_tokens,
            temperature: west.temperature,
        };
        let mut answers: Vec<Answers> = self.kept(dir, "west-replies.json", |this| {
            this.answered(&again.own, draws, this.budget.seed)
        })?;
        if west.told > 0 {
            let told: Vec<Answers> = self.kept(dir, "west-told.json", |this| {
                this.told(&again.own, west.told, draws, this.budget.seed)
            })?;
            join(&mut answers, told);
        }
        let needed = &replay::PROMPTS[..again.n_neutral];
        // Whole blocks are kept, so that runs that need more or fewer share them.
        let blocks = replay::PROMPTS.chunks(BLOCK).zip(needed.chunks(BLOCK));
        for (at, (block, needed)) in blocks.enumerate() {
            let seed = NEUTRAL_SEED + at as u64;
            let mut of_block: Vec<Answers> = self.of_base("replies", &(draws, block), |this| {
                this.answered(&questions(block), draws, seed)
            })?;
            if west.told > 0 {
                let key = &(draws, west.told, replay::MANNERS, block);
                let told: Vec<Answers> = self.of_base("replies", key, |this| {
                    this.told(&questions(block), west.told, draws, seed)
                })?;
                join(&mut of_block, told);
            }
            answers.extend(of_block.into_iter().take(needed.len()));
        }
        Ok(answers.into_iter().map(|a| a.of_rows(longest)).collect())
    }

    pub(super) fn again(&self, material: &Material, west: &WestOfN) -> Step<Again> {
        let engine = &self.loaded.engine;
        Ok(again(material, west, engine.chat(), self.n_ctx())?)
    }

    fn n_ctx(&self) -> usize {
        let info = self.loaded.engine.info();
        info.n_ctx.min(info.n_ctx_train) as usize
    }

    /// The base's replies to each prompt.
    fn answered(&self, prompts: &[Vec<Message>], draws: Draws, seed: u64) -> Step<Vec<Answers>> {
        self.with_features(self.sample(&draws.samples(prompts, draws.replies, seed, STREAM))?)
    }

    /// `n` replies of the base to each prompt when it is told how to answer, as replies to the prompt alone. What leaves no room for a reply
    /// then is not asked.
    fn told(
        &self,
        prompts: &[Vec<Message>],
        n: usize,
        draws: Draws,
        seed: u64,
    ) -> Step<Vec<Answers>> {
        let chat = self.loaded.engine.chat();
        let room = self.n_ctx().saturating_sub(draws.max_tokens as usize);
        let wanted = (0..prompts.len()).flat_map(|at| repeat_n(at, n));
        let (mut asked, mut of) = (Vec::new(), Vec::new());
        for (at, manner) in wanted.zip(replay::MANNERS.iter().cycle()) {
            let is_taken = |messages: &[Message]| chat.prompt_tokens(messages).is_ok();
            let told = told(&prompts[at], manner, is_taken);
            if chat.prompt_tokens(&told)?.len() < room {
                asked.push(told);
                of.push(at);
            }
        }
        let sampled = self.sample_each(&draws.samples(&asked, 1, seed, TOLD_STREAM))?;
        let mut as_untold = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            as_untold.push(Sampled {
                prompt: chat.prompt_tokens(prompt)?,
                replies: Vec::new(),
            });
        }
        for (at, sampled) in of.into_iter().zip(sampled) {
            as_untold[at].replies.extend(sampled.replies);
        }
        self.with_features(as_untold)
    }

    fn with_features(&self, sampled: Vec<Sampled>) -> Step<Vec<Answers>> {
        let chat = self.loaded.engine.chat();
        let text = |prompt: &[i32], reply: &Reply| {
            let text = ScoreText {
                prompt: prompt.to_vec(),
                completion: reply.tokens.clone(),
            };
            whole(&text, chat)
        };
        let texts = sampled.iter().flat_map(|Sampled { prompt, replies }| {
            replies.iter().map(move |reply| text(prompt, reply))
        });
        let mut features = self.features(texts.collect())?.into_iter();
        let answers = sampled.into_iter().map(|sampled| Answers {
            features: features.by_ref().take(sampled.replies.len()).collect(),
            sampled,
        });
        Ok(answers.collect())
    }

    /// What a head reads of each text.
    fn features(&self, texts: Vec<ScoreText>) -> Step<Vec<Vec<f32>>> {
        let canceller: Canceller = self.shared.canceller();
        let mut features = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(CHUNK) {
            self.check()?;
            self.progress(Phase::Replay, features.len() as u64, texts.len() as u64);
            let (engine, of_base) = (&self.loaded.engine, With::Base);
            let chunk = chunk.to_vec();
            let embedded = engine.embed(Priority::Background, chunk, of_base, &canceller)?;
            features.extend(embedded.iter().map(Embedded::features));
        }
        Ok(features)
    }

    /// A head that has learned from these judgements; none where they tell nothing apart.
    fn head(&self, judged: &[Judged], features: &[Vec<f32>], l2: f64) -> Option<Head> {
        let template = &self.loaded.engine.info().template_hash;
        let options = HeadOptions { l2: Some(l2) };
        reward::fit(&self.loaded.sha256, template, features, judged, &options).ok()
    }

    /// Pairs with the log-probabilities of their sides under the base.
    fn with_references(
        &self,
        answers: &[Answers],
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
        let scores: Vec<f64> = self.kept(dir, "pair-references.json", |this| {
            let texts: Vec<Example> = wanted
                .iter()
                .map(|(prompt, reply)| answers[*prompt].sampled.text(*reply))
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
            let Sampled { prompt, replies } = &answers[place.prompt].sampled;
            Some(LabelledPair {
                prompt: prompt.clone(),
                chosen: replies[place.best].tokens.clone(),
                finished: replies[place.best].finished,
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

/// Adds replies to those that the same prompt has. A prompt that nothing was said to stays out.
fn join(answers: &mut [Answers], others: Vec<Answers>) {
    for other in others {
        let same = |answers: &&mut Answers| answers.sampled.prompt == other.sampled.prompt;
        if let Some(answers) = answers.iter_mut().find(same) {
            answers.sampled.replies.extend(other.sampled.replies);
            answers.features.extend(other.features);
        }
    }
}

/// The pairs of the largest margins, in the order of their prompts.
fn ordered(west: &WestOfN, head: &Head, answers: &[Answers]) -> Vec<Place> {
    let reward = |features: &Vec<f32>| head.score(features).unwrap_or_default();
    let rewards: Vec<Vec<f64>> = answers
        .iter()
        .map(|answers| answers.features.iter().map(reward).collect())
        .collect();
    let sampled: Vec<&Sampled> = answers.iter().map(|answers| &answers.sampled).collect();
    widest(&sampled, &rewards, west)
}

/// Of each prompt the best reply over the worst one; of these, the share with the largest margins.
fn widest(sampled: &[&Sampled], rewards: &[Vec<f64>], west: &WestOfN) -> Vec<Place> {
    let mut places: Vec<Place> = (sampled.iter().zip(rewards).enumerate())
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
                        repeats: prompt == 2 && reply == 1,
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
        let sampled: Vec<&Sampled> = sampled.iter().collect();
        let places = widest(&sampled, &rewards, &west);
        let found: Vec<_> = places
            .iter()
            .map(|place| (place.prompt, place.best, place.worst))
            .collect();
        assert_eq!(found, [(1, 0, 2), (3, 1, 0)]);
        let all = widest(&sampled, &rewards, &WestOfN { keep: 1.0, ..west });
        assert_eq!(all.len(), 3, "where nothing differs, nothing is better");
    }

    #[test]
    fn told_replies_join_those_of_the_same_prompt_each_with_its_features() {
        let of = |prompt: i32, replies: &[i32]| {
            let made = replies.iter().map(|reply| Reply {
                tokens: vec![*reply],
                finished: true,
                repeats: false,
            });
            Answers {
                sampled: Sampled {
                    prompt: vec![prompt],
                    replies: made.collect(),
                },
                features: replies.iter().map(|reply| vec![*reply as f32]).collect(),
            }
        };
        let mut answers = vec![of(1, &[10, 11]), of(3, &[30])];
        join(&mut answers, vec![of(1, &[12]), of(2, &[20]), of(3, &[])]);
        assert_eq!(answers, [of(1, &[10, 11, 12]), of(3, &[30])]);
    }

    #[test]
    fn a_reply_that_memory_was_not_planned_for_is_left_out_with_its_features() {
        let reply = |length| Reply {
            tokens: vec![7; length],
            finished: true,
            repeats: false,
        };
        let answers = Answers {
            sampled: Sampled {
                prompt: vec![1; 4],
                replies: vec![reply(6), reply(7), reply(1)],
            },
            features: vec![vec![0.0], vec![1.0], vec![2.0]],
        };
        let kept = answers.clone().of_rows(10);
        let lengths: Vec<usize> = kept
            .sampled
            .replies
            .iter()
            .map(|r| r.tokens.len())
            .collect();
        assert_eq!(
            (lengths, kept.features),
            (vec![6, 1], vec![vec![0.0], vec![2.0]])
        );
        assert_eq!(answers.of_rows(3).features, Vec::<Vec<f32>>::new());
    }
}
