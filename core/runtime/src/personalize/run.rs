//! The run behind a job: curate, replay, reference, two folds, train, gate.
//!
//! A run keeps what it has in a folder of its own, so that a killed process continues where it was: every phase either finds its
//! result there or makes it. All of it is a function of base model, feedback, settings and seed.

mod cache_keys;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use thumbprint_tune::adapter::AdapterFile;
use thumbprint_tune::checkpoint::Checkpoint;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::durable;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::graph::Kernels;
use thumbprint_tune::model::Model;
use thumbprint_tune::plan::{self, Plan};
use thumbprint_tune::trainer::{References, TrainError, Trainer, lora_shapes};

use cache_keys::CacheKeys;
use watch::Watch;

use super::examples::{Tokenized, classes, tokenize};
use super::measure::{self, Bench};
use super::recipe::{PAIRS_PER_PROMPT, fold_steps, replay_examples, train_config};
use super::{Budget, Outcome, Phase, Shared, Wish};
use crate::curation::{self, Curated, curate, fold_of};
use crate::engine::{EngineError, GenerateOptions, Overflow, Prompt, Request, ScoreText, With};
use crate::error::{Error, Result};
use crate::facade::{ADAPTERS, Loaded, Thumbprint, hex};
use crate::gate::{
    self, AdapterState, Event, FoldResults, LengthTaste, Limits, Measurements, Offline, PairFold,
    ThumbFold, replay,
};
use crate::store::{
    AdapterRow, NewAdapter, NewDecision, NewRun, Run, RunProgress, RunState, RunStep, Store,
};
use crate::types::{AdapterId, LoggedFeedback, Message, RunId, Sampling};

/// Folds of the held-out ranking.
const FOLDS: u32 = 2;
/// Seconds of training between checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);
/// Pairs on which the shift of log-probabilities is measured.
const SHIFT_PAIRS: usize = 16;
/// Tokens of a replayed answer at most.
const REPLAY_TOKENS: u32 = 128;

/// Why a phase ended early.
enum Stop {
    Paused,
    Cancelled,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        match error.into() {
            // The model was unloaded, or another one loaded, while the run used it.
            Error::Engine(EngineError::Stopped | EngineError::Cancelled) => Self::Paused,
            error => Self::Failed(error),
        }
    }
}

type Step<T> = std::result::Result<T, Stop>;

/// Runs until the end, a pause, or a failure. In the last case the run is given up; the adapter in use stays.
pub fn run(thumbprint: &Thumbprint, shared: &Shared, budget: Budget) -> Result<Outcome> {
    let started = Instant::now();
    if shared.wish() == Wish::Pause {
        return Ok(Outcome::Paused);
    }
    let loaded = thumbprint.loaded_whatever_its_adapter()?;
    let mut context = Context {
        thumbprint,
        shared,
        budget,
        loaded,
        started,
        run: None,
    };
    let ended = match context.run() {
        Err(Stop::Paused) if shared.wish() == Wish::Cancel => Err(Stop::Cancelled),
        ended => ended,
    };
    let (state, ended) = match ended {
        Ok(outcome) => (RunState::Finished, Ok(outcome)),
        Err(Stop::Paused) => (RunState::Paused, Ok(Outcome::Paused)),
        Err(Stop::Cancelled) => (RunState::Cancelled, Ok(Outcome::Cancelled)),
        Err(Stop::Failed(error)) => (RunState::Failed, Err(error)),
    };
    // What stopped the run says more than what then kept its record from being written.
    let noted = context.end(state);
    let outcome = ended?;
    noted?;
    Ok(outcome)
}

/// Cleans up after runs that nobody works on.
pub fn give_up_all(thumbprint: &Thumbprint) -> Result<()> {
    let store = thumbprint.store();
    store
        .unfinished_runs()?
        .iter()
        .try_for_each(|run| give_up(store, run))
}

fn give_up(store: &Store, run: &Run) -> Result<()> {
    remove_folder(&store.dir().join(run_folder(run.id)))?;
    let progress = RunProgress {
        state: RunState::Cancelled,
        checkpoint: None,
        ..run.progress.clone()
    };
    Ok(store.update_run(run.id, &progress)?)
}

