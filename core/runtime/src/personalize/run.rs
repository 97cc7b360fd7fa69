//! The run behind a job: curate, replay, reference, folds, train, gate.
//!
//! A run keeps what it has in a folder of its own, so that a killed process continues where it was: every phase either finds its
//! result there or makes it. All of it is a function of base model, feedback, settings and seed.

mod cache_keys;
mod judging;
mod keeping;
mod online;
mod ranking;
mod sampled;
mod training;
mod watch;
mod west;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use thumbprint_ggml::llama::gpu_devices;
use thumbprint_tune::adapter::AdapterFile;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::graph::{DeviceOptions, Kernels};
use thumbprint_tune::model::Model;
use thumbprint_tune::plan::{self, Plan};
use thumbprint_tune::trainer::{TrainError, Trainer, lora_shapes};

pub use keeping::give_up_all;
use online::Round;
use ranking::comparisons;
use sampled::{Sampled, Samples};
use training::{Course, Shifts, Training, fallbacks};

use super::examples::{Tokenized, classes, questions, shorten, tokenize};
use super::recipe::{ANCHOR_WEIGHT, Amount, Recipe, replay_examples, train_config};
use super::{Budget, Online, Outcome, Phase, Shared, Wish};
use crate::curation::{Curated, Reason, curate};
use crate::engine::{EngineError, With};
use crate::error::{Error, Result};
use crate::facade::{ADAPTERS, HeadMaterial, Loaded, Thumbprint, hex};
use crate::gate::{AdapterState, replay};
use crate::store::{AdapterRow, NewAdapter, RunState};
use crate::types::{AdapterId, Feedback, FeedbackId, LoggedFeedback, RunId};

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
pub fn run(
    thumbprint: &Thumbprint,
    shared: &Shared,
    budget: Budget,
    recipe: &Recipe,
) -> Result<Outcome> {
    let started = Instant::now();
    if shared.wish() == Wish::Pause {
        return Ok(Outcome::Paused);
    }
    let loaded = thumbprint.loaded_whatever_its_adapter()?;
    let mut context = Context {
        thumbprint,
        shared,
        budget,
        recipe,
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

struct Context<'a> {
    thumbprint: &'a Thumbprint,
    shared: &'a Shared,
    budget: Budget,
    recipe: &'a Recipe,
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
    anchors: usize,
    folds: u32,
    #[serde(default)]
    recipe: Recipe,
    /// The last event that is learned from.
    until: Option<FeedbackId>,
    /// Rounds after the training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    online: Option<Online>,
}

/// What is learned from.
struct Material {
    curated: Curated,
    tokenized: Tokenized,
    log: Vec<LoggedFeedback>,
    /// What a head is fitted on.
    judged: HeadMaterial,
}

impl Material {
    /// The events that anything of a run is made of.
    fn items(&self) -> Vec<FeedbackId> {
        let of_head = self.judged.items.iter().copied();
        let items: BTreeSet<_> = self.curated.items().into_iter().chain(of_head).collect();
        items.into_iter().collect()
    }

    /// Replies that the person wrote anew. What was left as it was, or empty, says nothing of where to go.
    fn n_edits(&self) -> usize {
        let skipped = self.curated.skipped.iter();
        let void: BTreeSet<_> = skipped
            .filter(|skipped| skipped.reason != Reason::LeftOver)
            .map(|skipped| skipped.item)
            .collect();
        let is_edit = |event: &&LoggedFeedback| {
            matches!(event.feedback, Feedback::Edit(_)) && !void.contains(&event.id)
        };
        self.log.iter().filter(is_edit).count()
    }
}

impl Context<'_> {
    fn run(&mut self) -> Step<Outcome> {
        self.progress(Phase::Curate, 0, 1);
        self.finish_judged_runs()?;
        if let Some(trial) = self.undecided_trial()? {
            return Ok(Outcome::TrialRunning(trial));
        }
        let material = self.material()?;
        if !material.curated.readiness.is_ready() || material.tokenized.examples.is_empty() {
            return Ok(Outcome::NothingToLearn(material.curated.readiness));
        }
        let resolved = self.resolve(&material)?;
        let dir = self.begin(&resolved, material.items())?;
        let features = self.features_of_feedback(&material, &dir)?;
        let evidence = material.evidence(&features);
        if !self.is_telling(evidence)? {
            return Ok(Outcome::NothingToLearn(material.curated.readiness));
        }
        let replay = self.kept(&dir, "replay.json", |this| this.replay(resolved.replay))?;
        let mut beside = self.anchors(resolved.anchors)?;
        let replay = replay
            .into_iter()
            .map(|Replayed { prompt, completion }| Example {
                prompt,
                kind: Kind::Demonstration {
                    completion,
                    weight: 1.0,
                },
            });
        beside.extend(replay);
        beside.retain_mut(|example| shorten(example, resolved.plan.max_tokens));
        let references = self.references(&material, &beside, &resolved)?;
        let lesson = self.lesson(&material, features, &resolved, &dir)?;

        let course = Course {
            material: &material,
            beside: &beside,
            references: &references,
            labelled: &lesson.labelled,
            resolved: &resolved,
            dir: &dir,
        };
        let mut rankings = Vec::new();
        for fold in 0..resolved.folds {
            let name = format!("fold-{fold}.json");
            rankings.push(self.kept(&dir, &name, |this| this.fold(fold, &course))?);
        }
        let everything: Vec<usize> = (0..material.tokenized.examples.len()).collect();
        let label = Training {
            phase: Phase::Train,
            part: 0,
            parts: 1,
            name: "train",
            recorded: 0,
        };
        let trainer = self.train(&label, &everything, resolved.folds as usize, &course)?;
        let stopped = Stopped {
            steps: trainer.steps_done(),
            by_kl: trainer.stopped_by_kl(),
        };
        let (mut trainer, rounds) = self.online(trainer, &course, &rankings)?;
        let shifts = self.kept(&dir, "shifts.json", |this| {
            this.shifts(&mut trainer, &material, &references)
        })?;
        let adapter = self.record(trainer, &course, &shifts, stopped, &rounds)?;
        self.judge(adapter, &material, &rankings, lesson.head, evidence, &dir)
    }

    // ---- before training ----

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

    /// What a run that rests began with, as long as all of it still stands: what was said since is for the next run, or every
    /// thumb would make this one start over. Else the whole log.
    fn material(&self) -> Step<Material> {
        let store = self.thumbprint.store();
        for run in store.unfinished_runs()? {
            if let Ok(resolved) = serde_json::from_value::<Resolved>(run.config) {
                let material = self.curate(resolved.until)?;
                if material.items() == store.run_items(run.id)? {
                    return Ok(material);
                }
            }
        }
        self.curate(None)
    }

    /// Examples of the log, or of what had been said when `until` was the last event.
    fn curate(&self, until: Option<FeedbackId>) -> Step<Material> {
        let mut log = self.thumbprint.store().effective_feedback()?;
        log.retain(|event| until.is_none_or(|until| event.id <= until));
        let curated = curate(&log, &self.recipe.curation(self.loaded.sha256.clone()));
        let chat = self.loaded.engine.chat();
        let tokenized = tokenize(&curated.examples, chat, self.budget.max_example_tokens)?;
        Ok(Material {
            curated,
            tokenized,
            judged: HeadMaterial::of_log(&log, &self.loaded)?,
            log,
        })
    }

    fn resolve(&self, material: &Material) -> Step<Resolved> {
        let examples = &material.tokenized.examples;
        let classes = classes(examples);
        let replay = replay_examples(examples.len(), classes).min(replay::PROMPTS.len());
        let n_params = self.loaded.engine.chat().model().n_params();
        let model = Model::open(&self.loaded.path)?;
        // Where logits are capped, a distribution is not known by its mean embedding.
        let anchors = match model.spec.logit_cap {
            None if self.recipe.anchors => replay::PASSAGES.len(),
            _ => 0,
        };
        let west = self.recipe.west_of_n.as_ref();
        let again = west.map(|west| self.again(material, west)).transpose()?;
        let labelled = west.zip(again.as_ref());
        let labelled = labelled.map_or(0, |(west, again)| west::n_pairs(again.n_prompts(), west));
        let amount = Amount::of(examples)
            .and(replay + anchors)
            .and_pairs(labelled);
        let train = train_config(amount, classes, n_params, self.budget.seed);
        let train = self.recipe.trained_with(train)?;
        let rank = train.lora.rank;
        let n_lora = lora_shapes(&model)
            .iter()
            .map(|s| rank * (s.n_in + s.n_out))
            .sum();
        let threads = || std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let n_threads = self.budget.n_threads.unwrap_or_else(threads);
        let kernels = self.kernels(n_threads)?;
        let memory_mib = self.budget.memory_mib;
        let mut budget =
            plan::Budget::for_examples(examples, train.batch_size, n_threads, kernels, memory_mib);
        let longest_of_feedback = budget.longest_example;
        budget.longest_example = longest_of_feedback.max(again.map_or(0, |again| again.rows));
        let mut plan = match Plan::resolve(&model, n_lora, &budget) {
            // What is judged is learned from, if only shorter pairs of other replies fit beside it.
            Err(_) if budget.longest_example > longest_of_feedback => {
                budget.longest_example = longest_of_feedback;
                Plan::resolve(&model, n_lora, &budget)?
            }
            plan => plan?,
        };
        if self.budget.gpu || self.budget.require_gpu {
            plan = plan
                .on_device(
                    first_gpu(self.budget.require_gpu)?,
                    false,
                    &budget,
                    &model,
                    n_lora,
                )
                .map_err(|e| Error::Train(TrainError::Network(e.into())))?;
        }
        // Online rounds follow what the held-out ranking says.
        let folds =
            match comparisons(examples) >= self.recipe.folds_from || self.budget.online.is_some() {
                true => self.recipe.folds,
                false => 0,
            };
        Ok(Resolved {
            train,
            plan,
            replay,
            anchors,
            folds,
            recipe: self.recipe.clone(),
            online: self.budget.online,
            until: material.items().last().copied(),
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

    /// Plain prose on which the base's predictions are kept.
    fn anchors(&self, n: usize) -> Step<Vec<Example>> {
        let model = self.loaded.engine.chat().model();
        let anchor = |passage: &&str| -> Step<Example> {
            let tokens = model
                .tokenize(passage, true, false)
                .map_err(EngineError::from)?;
            // The first word is context: without any, there is nothing to predict from.
            let (prompt, completion) = tokens.split_at(tokens.len().min(2));
            Ok(Example {
                prompt: prompt.to_vec(),
                kind: Kind::Anchor {
                    completion: completion.to_vec(),
                    weight: ANCHOR_WEIGHT,
                },
            })
        };
        replay::PASSAGES.iter().take(n).map(anchor).collect()
    }

    /// The base's own answers to neutral prompts, in tokens.
    fn replay(&self, n: usize) -> Step<Vec<Replayed>> {
        let prompts = questions(&replay::PROMPTS[..n]);
        let sampled = self.sample(&Samples {
            phase: Phase::Replay,
            prompts: &prompts,
            n: 1,
            max_tokens: REPLAY_TOKENS,
            temperature: 1.0,
            with: With::Base,
            seed: self.budget.seed,
            stream: 0,
        })?;
        let replayed = |sampled: Sampled| {
            let first = sampled.replies.into_iter().next();
            first.map(|reply| Replayed {
                prompt: sampled.prompt,
                completion: reply.tokens,
            })
        };
        Ok(sampled.into_iter().filter_map(replayed).collect())
    }

    // ---- after training ----

    /// Writes the adapter's file and records it as a candidate.
    fn record(
        &self,
        mut trainer: Trainer,
        course: &Course<'_>,
        shifts: &Shifts,
        stopped: Stopped,
        rounds: &[Round],
    ) -> Step<AdapterRow> {
        let Material {
            curated, tokenized, ..
        } = course.material;
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
            lora: trainer.lora()?.clone(),
            architecture: trainer.network().model().spec.architecture.clone(),
            base_sha256: Some(self.loaded.sha256.clone()),
        };
        adapter.write(&path)?;
        let bytes = fs::read(&path).map_err(|source| Error::File { path, source })?;
        let id = store.insert_adapter(&NewAdapter {
            base_hash: self.loaded.sha256.clone(),
            run,
            config: serde_json::to_value(course.resolved).map_err(|e| Error::Job(e.to_string()))?,
            manifest: json!({
                "counts": curated.counts,
                "too_long": tokenized.too_long,
                "ranked_left_out": tokenized.ranked_left_out,
                "fallbacks": fallbacks(course.dir)?,
                "logp_shifts": shifts,
                "online": rounds,
                "steps": stopped.steps,
                "stopped_by_kl": stopped.by_kl,
                "template": self.loaded.engine.info().template_hash,
            }),
            items: course.material.items(),
            file,
            file_hash: hex(Sha256::digest(&bytes)),
            seed: self.budget.seed,
        })?;
        Ok(store.adapter(id)?)
    }

    // ---- what others ask for ----

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
}

/// How a training ended.
#[derive(Debug, Clone, Copy)]
struct Stopped {
    steps: u64,
    by_kl: bool,
}

/// A base's answer to a neutral prompt.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Replayed {
    prompt: Vec<i32>,
    completion: Vec<i32>,
}

/// The first GPU that this build can use; if `strict`, for all there is to compute.
fn first_gpu(strict: bool) -> Result<DeviceOptions> {
    let found = gpu_devices().into_iter().next();
    let found = found.ok_or_else(|| {
        Error::Job(
            "no GPU here: build with the feature cuda, metal or vulkan, or train on the CPU"
                .to_owned(),
        )
    })?;
    Ok(DeviceOptions {
        name: found.name,
        strict,
    })
}
