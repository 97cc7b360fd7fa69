//! `chat`: a stored conversation at a terminal, or from a pipe.

use std::io::{BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use signal_hook::consts::SIGINT;
use thumbprint::{Conversation, ConversationId, Feedback, FeedbackId, Generation, Message, Reply, ReplyId, Thumbprint};

use crate::error::{CliError, Result};
use crate::options::{DataDirOption, ModelOption};
use crate::output::Output;
use crate::session::{self, GenerationOption};

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    data_dir: DataDirOption,
    #[command(flatten)]
    generation: GenerationOption,
    /// Go on with this conversation [default: a new one]
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// Instructions for the model, in a new conversation
    #[arg(long, value_name = "TEXT", conflicts_with = "conversation")]
    system: Option<String>,
}

const HELP: &str = "\
/up              the last reply is good
/down [REASON]   it is not
/edit [TEXT]     what it should have been; without TEXT, on the next lines, up to one with a dot alone
/retry           another reply in its place
/stats           speed, tokens, and what feedback there is
/quit            or the end of input: leave; everything is stored
Ctrl-C           cut the reply short";

/// Chats until `/quit` or the end of input.
///
/// # Errors
/// No model, or no such conversation. What goes wrong with one message is said, and the chat goes on.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let model = options.model.path()?;
    let thumbprint = session::open(&options.data_dir, None, out)?;
    let conversation = thumbprint.conversation(options.conversation)?;
    if let Some(system) = &options.system {
        conversation.append(&Message::system(system))?;
    }
    session::load(&thumbprint, model, out)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let raise = signal_hook::flag::register(SIGINT, Arc::clone(&interrupted));
    raise.map_err(|error| CliError::Failed(format!("cannot handle Ctrl-C: {error}")))?;

    let last = conversation.messages()?.iter().rev().find_map(|message| message.reply);
    let lines = Lines { lines: read_lines(), interrupted, interactive: std::io::stdin().is_terminal() };
    let mut chat = Chat { thumbprint, conversation, options, out, lines, last, stats: None, replies: 0 };
    chat.greet()?;
    chat.run()
}

struct Chat<'a> {
    thumbprint: Thumbprint,
    conversation: Conversation,
    options: &'a Options,
    out: &'a Output,
    lines: Lines,
    /// The reply that feedback is on.
    last: Option<ReplyId>,
    stats: Option<Reply>,
    replies: u64,
}

