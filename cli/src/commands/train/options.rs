//! Options under TRL's and PEFT's names, where those have them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use thumbprint_tune::adapter::{LoraConfig, Module};
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::objective::{
    FDivergence, LossType, PairObjective, PairWeights, RankingObjective, RankingWeights,
    UnpairedLossType, UnpairedObjective,
};
use thumbprint_tune::optimizer::{AdamW, AdamWConfig};
use thumbprint_tune::preset::{Amount, Preset};
use thumbprint_tune::schedule::Shape;

use crate::error::{CliError, Result};
use crate::options::{DeviceOption, ModelOption, Precision, SeedOption, ThreadsOption};
use crate::pairs::Row;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    pub model: ModelOption,
    /// Preferences, one JSON object a line, as TRL reads them: `prompt`, `chosen`, `rejected`, each text or a list of messages. For
    /// plackett_luce: `prompt` and `ranked`, a list of answers, the best first; or rankings as in UltraFeedback, Nectar and OASST
    #[arg(long, value_name = "JSONL")]
    pub data: PathBuf,
    /// Where the adapter goes: a GGUF LoRA that llama.cpp loads
    #[arg(long, value_name = "GGUF")]
    pub out: PathBuf,

    /// A recipe, whose settings hold where no option says otherwise: thumbprint (the product's own), zephyr, tulu2, smollm2
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,

    /// Losses, added up: sigmoid, cdpo, robust, hinge, ipo, exo_pair, nca_pair, bco_pair, sppo_hard, aot, aot_unpaired, apo_zero,
    /// apo_down, discopop, sigmoid_norm, dpop, sft; without a reference cpo, simpo, orpo; plackett_luce, which takes rankings (and sft of
    /// the best); or one of kto, bco, apo_zero_unpaired, which take each side as a thumb of its own [default: sigmoid]
    #[arg(
        long,
        visible_alias = "objective",
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Objective"
    )]
    loss_type: Option<Vec<Loss>>,
    /// A factor for each loss [default: 1 each]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Objective"
    )]
    loss_weights: Option<Vec<f64>>,
    /// Strength of the pull towards the reference [default: 0.1]
    #[arg(long, value_name = "X", help_heading = "Objective")]
    beta: Option<f64>,
    /// Share of labels taken to be wrong (cdpo, robust, exo_pair, aot, aot_unpaired, cpo, simpo) [default: 0]
    #[arg(long, value_name = "X", help_heading = "Objective")]
    label_smoothing: Option<f64>,
    /// Divergence from the reference: reverse_kl, forward_kl, js_divergence, alpha_divergence
    #[arg(long, value_name = "NAME", default_value_t = FDivergence::default(), help_heading = "Objective")]
    f_divergence_type: FDivergence,
    /// Coefficient of alpha_divergence
    #[arg(long, value_name = "X", default_value_t = PairObjective::default().f_alpha_divergence_coef, help_heading = "Objective")]
    f_alpha_divergence_coef: f64,
    /// Share that tokens beyond the shorter completion's length count (LD-DPO) [default: all]
    #[arg(long, value_name = "X", help_heading = "Objective")]
    ld_alpha: Option<f64>,
    /// Weigh pairs by how likely the model itself would write them (WPO)
    #[arg(long, help_heading = "Objective")]
    use_weighting: bool,
    /// Temperature of discopop's blend
    #[arg(long, value_name = "X", default_value_t = PairObjective::default().discopop_tau, help_heading = "Objective")]
    discopop_tau: f64,
    /// What dpop adds for each nat that the chosen side lost
    #[arg(long, value_name = "X", default_value_t = PairObjective::default().dpop_lambda, help_heading = "Objective")]
    dpop_lambda: f64,
    /// Margin that simpo aims at
    #[arg(long, value_name = "X", default_value_t = PairObjective::default().simpo_gamma, help_heading = "Objective")]
    simpo_gamma: f64,

    /// Peak learning rate [default: 1e-4]
    #[arg(long, value_name = "X", help_heading = "Optimization")]
    learning_rate: Option<f64>,
    /// Course of the learning rate: constant, constant_with_warmup, linear, cosine [default: linear]
    #[arg(long, value_name = "NAME", help_heading = "Optimization")]
    lr_scheduler_type: Option<Shape>,
    /// Share of the steps in which the learning rate rises [default: 0]
    #[arg(long, value_name = "X", help_heading = "Optimization")]
    warmup_ratio: Option<f64>,
    /// Optimizer steps
    #[arg(long, value_name = "N", conflicts_with = "num_train_epochs",
          value_parser = clap::value_parser!(u64).range(1..), help_heading = "Optimization")]
    max_steps: Option<u64>,
    /// Passes over the data, instead of a number of steps [default: 3]
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Optimization")]
    num_train_epochs: Option<f64>,
    /// Examples of one micro-batch [default: 8]. Memory does not depend on it: micro-batches are packed by tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 20), help_heading = "Optimization")]
    per_device_train_batch_size: Option<u64>,
    /// Micro-batches of one step [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 20), help_heading = "Optimization")]
    gradient_accumulation_steps: Option<u64>,
    /// In which order examples are taken
    #[arg(long, value_enum, default_value_t = Sampling::Random, value_name = "NAME", help_heading = "Optimization")]
    train_sampling_strategy: Sampling,
    /// Global norm that gradients are scaled down to; 0 for none [default: 1]
    #[arg(long, value_name = "X", help_heading = "Optimization")]
    max_grad_norm: Option<f64>,
    /// Decoupled weight decay
    #[arg(long, value_name = "X", default_value_t = AdamWConfig::default().weight_decay, help_heading = "Optimization")]
    weight_decay: f64,
    /// Decay of AdamW's first moment
    #[arg(long, value_name = "X", default_value_t = AdamWConfig::default().beta1, help_heading = "Optimization")]
    adam_beta1: f64,
    /// Decay of AdamW's second moment
    #[arg(long, value_name = "X", default_value_t = AdamWConfig::default().beta2, help_heading = "Optimization")]
    adam_beta2: f64,
    /// Added to the root of AdamW's second moment
    #[arg(long, value_name = "X", default_value_t = AdamWConfig::default().epsilon, help_heading = "Optimization")]
    adam_epsilon: f64,

    /// End the run when the estimated divergence from the reference exceeds this, nats per token [default: never]
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Optimization")]
    max_kl: Option<f64>,

    /// Rank
    #[arg(long, value_name = "N", default_value_t = LoraConfig::default().rank, help_heading = "Adapter")]
    lora_r: usize,
    /// The change is scaled by alpha / r
    #[arg(long, value_name = "X", default_value_t = LoraConfig::default().alpha, help_heading = "Adapter")]
    lora_alpha: f32,
    /// Probability that an input is dropped
    #[arg(long, value_name = "X", default_value_t = LoraConfig::default().dropout, help_heading = "Adapter")]
    lora_dropout: f32,
    /// Matrices to change: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or all-linear; where a model's files have them fused
    /// (phi3), qkv_proj and gate_up_proj
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "all-linear",
        help_heading = "Adapter"
    )]
    lora_target_modules: Vec<Target>,
    /// Change only so many blocks at the end: the rest is computed once for each example [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Adapter")]
    lora_last_layers: Option<u32>,
    /// Start from this adapter (of the same base) instead of a fresh one
    #[arg(long, value_name = "GGUF", conflicts_with_all = ["lora_r", "lora_alpha", "lora_target_modules", "lora_last_layers"],
          help_heading = "Adapter")]
    pub init_adapter: Option<PathBuf>,

    /// Compare with the base under this adapter instead of the base alone: with --init-adapter, the next stage of sDPO
    #[arg(long, value_name = "GGUF", help_heading = "Adapter")]
    pub ref_adapter: Option<PathBuf>,

    /// Tokens of a prompt with its longer completion, at most [default: 1024, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..), help_heading = "Data")]
    max_length: Option<u64>,
    /// What happens to pairs that are longer
    #[arg(long, value_enum, default_value_t = Truncation::Refuse, help_heading = "Data")]
    pub truncation: Truncation,
    /// Prepare tokens as TRL does: with what the chat template writes after the end token
    #[arg(long, help_heading = "Data")]
    pub trl_tokens: bool,

    /// Keep only each layer's input and compute the rest again: less memory, more time
    #[arg(long, help_heading = "Resources")]
    pub gradient_checkpointing: bool,
    /// Most memory to use, MiB, the model included [default: as much as is fastest]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    pub memory_mib: Option<usize>,
    /// Number formats
    #[arg(long, value_enum, default_value_t = Precision::Fast, help_heading = "Resources")]
    pub kernels: Precision,
    #[command(flatten, next_help_heading = "Resources")]
    pub threads: ThreadsOption,
    #[command(flatten, next_help_heading = "Resources")]
    pub device: DeviceOption,
    #[command(flatten)]
    pub seed: SeedOption,
    /// Save the run's state in this file, and go on from it if it is there; the adapter is then the same bit for bit
    #[arg(long, value_name = "FILE", help_heading = "Resources")]
    pub checkpoint: Option<PathBuf>,
    /// Write what decided the adapter here, as JSON: settings, plan, hashes of model and examples, and the adapter's own
    #[arg(long, value_name = "FILE", help_heading = "Resources")]
    pub manifest: Option<PathBuf>,
    /// Do again what this manifest tells of, with its settings and its plan, on the same model and data: on the same machine the adapter is
    /// the same bit for bit
    #[arg(long, value_name = "FILE", help_heading = "Resources", conflicts_with_all = [
        "preset", "loss_type", "loss_weights", "beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha",
        "use_weighting", "discopop_tau", "dpop_lambda", "simpo_gamma", "learning_rate", "lr_scheduler_type", "warmup_ratio", "max_steps",
        "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "train_sampling_strategy", "max_grad_norm",
        "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_kl", "lora_r", "lora_alpha", "lora_dropout",
        "lora_target_modules", "lora_last_layers", "max_length", "truncation", "trl_tokens", "gradient_checkpointing", "memory_mib",
        "kernels", "threads", "device", "require_gpu", "seed"])]
    pub replay: Option<PathBuf>,
    /// Steps from one save to the next
    #[arg(long, value_name = "N", default_value_t = 10, requires = "checkpoint",
          value_parser = clap::value_parser!(u64).range(1..), help_heading = "Resources")]
    pub save_steps: u64,
}

