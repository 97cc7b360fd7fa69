//! `eval reward`: whether a judge knows the better of two replies, by category.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use thumbprint::engine::EngineError;
use thumbprint::evaluate::{Accuracy, RewardReport, comparisons};
use thumbprint::{Error, Judge, Thumbprint};

use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::options::{DataDirOption, ModelOption};
use crate::output::{Output, columns};
use crate::session;

#[derive(Args, Debug)]
pub struct Options {
    /// Comparisons, JSON lines with `prompt`, `chosen`, `rejected` and perhaps `subset`
    #[arg(long, value_name = "JSONL")]
    data: PathBuf,
    /// Ask this one: `active` (the adapter in use), an adapter's number, or `head`; may be given several times [default: the adapter in
    /// use and the head, as far as they are there]
    #[arg(long, value_name = "JUDGE")]
    judge: Vec<Judge>,
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    data_dir: DataDirOption,
}

/// Asks and prints.
///
/// # Errors
/// A file that cannot be used, nobody to ask, no model, or an interrupt.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let comparisons = comparisons::read(&options.data).map_err(Error::from)?;
    let interrupt = Interrupt::install()?;
    let thumbprint = session::open(&options.data_dir, None, out)?;
    session::load(&thumbprint, options.model.path()?, out)?;
    let judges = match options.judge.is_empty() {
        true => there(&thumbprint)?,
        false => options.judge.clone(),
    };
    let mut reports = Vec::new();
    for judge in judges {
        let bar = out.progress(comparisons.len() as u64, "judging");
        let report = thumbprint.evaluate_reward(&comparisons, judge, &mut |done| {
            bar.set_position(done as u64);
            match interrupt.is_raised() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        bar.finish_and_clear();
        match report {
            Err(Error::Engine(EngineError::Cancelled)) => {
                return Err(CliError::Interrupted(String::new()));
            }
            report => reports.push((judge, report?)),
        }
    }
    if out.is_json() {
        return reports.iter().try_for_each(|(judge, report)| {
            let mut object = json!(report);
            object["judge"] = json!(judge.to_string());
            out.object(&object)
        });
    }
    print(&reports, out)
}

/// Who is there to be asked.
fn there(thumbprint: &Thumbprint) -> Result<Vec<Judge>> {
    let active = thumbprint.adapters()?.iter().any(|details| details.active);
    let head = thumbprint.head()?.is_some();
    let judges = [(active, Judge::Active), (head, Judge::Head)];
    let judges: Vec<Judge> = judges
        .into_iter()
        .filter_map(|(there, judge)| there.then_some(judge))
        .collect();
    match judges.is_empty() {
        true => Err(CliError::Failed(
            "there is nobody to ask: no adapter is in use and no head was fitted (`thumbprint personalize`, `thumbprint score --fit-head`)"
                .to_owned(),
        )),
        false => Ok(judges),
    }
}

fn print(reports: &[(Judge, RewardReport)], out: &Output) -> Result<()> {
    let Some((_, first)) = reports.first() else {
        return Ok(());
    };
    let cell = |accuracy: Option<&Accuracy>| {
        accuracy.map_or("-".to_owned(), |accuracy| {
            let (low, high) = accuracy.interval;
            let share = 100.0 * accuracy.share;
            format!("{share:.1} % [{:.1}, {:.1}]", 100.0 * low, 100.0 * high)
        })
    };
    let mut rows = vec![
        ["".to_owned(), "n".to_owned()]
            .into_iter()
            .chain(reports.iter().map(|(judge, _)| judge.to_string()))
            .collect::<Vec<_>>(),
    ];
    let mut row = |label: String, n: usize, of: &dyn Fn(&RewardReport) -> Option<Accuracy>| {
        let cells = reports.iter().map(|(_, report)| cell(of(report).as_ref()));
        rows.push([label, n.to_string()].into_iter().chain(cells).collect());
    };
    row("all".to_owned(), first.all.n, &|report| Some(report.all));
    for (section, accuracy) in &first.sections {
        row(section.clone(), accuracy.n, &|report| {
            report.sections.get(section).copied()
        });
    }
    for (subset, accuracy) in &first.subsets {
        row(format!("  {subset}"), accuracy.n, &|report| {
            report.subsets.get(subset).copied()
        });
    }
    columns(&rows).iter().try_for_each(|line| out.line(line))?;
    match first.seen {
        0 => Ok(()),
        seen => out.line(format!(
            "{seen} of these prompts have feedback in the log: to what learned from it they are not held out"
        )),
    }
}
