//! The training loop: batches, objective, gradient, update.
//!
//! A step is all or nothing: when it is stopped or fails, the trainer is as it was before it, and the step can be taken again.

mod error;
mod sums;
mod ubatch;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use sha2::{Digest, Sha256};
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{bf16_to_f32, f32_to_bf16};

use crate::adapter::{Lora, LoraShape};
use crate::batch::Packed;
use crate::checkpoint::{Checkpoint, CheckpointMeta, Cursor, Hashes};
use crate::config::{ConfigError, TrainConfig};
use crate::example::{Example, Kind};
use crate::graph::{Coefficient, Network, Scores, Spent};
use crate::model::Model;
use crate::objective::{
    BcoState, Metrics, PairItem, PairLogps, PairTerm, RankingLogps, Tails, Totals, UnpairedLogps,
    anchor, demonstration,
};
use crate::optimizer::{AdamW, OptimizerError, check_finite, clip_factor, clip_grad_norm};
use crate::plan::Plan;
use crate::rng::{Rng, epoch_order};

pub use error::TrainError;
use sums::StepSums;
use ubatch::{pack, packed, sums};

type Result<T> = std::result::Result<T, TrainError>;

/// What one optimizer step measured, before its update. Names as TRL logs them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepMetrics {
    /// The step, from 1.
    pub step: u64,
    /// Passes over the examples.
    pub epoch: f64,
    /// The step's loss.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// Rewards and log-probabilities.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Estimated KL divergence from the reference: mean of the reference's log-probability minus the policy's, nats per token.
    pub kl: f64,
    /// KL divergence from the reference on the step's anchors, nats per token; absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor_kl: Option<f64>,
    /// Tokens of the step, the prompt counted once per completion.
    pub num_tokens: usize,
}

/// What the reference, the base with the adapter off, says of an example.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reference {
    /// Its log-probability of each completion, nats, summed over tokens; chosen or best first. Of an anchor: the expected one, minus its
    /// entropies.
    pub logps: Vec<f64>,
    /// Of a pair under `ld_alpha`: the part of `logps` beyond the length of the shorter completion.
    pub tails: Vec<f64>,
    /// What it predicts on an anchor (see [`Network::mean_embeddings`]).
    pub means: Option<Arc<[f32]>>,
}

/// A run between two steps.
pub struct Trainer {
    network: Network,
    config: TrainConfig,
    plan: Plan,
    examples: Vec<Example>,
    keys: Vec<[u8; 32]>,
    references: Vec<Option<Reference>>,
    /// What the base is compared with under, if not alone.
    reference_adapter: Option<Lora>,
    lora: Lora,
    optimizer: AdamW,
    /// Whether the device's parameters and moments are of a later step than those here.
    is_behind: bool,
    cursor: Cursor,
    bco: BcoState,
    /// Factor on the learning rate, halved by displacement.
    brake: f64,
    stopped: bool,
    base_sha256: String,
    grads: Vec<f32>,
    /// What enters the first block that the adapter changes, of each example seen so far; empty where that is the first of all.
    below: Vec<Option<Below>>,
}

/// States `[n_rows, n_embd]` of an example, in the format that activations are saved in.
enum Below {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

impl Trainer {
    /// Prepares a run from a fresh adapter.
    ///
    /// # Errors
    /// [`TrainError`] for settings or examples that cannot be trained with.
    pub fn new(
        model: Model,
        base_sha256: impl Into<String>,
        examples: Vec<Example>,
        config: TrainConfig,
        plan: Plan,
    ) -> Result<Self> {
        let shapes = lora_shapes(&model);
        let lora = Lora::new(config.lora.clone(), &shapes)?;
        Self::with_adapter(model, base_sha256, examples, config, plan, lora)
    }

