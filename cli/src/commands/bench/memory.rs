//! Peak memory of a step, in a process that does nothing else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::batch::BenchBatch;
use super::training::Training;
use crate::base_model;
use crate::error::{CliError, Result};
use crate::files;
use crate::output::Output;

/// The command that such a process runs; it is not for people.
pub const MEMORY_COMMAND: &str = "bench-memory";

/// Steps taken: the second allocates nothing that the first has not.
const STEPS: usize = 2;

/// Trains on a batch from standard input, and prints its peak memory.
#[derive(Args, Debug)]
pub struct MemoryOptions {
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    low: bool,
}

/// Resident memory, MiB. None where the system does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// At its peak, the mapped model included.
    pub peak_mib: Option<f64>,
    /// The part that no file backs, after the last step.
    pub anonymous_mib: Option<f64>,
    /// What the planner expected of the peak.
    pub planned_mib: f64,
    /// Seconds of the last step.
    pub step_s: f64,
}

/// Has another process take a few steps.
///
/// # Errors
/// It cannot be started, or fails.
pub fn measure(model: &Path, batch: &BenchBatch, n_threads: usize, low: bool) -> Result<Memory> {
    let failed = |reason: String| {
        CliError::Failed(format!(
            "cannot measure memory in another process: {reason}"
        ))
    };
    let mut command = Command::new(std::env::current_exe().map_err(|e| failed(e.to_string()))?);
    command
        .args(["--json", MEMORY_COMMAND, "--threads"])
        .arg(n_threads.to_string())
        .arg("--model")
        .arg(model);
    if low {
        command.arg("--low");
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| failed(e.to_string()))?;
    let batch = serde_json::to_vec(batch).map_err(|e| failed(e.to_string()))?;
    let sent = child
        .stdin
        .take()
        .map_or(Ok(()), |mut input| input.write_all(&batch));
    let output = child
        .wait_with_output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("it ended with {}", output.status)));
    }
    sent.map_err(|e| failed(e.to_string()))?;
    serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))
}

/// What that process does.
///
/// # Errors
/// As training.
pub fn run_memory(options: &MemoryOptions, out: &Output) -> Result<()> {
    let batch: BenchBatch = serde_json::from_reader(std::io::stdin().lock()).map_err(|error| {
        CliError::Usage(format!(
            "{MEMORY_COMMAND} takes a batch on standard input: {error}"
        ))
    })?;
    let model = base_model::open(&options.model)?;
    let mut training = Training::with_memory(model, &batch, options.threads, options.low)?;
    let mut step_s = 0.0;
    for _ in 0..STEPS {
        let started = Instant::now();
        training.step()?;
        step_s = started.elapsed().as_secs_f64();
    }
    let (peak_mib, anonymous_mib) = files::resident_memory_mib().unzip();
    out.object(&Memory {
        peak_mib,
        anonymous_mib,
        planned_mib: training.planned_mib(),
        step_s,
    })
}
