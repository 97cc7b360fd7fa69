//! Learning from the log, in the background: a job that can be paused, resumed, cancelled and killed at any moment.

mod examples;
mod measure;
mod online;
mod recipe;
mod run;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::curation::Readiness;
use crate::engine::Canceller;
use crate::error::{Error, Result};
use crate::facade::{Thumbprint, WeakThumbprint, lock};
use crate::gate::OfflineReport;
use crate::types::AdapterId;

pub use online::Online;
pub use recipe::{GuardFile, Recipe, WestOfN};

/// What a job may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Most resident memory of training, MiB, the mapped model included; none: as much as is fastest.
    pub memory_mib: Option<usize>,
    /// The job pauses after this many seconds of work. It never shortens what is learned.
    pub seconds: Option<u64>,
    /// Threads; none: as many as there are processors.
    pub n_threads: Option<usize>,
    /// Seeds the adapter, the order of examples and what is sampled.
    pub seed: u64,
    /// Longest example that is learned from, tokens of prompt and replies together. Longer ones are left out and counted.
    pub max_example_tokens: usize,
    /// Whether a new candidate may take the place of one whose trial is undecided.
    pub replace_trial: bool,
    /// Whether to train on the first GPU of a build with a GPU feature; a job fails where there is none. A system that ends
    /// processes for using the GPU in the background wants this off there.
    pub gpu: bool,
    /// Whether to train on the GPU, and to fail rather than compute on the CPU what the GPU has no kernel for. Without it, what the CPU computed
    /// is in the adapter's manifest (`fallbacks`).
    pub require_gpu: bool,
    /// Rounds on what the new adapter thinks of its own answers; none by default.
    pub online: Option<Online>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            memory_mib: None,
            seconds: None,
            n_threads: None,
            seed: 0,
            max_example_tokens: 1024,
            replace_trial: false,
            gpu: false,
            require_gpu: false,
            online: None,
        }
    }
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reads the log and makes examples of it.
    Curate,
    /// The base answers neutral prompts and those of the feedback: what is learned from beside it.
    Replay,
    /// The base scores the examples.
    Reference,
    /// Trains on one half, to rank the other.
    Fold,
    /// Trains on everything.
    Train,
    /// Answers prompts of the feedback again, and trains on what its own reward prefers ([`Budget::online`]).
    Online,
    /// Measures whether the candidate harms.
    Gate,
    /// Over.
    Done,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Part of the phase that is done.
    pub step: u64,
    /// Parts of the phase.
    pub total: u64,
    /// Loss of the last training step.
    pub loss: Option<f64>,
    /// Mean difference of rewards between chosen and rejected in the last training step.
    pub margin: Option<f64>,
    /// Seconds until the end, estimated; none before there is anything to go by.
    pub eta_seconds: Option<f64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            phase: Phase::Curate,
            step: 0,
            total: 1,
            loss: None,
            margin: None,
            eta_seconds: None,
        }
    }
}

/// Kind of the decision ([`Store::decisions`](crate::store::Store::decisions)) that nothing be trained, since the feedback tells replies apart
/// no better than chance does. Its `numbers` have `explanation`, for people.
pub const NOTHING_TO_LEARN: &str = "offline: nothing to learn";

/// How a job ended, or why it rests.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// A new adapter is in use, unconfirmed until blind votes decide.
    Trial(AdapterId, Box<OfflineReport>),
    /// A new adapter failed the gate; what was in use before still is.
    Rejected(AdapterId, Box<OfflineReport>),
    /// The adapter in use is still on trial and must not change before its votes are in (see [`Budget::replace_trial`]).
    TrialRunning(AdapterId),
    /// The log does not say enough yet: there is too little of it, or, where it [is ready](Readiness::is_ready), what was said tells replies
    /// apart no better than chance does ([`gate::Evidence`](crate::gate::Evidence)). The last of the store's decisions has its numbers.
    NothingToLearn(Readiness),
    /// The job rests: asked for, or out of time. `personalize` or `resume` goes on.
    Paused,
    /// Given up.
    Cancelled,
}

/// A running or resting job. Clones share it.
#[derive(Clone)]
pub struct Job(Arc<Shared>);

pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The folder that it learns for; weak, since the folder's instance holds the job.
    owner: WeakThumbprint,
    /// Raised to make a training step stop within one layer.
    interrupt: Arc<AtomicBool>,
    /// Stops what the engine computes for the job.
    canceller: Mutex<Canceller>,
}

struct State {
    progress: Progress,
    budget: Budget,
    recipe: Recipe,
    wish: Wish,
    /// How often it was asked to go on.
    resumed: u64,
    /// Whether a thread works on it.
    running: bool,
    outcome: Option<std::result::Result<Outcome, String>>,
    error: Option<Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Run,
    Pause,
    Cancel,
}

impl Job {
    pub(crate) fn start(thumbprint: &Thumbprint, budget: Budget, recipe: Recipe) -> Result<Self> {
        let job = Self(Arc::new(Shared {
            state: Mutex::new(State {
                progress: Progress::default(),
                budget,
                recipe,
                wish: Wish::Run,
                resumed: 0,
                running: false,
                outcome: None,
                error: None,
            }),
            changed: Condvar::new(),
            owner: thumbprint.downgrade(),
            interrupt: Arc::new(AtomicBool::new(false)),
            canceller: Mutex::default(),
        }));
        job.spawn()?;
        Ok(job)
    }