    /// Prepares a run from a given adapter.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_adapter(
        model: Model,
        base_sha256: impl Into<String>,
        examples: Vec<Example>,
        config: TrainConfig,
        plan: Plan,
        lora: Lora,
    ) -> Result<Self> {
        config.validate()?;
        if examples.is_empty() {
            return Err(TrainError::NoExamples);
        }
        for (index, example) in examples.iter().enumerate() {
            example.check(index, plan.max_tokens)?;
        }
        let optimizer = AdamW::new(config.adamw, lora.values.len())
            .map_err(|source| TrainError::Optimizer { step: 0, source })?;
        let network = Network::new(model, plan.network_options(), Some(&lora))?;
        Ok(Self {
            keys: examples.iter().map(Example::key).collect(),
            references: vec![None; examples.len()],
            reference_adapter: None,
            below: Vec::new(),
            grads: vec![0.0; lora.values.len()],
            cursor: Cursor {
                order_seed: config.seed,
                ..Cursor::default()
            },
            bco: BcoState::default(),
            brake: 1.0,
            stopped: false,
            base_sha256: base_sha256.into(),
            network,
            config,
            plan,
            examples,
            lora,
            optimizer,
            is_behind: false,
        })
    }

    /// The adapter as it stands, copied from where it is trained.
    ///
    /// # Errors
    /// [`TrainError`] where the device fails, or holds what is not finite.
    pub fn lora(&mut self) -> Result<&Lora> {
        self.catch_up()?;
        Ok(&self.lora)
    }

    /// Parameters of the adapter.
    pub fn n_parameters(&self) -> usize {
        self.lora.values.len()
    }

    fn catch_up(&mut self) -> Result<()> {
        if self.is_behind {
            self.network.read_parameters(&mut self.lora.values)?;
            let (first, second) = self.optimizer.moments_mut();
            self.network.read_moments(first, second)?;
            let (m, v) = self.optimizer.moments();
            self.check_state((&self.lora.values, m, v), self.steps_done(), LOST)?;
            self.is_behind = false;
        }
        Ok(())
    }

    /// Refuses parameters and moments that are not finite.
    fn check_state(
        &self,
        (values, m, v): (&[f32], &[f32], &[f32]),
        step: u64,
        then: &'static str,
    ) -> Result<()> {
        let named = |source| self.named(source, step, then);
        check_finite("parameter", values).map_err(named)?;
        check_finite("first moment", m).map_err(named)?;
        check_finite("second moment", v).map_err(named)
    }

    /// An error of the optimizer's under the name of the tensor that it is about.
    fn named(&self, source: OptimizerError, step: u64, then: &'static str) -> TrainError {
        match source {
            OptimizerError::NotFinite { what, index, value } => TrainError::NotFinite {
                step,
                what,
                tensor: self.lora.name_at(index).unwrap_or_default(),
                value,
                then,
            },
            source => TrainError::Optimizer { step, source },
        }
    }

    /// Sees to it that the network computes with the adapter as it stands.
    fn upload(&mut self) -> Result<()> {
        match self.is_behind {
            true => Ok(()),
            false => Ok(self.network.update_adapter(&self.lora)?),
        }
    }

    /// The examples, in the order given.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The model and its memory.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where the time of all passes went since this was last asked.
    pub fn take_spent(&mut self) -> Spent {
        self.network.take_spent()
    }

    /// What the run was planned to be.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// While this flag is true, a step stops within one layer and changes nothing.
    pub fn abort_flag(&self) -> Arc<AtomicBool> {
        self.network.abort_flag()
    }

    /// Updates made so far.
    pub fn steps_done(&self) -> u64 {
        self.optimizer.step()
    }

    /// Updates that the run is to make.
    pub fn max_steps(&self) -> u64 {
        self.config.max_steps
    }

    /// Whether the run is over: all steps taken, or stopped by `max_kl`.
    pub fn is_finished(&self) -> bool {
        self.stopped || self.steps_done() >= self.config.max_steps
    }

    /// Whether `max_kl` ended the run.
    pub fn stopped_by_kl(&self) -> bool {
        self.stopped
    }

    /// Gives what the reference says of an example, known from before.
    pub fn set_reference(&mut self, index: usize, reference: Reference) {
        self.references[index] = Some(reference);
    }

