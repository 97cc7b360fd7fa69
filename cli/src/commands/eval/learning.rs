//! Cells that learn, and those that use the adapter of one that did.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thumbprint::engine::{AdapterSource, ScoreText, With};
use thumbprint::gate::AdapterState;
use thumbprint::{
    AdapterDetails, AdapterFormat, Budget, By, Feedback, Outcome, Part, Phase, Recipe, ReplyId,
    Thumbprint,
};
use thumbprint_simulated_user::{Act, Course, Event, lesson};

use super::cells::{ANSWERS, Bench, Record, Shared, TEACHING, work_folder};
use super::drawn::Drawn;
use super::plan::{Cell, How, Training};
use crate::error::{CliError, Result};
use crate::files::{forget_peak_memory, resident_memory_mib};
use crate::session;
use crate::simulation::{Measured, gate_numbers, learn, measured};

/// How often the time that a cell took is noted.
const TICK: Duration = Duration::from_secs(5);

/// State of a cell in which nothing was trained.
pub const NOTHING: &str = "nothing_to_learn";

/// How a cell learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    pub up: usize,
    pub down: usize,
    pub edits: usize,
    pub scale: f32,
    pub ppl_ratio: Option<f64>,
    pub kl: Option<f64>,
    pub kl_own_samples: Option<f64>,
    /// How often chance may pass the held-out ranking; none where there was too little to compare.
    #[serde(default)]
    pub level: Option<f64>,
    /// Of learning alone, with the gate.
    pub seconds: f64,
    /// The same by what was done.
    #[serde(default)]
    pub phases: Phases,
    pub peak_rss_mib: Option<f64>,
    /// The gate's decision in words.
    pub explanation: String,
}

/// Seconds by what was done in them.
pub type Phases = BTreeMap<Phase, f64>;

/// Adds up the time that phases take.
struct Clock {
    phases: Phases,
    since: Instant,
    phase: Phase,
}

impl Clock {
    fn new(phases: Phases) -> Self {
        Self {
            phases,
            since: Instant::now(),
            phase: Phase::Curate,
        }
    }

    /// What is done from now on.
    fn is_in(&mut self, phase: Phase) {
        let now = Instant::now();
        *self.phases.entry(self.phase).or_default() += (now - self.since).as_secs_f64();
        (self.since, self.phase) = (now, phase);
    }
}

/// What remains of a cell that learned for those that use its adapter.
#[derive(Debug, Serialize, Deserialize)]
struct Taught {
    key: String,
    events: usize,
}

