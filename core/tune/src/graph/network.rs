//! A model with an adapter and the memory to run it forward and backward, one ubatch at a time.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{GgmlError, Graph, StorageBuilder, TensorId};

use super::adapter::DeviceAdapter;
use super::choose::Kernels;
use super::experts::Routes;
use super::head::Wanted;
use super::kept::Kept;
use super::kernels::attention::Attention;
use super::kernels::dropout::Dropout;
use super::layer::{self, Extent, LayerContext, Make};
use super::memory::Memory;
use super::portable;
use super::runner::Runner;
use super::scratch::Scratch;
use super::targets::{self, Targets};
use super::update::{self, Moments};
use crate::adapter::Lora;
use crate::batch::Packed;
use crate::model::{Model, ModelError};

/// How a [`Network`] is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkOptions {
    /// Threads of the CPU backend.
    pub n_threads: usize,
    /// Most rows of a ubatch.
    pub max_tokens: usize,
    /// Number formats.
    pub kernels: Kernels,
    /// Blocks, from the lowest that is adapted on, of which only the input is kept, so that the rest is computed again during the backward
    /// pass. The topmost block is never one of them: its backward pass comes first.
    pub recomputed_layers: usize,
    /// Whether to compute gate and up again during the backward pass of blocks that keep the rest: two thirds of the widths, for an eighth
    /// of the products.
    pub recompute_gate_up: bool,
    /// Rows that the head scores at a time.
    pub head_rows: usize,
    /// Whether to keep copies of all frozen matrices in the form of products, in both directions, rather than to make them anew in every
    /// pass. On the CPU only packed matrices can be kept; on a device, rows.
    pub keep_weights: bool,
    /// Where to compute, out of operations that every backend has; if nothing is given, on the CPU, with operations of our own.
    pub device: Option<DeviceOptions>,
}

/// A device to compute on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceOptions {
    /// Its name, as [`devices`](thumbprint_ggml::ggml::devices) lists it. The CPU is one, too: for comparing.
    pub name: String,
    /// Whether to refuse what the device has no kernel for, rather than to compute that on the CPU.
    pub strict: bool,
}

/// What a pass leaves for the backward pass.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Nothing,
    Activations,
}

/// Why a pass could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// A ubatch with more rows than the network was made for.
    #[error(
        "a batch of {rows} tokens does not fit the {max} that memory was planned for; shorten the examples or plan for more"
    )]
    TooLong {
        /// Rows of the batch.
        rows: usize,
        /// Rows that fit.
        max: usize,
    },
    /// Operands that do not belong to this network or to one another.
    #[error("{reason}")]
    Mismatch {
        /// What does not fit.
        reason: String,
    },
    /// An operation that the device has no kernel for, where nothing else may compute it.
    #[error(
        "the device {device} has no kernel for the operation {op}; allow the CPU to compute it, or train on the CPU"
    )]
    Fallback {
        /// The device's name.
        device: String,
        /// The operation, as ggml names it.
        op: String,
    },
    /// The ggml layer failed, or the computation was stopped.
    #[error(transparent)]
    Ggml(#[from] GgmlError),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl NetworkError {
    /// Whether the computation was stopped through the abort flag.
    pub fn is_aborted(&self) -> bool {
        matches!(self, Self::Ggml(GgmlError::Aborted))
    }
}

type Result<T> = std::result::Result<T, NetworkError>;

/// Log-probabilities of a ubatch's targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Per completion, per token, nats.
    pub logps: Vec<Vec<f64>>,
    /// Beside each, the log of the sum over the vocabulary of squared probabilities.
    pub log_sum_sq: Vec<Vec<f64>>,
}

impl Scores {
    /// Sum over a completion's tokens, nats.
    pub fn sum(&self, sequence: usize) -> f64 {
        self.logps[sequence].iter().sum()
    }

    /// Sum over a completion's tokens from the `n`-th on, counted from 0, nats.
    pub fn sum_from(&self, sequence: usize, n: usize) -> f64 {
        self.logps[sequence].iter().skip(n).sum()
    }

