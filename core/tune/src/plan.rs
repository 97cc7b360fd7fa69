//! What is decided before a run and replayed from its manifest: kernels, memory, threads.

use serde::{Deserialize, Serialize};

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{GgmlError, devices};

use crate::example::Example;
use crate::graph::{DeviceOptions, Kept, Kernels, NetworkOptions, Scratch};
use crate::model::Model;

/// A resolved plan. Together with the base model, the examples and the configuration it decides an adapter bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Number formats.
    pub kernels: Kernels,
    /// Threads.
    pub n_threads: usize,
    /// Most rows of a ubatch.
    pub max_tokens: usize,
    /// Rows that the head scores at a time.
    pub head_rows: usize,
    /// Blocks whose activations are recomputed instead of kept (see [`NetworkOptions::recomputed_layers`]).
    #[serde(default)]
    pub recomputed_layers: usize,
    /// Whether the others recompute gate and up (see [`NetworkOptions::recompute_gate_up`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute_gate_up: bool,
    /// Whether packed copies of the frozen matrices are kept (see [`NetworkOptions::keep_weights`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_weights: bool,
    /// Blocks at the end that are adapted; all if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_layers: Option<usize>,
    /// Where to compute; on the CPU, with operations of our own, if nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceOptions>,
}

/// What a plan may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Most resident memory of training, MiB, the mapped model included; none: as much as activations take, but no copies of the
    /// frozen matrices.
    pub memory_mib: Option<usize>,
    /// Rows that the longest example takes.
    pub longest_example: usize,
    /// Rows of a usual step: more than one ubatch, if they are many.
    pub step_rows: usize,
    /// Threads.
    pub n_threads: usize,
    /// Number formats.
    pub kernels: Kernels,
    /// Blocks at the end that are adapted; all if none.
    pub last_layers: Option<usize>,
}

impl Budget {
    /// For steps of `batch_size` of these examples.
    pub fn for_examples(
        examples: &[Example],
        batch_size: usize,
        n_threads: usize,
        kernels: Kernels,
        memory_mib: Option<usize>,
    ) -> Self {
        let rows = || examples.iter().map(Example::n_rows);
        Self {
            memory_mib,
            longest_example: rows().max().unwrap_or(0),
            step_rows: (rows().sum::<usize>() * batch_size).div_ceil(examples.len().max(1)),
            n_threads,
            kernels,
            last_layers: None,
        }
    }
}

/// No plan fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "training needs at least {needed_mib} MiB for examples of {longest_example} tokens, and the budget is {budget_mib} MiB; \
     raise the budget or shorten the examples"
)]
pub struct OverBudget {
    /// MiB that would be enough.
    pub needed_mib: usize,
    /// MiB that were allowed.
    pub budget_mib: usize,
    /// Rows of the longest example.
    pub longest_example: usize,
}

/// A plan that no run was resolved to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plan is impossible: {reason}")]
pub struct InvalidPlan {
    /// What is wrong.
    pub reason: &'static str,
}

/// ggml's own limit.
const MOST_THREADS: usize = 512;
/// Rows of a ubatch. From the first number on the CPU is full, and only the work on the weights, which is done once a ubatch,
/// still gets less: 6 % of a step at the second.
const UBATCH: (usize, usize) = (512, 1024);
/// The same on a device, where attention looks at all of a ubatch.
const DEVICE_UBATCH: usize = 2048;
/// Resident memory of the process itself, allocator and libraries, MiB.
const PROCESS_MIB: usize = 24;
const MIB: usize = 1 << 20;

