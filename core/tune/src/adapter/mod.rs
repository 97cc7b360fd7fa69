//! A LoRA adapter in memory, and as a file of llama.cpp's or PEFT's.
//!
//! In memory everything is as in GGUF: the rows of q and k in the order of the base model's file. PEFT's order differs for
//! `llama`-like architectures, see [`HeadCounts`].

mod combine;
mod gguf;
mod merge;
mod module;
mod peft;
mod permute;

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thumbprint_ggml::ggml::quant::QuantError;
use thumbprint_ggml::gguf::GgufError;

use crate::durable::WriteError;
use crate::rng::Rng;

pub use gguf::AdapterFile;
pub use merge::{Merged, matrix_type, merge, mergeable_types};
pub use module::Module;
pub use peft::PeftConfig;
pub use permute::HeadCounts;

/// What an adapter is made of: PEFT's `r`, `lora_alpha`, `target_modules` and `lora_dropout`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// The inner dimension of each change.
    pub rank: usize,
    /// The change is scaled by `alpha / rank`.
    pub alpha: f32,
    /// The matrices to change; [`Module::ALL`] for all that the model has.
    pub targets: BTreeSet<Module>,
    /// Probability that an input of A is dropped in training, in [0, 1).
    pub dropout: f32,
    /// Seeds A.
    pub seed: u64,
    /// Only the matrices of so many blocks at the end; of all if none. What goes on below them is computed once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_layers: Option<usize>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            rank: 8,
            alpha: 16.0,
            targets: BTreeSet::from(Module::ALL),
            dropout: 0.0,
            seed: 0,
            last_layers: None,
        }
    }
}

impl LoraConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`AdapterError::Invalid`] names the setting.
    pub fn validate(&self) -> Result<(), AdapterError> {
        let check = |ok: bool, setting, reason: String| {
            if ok {
                Ok(())
            } else {
                Err(AdapterError::Invalid { setting, reason })
            }
        };
        let LoraConfig {
            rank,
            alpha,
            dropout,
            ..
        } = self;
        check(*rank > 0, "rank", "must be above 0".to_owned())?;
        check(
            alpha.is_finite() && *alpha > 0.0,
            "alpha",
            format!("must be finite and above 0, got {alpha}"),
        )?;
        check(
            (0.0..1.0).contains(dropout),
            "dropout",
            format!("must be in [0, 1), got {dropout}"),
        )?;
        check(
            self.last_layers != Some(0),
            "last_layers",
            "must be above 0".to_owned(),
        )?;
        check(
            !self.targets.is_empty(),
            "targets",
            "must name a matrix".to_owned(),
        )
    }
}

/// A matrix of the base model: `y = W x`, `W` of shape `[n_out, n_in]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoraShape {
    /// The block.
    pub layer: usize,
    /// Which matrix of it.
    pub module: Module,
    /// Length of `x`.
    pub n_in: usize,
    /// Length of `y`.
    pub n_out: usize,
}

impl LoraShape {
    /// The tensor's name in GGUF, such as `blk.0.attn_q.weight`.
    pub fn base_name(&self) -> String {
        format!("blk.{}.{}.weight", self.layer, self.module.gguf_name())
    }
}

/// The change to one matrix: `W + scale B A`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraTensor {
    /// The tensor that it changes, such as `blk.0.attn_q.weight`.
    pub base: String,
    /// Its block.
    pub layer: usize,
    /// Which matrix of it.
    pub module: Module,
    /// Length of its input.
    pub n_in: usize,
    /// Length of its output.
    pub n_out: usize,
    /// Where A lies in [`Lora::values`]: `[rank, n_in]`, row-major (ggml `ne = [n_in, rank]`).
    pub a: Range<usize>,
    /// Where B lies: `[n_out, rank]`, row-major (ggml `ne = [rank, n_out]`).
    pub b: Range<usize>,
}

/// An adapter: all its matrices in one slice, so that the optimizer and checkpoints see flat parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// What it is made of.
    pub config: LoraConfig,
    /// All A and B, f32.
    pub values: Vec<f32>,
    /// Where each lies; by layer, then module; without gaps.
    pub tensors: Vec<LoraTensor>,
}