    /// Mean over a completion's tokens of `log p(token) - log sum_v p(v)^2` (WPO, arXiv 2406.11827): 0 on average for what the model itself
    /// would sample, below for what it would not.
    pub fn log_confidence(&self, sequence: usize) -> f64 {
        let logps = &self.logps[sequence];
        let aligned = logps.iter().zip(&self.log_sum_sq[sequence]);
        aligned.map(|(p, s)| p - s).sum::<f64>() / logps.len().max(1) as f64
    }
}

/// d loss / d log-probability of a completion's tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficient {
    /// Of each of the first `n_head` tokens.
    pub head: f64,
    /// Of each token after them.
    pub tail: f64,
    /// Where the tail begins.
    pub n_head: usize,
}

impl From<f64> for Coefficient {
    /// The same for all tokens.
    fn from(all: f64) -> Self {
        Self {
            head: all,
            tail: all,
            n_head: 0,
        }
    }
}

/// Where the time of passes went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// In blocks, forward.
    pub forward: Duration,
    /// In the head, with the gradient that it begins.
    pub head: Duration,
    /// In blocks, backward.
    pub backward: Duration,
}

/// A frozen model, optionally with an adapter to be trained.
pub struct Network {
    model: Model,
    options: NetworkOptions,
    pub(super) runner: Runner,
    memory: Memory,
    targets: Targets,
    /// Packed copies of frozen matrices.
    weights: Option<Kept>,
    pub(super) adapter: Option<DeviceAdapter>,
    /// Of an adapter on a device.
    pub(super) moments: Option<Moments>,
    /// The batch whose activations are kept: that of the last [`forward`](Self::forward), if no other pass followed it.
    kept: Option<Packed>,
    /// Of [`forward`](Self::forward) and [`backward`](Self::backward).
    dropout: Option<Dropout>,
    /// Where tokens went in the last pass, block by block; nowhere in blocks without experts.
    routes: Vec<Arc<Routes>>,
    spent: Spent,
}

