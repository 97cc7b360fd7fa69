//! `personalize`: learns from the log, with a bar.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use thumbprint::{
    Budget, GuardFile, Online, Options as Folder, Outcome, Phase, Progress, Recipe, Thumbprint,
};

use crate::error::{CliError, Result};
use crate::files;
use crate::interrupt::Interrupt;
use crate::options::{DataDirOption, ModelOption, SeedOption, ThreadsOption};
use crate::output::Output;
use crate::session;

/// What to do about a run that rests.
const GOES_ON: &str = "what was learned so far is kept; `thumbprint personalize` with the same options goes on from there";

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    data_dir: DataDirOption,
    #[command(flatten)]
    threads: ThreadsOption,
    #[command(flatten)]
    seed: SeedOption,
    /// Most memory to use, the model included
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<usize>,
    /// Pause after this many seconds
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Let the new adapter take the place of one whose trial is undecided
    #[arg(long)]
    replace_trial: bool,
    /// Train on the first GPU
    #[arg(long)]
    gpu: bool,
    /// Refuse what the GPU has no kernel for, instead of computing that on the CPU
    #[arg(long, requires = "gpu")]
    require_gpu: bool,
    /// Reject what gets fewer of these multiple-choice questions right (ARC, HellaSwag or MMLU) than --choices-loss allows
    #[arg(long, value_name = "FILE")]
    choices: Option<PathBuf>,
    /// Points by which the share of right answers may fall
    #[arg(
        long,
        value_name = "POINTS",
        default_value_t = 2.0,
        requires = "choices"
    )]
    choices_loss: f64,
    /// Reject what refuses more of these harmless prompts (XSTest) than --refusals-rise allows
    #[arg(long, value_name = "FILE")]
    refusals: Option<PathBuf>,
    /// Points by which the share of refusals may rise
    #[arg(
        long,
        value_name = "POINTS",
        default_value_t = 5.0,
        requires = "refusals"
    )]
    refusals_rise: f64,
    /// Rounds, 3 at most, in which the new adapter answers the prompts again, labels its answers by its own reward, and trains on [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(0..=3))]
    online_rounds: u32,
    /// Learn in another way than the product's: a JSON file of the settings that differ, such as {"west_of_n": {"prompts": 80}}
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
}

/// Runs until the end, a pause or Ctrl-C.
///
/// # Errors
/// Exit code 3: nothing to learn, rejected, or a trial is running. Else what kept it from learning.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let model = options.model.path()?;
    let mut folder = Folder::new(options.data_dir.path()).model(model);
    folder.engine.n_threads = options.threads.of_engine();
    let thumbprint = session::open_with(folder, out)?;
    let guard = |path: &Option<PathBuf>, points: f64| {
        path.clone().map(|path| GuardFile {
            path,
            tolerated: points / 100.0,
        })
    };
    let recipe = options.recipe.as_deref().map(read_recipe).transpose()?;
    let recipe = recipe.unwrap_or_default();
    let recipe = Recipe {
        choices: guard(&options.choices, options.choices_loss).or(recipe.choices),
        refusals: guard(&options.refusals, options.refusals_rise).or(recipe.refusals),
        ..recipe
    };
    let budget = Budget {
        memory_mib: options.memory_mib,
        seconds: options.seconds,
        n_threads: Some(options.threads.count()),
        seed: options.seed.seed,
        replace_trial: options.replace_trial,
        gpu: options.gpu,
        require_gpu: options.require_gpu,
        online: Online::rounds(options.online_rounds),
        ..Budget::default()
    };
    let job = thumbprint.personalize_with(budget, recipe)?;
    let (over, ended) = channel::<()>();
    let mut view = View {
        out,
        bar: None,
        error: None,
    };
    let outcome = thread::scope(|scope| {
        let (job, interrupt) = (&job, &interrupt);
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_millis(50))
            {
                if interrupt.is_raised() {
                    job.pause();
                }
            }
        });
        let outcome = job.wait_with(&mut |progress| view.show(progress));
        drop(over);
        outcome
    });
    view.clear();
    let View { error, .. } = view;
    error.map_or(Ok(()), Err)?;
    report(&outcome?, &thumbprint, &interrupt, out)
}

