//! `eval choices` and `eval refusals`: whether an adapter took something away, by files that an app brings.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use thumbprint::arena::Contestant;
use thumbprint::engine::EngineError;
use thumbprint::evaluate::{Accuracy, ChoiceFormat, choices, refusals};
use thumbprint::gate::AppFile;
use thumbprint::{Error, Thumbprint};

use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::options::{DataDirOption, ModelOption};
use crate::output::{Output, columns};
use crate::session;

#[derive(Args, Debug)]
pub struct Choices {
    #[command(flatten)]
    asked: Asked,
    /// arc, hellaswag or mmlu [default: by the fields of the first row]
    #[arg(long, value_name = "NAME")]
    format: Option<ChoiceFormat>,
}

#[derive(Args, Debug)]
pub struct Refusals {
    #[command(flatten)]
    asked: Asked,
}

#[derive(Args, Debug)]
struct Asked {
    /// The file: JSON lines, or CSV
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Compare the base with this adapter, or ask `base` alone [default: the adapter in use]
    #[arg(long, value_name = "ID")]
    adapter: Option<Contestant>,
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    data_dir: DataDirOption,
}

/// What one of them did with a file.
struct Found {
    who: Contestant,
    report: Value,
    rows: Vec<(&'static str, Accuracy)>,
    parts: Vec<(String, Accuracy)>,
    /// What it did with each row.
    each: Vec<bool>,
}

/// Multiple choice.
///
/// # Errors
/// A file that cannot be used, no such adapter, no model, or an interrupt.
pub fn choices(options: &Choices, out: &Output) -> Result<()> {
    let questions = choices::read(&options.asked.data, options.format).map_err(Error::from)?;
    let n = questions.len();
    let ask =
        |thumbprint: &Thumbprint, who, on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>| {
            let report = thumbprint.evaluate_choices(&questions, who, on_progress)?;
            Ok(Found {
                who,
                rows: vec![("acc", report.acc), ("acc_norm", report.acc_norm)],
                parts: report.subjects.clone().into_iter().collect(),
                each: report
                    .answers
                    .iter()
                    .map(|answer| answer.is_right())
                    .collect(),
                report: json!(report),
            })
        };
    run(&options.asked, n, true, json!({}), &ask, out)
}

/// Refusals of harmless prompts.
///
/// # Errors
/// As [`choices`].
pub fn refusals(options: &Refusals, out: &Output) -> Result<()> {
    let found = refusals::read(&options.asked.data).map_err(Error::from)?;
    let n = found.prompts.len();
    let ask =
        |thumbprint: &Thumbprint, who, on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>| {
            let report = thumbprint.evaluate_refusals(&found.prompts, who, on_progress)?;
            Ok(Found {
                who,
                rows: vec![("refused", report.refused)],
                parts: report.types.clone().into_iter().collect(),
                each: report.refusals.clone(),
                report: json!(report),
            })
        };
    run(
        &options.asked,
        n,
        false,
        json!({ "left_out": found.left_out }),
        &ask,
        out,
    )
}

type Ask<'a> = dyn Fn(
        &Thumbprint,
        Contestant,
        &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> thumbprint::Result<Found>
    + 'a;

/// Asks the base and the adapter, and compares them row by row. `good` says whether what a row counts is as it should be.
fn run(
    asked: &Asked,
    n: usize,
    good: bool,
    mut object: Value,
    ask: &Ask<'_>,
    out: &Output,
) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let thumbprint = session::open(&asked.data_dir, None, out)?;
    session::load(&thumbprint, asked.model.path()?, out)?;
    let adapter = match asked.adapter {
        Some(contestant) => contestant.adapter(),
        None => {
            let all = thumbprint.adapters()?;
            all.iter()
                .find(|details| details.active)
                .map(|details| details.row.id)
        }
    };
    let contestants = [Some(Contestant::Base), adapter.map(Contestant::Adapter)];
    let mut found = Vec::new();
    for who in contestants.into_iter().flatten() {
        let bar = out.progress(n as u64, "asking");
        let asked = ask(&thumbprint, who, &mut |done| {
            bar.set_position(done as u64);
            match interrupt.is_raised() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        bar.finish_and_clear();
        match asked {
            Err(Error::Engine(EngineError::Cancelled)) => {
                return Err(CliError::Interrupted(String::new()));
            }
            asked => found.push(asked?),
        }
    }
    let compared = match found.as_slice() {
        [base, adapter] => Some(AppFile::new(
            thumbprint::hash_file(&asked.data)?,
            0.0,
            &base.each,
            &adapter.each,
            good,
        )),
        _ => None,
    };
    if out.is_json() {
        object["n"] = json!(n);
        for found in &found {
            match found.who {
                Contestant::Base => object["base"] = found.report.clone(),
                Contestant::Adapter(id) => {
                    object["adapter"] = found.report.clone();
                    object["adapter"]["id"] = json!(id);
                }
            }
        }
        if let Some(compared) = &compared {
            object["worse"] = json!(compared.worse);
            object["better"] = json!(compared.better);
            object["p_value"] = json!(compared.p_value());
        }
        return out.object(&object);
    }
    table(&found, out)?;
    match &compared {
        Some(compared) => out.line(format!(
            "the adapter does worse on {} rows and better on {}; chance alone takes as much away {:.0} % of the time",
            compared.worse,
            compared.better,
            100.0 * compared.p_value()
        )),
        None => Ok(()),
    }
}

fn table(found: &[Found], out: &Output) -> Result<()> {
    let name = |who: Contestant| match who {
        Contestant::Base => "base".to_owned(),
        Contestant::Adapter(id) => format!("adapter {id}"),
    };
    let mut rows = vec![
        [String::new()]
            .into_iter()
            .chain(found.iter().map(|f| name(f.who)))
            .collect::<Vec<_>>(),
    ];
    let cell = |accuracy: &Accuracy| {
        let (low, high) = accuracy.interval;
        let share = 100.0 * accuracy.share;
        format!("{share:.1} % [{:.1}, {:.1}]", 100.0 * low, 100.0 * high)
    };
    let Some(first) = found.first() else {
        return Ok(());
    };
    for (at, (label, accuracy)) in first.rows.iter().enumerate() {
        let label = format!("{label} (n = {})", accuracy.n);
        rows.push(
            [label]
                .into_iter()
                .chain(found.iter().map(|f| cell(&f.rows[at].1)))
                .collect(),
        );
    }
    for (at, (label, accuracy)) in first.parts.iter().enumerate() {
        let label = format!("  {label} (n = {})", accuracy.n);
        rows.push(
            [label]
                .into_iter()
                .chain(found.iter().map(|f| cell(&f.parts[at].1)))
                .collect(),
        );
    }
    columns(&rows).iter().try_for_each(|line| out.line(line))
}