/// The order of an epoch.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Sampling {
    /// Drawn anew each epoch
    Random,
    /// As in the file
    Sequential,
}

/// What happens to examples that are too long.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The command fails and names them
    Refuse,
    /// They are left out, and counted
    Skip,
}

/// One loss, as `--loss-type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Pair(LossType),
    Ranking,
    Unpaired(UnpairedLossType),
}

impl FromStr for Loss {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        if let Ok(loss) = name.parse() {
            return Ok(Loss::Pair(loss));
        }
        if name == RankingObjective::NAME {
            return Ok(Loss::Ranking);
        }
        let unpaired = name.parse().map(Loss::Unpaired);
        unpaired.map_err(|_| {
            let all = LossType::ALL.iter().map(|loss| loss.name());
            let all: Vec<_> = all
                .chain([RankingObjective::NAME])
                .chain(UnpairedLossType::ALL.iter().map(|loss| loss.name()))
                .collect();
            format!("unknown loss type: use {}", all.join(", "))
        })
    }
}

/// One matrix, or PEFT's word for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    AllLinear,
    One(Module),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "all-linear" => Ok(Target::AllLinear),
            _ => name
                .parse()
                .map(Target::One)
                .map_err(|error: thumbprint_tune::adapter::AdapterError| error.to_string()),
        }
    }
}