fn read_recipe(path: &Path) -> Result<Recipe> {
    serde_json::from_slice(&files::read(path)?)
        .map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))
}

fn report(
    outcome: &Outcome,
    thumbprint: &Thumbprint,
    interrupt: &Interrupt,
    out: &Output,
) -> Result<()> {
    let (object, sentence, nothing) = match outcome {
        Outcome::Trial(id, report) => {
            let sentence = format!("{} It is adapter {id}.", report.explain());
            (
                json!({ "outcome": "trial", "adapter": id, "report": report }),
                sentence,
                false,
            )
        }
        Outcome::Rejected(id, report) => (
            json!({ "outcome": "rejected", "adapter": id, "report": report }),
            report.explain(),
            true,
        ),
        Outcome::TrialRunning(id) => {
            let sentence = format!(
                "adapter {id} is on trial and undecided: vote first, or pass --replace-trial to give it up for a new one"
            );
            (
                json!({ "outcome": "trial_running", "adapter": id }),
                sentence,
                true,
            )
        }
        Outcome::NothingToLearn(readiness) => {
            let (have, need) = (readiness.have, readiness.need);
            let sentence = session::why_nothing_in_words(thumbprint, readiness)?;
            (
                json!({ "outcome": "nothing_to_learn", "have": have, "need": need, "reason": sentence }),
                sentence,
                true,
            )
        }
        Outcome::Paused => {
            let reason = if interrupt.is_raised() {
                "asked for"
            } else {
                "out of time"
            };
            (
                json!({ "outcome": "paused", "reason": reason }),
                format!("paused ({reason}); {GOES_ON}"),
                false,
            )
        }
        Outcome::Cancelled => (
            json!({ "outcome": "cancelled" }),
            "given up".to_owned(),
            false,
        ),
        other => {
            return Err(CliError::Failed(format!(
                "an outcome that this command does not know: {other:?}"
            )));
        }
    };
    if out.is_json() {
        let mut object = object;
        object["explanation"] = json!(sentence);
        out.object(&object)?;
    }
    if interrupt.is_raised() && *outcome == Outcome::Paused {
        return Err(CliError::Interrupted(format!("; {GOES_ON}")));
    }
    match (nothing, out.is_json()) {
        (true, _) => Err(CliError::Told(sentence)),
        (false, true) => Ok(()),
        (false, false) => out.line(sentence),
    }
}

/// Shows progress: a bar on a terminal, objects with `--json`, else a line for each phase.
struct View<'a> {
    out: &'a Output,
    bar: Option<(Phase, ProgressBar)>,
    error: Option<CliError>,
}

impl View<'_> {
    fn show(&mut self, progress: &Progress) {
        if self.out.is_json() {
            // That nobody reads is told at the end; the work goes on.
            self.error = self.error.take().or(self.out.object(progress).err());
            return;
        }
        let what = match progress.phase {
            Phase::Curate => "reading the feedback",
            Phase::Replay => "asking the base",
            Phase::Reference => "scoring the base",
            Phase::Fold => "training on halves",
            Phase::Train => "training",
            Phase::Online => "answering again",
            Phase::Gate => "checking for harm",
            Phase::Done => return,
        };
        if self
            .bar
            .as_ref()
            .is_none_or(|(phase, _)| *phase != progress.phase)
        {
            self.clear();
            let bar = self.out.progress(progress.total, what);
            if bar.is_hidden() {
                self.out.note(what);
            }
            self.bar = Some((progress.phase, bar));
        }
        if let Some((_, bar)) = &self.bar {
            let number = |name: &str, value: Option<f64>| {
                value.map_or(String::new(), |v| format!(", {name} {v:.3}"))
            };
            let eta = progress
                .eta_seconds
                .map_or(String::new(), |s| format!(", about {s:.0} s left"));
            let (loss, margin) = (
                number("loss", progress.loss),
                number("margin", progress.margin),
            );
            bar.set_length(progress.total);
            bar.set_position(progress.step);
            bar.set_message(format!("{what}{loss}{margin}{eta}"));
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
