//! Several replies at once: each step computes one token of every reply, so that the weights are
//! read once for all of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use thumbprint_ggml::llama::{
    Batch, Context, ContextParams, FlashAttention, LlamaError, Products, Token, gpu_devices,
};

use super::queue::DemandGuard;
use super::reply::Reply;
use super::worker::{Worker, common_prefix};
use super::{Canceller, Completed, LoadedAdapter, Result, With};
use crate::types::StopReason;

/// Below this a shared beginning is computed again: copying a sequence costs about as much.
const WORTH_COPYING: usize = 16;

pub(super) struct BatchJob {
    pub(super) replies: Vec<Reply>,
    pub(super) max_parallel: usize,
    pub(super) with: With,
    pub(super) canceller: Canceller,
    pub(super) events: Sender<Result<(usize, Completed)>>,
    /// Held while a person waits.
    pub(super) demand: Option<DemandGuard>,
}

impl Worker {
    pub(super) fn generate_batch(&mut self, job: BatchJob) {
        let queue = Arc::clone(&self.queue);
        let BatchJob {
            replies,
            max_parallel,
            with,
            canceller,
            events,
            demand,
        } = job;
        let adapter = self.adapter(&with);
        let ended = queue.cancellable(&canceller, || {
            let mut slots = Slots::new(self, &replies, max_parallel, adapter)?;
            slots.run(
                self,
                replies.into_iter().enumerate().collect(),
                &canceller,
                &events,
            )
        });
        drop(demand);
        if let Err(error) = ended {
            let _ = events.send(Err(error));
        }
    }
}

/// A context with one sequence for each reply in the making. The busy ones are always the first:
/// llama.cpp computes neighbouring sequences together, and would cut a batch with gaps into pieces.
struct Slots {
    context: Context,
    adapter: Option<LoadedAdapter>,
    busy: Vec<Slot>,
    n_slots: usize,
}

struct Slot {
    index: usize,
    reply: Reply,
    /// What the sequence holds: the beginning of the prompt, then the reply but for its last token.
    cached: Vec<Token>,
    /// Entry of the current batch that has this slot's logits.
    row: Option<usize>,
}

impl Slot {
    /// The tokens to compute next: the rest of the prompt, or the token that was chosen last. Never
    /// empty.
    fn pending(&self) -> &[Token] {
        let prompt = self.reply.prompt();
        if self.cached.len() < prompt.len() {
            return &prompt[self.cached.len()..];
        }
        self.reply.last_token()
    }
}

impl Slots {
    fn new(
        worker: &Worker,
        replies: &[Reply],
        max_parallel: usize,
        adapter: Option<LoadedAdapter>,
    ) -> Result<Self> {
        let n_slots = max_parallel.min(replies.len());
        let longest = replies.iter().map(Reply::longest).max().unwrap_or(1);
        let n_batch = worker.sizes.n_batch.max(n_slots as u32);
        let params = ContextParams {
            n_ctx: (longest as u32).min(worker.sizes.n_ctx),
            n_batch,
            n_ubatch: n_batch,
            n_seq_max: n_slots as u32,
            n_outputs_max: n_slots as u32,
            // On the CPU the fused kernel takes one query at a time and is slower (measured: by a quarter).
            flash_attention: match gpu_devices().is_empty() {
                true => FlashAttention::Off,
                false => worker.sizes.flash_attention,
            },
            // A reply must not depend on how many others are generated beside it.
            products: Products::Alike,
            ..worker.sizes.context_params()
        };
        let mut context = Context::new(worker.chat.model(), &params)?;
        if let Some(adapter) = &adapter {
            context.set_adapters(&[(Arc::clone(&adapter.adapter), adapter.scale)])?;
        }
        Ok(Self {
            context,
            adapter,
            busy: Vec::new(),
            n_slots,
        })
    }