/// What the losses make of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The two sides are compared.
    Pairs,
    /// The chosen side is imitated.
    Demonstrations,
    /// Answers are put in order.
    Rankings,
    /// Each side is a thumb of its own.
    Thumbs(UnpairedLossType),
}

impl Objective {
    /// The examples that a row becomes, whose completions are in order.
    pub fn examples(self, row: &Row) -> Vec<Example> {
        let example = |kind| Example {
            prompt: row.prompt.clone(),
            kind,
        };
        let thumb = |completion: &[i32], desirable| {
            example(Kind::Unpaired {
                completion: completion.to_vec(),
                desirable,
                weight: 1.0,
            })
        };
        let [best, .., worst] = row.completions.as_slice() else {
            return Vec::new();
        };
        match self {
            Objective::Pairs => vec![example(Kind::Pair {
                chosen: best.clone(),
                rejected: worst.clone(),
                weights: PairWeights::default(),
            })],
            Objective::Demonstrations => {
                vec![example(Kind::Demonstration {
                    completion: best.clone(),
                    weight: 1.0,
                })]
            }
            Objective::Rankings => vec![example(Kind::Ranking {
                completions: row.completions.clone(),
                weights: RankingWeights::default(),
            })],
            Objective::Thumbs(_) => vec![thumb(best, true), thumb(worst, false)],
        }
    }
}

