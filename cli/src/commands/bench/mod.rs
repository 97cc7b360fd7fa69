//! `bench`: speed and memory, as ratios to what llama.cpp and ggml reach in the same run.
//!
//! What is compared takes turns, round by round, and medians are reported: on a machine that does other things too, both sides of a
//! ratio suffer alike.

mod batch;
mod flops;
mod inference;
mod matmul;
mod memory;
mod report;
mod train;
mod training;

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use thumbprint::store::bench::{RecordLatency, bench_record};
use thumbprint_ggml::ggml::{cpu_features, devices};

use crate::base_model;
use crate::error::{CliError, Result};
use crate::options::{DataDirOption, DeviceOption, ModelOption, Precision, ThreadsOption};
use crate::output::Output;

use batch::{BenchBatch, UBATCH};
use inference::Inference;
use matmul::MulMats;
use report::{Figures, Setting};
use training::Training;

pub use memory::{MEMORY_COMMAND, MemoryOptions, run_memory};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Training, generation and recording
    All,
    /// Training alone: its phases, and what it takes as the context grows
    Train,
}

#[derive(Args, Debug)]
pub struct Options {
    /// What to measure
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    #[command(flatten)]
    model: ModelOption,
    /// Where a database for timing is made, and removed again: the disk that an app's data would be on
    #[command(flatten)]
    data_dir: DataDirOption,
    #[command(flatten)]
    threads: ThreadsOption,
    #[command(flatten)]
    device: DeviceOption,
    /// Number formats of training on a device
    #[arg(long, value_enum, default_value_t = Precision::Fast)]
    kernels: Precision,
    /// Rounds to take medians over
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: u32,
    /// Rows of the database in which recording a thumb is timed
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    rows: u64,
}

/// Measures and prints.
///
/// # Errors
/// The model cannot be trained or loaded, or the data folder not be written to.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let path = options.model.path()?;
    let n_threads = options.threads.count();
    let device = options.device.device()?;
    match (options.what, &device) {
        (What::Train, _) => {
            let device = device.map(|device| (device, options.kernels));
            return train::run(&path, n_threads, options.rounds, device, out);
        }
        (What::All, Some(_)) => {
            return Err(CliError::Usage(
                "--device goes with `bench train` only".to_owned(),
            ));
        }
        (What::All, None) => {}
    }
    let model = base_model::open(&path)?;
    let chat = base_model::load_chat(&path)?;
    let batch = BenchBatch::new(&chat, UBATCH)?;

    let bar = out.progress(u64::from(options.rounds) + 4, "memory");
    let full = memory::measure(&path, &batch, n_threads, false)?;
    bar.inc(1);
    let low = memory::measure(&path, &batch, n_threads, true)?;
    bar.inc(1);
    bar.set_message("recording");
    let record = record(&options.data_dir, options.rows)?;
    bar.inc(1);

    bar.set_message("warming up");
    let mut mul_mats = MulMats::new(&model, n_threads, None)?;
    let work = flops::step(&model.spec, &batch.packed());
    let mut training = Training::new(model, &batch, n_threads)?;
    let mut inference = Inference::new(chat, &batch, training.adapter()?, n_threads)?;
    let mut times = Times::default();
    for round in 0..=options.rounds {
        if round == 1 {
            // The first round has paid for memory and page faults.
            times = Times::default();
            bar.set_message("measuring");
        }
        mul_mats.measure(&mut times)?;
        inference.measure(round, &mut times)?;
        training.measure(&mut times)?;
        bar.inc(1);
    }
    bar.finish_and_clear();

    let figures = Figures::new(
        &times,
        &batch,
        &work,
        &mul_mats,
        [full, low],
        record,
        Setting {
            model: inference.description(),
            products_in: training.products_in(),
            threads: n_threads,
            rounds: options.rounds,
            cpu: cpu(),
            cpu_features: cpu_features(),
        },
    );
    figures.print(out)
}

/// The processor in words.
fn cpu() -> String {
    let first = devices().into_iter().next();
    first.map(|device| device.description).unwrap_or_default()
}

/// Seconds, or rates where the name says so, by name and in the order of measuring.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<f64>>);

impl Times {
    fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.entry(name.into()).or_default().push(value);
    }

    /// The median; none where nothing was measured.
    fn median(&self, name: &str) -> Option<f64> {
        middle(self.0.get(name)?.clone())
    }

    /// The median over rounds of `over` by `under`: a machine that is slower in some rounds is so to both.
    fn ratio(&self, over: &str, under: &str) -> Option<f64> {
        let (over, under) = (self.0.get(over)?, self.0.get(under)?);
        middle(over.iter().zip(under).map(|(a, b)| a / b).collect())
    }
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some((values[last / 2] + values[values.len() / 2]) / 2.0)
}

/// Times thumbs in a database of its own within the data folder.
fn record(data_dir: &DataDirOption, rows: u64) -> Result<RecordLatency> {
    let folder = data_dir.path();
    let existed = folder.exists();
    let dir = folder.join(format!("bench-{}", std::process::id()));
    let made = std::fs::create_dir_all(&dir);
    made.map_err(|source| CliError::File {
        doing: "create",
        path: dir.clone(),
        source,
    })?;
    let measured = bench_record(&dir, rows);
    // What is left behind costs space, and no measurement.
    let _ = std::fs::remove_dir_all(&dir);
    if !existed {
        let _ = std::fs::remove_dir(&folder);
    }
    Ok(measured?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn medians_are_between_the_middle_two_and_ratios_are_taken_round_by_round() {
        let mut times = Times::default();
        for value in [4.0, 1.0, 3.0] {
            times.add("a", value);
        }
        assert_eq!(times.median("a"), Some(3.0));
        times.add("a", 10.0);
        assert_eq!(times.median("a"), Some(3.5));
        assert_eq!(times.median("b"), None);
        for value in [2.0, 1.0, 1.0, 2.0] {
            times.add("c", value);
        }
        assert_eq!(times.ratio("a", "c"), Some(2.5));
    }
}
