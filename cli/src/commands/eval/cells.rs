//! Running cells: teach, learn, answer, keep. Everything that was done is found again after a kill.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thumbprint::engine::{AdapterSource, Canceller, ScoreText, With};
use thumbprint::gate::AdapterState;
use thumbprint::gate::stats::median;
use thumbprint::{
    AdapterDetails, AdapterFormat, Budget, By, Feedback, Options, Outcome, Phase, Recipe, ReplyId,
    Thumbprint,
};
use thumbprint_simulated_user::{
    Act, Course, Event, Population, Prompt, SimulatedUser, User, lesson,
};

use super::drawn::{self, Drawer, Drawn, held_out_sampling};
use super::folder::{Folder, fingerprint};
use super::plan::{Cell, How, Plans, Size, Training};
use super::scores::Answer;
use crate::error::{CliError, Result};
use crate::files::{forget_peak_memory, resident_memory_mib};
use crate::interrupt::Interrupt;
use crate::kernels::kernels;
use crate::options::Precision;
use crate::output::Output;
use crate::session;
use crate::simulation::{Measured, answered, gate_numbers, learn, measured, request};
use crate::watch::Watch;

/// Where teaching replies are drawn; copied for every cell that learns.
const TEACHING: &str = "replies/teaching";
/// Where held-out prompts are answered without an adapter.
const ANSWERS: &str = "replies/answers";
/// How often the time that a cell took is noted.
const TICK: Duration = Duration::from_secs(5);

/// What is common to all cells.
pub struct Bench<'a> {
    pub folder: &'a Folder,
    pub plans: &'a Plans,
    pub size: &'a Size,
    pub population: &'a Population,
    pub model: std::path::PathBuf,
    /// Fingerprint of the model's file and of what is asked.
    pub draws: String,
    /// Fingerprint of that and of how it is taught and judged.
    pub setting: String,
    /// Of the program.
    pub build: String,
    pub n_threads: usize,
    pub gpu: bool,
    /// Whether one cell runs at a time, so that what the process takes is the cell's.
    pub alone: bool,
    /// Held by who works in the folders of [`ANSWERS`].
    pub in_use: Mutex<()>,
    pub out: &'a Output,
    pub interrupt: &'a Interrupt,
}

/// What a cell came to, kept in a file of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub cell: Cell,
    /// Of everything that the cell depends on.
    pub key: String,
    /// Of the program that ran it.
    pub build: String,
    /// `trial`, `rejected`, `nothing_to_learn`, or `-` where nothing is learned.
    pub state: String,
    /// What answers held-out prompts: after a rejection, the base.
    pub answers: Vec<Answer>,
    /// What the rejected candidate would have answered, at full scale.
    pub candidate: Option<Vec<Answer>>,
    #[serde(default)]
    pub learned: Option<Learned>,
}

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

/// Replies that all cells share.
pub struct Shared {
    /// Of each training prompt, in the order of the rounds.
    teaching: Vec<Vec<Drawn>>,
    /// Held-out prompts, answered once.
    pub base: Vec<Answer>,
}

/// What remains of a cell that learned for those that use its adapter.
#[derive(Debug, Serialize, Deserialize)]
struct Taught {
    key: String,
    events: usize,
}

