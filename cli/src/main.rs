//! `thumbprint`: the runtime at a terminal. Arguments, output and exit codes are here; whatever is decided or computed is the
//! library's.

mod base_model;
mod commands;
mod error;
mod files;
mod interrupt;
mod kernels;
mod options;
mod output;
mod pairs;
mod paths;
mod session;
mod simulation;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use commands::Command;
use output::Output;

/// An embedded personalization runtime: a quantized model learns from thumbs, on this machine.
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 nothing to learn, or the adapter was rejected; 130 interrupted;
/// 141 the reader of standard output went away.
#[derive(Parser)]
#[command(
    name = "thumbprint",
    version,
    propagate_version = true,
    args_override_self = true
)]
struct Cli {
    /// Print JSON: one object, or one a line where it streams.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => {
            let out = Output::new(cli.json);
            match cli.command.run(&out) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => out.fail(&error),
            }
        }
        Err(usage) => {
            // Also where the command line could not be read, whoever asked for JSON gets it.
            if usage.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                let text = usage.render().to_string();
                let line = text.lines().next().unwrap_or_default();
                Output::new(true).error_object(line.strip_prefix("error: ").unwrap_or(line));
            }
            // `--help` into a pipe that was closed is no error.
            let _ = usage.print();
            ExitCode::from(usage.exit_code() as u8)
        }
    }
}
