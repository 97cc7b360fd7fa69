//! The settings of a training run, under TRL's and PEFT's names where those have them.

use serde::{Deserialize, Serialize};

use crate::adapter::{AdapterError, LoraConfig};
use crate::objective::{ObjectiveError, PairObjective, RankingObjective, UnpairedObjective};
use crate::optimizer::AdamWConfig;
use crate::schedule::{Schedule, ScheduleError, Shape, warmup_steps};

/// How a run learns. Everything that decides its result, apart from model, examples and [`Plan`](crate::plan::Plan).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Loss over pairs.
    pub pair: PairObjective,
    /// Loss over unpaired examples.
    pub unpaired: UnpairedObjective,
    /// Loss over rankings. Not written where it is the default, so that settings from before there were rankings keep their hash.
    #[serde(skip_serializing_if = "is_default")]
    pub ranking: RankingObjective,
    /// The adapter.
    pub lora: LoraConfig,
    /// The optimizer.
    pub adamw: AdamWConfig,
    /// Peak learning rate. Above 0.
    pub learning_rate: f64,
    /// How the learning rate changes over the run.
    pub lr_scheduler_type: Shape,
    /// Share of the steps in which the learning rate rises from 0, in [0, 1].
    pub warmup_ratio: f64,
    /// Global gradient norm above which gradients are scaled down; 0 switches it off.
    pub max_grad_norm: f64,
    /// Examples of one optimizer step.
    pub batch_size: usize,
    /// Optimizer steps of the run.
    pub max_steps: u64,
    /// Whether each pass takes the examples in an order of its own (keyed by their contents) rather than as given.
    pub shuffle: bool,
    /// Seeds the adapter, the order and dropout.
    pub seed: u64,
    /// The run ends early when the estimated KL divergence from the reference exceeds this, nats per token.
    pub max_kl: Option<f64>,
    /// The learning rate is halved whenever a step's mean log-ratio of chosen completions is below this, nats.
    pub min_chosen_logratio: Option<f64>,
}

impl Default for TrainConfig {
    /// DPO as the paper has it, on a LoRA of rank 8.
    fn default() -> Self {
        Self {
            pair: PairObjective::default(),
            unpaired: UnpairedObjective::default(),
            ranking: RankingObjective::default(),
            lora: LoraConfig::default(),
            adamw: AdamWConfig::default(),
            learning_rate: 1e-4,
            lr_scheduler_type: Shape::Linear,
            warmup_ratio: 0.0,
            max_grad_norm: 1.0,
            batch_size: 8,
            max_steps: 24,
            shuffle: true,
            seed: 0,
            max_kl: None,
            min_chosen_logratio: None,
        }
    }
}

/// A setting that was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Of the objectives.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// Of the adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Of the schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Of the run itself.
    #[error("{setting} must be {range}, got {value}")]
    Range {
        /// The setting's name.
        setting: &'static str,
        /// What it may be.
        range: &'static str,
        /// What it is.
        value: f64,
    },
}

impl TrainConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`ConfigError`] names the first that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.pair.validate()?;
        self.unpaired.validate()?;
        self.ranking.validate()?;
        self.lora.validate()?;
        self.schedule()?;
        let range = |setting, range, value, ok| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError::Range {
                    setting,
                    range,
                    value,
                })
            }
        };
        let positive = |v: f64| v.is_finite() && v > 0.0;
        range(
            "learning_rate",
            "above 0",
            self.learning_rate,
            positive(self.learning_rate),
        )?;
        range(
            "warmup_ratio",
            "in [0, 1]",
            self.warmup_ratio,
            (0.0..=1.0).contains(&self.warmup_ratio),
        )?;
        let norm = self.max_grad_norm;
        range(
            "max_grad_norm",
            "at least 0",
            norm,
            norm.is_finite() && norm >= 0.0,
        )?;
        if self.unpaired.needs_kl() {
            range(
                "batch_size",
                "at least 2 for kto, which estimates a divergence among the examples of a step",
                self.batch_size as f64,
                self.batch_size > 1,
            )?;
        }
        if self.pair.couples() {
            let dropout = f64::from(self.lora.dropout);
            range(
                "lora_dropout",
                "0 for aot and aot_unpaired, which score all pairs of a step before they train on any",
                dropout,
                dropout == 0.0,
            )?;
        }
        range(
            "batch_size",
            "at least 1",
            self.batch_size as f64,
            self.batch_size > 0,
        )?;
        range(
            "max_steps",
            "at least 1",
            self.max_steps as f64,
            self.max_steps > 0,
        )?;
        let max_kl = self.max_kl.unwrap_or(1.0);
        range("max_kl", "above 0", max_kl, positive(max_kl))
    }

    /// The learning rate's course.
    ///
    /// # Errors
    /// [`ScheduleError`] when it cannot be.
    pub fn schedule(&self) -> Result<Schedule, ScheduleError> {
        Schedule::new(
            self.lr_scheduler_type,
            warmup_steps(self.warmup_ratio, self.max_steps),
            self.max_steps,
        )
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
