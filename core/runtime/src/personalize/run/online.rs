//! Online rounds: the adapter answers the prompts of the feedback again, its own implicit reward says which answers are better, and
//! training goes on from there with those pairs beside the feedback.
//!
//! Rounds of a batch each, and of pairs with a large margin alone, are DNO's (arXiv 2404.03715); that DPO's implicit reward labels them,
//! less what follows from length, is DICE's (arXiv 2406.09760). A model that labels its own answers can talk itself into anything, so
//! this is off unless asked for, and every round has brakes: labels must have ranked unseen feedback right, the samples must not be
//! far from the base, margins must be large and pairs enough, and a round that makes liked replies less likely is taken back.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thumbprint_tune::adapter::AdapterFile;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::trainer::Trainer;

use super::super::{Online, Phase};
use super::ranking::{Ranking, fold_results};
use super::sampled::{Labelled, LabelledPair, Sampled, Samples, own_prompts};
use super::training::{Course, Training};
use super::{Context, Step};
use crate::engine::{AdapterSource, With};
use crate::facade::hex;

/// What one round came to. No user text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// From 1.
    round: u32,
    /// Replies sampled.
    samples: usize,
    /// Divergence of the samples from the base, nats per token: mean of the adapter's log-probability minus the base's.
    kl: Option<f64>,
    /// Pairs that were labelled.
    pairs: usize,
    /// Their mean margin, beta times nats.
    margin: Option<f64>,
    /// Steps taken.
    steps: u64,
    /// By how much the liked replies of the feedback gained in the round, nats a reply.
    liked_gained: Option<f64>,
    /// Why there was no further round, if it was not the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
}

/// Which brake ended the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Unseen feedback was not ranked right, or there was too little of it to tell.
    UnreliableLabels,
    /// The samples are too far from the base.
    TooFar,
    /// Too few pairs with a margin.
    TooFewPairs,
    /// Liked replies became less likely; the round was taken back.
    Displaced,
}

/// Log-probabilities of a reply under adapter and base, nats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Scored {
    policy: f64,
    base: f64,
}

