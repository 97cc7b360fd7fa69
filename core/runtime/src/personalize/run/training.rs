//! The trainings of a run: references once, then a training for each fold and one on everything.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thumbprint_tune::adapter::Lora;
use thumbprint_tune::checkpoint::Checkpoint;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::durable;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::model::Model;
use thumbprint_tune::objective::RankingWeights;
use thumbprint_tune::trainer::{Reference, TrainError, Trainer};

use super::super::recipe::fold_steps;
use super::super::{Phase, Progress};
use super::cache_keys::{CacheKeys, Side};
use super::ranking::Ranking;
use super::sampled::Labelled;
use super::watch::Watch;
use super::{Context, Material, Resolved, Step, Stop};
use crate::curation::fold_of;
use crate::error::{Error, Result};
use crate::store::{RunState, RunStep};

/// Seconds of training between checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);
/// Pairs on which the shift of log-probabilities is measured.
const SHIFT_PAIRS: usize = 8;

/// What the trainings of a run share.
pub struct Course<'a> {
    pub material: &'a Material,
    /// What is trained on beside the feedback, so that nothing else changes.
    pub beside: &'a [Example],
    /// What the reference says of each of the material's examples, and then of those beside.
    pub references: &'a [Reference],
    /// What the training of each fold, and last that on everything, is given of the base's own replies.
    pub labelled: &'a [Labelled],
    pub resolved: &'a Resolved,
    /// Where checkpoints are kept.
    pub dir: &'a Path,
}