impl Chat<'_> {
    fn greet(&self) -> Result<()> {
        let id = self.conversation.id();
        if self.out.is_json() {
            return self.out.object(&json!({ "conversation": id }));
        }
        self.out.note(&format!("conversation {id}; /help says what there is beside talking"));
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        while let Some(line) = self.lines.next("> ")? {
            let line = line.trim();
            if line == "/quit" {
                break;
            }
            match self.answer(line) {
                // One message that cannot be answered does not end the chat.
                Err(CliError::Library(error)) => self.complain(&error.to_string())?,
                Err(CliError::Usage(message)) => self.complain(&message)?,
                other => other?,
            }
        }
        Ok(())
    }

    fn answer(&mut self, line: &str) -> Result<()> {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "" => Ok(()),
            "/help" => self.out.line(HELP),
            "/up" => self.record(&Feedback::Up),
            "/down" => {
                let reasons = if rest.is_empty() { Vec::new() } else { vec![rest.to_owned()] };
                self.record(&Feedback::Down { reasons })
            }
            "/edit" => self.edit(rest),
            "/retry" => {
                let settings = self.generation();
                let generation = self.conversation.regenerate(settings)?;
                self.follow(generation)
            }
            "/stats" => self.stats(),
            _ if command.starts_with('/') => {
                Err(CliError::Usage(format!("there is no {command}; /help says what there is")))
            }
            _ => {
                let settings = self.generation();
                let generation = self.conversation.send(line, settings)?;
                self.follow(generation)
            }
        }
    }

    fn generation(&mut self) -> thumbprint::GenerateOptions {
        self.replies += 1;
        self.options.generation.options(self.replies - 1)
    }

    fn follow(&mut self, generation: Generation) -> Result<()> {
        let (out, interrupted) = (self.out, &self.lines.interrupted);
        interrupted.store(false, Ordering::Relaxed);
        let reply = session::follow(generation, &|| interrupted.load(Ordering::Relaxed), &mut |text| {
            if out.is_json() { out.object(&json!({ "token": text })) } else { out.text(text) }
        })?;
        interrupted.store(false, Ordering::Relaxed);
        let Some(reply) = reply else { return Ok(()) };
        if out.is_json() {
            out.object(&session::reply_object(&reply))?;
        } else {
            out.line("")?;
            out.note(&session::reply_line(&reply));
        }
        self.last = Some(reply.id);
        self.stats = Some(reply);
        Ok(())
    }

    fn record(&self, feedback: &Feedback) -> Result<()> {
        let reply = self.last.ok_or_else(no_reply)?;
        self.recorded(reply, self.thumbprint.record(reply, feedback)?)
    }

    fn edit(&mut self, text: &str) -> Result<()> {
        let reply = self.last.ok_or_else(no_reply)?;
        let text = if text.is_empty() { self.lines.block()? } else { text.to_owned() };
        self.recorded(reply, self.conversation.edit(&text)?)
    }

    fn recorded(&self, reply: ReplyId, feedback: FeedbackId) -> Result<()> {
        if self.out.is_json() {
            return self.out.object(&json!({ "reply": reply, "feedback": feedback }));
        }
        self.out.note(&format!("recorded on reply {reply}"));
        Ok(())
    }

    fn stats(&self) -> Result<()> {
        let readiness = self.thumbprint.readiness()?;
        if self.out.is_json() {
            let reply = self.stats.as_ref().map(session::reply_object);
            return self.out.object(&json!({ "reply": reply, "have": readiness.have, "need": readiness.need }));
        }
        if let Some(reply) = &self.stats {
            let usage = &reply.usage;
            self.out.line(format!(
                "last reply: {} tokens, {:.1} a second, the first after {:.0} ms; {} tokens of prompt, {} of them reused",
                usage.completion_tokens, reply.tokens_per_second, usage.first_token_ms, usage.prompt_tokens, usage.reused_tokens
            ))?;
        }
        let (have, need) = (readiness.have, readiness.need);
        let ready = if readiness.is_ready() { "; `thumbprint personalize` can learn from it" } else { "" };
        self.out.line(format!(
            "feedback: {} of {} events, {} of {} for a reply, {} of {} against one{ready}",
            have.events, need.events, have.liked, need.liked, have.disliked, need.disliked
        ))
    }

    fn complain(&self, message: &str) -> Result<()> {
        if self.out.is_json() {
            return self.out.object(&json!({ "error": message }));
        }
        self.out.note(&format!("error: {message}"));
        Ok(())
    }
}

fn no_reply() -> CliError {
    CliError::Usage("there is no reply yet".to_owned())
}

/// Lines of standard input, with a prompt where a person sits there.
struct Lines {
    lines: Receiver<String>,
    interrupted: Arc<AtomicBool>,
    interactive: bool,
}

impl Lines {
    /// The next line; none at the end of input.
    fn next(&self, prompt: &str) -> Result<Option<String>> {
        self.prompt(prompt);
        loop {
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.interrupted.swap(false, Ordering::Relaxed) {
                eprintln!();
                eprintln!("(/quit or Ctrl-D ends the chat)");
                self.prompt(prompt);
            }
        }
    }

    /// Lines up to one with a dot alone, or the end of input.
    fn block(&self) -> Result<String> {
        let mut text = Vec::new();
        while let Some(line) = self.next(". ")? {
            if line.trim_end() == "." {
                break;
            }
            text.push(line);
        }
        Ok(text.join("\n"))
    }

    fn prompt(&self, prompt: &str) {
        if self.interactive {
            eprint!("{prompt}");
        }
    }
}

/// Reads in a thread of its own, so that Ctrl-C is heard while nobody types.
fn read_lines() -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
