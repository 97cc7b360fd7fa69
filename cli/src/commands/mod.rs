//! One file a command.

mod adapters;
mod arena;
mod bench;
mod chat;
mod demo;
mod doctor;
mod eval;
mod exchange;
mod feedback;
mod forget;
mod personalize;
mod score;
mod send;
mod train;

use clap::Subcommand;

use crate::error::Result;
use crate::output::Output;

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Talk at a terminal, and say what you think of the replies
    Chat(chat::Options),
    /// One prompt, one reply
    Send(send::Options),
    /// Say what you think of a reply
    Feedback(feedback::Options),
    /// Learn from the feedback, check the result, and use it
    Personalize(personalize::Options),
    /// What was learned: list, show, activate, deactivate, roll back, export, import, combine, merge
    Adapters(adapters::Options),
    /// Take in feedback that others recorded: TRL's forms, ShareGPT, HH-RLHF, UltraFeedback, Nectar, OASST, rankings
    Import(exchange::ImportOptions),
    /// Write the feedback as TRL's trainers load it, or in another of those forms
    Export(exchange::ExportOptions),
    /// Erase something for good, and everything that was learned from it
    Forget(forget::Options),
    /// A simulated person teaches the demo model a taste with thumbs, and votes on the result
    Demo(demo::Options),
    /// Two of them answer side by side, blind, and votes say who is better
    Arena(Box<arena::Options>),
    /// Benchmarks: whether a model learns, whether a reward knows better from worse, and what an adapter took away
    Eval(eval::Options),
    /// Devices, CPU features, facts of the model, what would run where, memory estimates
    Doctor(doctor::Options),
    /// Speed and memory, as ratios to llama.cpp in the same run
    Bench(bench::Options),
    /// Train an adapter on a file of preferences
    Train(Box<train::Options>),
    /// What replies are worth; log-probabilities of a file of preferences, and the share of pairs ranked right
    Score(score::Options),
    #[command(name = bench::MEMORY_COMMAND, hide = true)]
    BenchMemory(bench::MemoryOptions),
}

impl Command {
    /// Does it.
    pub fn run(&self, out: &Output) -> Result<()> {
        match self {
            Command::Chat(options) => chat::run(options, out),
            Command::Send(options) => send::run(options, out),
            Command::Feedback(options) => feedback::run(options, out),
            Command::Personalize(options) => personalize::run(options, out),
            Command::Adapters(options) => adapters::run(options, out),
            Command::Import(options) => exchange::import(options, out),
            Command::Export(options) => exchange::export(options, out),
            Command::Forget(options) => forget::run(options, out),
            Command::Demo(options) => demo::run(options, out),
            Command::Arena(options) => arena::run(options, out),
            Command::Eval(options) => eval::run(options, out),
            Command::Doctor(options) => doctor::run(options, out),
            Command::Bench(options) => bench::run(options, out),
            Command::Train(options) => train::run(options, out),
            Command::Score(options) => score::run(options, out),
            Command::BenchMemory(options) => bench::run_memory(options, out),
        }
    }
}