impl Context<'_> {
    /// What the reference says of every example of the material, from the cache where it has it, and then of those beside. A reply that is
    /// in several pairs is scored once.
    pub(super) fn references(
        &self,
        material: &Material,
        beside: &[Example],
        resolved: &Resolved,
    ) -> Step<Vec<Reference>> {
        let store = self.thumbprint.store();
        let of_material = &material.tokenized.examples;
        let keys = CacheKeys::new(self, material, resolved);
        let mut known = HashMap::new();
        let mut missing = Vec::new();
        for (index, example) in of_material.iter().enumerate() {
            let mut unknown = Vec::new();
            for (completion, side) in example.completions().into_iter().zip(keys.of(index)) {
                if known.contains_key(&side.context) {
                    continue;
                }
                let cached = store.reference_logps(&side.key, &side.context)?;
                let logp = cached.and_then(|logps| logps.first().copied());
                known.insert(side.context.clone(), logp);
                if logp.is_none() {
                    unknown.push((completion.to_vec(), side));
                }
            }
            let kind = match unknown.as_slice() {
                [] => continue,
                [(completion, _)] => Kind::Unpaired {
                    completion: completion.clone(),
                    desirable: true,
                    weight: 1.0,
                },
                several if several.len() < example.completions().len() => Kind::Ranking {
                    completions: several.iter().map(|(c, _)| c.clone()).collect(),
                    weights: RankingWeights::default(),
                },
                _ => example.kind.clone(),
            };
            let prompt = example.prompt.clone();
            let sides = unknown.into_iter().map(|(_, side)| side).collect();
            missing.push((Example { prompt, kind }, sides));
        }
        missing.extend(beside.iter().map(|example| (example.clone(), Vec::new())));
        let (subset, sides): (Vec<Example>, Vec<Vec<Side>>) = missing.into_iter().unzip();
        let total = subset.len() as u64;
        let mut scored_beside = Vec::new();
        if !subset.is_empty() {
            let mut trainer = self.trainer(subset, resolved.train.max_steps, resolved)?;
            let mut done = 0;
            loop {
                self.progress(Phase::Reference, done, total);
                let scored = self.uninterrupted(&mut trainer, Trainer::score_references)?;
                if scored.is_empty() {
                    break;
                }
                done += scored.len() as u64;
                for local in scored {
                    let logps = trainer.reference(local).map(|r| r.logps.as_slice());
                    for (side, logp) in sides[local].iter().zip(logps.unwrap_or_default()) {
                        if let Some(reply) = side.reply {
                            store.put_reference_logps(reply, &side.key, &side.context, &[*logp])?;
                        }
                        known.insert(side.context.clone(), Some(*logp));
                    }
                }
            }
            let first_beside = sides.len() - beside.len();
            scored_beside.extend(
                (first_beside..sides.len())
                    .map(|local| trainer.reference(local).cloned().unwrap_or_default()),
            );
        }
        let of_example = |index| Reference {
            logps: keys
                .of(index)
                .filter_map(|side| known.get(&side.context).copied().flatten())
                .collect(),
            ..Reference::default()
        };
        Ok((0..of_material.len())
            .map(of_example)
            .chain(scored_beside)
            .collect())
    }

    /// Trains on everything outside of a fold and ranks what is inside.
    pub(super) fn fold(&self, fold: u32, course: &Course<'_>) -> Step<Ranking> {
        let Course {
            material,
            references,
            resolved,
            ..
        } = course;
        let inside = |index: &usize| {
            let source = material.tokenized.sources[*index];
            fold_of(
                &material.curated.examples[source].prompt_key,
                resolved.folds,
            ) == fold
        };
        let (held_out, rest): (Vec<usize>, Vec<usize>) =
            (0..material.tokenized.examples.len()).partition(inside);
        let mut ranking = Ranking::default();
        let ranked = |index: &usize| {
            let kind = &material.tokenized.examples[*index].kind;
            matches!(kind, Kind::Pair { .. } | Kind::Unpaired { .. })
        };
        // Demonstrations rank nothing.
        if rest.is_empty() || !held_out.iter().any(ranked) {
            return Ok(ranking);
        }
        let name = format!("fold-{fold}");
        let label = Training {
            phase: Phase::Fold,
            part: u64::from(fold),
            parts: u64::from(resolved.folds),
            name: &name,
            recorded: 0,
        };
        let mut trainer = self.train(&label, &rest, fold as usize, course)?;
        let examples: Vec<Example> = held_out
            .iter()
            .map(|i| material.tokenized.examples[*i].clone())
            .collect();
        let scores = self.uninterrupted(&mut trainer, |trainer| {
            trainer.score_examples(&examples, true)
        })?;
        for ((index, example), scores) in held_out.iter().zip(&examples).zip(scores) {
            let rho: Vec<f64> = scores
                .iter()
                .zip(&references[*index].logps)
                .map(|(p, r)| p - r)
                .collect();
            ranking.push(example, &rho);
        }
        Ok(ranking)
    }

    /// Trains on some of the feedback, and on what of [`Course::labelled`] is meant for this training.
    pub(super) fn train(
        &self,
        label: &Training<'_>,
        indices: &[usize],
        training: usize,
        course: &Course<'_>,
    ) -> Step<Trainer> {
        let Course {
            material,
            beside,
            references,
            labelled,
            resolved,
            ..
        } = course;
        let labelled = &labelled[training];
        let examples = indices
            .iter()
            .map(|i| material.tokenized.examples[*i].clone());
        let examples: Vec<Example> = examples
            .chain(beside.iter().cloned())
            .chain(labelled.examples.iter().cloned())
            .collect();
        let n_all = material.tokenized.examples.len() + beside.len();
        let of_beside = material.tokenized.examples.len()..n_all;
        let n_all = n_all + labelled.examples.len();
        let max_steps = fold_steps(resolved.train.max_steps, examples.len(), n_all);
        let trainer = self.trainer(examples, max_steps, resolved)?;
        let references: Vec<Reference> = indices
            .iter()
            .copied()
            .chain(of_beside)
            .map(|index| references[index].clone())
            .chain(labelled.references.iter().cloned())
            .collect();
        self.run_training(label, trainer, &references, course)
    }

    /// Takes all steps of a training, from its checkpoint on if there is one; `references` are those of its examples.
    pub(super) fn run_training(
        &self,
        label: &Training<'_>,
        mut trainer: Trainer,
        references: &[Reference],
        course: &Course<'_>,
    ) -> Step<Trainer> {
        let Course { resolved, dir, .. } = course;
        for (local, reference) in references.iter().enumerate() {
            trainer.set_reference(local, reference.clone());
        }
        let max_steps = trainer.max_steps();
        let path = dir.join(format!("{}.checkpoint", label.name));
        if let Some(checkpoint) = load_checkpoint(&path, &trainer)? {
            trainer.resume(checkpoint)?;
        }
        let id = self.run.as_ref().map(|run| run.0);
        let total = max_steps * label.parts;
        let mut saved = Instant::now();
        let (began, first) = (Instant::now(), trainer.steps_done());
        while !trainer.is_finished() {
            let step = match self.uninterrupted(&mut trainer, Trainer::step) {
                Ok(step) => step,
                Err(stop) => {
                    if matches!(stop, Stop::Paused) {
                        trainer.checkpoint()?.save(&path)?;
                    }
                    return Err(stop);
                }
            };
            let done = label.part * max_steps + step.step;
            let per_step = began.elapsed().as_secs_f64() / (step.step - first) as f64;
            // What is left of this training, and of the ones after it.
            let trainings_left = match label.phase {
                Phase::Fold => label.parts - label.part,
                _ => 0,
            };
            let steps_left = max_steps - step.step + trainings_left * resolved.train.max_steps;
            self.shared.set_progress(|progress| {
                *progress = Progress {
                    phase: label.phase,
                    step: done,
                    total,
                    loss: Some(step.loss),
                    margin: step.metrics.rewards_margins,
                    eta_seconds: Some(per_step * steps_left as f64),
                };
            });
            if let (Some(id), Phase::Train | Phase::Online) = (id, label.phase) {
                let metrics = serde_json::to_value(&step).unwrap_or_default();
                let step = RunStep {
                    step: (label.recorded + step.step) as u32,
                    metrics,
                };
                self.thumbprint.store().append_run_steps(id, &[step])?;
            }
            if saved.elapsed() > CHECKPOINT_EVERY && !trainer.is_finished() {
                trainer.checkpoint()?.save(&path)?;
                self.note(RunState::Running, label.phase, done as u32, total as u32)?;
                saved = Instant::now();
            }
        }
        // Before the checkpoint that ends the training: a run that is taken up after it computes nothing that could fall back.
        note_fallbacks(dir, trainer.network().fallbacks())?;
        trainer.checkpoint()?.save(&path)?;
        Ok(trainer)
    }

    pub(super) fn trainer(
        &self,
        examples: Vec<Example>,
        max_steps: u64,
        resolved: &Resolved,
    ) -> Step<Trainer> {
        let model = Model::open(&self.loaded.path)?;
        let base = self.loaded.sha256.clone();
        let config = TrainConfig {
            max_steps,
            ..resolved.train.clone()
        };
        Ok(Trainer::new(
            model,
            base,
            examples,
            config,
            resolved.plan.clone(),
        )?)
    }

    /// The same going on from an adapter; `started_from` is what its checkpoints call the start.
    pub(super) fn trainer_from(
        &self,
        examples: Vec<Example>,
        config: TrainConfig,
        resolved: &Resolved,
        started_from: String,
        lora: Lora,
    ) -> Step<Trainer> {
        let model = Model::open(&self.loaded.path)?;
        let plan = resolved.plan.clone();
        Ok(Trainer::with_adapter(
            model,
            started_from,
            examples,
            config,
            plan,
            lora,
        )?)
    }

    /// Does a piece of training work, stopping it while the user is answered and doing it again afterwards.
    pub(super) fn uninterrupted<T>(
        &self,
        trainer: &mut Trainer,
        mut work: impl FnMut(&mut Trainer) -> std::result::Result<T, TrainError>,
    ) -> Step<T> {
        let watch = Watch::start(self.thumbprint, self.shared, trainer.abort_flag());
        loop {
            self.check()?;
            if watch.user_waits() {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            match work(trainer) {
                Err(error) if error.is_aborted() => {}
                other => return Ok(other?),
            }
        }
    }

    /// How far training moved the log-probabilities of the pairs that it saw (some of them, evenly spread); of a ranking, those of the
    /// best and the last.
    pub(super) fn shifts(
        &self,
        trainer: &mut Trainer,
        material: &Material,
        references: &[Reference],
    ) -> Step<Shifts> {
        let examples = &material.tokenized.examples;
        let pairs: Vec<usize> = (0..examples.len())
            .filter(|i| matches!(examples[*i].kind, Kind::Pair { .. } | Kind::Ranking { .. }))
            .collect();
        let pairs: Vec<usize> = pairs
            .iter()
            .step_by(pairs.len().div_ceil(SHIFT_PAIRS).max(1))
            .copied()
            .collect();
        let subset: Vec<Example> = pairs.iter().map(|i| examples[*i].clone()).collect();
        let scores =
            self.uninterrupted(trainer, |trainer| trainer.score_examples(&subset, true))?;
        let mean = |side: fn(&[f64]) -> f64| {
            let shifts = pairs
                .iter()
                .zip(&scores)
                .map(|(i, scores)| side(scores) - side(&references[*i].logps));
            shifts.sum::<f64>() / pairs.len().max(1) as f64
        };
        Ok(Shifts {
            pairs: pairs.len(),
            chosen: mean(|logps| logps.first().copied().unwrap_or(0.0)),
            rejected: mean(|logps| logps.last().copied().unwrap_or(0.0)),
        })
    }
}

