//! `eval`: does it learn, and what does that cost? `personalize` has simulated people teach a model through the library, as an app's users
//! would, and say what they make of it on prompts that nothing was learned from; `reward`, `choices` and `refusals` ask what files ask.

mod cells;
mod drawn;
mod folder;
mod learning;
mod plan;
mod plots;
mod questions;
mod report;
mod results;
mod reward;
mod scores;
mod statistics;
#[cfg(test)]
mod synthetic;
mod verdicts;
mod work;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use thumbprint_simulated_user::Population;

use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::options::{ModelOption, ThreadsOption};
use crate::output::{Output, columns};
use cells::{Bench, Record};
use folder::{Folder, fingerprint};
use plan::{Part, Plans, Size};
use results::{Results, Source, results};
use verdicts::Standing;
use work::Work;

#[derive(Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Teaches with thumbs and edits, and compares with simpler ways to please the same person
    ///
    /// Writes results.json, report.md and charts into the folder, again and again on the way. Run again, it goes on where it was.
    Personalize(Personalize),
    /// Whether the adapter's reward and the head know the better of two replies, by category
    ///
    /// Reads rows as RewardBench has them.
    Reward(reward::Options),
    /// Multiple-choice questions by log-likelihood, base against adapter
    ///
    /// Reads ARC, HellaSwag and MMLU; acc and acc_norm are lm-evaluation-harness's.
    Choices(questions::Choices),
    /// How many harmless prompts are refused, base against adapter
    ///
    /// Reads XSTest's form.
    Refusals(questions::Refusals),
}

#[derive(Args, Debug)]
struct Personalize {
    /// How much is run: `ci` (minutes), `hour`, `night`, `second` (for a second model), `steady` and `careless` (other shares of flipped thumbs); or a size of --plan
    #[arg(long, value_name = "SIZE")]
    size: String,
    /// Where everything is kept
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    threads: ThreadsOption,
    /// Whose tastes and prompts, instead of the size's (see docs/benchmark.md for the form)
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// Arms and sizes, instead of the command's own
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Trains on the first GPU
    #[arg(long)]
    gpu: bool,
    /// Runs a share of the cells alone, such as 2/4 for the second of four, and reports those that are done
    ///
    /// For several machines: each takes a copy of a folder in which the replies that all cells share are drawn. Then copy each one's cells/
    /// into one folder, and run the command on it without this option.
    #[arg(long, value_name = "K/N")]
    part: Option<Part>,
    /// Cells that run side by side, each with --threads threads
    ///
    /// For many cores, or a GPU that one cell does not keep busy. What cells take in time and memory is then not told apart.
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
}

/// Runs a benchmark.
///
/// # Errors
/// A file that cannot be used, no model, no memory, no disk, or an interrupt.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    match &options.what {
        What::Personalize(options) => personalize(options, out),
        What::Reward(options) => reward::run(options, out),
        What::Choices(options) => questions::choices(options, out),
        What::Refusals(options) => questions::refusals(options, out),
    }
}

fn personalize(options: &Personalize, out: &Output) -> Result<()> {
    let plans = match &options.plan {
        Some(path) => Plans::read(path)?,
        None => Plans::built_in()?,
    };
    let size = plans.sizes.get(&options.size).ok_or_else(|| {
        let names: Vec<&str> = plans.sizes.keys().map(String::as_str).collect();
        CliError::Usage(format!(
            "--size: there is no `{}`: use one of {}",
            options.size,
            names.join(", ")
        ))
    })?;
    let (population, users_file) = population(options, size)?;
    let model = options.model.path()?;
    let model_sha256 = thumbprint::hash_file(&model)?;
    let folder = Folder::new(&options.out)?;
    let interrupt = Interrupt::install()?;
    let texts: Vec<&str> = population
        .training
        .iter()
        .chain(&population.held_out)
        .map(|prompt| prompt.text.as_str())
        .collect();
    let draws = fingerprint(&(&model_sha256, &texts, population.max_tokens))?;
    let setting = fingerprint(&(
        &draws,
        (&population.training, &population.held_out),
        (size.training, size.rounds, size.held_out, size.flips),
    ))?;
    let bench = Bench {
        folder: &folder,
        plans: &plans,
        size,
        population: &population,
        model,
        draws,
        setting,
        build: build()?,
        n_threads: options.threads.count(),
        gpu: options.gpu,
        alone: options.jobs.get() == 1,
        in_use: Mutex::default(),
        out,
        interrupt: &interrupt,
    };
    let cells = plans.cells(size, &population)?;
    let groups = plans.groups(&cells);
    out.note(&format!("{} cells; {}", cells.len(), size.about));
    let shared = bench.shared()?;
    let report = |records: &[&Record]| -> Result<Results> {
        let results = results(&Source {
            bench: &bench,
            shared: &shared,
            size: options.size.clone(),
            model: bench.describe()?,
            model_sha256: model_sha256.clone(),
            users_file: users_file.clone(),
            cells: &cells,
            records,
        })?;
        write(&folder, &results, &plans)?;
        Ok(results)
    };
    let mut known = BTreeMap::new();
    let mut left: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, cell) in cells.iter().enumerate() {
        if let Some(record) = bench.known(cell)? {
            known.insert(at, record);
        } else if options.part.is_none_or(|part| part.has(groups[at])) {
            left.entry(groups[at]).or_default().push(at);
        }
    }
    for at in known.keys().filter(|at| !left.contains_key(&groups[**at])) {
        bench.tidy_after(&cells, *at)?;
    }
    let work = Work {
        bench: &bench,
        shared: &shared,
        cells: &cells,
        jobs: options.jobs.get(),
    };
    let mut written = Written::default();
    let records = work.run(left.into_values().collect(), known, |records| match written
        .is_worth_it()
    {
        true => written.time(|| report(records).map(drop)),
        false => Ok(()),
    })?;
    let records: Vec<&Record> = records.iter().collect();
    show(out, &report(&records)?, &folder)
}

