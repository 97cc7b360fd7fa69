//! `forget`: erases for good. Never loads a model.

use clap::{Args, Subcommand};
use serde_json::json;
use thumbprint::{ConversationId, FeedbackId, ReplyId, Target};

use crate::error::{CliError, Result};
use crate::options::DataDirOption;
use crate::output::Output;
use crate::session;

#[derive(Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    data_dir: DataDirOption,
}

#[derive(Subcommand, Debug)]
enum What {
    /// What was said about a reply, and the reply
    Feedback {
        /// Its id
        id: FeedbackId,
    },
    /// A reply, and all feedback on it
    Reply {
        /// Its id
        id: ReplyId,
    },
    /// A conversation, with every branch of it
    Conversation {
        /// Its id
        id: ConversationId,
    },
    /// Everything that anybody ever said
    Everything {
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

/// Forgets it.
///
/// # Errors
/// There is no such thing, or a file cannot be deleted.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let target = match options.what {
        What::Feedback { id } => Target::Feedback(id),
        What::Reply { id } => Target::Reply(id),
        What::Conversation { id } => Target::Conversation(id),
        What::Everything { yes: true } => Target::Everything,
        What::Everything { yes: false } => {
            return Err(CliError::Usage(
                "this erases everything for good: pass --yes if that is meant".to_owned(),
            ));
        }
    };
    let thumbprint = session::open(&options.data_dir, None, out)?;
    let gone = thumbprint.forget(target)?;
    if out.is_json() {
        return out.object(&json!({
            "feedback": gone.feedback,
            "replies": gone.replies,
            "messages": gone.messages,
            "votes": gone.votes,
            "adapters": gone.adapters,
            "heads": gone.heads,
        }));
    }
    if !gone.heads.is_empty() {
        out.line("the reward head had been fitted on it and is gone: `thumbprint score --fit-head` fits it again")?;
    }
    out.line(format!(
        "erased {} replies, {} turns, {} events of feedback, {} votes and {} adapters that had learned from them",
        gone.replies.len(),
        gone.messages,
        gone.feedback.len(),
        gone.votes,
        gone.adapters.len()
    ))
}
