//! A step of training, and its parts.

use std::time::Instant;

use thumbprint_tune::adapter::{AdapterFile, Lora};
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::Example;
use thumbprint_tune::graph::{DeviceOptions, NetworkError};
use thumbprint_tune::model::Model;
use thumbprint_tune::plan::{Budget, Plan};
use thumbprint_tune::schedule::Shape;
use thumbprint_tune::trainer::{Trainer, lora_shapes};

use super::Times;
use super::batch::BenchBatch;
use crate::error::Result;
use crate::kernels::kernels;
use crate::options::Precision;

/// The parts of a step that are timed; the last is all that is not a pass: objective, clipping, AdamW, copies of the adapter.
pub const PHASES: [&str; 4] = ["blocks_forward", "head", "blocks_backward", "update"];

/// A trainer whose every step is the same ubatch.
pub struct Training {
    trainer: Trainer,
    examples: Vec<Example>,
}

impl Training {
    /// With activations kept.
    ///
    /// # Errors
    /// Memory cannot be had.
    pub fn new(model: Model, batch: &BenchBatch, n_threads: usize) -> Result<Self> {
        Self::with_memory(model, batch, n_threads, false)
    }

    /// With activations kept, on a device.
    ///
    /// # Errors
    /// The device cannot be had, or its memory does not suffice.
    pub fn on_device(
        model: Model,
        batch: &BenchBatch,
        n_threads: usize,
        device: DeviceOptions,
        precision: Precision,
    ) -> Result<Self> {
        let budget = Self::budget(batch, n_threads)?;
        let (config, lora) = Self::config(&model, batch)?;
        let n_lora = lora.values.len();
        let plan = Plan::resolve(&model, n_lora, &budget)?;
        let plan = plan
            .on_device(
                device,
                precision == Precision::Exact,
                &budget,
                &model,
                n_lora,
            )
            .map_err(NetworkError::from)?;
        Self::with_plan(model, batch, config, plan, lora)
    }

    /// With activations kept, or with as little memory as the trainer can do with.
    ///
    /// # Errors
    /// Memory cannot be had.
    pub fn with_memory(
        model: Model,
        batch: &BenchBatch,
        n_threads: usize,
        low_memory: bool,
    ) -> Result<Self> {
        let (config, lora) = Self::config(&model, batch)?;
        let mut budget = Self::budget(batch, n_threads)?;
        let resolve = |budget| Plan::resolve(&model, lora.values.len(), &budget);
        if low_memory {
            // What nothing fits says what the least is.
            let least = resolve(Budget {
                memory_mib: Some(0),
                ..budget
            });
            budget.memory_mib = least.err().map(|over| over.needed_mib);
        }
        let plan = resolve(budget)?;
        Self::with_plan(model, batch, config, plan, lora)
    }

    fn config(model: &Model, batch: &BenchBatch) -> Result<(TrainConfig, Lora)> {
        let config = TrainConfig {
            batch_size: batch.examples().len(),
            max_steps: u64::MAX,
            lr_scheduler_type: Shape::Constant,
            shuffle: false,
            ..TrainConfig::default()
        };
        let lora = Lora::new(config.lora.clone(), &lora_shapes(model))?;
        Ok((config, lora))
    }

    fn budget(batch: &BenchBatch, n_threads: usize) -> Result<Budget> {
        Ok(Budget {
            memory_mib: None,
            longest_example: batch.n_rows(),
            step_rows: batch.n_rows(),
            n_threads,
            kernels: kernels(Precision::Fast, n_threads)?,
            last_layers: None,
        })
    }

    fn with_plan(
        model: Model,
        batch: &BenchBatch,
        config: TrainConfig,
        plan: Plan,
        lora: Lora,
    ) -> Result<Self> {
        let examples = batch.examples();
        let mut trainer = Trainer::with_adapter(model, "", examples.clone(), config, plan, lora)?;
        while !trainer.score_references()?.is_empty() {}
        Ok(Self { trainer, examples })
    }

    /// The adapter as a file's bytes, with something in it.
    ///
    /// # Errors
    /// Its values are not finite.
    pub fn adapter(&mut self) -> Result<Vec<u8>> {
        let mut lora = self.trainer.lora()?.clone();
        lora.randomize_b(1e-3, 0);
        let architecture = self.trainer.network().model().spec.architecture.clone();
        Ok(AdapterFile {
            lora,
            architecture,
            base_sha256: None,
        }
        .to_bytes()?)
    }

    /// The peak of resident memory that was planned for, MiB.
    pub fn planned_mib(&self) -> f64 {
        let model = self.trainer.network().model();
        let n_lora = self.trainer.n_parameters();
        let bytes = self.trainer.plan().estimate_bytes(model, n_lora);
        bytes as f64 / f64::from(1 << 20)
    }

    /// The format of products.
    pub fn products_in(&self) -> &'static str {
        self.trainer.network().options().kernels.scratch.name()
    }

    /// What the CPU computed because the device has no kernel for it.
    pub fn fallbacks(&self) -> Vec<String> {
        self.trainer.network().fallbacks()
    }

    /// One step: forward, backward and AdamW.
    ///
    /// # Errors
    /// The step failed.
    pub fn step(&mut self) -> Result<()> {
        self.trainer.step()?;
        Ok(())
    }

    /// Times a step, the policy's forward pass and the reference's.
    ///
    /// # Errors
    /// A pass failed.
    pub fn measure(&mut self, times: &mut Times) -> Result<()> {
        self.trainer.take_spent();
        let started = Instant::now();
        self.trainer.step()?;
        let step = started.elapsed().as_secs_f64();
        times.add("step", step);
        let spent = self.trainer.take_spent();
        let passes = [spent.forward, spent.head, spent.backward].map(|t| t.as_secs_f64());
        for (name, seconds) in PHASES.into_iter().zip(passes) {
            times.add(name, seconds);
        }
        times.add(PHASES[3], step - passes.iter().sum::<f64>());
        for (name, with_adapter) in [("forward", true), ("reference", false)] {
            let started = Instant::now();
            self.trainer.score_examples(&self.examples, with_adapter)?;
            times.add(name, started.elapsed().as_secs_f64());
        }
        Ok(())
    }
}