/// When the report was last written on the way, and how long that took: with many cells, longer than some of them.
#[derive(Default)]
struct Written(Option<(Instant, Duration)>);

impl Written {
    /// At most a twentieth of the time goes into it.
    fn is_worth_it(&self) -> bool {
        self.0
            .is_none_or(|(ended, took)| ended.elapsed() > 20 * took)
    }

    fn time(&mut self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = Instant::now();
        write()?;
        self.0 = Some((Instant::now(), began.elapsed()));
        Ok(())
    }
}

fn population(options: &Personalize, size: &Size) -> Result<(Population, String)> {
    if let Some(path) = &options.users {
        let population = Population::read(path).map_err(|e| CliError::Failed(e.to_string()))?;
        return Ok((population, path.display().to_string()));
    }
    let built_in = match size.users.as_str() {
        "development" => Population::development(),
        "locked" => Population::locked(),
        other => {
            return Err(CliError::Failed(format!(
                "size `{}`: there are no users `{other}`: name development or locked, or give --users",
                options.size
            )));
        }
    };
    Ok((built_in.clone(), format!("{}.json", size.users)))
}

/// Tells one build of this program from another.
fn build() -> Result<String> {
    let at = |source| CliError::Failed(format!("cannot tell which program this is: {source}"));
    let path = std::env::current_exe().map_err(at)?;
    Ok(thumbprint::hash_file(&path)?[..12].to_owned())
}

fn write(folder: &Folder, results: &Results, plans: &Plans) -> Result<()> {
    let json = serde_json::to_vec_pretty(results).map_err(|e| CliError::Failed(e.to_string()))?;
    folder.write_bytes("results.json", &json)?;
    let plots = plots::plots(results)?;
    for plot in &plots {
        folder.write_bytes(plot.file, plot.svg.as_bytes())?;
    }
    let report = report::markdown(results, &plans.arms, &plots);
    folder.write_bytes("report.md", report.as_bytes())
}

fn show(out: &Output, results: &Results, folder: &Folder) -> Result<()> {
    if out.is_json() {
        return out.object(results);
    }
    let mut table = vec![
        [
            "user", "arm", "n", "seeds", "win rate", "tokens", "on trial",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for average in &results.averages {
        let e = average.win_rate;
        table.push(vec![
            average.user.clone(),
            average.arm.clone(),
            average.n.to_string(),
            average.seeds.to_string(),
            format!(
                "{:.0} % [{:.0}, {:.0}]",
                100.0 * e.mean,
                100.0 * e.low,
                100.0 * e.high
            ),
            format!("{:.0}", average.mean_tokens),
            average.trials.to_string(),
        ]);
    }
    for line in columns(&table) {
        out.line(line)?;
    }
    out.line("")?;
    for verdict in &results.verdicts {
        let standing = match verdict.standing {
            Standing::Met => out.green("met"),
            Standing::NotMet => out.red("not met"),
            Standing::NotMeasured => "not measured".into(),
        };
        out.line(format!("{standing}: {} ({})", verdict.goal, verdict.found))?;
    }
    out.line(format!("\n{}", folder.path("report.md").display()))
}
