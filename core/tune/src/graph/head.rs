//! Log-probabilities of labels, and their gradients with respect to the hidden state: the head runs once.
//!
//! The gradient of a label's log-probability with respect to the normed hidden state `h` is `W[label] - sum_v p_v W[v]`. It is linear
//! in the one coefficient that an objective gives a sequence, so it is computed unscaled before the objective is known. The
//! vocabulary is worked on in blocks, so that neither scratch nor transposed weights grow with it; each block's logits are let go of
//! before the next one's, its part of the sum being taken over the largest logit so far and shrunk as larger ones come (Milakov and
//! Gimelshein 2018).
//!
//! A target may also be a whole distribution `q`, of which its mean embedding `e = sum_v q_v W[v]` says all: logits are linear in
//! `W` (where no cap bends them), so the cross-entropy is `log sum_v exp(h . W[v]) - h . e`, and the gradient of its negative is `e - sum_v p_v W[v]`.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::Work;
use thumbprint_ggml::ggml::{
    Backend, Graph, Storage, StorageBuilder, Tensor, TensorId, dequantize_row,
};

use super::builder::Builder;
use super::fragments::{Fragments, Result, Weights};
use super::kept::Kept;
use super::kernels::head::{
    LABEL, SHRINK, STATS, SUM, accumulate, begin, begin_with_mean, capped_exponentials,
    exponentials,
};
use super::kernels::rows::cap_slope;
use super::layer::load_norm;
use super::scratch::Scratch;
use crate::model::Model;

/// Vocabulary entries of one block.
pub const VOCAB_BLOCK: usize = 2048;

/// Tensors that the graph of a chunk may need.
pub fn graph_nodes(n_vocab: usize) -> usize {
    64 + 20 * n_vocab.div_ceil(VOCAB_BLOCK)
}

/// In place of a label: the target is a distribution, by its mean embedding.
pub const BY_MEAN: i32 = -1;

/// What to compute for each row, beside its statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    LogProb,
    /// The unscaled gradient of the target's log-probability with respect to the hidden state.
    Gradient,
    /// The mean embedding of the row's own distribution.
    Mean,
}

/// What the head reads and writes, a chunk of rows at a time.
pub struct HeadMemory {
    pub storage: Storage,
    /// Hidden states before the final norm: `[n_embd, rows]`, F32. Receives gradients or means, if wanted.
    pub hidden: TensorId,
    /// Labels `[rows]`, I32, or [`BY_MEAN`].
    pub labels: TensorId,
    /// Mean embeddings of the targets that are distributions: `[n_embd, rows]`, F32.
    pub means: TensorId,
    /// Receives [`STATS`] numbers a row, F32.
    pub stats: TensorId,
}

impl HeadMemory {
    pub fn new(n_embd: usize, rows: usize, backend: &Backend) -> Result<Self> {
        let mut builder = StorageBuilder::new();
        Ok(Self {
            hidden: builder.add(GgmlType::F32, &[n_embd, rows]),
            labels: builder.add(GgmlType::I32, &[rows]),
            means: builder.add(GgmlType::F32, &[n_embd, rows]),
            stats: builder.add(GgmlType::F32, &[STATS, rows]),
            storage: builder.build(backend)?,
        })
    }

    /// Writes a chunk: hidden states, labels, and means where targets are distributions.
    pub fn write(
        &mut self,
        hidden: &[f32],
        labels: &[i32],
        means: &[Option<&[f32]>],
    ) -> Result<()> {
        self.storage.write_at(self.hidden, 0, hidden)?;
        self.storage.write_at(self.labels, 0, labels)?;
        for (row, mean) in means.iter().enumerate() {
            if let Some(mean) = mean {
                let offset = row * size_of_val(*mean);
                self.storage.write_at(self.means, offset, mean)?;
            }
        }
        Ok(())
    }
}

/// A chunk of rows to be scored.
pub struct HeadChunk<'a> {
    pub model: &'a Model,
    pub memory: &'a HeadMemory,
    pub scratch: Scratch,
    /// Packed copies of frozen matrices.
    pub kept: Option<&'a Kept>,
    /// Rows in use.
    pub n_rows: usize,
}