    /// Starts a thread that goes on from what is kept of the run.
    fn spawn(&self) -> Result<()> {
        let thumbprint = self
            .0
            .owner
            .upgrade()
            .ok_or_else(|| Error::Job("its data folder was closed".to_owned()))?;
        {
            let mut state = lock(&self.0.state);
            if state.running {
                return Ok(());
            }
            state.running = true;
        }
        let shared = Arc::clone(&self.0);
        let body = move || {
            loop {
                let (budget, recipe, resumed) = {
                    let state = lock(&shared.state);
                    (state.budget, state.recipe.clone(), state.resumed)
                };
                let run = || run::run(&thumbprint, &shared, budget, &recipe);
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                let bug = || Err(Error::Job("a bug: its thread panicked".to_owned()));
                if shared.finish(ended.unwrap_or_else(|_| bug()), resumed) {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("thumbprint-personalize".to_owned())
            .spawn(body);
        thread.map(drop).map_err(|e| {
            lock(&self.0.state).running = false;
            self.0.changed.notify_all();
            Error::Job(format!("no thread: {e}"))
        })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        lock(&self.0.state).progress.clone()
    }

    /// Rests within one layer, and gives its memory back. What was learned so far is kept, also if the process ends.
    pub fn pause(&self) {
        self.0.set_wish(Wish::Pause);
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// [`Error::Job`] when no thread can be started.
    pub fn resume(&self) -> Result<()> {
        self.0.set_wish(Wish::Run);
        if self.rests() { self.spawn() } else { Ok(()) }
    }

    /// The same under another budget and recipe, if it rests; a running one keeps its own.
    pub(crate) fn resume_with(&self, budget: Budget, recipe: Recipe) -> Result<()> {
        if self.rests() {
            let mut state = lock(&self.0.state);
            (state.budget, state.recipe) = (budget, recipe);
        }
        self.resume()
    }

    fn rests(&self) -> bool {
        let state = lock(&self.0.state);
        !state.running && state.outcome.is_none()
    }

    /// Gives up and cleans up.
    pub fn cancel(&self) {
        self.0.set_wish(Wish::Cancel);
        if self.rests() {
            // A run that rests has no thread to clean up after it.
            let cleaned = self
                .0
                .owner
                .upgrade()
                .map_or(Ok(()), |thumbprint| run::give_up_all(&thumbprint));
            self.0.finish(cleaned.map(|()| Outcome::Cancelled), 0);
        }
    }

    /// Whether it is over for good.
    pub fn is_finished(&self) -> bool {
        lock(&self.0.state).outcome.is_some()
    }

    /// Waits until it is over or rests, leaving the outcome to others.
    pub(crate) fn wait_until_at_rest(&self) {
        let mut state = lock(&self.0.state);
        while state.running {
            state = self
                .0
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until it is over or rests.
    ///
    /// # Errors
    /// What it failed with, once; later calls get [`Error::Job`] with the same message.
    pub fn wait(&self) -> Result<Outcome> {
        self.wait_with(&mut |_| {})
    }

    /// The same, telling about progress whenever it changes.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_with(&self, on_progress: &mut dyn FnMut(&Progress)) -> Result<Outcome> {
        let mut last = None;
        while let Some(progress) = self.next_progress(last.as_ref()) {
            on_progress(&progress);
            last = Some(progress);
        }
        let mut state = lock(&self.0.state);
        match state.outcome.clone() {
            Some(outcome) => {
                let error = state.error.take();
                outcome.map_err(|message| error.unwrap_or(Error::Job(message)))
            }
            None => Ok(Outcome::Paused),
        }
    }

    /// Waits for progress that differs from `last`, or without one takes what there is; `None` once the job is over or rests. For
    /// loops that have to end whenever their owner likes.
    pub fn next_progress(&self, last: Option<&Progress>) -> Option<Progress> {
        let mut state = lock(&self.0.state);
        while state.running && state.outcome.is_none() {
            if last != Some(&state.progress) {
                return Some(state.progress.clone());
            }
            state = self
                .0
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

impl Shared {
    fn set_wish(&self, wish: Wish) {
        let mut state = lock(&self.state);
        // A cancelled job stays so.
        if state.wish != Wish::Cancel {
            state.wish = wish;
        }
        state.resumed += u64::from(wish == Wish::Run);
        let stop = state.wish != Wish::Run;
        self.interrupt.store(stop, Ordering::Relaxed);
        if stop {
            lock(&self.canceller).cancel();
        } else {
            *lock(&self.canceller) = Canceller::default();
        }
        self.changed.notify_all();
    }

    pub(crate) fn wish(&self) -> Wish {
        lock(&self.state).wish
    }

    pub(crate) fn interrupt_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt)
    }

    pub(crate) fn canceller(&self) -> Canceller {
        lock(&self.canceller).clone()
    }

    pub(crate) fn set_progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut lock(&self.state).progress);
        self.changed.notify_all();
    }

    /// Notes how a thread's work ended. False: it was asked to go on while it came to rest, and has to.
    fn finish(&self, ended: Result<Outcome>, resumed: u64) -> bool {
        let mut state = lock(&self.state);
        if matches!(ended, Ok(Outcome::Paused))
            && state.wish == Wish::Run
            && state.resumed > resumed
        {
            return false;
        }
        state.running = false;
        if !matches!(ended, Ok(Outcome::Paused)) {
            state.progress.phase = Phase::Done;
            state.outcome = Some(
                ended
                    .as_ref()
                    .map(Clone::clone)
                    .map_err(ToString::to_string),
            );
            state.error = ended.err();
        }
        self.changed.notify_all();
        true
    }
}