impl Lora {
    /// A fresh adapter for those of `shapes` that `config.targets` names, initialised as PEFT does: A Kaiming-uniform with
    /// `a = sqrt 5`, which is uniform in `(-1/sqrt(n_in), 1/sqrt(n_in))`, B zero, so that the adapter changes nothing yet. Each A has a
    /// random stream of its own, by its tensor's name.
    ///
    /// # Errors
    /// A setting out of range, a target that no shape has, or a matrix that occurs twice or has no size.
    pub fn new(config: LoraConfig, shapes: &[LoraShape]) -> Result<Self, AdapterError> {
        let mut lora = Lora::zeros(config, shapes)?;
        let seed = lora.config.seed;
        for t in &lora.tensors {
            let mut rng = Rng::for_name(seed, &t.a_name());
            let bound = 1.0 / (t.n_in as f64).sqrt();
            lora.values[t.a.clone()].fill_with(|| rng.uniform_in(-bound, bound) as f32);
        }
        Ok(lora)
    }

    /// An adapter of the same layout as [`Lora::new`]'s with given values (those of a checkpoint, say).
    ///
    /// # Errors
    /// As [`Lora::new`], or a number of values that the layout does not have.
    pub fn with_values(
        config: LoraConfig,
        shapes: &[LoraShape],
        values: Vec<f32>,
    ) -> Result<Self, AdapterError> {
        let mut lora = Lora::zeros(config, shapes)?;
        if values.len() != lora.values.len() {
            return Err(AdapterError::ValueCount {
                expected: lora.values.len(),
                found: values.len(),
            });
        }
        lora.values = values;
        Ok(lora)
    }

    /// What `B A` is multiplied by: `alpha / rank`.
    pub fn scale(&self) -> f32 {
        self.config.alpha / self.config.rank as f32
    }

    /// The first block that is changed: those below compute what the base computes.
    pub fn first_layer(&self) -> usize {
        self.tensors.iter().map(|t| t.layer).min().unwrap_or(0)
    }

    /// The change to one matrix, if the adapter has it.
    pub fn tensor(&self, layer: usize, module: Module) -> Option<&LoraTensor> {
        let at = self
            .tensors
            .binary_search_by_key(&(layer, module), |t| (t.layer, t.module));
        at.ok().map(|i| &self.tensors[i])
    }

    /// The values of A, `[rank, n_in]`.
    pub fn a(&self, tensor: &LoraTensor) -> &[f32] {
        &self.values[tensor.a.clone()]
    }

    /// The values of B, `[n_out, rank]`.
    pub fn b(&self, tensor: &LoraTensor) -> &[f32] {
        &self.values[tensor.b.clone()]
    }

    /// The range of every A and B, in the order of [`Lora::values`].
    pub fn ranges(&self) -> Vec<Range<usize>> {
        self.tensors
            .iter()
            .flat_map(|t| [t.a.clone(), t.b.clone()])
            .collect()
    }

    /// The name of the matrix that holds `values[index]`, such as `blk.0.attn_q.weight.lora_a`.
    pub fn name_at(&self, index: usize) -> Option<String> {
        let t = self.tensors.iter().find(|t| index < t.b.end)?;
        Some(if t.a.contains(&index) {
            t.a_name()
        } else {
            t.b_name()
        })
    }

    /// Draws B from a normal distribution, for tests of gradients (that of A is zero where B is).
    pub fn randomize_b(&mut self, standard_deviation: f64, seed: u64) {
        for t in &self.tensors {
            let mut rng = Rng::for_name(seed, &t.b_name());
            self.values[t.b.clone()].fill_with(|| (standard_deviation * rng.normal()) as f32);
        }
    }