impl<'a> HeadChunk<'a> {
    /// Builds the graph: statistics, and what else is wanted in place of the hidden states.
    pub fn build(&self, graph: &Graph<'a>, wanted: Wanted) -> Result<()> {
        let (model, memory) = (self.model, self.memory);
        let b = Builder {
            graph,
            scratch: self.scratch,
            n_tokens: self.n_rows,
        };
        let hidden = graph.rows(graph.load(&memory.storage, memory.hidden)?, 0, self.n_rows)?;
        let labels = graph.columns(graph.load(&memory.storage, memory.labels)?, 0, self.n_rows)?;
        let means = graph.rows(graph.load(&memory.storage, memory.means)?, 0, self.n_rows)?;
        let norm = load_norm(graph, model, model.output_norm)?;
        let head = graph.load(&model.storage, model.head)?;
        // Scaling what the head multiplies scales its logits.
        let scale = model.spec.logit_scale;
        let h = b.scaled(b.norm(&norm, hidden)?, scale)?;

        let n_vocab = model.spec.n_vocab;
        let cap = model.spec.logit_cap;
        let mut stats = self.begin(graph, h, labels, means)?;
        let mut sum: Option<Tensor<'_>> = None;
        for first in (0..n_vocab).step_by(VOCAB_BLOCK) {
            let rows = graph.rows(head, first, (n_vocab - first).min(VOCAB_BLOCK))?;
            let mut rows = Weights::from([rows]);
            if let Some(kept) = self.kept {
                rows.kept = Some(kept.of_head(graph, first)?);
            }
            let logits = b.capped(b.project(&rows, h)?, cap)?;
            stats = self.accumulate(graph, logits, labels, stats, first)?;
            if wanted != Wanted::LogProb {
                let cap = cap.filter(|_| wanted == Wanted::Gradient);
                let p = self.exponentials(graph, logits, stats, cap)?;
                let weighted = b.project_backward(&rows, p)?;
                let so_far = match sum {
                    None => weighted,
                    Some(before) => self.add_shrunk(graph, weighted, before, stats)?,
                };
                // Before the next block changes the statistics in place.
                graph.expand(so_far)?;
                sum = Some(so_far);
            }
        }
        graph.store(
            stats,
            graph.rows(graph.load(&memory.storage, memory.stats)?, 0, self.n_rows)?,
        )?;
        let Some(sum) = sum else { return Ok(()) };
        let sum = self.normalized(graph, sum, stats)?;
        if wanted == Wanted::Mean {
            return graph.store(sum, hidden);
        }
        let dh = self.minus_from_target(graph, sum, head, labels, means, stats)?;
        let dh = b.scaled(dh, scale)?;
        let dx = b.norm_backward(&norm, hidden, dh, None)?;
        graph.store(dx, hidden)
    }

