//! `send`: one prompt, one reply.

use std::io::Read;

use clap::Args;
use serde_json::json;
use thumbprint::{By, ConversationId, Message, Request};

use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::options::{DataDirOption, ModelOption};
use crate::output::Output;
use crate::session::{self, GenerationOption};

#[derive(Args, Debug)]
pub struct Options {
    /// What to say; `-` reads it from standard input
    message: String,
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    data_dir: DataDirOption,
    #[command(flatten)]
    generation: GenerationOption,
    /// Say it in this stored conversation
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// Instructions for the model
    #[arg(long, value_name = "TEXT", conflicts_with = "conversation")]
    system: Option<String>,
    /// Let the base model answer, even if an adapter is in use
    #[arg(long, conflicts_with = "conversation")]
    base: bool,
    /// With --json: print pieces as they come, one object a line, and the whole reply last
    #[arg(long)]
    stream: bool,
}

/// Sends the message and prints the reply.
///
/// # Errors
/// No model, an empty prompt, one that is too long, or no such conversation.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let message = match options.message.as_str() {
        "-" => read_all()?,
        message => message.to_owned(),
    };
    let model = options.model.path()?;
    let thumbprint = session::open(&options.data_dir, None, out)?;
    let conversation = options.conversation.map(|id| thumbprint.conversation(Some(id))).transpose()?;
    session::load(&thumbprint, model, out)?;
    let settings = options.generation.options(0);
    let generation = match &conversation {
        Some(conversation) => conversation.send(&message, settings)?,
        None => {
            let system = options.system.iter().map(Message::system);
            let mut request = Request::new(system.chain([Message::user(message)]).collect());
            request.options = settings;
            request.by = if options.base { By::Base } else { By::Active };
            thumbprint.generate(request)?
        }
    };
    let reply = session::follow(generation, &|| interrupt.is_raised(), &mut |text| {
        match (out.is_json(), options.stream) {
            (true, true) => out.object(&json!({ "token": text })),
            (true, false) => Ok(()),
            (false, _) => out.text(text),
        }
    })?;
    let reply = reply.ok_or_else(|| CliError::Failed("the reply did not end".to_owned()))?;
    if out.is_json() {
        out.object(&session::reply_object(&reply))?;
    } else {
        out.line("")?;
        out.line(session::reply_line(&reply))?;
    }
    interrupt.check()
}

fn read_all() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|source| CliError::File { doing: "read", path: "standard input".into(), source })?;
    Ok(text)
}