impl<'a> Bench<'a> {
    /// The prompts that are asked about.
    pub fn held_out(&self) -> &'a [Prompt] {
        let all = &self.population.held_out;
        &all[..self.size.held_out.min(all.len())]
    }

    /// The prompts that are taught on.
    pub fn training(&self) -> &'a [Prompt] {
        let all = &self.population.training;
        &all[..self.size.training.min(all.len())]
    }

    fn drawer(&self) -> Drawer<'a> {
        Drawer {
            folder: self.folder,
            out: self.out,
            interrupt: self.interrupt,
        }
    }

    fn open(&self, name: &str) -> Result<Thumbprint> {
        let mut options = Options::new(self.folder.path(name)).model(self.model.clone());
        options.engine.n_threads = Some(self.n_threads as u32);
        options.engine.n_ctx = Some(1024);
        Ok(Thumbprint::open(options)?)
    }

    /// Draws what all cells share.
    ///
    /// # Errors
    /// Of the model, of the disk, or an interrupt.
    pub fn shared(&self) -> Result<Shared> {
        let teaching = self.drawn(
            TEACHING,
            "what the base replies while it is taught",
            drawn::teaching(self.size, self.population),
        )?;
        // Cells are copies: all of them train with the same number formats.
        let thumbprint = self.open(&self.drawn_folder(TEACHING))?;
        let formats = kernels(Precision::Fast, self.n_threads)?;
        thumbprint.store().set_setting("kernels", &formats)?;
        drop(thumbprint);
        let mut by_prompt: Vec<Vec<Drawn>> = vec![Vec::new(); self.training().len()];
        let mut drawn = teaching.into_iter();
        for (at, replies) in by_prompt.iter_mut().enumerate() {
            let rounds = match at < self.size.headroom {
                true => self.size.rounds.max(1 + drawn::BEST_OF),
                false => self.size.rounds,
            };
            replies.extend(drawn.by_ref().take(rounds));
        }
        let base = self.answered("what the base answers", 0)?;
        Ok(Shared {
            teaching: by_prompt,
            base: base.into_iter().map(|drawn| drawn.answer).collect(),
        })
    }

    fn answered(&self, what: &'static str, round: usize) -> Result<Vec<Drawn>> {
        let wanted = drawn::answers(self.held_out(), self.population.max_tokens, round);
        self.drawn(ANSWERS, what, wanted)
    }

    /// Where draws lie, those of this model and these questions.
    fn drawn_folder(&self, of: &str) -> String {
        format!("{of}-{}", &self.draws[..12])
    }

    /// Draws by the base model in a folder, unless it was done.
    fn drawn(
        &self,
        name: &str,
        what: &'static str,
        wanted: Vec<(String, thumbprint::Request)>,
    ) -> Result<Vec<Drawn>> {
        let name = self.drawn_folder(name);
        let _in_use = self.in_use();
        let thumbprint = self.open(&name)?;
        let file = format!("{name}.json");
        self.drawer().draw(&thumbprint, &file, what, wanted)
    }

    /// The person of a name, acquainted with what is usual.
    ///
    /// # Errors
    /// There is none.
    pub fn person(&self, name: &str, shared: &Shared, seed: u64) -> Result<SimulatedUser> {
        let user = self.user(name)?;
        let usual = shared.usual(self.training(), self.size.rounds);
        Ok(SimulatedUser::new(user, &usual, seed, self.size.flips))
    }

    fn user(&self, name: &str) -> Result<&'a User> {
        let found = self.population.user(name);
        found.ok_or_else(|| CliError::Failed(format!("there is no user `{name}`")))
    }

    fn how(&self, arm: &str) -> Result<&'a How> {
        let found = self.plans.arm(arm);
        let found = found.ok_or_else(|| CliError::Failed(format!("there is no arm `{arm}`")))?;
        Ok(&found.how)
    }

    /// What a cell came to, if it was run before under the same settings.
    ///
    /// # Errors
    /// There is no such user or arm.
    pub fn known(&self, cell: &Cell) -> Result<Option<Record>> {
        let key = self.key(cell)?;
        let record: Option<Record> = self.folder.read(&record_file(cell));
        Ok(record.filter(|record| record.key == key))
    }

    /// Of everything that a cell depends on.
    fn key(&self, cell: &Cell) -> Result<String> {
        let how = self.how(&cell.arm)?;
        let of = how.uses().map(|of| self.how(of)).transpose()?;
        fingerprint(&(&self.setting, self.user(&cell.user)?, how, of, cell))
    }

    /// Runs a cell, or takes it up where it was left.
    ///
    /// # Errors
    /// Of the model, of the disk, or an interrupt.
    pub fn run(&self, cell: &Cell, shared: &Shared) -> Result<Record> {
        let record = match self.how(&cell.arm)? {
            How::Base => {
                let other = self.answered("what the base answers another time", 1)?;
                self.untaught(cell, other.into_iter().map(|drawn| drawn.answer).collect())?
            }
            How::SystemPrompt => {
                let told = &self.user(&cell.user)?.system_prompt;
                let max_tokens = self.population.max_tokens;
                let wanted = drawn::instructed(self.held_out(), max_tokens, told);
                let told = self.drawn(ANSWERS, "what the base answers when told", wanted)?;
                self.untaught(cell, told.into_iter().map(|drawn| drawn.answer).collect())?
            }
            How::StopEarly => self.stop_early(cell, shared)?,
            How::Trained(training) => self.trained(cell, training, shared)?,
            How::FullScale { of } => self.full_scale(cell, of, shared)?,
            How::BestOf { n, of } => self.best_of(cell, *n, of, shared)?,
        };
        self.folder.write(&record_file(cell), &record)?;
        Ok(record)
    }

    /// Removes what a cell left for those that use its adapter, once the last of these is done: the `at`-th was.
    ///
    /// # Errors
    /// It cannot be removed, or there is no such arm.
    pub fn tidy_after(&self, cells: &[Cell], at: usize) -> Result<()> {
        let parent = |cell: &Cell| -> Result<Cell> {
            Ok(self
                .how(&cell.arm)?
                .uses()
                .map_or_else(|| cell.clone(), |of| cell.of(of)))
        };
        let this = parent(&cells[at])?;
        match cells.get(at + 1).map(parent).transpose()? {
            Some(next) if next == this => Ok(()),
            _ => self.folder.remove(&work_folder(&this)),
        }
    }

    /// The model in words.
    ///
    /// # Errors
    /// Of the model.
    pub fn describe(&self) -> Result<String> {
        let model = thumbprint_ggml::gguf::Gguf::open(&self.model)?;
        Ok(model
            .str_or("general.name", "a model without a name")?
            .to_owned())
    }

    fn untaught(&self, cell: &Cell, answers: Vec<Answer>) -> Result<Record> {
        Ok(Record {
            cell: cell.clone(),
            key: self.key(cell)?,
            build: self.build.clone(),
            state: "-".to_owned(),
            answers,
            candidate: None,
            learned: None,
        })
    }

    /// What the person says in a cell's lesson, with the person as they are afterwards.
    fn lesson(&self, cell: &Cell, shuffled: bool, shared: &Shared) -> Result<Vec<Event>> {
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

    fn stop_early(&self, cell: &Cell, shared: &Shared) -> Result<Record> {
        let events = self.lesson(cell, false, shared)?;
        let _in_use = self.in_use();
        let thumbprint = self.open(&self.drawn_folder(ANSWERS))?;
        let chat = thumbprint.engine()?.chat().clone();
        let mut liked = Vec::new();
        for event in &events {
            match &event.act {
                Act::Up => {
                    let drawn = &shared.teaching[event.prompt][event.reply];
                    liked.push(f64::from(drawn.answer.tokens));
                }
                Act::Edit(text) => liked.push(chat.completion_tokens(text)?.len() as f64),
                Act::Down => {}
            }
        }
        let limit = median(&liked).map_or(self.population.max_tokens, |tokens| {
            (tokens.round() as u32).clamp(1, self.population.max_tokens)
        });
        let answers = self.answer(&thumbprint, By::Base, limit)?;
        self.untaught(cell, answers)
    }

    fn trained(&self, cell: &Cell, training: &Training, shared: &Shared) -> Result<Record> {
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
        let judged = |details: &AdapterDetails| details.row.state != AdapterState::Candidate;
        if let Some(done) = thumbprint.adapters()?.into_iter().find(judged) {
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

    /// Answers held-out prompts.
    fn answer(&self, thumbprint: &Thumbprint, by: By, max_tokens: u32) -> Result<Vec<Answer>> {
        self.interrupt.check()?;
        let prompts = self.held_out();
        let requests = prompts.iter().enumerate().map(|(at, prompt)| {
            request(&prompt.text, None, by, max_tokens, held_out_sampling(0, at))
        });
        let watch = Watch::new(self.out, prompts.len(), "answering");
        let replies = answered(thumbprint, requests.collect(), &watch)?;
        Ok(replies.iter().map(Answer::from).collect())
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
        let adapter = thumbprint.adapters()?.pop();
        Ok((thumbprint, adapter))
    }

    fn full_scale(&self, cell: &Cell, of: &str, shared: &Shared) -> Result<Record> {
        let (thumbprint, adapter) = self.learned_by(&cell.of(of), shared)?;
        let answers = match adapter {
            None => shared.base.clone(),
            Some(details) => {
                let by = By::Adapter(details.row.id);
                self.answer(&thumbprint, by, self.population.max_tokens)?
            }
        };
        self.untaught(cell, answers)
    }

    fn best_of(&self, cell: &Cell, n: usize, of: &str, shared: &Shared) -> Result<Record> {
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
                let canceller = Canceller::default();
                let sums = |with| -> Result<Vec<f64>> {
                    self.interrupt.check()?;
                    let logps = engine.score(texts.clone(), with, &canceller)?;
                    Ok(logps.iter().map(|logps| logps.iter().sum()).collect())
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

    fn in_use(&self) -> MutexGuard<'_, ()> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, text: &str) {
        self.out.note(&format!("{text} ..."));
    }
}

impl Shared {
    /// What is usual: the first `rounds` replies to every training prompt.
    fn usual<'s>(&'s self, prompts: &'s [Prompt], rounds: usize) -> Vec<(&'s Prompt, &'s str)> {
        let pairs = prompts.iter().zip(&self.teaching);
        pairs
            .flat_map(|(prompt, drawn)| {
                let first = drawn.iter().take(rounds);
                first.map(move |drawn| (prompt, drawn.answer.text.as_str()))
            })
            .collect()
    }

    /// Training prompts with one reply and sixteen more.
    pub fn headroom<'s>(
        &'s self,
        prompts: &'s [Prompt],
    ) -> impl Iterator<Item = (&'s Prompt, &'s str, Vec<&'s str>)> {
        let pairs = prompts.iter().zip(&self.teaching);
        pairs
            .filter(|(_, drawn)| drawn.len() > drawn::BEST_OF)
            .map(|(prompt, drawn)| {
                let text = |drawn: &'s Drawn| drawn.answer.text.as_str();
                let rest = drawn[1..=drawn::BEST_OF].iter().map(text).collect();
                (prompt, text(&drawn[0]), rest)
            })
    }
}

fn record_file(cell: &Cell) -> String {
    format!("cells/{}.json", cell.file_stem())
}

fn work_folder(cell: &Cell) -> String {
    format!("work/{}", cell.file_stem())
}