impl Network {
    /// Takes a model; with `lora`, memory for training it is allocated as well.
    ///
    /// # Errors
    /// [`NetworkError`] when memory cannot be had.
    pub fn new(model: Model, options: NetworkOptions, lora: Option<&Lora>) -> Result<Self> {
        if let Some(lora) = lora {
            check_adapter(&model, lora)?;
        }
        let (model, mut runner) = match &options.device {
            None => (model, Runner::cpu(options.n_threads)?),
            Some(device) => {
                let capacity = layer::portable_graph_nodes(&model.spec, options.max_tokens)
                    .max(portable::graph_nodes(model.spec.n_vocab))
                    .max(portable::GRAPH_NODES)
                    .max(update::GRAPH_NODES);
                // A graph's stored tensors count again.
                let runner = Runner::device(device, options.n_threads, 2 * capacity)?;
                (model.on_device(runner.backend())?, runner)
            }
        };
        let backend = runner.backend();
        let is_device = options.device.is_some();
        let adapter = lora
            .map(|lora| DeviceAdapter::new(&model, lora, is_device, backend))
            .transpose()?;
        let moments = adapter
            .as_ref()
            .filter(|_| is_device)
            .map(|adapter| Moments::new(adapter.layout.n_values, backend))
            .transpose()?;
        let memory = Memory::new(&model, &options, adapter.as_ref(), backend)?;
        let targets = Targets::new(&model, &options, backend)?;
        let scratch = options.kernels.scratch;
        let portable = memory.portable.map(|ids| (&memory.storage, ids));
        let can_keep = portable.is_some() || matches!(scratch, Scratch::Packed(_));
        let weights = (options.keep_weights && can_keep)
            .then(|| Kept::new(&model, scratch, portable, &mut runner))
            .transpose()?;
        let nowhere = Arc::new(Routes::new(&[], 1, 0));
        Ok(Self {
            routes: vec![nowhere; model.spec.n_layer],
            model,
            options,
            runner,
            memory,
            targets,
            weights,
            adapter,
            moments,
            kept: None,
            dropout: None,
            spent: Spent::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How the network was set up.
    pub fn options(&self) -> &NetworkOptions {
        &self.options
    }

    /// While this flag is true, passes stop within one layer with an error for which [`NetworkError::is_aborted`] holds.
    pub fn abort_flag(&self) -> Arc<AtomicBool> {
        self.runner.abort_flag()
    }

    /// Operations that the CPU computed so far because the device has no kernel for them, by ggml's names.
    pub fn fallbacks(&self) -> Vec<String> {
        self.runner.fallbacks()
    }

    /// Where the time of all passes went since this was last asked.
    pub fn take_spent(&mut self) -> Spent {
        std::mem::take(&mut self.spent)
    }

    /// Bytes of memory held besides the mapped model: states, adapter, scratch.
    pub fn n_bytes(&self) -> usize {
        let adapter = self
            .adapter
            .as_ref()
            .map_or(0, |a| a.storage.n_bytes() + a.gradients.n_bytes());
        let kept = self.weights.as_ref().map_or(0, |w| w.storage.n_bytes());
        let moments = self.moments.as_ref().map_or(0, Moments::n_bytes);
        let scratch = self.targets.n_bytes() + self.runner.n_bytes();
        self.memory.storage.n_bytes() + scratch + adapter + moments + kept
    }

    /// Copies new parameters of the same adapter to the device.
    ///
    /// # Errors
    /// [`NetworkError::Mismatch`] when the network was made without an adapter of this layout.
    pub fn update_adapter(&mut self, lora: &Lora) -> Result<()> {
        match &mut self.adapter {
            Some(adapter) if adapter.layout.tensors == lora.tensors => Ok(adapter.upload(lora)?),
            Some(_) => Err(mismatch(
                "the network was made for an adapter of another layout",
            )),
            None => Err(mismatch("the network was made without an adapter")),
        }
    }

    /// Drops elements of the adapter's inputs with this probability in [`forward`](Self::forward) and the
    /// [`backward`](Self::backward) that follows it, in the pattern that `key` stands for. 0 switches it off.
    pub fn set_dropout(&mut self, probability: f32, key: u64) {
        self.dropout = (probability > 0.0).then_some(Dropout { probability, key });
    }

    /// Log-probabilities of every target, with or without the adapter; keeps nothing.
    ///
    /// # Errors
    /// [`NetworkError`], also where there is no adapter to score with.
    pub fn score(&mut self, packed: &Packed, with_adapter: bool) -> Result<Scores> {
        if with_adapter {
            self.require_adapter()?;
        }
        let last = self.run_layers(packed, with_adapter, Keep::Nothing, None)?;
        self.run_head(packed, last, Wanted::LogProb)
    }

    /// The base's distribution at every target, by its mean embedding `sum_v p_v W[v]`: `[n_tokens, n_embd]` per completion, to be
    /// set as [`Packed::means`].
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn mean_embeddings(&mut self, packed: &Packed) -> Result<Vec<Arc<[f32]>>> {
        let last = self.run_layers(packed, false, Keep::Nothing, None)?;
        self.run_head(packed, last, Wanted::Mean)?;
        let n_embd = self.model.spec.n_embd;
        let means = self.targets.out(packed.targets.len())?;
        let of = |targets: &Range<usize>| {
            Arc::from(&means[targets.start * n_embd..targets.end * n_embd])
        };
        Ok(packed.sequences.iter().map(of).collect())
    }

    /// What enters the first block that the adapter changes: `[n_rows, n_embd]`, for [`forward_from`](Self::forward_from).
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn states_below(&mut self, packed: &Packed) -> Result<Vec<f32>> {
        self.begin(packed)?;
        let pass = self.pass(packed, false, None);
        for layer in 0..self.memory.first {
            self.run_layer(layer, &pass, Extent::Output)?;
        }
        self.hidden(self.memory.x(self.memory.first), packed.tokens.len())
    }

    /// Log-probabilities of every target with the adapter, keeping what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn forward(&mut self, packed: &Packed) -> Result<Scores> {
        self.forward_from(packed, None)
    }

    /// The same, from what enters the first block that the adapter changes, if that is known.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn forward_from(&mut self, packed: &Packed, below: Option<&[f32]>) -> Result<Scores> {
        self.require_adapter()?;
        let last = match below {
            None => self.run_layers(packed, true, Keep::Activations, self.dropout)?,
            Some(states) => self.run_changed_layers(packed, states)?,
        };
        let scores = self.run_head(packed, last, Wanted::Gradient)?;
        self.kept = Some(packed.clone());
        Ok(scores)
    }

    /// Adds to `grads` (laid out as `lora.values`) the gradient of a loss whose derivative with respect to the log-probabilities of
    /// completion `i`'s tokens is `coefficients[i]`, for the ubatch of the last [`forward`](Self::forward), which no other pass may have
    /// followed. On a device, the gradient that is summed up there is lost.
    ///
    /// # Errors
    /// [`NetworkError::Mismatch`] before anything is computed; after any other [`NetworkError`], `grads` is incomplete.
    pub fn backward(
        &mut self,
        packed: &Packed,
        coefficients: &[impl Copy + Into<Coefficient>],
        lora: &Lora,
        grads: &mut [f32],
    ) -> Result<()> {
        self.check_backward(packed, coefficients.len())?;
        let same = |adapter: &DeviceAdapter| adapter.layout.tensors == lora.tensors;
        if !self.adapter.as_ref().is_some_and(same) || grads.len() != lora.values.len() {
            return Err(mismatch(
                "the gradient's layout is not that of the network's adapter",
            ));
        }
        if !self.updates_on_device() {
            return self.run_backward(packed, coefficients, Some(grads));
        }
        self.clear_gradient()?;
        self.run_backward(packed, coefficients, None)?;
        match &self.adapter {
            Some(adapter) => Ok(adapter.add_gradients(0..self.model.spec.n_layer, grads)?),
            None => Ok(()),
        }
    }

    /// The same, adding to the gradient that is summed up on the device.
    ///
    /// # Errors
    /// As [`backward`](Self::backward); also where nothing is summed up on a device.
    pub fn accumulate(
        &mut self,
        packed: &Packed,
        coefficients: &[impl Copy + Into<Coefficient>],
    ) -> Result<()> {
        self.check_backward(packed, coefficients.len())?;
        match self.updates_on_device() {
            true => self.run_backward(packed, coefficients, None),
            false => Err(mismatch("the network has no adapter on a device")),
        }
    }

    /// Runs the blocks backward; with `grads`, each block's gradients are added to them.
    fn run_backward(
        &mut self,
        packed: &Packed,
        coefficients: &[impl Copy + Into<Coefficient>],
        mut grads: Option<&mut [f32]>,
    ) -> Result<()> {
        let started = Instant::now();
        let of_sequence = |(targets, coefficient): (&Range<usize>, &_)| {
            let Coefficient { head, tail, n_head } = Into::into(*coefficient);
            (0..targets.len()).map(move |at| (if at < n_head { head } else { tail }) as f32)
        };
        let sequences = packed.sequences.iter().zip(coefficients);
        let of_targets: Vec<f32> = sequences.flat_map(of_sequence).collect();
        let gradient = (&mut self.memory.storage, self.memory.gradient);
        self.targets
            .begin_gradient(&mut self.runner, gradient, packed, &of_targets)?;
        let pass = self.pass(packed, true, self.dropout);
        let first = self.memory.first;
        for layer in (first..self.model.spec.n_layer).rev() {
            if !self.memory.keeps(layer) {
                self.run_layer(layer, &pass, Extent::Save)?;
            }
            let graph = layer_graph(&self.model, &self.options, &pass)?;
            let context = pass.context(
                Parts::of(&self.model, &self.adapter, &self.memory, &self.weights),
                layer,
            );
            let gradient = self.memory.gradient;
            context.backward(&graph, gradient, &self.routes[layer], layer > first)?;
            self.runner.compute(graph)?;
            self.model.release_layer(layer);
            if let (Some(adapter), Some(grads)) = (&self.adapter, &mut grads) {
                adapter.add_gradients(layer..layer + 1, grads)?;
            }
        }
        self.spent.backward += started.elapsed();
        Ok(())
    }

    /// Logits `[n_rows, n_vocab]` of the hidden states that predict the targets, for comparing with another implementation.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn logits(&mut self, packed: &Packed, with_adapter: bool) -> Result<Vec<f32>> {
        let last = self.run_layers(packed, with_adapter, Keep::Nothing, None)?;
        let hidden = self.hidden(last, packed.tokens.len())?;
        let (n_embd, n_vocab) = (self.model.spec.n_embd, self.model.spec.n_vocab);
        let mut builder = StorageBuilder::new();
        let row = builder.add(GgmlType::F32, &[n_embd]);
        let out = builder.add(GgmlType::F32, &[n_vocab]);
        let mut storage = builder.build(self.runner.backend())?;
        let mut logits = Vec::with_capacity(packed.targets.len() * n_vocab);
        let one = Packed {
            tokens: vec![0],
            ..Packed::default()
        };
        let pass = self.pass(&one, false, None);
        for target in &packed.targets {
            storage.write(row, &hidden[target.row * n_embd..][..n_embd])?;
            let graph = layer_graph(&self.model, &self.options, &pass)?;
            let context = pass.context(
                Parts::of(&self.model, &self.adapter, &self.memory, &self.weights),
                0,
            );
            let b = context.fragments(&graph)?;
            let norm = layer::load_norm(&graph, &self.model, self.model.output_norm)?;
            let head = graph.load(&self.model.storage, self.model.head)?;
            let h = b.norm(&norm, graph.load(&storage, row)?)?;
            let h = b.scaled(h, self.model.spec.logit_scale)?;
            let y = b.capped(b.project(&[head].into(), h)?, self.model.spec.logit_cap)?;
            graph.store(y, graph.load(&storage, out)?)?;
            drop(b);
            self.runner.compute(graph)?;
            logits.extend(storage.to_vec::<f32>(out)?);
        }
        Ok(logits)
    }

