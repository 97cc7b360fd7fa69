//! What is asked of the engine, and what it answers.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use serde::{Deserialize, Serialize};
use thumbprint_ggml::llama::{SamplingParams, Token};

use super::{EngineError, LoadedAdapter, Result};
use crate::types::{Judge, Message, Sampling, StopReason, Usage};

/// One reply to generate.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to reply to.
    pub prompt: Prompt,
    /// How.
    pub options: GenerateOptions,
    /// Under which adapter.
    pub with: With,
}

impl Request {
    /// A reply to a conversation, with the adapter in force.
    pub fn chat(messages: Vec<Message>, options: GenerateOptions) -> Self {
        Self {
            prompt: Prompt::Messages(messages),
            options,
            with: With::Active,
        }
    }
}

/// The text before the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, rendered by the model's chat template.
    Messages(Vec<Message>),
    /// Tokens, taken as they are.
    Tokens(Vec<Token>),
}

/// The adapter to compute with.
#[derive(Debug, Clone, Default)]
pub enum With {
    /// The one in force ([`super::Engine::set_adapter`]), if any.
    #[default]
    Active,
    /// None: the base model.
    Base,
    /// This one, for this request only.
    Adapter(LoadedAdapter),
}

impl With {
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Active, Self::Active) | (Self::Base, Self::Base) => true,
            (Self::Adapter(a), Self::Adapter(b)) => LoadedAdapter::same(Some(a), Some(b)),
            _ => false,
        }
    }
}

/// Length, sampling and stop conditions of a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Tokens to generate at most, 1 or more.
    pub max_tokens: u32,
    /// How tokens are chosen. The same seed gives the same reply: take another
    /// (`GenerateOptions::default` draws one) for another reply.
    pub sampling: Sampling,
    /// Strings that end the reply; they are not part of its text.
    pub stop: Vec<String>,
    /// What to do when the conversation is longer than the context.
    pub overflow: Overflow,
    /// Replies to draw side by side, of which the best is kept: 1 to [`MAX_PARALLEL`](super::MAX_PARALLEL). The `i`-th has the seed
    /// `sampling.seed + i`. For [`Thumbprint`](crate::Thumbprint)'s calls; the engine itself takes 1 alone.
    pub best_of: u32,
    /// Who says which is the best.
    pub judge: Judge,
}

/// One reply of up to 512 tokens by the default sampling, with a fresh seed; no stop strings; overflow is an error.
impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 512,
            sampling: Sampling {
                seed: fresh_seed(),
                ..Sampling::default()
            },
            stop: Vec::new(),
            overflow: Overflow::Error,
            best_of: 1,
            judge: Judge::Active,
        }
    }
}

impl Sampling {
    /// The likeliest token each time.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// The model's own distribution, unchanged: temperature 1 and nothing cut off.
    pub fn plain() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..Self::default()
        }
    }

    pub(super) fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repetition_penalty,
            repeat_last_n: self.repetition_window,
            // llama.cpp takes 32 bits.
            seed: (self.seed ^ (self.seed >> 32)) as u32,
        }
    }
}

/// What to do when a conversation and its reply do not fit the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Overflow {
    /// Refuse, with both numbers.
    #[default]
    Error,
    /// Drop the oldest turns (a user's message and what follows up to the next), keeping system
    /// messages and the last turn, until the prompt leaves room for the reply, or for a quarter of
    /// the context if that is less. [`Completed::dropped_messages`] tells.
    TruncateOldestTurns,
}

/// What a running generation says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the reply's text: whole characters, never empty.
    Token {
        /// The text that was added.
        text: String,
    },
    /// The reply is complete. The last event.
    Done(Completed),
}

