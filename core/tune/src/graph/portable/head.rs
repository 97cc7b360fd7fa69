//! The head out of operations that every backend has: see [`head`](super::super::head) for what it computes.
//!
//! The largest logit of a row cannot be had on every backend. What is taken from logits before they are exponentiated is their mean
//! under their own softmax instead: that is at most the logarithm of the vocabulary's size below the largest.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{
    Backend, Binary, GgmlError, Graph, Storage, StorageBuilder, Tensor, TensorId, Unary,
};

use super::super::fragments::{Fragments, Result};
use super::super::head::{BY_MEAN, VOCAB_BLOCK, Wanted};
use super::super::layer::load_norm;
use super::Portable;
use crate::model::Model;

/// Numbers that describe a row: the mean logit, the sum of exponentials over it, the sum of squared probabilities, the target's logit.
const STATS: usize = 4;

/// Tensors that the graph of a chunk may need.
pub fn graph_nodes(n_vocab: usize) -> usize {
    128 + 20 * n_vocab.div_ceil(VOCAB_BLOCK)
}

/// Log-probability of a row's target, nats.
pub fn log_prob(stats: &[f32]) -> f64 {
    let [mean, sum, _, target] = [0, 1, 2, 3].map(|i| f64::from(stats[i]));
    target - mean - sum.ln()
}

/// The log of the sum over the vocabulary of squared probabilities.
pub fn log_sum_sq(stats: &[f32]) -> f64 {
    f64::from(stats[2]).ln()
}

/// What chunks read and write, `rows` of them at a time.
pub struct ChunkMemory {
    pub storage: Storage,
    /// Hidden states before the final norm: `[n_embd, rows]`. Receives gradients or means, if wanted.
    pub hidden: TensorId,
    /// Labels, and 0 for a target that is a distribution: I32.
    labels: TensorId,
    /// Where a label's logit is among all of the chunk: I32.
    places: TensorId,
    /// 1 for labels, 0 for distributions: `[1, rows]`.
    are_labels: TensorId,
    /// Mean embeddings of the targets that are distributions, 0 for labels: `[n_embd, rows]`.
    means: TensorId,
    /// Receives [`STATS`] rows of a number for each row.
    stats: TensorId,
    rows: usize,
}

impl ChunkMemory {
    pub fn new(model: &Model, rows: usize, backend: &Backend) -> Result<Self> {
        let n_embd = model.spec.n_embd;
        let mut builder = StorageBuilder::new();
        Ok(Self {
            hidden: builder.add(GgmlType::F32, &[n_embd, rows]),
            labels: builder.add(GgmlType::I32, &[rows]),
            places: builder.add(GgmlType::I32, &[rows]),
            are_labels: builder.add(GgmlType::F32, &[1, rows]),
            means: builder.add(GgmlType::F32, &[n_embd, rows]),
            stats: builder.add(GgmlType::F32, &[rows, STATS]),
            storage: builder.build(backend)?,
            rows,
        })
    }

    /// Writes a chunk: hidden states, labels or [`BY_MEAN`], and means where targets are distributions.
    pub fn write(
        &mut self,
        model: &Model,
        hidden: &[f32],
        labels: &[i32],
        means: &[Option<&[f32]>],
    ) -> Result<()> {
        let spec = &model.spec;
        let storage = &mut self.storage;
        storage.write_at(self.hidden, 0, hidden)?;
        let plain: Vec<i32> = labels.iter().map(|label| (*label).max(0)).collect();
        let place = |(row, label): (usize, &i32)| row as i32 * spec.n_vocab as i32 + label;
        let places: Vec<i32> = plain.iter().enumerate().map(place).collect();
        let are_labels: Vec<f32> = labels.iter().map(|l| f32::from(*l != BY_MEAN)).collect();
        storage.write_at(self.labels, 0, &plain)?;
        storage.write_at(self.places, 0, &places)?;
        storage.write_at(self.are_labels, 0, &are_labels)?;
        let nothing = vec![0.0; spec.n_embd];
        for (row, mean) in means.iter().enumerate() {
            let offset = row * spec.n_embd * size_of::<f32>();
            storage.write_at(self.means, offset, mean.unwrap_or(&nothing))?;
        }
        Ok(())
    }

    /// The statistics of the first rows, one after another.
    pub fn stats(&self, n_rows: usize) -> Result<Vec<[f32; STATS]>> {
        let all = self.storage.to_vec::<f32>(self.stats)?;
        let of = |row: usize| std::array::from_fn(|i| all[i * self.rows + row]);
        Ok((0..n_rows).map(of).collect())
    }
}

/// A chunk of rows to be scored.
pub struct Chunk<'a> {
    pub model: &'a Model,
    pub memory: &'a ChunkMemory,
    /// Where `indices` is.
    pub storage: &'a Storage,
    /// 0, 1, 2 and so on.
    pub indices: TensorId,
    /// Rows in use.
    pub n_rows: usize,
}

