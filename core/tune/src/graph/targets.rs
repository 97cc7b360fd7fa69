//! The targets of a ubatch: their log-probabilities, a chunk of them at a time, and the gradient that the blocks' backward pass
//! begins with.

use thumbprint_ggml::ggml::{Backend, GgmlError, Graph, Storage, TensorId};

use super::head::{self, BY_MEAN, HeadChunk, HeadMemory, Wanted};
use super::kept::Kept;
use super::kernels::head::{STATS, log_prob, log_sum_sq};
use super::memory::Memory;
use super::network::{NetworkError, NetworkOptions};
use super::portable::{self, Chunk, ChunkMemory};
use super::runner::Runner;
use crate::batch::{Packed, Target};
use crate::model::Model;

type Result<T> = std::result::Result<T, NetworkError>;

/// Log-probability of a target, and the log of the sum over the vocabulary of squared probabilities.
type Score = (f64, f64);

/// Where chunks are worked on, and what came of a ubatch's targets.
pub enum Targets {
    /// Out of the CPU's operations.
    Custom {
        memory: HeadMemory,
        /// Gradients or means, a row a target.
        out: Vec<f32>,
    },
    /// Out of portable ones: hidden states and gradients stay on the device.
    Portable(ChunkMemory),
}

/// What scoring refers to.
pub struct Pass<'a> {
    pub model: &'a Model,
    pub options: &'a NetworkOptions,
    /// Packed copies of frozen matrices.
    pub kept: Option<&'a Kept>,
    pub memory: &'a Memory,
}

impl Targets {
    pub fn new(
        model: &Model,
        options: &NetworkOptions,
        backend: &Backend,
    ) -> std::result::Result<Self, GgmlError> {
        let (rows, n_embd) = (options.head_rows, model.spec.n_embd);
        Ok(match options.device {
            None => Self::Custom {
                memory: HeadMemory::new(n_embd, rows, backend)?,
                out: Vec::new(),
            },
            Some(_) => Self::Portable(ChunkMemory::new(model, rows, options.max_tokens, backend)?),
        })
    }

    pub fn n_bytes(&self) -> usize {
        match self {
            Self::Custom { memory, .. } => memory.storage.n_bytes(),
            Self::Portable(memory) => memory.n_bytes(),
        }
    }

    /// Scores all targets of a ubatch whose last block's output is at `last`, and keeps what else is wanted.
    pub fn score(
        &mut self,
        runner: &mut Runner,
        pass: &Pass<'_>,
        packed: &Packed,
        last: TensorId,
        wanted: Wanted,
    ) -> Result<Vec<Score>> {
        let n_embd = pass.model.spec.n_embd;
        let hidden = match self {
            Self::Custom { out, .. } => {
                out.clear();
                let mut hidden = vec![0.0; packed.tokens.len() * n_embd];
                pass.memory.storage.read_at(last, 0, &mut hidden)?;
                hidden
            }
            Self::Portable(memory) => {
                memory.fit(packed.targets.len(), runner.backend())?;
                Vec::new()
            }
        };
        let all_means = packed.means_of_targets(n_embd);
        let mut scores = Vec::with_capacity(packed.targets.len());
        let n = pass.options.head_rows;
        for (chunk, targets) in packed.targets.chunks(n).enumerate() {
            let first = chunk * n;
            let means = &all_means[first..first + targets.len()];
            let label =
                |(target, mean): (&Target, &Option<&[f32]>)| mean.map_or(target.label, |_| BY_MEAN);
            let labels: Vec<i32> = targets.iter().zip(means).map(label).collect();
            match self {
                Self::Custom { memory, out } => {
                    let rows = targets.iter().map(|t| &hidden[t.row * n_embd..][..n_embd]);
                    memory.write(&rows.collect::<Vec<_>>().concat(), &labels, means)?;
                    let graph = Graph::new(head::graph_nodes(pass.model.spec.n_vocab))?;
                    let chunk = HeadChunk {
                        model: pass.model,
                        memory,
                        scratch: pass.options.kernels.scratch,
                        kept: pass.kept,
                        n_rows: labels.len(),
                    };
                    chunk.build(&graph, wanted)?;
                    runner.compute(graph)?;
                    let stats = memory.storage.to_vec::<f32>(memory.stats)?;
                    let stats = stats.chunks_exact(STATS).take(labels.len());
                    scores.extend(stats.map(|s| (log_prob(s), log_sum_sq(s))));
                    if wanted != Wanted::LogProb {
                        let before = out.len();
                        out.resize(before + labels.len() * n_embd, 0.0);
                        memory
                            .storage
                            .read_at(memory.hidden, 0, &mut out[before..])?;
                    }
                }
                Self::Portable(memory) => {
                    let rows: Vec<i32> = targets.iter().map(|t| t.row as i32).collect();
                    memory.write(pass.model, &rows, &labels, means)?;
                    let graph = Graph::new(portable::graph_nodes(pass.model.spec.n_vocab))?;
                    let chunk = Chunk {
                        model: pass.model,
                        memory,
                        storage: &pass.memory.storage,
                        indices: pass.memory.portable_ids().fragments[0].indices,
                        hidden: last,
                        first,
                        n_rows: labels.len(),
                        has_means: means.iter().any(Option::is_some),
                        kept: pass.kept,
                    };
                    chunk.build(&graph, wanted)?;
                    runner.compute(graph)?;
                    let stats = memory.stats(labels.len())?;
                    let score = |s: &[f32; 4]| (portable::log_prob(s), portable::log_sum_sq(s));
                    scores.extend(stats.iter().map(score));
                }
            }
        }
        Ok(scores)
    }