/// A complete reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Completed {
    /// The reply's text: all `Token` events together.
    pub text: String,
    /// The tokens that were generated, the end token included if there was one. After a stop string
    /// they may say more than the text.
    pub tokens: Vec<Token>,
    /// The tokens that they were generated from.
    pub prompt_tokens: Vec<Token>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Token counts; time to the first token, waiting for other requests included; time of the
    /// rest.
    pub usage: Usage,
    /// Messages that [`Overflow::TruncateOldestTurns`] dropped.
    pub dropped_messages: usize,
    /// Milliseconds that computing the prompt (what was not reused of it) took. 0 in a batch, where
    /// prompts and replies share their time.
    pub prefill_ms: f32,
    /// How its tokens were chosen.
    pub sampling: Sampling,
    /// Hash of the chat template.
    pub template_hash: String,
    /// Version of the adapter that it was generated under; `None` for the base model.
    pub adapter: Option<String>,
}

impl Completed {
    /// Tokens per second after the first one; 0 if there was only one.
    pub fn tokens_per_second(&self) -> f32 {
        let more_tokens = self.usage.completion_tokens.saturating_sub(1);
        if more_tokens == 0 {
            0.0
        } else {
            1000.0 * more_tokens as f32 / self.usage.decode_ms
        }
    }
}

/// Stops work that was handed out: a generation within a graph node, other work likewise.
#[derive(Debug, Clone, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// Asks the work to stop. Idempotent.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether `cancel` was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn flag(&self) -> &AtomicBool {
        &self.0
    }
}

/// A reply that is being generated. Dropping it cancels it.
#[derive(Debug)]
pub struct Generation {
    pub(super) events: Receiver<Result<Event>>,
    pub(super) canceller: Canceller,
    pub(super) ended: bool,
}

impl Generation {
    /// Waits for the next event; `None` after `Done` or an error.
    ///
    /// # Errors
    /// What stopped the generation: [`EngineError::Llama`], or [`EngineError::Stopped`] if the
    /// engine was shut down before it began.
    #[allow(clippy::should_implement_trait)] // an iterator of results reads worse than `while let Some(event) = g.next()?`
    pub fn next(&mut self) -> Result<Option<Event>> {
        if self.ended {
            return Ok(None);
        }
        let event = self.events.recv().unwrap_or(Err(EngineError::Stopped));
        self.ended = !matches!(event, Ok(Event::Token { .. }));
        event.map(Some)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// As [`Generation::next`].
    pub fn wait(mut self) -> Result<Completed> {
        loop {
            match self.next()? {
                Some(Event::Done(completed)) => return Ok(completed),
                Some(Event::Token { .. }) => {}
                None => return Err(EngineError::Stopped),
            }
        }
    }

    /// Stops it within one token, or within one piece of the prompt. `Done` still comes, with what
    /// there is.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// A handle that cancels from elsewhere.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // What is over needs none, and its canceller may serve what comes next.
        if !self.ended {
            self.canceller.cancel();
        }
    }
}

/// Replies that are being generated together. Dropping it cancels them.
#[derive(Debug)]
pub struct Batch {
    pub(super) events: Receiver<Result<(usize, Completed)>>,
    pub(super) canceller: Canceller,
    pub(super) left: usize,
}

impl Batch {
    /// Waits for the next reply that is complete, with the index of its request; `None` after the
    /// last.
    ///
    /// # Errors
    /// What stopped the batch.
    #[allow(clippy::should_implement_trait)] // as `Generation::next`
    pub fn next(&mut self) -> Result<Option<(usize, Completed)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let event = self.events.recv().unwrap_or(Err(EngineError::Stopped));
        self.left = if event.is_ok() { self.left - 1 } else { 0 };
        event.map(Some)
    }

    /// Waits for all, in the order of the requests.
    ///
    /// # Errors
    /// What stopped the batch.
    pub fn wait(mut self) -> Result<Vec<Completed>> {
        let mut replies: Vec<_> = (0..self.left).map(|_| None).collect();
        while let Some((index, reply)) = self.next()? {
            replies[index] = Some(reply);
        }
        replies
            .into_iter()
            .map(|reply| reply.ok_or(EngineError::Stopped))
            .collect()
    }

    /// Stops all that are not complete. They still come, with the text they have.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// A handle that cancels from elsewhere.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}

/// A seed from the system's randomness, below 2^32, so that a JSON number holds it exactly.
pub fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}
