//! Hidden states of given texts, computed in a context of their own.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use thumbprint_ggml::llama::{Batch, Context, ContextParams, FlashAttention, Products, Token};

use super::queue::DemandGuard;
use super::worker::{Worker, common_prefix};
use super::{Canceller, EngineError, Result, With};

pub(super) struct EmbedJob {
    pub(super) texts: Vec<Vec<Token>>,
    pub(super) with: With,
    pub(super) canceller: Canceller,
    pub(super) done: Sender<Result<Vec<Vec<f32>>>>,
    /// Held while a person waits.
    pub(super) demand: Option<DemandGuard>,
}

impl Worker {
    pub(super) fn embed(&mut self, job: EmbedJob) {
        let queue = Arc::clone(&self.queue);
        let EmbedJob {
            texts,
            with,
            canceller,
            done,
            demand,
        } = job;
        let states = queue.cancellable(&canceller, || self.embed_all(&texts, &with, &canceller));
        drop(demand);
        let _ = done.send(states);
    }

    fn embed_all(
        &mut self,
        texts: &[Vec<Token>],
        with: &With,
        canceller: &Canceller,
    ) -> Result<Vec<Vec<f32>>> {
        let params = ContextParams {
            n_ctx: texts.iter().map(Vec::len).max().unwrap_or(1) as u32,
            n_seq_max: 1,
            n_outputs_max: 1,
            // As in scoring: a state depends on its text alone.
            flash_attention: FlashAttention::Off,
            products: Products::Alike,
            ..self.sizes.context_params()
        };
        let mut context = Context::new(self.chat.model(), &params)?;
        if let Some(adapter) = self.adapter(with) {
            context.set_adapters(&[(adapter.adapter, adapter.scale)])?;
        }
        let mut cached: Vec<Token> = Vec::new();
        let mut states = Vec::with_capacity(texts.len());
        for text in texts {
            let Some((&last, before)) = text.split_last() else {
                continue;
            };
            let keep = match context.model().can_truncate() {
                true => common_prefix(&cached, before),
                false => 0,
            };
            context.kv_truncate(0, keep as i32)?;
            cached.truncate(keep);
            let mut batch = Batch::new();
            for piece in before[keep..].chunks(context.n_batch() as usize) {
                batch.clear();
                for (i, &token) in piece.iter().enumerate() {
                    batch.push(token, (cached.len() + i) as i32, 0, false);
                }
                context.decode(&batch, Some(canceller.flag()))?;
                cached.extend(piece);
                self.serve_foreground();
            }
            let at = cached.len() as i32;
            states.push(context.decode_hidden(last, at, 0, Some(canceller.flag()))?);
            cached.push(last);
        }
        Ok(states)
    }
}

/// Checks texts before they are queued: on the caller's thread.
pub(super) fn check(texts: &[Vec<Token>], n_vocab: usize, n_ctx_train: u32) -> Result<()> {
    for (index, text) in texts.iter().enumerate() {
        let refuse = |reason| Err(EngineError::CannotScore { index, reason });
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text
            .iter()
            .any(|&token| token < 0 || token as usize >= n_vocab)
        {
            return refuse("a token is outside the model's vocabulary");
        }
        if text.len() > n_ctx_train as usize {
            return refuse("it is longer than the context that the model was trained for");
        }
    }
    Ok(())
}