    /// Checks that every value is finite: an adapter that is not must neither be written nor used.
    ///
    /// # Errors
    /// [`AdapterError::NotFinite`] names the first matrix with a value that is not.
    pub fn check_finite(&self) -> Result<(), AdapterError> {
        match self.values.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(index) => Err(AdapterError::NotFinite {
                tensor: self.name_at(index).unwrap_or_default(),
            }),
        }
    }

    fn zeros(mut config: LoraConfig, shapes: &[LoraShape]) -> Result<Self, AdapterError> {
        config.validate()?;
        // No model has all: all means all that the model has.
        if config.targets.len() == Module::ALL.len() && !shapes.is_empty() {
            let has = |module: &Module| shapes.iter().any(|s| s.module == *module);
            config.targets.retain(has);
        }
        let n_layers = shapes.iter().map(|s| s.layer + 1).max().unwrap_or(0);
        let first = config.last_layers.map_or(0, |n| n_layers.saturating_sub(n));
        let mut chosen: Vec<&LoraShape> = shapes
            .iter()
            .filter(|s| config.targets.contains(&s.module) && s.layer >= first)
            .collect();
        chosen.sort_by_key(|s| (s.layer, s.module));
        if let Some(module) = config
            .targets
            .iter()
            .find(|m| !chosen.iter().any(|s| s.module == **m))
        {
            return Err(AdapterError::Invalid {
                setting: "targets",
                reason: format!("the model has no `{module}`"),
            });
        }
        let mut seen = HashSet::new();
        let mut tensors = Vec::with_capacity(chosen.len());
        let mut end = 0;
        for s in chosen {
            let base = s.base_name();
            if s.n_in == 0 || s.n_out == 0 || !seen.insert((s.layer, s.module)) {
                let problem = "occurs twice or has no size".to_owned();
                return Err(AdapterError::Tensor {
                    tensor: base,
                    problem,
                });
            }
            let a = end..end + config.rank * s.n_in;
            let b = a.end..a.end + s.n_out * config.rank;
            end = b.end;
            let LoraShape {
                layer,
                module,
                n_in,
                n_out,
            } = *s;
            tensors.push(LoraTensor {
                base,
                layer,
                module,
                n_in,
                n_out,
                a,
                b,
            });
        }
        Ok(Lora {
            config,
            values: vec![0.0; end],
            tensors,
        })
    }

    /// From matrices read from a file, in any order.
    fn assemble(
        mut config: LoraConfig,
        pairs: Vec<(LoraShape, Vec<f32>, Vec<f32>)>,
    ) -> Result<Self, AdapterError> {
        config.targets = pairs.iter().map(|(s, ..)| s.module).collect();
        let shapes: Vec<LoraShape> = pairs.iter().map(|(s, ..)| *s).collect();
        let mut lora = Lora::zeros(config, &shapes)?;
        for (shape, a, b) in pairs {
            if let Some(LoraTensor {
                a: at_a, b: at_b, ..
            }) = lora.tensor(shape.layer, shape.module).cloned()
            {
                lora.values[at_a].copy_from_slice(&a);
                lora.values[at_b].copy_from_slice(&b);
            }
        }
        lora.check_finite()?;
        Ok(lora)
    }
}

impl LoraTensor {
    /// The name of A in a GGUF adapter.
    pub fn a_name(&self) -> String {
        format!("{}.lora_a", self.base)
    }

    /// The name of B in a GGUF adapter.
    pub fn b_name(&self) -> String {
        format!("{}.lora_b", self.base)
    }

    /// The matrix that it changes.
    pub fn shape(&self) -> LoraShape {
        LoraShape {
            layer: self.layer,
            module: self.module,
            n_in: self.n_in,
            n_out: self.n_out,
        }
    }
}

/// An adapter that cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A setting out of range.
    #[error("{setting}: {reason}")]
    Invalid {
        /// Which setting.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A matrix that no block has.
    #[error("unknown module `{given}`: use {valid}")]
    UnknownModule {
        /// What was asked for.
        given: String,
        /// PEFT's names of those that exist.
        valid: String,
    },
    /// Values that do not belong to the layout.
    #[error("the adapter's layout has {expected} values, but {found} were given")]
    ValueCount {
        /// The layout's.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// A tensor of a file that cannot be used.
    #[error("adapter tensor `{tensor}` {problem}")]
    Tensor {
        /// Its name in the file.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor whose rank is not the adapter's.
    #[error("adapter tensor `{tensor}` has rank {found}, and the adapter has rank {expected}")]
    Rank {
        /// Its name in the file.
        tensor: String,
        /// The adapter's rank.
        expected: usize,
        /// Its own.
        found: usize,
    },
    /// NaN or an infinity among the values.
    #[error("adapter tensor `{tensor}` holds values that are not finite")]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
    /// An adapter that was made for another model.
    #[error(
        "the adapter was made for the base model with SHA-256 {adapter}, and this one has {base}"
    )]
    OtherBase {
        /// The hash that the adapter names.
        adapter: String,
        /// The hash of the model at hand.
        base: String,
    },
    /// An adapter that does not name the model that it was made for.
    #[error(
        "{} does not say which base model it was made for: accept that if you know that it is this one",
        path.display()
    )]
    UnnamedBase {
        /// The file.
        path: PathBuf,
    },
    /// A PEFT adapter with a feature that this library, or llama.cpp, cannot express.
    #[error("{}: {problem}", path.display())]
    Peft {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A malformed GGUF adapter.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor that cannot be converted to f32.
    #[error(transparent)]
    Convert(#[from] QuantError),
    /// A file that cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}
