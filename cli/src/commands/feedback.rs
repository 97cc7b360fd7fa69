//! `feedback`: what a person thinks of a reply. Never loads a model.

use clap::{Args, Subcommand};
use serde_json::json;
use thumbprint::{Feedback, ReplyId};

use crate::error::{CliError, Result};
use crate::options::DataDirOption;
use crate::output::Output;
use crate::session;

#[derive(Args, Debug)]
pub struct Options {
    /// The reply, by the id that `send` and `chat` print
    reply: ReplyId,
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    data_dir: DataDirOption,
}

#[derive(Subcommand, Debug)]
enum What {
    /// 👍
    Up,
    /// 👎
    Down {
        /// Why; may be several
        reasons: Vec<String>,
    },
    /// What it should have been
    Edit {
        /// The whole text
        text: String,
    },
    /// Better than another reply to the same prompt
    Prefer {
        /// The other reply
        #[arg(long, value_name = "REPLY")]
        over: ReplyId,
    },
    /// The best of several replies to the same prompt
    Rank {
        /// The others, the second best first
        #[arg(long, value_name = "REPLY", required = true, num_args = 1..)]
        over: Vec<ReplyId>,
    },
    /// Another reply was asked for
    Retry,
    /// Take back all that was said about it
    Withdraw,
}

/// Records it.
///
/// # Errors
/// No such reply, an empty edit, or a preference or ranking among replies to different prompts.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let thumbprint = session::open(&options.data_dir, None, out)?;
    let (reply, record) = (options.reply, |feedback: Feedback| {
        thumbprint.record(options.reply, &feedback)
    });
    let ids = match &options.what {
        What::Up => vec![record(Feedback::Up)?],
        What::Down { reasons } => vec![record(Feedback::Down {
            reasons: reasons.clone(),
        })?],
        What::Edit { text } => vec![record(Feedback::Edit(text.clone()))?],
        What::Prefer { over } => vec![record(Feedback::Prefer { over: *over })?],
        What::Rank { over } => vec![record(Feedback::Rank { over: over.clone() })?],
        What::Retry => vec![record(Feedback::Retry)?],
        What::Withdraw => {
            let in_effect = thumbprint.store().feedback_on(reply)?;
            if in_effect.is_empty() {
                return Err(CliError::Failed(format!(
                    "there is no feedback on reply {reply} to take back"
                )));
            }
            in_effect
                .iter()
                .map(|(id, _)| thumbprint.withdraw(*id))
                .collect::<thumbprint::Result<_>>()?
        }
    };
    if out.is_json() {
        return out.object(&json!({ "reply": reply, "feedback": ids }));
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    out.line(format!("recorded as feedback {}", ids.join(", ")))
}
