//! Log-probabilities of given texts, and how far two sets of weights differ on them. Computed in
//! contexts of their own.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use thumbprint_ggml::llama::{Batch, Context, ContextParams, FlashAttention, Products, Token};
use thumbprint_ggml::math::{kl_divergence, log_sum_exp};

use super::queue::DemandGuard;
use super::worker::{Worker, common_prefix};
use super::{Canceller, EngineError, LoadedAdapter, Result, With};

/// A completion to score, after its prompt. Both in tokens, neither empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreText {
    /// What comes before.
    pub prompt: Vec<Token>,
    /// What is scored.
    pub completion: Vec<Token>,
}

/// Two sets of weights, `p` and `q`, on one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Natural log-probability of each completion token under `p`.
    pub logps_p: Vec<f64>,
    /// Natural log-probability of each completion token under `q`.
    pub logps_q: Vec<f64>,
    /// KL(p || q) in nats at each completion token, over the whole vocabulary.
    pub kl_pq: Vec<f64>,
}

pub(super) struct ScoreJob {
    pub(super) texts: Vec<ScoreText>,
    pub(super) with: With,
    pub(super) canceller: Canceller,
    pub(super) done: Sender<Result<Vec<Vec<f64>>>>,
    /// Held while a person waits.
    pub(super) demand: Option<DemandGuard>,
}

pub(super) struct CompareJob {
    pub(super) texts: Vec<ScoreText>,
    pub(super) p: With,
    pub(super) q: With,
    pub(super) canceller: Canceller,
    pub(super) done: Sender<Result<Vec<Comparison>>>,
}

impl Worker {
    pub(super) fn score(&mut self, job: ScoreJob) {
        let queue = Arc::clone(&self.queue);
        let ScoreJob {
            texts,
            with,
            canceller,
            done,
            demand,
        } = job;
        let scored = queue.cancellable(&canceller, || self.score_all(&texts, &with, &canceller));
        drop(demand);
        let _ = done.send(scored);
    }

    pub(super) fn compare(&mut self, job: CompareJob) {
        let queue = Arc::clone(&self.queue);
        let CompareJob {
            texts,
            p,
            q,
            canceller,
            done,
        } = job;
        let compared =
            queue.cancellable(&canceller, || self.compare_all(&texts, &p, &q, &canceller));
        let _ = done.send(compared);
    }

    fn score_all(
        &mut self,
        texts: &[ScoreText],
        with: &With,
        canceller: &Canceller,
    ) -> Result<Vec<Vec<f64>>> {
        let mut reader = Reader::new(self, texts, self.adapter(with))?;
        let mut scores = Vec::with_capacity(texts.len());
        for text in texts {
            reader.begin(text)?;
            let mut logps = Vec::with_capacity(text.completion.len());
            while let Some(rows) = reader.step(canceller)? {
                for (row, token) in rows {
                    let logits = reader.context.logits(row)?;
                    logps.push(f64::from(logits[token as usize]) - log_sum_exp(logits));
                }
                self.serve_foreground();
            }
            scores.push(logps);
        }
        Ok(scores)
    }

    fn compare_all(
        &mut self,
        texts: &[ScoreText],
        p: &With,
        q: &With,
        canceller: &Canceller,
    ) -> Result<Vec<Comparison>> {
        let mut reader_p = Reader::new(self, texts, self.adapter(p))?;
        let mut reader_q = Reader::new(self, texts, self.adapter(q))?;
        let mut comparisons = Vec::with_capacity(texts.len());
        for text in texts {
            reader_p.begin(text)?;
            reader_q.begin(text)?;
            let n = text.completion.len();
            let mut all = Comparison {
                logps_p: Vec::with_capacity(n),
                logps_q: Vec::with_capacity(n),
                kl_pq: Vec::with_capacity(n),
            };
            // Both go through the same pieces, so that rows and logits match.
            while let (Some(rows), Some(_)) = (reader_p.step(canceller)?, reader_q.step(canceller)?)
            {
                for (row, token) in rows {
                    let (logits_p, logits_q) =
                        (reader_p.context.logits(row)?, reader_q.context.logits(row)?);
                    let (log_z_p, log_z_q) = (log_sum_exp(logits_p), log_sum_exp(logits_q));
                    all.logps_p
                        .push(f64::from(logits_p[token as usize]) - log_z_p);
                    all.logps_q
                        .push(f64::from(logits_q[token as usize]) - log_z_q);
                    all.kl_pq
                        .push(kl_divergence(logits_p, log_z_p, logits_q, log_z_q));
                }
                self.serve_foreground();
            }
            comparisons.push(all);
        }
        Ok(comparisons)
    }
}