    /// Statistics before any logits.
    fn begin<'g>(
        &self,
        graph: &'g Graph<'a>,
        h: Tensor<'g>,
        labels: Tensor<'g>,
        means: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let work = Work::rows("softmax_begin", self.n_rows, STATS * size_of::<f32>(), 4);
        graph.custom(
            GgmlType::F32,
            [STATS, self.n_rows, 1, 1],
            &[h, labels, means],
            work,
            Box::new(move |unit, args, out| {
                for (i, stats) in out.region::<f32>(0).chunks_exact_mut(STATS).enumerate() {
                    let row = unit * 4 + i;
                    stats.copy_from_slice(&match args.view::<i32>(1).data[row] {
                        BY_MEAN => begin_with_mean(args.f32(0).row(row), args.f32(2).row(row)),
                        _ => begin(),
                    });
                }
            }),
        )
    }

    fn accumulate<'g>(
        &self,
        graph: &'g Graph<'a>,
        logits: Tensor<'g>,
        labels: Tensor<'g>,
        stats: Tensor<'g>,
        first: usize,
    ) -> Result<Tensor<'g>> {
        let work = Work::rows("softmax_stats", self.n_rows, STATS * size_of::<f32>(), 4);
        graph.custom_in_place(
            stats,
            &[logits, labels],
            work,
            Box::new(move |unit, args, out| {
                let (logits, labels) = (args.f32(0), args.view::<i32>(1));
                for (i, stats) in out.region::<f32>(0).chunks_exact_mut(STATS).enumerate() {
                    let row = unit * 4 + i;
                    // BY_MEAN is in no block.
                    accumulate(logits.row(row), first, labels.data[row] as usize, stats);
                }
            }),
        )
    }

    /// Exponentials in place of logits, relative to the largest so far, each times the slope of the cap, if there is one.
    fn exponentials<'g>(
        &self,
        graph: &'g Graph<'a>,
        logits: Tensor<'g>,
        stats: Tensor<'g>,
        cap: Option<f32>,
    ) -> Result<Tensor<'g>> {
        let width = logits.ne()[0];
        let work = Work::rows("exponentials", self.n_rows, width * size_of::<f32>(), 4);
        graph.custom_in_place(
            logits,
            &[stats],
            work,
            Box::new(move |unit, args, out| {
                for (i, row) in out.region::<f32>(0).chunks_exact_mut(width).enumerate() {
                    let stats = args.f32(0).row(unit * 4 + i);
                    match cap {
                        None => exponentials(row, stats),
                        Some(cap) => capped_exponentials(row, stats, cap),
                    }
                }
            }),
        )
    }

    /// `sum` plus the sum over the blocks before, which was taken over what was the largest logit then. In place.
    fn add_shrunk<'g>(
        &self,
        graph: &'g Graph<'a>,
        sum: Tensor<'g>,
        before: Tensor<'g>,
        stats: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let width = sum.ne()[0];
        let work = Work::rows("head_add", self.n_rows, width * size_of::<f32>(), 8);
        graph.custom_in_place(
            sum,
            &[before, stats],
            work,
            Box::new(move |unit, args, out| {
                for (i, sum) in out.region::<f32>(0).chunks_exact_mut(width).enumerate() {
                    let row = unit * 8 + i;
                    let shrink = args.f32(1).row(row)[SHRINK];
                    let before = args.f32(0).row(row);
                    sum.iter_mut()
                        .zip(before)
                        .for_each(|(sum, before)| *sum += shrink * before);
                }
            }),
        )
    }

    /// The sum over all blocks by that of their probabilities, in place.
    fn normalized<'g>(
        &self,
        graph: &'g Graph<'a>,
        sum: Tensor<'g>,
        stats: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let width = sum.ne()[0];
        let work = Work::rows("head_normalize", self.n_rows, width * size_of::<f32>(), 8);
        graph.custom_in_place(
            sum,
            &[stats],
            work,
            Box::new(move |unit, args, out| {
                for (i, sum) in out.region::<f32>(0).chunks_exact_mut(width).enumerate() {
                    let factor = 1.0 / args.f32(0).row(unit * 8 + i)[SUM];
                    sum.iter_mut().for_each(|x| *x *= factor);
                }
            }),
        )
    }

    /// `W[label] - sum` (`W[label]` times the slope of the cap, if there is one), or the target's mean minus the sum, in place.
    fn minus_from_target<'g>(
        &self,
        graph: &'g Graph<'a>,
        sum: Tensor<'g>,
        head: Tensor<'g>,
        labels: Tensor<'g>,
        means: Tensor<'g>,
        stats: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let (width, ty) = (sum.ne()[0], head.ty());
        let cap = self.model.spec.logit_cap;
        let work = Work::rows("label_gradient", self.n_rows, width * size_of::<f32>(), 8);
        graph.custom_in_place(
            sum,
            &[head, labels, means, stats],
            work,
            Box::new(move |unit, args, out| {
                let (head, labels) = (args.raw(0), args.view::<i32>(1));
                let mut label_row = vec![0.0; width];
                for (i, row) in out.region::<f32>(0).chunks_exact_mut(width).enumerate() {
                    let target = match labels.data[unit * 8 + i] {
                        BY_MEAN => args.f32(2).row(unit * 8 + i),
                        label => {
                            let start = label as usize * head.stride[1];
                            let bytes = &head.data[start..start + ty.row_size(width)];
                            if let Err(error) = dequantize_row(ty, bytes, &mut label_row) {
                                panic!("{error}");
                            }
                            if let Some(cap) = cap {
                                let slope = cap_slope(args.f32(3).row(unit * 8 + i)[LABEL], cap);
                                label_row.iter_mut().for_each(|w| *w *= slope);
                            }
                            &label_row
                        }
                    };
                    row.iter_mut()
                        .zip(target)
                        .for_each(|(sum, target)| *sum = target - *sum);
                }
            }),
        )
    }
}
