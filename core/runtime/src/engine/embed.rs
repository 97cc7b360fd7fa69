//! Hidden states of given texts, computed in a context of their own.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use thumbprint_ggml::llama::{Batch, Context, ContextParams, FlashAttention, Products, Token};

use super::queue::DemandGuard;
use super::score::ScoreText;
use super::worker::{Worker, common_prefix};
use super::{Canceller, Result, With};

pub(super) struct EmbedJob {
    pub(super) texts: Vec<ScoreText>,
    pub(super) with: With,
    pub(super) canceller: Canceller,
    pub(super) done: Sender<Result<Vec<Embedded>>>,
    /// Held while a person waits.
    pub(super) demand: Option<DemandGuard>,
}

/// What a completion is like, to the model that reads it after its prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// Mean of its tokens' embeddings, `[n_embd]`: which words.
    pub embeddings: Vec<f32>,
    /// Mean of the residual stream after the middle block over its tokens, `[n_embd]`: what of.
    pub middle: Vec<f32>,
    /// Its tokens.
    pub n_tokens: usize,
}

impl Embedded {
    /// As a reward head reads them ([`crate::reward::Head`]), `[2 n_embd + 1]`.
    pub fn features(&self) -> Vec<f32> {
        let length = (self.n_tokens as f32).ln();
        let states = self.embeddings.iter().chain(&self.middle);
        states.copied().chain([length]).collect()
    }
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
        texts: &[ScoreText],
        with: &With,
        canceller: &Canceller,
    ) -> Result<Vec<Embedded>> {
        let longest = (texts
            .iter()
            .map(|text| text.prompt.len() + text.completion.len()))
        .max();
        let params = ContextParams {
            n_ctx: longest.unwrap_or(1) as u32,
            n_seq_max: 1,
            n_outputs_max: 1,
            // As in scoring: a state depends on its text alone.
            flash_attention: FlashAttention::Off,
            products: Products::Alike,
            states_after: Some(middle_block(self.chat.model().n_layer())),
            ..self.sizes.context_params()
        };
        let mut context = Context::new(self.chat.model(), &params)?;
        if let Some(adapter) = self.adapter(with) {
            context.set_adapters(&[(adapter.adapter, adapter.scale)])?;
        }
        let mut cached: Vec<Token> = Vec::new();
        let mut embedded = Vec::with_capacity(texts.len());
        for text in texts {
            let keep = match context.model().can_truncate() {
                true => common_prefix(&cached, &text.prompt),
                false => 0,
            };
            context.kv_truncate(0, keep as i32)?;
            cached.truncate(keep);
            self.read(
                &mut context,
                &mut cached,
                &text.prompt[keep..],
                canceller,
                None,
            )?;
            let mut means = Means::new(context.model().n_embd() as usize);
            let of_completion = Some(&mut means);
            self.read(
                &mut context,
                &mut cached,
                &text.completion,
                canceller,
                of_completion,
            )?;
            embedded.push(means.done());
        }
        Ok(embedded)
    }

    /// Computes more tokens of the one sequence, whose states are added to `means`.
    fn read(
        &mut self,
        context: &mut Context,
        cached: &mut Vec<Token>,
        tokens: &[Token],
        canceller: &Canceller,
        mut means: Option<&mut Means>,
    ) -> Result<()> {
        let mut batch = Batch::new();
        for piece in tokens.chunks(context.n_batch() as usize) {
            batch.clear();
            for (i, &token) in piece.iter().enumerate() {
                batch.push(token, (cached.len() + i) as i32, 0, false);
            }
            context.decode(&batch, Some(canceller.flag()))?;
            if let Some(means) = &mut means {
                let states = context.states()?;
                means.add(&states.embeddings, &states.block);
            }
            cached.extend(piece);
            self.serve_foreground();
        }
        Ok(())
    }
}

/// The block after which half of the model has been computed: there a mean over tokens tells most of what a text is like, as measured
/// in docs/adr/020.
fn middle_block(n_layer: u32) -> u32 {
    (n_layer / 2).saturating_sub(1)
}

/// Sums, in double precision.
struct Means {
    embeddings: Vec<f64>,
    middle: Vec<f64>,
    n_tokens: usize,
}

impl Means {
    fn new(n_embd: usize) -> Self {
        Self {
            embeddings: vec![0.0; n_embd],
            middle: vec![0.0; n_embd],
            n_tokens: 0,
        }
    }

    fn add(&mut self, embeddings: &[f32], block: &[f32]) {
        let n_embd = self.middle.len();
        self.n_tokens += block.len() / n_embd;
        for (sums, states) in [
            (&mut self.embeddings, embeddings),
            (&mut self.middle, block),
        ] {
            for state in states.chunks_exact(n_embd) {
                for (sum, value) in sums.iter_mut().zip(state) {
                    *sum += f64::from(*value);
                }
            }
        }
    }

    fn done(self) -> Embedded {
        let n = self.n_tokens as f64;
        let mean = |sums: Vec<f64>| sums.iter().map(|sum| (sum / n) as f32).collect();
        Embedded {
            embeddings: mean(self.embeddings),
            middle: mean(self.middle),
            n_tokens: self.n_tokens,
        }
    }
}