    /// Runs the layers that the adapter changes, keeping what the backward pass needs.
    fn run_changed_layers(&mut self, packed: &Packed, states: &[f32]) -> Result<TensorId> {
        let started = Instant::now();
        let expected = packed.tokens.len() * self.model.spec.n_embd;
        if states.len() != expected {
            let n = states.len();
            return Err(mismatch(format!("{n} numbers for states of {expected}")));
        }
        self.begin(packed)?;
        let first = self.memory.first;
        let at = self.memory.x(first);
        self.memory.storage.write_at(at, 0, states)?;
        let pass = self.pass(packed, true, self.dropout);
        for layer in first..self.model.spec.n_layer {
            let extent = self.extent(layer, Keep::Activations);
            self.run_layer(layer, &pass, extent)?;
        }
        self.spent.forward += started.elapsed();
        Ok(self.memory.x(self.model.spec.n_layer))
    }

    /// Runs all layers and says where the last one's output is.
    fn run_layers(
        &mut self,
        packed: &Packed,
        with_adapter: bool,
        keep: Keep,
        dropout: Option<Dropout>,
    ) -> Result<TensorId> {
        let started = Instant::now();
        self.begin(packed)?;
        let pass = self.pass(packed, with_adapter, dropout);
        for layer in 0..self.model.spec.n_layer {
            let extent = self.extent(layer, keep);
            self.run_layer(layer, &pass, extent)?;
        }
        self.spent.forward += started.elapsed();
        Ok(self.memory.x(self.model.spec.n_layer))
    }