impl Plan {
    /// The fastest plan within the budget. `n_lora`: parameters of the adapter.
    ///
    /// # Errors
    /// [`OverBudget`] with the smallest budget that would do.
    pub fn resolve(model: &Model, n_lora: usize, budget: &Budget) -> Result<Self, OverBudget> {
        let base = Self {
            kernels: budget.kernels,
            n_threads: budget.n_threads,
            max_tokens: budget
                .step_rows
                .clamp(UBATCH.0, UBATCH.1)
                .max(budget.longest_example),
            head_rows: 512,
            recomputed_layers: 0,
            recompute_gate_up: false,
            keep_weights: false,
            last_layers: budget.last_layers,
            device: None,
        };
        let longest = budget.longest_example.max(1);
        let full = UBATCH.0.max(longest);
        let most = base.most_recomputed(model);
        let small = |max_tokens, head_rows| Self {
            max_tokens,
            head_rows,
            recomputed_layers: most,
            ..base.clone()
        };
        let recomputing = [false, true].into_iter().flat_map(|recompute_gate_up| {
            (0..=most).map(move |recomputed_layers| (recomputed_layers, recompute_gate_up))
        });
        let mut recomputing: Vec<_> = recomputing
            .map(|(recomputed_layers, recompute_gate_up)| Self {
                max_tokens: full,
                recomputed_layers,
                recompute_gate_up,
                ..base.clone()
            })
            .collect();
        recomputing.sort_by_key(|plan| plan.products_again(model));
        let kept = Self {
            keep_weights: matches!(base.kernels.scratch, Scratch::Packed(_)),
            ..base.clone()
        };
        let candidates: Vec<_> = [kept, base.clone()]
            .into_iter()
            .chain(recomputing)
            .chain([small(full, 256), small(full, 64), small(longest, 64)])
            .collect();
        let Some(memory_mib) = budget.memory_mib else {
            return Ok(base);
        };
        let estimate = |plan: &Self| plan.estimate_bytes(model, n_lora).div_ceil(MIB);
        candidates
            .iter()
            .find(|plan| estimate(plan) <= memory_mib)
            .cloned()
            .ok_or_else(|| OverBudget {
                needed_mib: candidates.iter().map(estimate).min().unwrap_or(0),
                budget_mib: memory_mib,
                longest_example: budget.longest_example,
            })
    }

    /// The same on a device: in products of BF16 unless they are to be exact, with copies of the frozen matrices where its memory holds
    /// them besides all else, in ubatches that keep it busy.
    ///
    /// # Errors
    /// [`GgmlError::NoDevice`] where there is no such device.
    pub fn on_device(
        self,
        device: DeviceOptions,
        is_exact: bool,
        budget: &Budget,
        model: &Model,
        n_lora: usize,
    ) -> Result<Self, GgmlError> {
        let found = devices().into_iter().find(|d| d.name == device.name);
        let memory = found
            .ok_or_else(|| GgmlError::NoDevice(device.name.clone()))?
            .memory
            .0;
        let scratch = match is_exact {
            true => GgmlType::F32,
            false => GgmlType::BF16,
        };
        let plan = Self {
            kernels: Kernels {
                scratch: Scratch::Rows(scratch),
                saved: GgmlType::F32,
            },
            max_tokens: budget
                .step_rows
                .clamp(UBATCH.0, DEVICE_UBATCH)
                .max(budget.longest_example),
            device: Some(device),
            ..self
        };
        let kept = Self {
            keep_weights: true,
            ..plan.clone()
        };
        // Weights in their own types, and room for whatever else uses the device.
        let needed = kept.estimate_bytes(model, n_lora) + model.gguf().bytes().len();
        Ok(if needed <= memory / 10 * 8 {
            kept
        } else {
            plan
        })
    }

