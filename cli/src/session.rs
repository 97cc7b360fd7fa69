//! An app's data folder and its model, as the commands use them.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use thumbprint::curation::Readiness;
use thumbprint::engine::Canceller;
use thumbprint::{
    Error, Event, GenerateOptions, Generation, Judge, NOTHING_TO_LEARN, Options, Overflow, Reply,
    StopReason, Thumbprint,
};

use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::options::DataDirOption;
use crate::output::Output;

/// Opens a data folder, without a model or with one that is loaded at first use.
///
/// # Errors
/// Another process has it, it cannot be written, or its database is of a newer version.
pub fn open(data_dir: &DataDirOption, model: Option<PathBuf>, out: &Output) -> Result<Thumbprint> {
    let mut options = Options::new(data_dir.path());
    options.model = model;
    open_with(options, out)
}

/// The same with settings of the engine.
///
/// # Errors
/// As above.
pub fn open_with(options: Options, out: &Output) -> Result<Thumbprint> {
    let thumbprint = Thumbprint::open(options)?;
    if let Some(aside) = &thumbprint.open_report().moved_aside {
        out.note(&format!(
            "warning: the database was damaged; it lies now at {}, and a new one was begun",
            aside.display()
        ));
    }
    Ok(thumbprint)
}

/// Loads the model, and says what is not as it should be.
///
/// # Errors
/// The file is no model. A damaged adapter is a warning: the base answers.
pub fn load(thumbprint: &Thumbprint, model: PathBuf, out: &Output) -> Result<()> {
    let bar = out.progress(100, "loading");
    let loaded = thumbprint.load(model, &mut |done| {
        bar.set_position((100.0 * done) as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    match loaded {
        Err(error @ Error::AdapterChanged { .. }) => {
            out.note(&format!("warning: {error}; the base model answers"))
        }
        loaded => loaded?,
    }
    for warning in &thumbprint.engine()?.info().warnings {
        out.note(&format!("warning: {warning}"));
    }
    Ok(())
}

/// The numbers of the last decision, if it was that the feedback tells nothing apart.
///
/// # Errors
/// Of the store.
pub fn why_nothing(thumbprint: &Thumbprint) -> Result<Option<Value>> {
    let last = thumbprint
        .store()
        .decisions(None)
        .map_err(Error::from)?
        .pop();
    let decision = last.map(|last| last.decision);
    Ok(decision
        .filter(|decision| decision.kind == NOTHING_TO_LEARN)
        .map(|decision| decision.numbers))
}

/// The same in words, or how much too little was said.
///
/// # Errors
/// Of the store.
pub fn why_nothing_in_words(thumbprint: &Thumbprint, readiness: &Readiness) -> Result<String> {
    let (have, need) = (readiness.have, readiness.need);
    let why = match readiness.is_ready() {
        true => why_nothing(thumbprint)?,
        false => None,
    };
    let told = why
        .as_ref()
        .and_then(|numbers| numbers["explanation"].as_str());
    Ok(match told {
        Some(told) => told.to_owned(),
        None => format!(
            "not enough feedback yet: {} of {} events, {} of {} for a reply, {} of {} against one",
            have.events, need.events, have.liked, need.liked, have.disliked, need.disliked
        ),
    })
}

/// How replies are generated.
#[derive(Args, Debug, Clone)]
pub struct GenerationOption {
    /// Tokens of a reply at most
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_tokens: u32,
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw from the K likeliest tokens; 0: from all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Draw from the fewest tokens with this much probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Leave out tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Divides the logits of recent tokens; 1 is off
    #[arg(long, value_name = "X")]
    repeat_penalty: Option<f32>,
    /// Ends the reply where this appears; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seeds what is drawn [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Draw this many replies side by side and keep the best one, which comes in one piece
    #[arg(long, value_name = "N", default_value_t = 1)]
    best_of: u32,
    /// Who says which is the best: `active` (the adapter in use), an adapter's number, or `head` (see `score --fit-head`)
    #[arg(long, value_name = "JUDGE", default_value_t = Judge::Active)]
    judge: Judge,
}

impl GenerationOption {
    /// The library's options for the `nth` reply: with a seed given, each has its own.
    pub fn options(&self, nth: u64) -> GenerateOptions {
        let mut options = GenerateOptions {
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            overflow: Overflow::Error,
            best_of: self.best_of,
            judge: self.judge,
            ..GenerateOptions::default()
        };
        let sampling = &mut options.sampling;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
        sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
        sampling.repetition_penalty = self.repeat_penalty.unwrap_or(sampling.repetition_penalty);
        sampling.seed = self
            .seed
            .map_or(sampling.seed, |seed| seed.wrapping_add(nth));
        options
    }
}

/// Passes on the pieces of a reply until it is complete; as soon as `cancelled` says so, it is cut short.
///
/// # Errors
/// Of the engine, the store, or `on_token`.
pub fn follow(
    mut generation: Generation,
    cancelled: &(dyn Fn() -> bool + Sync),
    on_token: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Option<Reply>> {
    let canceller = generation.canceller();
    let (over, ended) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        // Also while the prompt is computed, when no token comes for a while.
        scope.spawn(move || {
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) =
                ended.recv_timeout(Duration::from_millis(20))
            {
                if cancelled() {
                    canceller.cancel();
                }
            }
        });
        let mut follow = || {
            while let Some(event) = generation.next()? {
                match event {
                    Event::Token(text) => on_token(&text)?,
                    Event::Done(reply) => return Ok(Some(reply)),
                }
            }
            Ok(None)
        };
        let reply = follow();
        drop(over);
        reply
    })
}

/// Does work that Ctrl-C cancels.
pub fn cancellable<T>(interrupt: &Interrupt, work: impl FnOnce(&Canceller) -> T) -> T {
    let canceller = Canceller::default();
    let (over, ended) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        let watched = canceller.clone();
        scope.spawn(move || {
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) =
                ended.recv_timeout(Duration::from_millis(20))
            {
                if interrupt.is_raised() {
                    watched.cancel();
                }
            }
        });
        let done = work(&canceller);
        drop(over);
        done
    })
}

/// A reply as an object.
pub fn reply_object(reply: &Reply) -> Value {
    json!({
        "id": reply.id,
        "text": reply.text,
        "stop_reason": reply.stop_reason,
        "usage": reply.usage,
        "tokens_per_second": reply.tokens_per_second,
        "seed": reply.sampling.seed,
        "adapter": reply.adapter,
        "dropped_messages": reply.dropped_messages,
        "best_of": reply.best_of,
    })
}

/// What there is to say about a reply beside its text, in one line.
pub fn reply_line(reply: &Reply) -> String {
    let end = match reply.stop_reason {
        StopReason::EndOfTurn => "",
        StopReason::StopString => ", ended by a stop string",
        StopReason::MaxTokens => ", cut off at --max-tokens",
        StopReason::ContextFull => ", cut off: the context is full",
        StopReason::Cancelled => ", cancelled",
    };
    let adapter = reply
        .adapter
        .map_or(String::new(), |id| format!(", adapter {id}"));
    let best = reply.best_of.as_ref().map_or(String::new(), |best| {
        let scores: Vec<String> = best.scores.iter().map(|s| format!("{s:.2}")).collect();
        format!(", number {} of {}", best.chosen + 1, scores.join(", "))
    });
    let (tokens, speed) = (reply.usage.completion_tokens, reply.tokens_per_second);
    format!(
        "[reply {}: {tokens} tokens, {speed:.1} a second{adapter}{best}{end}]",
        reply.id
    )
}