    fn extent(&self, layer: usize, keep: Keep) -> Extent {
        match keep {
            Keep::Activations if self.memory.keeps(layer) => Extent::OutputAndSave,
            _ => Extent::Output,
        }
    }

    /// Checks a ubatch, and writes its embeddings and positions.
    fn begin(&mut self, packed: &Packed) -> Result<()> {
        let (rows, max) = (packed.tokens.len(), self.options.max_tokens);
        if rows > max {
            return Err(NetworkError::TooLong { rows, max });
        }
        self.check_targets(packed)?;
        if let Some(n_positions) = self.model.n_positions {
            let last = packed.positions.iter().max().copied().unwrap_or(0) as usize;
            if last >= n_positions {
                return Err(mismatch(format!(
                    "position {last} is beyond the original context of {n_positions} tokens, for which this model's long rope is trained"
                )));
            }
        }
        self.kept = None;
        self.memory.write_rope(&self.model, &packed.positions)?;
        let x = self.memory.x(0);
        let memory = &mut self.memory;
        let Some(ids) = memory.portable else {
            let embeddings = self.model.embed(&packed.tokens)?;
            self.model.release_ends();
            return Ok(memory.storage.write_at(x, 0, &embeddings)?);
        };
        self.model.check_tokens(&packed.tokens)?;
        let attention = attention(&self.model, packed);
        ids.write(&mut memory.storage, &packed.tokens, &attention)?;
        let graph = Graph::new(portable::GRAPH_NODES)?;
        ids.build(&graph, &self.model, &memory.storage, x, rows)?;
        self.runner.compute(graph)
    }