impl Context<'_> {
    /// Takes the rounds that the run was resolved to, and says what came of each.
    pub(super) fn online(
        &self,
        mut trainer: Trainer,
        course: &Course<'_>,
        rankings: &[Ranking],
    ) -> Step<(Trainer, Vec<Round>)> {
        let Some(online) = &course.resolved.online else {
            return Ok((trainer, Vec::new()));
        };
        let mut rounds = Vec::new();
        let reliable = fold_results(rankings).is_some_and(|folds| {
            folds.p_value <= online.max_p_value && folds.share >= online.min_share
        });
        if !reliable {
            rounds.push(Round::ended(1, Ended::UnreliableLabels));
            return Ok((trainer, rounds));
        }
        for round in 1..=online.rounds {
            let sampled = self.kept(course.dir, &format!("online-{round}.json"), |this| {
                this.answers(&mut trainer, course, online, round)
            })?;
            let name = format!("online-{round}-scores.json");
            let scored = self.kept(course.dir, &name, |this| {
                this.score_samples(&mut trainer, &sampled)
            })?;
            let beta = course.resolved.train.pair.beta;
            let labelled = label(&sampled, &scored, beta, online);
            let mut report = labelled.report(round, &sampled);
            let brake = match () {
                () if labelled.kl.is_some_and(|kl| kl > online.max_kl) => Some(Ended::TooFar),
                () if labelled.pairs.len() < online.min_pairs => Some(Ended::TooFewPairs),
                () => None,
            };
            if brake.is_some() {
                report.ended = brake;
                rounds.push(report);
                break;
            }
            let before = self.liked(&mut trainer, course)?;
            let kept = trainer.checkpoint()?;
            trainer = self.train_round(trainer, course, &labelled, online, round)?;
            report.steps = trainer.steps_done();
            let gained = self.liked(&mut trainer, course)? - before;
            report.liked_gained = Some(gained);
            if gained < -online.max_displacement {
                trainer.resume(kept)?;
                report.ended = Some(Ended::Displaced);
                rounds.push(report);
                break;
            }
            rounds.push(report);
        }
        Ok((trainer, rounds))
    }

    /// The adapter's answers to prompts of the feedback, at temperature 1.
    fn answers(
        &self,
        trainer: &mut Trainer,
        course: &Course<'_>,
        online: &Online,
        round: u32,
    ) -> Step<Vec<Sampled>> {
        let (material, resolved) = (course.material, course.resolved);
        let prompts = own_prompts(material, online.prompts, |prompt| {
            (resolved.plan.max_tokens + 1).saturating_sub(prompt) > 2 * online.max_tokens as usize
        });
        let adapter = AdapterFile {
            lora: trainer.lora()?.clone(),
            architecture: trainer.network().model().spec.architecture.clone(),
            base_sha256: Some(self.loaded.sha256.clone()),
        };
        let source = AdapterSource::Bytes(adapter.to_bytes()?);
        let adapter = self
            .loaded
            .engine
            .load_adapter(source, format!("online {round}"), 1.0)?;
        self.sample(&Samples {
            phase: Phase::Online,
            prompts: &prompts,
            n: online.samples,
            max_tokens: online.max_tokens,
            temperature: 1.0,
            with: With::Adapter(adapter),
            seed: self.budget.seed,
            stream: u64::from(round),
        })
    }

    fn score_samples(&self, trainer: &mut Trainer, sampled: &[Sampled]) -> Step<Vec<Vec<Scored>>> {
        let examples: Vec<Example> = sampled
            .iter()
            .flat_map(|sampled| (0..sampled.replies.len()).map(|at| sampled.text(at)))
            .collect();
        let score = |trainer: &mut Trainer, with| {
            self.uninterrupted(trainer, |trainer| trainer.score_examples(&examples, with))
        };
        let (policy, base) = (score(trainer, true)?, score(trainer, false)?);
        let mut both = policy.iter().flatten().zip(base.iter().flatten());
        let mut of = |sampled: &Sampled| {
            let scores = both.by_ref().take(sampled.replies.len());
            scores
                .map(|(policy, base)| Scored {
                    policy: *policy,
                    base: *base,
                })
                .collect()
        };
        Ok(sampled.iter().map(&mut of).collect())
    }

    /// Goes on from the adapter as it stands, on the feedback, what stands beside it, and the labelled pairs.
    fn train_round(
        &self,
        mut trainer: Trainer,
        course: &Course<'_>,
        labels: &Labels,
        online: &Online,
        round: u32,
    ) -> Step<Trainer> {
        let lora = trainer.lora()?.clone();
        // Its memory first: two networks would take twice as much.
        drop(trainer);
        let material = &course.material.tokenized.examples;
        let mut examples: Vec<Example> = material.iter().chain(course.beside).cloned().collect();
        let mut references = course.references.to_vec();
        let weights = PairWeights {
            pair: online.weight,
            // Nobody said that it is good in itself.
            nll: 0.0,
            label_smoothing: Some(online.label_smoothing),
        };
        let longest = course.resolved.plan.max_tokens;
        let labelled = Labelled::new(&labels.pairs, weights, longest);
        examples.extend(labelled.examples);
        references.extend(labelled.references);
        let train = &course.resolved.train;
        let config = TrainConfig {
            max_steps: (train.max_steps / online.part_of_steps).max(1),
            learning_rate: train.learning_rate * online.learning_rate_factor,
            ..train.clone()
        };
        // A checkpoint belongs to this start alone.
        let bytes: Vec<u8> = lora.values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let started_from = format!(
            "{} online {round} from {}",
            self.loaded.sha256,
            hex(Sha256::digest(&bytes))
        );
        let rounds = u64::from(online.rounds);
        let name = format!("online-{round}");
        let label = Training {
            phase: Phase::Online,
            part: u64::from(round) - 1,
            parts: rounds,
            name: &name,
            recorded: train.max_steps + (u64::from(round) - 1) * config.max_steps,
        };
        let trainer = self.trainer_from(examples, config, course.resolved, started_from, lora)?;
        self.run_training(&label, trainer, &references, course)
    }

    /// Mean log-ratio of the better sides of the feedback, nats.
    fn liked(&self, trainer: &mut Trainer, course: &Course<'_>) -> Step<f64> {
        let all = &course.material.tokenized.examples;
        let is_liked = |i: &usize| match &all[*i].kind {
            Kind::Pair { .. } | Kind::Ranking { .. } => true,
            Kind::Unpaired { desirable, .. } => *desirable,
            Kind::Demonstration { .. } | Kind::Anchor { .. } => false,
        };
        let liked: Vec<usize> = (0..all.len()).filter(is_liked).collect();
        let texts: Vec<Example> = liked
            .iter()
            .map(|i| Example {
                prompt: all[*i].prompt.clone(),
                kind: Kind::Demonstration {
                    completion: all[*i].completions()[0].to_vec(),
                    weight: 1.0,
                },
            })
            .collect();
        let scores = self.uninterrupted(trainer, |trainer| trainer.score_examples(&texts, true))?;
        let gained = liked
            .iter()
            .zip(&scores)
            .filter_map(|(i, scores)| Some(scores.first()? - course.references[*i].logps.first()?));
        Ok(gained.sum::<f64>() / liked.len().max(1) as f64)
    }
}

impl Round {
    fn ended(round: u32, why: Ended) -> Self {
        Self {
            round,
            samples: 0,
            kl: None,
            pairs: 0,
            margin: None,
            steps: 0,
            liked_gained: None,
            ended: Some(why),
        }
    }
}

/// What a round goes on with.
#[derive(Debug, Clone, PartialEq)]
struct Labels {
    /// Nats per token; none without samples.
    kl: Option<f64>,
    pairs: Vec<LabelledPair>,
}

impl Labels {
    fn report(&self, round: u32, sampled: &[Sampled]) -> Round {
        let margins: f64 = self.pairs.iter().map(|pair| pair.margin).sum();
        let n = self.pairs.len();
        Round {
            round,
            samples: sampled.iter().map(|sampled| sampled.replies.len()).sum(),
            kl: self.kl,
            pairs: n,
            margin: (n > 0).then(|| margins / n as f64),
            steps: 0,
            liked_gained: None,
            ended: None,
        }
    }
}

