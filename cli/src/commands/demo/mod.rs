//! `demo`: a simulated person teaches a real model their taste, and votes on the result.
//!
//! The person sees only text and answers only through the event log; training sees only that log. What is measured here is
//! measured on questions that nothing was learned from.

mod person;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use thumbprint::gate::AdapterState;
use thumbprint::{Budget, By, Options as Folder, Outcome, Recipe, Thumbprint};
use thumbprint_simulated_user::{Population, demo};

use crate::error::{CliError, Result};
use crate::options::{ModelOption, SeedOption, ThreadsOption};
use crate::output::Output;
use crate::session;
use crate::simulation::{TemporaryFolder, learn};
use person::{Arm, Session};
use report::{Facts, Report};

/// Questions that the person asks while teaching.
const QUESTIONS: usize = 40;
/// Times that the person presses retry for each.
const RETRIES: usize = 3;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    threads: ThreadsOption,
    #[command(flatten)]
    seed: SeedOption,
    /// Keep everything in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// Share of thumbs that go the wrong way by accident, on top of the person's own inconsistency
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    flips: f64,
}

/// Runs the demo.
///
/// # Errors
/// No model, no memory, no disk.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let started = Instant::now();
    let (folder, temporary) = match &options.data_dir {
        Some(folder) => (folder.clone(), None),
        None => {
            let temporary = TemporaryFolder::new("demo")?;
            (temporary.0.clone(), Some(temporary))
        }
    };
    let mut settings = Folder::new(folder).model(options.model.path()?);
    settings.engine.n_threads = options.threads.of_engine();
    settings.engine.n_ctx = Some(1024);
    let thumbprint = Thumbprint::open(settings)?;
    let description = thumbprint.engine()?.info().description.clone();
    let say = |text: &str| {
        if out.is_json() {
            out.note(text);
            Ok(())
        } else {
            out.line(text)
        }
    };

    say(&format!(
        "Model: {description}. A simulated person likes short, direct answers, and never says so.\n"
    ))?;
    let seed = options.seed.seed;
    let population = Population::development();
    let (mut session, thumbs) = Session::teach(
        person::Scene {
            thumbprint: &thumbprint,
            user: demo(),
            max_tokens: population.max_tokens,
            flips: options.flips,
            seed,
            out,
        },
        &population.training[..QUESTIONS],
        RETRIES,
    )?;
    say(&format!(
        "The person asked {QUESTIONS} questions, pressed retry {} times, and gave {} 👍 and {} 👎.",
        QUESTIONS * RETRIES,
        thumbs.up,
        thumbs.down
    ))?;

    let training = Instant::now();
    let budget = Budget {
        n_threads: Some(options.threads.count()),
        seed,
        ..Budget::default()
    };
    let outcome = learn(
        &thumbprint,
        budget,
        Recipe::default(),
        out,
        None,
        &mut |_| {},
    )?;
    let train_seconds = training.elapsed().as_secs_f64();
    let (adapter, explanation) = match &outcome {
        Outcome::Trial(id, report) | Outcome::Rejected(id, report) => (*id, report.explain()),
        Outcome::NothingToLearn(readiness) => {
            let why = session::why_nothing_in_words(&thumbprint, readiness)?;
            return Err(CliError::Nothing(format!("nothing to learn: {why}")));
        }
        other => {
            return Err(CliError::Failed(format!(
                "personalization did not end: {other:?}"
            )));
        }
    };
    say(&format!("{explanation}\n"))?;

    let on_trial = matches!(outcome, Outcome::Trial(..));
    let served = if on_trial {
        By::Active
    } else {
        By::Adapter(adapter)
    };
    let held_out = &population.held_out;
    let base = session.answer(held_out, Arm::Plain(By::Base), "base answers")?;
    let tuned = session.answer(held_out, Arm::Plain(served), "adapter answers")?;
    let told = session.answer(held_out, Arm::SystemPrompt, "system prompt answers")?;
    if on_trial {
        session.vote(held_out, adapter, &tuned, &base)?;
    }
    let details = thumbprint.adapter(adapter)?;
    let report = Report::new(Facts {
        description,
        thumbs,
        prompts: held_out,
        taste: session.user.taste(),
        base: &base,
        tuned: &tuned,
        told: &told,
        details: &details,
        train_seconds,
        total_seconds: started.elapsed().as_secs_f64(),
        seed,
    });
    if out.is_json() {
        out.object(&report)?;
    } else {
        report.print(out, held_out, &base, &tuned)?;
    }
    drop(thumbprint);
    drop(temporary);
    if details.row.state == AdapterState::Rejected {
        return Err(CliError::Told(
            "the adapter was rejected; the base model is in use as before".to_owned(),
        ));
    }
    Ok(())
}