impl Options {
    /// What the losses want of each pair.
    ///
    /// # Errors
    /// Losses that cannot be added up, or settings that they would ignore.
    pub fn objective(&self) -> Result<Objective> {
        let usage = |message: String| Err(CliError::Usage(message));
        let losses = self.losses();
        let alone = |losses: &[Loss]| losses.iter().all(|loss| *loss == Loss::Pair(LossType::Sft));
        let not_of_pairs = losses.iter().find_map(|loss| match loss {
            Loss::Pair(_) => None,
            Loss::Ranking => Some(RankingObjective::NAME),
            Loss::Unpaired(loss) => Some(loss.name()),
        });
        if let Some(name) = not_of_pairs {
            let given = [
                (
                    "--label-smoothing",
                    self.label_smoothing.is_some_and(|e| e > 0.0),
                ),
                (
                    "--loss-weights",
                    self.loss_weights.is_some() && !losses.contains(&Loss::Ranking),
                ),
                (
                    "--f-divergence-type",
                    self.f_divergence_type != FDivergence::default(),
                ),
                ("--ld-alpha", self.ld_alpha.is_some()),
                ("--use-weighting", self.use_weighting),
            ];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
                return usage(format!("{option} has no effect on {name}"));
            }
        }
        match losses.as_slice() {
            [Loss::Pair(LossType::Sft)] => Ok(Objective::Demonstrations),
            [Loss::Unpaired(loss)] => Ok(Objective::Thumbs(*loss)),
            [Loss::Ranking, rest @ ..] if rest.len() < 2 && alone(rest) => Ok(Objective::Rankings),
            losses if losses.contains(&Loss::Ranking) => usage(format!(
                "--loss-type: {} compares more than two answers, and only sft can be added to it: {0},sft",
                RankingObjective::NAME
            )),
            losses => match losses.iter().find(|loss| matches!(loss, Loss::Unpaired(_))) {
                Some(Loss::Unpaired(loss)) => usage(format!(
                    "--loss-type: {loss} rates each side on its own and cannot be added to other losses"
                )),
                _ => Ok(Objective::Pairs),
            },
        }
    }

    fn losses(&self) -> Vec<Loss> {
        let of_preset = || {
            let losses = self.start(0).pair.loss_type.into_iter();
            losses.map(Loss::Pair).collect()
        };
        self.loss_type.clone().unwrap_or_else(of_preset)
    }

    /// What holds where no option says otherwise.
    fn start(&self, n_params: u64) -> TrainConfig {
        let preset = self.preset.map(|preset| preset.config(n_params));
        preset.unwrap_or_default()
    }

    /// The trainer's settings for these examples, and a model of so many parameters.
    pub fn config(&self, objective: Objective, n_params: u64, amount: Amount) -> TrainConfig {
        let start = self.start(n_params);
        let beta = self.beta.unwrap_or(start.pair.beta);
        let losses = self.losses();
        let mut pair = PairObjective {
            loss_type: losses
                .iter()
                .filter_map(|loss| match loss {
                    Loss::Pair(loss) => Some(*loss),
                    _ => None,
                })
                .collect(),
            beta,
            f_divergence_type: self.f_divergence_type,
            f_alpha_divergence_coef: self.f_alpha_divergence_coef,
            ld_alpha: self.ld_alpha,
            use_weighting: self.use_weighting,
            discopop_tau: self.discopop_tau,
            dpop_lambda: self.dpop_lambda,
            simpo_gamma: self.simpo_gamma,
            ..start.pair
        };
        if self.loss_type.is_some() {
            // A preset's weights and smoothing are those of its own losses.
            pair.loss_weights.clear();
            pair.label_smoothing = 0.0;
        }
        if let Some(weights) = &self.loss_weights {
            pair.loss_weights.clone_from(weights);
        }
        pair.label_smoothing = self.label_smoothing.unwrap_or(pair.label_smoothing);
        let ranking = self.ranking(&losses, beta);
        let (pair, unpaired) = match objective {
            Objective::Thumbs(loss_type) => (
                PairObjective::default(),
                UnpairedObjective { loss_type, beta },
            ),
            Objective::Rankings => (PairObjective::default(), UnpairedObjective::default()),
            Objective::Pairs | Objective::Demonstrations => (pair, UnpairedObjective::default()),
        };
        let batch_size = self.batch_size(start.batch_size);
        TrainConfig {
            pair,
            unpaired,
            ranking: match objective {
                Objective::Rankings => ranking,
                _ => RankingObjective::default(),
            },
            lora: self.dropout_and_seed(LoraConfig {
                rank: self.lora_r,
                alpha: self.lora_alpha,
                targets: self.targets(),
                last_layers: self.lora_last_layers.map(|n| n as usize),
                ..LoraConfig::default()
            }),
            adamw: AdamWConfig {
                beta1: self.adam_beta1,
                beta2: self.adam_beta2,
                epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
            },
            learning_rate: self.learning_rate.unwrap_or(start.learning_rate),
            lr_scheduler_type: self.lr_scheduler_type.unwrap_or(start.lr_scheduler_type),
            warmup_ratio: self.warmup_ratio.unwrap_or(start.warmup_ratio),
            max_grad_norm: self.max_grad_norm.unwrap_or(start.max_grad_norm),
            shuffle: self.train_sampling_strategy == Sampling::Random,
            batch_size,
            max_steps: self.n_steps(n_params, amount, batch_size),
            max_kl: self.max_kl.or(start.max_kl),
            seed: self.seed.seed,
            ..TrainConfig::default()
        }
    }

    fn ranking(&self, losses: &[Loss], beta: f64) -> RankingObjective {
        let weights = self.loss_weights.as_deref().unwrap_or_default();
        let weight = |at: usize| weights.get(at).copied().unwrap_or(1.0);
        RankingObjective {
            beta,
            loss_weight: weight(0),
            sft_weight: if losses.len() > 1 { weight(1) } else { 0.0 },
        }
    }

    /// Checks every setting that does not depend on the data.
    ///
    /// # Errors
    /// [`CliError::Usage`] names the first that is out of range.
    pub fn validate(&self, objective: Objective) -> Result<()> {
        let usage = |error: &dyn std::fmt::Display| CliError::Usage(error.to_string());
        let one = Amount {
            examples: 1,
            sides: 2,
            texts: 2,
        };
        let config = self.config(objective, 0, one);
        if objective == Objective::Rankings {
            let (losses, weights) = (self.losses().len(), self.loss_weights.as_ref());
            if weights.is_some_and(|weights| weights.len() != losses) {
                return Err(CliError::Usage(format!(
                    "loss_weights: must be as many as losses, {losses}"
                )));
            }
        }
        config.validate().map_err(|error| usage(&error))?;
        AdamW::new(config.adamw, 0).map_err(|error| usage(&error))?;
        Ok(())
    }

    /// What an adapter file does not say.
    fn dropout_and_seed(&self, config: LoraConfig) -> LoraConfig {
        LoraConfig {
            dropout: self.lora_dropout,
            seed: self.seed.seed,
            ..config
        }
    }

    /// Optimizer steps over these examples.
    fn n_steps(&self, n_params: u64, amount: Amount, batch_size: usize) -> u64 {
        match (self.max_steps, self.num_train_epochs, self.preset) {
            (Some(steps), ..) => steps,
            (None, None, Some(preset)) => preset.steps(n_params, amount, batch_size),
            (None, epochs, _) => {
                let examples = epochs.unwrap_or(3.0) * amount.examples as f64;
                ((examples / batch_size as f64).ceil() as u64).max(1)
            }
        }
    }

    /// The longest prompt with completion that is taken.
    ///
    /// # Errors
    /// Longer than what the model was trained for.
    pub fn max_length(&self, n_ctx_train: usize) -> Result<usize> {
        const TRL_DEFAULT: usize = 1024;
        let of_preset = self.preset.and_then(Preset::max_length);
        match self.max_length {
            None => Ok(of_preset.unwrap_or(TRL_DEFAULT).min(n_ctx_train)),
            Some(n) if n as usize <= n_ctx_train => Ok(n as usize),
            Some(n) => Err(CliError::Usage(format!(
                "--max-length {n} is beyond the {n_ctx_train} tokens that the model was trained for"
            ))),
        }
    }

    /// Examples of one step; `otherwise` where no option says so.
    fn batch_size(&self, otherwise: usize) -> usize {
        let micro = self.per_device_train_batch_size;
        let accumulated = self.gradient_accumulation_steps;
        match (micro, accumulated) {
            (None, None) => otherwise,
            _ => (micro.unwrap_or(8) * accumulated.unwrap_or(1)) as usize,
        }
    }

    fn targets(&self) -> BTreeSet<Module> {
        let targets = self
            .lora_target_modules
            .iter()
            .flat_map(|target| match target {
                Target::AllLinear => Module::ALL.to_vec(),
                Target::One(module) => vec![*module],
            });
        targets.collect()
    }
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    let value = text
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| "must be a number above 0".to_owned())
}