/// Checks texts before they are queued: on the caller's thread.
pub(super) fn check(texts: &[ScoreText], n_vocab: usize, longest: usize) -> Result<()> {
    for (index, text) in texts.iter().enumerate() {
        let refuse = |reason| Err(EngineError::CannotScore { index, reason });
        if text.completion.is_empty() {
            return refuse("its completion is empty");
        }
        if text.prompt.is_empty() {
            return refuse("its prompt is empty, so that nothing predicts the first token");
        }
        let mut tokens = text.prompt.iter().chain(&text.completion);
        if tokens.any(|&token| token < 0 || token as usize >= n_vocab) {
            return refuse("a token is outside the model's vocabulary");
        }
        if text.prompt.len() + text.completion.len() > longest {
            return refuse("it is longer than the context that the model was trained for");
        }
    }
    Ok(())
}

/// Reads texts in pieces, with logits for the completion.
struct Reader {
    context: Context,
    n_outputs_max: usize,
    /// What sequence 0 holds.
    cached: Vec<Token>,
    /// The text that is being read but for its last token, which predicts nothing.
    text: Vec<Token>,
    /// What each position predicts, if it is to be scored.
    targets: Vec<Option<Token>>,
}

/// Entries of a batch, with the token that each predicts.
type Rows = Vec<(usize, Token)>;

impl Reader {
    fn new(worker: &Worker, texts: &[ScoreText], adapter: Option<LoadedAdapter>) -> Result<Self> {
        let longest = texts
            .iter()
            .map(|text| text.prompt.len() + text.completion.len())
            .max()
            .unwrap_or(1);
        // Logits of 4 million floats at a time, whatever the vocabulary: 16 MiB, and the same again
        // in the compute buffer.
        let n_outputs_max = ((1 << 22) / worker.chat.model().n_vocab()).clamp(8, 256);
        let n_batch = worker.sizes.n_batch.max(n_outputs_max as u32);
        let params = ContextParams {
            n_ctx: longest as u32,
            n_batch,
            n_ubatch: n_batch,
            n_seq_max: 1,
            n_outputs_max: n_outputs_max as u32,
            // The fused kernel's result depends on how many tokens it gets at once (observed: 0.3
            // nats on one token); without it a score depends on its text alone.
            flash_attention: FlashAttention::Off,
            products: Products::Alike,
            ..worker.sizes.context_params()
        };
        let mut context = Context::new(worker.chat.model(), &params)?;
        if let Some(adapter) = adapter {
            context.set_adapters(&[(adapter.adapter, adapter.scale)])?;
        }
        Ok(Self {
            context,
            n_outputs_max,
            cached: Vec::new(),
            text: Vec::new(),
            targets: Vec::new(),
        })
    }

    /// Turns to a text. What it shares with the one before stays in the cache, but for what is to
    /// be scored.
    fn begin(&mut self, text: &ScoreText) -> Result<()> {
        let n = text.prompt.len() + text.completion.len() - 1;
        self.text = text
            .prompt
            .iter()
            .chain(&text.completion)
            .copied()
            .take(n)
            .collect();
        let first = text.prompt.len() - 1;
        self.targets = vec![None; first];
        self.targets
            .extend(text.completion.iter().copied().map(Some));
        let keep = if self.context.model().can_truncate() {
            common_prefix(&self.cached, &self.text).min(first)
        } else {
            0
        };
        self.context.kv_truncate(0, keep as i32)?;
        self.cached.truncate(keep);
        Ok(())
    }

    /// Computes the next piece; `None` when the text is read.
    fn step(&mut self, canceller: &Canceller) -> Result<Option<Rows>> {
        let start = self.cached.len();
        if start == self.text.len() {
            return Ok(None);
        }
        let mut batch = Batch::new();
        let mut rows = Vec::new();
        for position in start..self.text.len().min(start + self.context.n_batch() as usize) {
            let target = self.targets[position];
            if target.is_some() && rows.len() == self.n_outputs_max {
                break;
            }
            let row = batch.push(self.text[position], position as i32, 0, target.is_some());
            rows.extend(target.map(|target| (row, target)));
        }
        self.context.decode(&batch, Some(canceller.flag()))?;
        self.cached.extend(&self.text[start..start + batch.len()]);
        Ok(Some(rows))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn texts_that_cannot_be_scored_are_named() {
        let text = |prompt: &[Token], completion: &[Token]| ScoreText {
            prompt: prompt.into(),
            completion: completion.into(),
        };
        let good = text(&[1], &[2]);
        assert!(check(std::slice::from_ref(&good), 10, 101).is_ok());
        for bad in [
            text(&[1], &[]),
            text(&[], &[1]),
            text(&[1], &[10]),
            text(&[-1], &[1]),
            text(&[1; 60], &[1; 60]),
        ] {
            let error = check(&[good.clone(), bad], 10, 101).unwrap_err();
            assert!(
                matches!(error, EngineError::CannotScore { index: 1, .. }),
                "{error}"
            );
        }
    }
}