struct Context<'a> {
    thumbprint: &'a Thumbprint,
    shared: &'a Shared,
    budget: Budget,
    loaded: Arc<Loaded>,
    started: Instant,
    run: Option<(RunId, PathBuf)>,
}

/// What a run is made of, resolved before it begins and replayed from its record. No user text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Resolved {
    train: TrainConfig,
    plan: Plan,
    replay: usize,
    folds: u32,
}

/// What is learned from.
struct Material {
    curated: Curated,
    tokenized: Tokenized,
    log: Vec<LoggedFeedback>,
}

impl Context<'_> {
    fn run(&mut self) -> Step<Outcome> {
        self.progress(Phase::Curate, 0, 1);
        self.finish_judged_runs()?;
        if let Some(trial) = self.undecided_trial()? {
            return Ok(Outcome::TrialRunning(trial));
        }
        let material = self.curate()?;
        if !material.curated.readiness.is_ready() || material.tokenized.examples.is_empty() {
            return Ok(Outcome::NothingToLearn(material.curated.readiness));
        }
        let resolved = self.resolve(&material.tokenized.examples)?;
        let dir = self.begin(&resolved, &material.curated)?;
        let replay = self.kept(&dir, "replay.json", |this| this.replay(resolved.replay))?;
        let replay: Vec<Example> = replay
            .into_iter()
            .map(|Replayed { prompt, completion }| Example {
                prompt,
                kind: Kind::Demonstration {
                    completion,
                    weight: 1.0,
                },
            })
            .collect();
        let references = self.references(&material, &resolved)?;

        let mut rankings = Vec::new();
        for fold in 0..resolved.folds {
            let name = format!("fold-{fold}.json");
            rankings.push(self.kept(&dir, &name, |this| {
                this.fold(fold, &material, &replay, &references, &resolved, &dir)
            })?);
        }
        let everything: Vec<usize> = (0..material.tokenized.examples.len()).collect();
        let label = Training {
            phase: Phase::Train,
            part: 0,
            parts: 1,
            name: "train",
        };
        let mut trainer = self.train(
            &label,
            &everything,
            &material,
            &replay,
            &references,
            &resolved,
            &dir,
        )?;
        let shifts = self.kept(&dir, "shifts.json", |this| {
            this.shifts(&mut trainer, &material, &references)
        })?;
        let adapter = self.record(trainer, &resolved, &material.curated, &shifts)?;
        self.judge(adapter, &material, &rankings, &dir)
    }

    // ---- before training ----

    /// Cleans up after runs that were killed between their verdict and their end.
    fn finish_judged_runs(&self) -> Step<()> {
        let store = self.thumbprint.store();
        let adapters = store.adapters()?;
        for run in store.unfinished_runs()? {
            if adapters
                .iter()
                .any(|row| row.run == Some(run.id) && row.state != AdapterState::Candidate)
            {
                remove_folder(&store.dir().join(run_folder(run.id)))?;
                let progress = RunProgress {
                    state: RunState::Finished,
                    checkpoint: None,
                    ..run.progress
                };
                store.update_run(run.id, &progress)?;
            }
        }
        Ok(())
    }

    /// The active adapter, if its trial must not be disturbed.
    fn undecided_trial(&self) -> Step<Option<AdapterId>> {
        let store = self.thumbprint.store();
        let Some(active) = store.active_adapter(&self.loaded.sha256)? else {
            return Ok(None);
        };
        if active.state != AdapterState::Trial || self.budget.replace_trial {
            return Ok(None);
        }
        if !self.thumbprint.is_intact(&active) {
            // It answers nothing, so no vote will ever decide its trial.
            return Ok(None);
        }
        let verdict = self.thumbprint.adapter(active.id)?.verdict;
        Ok(verdict
            .is_some_and(|verdict| !verdict.replaceable)
            .then_some(active.id))
    }

    fn curate(&self) -> Step<Material> {
        let log = self.thumbprint.store().effective_feedback()?;
        let options = curation::Options {
            model: Some(self.loaded.sha256.clone()),
            pairs_per_prompt: PAIRS_PER_PROMPT,
            ..curation::Options::default()
        };
        let curated = curate(&log, &options);
        let chat = self.loaded.engine.chat();
        let tokenized = tokenize(&curated.examples, chat, self.budget.max_example_tokens)?;
        Ok(Material {
            curated,
            tokenized,
            log,
        })
    }

    fn resolve(&self, examples: &[Example]) -> Step<Resolved> {
        let classes = classes(examples);
        let replay = replay_examples(examples.len(), classes).min(replay::PROMPTS.len());
        let n_params = self.loaded.engine.chat().model().n_params();
        let n_all = examples.len() + replay;
        let train = train_config(n_all, classes, n_params, self.budget.seed);
        let model = Model::open(&self.loaded.path)?;
        let rank = train.lora.rank;
        let n_lora = lora_shapes(&model)
            .iter()
            .map(|s| rank * (s.n_in + s.n_out))
            .sum();
        let threads = || std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let n_threads = self.budget.n_threads.unwrap_or_else(threads);
        let budget = plan::Budget {
            memory_mib: self.budget.memory_mib,
            longest_example: examples.iter().map(Example::n_rows).max().unwrap_or(1),
            n_threads,
            kernels: self.kernels(n_threads)?,
        };
        let plan = Plan::resolve(&model.spec, model.gguf().bytes().len(), n_lora, &budget)?;
        Ok(Resolved {
            train,
            plan,
            replay,
            folds: FOLDS,
        })
    }

    /// The fastest number formats, measured once per data folder: a run must find the same ones when it goes on.
    fn kernels(&self, n_threads: usize) -> Step<Kernels> {
        let store = self.thumbprint.store();
        if let Some(kernels) = store.setting("kernels")? {
            return Ok(kernels);
        }
        let measured =
            Kernels::measure(n_threads).map_err(|e| Error::Train(TrainError::Network(e.into())))?;
        store.set_setting("kernels", &measured)?;
        Ok(measured)
    }

    /// Takes up an unfinished run of the same making, or begins one; gives up all others.
    fn begin(&mut self, resolved: &Resolved, curated: &Curated) -> Step<PathBuf> {
        let store = self.thumbprint.store();
        let config = serde_json::to_value(resolved).map_err(|e| Error::Job(e.to_string()))?;
        let items = curated.items();
        let mut taken = None;
        for run in store.unfinished_runs()? {
            let same = (&run.base_hash, &run.config, run.seed)
                == (&self.loaded.sha256, &config, self.budget.seed)
                && store.run_items(run.id)? == items;
            if same && taken.is_none() {
                taken = Some(run.id);
            } else {
                give_up(store, &run)?;
            }
        }
        let total_steps = resolved.train.max_steps as u32 * resolved.folds;
        let id = match taken {
            Some(id) => id,
            None => store.begin_run(&NewRun {
                base_hash: self.loaded.sha256.clone(),
                config,
                seed: self.budget.seed,
                items,
                total_steps,
            })?,
        };
        let dir = store.dir().join(run_folder(id));
        fs::create_dir_all(&dir).map_err(|source| Error::File {
            path: dir.clone(),
            source,
        })?;
        self.run = Some((id, dir.clone()));
        self.note(RunState::Running, Phase::Curate, 0, total_steps)?;
        Ok(dir)
    }

    /// The base's own answers to neutral prompts, in tokens.
    fn replay(&mut self, n: usize) -> Step<Vec<Replayed>> {
        let requests: Vec<_> = replay::PROMPTS
            .iter()
            .take(n)
            .enumerate()
            .map(|(i, prompt)| Request {
                prompt: Prompt::Messages(vec![Message::user(*prompt)]),
                options: GenerateOptions {
                    max_tokens: REPLAY_TOKENS,
                    sampling: Sampling {
                        seed: self.budget.seed.wrapping_mul(31).wrapping_add(i as u64),
                        ..Sampling::plain()
                    },
                    stop: Vec::new(),
                    overflow: Overflow::Error,
                },
                with: With::Base,
            })
            .collect();
        let mut replayed: Vec<Option<Replayed>> = requests.iter().map(|_| None).collect();
        let mut batch = self.loaded.engine.generate_batch(&requests, 16)?;
        let mut done = 0;
        while let Some((index, reply)) = batch.next()? {
            self.check()?;
            done += 1;
            self.progress(Phase::Replay, done, n as u64);
            let completion = reply.tokens;
            replayed[index] = Some(Replayed {
                prompt: reply.prompt_tokens,
                completion,
            });
        }
        Ok(replayed
            .into_iter()
            .flatten()
            .filter(|r| !r.completion.is_empty())
            .collect())
    }

    /// The reference's log-probabilities of every example, from the cache where it has them.
    fn references(&mut self, material: &Material, resolved: &Resolved) -> Step<Vec<References>> {
        let store = self.thumbprint.store();
        let examples = &material.tokenized.examples;
        let keys = CacheKeys::new(self, material, resolved);
        let mut found: Vec<Option<References>> = Vec::with_capacity(examples.len());
        for index in 0..examples.len() {
            let sides = keys.of(index).map(|(key, context, _)| {
                let cached = store.reference_logps(&key, &context)?;
                Ok(cached.and_then(|logps| logps.first().copied()))
            });
            found.push(sides.collect::<Result<Option<References>>>()?);
        }
        let total = examples.len() as u64;
        let missing: Vec<usize> = (0..examples.len())
            .filter(|i| found[*i].is_none())
            .collect();
        if !missing.is_empty() {
            let subset: Vec<Example> = missing.iter().map(|i| examples[*i].clone()).collect();
            let mut trainer = self.trainer(subset, resolved.train.max_steps, resolved)?;
            let mut done = total - missing.len() as u64;
            loop {
                self.progress(Phase::Reference, done, total);
                let scored = self.uninterrupted(&mut trainer, Trainer::score_references)?;
                if scored.is_empty() {
                    break;
                }
                for local in scored {
                    let index = missing[local];
                    let logps = trainer.reference(local).cloned().unwrap_or_default();
                    for ((key, context, reply), logp) in keys.of(index).zip(&logps) {
                        if let Some(reply) = reply {
                            store.put_reference_logps(reply, &key, &context, &[*logp])?;
                        }
                    }
                    found[index] = Some(logps);
                    done += 1;
                }
            }
        }
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    // ---- training ----

    /// Trains on everything outside of a fold and ranks what is inside.
    fn fold(
        &mut self,
        fold: u32,
        material: &Material,
        replay: &[Example],
        references: &[References],
        resolved: &Resolved,
        dir: &Path,
    ) -> Step<Ranking> {
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
        if rest.is_empty() || held_out.is_empty() {
            return Ok(ranking);
        }
        let name = format!("fold-{fold}");
        let label = Training {
            phase: Phase::Fold,
            part: u64::from(fold),
            parts: u64::from(resolved.folds),
            name: &name,
        };
        let mut trainer = self.train(&label, &rest, material, replay, references, resolved, dir)?;
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
                .zip(&references[*index])
                .map(|(p, r)| p - r)
                .collect();
            match &example.kind {
                Kind::Pair { .. } => ranking.pairs.push(rho[0] > rho[1]),
                Kind::Unpaired {
                    desirable: true, ..
                } => ranking.up.push(rho[0]),
                Kind::Unpaired {
                    desirable: false, ..
                } => ranking.down.push(rho[0]),
                Kind::Demonstration { .. } => {}
            }
        }
        Ok(ranking)
    }

    #[allow(clippy::too_many_arguments)]
    fn train(
        &mut self,
        label: &Training<'_>,
        indices: &[usize],
        material: &Material,
        replay: &[Example],
        references: &[References],
        resolved: &Resolved,
        dir: &Path,
    ) -> Step<Trainer> {
        let examples = indices
            .iter()
            .map(|i| material.tokenized.examples[*i].clone());
        let examples: Vec<Example> = examples.chain(replay.iter().cloned()).collect();
        let n_all = material.tokenized.examples.len() + replay.len();
        let max_steps = fold_steps(resolved.train.max_steps, examples.len(), n_all);
        let mut trainer = self.trainer(examples, max_steps, resolved)?;
        for (local, index) in indices.iter().enumerate() {
            trainer.set_reference(local, references[*index].clone());
        }
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
                        trainer.checkpoint().save(&path)?;
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
                *progress = super::Progress {
                    phase: label.phase,
                    step: done,
                    total,
                    loss: Some(step.loss),
                    margin: step.metrics.rewards_margins,
                    eta_seconds: Some(per_step * steps_left as f64),
                };
            });
            if let (Some(id), Phase::Train) = (id, label.phase) {
                let metrics = serde_json::to_value(&step).unwrap_or_default();
                let step = RunStep {
                    step: step.step as u32,
                    metrics,
                };
                self.thumbprint.store().append_run_steps(id, &[step])?;
            }
            if saved.elapsed() > CHECKPOINT_EVERY && !trainer.is_finished() {
                trainer.checkpoint().save(&path)?;
                self.note(RunState::Running, label.phase, done as u32, total as u32)?;
                saved = Instant::now();
            }
        }
        trainer.checkpoint().save(&path)?;
        Ok(trainer)
    }

    fn trainer(
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

    /// Does a piece of training work, stopping it while the user is answered and doing it again afterwards.
    fn uninterrupted<T>(
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

    // ---- after training ----

    /// How far training moved the log-probabilities of the pairs that it saw (some of them, evenly spread).
    fn shifts(
        &self,
        trainer: &mut Trainer,
        material: &Material,
        references: &[References],
    ) -> Step<Shifts> {
        let examples = &material.tokenized.examples;
        let pairs: Vec<usize> = (0..examples.len())
            .filter(|i| matches!(examples[*i].kind, Kind::Pair { .. }))
            .collect();
        let pairs: Vec<usize> = pairs
            .iter()
            .step_by(pairs.len().div_ceil(SHIFT_PAIRS).max(1))
            .copied()
            .collect();
        let subset: Vec<Example> = pairs.iter().map(|i| examples[*i].clone()).collect();
        let scores =
            self.uninterrupted(trainer, |trainer| trainer.score_examples(&subset, true))?;
        let mean = |side: usize| {
            let shifts = pairs
                .iter()
                .zip(&scores)
                .map(|(i, scores)| scores[side] - references[*i][side]);
            shifts.sum::<f64>() / pairs.len().max(1) as f64
        };
        Ok(Shifts {
            pairs: pairs.len(),
            chosen: mean(0),
            rejected: mean(1),
        })
    }

    /// Writes the adapter's file and records it as a candidate.
    fn record(
        &self,
        trainer: Trainer,
        resolved: &Resolved,
        curated: &Curated,
        shifts: &Shifts,
    ) -> Step<AdapterRow> {
        let store = self.thumbprint.store();
        let run = self.run.as_ref().map(|run| run.0);
        if let Some(row) = store
            .adapters()?
            .into_iter()
            .find(|row| run.is_some() && row.run == run)
        {
            return Ok(row);
        }
        let file = PathBuf::from(ADAPTERS).join(format!("run-{}.gguf", run.map_or(0, |run| run.0)));
        let path = store.dir().join(&file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| Error::File {
                path: parent.to_owned(),
                source,
            })?;
        }
        let adapter = AdapterFile {
            lora: trainer.lora().clone(),
            architecture: trainer.network().model().spec.architecture.clone(),
            base_sha256: Some(self.loaded.sha256.clone()),
        };
        adapter.write(&path)?;
        let bytes = fs::read(&path).map_err(|source| Error::File { path, source })?;
        let id = store.insert_adapter(&NewAdapter {
            base_hash: self.loaded.sha256.clone(),
            run,
            config: serde_json::to_value(resolved).map_err(|e| Error::Job(e.to_string()))?,
            manifest: json!({
                "counts": curated.counts,
                "logp_shifts": shifts,
                "steps": trainer.steps_done(),
                "stopped_by_kl": trainer.stopped_by_kl(),
                "template": self.loaded.engine.info().template_hash,
            }),
            items: curated.items(),
            file,
            file_hash: hex(Sha256::digest(&bytes)),
            seed: self.budget.seed,
        })?;
        Ok(store.adapter(id)?)
    }

    /// Measures the candidate, decides, and puts it on trial or rejects it.
    fn judge(
        &mut self,
        row: AdapterRow,
        material: &Material,
        rankings: &[Ranking],
        dir: &Path,
    ) -> Step<Outcome> {
        let feedback = self.feedback_texts(material);
        let canceller = self.shared.canceller();
        let loaded = Arc::clone(&self.loaded);
        let bench = Bench {
            engine: &loaded.engine,
            canceller: &canceller,
            feedback: &feedback,
        };
        self.progress(Phase::Gate, 0, 2);
        let mut measured = Measurements {
            thumbs: material.curated.readiness.have.events,
            base: self.kept(dir, "gate-base.json", |this| {
                this.engine_work(|| measure::base(&bench))
            })?,
            scales: Vec::new(),
            length_taste: length_taste(&material.tokenized.examples),
            folds: fold_results(rankings),
        };
        let limits = Limits::default();
        while let Some(scale) = gate::next_scale(&measured, &limits) {
            let done = measured.scales.len() as u64 + 1;
            self.progress(Phase::Gate, done, done + 1);
            let adapter = self
                .thumbprint
                .load_adapter(&self.loaded, &row, scale as f32)?;
            let name = format!("gate-{scale}.json");
            let at_scale = self.kept(dir, &name, |this| {
                this.engine_work(|| measure::scale(&bench, &adapter))
            })?;
            measured.scales.push(at_scale);
        }
        let report = gate::offline(&measured, &limits);
        let store = self.thumbprint.store();
        let (event, scale) = match report.outcome {
            Offline::Trial { scale } => (Event::PassedOffline, scale as f32),
            Offline::Rejected { .. } => (Event::FailedOffline, 1.0),
        };
        let state = row.state.after(event).map_err(|source| Error::State {
            adapter: row.id,
            source,
        })?;
        let numbers =
            json!({ "measured": measured, "report": report, "explanation": report.explain() });
        store.record_decision(&NewDecision {
            adapter: Some(row.id),
            run: row.run,
            kind: format!("offline: {}", state.as_str()),
            numbers,
        })?;
        let gate_report = serde_json::to_value(&report).map_err(|e| Error::Job(e.to_string()))?;
        if state == AdapterState::Rejected {
            store.set_adapter_gate(row.id, &gate_report, scale, state)?;
            return Ok(Outcome::Rejected(row.id, Box::new(report)));
        }
        let before = store.active_adapter(&self.loaded.sha256)?;
        store.set_adapter_gate(row.id, &gate_report, scale, AdapterState::Candidate)?;
        store.activate(&self.loaded.sha256, Some(row.id), Some(state), "gate")?;
        if let Some(before) = before.filter(|before| before.state == AdapterState::Trial) {
            store.set_adapter_state(before.id, AdapterState::RolledBack)?;
        }
        self.thumbprint.swap_if_loaded()?;
        Ok(Outcome::Trial(row.id, Box::new(report)))
    }

    /// Prompts of the feedback with the base's replies to them, a prompt once.
    fn feedback_texts(&self, material: &Material) -> Vec<(Vec<Message>, ScoreText)> {
        let mut seen = std::collections::HashSet::new();
        let mut texts = Vec::new();
        for (example, source) in material
            .tokenized
            .examples
            .iter()
            .zip(&material.tokenized.sources)
        {
            let curated = &material.curated.examples[*source];
            let last = example.completions().last().map(|c| c.to_vec());
            if let Some(completion) = last.filter(|_| seen.insert(curated.prompt_key)) {
                texts.push((
                    curated.prompt.clone(),
                    ScoreText {
                        prompt: example.prompt.clone(),
                        completion,
                    },
                ));
            }
        }
        texts
    }

    fn engine_work<T>(
        &self,
        work: impl FnOnce() -> std::result::Result<T, EngineError>,
    ) -> Step<T> {
        match work() {
            Err(EngineError::Cancelled) => Err(self.check().err().unwrap_or(Stop::Paused)),
            other => Ok(other?),
        }
    }

    // ---- keeping the run ----

    /// What a phase made, from the run's folder, or made now and put there.
    fn kept<T: Serialize + DeserializeOwned>(
        &mut self,
        dir: &Path,
        name: &str,
        make: impl FnOnce(&mut Self) -> Step<T>,
    ) -> Step<T> {
        let path = dir.join(name);
        if let Ok(bytes) = fs::read(&path)
            && let Ok(kept) = serde_json::from_slice(&bytes)
        {
            return Ok(kept);
        }
        let made = make(self)?;
        let bytes = serde_json::to_vec(&made).map_err(|e| Error::Job(e.to_string()))?;
        durable::replace(&path, |file| file.write_all(&bytes)).map_err(|error| Error::File {
            path: error.path,
            source: error.source,
        })?;
        Ok(made)
    }

    /// Whether to go on: wishes of the caller, and the time budget.
    fn check(&self) -> Step<()> {
        match self.shared.wish() {
            Wish::Cancel => return Err(Stop::Cancelled),
            Wish::Pause => return Err(Stop::Paused),
            Wish::Run => {}
        }
        let used = self.started.elapsed().as_secs();
        if self.budget.seconds.is_some_and(|limit| used >= limit) {
            Err(Stop::Paused)
        } else {
            Ok(())
        }
    }

    fn progress(&self, phase: Phase, step: u64, total: u64) {
        self.shared.set_progress(|progress| {
            progress.phase = phase;
            progress.step = step;
            progress.total = total;
        });
    }

    fn note(&self, state: RunState, phase: Phase, step: u32, total_steps: u32) -> Step<()> {
        let Some((id, _)) = &self.run else {
            return Ok(());
        };
        let phase = serde_json::to_value(phase)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned));
        let progress = RunProgress {
            state,
            phase: phase.unwrap_or_default(),
            step,
            total_steps,
            checkpoint: Some(run_folder(*id)),
            outcome: None,
        };
        Ok(self.thumbprint.store().update_run(*id, &progress)?)
    }

    /// Records how the run ended; unless it is to go on, its folder goes.
    fn end(&self, state: RunState) -> Result<()> {
        let Some((id, dir)) = &self.run else {
            return Ok(());
        };
        let rests = state == RunState::Paused;
        if !rests {
            remove_folder(dir)?;
        }
        let store = self.thumbprint.store();
        let before = store.run(*id)?.progress;
        let checkpoint = before.checkpoint.clone().filter(|_| rests);
        store.update_run(
            *id,
            &RunProgress {
                state,
                checkpoint,
                ..before
            },
        )?;
        Ok(())
    }
}