    fn pass(&self, packed: &Packed, with_adapter: bool, dropout: Option<Dropout>) -> Pass {
        Pass {
            attention: attention(&self.model, packed),
            make: self.memory.makes(&self.options),
            n_tokens: packed.tokens.len(),
            with_adapter,
            dropout,
        }
    }

    fn run_layer(&mut self, layer: usize, pass: &Pass, extent: Extent) -> Result<()> {
        let graph = layer_graph(&self.model, &self.options, pass)?;
        let context = pass.context(
            Parts::of(&self.model, &self.adapter, &self.memory, &self.weights),
            layer,
        );
        let (input, output) = (self.memory.x(layer), self.memory.x(layer + 1));
        context.forward(&graph, input, output, extent)?;
        self.runner.compute(graph)?;
        let (Some(experts), Some(memory)) = (self.model.spec.experts, self.memory.experts) else {
            self.model.release_layer(layer);
            return Ok(());
        };
        if extent == Extent::Save {
            return Ok(());
        }
        let mut logits = vec![0.0; pass.n_tokens * experts.n];
        self.memory.storage.read_at(memory.logits, 0, &mut logits)?;
        self.routes[layer] = Arc::new(Routes::new(&logits, experts.n, experts.n_used));
        let graph = layer_graph(&self.model, &self.options, pass)?;
        context.forward_experts(&graph, &self.routes[layer], output)?;
        self.runner.compute(graph)?;
        self.model.release_layer(layer);
        Ok(())
    }

    fn run_head(&mut self, packed: &Packed, last: TensorId, wanted: Wanted) -> Result<Scores> {
        let started = Instant::now();
        let pass = targets::Pass {
            model: &self.model,
            options: &self.options,
            kept: self.weights.as_ref(),
            memory: &self.memory,
        };
        let scores = self
            .targets
            .score(&mut self.runner, &pass, packed, last, wanted)?;
        self.model.release_ends();
        self.spent.head += started.elapsed();
        let of_sequences = |which: fn(&(f64, f64)) -> f64| {
            let of = |range: &Range<usize>| scores[range.clone()].iter().map(which).collect();
            packed.sequences.iter().map(of).collect()
        };
        Ok(Scores {
            logps: of_sequences(|score| score.0),
            log_sum_sq: of_sequences(|score| score.1),
        })
    }

    fn require_adapter(&self) -> Result<()> {
        match self.adapter {
            Some(_) => Ok(()),
            None => Err(mismatch("the network was made without an adapter")),
        }
    }

    fn check_backward(&self, packed: &Packed, n_coefficients: usize) -> Result<()> {
        if self.kept.as_ref() != Some(packed) {
            return Err(mismatch(
                "a backward pass needs the batch of the forward pass right before it",
            ));
        }
        if n_coefficients != packed.sequences.len() {
            let (n, m) = (n_coefficients, packed.sequences.len());
            return Err(mismatch(format!("{n} coefficients for {m} completions")));
        }
        Ok(())
    }