    fn run(
        &mut self,
        worker: &mut Worker,
        mut waiting: VecDeque<(usize, Reply)>,
        canceller: &Canceller,
        events: &Sender<Result<(usize, Completed)>>,
    ) -> Result<()> {
        let mut batch = Batch::new();
        loop {
            while self.busy.len() < self.n_slots
                && let Some(next) = waiting
                    .iter()
                    .position(|(_, reply)| !self.worth_waiting(reply))
                && let Some((index, reply)) = waiting.remove(next)
            {
                self.admit(index, reply)?;
            }
            if self.busy.is_empty() {
                return Ok(());
            }
            self.fill(&mut batch);
            let decoded = self.context.decode(&batch, Some(canceller.flag()));
            if canceller.is_cancelled() || matches!(decoded, Err(LlamaError::Cancelled)) {
                let unfinished = self
                    .busy
                    .drain(..)
                    .map(|slot| (slot.index, slot.reply))
                    .chain(waiting);
                for (index, reply) in unfinished {
                    let _ = events.send(Ok((
                        index,
                        reply.finish(StopReason::Cancelled, self.adapter.as_ref()).1,
                    )));
                }
                return Ok(());
            }
            decoded?;
            // From the last slot to the first, since a slot that ends is replaced by the last.
            for at in (0..self.busy.len()).rev() {
                let slot = &mut self.busy[at];
                if let Some(row) = slot.row.take()
                    && let (_, Some(stop)) = slot.reply.sample(&mut self.context, row)?
                {
                    let slot = self.release(at)?;
                    let (_, completed) = slot.reply.finish(stop, self.adapter.as_ref());
                    if events.send(Ok((slot.index, completed))).is_err() {
                        return Ok(());
                    }
                }
            }
            worker.serve_foreground();
        }
    }

    /// Whether a busy slot is about to compute so much of this reply's prompt that copying it after
    /// the next step is better than computing it twice: several replies to one prompt, or one
    /// system message before all prompts.
    fn worth_waiting(&self, reply: &Reply) -> bool {
        let most = reply.prompt().len() - 1;
        let longest = |shared: &mut dyn Iterator<Item = usize>| shared.max().unwrap_or(0).min(most);
        let cached = longest(
            &mut self
                .busy
                .iter()
                .map(|slot| common_prefix(&slot.cached, reply.prompt())),
        );
        let coming = longest(
            &mut self
                .busy
                .iter()
                .map(|slot| common_prefix(slot.reply.prompt(), reply.prompt())),
        );
        coming >= cached + WORTH_COPYING && self.context.model().can_truncate()
    }

    /// Gives a reply the next free sequence, beginning with a copy of what another sequence already
    /// holds of its prompt.
    fn admit(&mut self, index: usize, mut reply: Reply) -> Result<()> {
        let sequence = self.busy.len();
        let most = reply.prompt().len() - 1;
        let shared = |slot: &Slot| common_prefix(&slot.cached, reply.prompt()).min(most);
        let donor = self
            .busy
            .iter()
            .map(shared)
            .enumerate()
            .max_by_key(|&(_, shared)| shared);
        let mut cached = Vec::new();
        match donor {
            Some((donor, shared))
                if shared >= WORTH_COPYING && self.context.model().can_truncate() =>
            {
                self.context.kv_copy(donor as i32, sequence as i32)?;
                self.context.kv_truncate(sequence as i32, shared as i32)?;
                cached.extend(&reply.prompt()[..shared]);
            }
            _ => self.context.kv_truncate(sequence as i32, 0)?,
        }
        reply.reused_tokens = cached.len();
        self.busy.push(Slot {
            index,
            reply,
            cached,
            row: None,
        });
        Ok(())
    }

    /// The next batch: one token for each reply that is being generated, and as much of the prompts
    /// as there is room for.
    fn fill(&mut self, batch: &mut Batch) {
        batch.clear();
        let mut room = self.context.n_batch() as usize - self.busy.len();
        for (sequence, slot) in self.busy.iter_mut().enumerate() {
            let pending = slot.pending();
            let n = pending.len().min(1 + room);
            room -= n - 1;
            let complete = n == pending.len();
            let taken = pending[..n].to_vec();
            for (i, &token) in taken.iter().enumerate() {
                let wants_logits = complete && i + 1 == n;
                let row = batch.push(
                    token,
                    (slot.cached.len() + i) as i32,
                    sequence as i32,
                    wants_logits,
                );
                slot.row = wants_logits.then_some(row);
            }
            slot.cached.extend(taken);
        }
    }

    /// Takes a slot out, and moves the last one into its place.
    fn release(&mut self, at: usize) -> Result<Slot> {
        let last = self.busy.len() - 1;
        if at != last {
            self.context.kv_copy(last as i32, at as i32)?;
        }
        self.context.kv_truncate(last as i32, 0)?;
        Ok(self.busy.swap_remove(at))
    }
}
