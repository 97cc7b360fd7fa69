//! The engine's thread: it owns the context and the adapter in force, and does one thing at a time.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use thumbprint_ggml::llama::{Batch, Context, LlamaError, Token};

use super::batch::BatchJob;
use super::chat::Chat;
use super::embed::EmbedJob;
use super::load::Sizes;
use super::queue::{DemandGuard, Queue};
use super::reply::{Reply, milliseconds};
use super::score::{CompareJob, ScoreJob};
use super::{Canceller, EngineError, Event, LoadedAdapter, Result, With};
use crate::types::StopReason;

/// What the engine's thread can be asked for, with where the answer goes.
pub(super) enum Command {
    Generate(Box<GenerateJob>),
    Prewarm {
        prompt: Vec<Token>,
        done: Sender<Result<usize>>,
    },
    SetAdapter {
        adapter: Option<LoadedAdapter>,
        done: Sender<Result<()>>,
    },
    Batch(BatchJob),
    Score(ScoreJob),
    Compare(CompareJob),
    Embed(EmbedJob),
}

pub(super) struct GenerateJob {
    pub(super) reply: Reply,
    pub(super) with: With,
    pub(super) canceller: Canceller,
    pub(super) events: Sender<Result<Event>>,
    /// Held until the job is done or dropped.
    pub(super) demand: DemandGuard,
}

pub(super) struct Worker {
    pub(super) chat: Arc<Chat>,
    pub(super) sizes: Sizes,
    pub(super) queue: Arc<Queue<Command>>,
    /// In force for `With::Active`.
    pub(super) active: Option<LoadedAdapter>,
    context: Context,
    cache: Cache,
}

/// What sequence 0 of the context holds.
#[derive(Default)]
struct Cache {
    tokens: Vec<Token>,
    /// The adapter that is set on the context, under which `tokens` were computed.
    adapter: Option<LoadedAdapter>,
}

impl Worker {
    pub(super) fn new(
        chat: Arc<Chat>,
        sizes: Sizes,
        queue: Arc<Queue<Command>>,
        context: Context,
    ) -> Self {
        Self {
            chat,
            sizes,
            queue,
            active: None,
            context,
            cache: Cache::default(),
        }
    }

    /// Serves commands until the queue is closed.
    pub(super) fn run(mut self) {
        while let Some(command) = self.queue.pop() {
            self.serve(command);
        }
    }

    /// Serves what users wait for. Background work calls it between its steps; it has a context of
    /// its own.
    pub(super) fn serve_foreground(&mut self) {
        while let Some(command) = self.queue.pop_foreground() {
            self.serve(command);
        }
    }

    pub(super) fn adapter(&self, with: &With) -> Option<LoadedAdapter> {
        match with {
            With::Active => self.active.clone(),
            With::Base => None,
            With::Adapter(adapter) => Some(adapter.clone()),
        }
    }

    /// A caller that has gone away does not hear the answer; that is no error.
    fn serve(&mut self, command: Command) {
        match command {
            Command::Generate(job) => self.generate(job),
            Command::Prewarm { prompt, done } => {
                let _ = done.send(self.prewarm(&prompt));
            }
            Command::SetAdapter { adapter, done } => {
                let set = self.put_in_force(adapter.as_ref());
                if set.is_ok() {
                    self.active = adapter;
                }
                let _ = done.send(set);
            }
            Command::Batch(job) => self.generate_batch(job),
            Command::Score(job) => self.score(job),
            Command::Compare(job) => self.compare(job),
            Command::Embed(job) => self.embed(job),
        }
    }

    fn generate(&mut self, job: Box<GenerateJob>) {
        let queue = Arc::clone(&self.queue);
        let GenerateJob {
            mut reply,
            with,
            canceller,
            events,
            demand,
        } = *job;
        let adapter = self.adapter(&with);
        let ended = queue.cancellable(&canceller, || {
            self.reply(&mut reply, adapter.as_ref(), &canceller, &events)
        });
        let ended = match ended {
            Err(EngineError::Cancelled) => Ok(StopReason::Cancelled),
            ended => ended,
        };
        // A caller who sees the end sees no more demand.
        drop(demand);
        let _ = match ended {
            Ok(stop_reason) => {
                let (rest, completed) = reply.finish(stop_reason, adapter.as_ref());
                if !rest.is_empty() {
                    let _ = events.send(Ok(Event::Token { text: rest }));
                }
                events.send(Ok(Event::Done(completed)))
            }
            Err(error) => events.send(Err(error)),
        };
    }