    /// What was kept of so many targets: `[n_targets, n_embd]`.
    pub fn out(&self, n_targets: usize) -> Result<Vec<f32>> {
        match self {
            Self::Custom { out, .. } => Ok(out.clone()),
            Self::Portable(memory) => Ok(memory.out(n_targets)?),
        }
    }

    /// Puts gradients of targets, each times its coefficient, into the rows of `gradient` that predict them.
    pub fn begin_gradient(
        &mut self,
        runner: &mut Runner,
        (storage, gradient): (&mut Storage, TensorId),
        packed: &Packed,
        coefficients: &[f32],
    ) -> Result<()> {
        let n_rows = packed.tokens.len();
        match self {
            Self::Custom { out, .. } => {
                let n_embd = storage.get(gradient).ne()[0];
                let mut start = vec![0.0f32; n_rows * n_embd];
                let targets = packed.targets.iter().zip(coefficients);
                for ((target, coefficient), from) in targets.zip(out.chunks_exact(n_embd)) {
                    let to = &mut start[target.row * n_embd..][..n_embd];
                    to.iter_mut()
                        .zip(from)
                        .for_each(|(to, from)| *to += coefficient * from);
                }
                Ok(storage.write_at(gradient, 0, &start)?)
            }
            Self::Portable(memory) => {
                for (nth, (targets, weights)) in
                    one_a_row(packed, coefficients).into_iter().enumerate()
                {
                    memory.write_weights(&targets, &weights)?;
                    let graph = Graph::new(portable::GRAPH_NODES)?;
                    memory.build_gradient(&graph, (&*storage, gradient), n_rows, nth > 0)?;
                    runner.compute(graph)?;
                }
                Ok(())
            }
        }
    }
}

/// A row may predict several targets: the first of each row, then the second, and so on, with what they weigh; nothing where a row has
/// no such target.
fn one_a_row(packed: &Packed, coefficients: &[f32]) -> Vec<(Vec<i32>, Vec<f32>)> {
    let n_rows = packed.tokens.len();
    let mut n_of_row = vec![0; n_rows];
    let mut all = vec![(vec![0; n_rows], vec![0.0; n_rows])];
    for (index, (target, coefficient)) in packed.targets.iter().zip(coefficients).enumerate() {
        let nth = n_of_row[target.row];
        n_of_row[target.row] += 1;
        if nth == all.len() {
            all.push((vec![0; n_rows], vec![0.0; n_rows]));
        }
        let (targets, weights) = &mut all[nth];
        targets[target.row] = index as i32;
        weights[target.row] = *coefficient;
    }
    all
}