impl<'a> Chunk<'a> {
    /// Builds the graph: statistics, and what else is wanted in place of the hidden states.
    pub fn build(&self, graph: &Graph<'a>, wanted: Wanted) -> Result<()> {
        let (model, spec) = (self.model, &self.model.spec);
        let memory = self.memory;
        let hidden = self.rows(graph, memory.hidden)?;
        let indices = graph.load(self.storage, self.indices)?;
        let b = Portable {
            graph,
            n_tokens: self.n_rows,
            indices,
            // No attention here.
            mask: hidden,
        };
        let norm = load_norm(graph, model, model.output_norm)?;
        let head = graph.load(&model.storage, model.head)?;
        let h = b.scaled(b.norm(&norm, hidden)?, spec.logit_scale)?;
        let logits = b.capped(self.logits(&b, head, h)?, spec.logit_cap)?;
        let p = graph.soft_max(logits, None, 1.0)?;

        let mean = graph.sum_rows(b.mul(p, logits)?)?;
        let over = graph.unary(Unary::Exp, b.sub(logits, mean)?)?;
        let flat = graph.reshape(logits, [1, logits.n_elements(), 1, 1])?;
        let of_labels = graph.get_rows(flat, self.columns(graph, memory.places)?)?;
        let are_labels = self.rows(graph, memory.are_labels)?;
        let means = self.rows(graph, memory.means)?;
        // Each is 0 where the other holds.
        let target = b.add(
            b.mul(of_labels, are_labels)?,
            graph.sum_rows(b.mul(h, means)?)?,
        )?;
        let squares = graph.sum_rows(graph.unary(Unary::Square, p)?)?;
        let stats = [mean, graph.sum_rows(over)?, squares, target];
        for (row, values) in stats.into_iter().enumerate() {
            let to = graph.load(&memory.storage, memory.stats)?;
            let to = graph.columns(graph.rows(to, row, 1)?, 0, self.n_rows)?;
            graph.store(values, to)?;
        }
        if wanted == Wanted::LogProb {
            return Ok(());
        }

        let slope = match spec.logit_cap.filter(|_| wanted == Wanted::Gradient) {
            Some(cap) => {
                let relative = graph.scale(logits, 1.0 / cap, 0.0)?;
                let square = graph.unary(Unary::Square, relative)?;
                Some(graph.scale(square, -1.0, 1.0)?)
            }
            None => None,
        };
        let weights = match slope {
            Some(slope) => b.mul(p, slope)?,
            None => p,
        };
        let sum = self.weighted(&b, head, weights)?;
        if wanted == Wanted::Mean {
            return graph.store(sum, hidden);
        }
        let mut label_rows = graph.get_rows(head, self.columns(graph, memory.labels)?)?;
        if let Some(slope) = slope {
            let flat = graph.reshape(slope, [1, slope.n_elements(), 1, 1])?;
            let of_labels = graph.get_rows(flat, self.columns(graph, memory.places)?)?;
            label_rows = b.mul(
                label_rows,
                graph.reshape(of_labels, [1, self.n_rows, 1, 1])?,
            )?;
        }
        let target = b.add(b.mul(label_rows, are_labels)?, means)?;
        let dh = b.scaled(graph.binary(Binary::Sub, target, sum)?, spec.logit_scale)?;
        let dx = b.norm_backward(&norm, hidden, dh, None)?;
        graph.store(dx, hidden)
    }

    /// `[n_vocab, rows]`: block by block, so that what is dequantized does not grow with the vocabulary.
    fn logits<'g>(
        &self,
        b: &Portable<'g, 'a>,
        head: Tensor<'g>,
        h: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let n_vocab = self.model.spec.n_vocab;
        let blocks = (0..n_vocab).step_by(VOCAB_BLOCK).map(|first| {
            let rows = b
                .graph
                .rows(head, first, (n_vocab - first).min(VOCAB_BLOCK))?;
            b.project(&[rows].into(), h)
        });
        b.stacked(blocks.collect::<Result<Vec<_>>>()?)
    }

    /// The head's rows weighted, `[n_embd, rows]`: likewise.
    fn weighted<'g>(
        &self,
        b: &Portable<'g, 'a>,
        head: Tensor<'g>,
        weights: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let n_vocab = self.model.spec.n_vocab;
        let mut sum = None;
        for first in (0..n_vocab).step_by(VOCAB_BLOCK) {
            let len = (n_vocab - first).min(VOCAB_BLOCK);
            let part = b.part(weights, first, len)?;
            let block = b.project_backward(&[b.graph.rows(head, first, len)?].into(), part)?;
            sum = Some(match sum {
                None => block,
                Some(before) => b.add(before, block)?,
            });
        }
        sum.ok_or(GgmlError::Failed {
            what: "a vocabulary",
            status: -1,
        })
    }

    fn rows<'g>(&self, graph: &'g Graph<'a>, id: TensorId) -> Result<Tensor<'g>> {
        graph.rows(graph.load(&self.memory.storage, id)?, 0, self.n_rows)
    }

    fn columns<'g>(&self, graph: &'g Graph<'a>, id: TensorId) -> Result<Tensor<'g>> {
        graph.columns(graph.load(&self.memory.storage, id)?, 0, self.n_rows)
    }
}