    fn reply(
        &mut self,
        reply: &mut Reply,
        adapter: Option<&LoadedAdapter>,
        canceller: &Canceller,
        events: &Sender<Result<Event>>,
    ) -> Result<StopReason> {
        self.put_in_force(adapter)?;
        let started = Instant::now();
        let prompt = reply.prompt().to_vec();
        // The last token of a prompt is computed again even if the cache holds it: the logits come
        // from it.
        reply.reused_tokens = self.keep_prefix(&prompt, prompt.len() - 1)?;
        let mut row = self.extend(&prompt[reply.reused_tokens..], canceller)?;
        reply.prefill_ms = milliseconds(started.elapsed());
        loop {
            let (text, stop) = reply.sample(&mut self.context, row)?;
            if !text.is_empty() && events.send(Ok(Event::Token { text })).is_err() {
                return Ok(StopReason::Cancelled);
            }
            if let Some(stop) = stop {
                return Ok(stop);
            }
            if canceller.is_cancelled() {
                return Ok(StopReason::Cancelled);
            }
            row = self.extend(reply.last_token(), canceller)?;
        }
    }

    fn prewarm(&mut self, prompt: &[Token]) -> Result<usize> {
        let active = self.active.clone();
        self.put_in_force(active.as_ref())?;
        let kept = self.keep_prefix(prompt, prompt.len())?;
        let canceller = Canceller::default();
        let queue = Arc::clone(&self.queue);
        queue.cancellable(&canceller, || self.extend(&prompt[kept..], &canceller))?;
        Ok(self.cache.tokens.len())
    }

    /// Sets the context's adapter. Another one than before invalidates the cache.
    fn put_in_force(&mut self, adapter: Option<&LoadedAdapter>) -> Result<()> {
        if !LoadedAdapter::same(self.cache.adapter.as_ref(), adapter) {
            let set: Vec<_> = adapter
                .iter()
                .map(|a| (Arc::clone(&a.adapter), a.scale))
                .collect();
            self.context.set_adapters(&set)?;
            self.cache = Cache {
                tokens: Vec::new(),
                adapter: adapter.cloned(),
            };
        }
        Ok(())
    }

    /// Drops what the cache holds beyond its common beginning with `prompt`, of which at most
    /// `limit` tokens are kept. Returns how many were.
    fn keep_prefix(&mut self, prompt: &[Token], limit: usize) -> Result<usize> {
        let common = common_prefix(&self.cache.tokens, prompt).min(limit);
        if common == self.cache.tokens.len() {
            return Ok(common);
        }
        match self.context.kv_truncate(0, common as i32) {
            Ok(()) => {
                self.cache.tokens.truncate(common);
                Ok(common)
            }
            Err(LlamaError::PartialRemoval) => {
                self.context.kv_clear();
                self.cache.tokens.clear();
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Computes tokens after what the cache holds, ubatch by ubatch, with logits for the last.
    /// Returns their batch index. On an error the cache's record says what remained.
    fn extend(&mut self, tokens: &[Token], canceller: &Canceller) -> Result<usize> {
        let mut row = 0;
        let mut batch = Batch::new();
        let mut left = tokens.len();
        for piece in tokens.chunks(self.context.n_batch() as usize) {
            batch.clear();
            left -= piece.len();
            for (i, &token) in piece.iter().enumerate() {
                let wants_logits = left == 0 && i + 1 == piece.len();
                row = batch.push(token, (self.cache.tokens.len() + i) as i32, 0, wants_logits);
            }
            if let Err(error) = self.context.decode(&batch, Some(canceller.flag())) {
                let held = self
                    .context
                    .kv_last_position(0)?
                    .map_or(0, |last| last as usize + 1);
                let computed = held
                    .saturating_sub(self.cache.tokens.len())
                    .min(piece.len());
                self.cache.tokens.extend(&piece[..computed]);
                return Err(error.into());
            }
            self.cache.tokens.extend(piece);
        }
        Ok(row)
    }
}

/// Length of the common beginning.
pub(super) fn common_prefix(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
