//! One file a command.

mod bench;
mod demo;
mod doctor;
mod score;
mod train;

use clap::Subcommand;

use crate::error::Result;
use crate::output::Output;

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// A simulated person teaches the demo model a taste with thumbs, and votes on the result
    Demo(demo::Options),
    /// Devices, CPU features, facts of the model, what would run where, memory estimates
    Doctor(doctor::Options),
    /// Speed and memory, as ratios to llama.cpp in the same run
    Bench(bench::Options),
    /// Train an adapter on a file of preferences
    Train(Box<train::Options>),
    /// Log-probabilities of a file of preferences, and the share of pairs ranked right
    Score(score::Options),
    #[command(name = bench::MEMORY_COMMAND, hide = true)]
    BenchMemory(bench::MemoryOptions),
}

impl Command {
    /// Does it.
    pub fn run(&self, out: &Output) -> Result<()> {
        match self {
            Command::Demo(options) => demo::run(options, out),
            Command::Doctor(options) => doctor::run(options, out),
            Command::Bench(options) => bench::run(options, out),
            Command::Train(options) => train::run(options, out),
            Command::Score(options) => score::run(options, out),
            Command::BenchMemory(options) => bench::run_memory(options, out),
        }
    }
}