/// One of a run's trainings.
pub struct Training<'a> {
    pub phase: Phase,
    /// Which of its phase's.
    pub part: u64,
    pub parts: u64,
    pub name: &'a str,
    /// Steps of earlier trainings in the run's record.
    pub recorded: u64,
}

/// Mean change of pairs' log-probabilities by training, nats a reply.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Shifts {
    pairs: usize,
    chosen: f64,
    rejected: f64,
}

/// Operations that the CPU computed so far in a run because its device has no kernel for them, by ggml's names.
pub fn fallbacks(dir: &Path) -> Result<BTreeSet<String>> {
    let path = dir.join("fallbacks.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::Job(e.to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(source) => Err(Error::File { path, source }),
    }
}

fn note_fallbacks(dir: &Path, more: Vec<String>) -> Result<()> {
    let mut all = fallbacks(dir)?;
    let n_known = all.len();
    all.extend(more);
    if all.len() == n_known {
        return Ok(());
    }
    let bytes = serde_json::to_vec(&all).map_err(|e| Error::Job(e.to_string()))?;
    Ok(durable::replace(&dir.join("fallbacks.json"), |file| {
        file.write_all(&bytes)
    })?)
}

fn load_checkpoint(path: &Path, trainer: &Trainer) -> Step<Option<Checkpoint>> {
    Ok(Checkpoint::load(path, &trainer.hashes())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_fell_back_in_any_training_of_a_run_is_kept_and_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let noted = |more: &[&str]| {
            note_fallbacks(dir.path(), more.iter().map(ToString::to_string).collect()).unwrap();
            Vec::from_iter(fallbacks(dir.path()).unwrap())
        };
        assert!(noted(&[]).is_empty());
        assert_eq!(noted(&["CUSTOM", "ADD"]), ["ADD", "CUSTOM"]);
        assert_eq!(noted(&[]), ["ADD", "CUSTOM"]);
        assert_eq!(noted(&["CUSTOM", "ROPE"]), ["ADD", "CUSTOM", "ROPE"]);
        fs::write(dir.path().join("fallbacks.json"), "[").unwrap();
        assert!(fallbacks(dir.path()).is_err());
    }
}