/// One of a run's trainings.
struct Training<'a> {
    phase: Phase,
    part: u64,
    parts: u64,
    name: &'a str,
}

/// A base's answer to a neutral prompt.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Replayed {
    prompt: Vec<i32>,
    completion: Vec<i32>,
}

/// Mean change of pairs' log-probabilities by training, nats a reply.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Shifts {
    pairs: usize,
    chosen: f64,
    rejected: f64,
}

/// How a model that never saw some examples ranks them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Ranking {
    /// Whether the chosen side of each pair gained more.
    pairs: Vec<bool>,
    /// Log-ratios of liked replies, nats.
    up: Vec<f64>,
    /// Log-ratios of disliked ones, nats.
    down: Vec<f64>,
}

fn fold_results(rankings: &[Ranking]) -> FoldResults {
    let pairs: Vec<bool> = rankings
        .iter()
        .flat_map(|r| r.pairs.iter().copied())
        .collect();
    let all = |of: fn(&Ranking) -> &Vec<f64>| -> Vec<f64> {
        rankings
            .iter()
            .flat_map(|r| of(r).iter().copied())
            .collect()
    };
    FoldResults {
        pairs: (!pairs.is_empty()).then(|| PairFold {
            correct: pairs.iter().filter(|right| **right).count(),
            total: pairs.len(),
        }),
        thumbs: ThumbFold::from_scores(&all(|r| &r.up), &all(|r| &r.down)),
    }
}

fn length_taste(examples: &[Example]) -> Option<LengthTaste> {
    let (mut pairs, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
    for example in examples {
        match &example.kind {
            Kind::Pair {
                chosen, rejected, ..
            } => pairs.push((chosen.len(), rejected.len())),
            Kind::Unpaired {
                completion,
                desirable: true,
                ..
            } => up.push(completion.len()),
            Kind::Unpaired {
                completion,
                desirable: false,
                ..
            } => down.push(completion.len()),
            Kind::Demonstration { .. } => {}
        }
    }
    if pairs.len() >= up.len().min(down.len()) {
        LengthTaste::from_pairs(&pairs)
    } else {
        LengthTaste::from_thumbs(&up, &down)
    }
}

fn load_checkpoint(path: &Path, trainer: &Trainer) -> Step<Option<Checkpoint>> {
    Ok(Checkpoint::load(path, &trainer.hashes())?)
}

/// The folder of a run, relative to the data folder.
fn run_folder(id: RunId) -> PathBuf {
    PathBuf::from("runs").join(id.to_string())
}

fn remove_folder(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
            path: dir.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