impl Bench<'_> {
    /// What the person says in a cell's lesson.
    pub(super) fn lesson(
        &self,
        cell: &Cell,
        shuffled: bool,
        shared: &Shared,
    ) -> Result<Vec<Event>> {
        let mut person = self.person(&cell.user, shared, cell.seed)?;
        let replies: Vec<Vec<&str>> = shared
            .teaching
            .iter()
            .map(|drawn| {
                let first = drawn.iter().take(self.size.rounds);
                first.map(|drawn| drawn.answer.text.as_str()).collect()
            })
            .collect();
        let course = Course {
            n: cell.n,
            replies: self.user(&cell.user)?.replies,
            seed: cell.seed,
            shuffled,
        };
        Ok(lesson(&mut person, self.training(), &replies, &course))
    }

    pub(super) fn trained(
        &self,
        cell: &Cell,
        training: &Training,
        shared: &Shared,
    ) -> Result<Record> {
        let work = work_folder(cell);
        let data = format!("{work}/data");
        let marker = format!("{work}/taught.json");
        let key = self.key(cell)?;
        let events = self.lesson(cell, training.shuffled, shared)?;
        let taught: Option<Taught> = self.folder.read(&marker);
        if taught.is_none_or(|taught| taught.key != key || taught.events != events.len()) {
            self.folder.remove(&work)?;
            self.folder.copy(&self.drawn_folder(TEACHING), &data)?;
            self.teach(&self.open(&data)?, &events, shared)?;
            let taught = Taught {
                key: key.clone(),
                events: events.len(),
            };
            self.folder.write(&marker, &taught)?;
        }
        if self.alone {
            forget_peak_memory();
        }
        let thumbprint = self.open(&data)?;
        let (details, phases) = self.learn(&thumbprint, cell, &training.recipe)?;
        // What the base says to neutral prompts is no cell's own, on a device either: its first run keeps it for all.
        self.folder
            .share("base-", &data, &self.drawn_folder(TEACHING))?;
        let count = |wanted: fn(&Act) -> bool| events.iter().filter(|e| wanted(&e.act)).count();
        let numbers = details.as_ref().map_or_else(Measured::default, measured);
        let gate = match &details {
            Some(details) => gate_numbers(details),
            // Nothing was trained; the last decision says why, where there was one.
            None => session::why_nothing(&thumbprint)?,
        };
        let gate = gate.unwrap_or_default();
        let explanation = gate["explanation"].as_str().map(str::to_owned);
        let learned = Learned {
            up: count(|act| *act == Act::Up),
            down: count(|act| *act == Act::Down),
            edits: count(|act| matches!(act, Act::Edit(_))),
            scale: details.as_ref().map_or(0.0, |details| details.row.scale),
            ppl_ratio: numbers.ppl_ratio,
            kl: numbers.kl_feedback,
            kl_own_samples: numbers.kl_own_samples,
            level: gate["report"]["held_out"]["limit"]["at_most"].as_f64(),
            seconds: phases.values().sum(),
            phases,
            peak_rss_mib: self
                .alone
                .then(resident_memory_mib)
                .flatten()
                .map(|(peak, _)| peak),
            explanation: explanation.unwrap_or_default(),
        };
        let max_tokens = self.population.max_tokens;
        let (state, answers, candidate) = match details {
            None => (NOTHING, shared.base.clone(), None),
            Some(details) if details.row.state == AdapterState::Rejected => {
                let by = By::Adapter(details.row.id);
                let candidate = self.answer(&thumbprint, by, max_tokens)?;
                ("rejected", shared.base.clone(), Some(candidate))
            }
            Some(details) => {
                let answers = self.answer(&thumbprint, By::Active, max_tokens)?;
                (details.row.state.as_str(), answers, None)
            }
        };
        Ok(Record {
            cell: cell.clone(),
            key,
            build: self.build.clone(),
            state: state.to_owned(),
            answers,
            candidate,
            learned: Some(learned),
        })
    }

    /// Says what the person said.
    fn teach(&self, thumbprint: &Thumbprint, events: &[Event], shared: &Shared) -> Result<()> {
        for event in events {
            let reply = ReplyId(shared.teaching[event.prompt][event.reply].id);
            let feedback = match &event.act {
                Act::Up => Feedback::Up,
                Act::Down => Feedback::Down {
                    reasons: Vec::new(),
                },
                Act::Edit(text) => Feedback::Edit(text.clone()),
            };
            thumbprint.record(reply, &feedback)?;
        }
        Ok(())
    }

    /// Learns, unless that was done before, and says how long each phase took altogether.
    fn learn(
        &self,
        thumbprint: &Thumbprint,
        cell: &Cell,
        recipe: &Recipe,
    ) -> Result<(Option<AdapterDetails>, Phases)> {
        let file = format!("{}/phases.json", work_folder(cell));
        let mut clock = Clock::new(self.folder.read(&file).unwrap_or_default());
        if let Some(done) = judged(thumbprint)? {
            return Ok((Some(done), clock.phases));
        }
        let budget = Budget {
            n_threads: Some(self.n_threads),
            seed: cell.seed,
            gpu: self.gpu,
            ..Budget::default()
        };
        let mut noted = Instant::now();
        let mut on_progress = |phase| {
            clock.is_in(phase);
            if noted.elapsed() > TICK {
                noted = Instant::now();
                // What cannot be noted is missing from the time, and nothing else.
                let _ = self.folder.write(&file, &clock.phases);
            }
        };
        let interrupt = Some(self.interrupt);
        let outcome = learn(
            thumbprint,
            budget,
            recipe.clone(),
            self.out,
            interrupt,
            &mut on_progress,
        );
        clock.is_in(Phase::Done);
        self.folder.write(&file, &clock.phases)?;
        match outcome? {
            Outcome::Trial(id, _) | Outcome::Rejected(id, _) => {
                Ok((Some(thumbprint.adapter(id)?), clock.phases))
            }
            Outcome::NothingToLearn(_) => Ok((None, clock.phases)),
            other => Err(CliError::Failed(format!(
                "{cell}: learning did not end: {other:?}"
            ))),
        }
    }

    /// The adapter that another cell learned, with its folder; none where there was nothing to learn.
    fn learned_by(
        &self,
        parent: &Cell,
        shared: &Shared,
    ) -> Result<(Thumbprint, Option<AdapterDetails>)> {
        let data = format!("{}/data", work_folder(parent));
        if let How::Trained(training) = self.how(&parent.arm)?
            && !self.folder.path(&data).is_dir()
        {
            // It was tidied away before anything used it.
            self.trained(parent, training, shared)?;
        }
        let thumbprint = self.open(&data)?;
        let adapter = judged(&thumbprint)?;
        Ok((thumbprint, adapter))
    }

    /// Answers with the adapter that another cell learned, at a share of the scale that it is served at or, without one, at full scale.
    pub(super) fn rescaled(
        &self,
        cell: &Cell,
        of: &str,
        share: Option<f32>,
        shared: &Shared,
    ) -> Result<Record> {
        let (thumbprint, adapter) = self.learned_by(&cell.of(of), shared)?;
        let Some(details) = adapter else {
            return self.untaught(cell, shared.base.clone());
        };
        let mut adapter = details.row.id;
        if let Some(weight) = share {
            adapter = thumbprint.combine(&[Part { adapter, weight }], None)?;
        }
        let answers = self.answer(
            &thumbprint,
            By::Adapter(adapter),
            self.population.max_tokens,
        )?;
        self.untaught(cell, answers)
    }

    pub(super) fn best_of(
        &self,
        cell: &Cell,
        n: usize,
        of: &str,
        shared: &Shared,
    ) -> Result<Record> {
        // The draw that all arms are compared with is not among them.
        let rounds: Vec<Vec<Drawn>> = (1..=n)
            .map(|round| self.answered("what the base answers several times", round))
            .collect::<Result<_>>()?;
        let texts = self.score_texts(rounds.iter().flatten())?;
        let (thumbprint, adapter) = self.learned_by(&cell.of(of), shared)?;
        let rewards = match adapter {
            None => vec![0.0; texts.len()],
            Some(details) => {
                self.note("scoring replies");
                let file = self
                    .folder
                    .path(&format!("{}/reward.gguf", work_folder(&cell.of(of))));
                thumbprint.export(details.row.id, &file, AdapterFormat::Gguf)?;
                let engine = thumbprint.engine()?;
                let source = AdapterSource::File(file.clone());
                let adapter = With::Adapter(engine.load_adapter(source, "reward", 1.0)?);
                let sums = |with| -> Result<Vec<f64>> {
                    let logps = session::cancellable(self.interrupt, |canceller| {
                        engine.score(texts.clone(), with, canceller)
                    });
                    self.interrupt.check()?;
                    Ok(logps?.iter().map(|logps| logps.iter().sum()).collect())
                };
                let (under_adapter, under_base) = (sums(adapter)?, sums(With::Base)?);
                // It is in the way of nothing if it stays.
                let _ = fs::remove_file(file);
                let pairs = under_adapter.iter().zip(&under_base);
                pairs.map(|(adapter, base)| adapter - base).collect()
            }
        };
        let prompts = self.held_out().len();
        let best = |at: usize| {
            let of_round = |round: &usize| rewards[round * prompts + at];
            let best = (0..n)
                .rev()
                .max_by(|a, b| of_round(a).total_cmp(&of_round(b)));
            rounds[best.unwrap_or(0)][at].answer.clone()
        };
        self.untaught(cell, (0..prompts).map(best).collect())
    }

    /// Drawn answers in tokens, as they were generated.
    fn score_texts<'d>(&self, drawn: impl Iterator<Item = &'d Drawn>) -> Result<Vec<ScoreText>> {
        let _in_use = self.in_use();
        let thumbprint = self.open(&self.drawn_folder(ANSWERS))?;
        let store = thumbprint.store();
        drawn
            .map(|drawn| {
                let reply = store.reply(ReplyId(drawn.id))?;
                let generation = reply.generation.filter(|g| !g.completion_tokens.is_empty());
                let generation = generation
                    .ok_or_else(|| CliError::Failed(format!("reply {} has no tokens", drawn.id)))?;
                Ok(ScoreText {
                    prompt: generation.prompt_tokens,
                    completion: generation.completion_tokens,
                })
            })
            .collect()
    }
}

/// The adapter that was learned, once the gate has decided about it.
fn judged(thumbprint: &Thumbprint) -> Result<Option<AdapterDetails>> {
    let mut adapters = thumbprint.adapters()?.into_iter();
    Ok(adapters.find(|details| details.row.state != AdapterState::Candidate))
}