    /// Labels are only compared and used as indices, so that one outside of the vocabulary would go unnoticed.
    fn check_targets(&self, packed: &Packed) -> Result<()> {
        let n_vocab = self.model.spec.n_vocab;
        if !packed.means.is_empty() && self.model.spec.logit_cap.is_some() {
            return Err(mismatch(
                "a distribution is not known by its mean embedding where logits are capped",
            ));
        }
        for (sequence, means) in &packed.means {
            let n_embd = self.model.spec.n_embd;
            let Some(n) = packed.sequences.get(*sequence).map(Range::len) else {
                let n = packed.sequences.len();
                return Err(mismatch(format!(
                    "mean embeddings for completion {sequence} of {n}, counted from 0"
                )));
            };
            if means.len() != n * n_embd {
                let m = means.len();
                return Err(mismatch(format!(
                    "{m} numbers for the mean embeddings of {n} targets of width {n_embd}"
                )));
            }
        }
        let outside = |label: i32| usize::try_from(label).map_or(true, |label| label >= n_vocab);
        match packed.targets.iter().find(|target| outside(target.label)) {
            Some(target) => {
                let label = target.label;
                Err(mismatch(format!(
                    "token {label} is outside of the vocabulary of {n_vocab}"
                )))
            }
            None => Ok(()),
        }
    }

    fn hidden(&self, last: TensorId, rows: usize) -> Result<Vec<f32>> {
        let mut hidden = vec![0.0; rows * self.model.spec.n_embd];
        self.memory.storage.read_at(last, 0, &mut hidden)?;
        Ok(hidden)
    }
}

/// Refuses an adapter that changes what the model does not have.
fn check_adapter(model: &Model, lora: &Lora) -> Result<()> {
    for tensor in &lora.tensors {
        let part = model
            .parts()
            .find(|(layer, part, _)| *layer == tensor.layer && part.module == tensor.module);
        if part.is_none_or(|(_, part, n_in)| (n_in, part.n_out) != (tensor.n_in, tensor.n_out)) {
            let (name, n_in, n_out) = (&tensor.base, tensor.n_in, tensor.n_out);
            let reason = format!(
                "the adapter changes `{name}` of shape [{n_in}, {n_out}], which the model does not have"
            );
            return Err(NetworkError::Mismatch { reason });
        }
    }
    Ok(())
}

fn mismatch(reason: impl Into<String>) -> NetworkError {
    NetworkError::Mismatch {
        reason: reason.into(),
    }
}

/// Of blocks without and with a window.
fn attention(model: &Model, packed: &Packed) -> [Attention; 2] {
    [false, true].map(|windowed| layer::attention(&model.spec, windowed, &packed.segments))
}

/// An empty graph for a block.
fn layer_graph<'a>(model: &Model, options: &NetworkOptions, pass: &Pass) -> Result<Graph<'a>> {
    let nodes = match options.device {
        None => layer::graph_nodes(&model.spec),
        Some(_) => layer::portable_graph_nodes(&model.spec, pass.n_tokens),
    };
    Ok(Graph::new(nodes)?)
}

/// What of a network its graphs refer to.
struct Parts<'a> {
    model: &'a Model,
    adapter: Option<&'a DeviceAdapter>,
    memory: &'a Memory,
    kept: Option<&'a Kept>,
}

impl<'a> Parts<'a> {
    /// By themselves, so that the runner can be borrowed beside them.
    fn of(
        model: &'a Model,
        adapter: &'a Option<DeviceAdapter>,
        memory: &'a Memory,
        kept: &'a Option<Kept>,
    ) -> Self {
        Self {
            model,
            adapter: adapter.as_ref(),
            memory,
            kept: kept.as_ref(),
        }
    }
}

/// What the layers of one pass have in common.
struct Pass {
    /// Of blocks without and with a window.
    attention: [Attention; 2],
    /// Likewise.
    make: [Make; 2],
    n_tokens: usize,
    with_adapter: bool,
    dropout: Option<Dropout>,
}

impl Pass {
    fn context<'a>(&'a self, parts: Parts<'a>, layer: usize) -> LayerContext<'a> {
        let Parts {
            model,
            adapter,
            memory,
            kept,
        } = parts;
        let windowed = usize::from(model.spec.window(layer).is_some());
        LayerContext {
            model,
            adapter: adapter.filter(|_| self.with_adapter),
            layer,
            saved: memory.saved(layer),
            storage: &memory.storage,
            rope: memory.rope[windowed],
            attention: &self.attention[windowed],
            make: self.make[windowed],
            n_tokens: self.n_tokens,
            dropout: self.dropout,
            experts: memory.experts,
            kept,
        }
    }
}
