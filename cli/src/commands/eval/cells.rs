//! Running cells: what all of them share, those that ask without teaching, and what is kept of each. Everything that was done is found again after a kill.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thumbprint::gate::stats::median;
use thumbprint::{By, Options, Thumbprint};
use thumbprint_simulated_user::{Act, Population, Prompt, SimulatedUser, User};

use super::drawn::{self, Drawer, Drawn, held_out_sampling};
use super::folder::{Folder, fingerprint};
use super::learning::Learned;
use super::plan::{Cell, How, Plans, Size};
use super::scores::Answer;
use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::kernels::kernels;
use crate::options::Precision;
use crate::output::Output;
use crate::simulation::{answered, request};
use crate::watch::Watch;

/// Where teaching replies are drawn; copied for every cell that learns.
pub(super) const TEACHING: &str = "replies/teaching";
/// Where held-out prompts are answered without an adapter.
pub(super) const ANSWERS: &str = "replies/answers";

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

/// Replies that all cells share.
pub struct Shared {
    /// Of each training prompt, in the order of the rounds.
    pub(super) teaching: Vec<Vec<Drawn>>,
    /// Held-out prompts, answered once.
    pub base: Vec<Answer>,
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

    pub(super) fn open(&self, name: &str) -> Result<Thumbprint> {
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

    pub(super) fn answered(&self, what: &'static str, round: usize) -> Result<Vec<Drawn>> {
        let wanted = drawn::answers(self.held_out(), self.population.max_tokens, round);
        self.drawn(ANSWERS, what, wanted)
    }

    /// Where draws lie, those of this model and these questions.
    pub(super) fn drawn_folder(&self, of: &str) -> String {
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

    pub(super) fn user(&self, name: &str) -> Result<&'a User> {
        let found = self.population.user(name);
        found.ok_or_else(|| CliError::Failed(format!("there is no user `{name}`")))
    }

    pub(super) fn how(&self, arm: &str) -> Result<&'a How> {
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
    pub(super) fn key(&self, cell: &Cell) -> Result<String> {
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
            How::FullScale { of } => self.rescaled(cell, of, None, shared)?,
            How::Scaled { of, by } => self.rescaled(cell, of, Some(*by), shared)?,
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

    pub(super) fn untaught(&self, cell: &Cell, answers: Vec<Answer>) -> Result<Record> {
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

    /// Answers held-out prompts.
    pub(super) fn answer(
        &self,
        thumbprint: &Thumbprint,
        by: By,
        max_tokens: u32,
    ) -> Result<Vec<Answer>> {
        self.interrupt.check()?;
        let prompts = self.held_out();
        let requests = prompts.iter().enumerate().map(|(at, prompt)| {
            request(&prompt.text, None, by, max_tokens, held_out_sampling(0, at))
        });
        let watch = Watch::new(self.out, prompts.len(), "answering");
        let replies = answered(thumbprint, requests.collect(), &watch)?;
        Ok(replies.iter().map(Answer::from).collect())
    }

    pub(super) fn in_use(&self) -> MutexGuard<'_, ()> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, text: &str) {
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

/// Where a cell that learns works.
pub(super) fn work_folder(cell: &Cell) -> String {
    format!("work/{}", cell.file_stem())
}
