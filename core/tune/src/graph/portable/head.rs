//! The head out of operations that every backend has: see [`head`](super::super::head) for what it computes.
//!
//! The largest logit of a row cannot be had on every backend. What is taken from logits before they are exponentiated is their mean
//! under their own softmax instead: that is at most the logarithm of the vocabulary's size below the largest.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{
    Backend, Binary, GgmlError, Graph, Storage, StorageBuilder, Tensor, TensorId, Unary,
};

use super::super::fragments::{Fragments, Result, Weights};
use super::super::head::{BY_MEAN, VOCAB_BLOCK, Wanted};
use super::super::kept::Kept;
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

/// What chunks read and write, `rows` of them at a time, and what is made of a ubatch's targets.
pub struct ChunkMemory {
    storage: Storage,
    /// Rows of the hidden states: I32.
    places: TensorId,
    /// Labels, and 0 for a target that is a distribution: I32.
    labels: TensorId,
    /// Where a label's logit is among all of the chunk: I32.
    logits: TensorId,
    /// 1 for labels, 0 for distributions: `[1, rows]`.
    are_labels: TensorId,
    /// Mean embeddings of the targets that are distributions, 0 for labels: `[n_embd, rows]`.
    means: TensorId,
    /// Receives [`STATS`] rows of a number for each row.
    stats: TensorId,
    rows: usize,
    /// For each row of a ubatch, one of its targets: I32.
    of_row: TensorId,
    /// What that target weighs in the gradient: `[1, n]`.
    weight_of_row: TensorId,
    /// Gradients or means of a ubatch's targets: `[n_embd, targets]`. Grows.
    out: (Storage, TensorId),
}

impl ChunkMemory {
    /// For chunks of `rows` targets and ubatches of `n_tokens`.
    pub fn new(model: &Model, rows: usize, n_tokens: usize, backend: &Backend) -> Result<Self> {
        let n_embd = model.spec.n_embd;
        let mut builder = StorageBuilder::new();
        Ok(Self {
            places: builder.add(GgmlType::I32, &[rows]),
            labels: builder.add(GgmlType::I32, &[rows]),
            logits: builder.add(GgmlType::I32, &[rows]),
            are_labels: builder.add(GgmlType::F32, &[1, rows]),
            means: builder.add(GgmlType::F32, &[n_embd, rows]),
            stats: builder.add(GgmlType::F32, &[rows, STATS]),
            of_row: builder.add(GgmlType::I32, &[n_tokens]),
            weight_of_row: builder.add(GgmlType::F32, &[1, n_tokens]),
            storage: builder.build(backend)?,
            rows,
            out: for_targets(n_embd, n_tokens, backend)?,
        })
    }

    pub fn n_bytes(&self) -> usize {
        self.storage.n_bytes() + self.out.0.n_bytes()
    }

    /// Makes room for so many targets: more than rows where many completions begin at one.
    pub fn fit(&mut self, n_targets: usize, backend: &Backend) -> Result<()> {
        let [n_embd, capacity, ..] = self.out.0.get(self.out.1).ne();
        if n_targets > capacity {
            self.out = for_targets(n_embd, n_targets, backend)?;
        }
        Ok(())
    }

    /// Writes a chunk: rows of hidden states, labels or [`BY_MEAN`], and means where targets are distributions.
    pub fn write(
        &mut self,
        model: &Model,
        places: &[i32],
        labels: &[i32],
        means: &[Option<&[f32]>],
    ) -> Result<()> {
        let spec = &model.spec;
        let storage = &mut self.storage;
        let plain: Vec<i32> = labels.iter().map(|label| (*label).max(0)).collect();
        let logit = |(row, label): (usize, &i32)| row as i32 * spec.n_vocab as i32 + label;
        let logits: Vec<i32> = plain.iter().enumerate().map(logit).collect();
        let are_labels: Vec<f32> = labels.iter().map(|l| f32::from(*l != BY_MEAN)).collect();
        storage.write_at(self.places, 0, places)?;
        storage.write_at(self.labels, 0, &plain)?;
        storage.write_at(self.logits, 0, &logits)?;
        storage.write_at(self.are_labels, 0, &are_labels)?;
        if means.iter().all(Option::is_none) {
            return Ok(());
        }
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

    /// What was made of the first targets: `[n_targets, n_embd]`.
    pub fn out(&self, n_targets: usize) -> Result<Vec<f32>> {
        let (storage, id) = &self.out;
        let mut out = vec![0.0; n_targets * storage.get(*id).ne()[0]];
        storage.read_at(*id, 0, &mut out)?;
        Ok(out)
    }

    /// Writes one target of each row, and what it weighs.
    pub fn write_weights(&mut self, targets: &[i32], weights: &[f32]) -> Result<()> {
        self.storage.write_at(self.of_row, 0, targets)?;
        self.storage.write_at(self.weight_of_row, 0, weights)
    }

    /// Builds the graph that puts weighted gradients of targets into the rows of `gradient`, or adds them to what is there.
    pub fn build_gradient<'a>(
        &'a self,
        graph: &Graph<'a>,
        (storage, gradient): (&'a Storage, TensorId),
        n_rows: usize,
        adds: bool,
    ) -> Result<()> {
        let (out, id) = &self.out;
        let of_row = graph.columns(graph.load(&self.storage, self.of_row)?, 0, n_rows)?;
        let weights = graph.rows(graph.load(&self.storage, self.weight_of_row)?, 0, n_rows)?;
        let rows = graph.get_rows(graph.load(out, *id)?, of_row)?;
        let weighted = graph.binary(Binary::Mul, rows, weights)?;
        let target = graph.rows(graph.load(storage, gradient)?, 0, n_rows)?;
        let sum = match adds {
            true => graph.binary(Binary::Add, weighted, target)?,
            false => weighted,
        };
        graph.store(sum, target)
    }
}

fn for_targets(n_embd: usize, n: usize, backend: &Backend) -> Result<(Storage, TensorId)> {
    let mut builder = StorageBuilder::new();
    let id = builder.add(GgmlType::F32, &[n_embd, n]);
    Ok((builder.build(backend)?, id))
}

/// A chunk of targets to be scored.
pub struct Chunk<'a> {
    pub model: &'a Model,
    pub memory: &'a ChunkMemory,
    /// Where `indices` and `hidden` are.
    pub storage: &'a Storage,
    /// 0, 1, 2 and so on.
    pub indices: TensorId,
    /// Hidden states before the final norm: `[n_embd, n]`.
    pub hidden: TensorId,
    /// The first of the chunk's targets.
    pub first: usize,
    /// Targets of the chunk.
    pub n_rows: usize,
    /// Whether targets that are distributions are among them.
    pub has_means: bool,
    /// Copies of the frozen matrices.
    pub kept: Option<&'a Kept>,
}