    /// Estimated peak of resident memory, bytes, the mapped model included. `n_lora`: parameters of the adapter.
    pub fn estimate_bytes(&self, model: &Model, n_lora: usize) -> usize {
        let (spec, n) = (&model.spec, self.max_tokens);
        let (f32, saved) = (4, self.kernels.saved.type_size());
        let scratch = |elements| self.kernels.scratch.bytes(elements);
        let results = if spec.layout.post_norms { 2 } else { 0 };
        let (gate_up, experts) = match spec.experts {
            None => (2 * spec.n_ff, 0),
            Some(experts) => (0, (2 * experts.n_used + 1) * spec.n_embd + experts.n),
        };
        // What blocks keep for the way back, and the residual stream.
        let recomputed = self.recomputed_layers.min(self.most_recomputed(model));
        let slots = self.most_recomputed(model) + 1 - recomputed;
        let (gate_up_slots, again) = match self.recompute_gate_up {
            true => (recomputed.min(1), gate_up),
            false => (slots, 0),
        };
        let kept = spec.n_qkv() + spec.n_attn() + (2 + results) * spec.n_embd;
        let slots =
            n * slots * (kept * saved + spec.n_head * f32) + n * gate_up_slots * gate_up * saved;
        let states = n * ((recomputed + 3) * spec.n_embd + experts) * f32;
        // Parameters, gradients, two moments, and their copy on the device.
        let optimizer = 5 * n_lora * f32;
        // The widest moment of a backward graph: a scratch matrix and a handful of wide intermediates.
        let n_ff = spec.n_ff * spec.experts.map_or(1, |experts| experts.n_used);
        let widest = scratch((spec.n_embd * 2 * spec.n_ff).max(spec.n_embd * spec.n_qkv()));
        // Norms between are undone beside what they were taken of.
        let normed = match spec.layout.qk_norms {
            Some(_) => 3 * spec.n_qkv(),
            None => 0,
        } + results * spec.n_embd;
        let layer =
            widest + n * (again + 3 * n_ff + 4 * spec.n_embd + 2 * spec.n_qkv() + normed) * f32;
        let block = crate::graph::VOCAB_BLOCK.min(spec.n_vocab);
        let head = self.head_rows * block * f32
            + 2 * scratch(block * spec.n_embd)
            + 3 * self.head_rows * spec.n_embd * f32
            + 2 * n * spec.n_embd * f32;
        // Weights are let go of block by block, so that those of one block, or the head, are there at a time.
        let layer = layer + model.largest_block_bytes();
        let head = head + model.ends_bytes();
        let kept = match self.keep_weights {
            true => Kept::n_bytes(model, self.kernels.scratch),
            false => 0,
        };
        PROCESS_MIB * MIB + kept + slots + states + optimizer + layer.max(head)
    }

    /// The most blocks that can be recomputed: all that are adapted but the topmost.
    pub fn most_recomputed(&self, model: &Model) -> usize {
        let n_layer = model.spec.n_layer;
        self.last_layers.map_or(n_layer, |n| n.clamp(1, n_layer)) - 1
    }

    /// Elements of frozen matrices that a step multiplies once more than it would if it kept everything.
    fn products_again(&self, model: &Model) -> usize {
        let spec = &model.spec;
        let gate_up = 2 * spec.n_ff;
        // Down is not, unless its result is normed.
        let down = if spec.layout.post_norms { spec.n_ff } else { 0 };
        let block = spec.n_qkv() + spec.n_attn() + gate_up + down;
        let others = match self.recompute_gate_up {
            true => (self.most_recomputed(model) + 1 - self.recomputed_layers) * gate_up,
            false => 0,
        };
        (self.recomputed_layers * block + others) * spec.n_embd
    }

    /// Checks a plan that was read from a file.
    ///
    /// # Errors
    /// [`InvalidPlan`] for what no resolved plan has.
    pub fn validate(&self) -> Result<(), InvalidPlan> {
        let refused = |reason| Err(InvalidPlan { reason });
        let is_float = |ty| matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        match self.kernels.scratch {
            Scratch::Rows(ty) if !is_float(ty) => {
                return refused("products are computed in f32, f16 or bf16");
            }
            _ => {}
        }
        if !matches!(self.kernels.saved, GgmlType::F32 | GgmlType::BF16) {
            return refused("activations are kept in f32 or bf16");
        }
        if !(1..=MOST_THREADS).contains(&self.n_threads) {
            return refused("the number of threads must be in 1..=512");
        }
        if self.max_tokens == 0 || self.head_rows == 0 || self.last_layers == Some(0) {
            return refused("rows and blocks must be at least 1");
        }
        Ok(())
    }

    /// The network that the plan describes.
    pub fn network_options(&self) -> NetworkOptions {
        NetworkOptions {
            n_threads: self.n_threads,
            max_tokens: self.max_tokens,
            kernels: self.kernels,
            recomputed_layers: self.recomputed_layers,
            recompute_gate_up: self.recompute_gate_up,
            keep_weights: self.keep_weights,
            head_rows: self.head_rows,
            device: self.device.clone(),
        }
    }
}
