//! `score`: what replies are worth, by an adapter's own reward or by a head fitted on the feedback; and log-probabilities of files.

mod pairs;
mod replies;

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use thumbprint::{Judge, ReplyId};

use crate::error::Result;
use crate::options::{DataDirOption, ModelOption};
use crate::output::Output;

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true).args(["data", "reply", "text", "fit_head"])))]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// Preferences, as `train` reads them: log-probabilities, and the share of pairs ranked right
    #[arg(long, value_name = "JSONL")]
    data: Option<PathBuf>,
    #[command(flatten)]
    pairs: pairs::Options,
    /// A stored reply, by the id that `send` and `chat` print: what it is worth; may be given several times
    #[arg(long, value_name = "ID")]
    reply: Vec<ReplyId>,
    /// Any reply to --prompt: what it is worth
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    text: Option<String>,
    /// What --text replies to
    #[arg(long, value_name = "TEXT", requires = "text")]
    prompt: Option<String>,
    /// Who says so: `active` (the adapter in use), an adapter's number, or `head`
    #[arg(long, value_name = "JUDGE", default_value_t = Judge::Active)]
    judge: Judge,
    /// Fit the head: a linear function of the base's hidden state after a reply, on the feedback in effect
    #[arg(long)]
    fit_head: bool,
    /// The head's ridge [default: the best of a few by cross-validation]
    #[arg(long, value_name = "X", requires = "fit_head")]
    l2: Option<f64>,
    #[command(flatten)]
    data_dir: DataDirOption,
}

/// Scores and prints.
///
/// # Errors
/// Nothing to judge by, no such reply, a file that cannot be used, or a text longer than the model's context.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    match &options.data {
        Some(data) => pairs::run(&options.pairs, &options.model, data, out),
        None if options.fit_head => replies::fit(options, out),
        None => replies::run(options, out),
    }
}