impl<'a> Chunk<'a> {
    /// Builds the graph: statistics, and what else is wanted.
    pub fn build(&self, graph: &Graph<'a>, wanted: Wanted) -> Result<()> {
        let (model, spec) = (self.model, &self.model.spec);
        let memory = self.memory;
        let all = graph.load(self.storage, self.hidden)?;
        let hidden = graph.get_rows(all, self.columns(graph, memory.places)?)?;
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
        let mut target = graph.get_rows(flat, self.columns(graph, memory.logits)?)?;
        let are_labels = self.rows(graph, memory.are_labels)?;
        let means = self.rows(graph, memory.means)?;
        if self.has_means {
            // Each is 0 where the other holds.
            let by_mean = graph.sum_rows(b.mul(h, means)?)?;
            target = b.add(b.mul(target, are_labels)?, by_mean)?;
        }
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
            return self.store(graph, sum);
        }
        let mut label_rows = graph.get_rows(head, self.columns(graph, memory.labels)?)?;
        if let Some(slope) = slope {
            let flat = graph.reshape(slope, [1, slope.n_elements(), 1, 1])?;
            let of_labels = graph.get_rows(flat, self.columns(graph, memory.logits)?)?;
            label_rows = b.mul(
                label_rows,
                graph.reshape(of_labels, [1, self.n_rows, 1, 1])?,
            )?;
        }
        let target = match self.has_means {
            true => b.add(b.mul(label_rows, are_labels)?, means)?,
            false => label_rows,
        };
        let dh = b.scaled(graph.binary(Binary::Sub, target, sum)?, spec.logit_scale)?;
        self.store(graph, b.norm_backward(&norm, hidden, dh, None)?)
    }

    fn store<'g>(&self, graph: &'g Graph<'a>, made: Tensor<'g>) -> Result<()> {
        let (storage, id) = &self.memory.out;
        let out = graph.load(storage, *id)?;
        graph.store(made, graph.rows(out, self.first, self.n_rows)?)
    }

    /// `[n_vocab, rows]`: block by block, so that what is dequantized does not grow with the vocabulary.
    fn logits<'g>(
        &self,
        b: &Portable<'g, 'a>,
        head: Tensor<'g>,
        h: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        if let Some(weights) = self.kept_head(b.graph)? {
            return b.project(&weights, h);
        }
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
        if let Some(head) = self.kept_head(b.graph)? {
            return b.project_backward(&head, weights);
        }
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

    fn kept_head<'g>(&self, graph: &'g Graph<'a>) -> Result<Option<Weights<'g>>> {
        let Some(kept) = self.kept else {
            return Ok(None);
        };
        Ok(Some(Weights {
            parts: Vec::new(),
            kept: Some(kept.of_head(graph, 0)?),
        }))
    }

    fn rows<'g>(&self, graph: &'g Graph<'a>, id: TensorId) -> Result<Tensor<'g>> {
        graph.rows(graph.load(&self.memory.storage, id)?, 0, self.n_rows)
    }

    fn columns<'g>(&self, graph: &'g Graph<'a>, id: TensorId) -> Result<Tensor<'g>> {
        graph.columns(graph.load(&self.memory.storage, id)?, 0, self.n_rows)
    }
}
