//! One reply in the making: the sampler, the tokens so far, the text they make, and the conditions
//! that end it. Single and batched generation share it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thumbprint_ggml::llama::{Context, Sampler, Token};

use super::chat::{Chat, Fitted};
use super::stream::TextStream;
use super::{Completed, EngineError, LoadedAdapter, Request, Result};
use crate::types::{Sampling, StopReason, Usage};

pub(super) struct Reply {
    chat: Arc<Chat>,
    sampler: Sampler,
    stream: TextStream,
    text: String,
    tokens: Vec<Token>,
    prompt: Fitted,
    max_tokens: usize,
    sampling: Sampling,
    submitted: Instant,
    first_token: Option<Instant>,
    /// Prompt tokens that the cache held.
    pub(super) reused_tokens: usize,
    pub(super) prefill_ms: f32,
}

impl Reply {
    /// Checks a request's options and renders its prompt for a context of `n_ctx` tokens. Runs on
    /// the caller's thread.
    pub(super) fn new(chat: &Arc<Chat>, request: &Request, n_ctx: u32) -> Result<Self> {
        let options = &request.options;
        if options.max_tokens == 0 {
            return Err(EngineError::InvalidOption {
                name: "max_tokens",
                reason: "it must be at least 1".into(),
            });
        }
        if options.best_of != 1 {
            return Err(EngineError::InvalidOption {
                name: "best_of",
                reason: "it takes one reply, and a judge: ask for it where replies are generated one by one, in `generate` or a conversation".into(),
            });
        }
        let prompt = chat.fit(&request.prompt, options.overflow, options.max_tokens, n_ctx)?;
        let n_vocab = chat.model().n_vocab();
        if let Some(token) = prompt
            .tokens
            .iter()
            .find(|&&token| token < 0 || token as usize >= n_vocab)
        {
            let reason = format!("token {token} is outside the vocabulary of {n_vocab}");
            return Err(EngineError::InvalidOption {
                name: "prompt",
                reason,
            });
        }
        let stops = options
            .stop
            .iter()
            .cloned()
            .chain(chat.template().stop_strings().iter().map(|&s| s.into()));
        Ok(Self {
            chat: Arc::clone(chat),
            sampler: Sampler::new(chat.model(), &options.sampling.params())?,
            stream: TextStream::new(stops.collect()),
            text: String::new(),
            tokens: Vec::new(),
            prompt,
            max_tokens: options.max_tokens as usize,
            sampling: options.sampling,
            submitted: Instant::now(),
            first_token: None,
            reused_tokens: 0,
            prefill_ms: 0.0,
        })
    }

    pub(super) fn prompt(&self) -> &[Token] {
        &self.prompt.tokens
    }

    /// Tokens that prompt and reply take at most.
    pub(super) fn longest(&self) -> usize {
        self.prompt.tokens.len() + self.max_tokens
    }

    /// The token that was chosen last, which the context does not hold yet. Empty before the first.
    pub(super) fn last_token(&self) -> &[Token] {
        self.tokens.last().map_or(&[], std::slice::from_ref)
    }

    /// Chooses the next token by the logits of batch entry `index`; returns the text it adds, and
    /// why the reply ends, if it does.
    pub(super) fn sample(
        &mut self,
        context: &mut Context,
        index: usize,
    ) -> Result<(String, Option<StopReason>)> {
        let token = self.sampler.sample(context, index)?;
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        if self.chat.completion_end_tokens().contains(&token) {
            return Ok((String::new(), Some(StopReason::EndOfTurn)));
        }
        let text = self
            .stream
            .push(&self.chat.model().token_to_piece(token, false));
        self.text += &text;
        let stop = if self.stream.stopped() {
            Some(StopReason::StopString)
        } else if self.tokens.len() >= self.max_tokens {
            Some(StopReason::MaxTokens)
        } else if self.prompt.tokens.len() + self.tokens.len() > context.n_ctx() as usize {
            Some(StopReason::ContextFull)
        } else {
            None
        };
        Ok((text, stop))
    }

    /// Ends the reply; returns the text that was held back until now, and the whole.
    pub(super) fn finish(
        mut self,
        stop_reason: StopReason,
        adapter: Option<&LoadedAdapter>,
    ) -> (String, Completed) {
        let rest = self.stream.finish();
        self.text += &rest;
        let first_token = self.first_token.unwrap_or_else(Instant::now);
        let completed = Completed {
            text: self.text,
            stop_reason,
            usage: Usage {
                prompt_tokens: self.prompt.tokens.len() as u32,
                reused_tokens: self.reused_tokens as u32,
                completion_tokens: self.tokens.len() as u32,
                first_token_ms: milliseconds(first_token - self.submitted),
                decode_ms: milliseconds(first_token.elapsed()),
            },
            tokens: self.tokens,
            prompt_tokens: self.prompt.tokens,
            dropped_messages: self.prompt.dropped_messages,
            prefill_ms: self.prefill_ms,
            sampling: self.sampling,
            template_hash: self.chat.template().hash().to_owned(),
            adapter: adapter.map(|adapter| adapter.version.clone()),
        };
        (rest, completed)
    }
}

pub(super) fn milliseconds(duration: Duration) -> f32 {
    1000.0 * duration.as_secs_f32()
}