    /// Scores the next examples whose reference is not known, as many as fit one ubatch, with the adapter off. Returns
    /// their indices; none are left when it is empty.
    ///
    /// # Errors
    /// [`TrainError`]; nothing is lost when it is stopped.
    pub fn score_references(&mut self) -> Result<Vec<usize>> {
        let missing: Vec<usize> = (0..self.examples.len())
            .filter(|i| self.needs_reference(*i) && self.known_reference(*i).is_none())
            .collect();
        let chunks = pack(&self.examples, &missing, self.plan.max_tokens);
        let Some(chunk) = chunks.into_iter().next() else {
            return Ok(Vec::new());
        };
        let mut packed = packed(&self.examples, &chunk);
        let anchors = self.anchors_of(&chunk);
        if !anchors.is_empty() {
            let means = self.network.mean_embeddings(&packed)?;
            let of_anchor =
                |(_, sequence): &(usize, usize)| (*sequence, Arc::clone(&means[*sequence]));
            packed.means.extend(anchors.iter().map(of_anchor));
        }
        let scores = self.score_as_reference(&packed)?;
        let mut first = 0;
        for (index, logps) in chunk.iter().zip(sums(&self.examples, &chunk, &scores)) {
            let anchor = anchors.iter().find(|(anchor, _)| anchor == index);
            let means = anchor.and_then(|(_, sequence)| packed.means.get(sequence).cloned());
            let tails = match self.n_shared(*index) {
                None => Vec::new(),
                Some(n) => (0..logps.len())
                    .map(|i| scores.sum_from(first + i, n))
                    .collect(),
            };
            first += logps.len();
            self.references[*index] = Some(Reference {
                logps,
                tails,
                means,
            });
        }
        Ok(chunk)
    }

    /// Compares with the base under this adapter, instead of the base alone: an earlier stage's result, from which the run goes on
    /// (sDPO, arXiv 2403.19270). Anchors still hold to the base.
    ///
    /// # Errors
    /// [`TrainError::ReferenceAdapter`] where rank, alpha or matrices are not those of the run's own adapter.
    pub fn set_reference_adapter(&mut self, reference: Lora) -> Result<()> {
        let (own, config) = (&self.lora.config, &reference.config);
        if (own.rank, own.alpha) != (config.rank, config.alpha)
            || reference.tensors != self.lora.tensors
        {
            return Err(TrainError::ReferenceAdapter);
        }
        self.reference_adapter = Some(reference);
        self.references.fill(None);
        Ok(())
    }

    fn score_as_reference(&mut self, packed: &Packed) -> Result<Scores> {
        let Some(reference) = &self.reference_adapter else {
            return Ok(self.network.score(packed, false)?);
        };
        let reference = reference.clone();
        self.catch_up()?;
        self.network.update_adapter(&reference)?;
        let scores = self.network.score(packed, true);
        self.network.update_adapter(&self.lora)?;
        Ok(scores?)
    }

    /// Whether an example's loss looks at the reference.
    fn needs_reference(&self, index: usize) -> bool {
        let example = &self.examples[index];
        match example.kind {
            Kind::Pair { .. } => self.config.pair.needs_reference(),
            _ => example.needs_reference(),
        }
    }

    /// What the reference says of an example, if all of it is known that its loss needs.
    fn known_reference(&self, index: usize) -> Option<&Reference> {
        let known = self.references[index].as_ref();
        known.filter(|known| self.n_shared(index).is_none() || !known.tails.is_empty())
    }

    /// Tokens of a pair's shorter completion, if what is beyond them counts otherwise.
    fn n_shared(&self, index: usize) -> Option<usize> {
        self.config.pair.ld_alpha?;
        match &self.examples[index].kind {
            Kind::Pair {
                chosen, rejected, ..
            } => Some(chosen.len().min(rejected.len())),
            _ => None,
        }
    }

    /// The anchors of a ubatch, each with the index of its completion there.
    fn anchors_of(&self, chunk: &[usize]) -> Vec<(usize, usize)> {
        let mut sequence = 0;
        let mut anchors = Vec::new();
        for &index in chunk {
            if matches!(self.examples[index].kind, Kind::Anchor { .. }) {
                anchors.push((index, sequence));
            }
            sequence += self.examples[index].completions().len();
        }
        anchors
    }