/// Of each prompt's replies the one of the largest reward over the one of the smallest, where they are far enough apart: `beta rho` less its
/// regression on length within prompts, so that no round makes replies longer or shorter as such. A reply that was cut off wins nothing.
fn label(sampled: &[Sampled], scored: &[Vec<Scored>], beta: f64, online: &Online) -> Labels {
    let all = || {
        sampled
            .iter()
            .zip(scored)
            .map(|(sampled, scored)| sampled.replies.iter().zip(scored))
    };
    let tokens: usize = all().flatten().map(|(reply, _)| reply.tokens.len()).sum();
    let rho: f64 = all()
        .flatten()
        .map(|(_, scored)| scored.policy - scored.base)
        .sum();
    let (mut products, mut squares) = (0.0, 0.0);
    for replies in all() {
        let n = replies.len() as f64;
        let points: Vec<(f64, f64)> = replies
            .map(|(reply, scored)| {
                (
                    reply.tokens.len() as f64,
                    beta * (scored.policy - scored.base),
                )
            })
            .collect();
        let mean_length = points.iter().map(|(length, _)| length).sum::<f64>() / n;
        for (length, reward) in points {
            products += (length - mean_length) * reward;
            squares += (length - mean_length).powi(2);
        }
    }
    let slope = if squares > 0.0 {
        products / squares
    } else {
        0.0
    };
    let mut pairs = Vec::new();
    for (sampled, scored) in sampled.iter().zip(scored) {
        let reward = |i: usize| {
            let of_length = slope * sampled.replies[i].tokens.len() as f64;
            beta * (scored[i].policy - scored[i].base) - of_length
        };
        let Some((best, worst, margin)) = sampled.extremes(reward) else {
            continue;
        };
        if margin >= online.min_margin {
            pairs.push(LabelledPair {
                prompt: sampled.prompt.clone(),
                chosen: sampled.replies[best].tokens.clone(),
                finished: sampled.replies[best].finished,
                rejected: sampled.replies[worst].tokens.clone(),
                base: [scored[best].base, scored[worst].base],
                margin,
            });
        }
    }
    Labels {
        kl: (tokens > 0).then(|| rho / tokens as f64),
        pairs,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sampled::Reply;
    use super::*;

    fn reply(length: usize) -> Reply {
        Reply {
            tokens: (0..length as i32).collect(),
            finished: true,
            repeats: false,
        }
    }

    fn scored(rho: f64) -> Scored {
        Scored {
            policy: rho - 20.0,
            base: -20.0,
        }
    }

    fn online() -> Online {
        Online::rounds(1).unwrap()
    }

    #[test]
    fn the_best_reply_wins_over_the_worst_where_the_margin_is_large() {
        let prompts = [1, 2].map(|prompt| Sampled {
            prompt: vec![prompt],
            replies: [5, 6, 7].map(reply).to_vec(),
        });
        // Lengths and rewards do not go together.
        let rewards = [[20.0, -20.0, 20.0], [1.0, 0.0, 1.0]];
        let scores: Vec<Vec<Scored>> = rewards
            .iter()
            .map(|rewards| rewards.iter().map(|rho| scored(*rho)).collect())
            .collect();
        let labelled = label(&prompts, &scores, 0.1, &online());
        let lengths: Vec<_> = labelled
            .pairs
            .iter()
            .map(|pair| (pair.prompt[0], pair.chosen.len(), pair.rejected.len()))
            .collect();
        assert_eq!(lengths, [(1, 5, 6)]);
        assert!((labelled.pairs[0].margin - 4.0).abs() < 1e-9);
        assert_eq!(labelled.pairs[0].base, [-20.0, -20.0]);
        let kl = (20.0 + 2.0) / 36.0;
        assert!((labelled.kl.unwrap() - kl).abs() < 1e-12);
        assert_eq!(label(&[], &[], 0.1, &online()).kl, None);
    }

    #[test]
    fn what_follows_from_length_is_no_reward() {
        let lengths = [10, 20, 30, 40];
        let prompt = |i: i32| Sampled {
            prompt: vec![i],
            replies: lengths.iter().map(|n| reply(*n)).collect(),
        };
        let prompts: Vec<_> = (0..6).map(prompt).collect();
        // A nat for each token, and for one reply more than that.
        let of_length = |extra: f64| -> Vec<Scored> {
            let rewards = lengths.iter().map(|n| *n as f64);
            let extra = [0.0, extra, 0.0, 0.0];
            rewards.zip(extra).map(|(r, e)| scored(r + e)).collect()
        };
        let scores: Vec<_> = (0..6).map(|_| of_length(0.0)).collect();
        assert_eq!(label(&prompts, &scores, 0.1, &online()).pairs, []);
        let mut scores = scores;
        scores[3] = of_length(30.0);
        let labelled = label(&prompts, &scores, 0.1, &online());
        let [pair] = labelled.pairs.as_slice() else {
            panic!("{labelled:?}")
        };
        assert_eq!((pair.prompt[0], pair.chosen.len()), (3, 20));
    }
}