    /// What the reference says of an example, if known.
    pub fn reference(&self, index: usize) -> Option<&Reference> {
        self.references[index].as_ref()
    }

    /// Summed log-probabilities of any examples' completions, nats, with or without the adapter. Anchors count as texts here.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn score_examples(
        &mut self,
        examples: &[Example],
        with_adapter: bool,
    ) -> Result<Vec<Vec<f64>>> {
        self.upload()?;
        let all: Vec<usize> = (0..examples.len()).collect();
        let mut all_sums = Vec::with_capacity(examples.len());
        for chunk in pack(examples, &all, self.plan.max_tokens) {
            let packed = packed(examples, &chunk);
            let scores = self.network.score(&packed, with_adapter)?;
            all_sums.extend(sums(examples, &chunk, &scores));
        }
        Ok(all_sums)
    }

    /// Takes one optimizer step.
    ///
    /// # Errors
    /// [`TrainError`]; the trainer is then as before the step. Only an update on a device that makes a parameter infinite or NaN cannot be
    /// taken back: the tensor is named, and the run goes on from its last checkpoint.
    pub fn step(&mut self) -> Result<StepMetrics> {
        let step = self.steps_done() + 1;
        let (batch, cursor) = self.next_batch();
        let totals = self.totals(&batch);
        self.upload()?;
        match self.network.updates_on_device() {
            true => self.network.clear_gradient()?,
            false => self.grads.fill(0.0),
        }
        let mut sums = StepSums::default();
        let chunks = pack(&self.examples, &batch, self.plan.max_tokens);
        let whole = Whole {
            totals,
            shift: self.shift(&batch)?,
            coupled: self.coupled(&chunks, &totals)?,
        };
        for (micro_batch, chunk) in chunks.into_iter().enumerate() {
            let mut packed = packed(&self.examples, &chunk);
            for (index, sequence) in self.anchors_of(&chunk) {
                let means = self.references[index]
                    .as_ref()
                    .and_then(|r| r.means.clone());
                packed.means.extend(means.map(|means| (sequence, means)));
            }
            self.network.set_dropout(
                self.config.lora.dropout,
                dropout_key(self.config.seed, step, micro_batch),
            );
            let below = self.below(&chunk)?;
            let scores = self.network.forward_from(&packed, below.as_deref())?;
            let coefficients = self.objective(&chunk, &scores, &whole, &mut sums)?;
            match self.network.updates_on_device() {
                true => self.network.accumulate(&packed, &coefficients)?,
                false => {
                    let grads = &mut self.grads;
                    self.network
                        .backward(&packed, &coefficients, &self.lora, grads)?;
                }
            }
        }
        let schedule = self.config.schedule().map_err(ConfigError::from)?;
        let brake = self.brake * sums.displacement_brake(self.config.min_chosen_logratio);
        // A factor of 0 in the first step of a warm-up would waste it.
        let position = if self.config.warmup_ratio > 0.0 {
            step
        } else {
            step - 1
        };
        let learning_rate = self.config.learning_rate * schedule.factor(position) * brake;
        let grad_norm = self.update(learning_rate)?;

        self.brake = brake;
        self.cursor = cursor;
        self.bco.update(&sums.classes);
        let kl = sums.kl();
        self.stopped = self.config.max_kl.is_some_and(|limit| kl > limit);
        let done = cursor.epoch as f64 + cursor.position as f64 / self.examples.len() as f64;
        Ok(StepMetrics {
            step,
            epoch: done,
            loss: sums.loss,
            grad_norm,
            learning_rate,
            metrics: sums.metrics.mean(),
            kl,
            anchor_kl: (totals.anchor_tokens > 0)
                .then(|| sums.anchor_kl / totals.anchor_tokens as f64),
            num_tokens: batch.iter().map(|i| self.examples[*i].n_tokens()).sum(),
        })
    }

    /// Clips the gradient and updates the adapter, both where they are. Returns the norm before clipping.
    fn update(&mut self, learning_rate: f64) -> Result<f64> {
        let step = self.steps_done() + 1;
        let limit = if self.config.max_grad_norm > 0.0 {
            self.config.max_grad_norm
        } else {
            f64::INFINITY
        };
        if !self.network.updates_on_device() {
            let norm = clip_grad_norm(&mut self.grads, limit).and_then(|norm| {
                let (values, grads) = (&mut self.lora.values, &self.grads);
                self.optimizer.update(values, grads, learning_rate)?;
                Ok(norm)
            });
            return norm.map_err(|source| self.named(source, step, UNCHANGED));
        }
        let mut norm = self.network.gradient_norm()?;
        if !norm.is_finite() {
            // Names the tensor, or finds that squares were too large for the device.
            let mut grads = vec![0.0; self.lora.values.len()];
            self.network.read_gradient(&mut grads)?;
            let checked = clip_grad_norm(&mut grads, limit);
            norm = checked.map_err(|source| self.named(source, step, UNCHANGED))?;
        }
        let next = self.optimizer.next(learning_rate);
        let next = next.map_err(|source| self.named(source, step, UNCHANGED))?;
        self.network
            .update(&next, clip_factor(norm, limit) as f32)?;
        self.optimizer.count();
        self.is_behind = true;
        if !self.network.parameter_norm()?.is_finite() {
            // Names the tensor, or finds that only squares were too large.
            self.catch_up()?;
        }
        Ok(norm)
    }

    /// What enters the first block that the adapter changes, for a ubatch of these examples: computed once, each example by itself, so that it
    /// does not depend on which others it meets. None where that is the first block of all.
    fn below(&mut self, chunk: &[usize]) -> Result<Option<Vec<f32>>> {
        if self.lora.first_layer() == 0 {
            return Ok(None);
        }
        self.below.resize_with(self.examples.len(), || None);
        let mut states = Vec::new();
        for &index in chunk {
            if self.below[index].is_none() {
                let alone = packed(&self.examples, &[index]);
                let computed = self.network.states_below(&alone)?;
                self.below[index] = Some(match self.plan.kernels.saved {
                    GgmlType::F32 => Below::F32(computed),
                    _ => Below::Bf16(computed.iter().map(|x| f32_to_bf16(*x)).collect()),
                });
            }
            match &self.below[index] {
                Some(Below::F32(values)) => states.extend_from_slice(values),
                Some(Below::Bf16(values)) => states.extend(values.iter().map(|x| bf16_to_f32(*x))),
                None => {}
            }
        }
        Ok(Some(states))
    }

    /// The state of the run, to be continued with [`resume`](Self::resume).
    ///
    /// # Errors
    /// [`TrainError`] where the device fails.
    pub fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.catch_up()?;
        let (m, v) = self.optimizer.moments();
        Ok(Checkpoint {
            meta: CheckpointMeta {
                hashes: self.hashes(),
                optimizer_step: self.optimizer.step(),
                rng: Rng::new(self.config.seed),
                cursor: self.cursor,
                bco: self.bco,
                progress: serde_json::json!({ "brake": self.brake, "stopped": self.stopped }),
            },
            values: self.lora.values.clone(),
            m: m.to_vec(),
            v: v.to_vec(),
        })
    }

    /// Takes up the state of a checkpoint of this very run (see [`hashes`](Self::hashes)).
    ///
    /// # Errors
    /// [`TrainError::Optimizer`] when the state does not fit the adapter, [`TrainError::NotFinite`] when a value of it is none; the trainer
    /// is then as before.
    pub fn resume(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let step = checkpoint.meta.optimizer_step;
        let (values, m, v) = (&checkpoint.values, &checkpoint.m, &checkpoint.v);
        self.check_state((values, m, v), step, CANNOT_GO_ON)?;
        let fits = |n: usize| n == self.lora.values.len();
        if !fits(values.len()) || !fits(m.len()) {
            let source = OptimizerError::Length {
                what: "the checkpoint",
                expected: self.lora.values.len(),
                got: values.len().min(m.len()),
            };
            return Err(TrainError::Optimizer { step, source });
        }
        self.optimizer = AdamW::restore(self.config.adamw, step, checkpoint.m, checkpoint.v)
            .map_err(|source| TrainError::Optimizer { step, source })?;
        self.lora.values = checkpoint.values;
        self.is_behind = false;
        if self.network.updates_on_device() {
            let (m, v) = self.optimizer.moments();
            self.network.write_moments(m, v)?;
        }
        self.cursor = checkpoint.meta.cursor;
        self.bco = checkpoint.meta.bco;
        self.brake = checkpoint.meta.progress["brake"].as_f64().unwrap_or(1.0);
        self.stopped = checkpoint.meta.progress["stopped"]
            .as_bool()
            .unwrap_or(false);
        Ok(())
    }

    /// What the run is made of.
    pub fn hashes(&self) -> Hashes {
        let mut data = Sha256::new();
        self.keys.iter().for_each(|key| data.update(key));
        let json =
            |value: serde_json::Result<String>| hex(Sha256::digest(value.unwrap_or_default()));
        Hashes {
            base_model: self.base_sha256.clone(),
            data: hex(data.finalize()),
            config: json(serde_json::to_string(&self.config)),
            plan: json(serde_json::to_string(&self.plan)),
        }
    }

    /// Indices of the next step's examples, and the cursor after it. A batch goes on into the next pass where one ends.
    fn next_batch(&self) -> (Vec<usize>, Cursor) {
        let n = self.examples.len();
        let size = self.config.batch_size.min(n);
        let mut cursor = self.cursor;
        let mut order = self.order(cursor.epoch);
        let mut batch = Vec::with_capacity(size);
        while batch.len() < size {
            if cursor.position as usize == n {
                cursor = Cursor {
                    epoch: cursor.epoch + 1,
                    position: 0,
                    ..cursor
                };
                order = self.order(cursor.epoch);
            }
            let index = order[cursor.position as usize];
            cursor.position += 1;
            if !batch.contains(&index) {
                batch.push(index);
            }
        }
        (batch, cursor)
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        if self.config.shuffle {
            epoch_order(self.cursor.order_seed, epoch, &self.keys)
        } else {
            (0..self.examples.len()).collect()
        }
    }

    fn totals(&self, batch: &[usize]) -> Totals {
        let mut totals = Totals::default();
        for example in batch.iter().map(|i| &self.examples[*i]) {
            match &example.kind {
                Kind::Pair {
                    chosen, weights, ..
                } => totals.add_pair(chosen.len(), weights),
                Kind::Ranking {
                    completions,
                    weights,
                } => totals.add_ranking(completions.first().map_or(0, Vec::len), weights),
                Kind::Unpaired { .. } => totals.add_unpaired(),
                Kind::Demonstration { completion, .. } => {
                    totals.add_demonstration(completion.len())
                }
                Kind::Anchor { completion, .. } => totals.add_anchor(completion.len()),
            }
        }
        totals
    }

    /// What rewards of single thumbs are compared with in this step.
    fn shift(&mut self, batch: &[usize]) -> Result<f64> {
        let mut kl = 0.0;
        if self.config.unpaired.needs_kl() {
            let mismatched = self.mismatched(batch);
            let with = self.score_examples(&mismatched, true)?;
            let all: Vec<usize> = (0..mismatched.len()).collect();
            let mut without = Vec::with_capacity(all.len());
            for chunk in pack(&mismatched, &all, self.plan.max_tokens) {
                let scores = self.score_as_reference(&packed(&mismatched, &chunk))?;
                without.extend(sums(&mismatched, &chunk, &scores));
            }
            let gained = with.iter().zip(&without).map(|(p, r)| p[0] - r[0]);
            kl = gained.sum::<f64>() / mismatched.len().max(1) as f64;
        }
        Ok(self.config.unpaired.shift(&self.bco, kl))
    }

    /// Each of the step's single thumbs with the completion of the one before it, the first with the last's; none where there is but
    /// one. What does not fit a ubatch is cut.
    fn mismatched(&self, batch: &[usize]) -> Vec<Example> {
        let thumbs: Vec<_> = batch
            .iter()
            .filter_map(|index| match &self.examples[*index] {
                Example {
                    prompt,
                    kind: Kind::Unpaired { completion, .. },
                } => Some((prompt, completion)),
                _ => None,
            })
            .collect();
        if thumbs.len() < 2 {
            return Vec::new();
        }
        let before = thumbs.iter().cycle().skip(thumbs.len() - 1);
        let pairs = thumbs.iter().zip(before);
        let mismatched = pairs.filter_map(|((prompt, _), (_, completion))| {
            let room = (self.plan.max_tokens + 1).checked_sub(prompt.len())?;
            let completion: Vec<i32> = completion.iter().take(room).copied().collect();
            let kind = Kind::Demonstration {
                completion,
                weight: 1.0,
            };
            let prompt = (*prompt).clone();
            Some(Example { prompt, kind }).filter(|e| e.check(0, self.plan.max_tokens).is_ok())
        });
        mismatched.collect()
    }

    /// The terms of all pairs of a step, by index, where a pair's loss depends on the others and one ubatch does not hold them all.
    fn coupled(
        &mut self,
        chunks: &[Vec<usize>],
        totals: &Totals,
    ) -> Result<Vec<(usize, PairTerm)>> {
        if chunks.len() < 2 || !self.config.pair.couples() {
            return Ok(Vec::new());
        }
        let mut items = Vec::new();
        for chunk in chunks {
            let scores = self.network.score(&packed(&self.examples, chunk), true)?;
            items.extend(self.pair_items(chunk, &scores)?);
        }
        let terms = self.config.pair.pairs(&items, totals)?;
        Ok(items.iter().map(|item| item.index).zip(terms).collect())
    }

    /// The pairs of a ubatch, as the objective looks at them.
    fn pair_items(&self, chunk: &[usize], scores: &Scores) -> Result<Vec<PairItem>> {
        let mut items = Vec::new();
        let mut first = 0;
        for &index in chunk {
            let example = &self.examples[index];
            let at = first;
            first += example.completions().len();
            let Kind::Pair {
                chosen,
                rejected,
                weights,
            } = &example.kind
            else {
                continue;
            };
            // An objective without a reference takes rewards to be log-probabilities.
            let mut reference = [0.0; 2];
            let mut tails = Tails::default();
            if self.needs_reference(index) {
                let known = self
                    .known_reference(index)
                    .ok_or(TrainError::NoReference { index })?;
                reference = [known.logps[0], known.logps[1]];
                if let Some(n) = self.n_shared(index) {
                    tails = Tails {
                        chosen: scores.sum_from(at, n),
                        rejected: scores.sum_from(at + 1, n),
                        ref_chosen: known.tails[0],
                        ref_rejected: known.tails[1],
                    };
                }
            }
            items.push(PairItem {
                index,
                logps: PairLogps {
                    chosen: scores.sum(at),
                    rejected: scores.sum(at + 1),
                    ref_chosen: reference[0],
                    ref_rejected: reference[1],
                    n_chosen: chosen.len(),
                    n_rejected: rejected.len(),
                    tails,
                    log_confidence: scores.log_confidence(at) + scores.log_confidence(at + 1),
                },
                weights: *weights,
            });
        }
        Ok(items)
    }

    /// Losses of a ubatch, and what each completion's log-probabilities weigh in the gradient.
    fn objective(
        &self,
        chunk: &[usize],
        scores: &Scores,
        whole: &Whole,
        sums: &mut StepSums,
    ) -> Result<Vec<Coefficient>> {
        let Whole {
            totals,
            shift,
            coupled,
        } = whole;
        let items = self.pair_items(chunk, scores)?;
        let terms = match coupled.is_empty() {
            true => self.config.pair.pairs(&items, totals)?,
            false => {
                let term = |item: &PairItem| coupled.iter().find(|(index, _)| *index == item.index);
                items
                    .iter()
                    .filter_map(term)
                    .map(|(_, term)| *term)
                    .collect()
            }
        };
        let mut pairs = items.iter().zip(&terms);
        let mut coefficients = Vec::with_capacity(scores.logps.len());
        for &index in chunk {
            let first = coefficients.len();
            let reference = || {
                self.references[index]
                    .as_ref()
                    .ok_or(TrainError::NoReference { index })
            };
            match &self.examples[index].kind {
                Kind::Pair { .. } => {
                    let Some((item, term)) = pairs.next() else {
                        continue;
                    };
                    let logps = self.config.pair.discounted(&item.logps);
                    sums.add_pair(&logps, self.config.pair.beta, term.loss);
                    let n_head = item.logps.n_chosen.min(item.logps.n_rejected);
                    let side = |head, tail| Coefficient { head, tail, n_head };
                    coefficients.push(side(term.grad.chosen, term.tail.chosen));
                    coefficients.push(side(term.grad.rejected, term.tail.rejected));
                }
                Kind::Ranking {
                    completions,
                    weights,
                } => {
                    let logps = RankingLogps {
                        policy: (0..completions.len())
                            .map(|i| scores.sum(first + i))
                            .collect(),
                        reference: Some(&reference()?.logps)
                            .filter(|logps| logps.len() == completions.len())
                            .ok_or(TrainError::NoReference { index })?
                            .clone(),
                        n_tokens: completions.iter().map(Vec::len).collect(),
                    };
                    let ranking = &self.config.ranking;
                    let term = ranking.ranking(index, &logps, weights, totals)?;
                    sums.add_ranking(&logps, ranking.beta, term.loss);
                    coefficients.extend(term.grad.into_iter().map(Coefficient::from));
                }
                Kind::Unpaired {
                    completion,
                    desirable,
                    weight,
                } => {
                    let logps = UnpairedLogps {
                        logp: scores.sum(first),
                        reference: reference()?.logps[0],
                        n_tokens: completion.len(),
                        desirable: *desirable,
                        weight: *weight,
                    };
                    let unpaired = &self.config.unpaired;
                    let term = unpaired.unpaired(index, &logps, *shift, totals)?;
                    let reward = unpaired.reward(&logps);
                    sums.add_unpaired(&logps, unpaired.beta, reward, term.loss);
                    coefficients.push(term.grad.into());
                }
                Kind::Demonstration { completion, weight } => {
                    let term =
                        demonstration(index, scores.sum(first), completion.len(), *weight, totals)?;
                    sums.loss += term.loss;
                    coefficients.push(term.grad.into());
                }
                Kind::Anchor { weight, .. } => {
                    let reference = reference()?;
                    if reference.means.is_none() {
                        return Err(TrainError::NoReference { index });
                    }
                    let (expected, reference) = (scores.sum(first), reference.logps[0]);
                    let term = anchor(index, expected, reference, *weight, totals)?;
                    sums.anchor_kl += reference - expected;
                    sums.loss += term.loss;
                    coefficients.push(term.grad.into());
                }
            }
        }
        Ok(coefficients)
    }
}

/// What a step is as a whole, whichever ubatch is at work.
struct Whole {
    totals: Totals,
    /// What rewards of single thumbs are compared with.
    shift: f64,
    /// Terms of pairs by index, where they depend on those of other ubatches.
    coupled: Vec<(usize, PairTerm)>,
}

/// What follows from a value that is not finite.
const UNCHANGED: &str = "; no update was made";
const LOST: &str = "; resume from the last checkpoint";
const CANNOT_GO_ON: &str = "; the run cannot go on from this checkpoint";

/// The adapter's tensors that a model offers, in the order of its blocks.
pub fn lora_shapes(model: &Model) -> Vec<LoraShape> {
    let shape = |(layer, part, n_in): (usize, &crate::model::Part, usize)| LoraShape {
        layer,
        module: part.module,
        n_in,
        n_out: part.n_out,
    };
    model.parts().map(shape).collect()
}

fn dropout_key(seed: u64, step: u64, micro_batch: usize) -> u64 {
    Rng::for_name(seed, &format!("dropout {step} {micro_batch}")).next_u64()
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
