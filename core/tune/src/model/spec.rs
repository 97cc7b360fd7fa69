//! Architectures as data: what a transformer block consists of, filled in from a model file's metadata.

use thumbprint_ggml::gguf::{Array, Gguf};

use super::error::ModelError;

/// How rotary embedding pairs the dimensions of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeKind {
    /// Neighbours: `(0, 1), (2, 3), ..` (llama's layout in GGUF).
    Interleaved,
    /// Halves: `(0, d/2), (1, d/2 + 1), ..`.
    Halves,
}

/// Rotary position embedding (Su et al. 2021).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which dimensions are rotated together.
    pub kind: RopeKind,
    /// Dimensions of a head that are rotated, from the first on.
    pub n_dims: usize,
    /// Base of the geometric series of frequencies.
    pub freq_base: f64,
    /// Factor on positions (linear scaling: 1 / scaling factor).
    pub freq_scale: f64,
    /// Leaves high frequencies unscaled.
    pub yarn: Option<Yarn>,
    /// Factor on what is rotated.
    pub magnitude: f32,
}

/// Scaling that spares what turns often within the original context (Peng et al. 2023).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Tokens of the original context.
    pub n_ctx_orig: usize,
    /// Turns within the original context from which on a frequency stays as it is.
    pub beta_fast: f64,
    /// Turns up to which a frequency is scaled in full.
    pub beta_slow: f64,
}

impl Rope {
    /// Radians per position of each rotated pair; `factors` divide them.
    pub fn frequencies(&self, factors: Option<&[f32]>) -> Vec<f64> {
        let frequency = |i: usize| {
            let factor = factors.map_or(1.0, |factors| f64::from(factors[i]));
            let unscaled = self.freq_base.powf(-2.0 * i as f64 / self.n_dims as f64) / factor;
            let spared = self.yarn.map_or(0.0, |yarn| self.spared(&yarn, i));
            unscaled * (self.freq_scale * (1.0 - spared) + spared)
        };
        (0..self.n_dims / 2).map(frequency).collect()
    }

    /// How much of pair `i` is left unscaled, from 0 to 1.
    fn spared(&self, yarn: &Yarn, i: usize) -> f64 {
        let n_dims = self.n_dims as f64;
        // The pair that turns so many times.
        let pair = |turns: f64| {
            let wavelength = yarn.n_ctx_orig as f64 / (turns * std::f64::consts::TAU);
            n_dims * wavelength.ln() / (2.0 * self.freq_base.ln())
        };
        let low = pair(yarn.beta_fast).floor().max(0.0);
        let high = pair(yarn.beta_slow).ceil().min(n_dims - 1.0);
        1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0)
    }
}

/// Attention that sees only the tokens just before, in some of the blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Tokens that a query sees, its own included.
    pub size: usize,
    /// The blocks it holds in.
    pub layers: Vec<bool>,
    /// Position embedding in those blocks.
    pub rope: Rope,
}

/// Normalisation before attention, before the feed-forward part and before the head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + eps) * weight`.
    Rms {
        /// Added under the root.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
    Layer {
        /// Added under the root.
        eps: f32,
    },
}

/// The feed-forward part's non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up`.
    SwiGlu,
    /// `gelu(gate) * up`, with the approximation by a hyperbolic tangent.
    GeGlu,
}

/// Which tensors a block has besides its projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Norms of what enters attention and the feed-forward part.
    pub pre_norms: bool,
    /// Norms of what they add to the residual stream.
    pub post_norms: bool,
    /// Norms of queries and keys.
    pub qk_norms: Option<QkNorms>,
    /// Whether one matrix gives queries, keys and values, and one gate and up.
    pub fused: bool,
}

/// What is normed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorms {
    /// Each head by itself, all with the same weights.
    Heads,
    /// All heads of a token at once.
    Whole,
}

/// Feed-forward parts that a router chooses between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub n: usize,
    /// How many a token goes to.
    pub n_used: usize,
}

/// Everything that a forward and backward pass must know besides the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSpec {
    /// `general.architecture`.
    pub architecture: String,
    /// Number of blocks.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; divides `n_head`.
    pub n_head_kv: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Width of the feed-forward part, or of one expert.
    pub n_ff: usize,
    /// In place of one feed-forward part.
    pub experts: Option<Experts>,
    /// Tokens that the head scores.
    pub n_vocab: usize,
    /// Longest context that the model was trained for, tokens.
    pub n_ctx_train: usize,
    /// The same before the context was stretched.
    pub n_ctx_orig: usize,
    /// The norms.
    pub norm: Norm,
    /// Which tensors a block has.
    pub layout: Layout,
    /// Position embedding of queries and keys.
    pub rope: Rope,
    /// Every how many blocks one goes without rotation; none where absent.
    pub no_rope_every: Option<usize>,
    /// Blocks with sliding-window attention.
    pub window: Option<Window>,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Attention scores `s` become `cap * tanh(s / cap)`.
    pub attention_cap: Option<f32>,
    /// The feed-forward part's non-linearity.
    pub activation: Activation,
    /// Factor on token embeddings.
    pub embedding_scale: f32,
    /// Factor on what a block adds to the residual stream.
    pub residual_scale: f32,
    /// Factor on logits.
    pub logit_scale: f32,
    /// Logits `l` become `cap * tanh(l / cap)`.
    pub logit_cap: Option<f32>,
}

/// A row of the architecture table: a name and how its specification is read.
struct Architecture {
    name: &'static str,
    rope: RopeKind,
    no_rope_every: Option<usize>,
    layer_norm: bool,
    layout: Layout,
    activation: Activation,
    /// Whether the file scales embeddings, attention scores, residuals and logits.
    scales: bool,
    /// Whether embeddings are multiplied by the root of their width.
    wide_embeddings: bool,
    /// The number of blocks of the size whose attention scale follows from the width and not from the size of heads.
    scaled_by_width: Option<usize>,
    windows: Windows,
    /// Caps of attention scores and logits where the file names none.
    caps: Option<[f32; 2]>,
    /// Whether the feed-forward part is one of experts.
    experts: bool,
}

/// What an architecture makes of `attention.sliding_window`.
#[derive(Clone, Copy)]
enum Windows {
    /// Refuses it.
    Unknown,
    /// Does as llama.cpp, which attends to everything.
    Ignored,
    /// Every so many blocks one sees everything.
    Every {
        blocks: usize,
        /// The window where the file names none.
        size: Option<usize>,
        rope: WindowRope,
    },
}

/// Position embedding where attention has a window.
#[derive(Clone, Copy)]
enum WindowRope {
    /// As elsewhere.
    Same,
    /// Without the scaling that lets other blocks reach further, from this base of frequencies (that of the others if none)
    /// where the file names none.
    Unscaled(Option<f32>),
}

const PRE_NORMS: Layout = Layout {
    pre_norms: true,
    post_norms: false,
    qk_norms: None,
    fused: false,
};

impl Architecture {
    const fn new(name: &'static str, rope: RopeKind) -> Self {
        Self {
            name,
            rope,
            no_rope_every: None,
            layer_norm: false,
            layout: PRE_NORMS,
            activation: Activation::SwiGlu,
            scales: false,
            wide_embeddings: false,
            scaled_by_width: None,
            windows: Windows::Unknown,
            caps: None,
            experts: false,
        }
    }

    const fn gemma(name: &'static str) -> Self {
        Self {
            activation: Activation::GeGlu,
            wide_embeddings: true,
            ..Self::new(name, RopeKind::Halves)
        }
    }
}

const ARCHITECTURES: &[Architecture] = &[
    Architecture::new("llama", RopeKind::Interleaved),
    Architecture::new("qwen2", RopeKind::Halves),
    Architecture {
        layout: Layout {
            qk_norms: Some(QkNorms::Heads),
            ..PRE_NORMS
        },
        ..Architecture::new("qwen3", RopeKind::Halves)
    },
    Architecture {
        layout: Layout {
            qk_norms: Some(QkNorms::Heads),
            ..PRE_NORMS
        },
        experts: true,
        ..Architecture::new("qwen3moe", RopeKind::Halves)
    },
    Architecture::gemma("gemma"),
    Architecture {
        layout: Layout {
            post_norms: true,
            ..PRE_NORMS
        },
        windows: Windows::Every {
            blocks: 2,
            size: Some(4096),
            rope: WindowRope::Same,
        },
        caps: Some([50.0, 30.0]),
        scaled_by_width: Some(46),
        ..Architecture::gemma("gemma2")
    },
    Architecture {
        layout: Layout {
            post_norms: true,
            qk_norms: Some(QkNorms::Heads),
            ..PRE_NORMS
        },
        windows: Windows::Every {
            blocks: 6,
            size: None,
            rope: WindowRope::Unscaled(Some(10_000.0)),
        },
        scaled_by_width: Some(62),
        ..Architecture::gemma("gemma3")
    },
    Architecture {
        layout: Layout {
            fused: true,
            ..PRE_NORMS
        },
        windows: Windows::Ignored,
        ..Architecture::new("phi3", RopeKind::Halves)
    },
    Architecture {
        no_rope_every: Some(4),
        ..Architecture::new("smollm3", RopeKind::Interleaved)
    },
    Architecture {
        layout: Layout {
            pre_norms: false,
            post_norms: true,
            qk_norms: Some(QkNorms::Whole),
            fused: false,
        },
        windows: Windows::Every {
            blocks: 4,
            size: None,
            rope: WindowRope::Unscaled(None),
        },
        ..Architecture::new("olmo2", RopeKind::Halves)
    },
    Architecture {
        scales: true,
        ..Architecture::new("granite", RopeKind::Interleaved)
    },
    Architecture {
        layer_norm: true,
        ..Architecture::new("stablelm", RopeKind::Halves)
    },
];

/// Names of the architectures that can be trained.
pub fn trainable_architectures() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|row| row.name).collect()
}

/// Whether files of an architecture hold queries, keys and values, and gate and up, as one matrix each.
pub fn has_fused_matrices(architecture: &str) -> bool {
    let mut rows = ARCHITECTURES.iter();
    rows.any(|row| row.name == architecture && row.layout.fused)
}

impl BlockSpec {
    /// Reads the specification from a model file.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] for an architecture without a row in the table, [`ModelError::Feature`] for a variant of
    /// one that is not trained, [`ModelError::Metadata`] for keys that are missing or impossible.
    pub fn read(gguf: &Gguf) -> Result<Self, ModelError> {
        let architecture = gguf.architecture()?.to_owned();
        let row = ARCHITECTURES
            .iter()
            .find(|row| row.name == architecture)
            .ok_or_else(|| ModelError::Architecture {
                architecture: architecture.clone(),
            })?;
        let keys = Keys {
            gguf,
            architecture: &architecture,
        };
        keys.refuse_unsupported()?;
        let experts = keys.experts(row)?;
        let n_layer = keys.count("block_count")?;

        let n_embd = keys.count("embedding_length")?;
        let n_head = keys.count("attention.head_count")?;
        let n_head_kv = keys.count_or("attention.head_count_kv", n_head)?;
        let head_dim = keys.count_or("attention.key_length", n_embd / n_head)?;
        if keys.count_or("attention.value_length", head_dim)? != head_dim {
            return Err(keys.feature("value heads of another size than key heads"));
        }
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.impossible(
                "attention.head_count_kv",
                "must divide attention.head_count",
            ));
        }
        let n_rot = keys.count_or("rope.dimension_count", head_dim)?;
        if n_rot > head_dim || !n_rot.is_multiple_of(2) {
            return Err(keys.impossible(
                "rope.dimension_count",
                "must be even and at most the head size",
            ));
        }
        let embedding = gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| ModelError::Tensor {
                name: "token_embd.weight".to_owned(),
                reason: "missing".to_owned(),
            })?;
        let scale = |key: &str, default: f32| match row.scales {
            true => keys.scale_or(key, default),
            false => Ok(default),
        };
        let rope = keys.rope(row.rope, n_rot)?;
        let [attention_cap, logit_cap] = keys.caps(row)?;
        let by_width = row.scaled_by_width == Some(n_layer);
        let attention_width = if by_width { n_embd / n_head } else { head_dim };
        let embedding_scale = match row.wide_embeddings {
            true => (n_embd as f32).sqrt(),
            false => 1.0,
        };
        Ok(Self {
            n_layer,
            n_embd,
            n_head,
            n_head_kv,
            head_dim,
            n_ff: match (experts, keys.count("feed_forward_length")?) {
                (None, n) => n,
                (Some(experts), n) => {
                    keys.count_or("expert_feed_forward_length", n / experts.n_used)?
                }
            },
            experts,
            n_vocab: embedding.dims[1] as usize,
            n_ctx_train: keys.count("context_length")?,
            n_ctx_orig: keys.original_context()?,
            norm: match row.layer_norm {
                true => Norm::Layer {
                    eps: keys.float("attention.layer_norm_epsilon")?,
                },
                false => Norm::Rms {
                    eps: keys.float("attention.layer_norm_rms_epsilon")?,
                },
            },
            layout: row.layout,
            window: keys.window(row, &rope, n_layer)?,
            rope,
            no_rope_every: row.no_rope_every,
            attention_scale: scale("attention.scale", 1.0 / (attention_width as f32).sqrt())?,
            attention_cap,
            activation: row.activation,
            embedding_scale: scale("embedding_scale", embedding_scale)?,
            residual_scale: scale("residual_scale", 1.0)?,
            logit_scale: match row.scales {
                true => 1.0 / keys.float("logit_scale")?,
                false => 1.0,
            },
            logit_cap,
            architecture,
        })
    }

    /// Whether a block rotates its queries and keys.
    pub fn rotates(&self, layer: usize) -> bool {
        self.no_rope_every
            .is_none_or(|every| !(layer + 1).is_multiple_of(every))
    }

    /// The sliding window of a block, if it has one.
    pub fn window(&self, layer: usize) -> Option<&Window> {
        self.window.as_ref().filter(|window| window.layers[layer])
    }

    /// Position embedding of a block that rotates.
    pub fn rope(&self, layer: usize) -> &Rope {
        self.window(layer).map_or(&self.rope, |window| &window.rope)
    }

    /// Rows of the fused query, key and value projection: `(n_head + 2 n_head_kv) * head_dim`.
    pub fn n_qkv(&self) -> usize {
        (self.n_head + 2 * self.n_head_kv) * self.head_dim
    }

    /// Rows of the queries and keys among them.
    pub fn n_qk(&self) -> usize {
        (self.n_head + self.n_head_kv) * self.head_dim
    }

    /// Width of the attention's output before its projection.
    pub fn n_attn(&self) -> usize {
        self.n_head * self.head_dim
    }
}

/// Metadata under the architecture's prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn count(&self, key: &str) -> Result<usize, ModelError> {
        match self.optional_count(key)? {
            Some(n) => Ok(n),
            None => Err(self.impossible(key, "missing")),
        }
    }

    fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.optional_count(key)?.unwrap_or(default))
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let name = self.name(key);
        if self.gguf.get(&name).is_none() {
            return Ok(None);
        }
        match self.gguf.u32(&name) {
            Ok(0) => Err(self.impossible(key, "must not be 0")),
            Ok(n) => Ok(Some(n as usize)),
            Err(_) => {
                Err(self.feature(&format!("a value of `{name}` that differs between layers")))
            }
        }
    }

    fn float(&self, key: &str) -> Result<f32, ModelError> {
        let value = self.gguf.f32(&self.name(key)).ok();
        value
            .filter(|v| v.is_finite() && *v > 0.0)
            .ok_or_else(|| self.impossible(key, "missing or not positive"))
    }

    fn float_or(&self, key: &str, default: f32) -> Result<f32, ModelError> {
        if self.gguf.get(&self.name(key)).is_none() {
            Ok(default)
        } else {
            self.float(key)
        }
    }

    /// A factor, which llama.cpp takes as absent where it is 0.
    fn scale_or(&self, key: &str, default: f32) -> Result<f32, ModelError> {
        match self.gguf.f32(&self.name(key)) {
            Ok(0.0) => Ok(default),
            _ => self.float_or(key, default),
        }
    }

    fn rope(&self, kind: RopeKind, n_dims: usize) -> Result<Rope, ModelError> {
        let mut rope = Rope {
            kind,
            n_dims,
            freq_base: f64::from(self.float_or("rope.freq_base", 10_000.0)?),
            freq_scale: 1.0,
            yarn: None,
            magnitude: self.float_or("rope.scaling.attn_factor", 1.0)?,
        };
        // llama.cpp takes linear scaling, by default by 1, where the key is missing.
        let scaling = self
            .gguf
            .str_or(&self.name("rope.scaling.type"), "linear")?;
        if scaling == "none" {
            return Ok(rope);
        }
        let factor = match self.gguf.get(&self.name("rope.scaling.factor")) {
            Some(_) => self.float("rope.scaling.factor")?,
            // The key's name in older files, which llama.cpp still reads.
            None => self.float_or("rope.scale_linear", 1.0)?,
        };
        rope.freq_scale = 1.0 / f64::from(factor);
        match scaling {
            "linear" | "longrope" => {}
            "yarn" => {
                // What `yarn_attn_factor` says llama.cpp computes from the factor.
                for key in ["yarn_ext_factor", "yarn_log_multiplier"] {
                    let key = format!("rope.scaling.{key}");
                    if self.gguf.get(&self.name(&key)).is_some() {
                        return Err(self.feature(&format!("yarn with `{}`", self.name(&key))));
                    }
                }
                rope.yarn = Some(Yarn {
                    n_ctx_orig: self.original_context()?,
                    beta_fast: f64::from(self.float_or("rope.scaling.yarn_beta_fast", 32.0)?),
                    beta_slow: f64::from(self.float_or("rope.scaling.yarn_beta_slow", 1.0)?),
                });
                rope.magnitude *= 1.0 + 0.1 * factor.max(1.0).ln();
            }
            other => return Err(self.feature(&format!("rope scaling `{other}`"))),
        }
        Ok(rope)
    }

    /// Tokens that the model was first trained on, before its context was stretched.
    fn original_context(&self) -> Result<usize, ModelError> {
        let n_ctx_train = self.count("context_length")?;
        self.count_or("rope.scaling.original_context_length", n_ctx_train)
    }

    fn window(
        &self,
        row: &Architecture,
        rope: &Rope,
        n_layer: usize,
    ) -> Result<Option<Window>, ModelError> {
        let key = "attention.sliding_window";
        let named = self.gguf.u32_or(&self.name(key), 0)? as usize;
        let (blocks, size, kind) = match row.windows {
            Windows::Ignored => return Ok(None),
            Windows::Unknown if named == 0 => return Ok(None),
            Windows::Unknown => return Err(self.feature("sliding-window attention")),
            Windows::Every { blocks, size, rope } => (blocks, size, rope),
        };
        let size = match (named, size) {
            (0, None) => return Ok(None),
            (0, Some(size)) => size,
            (named, _) => named,
        };
        let rope = match kind {
            WindowRope::Same => rope.clone(),
            WindowRope::Unscaled(base) => {
                let base = base.unwrap_or(rope.freq_base as f32);
                Rope {
                    freq_base: f64::from(self.float_or("rope.freq_base_swa", base)?),
                    freq_scale: 1.0,
                    yarn: None,
                    magnitude: 1.0,
                    ..rope.clone()
                }
            }
        };
        let pattern = "attention.sliding_window_pattern";
        let value = self.gguf.get(&self.name(pattern));
        let layers = match value.and_then(|value| value.as_array()) {
            Some(of_layers) => self.windowed(pattern, of_layers, n_layer)?,
            None => {
                let every = match value {
                    Some(_) => self.count(pattern)?,
                    None => blocks,
                };
                let layers = (0..n_layer).map(|layer| layer % every < every - 1);
                layers.collect()
            }
        };
        Ok(Some(Window { size, layers, rope }))
    }

    /// Which blocks have a window, where the file says so for each.
    fn windowed(
        &self,
        key: &str,
        of_layers: Array<'_>,
        n_layer: usize,
    ) -> Result<Vec<bool>, ModelError> {
        let layers: Vec<bool> = if let Some(values) = of_layers.values::<bool>() {
            values.collect()
        } else if let Some(values) = of_layers.values::<u32>() {
            values.map(|value| value != 0).collect()
        } else if let Some(values) = of_layers.values::<i32>() {
            values.map(|value| value != 0).collect()
        } else {
            return Err(self.impossible(key, "must be a number, or truth values or integers"));
        };
        match layers.len() == n_layer {
            true => Ok(layers),
            false => Err(self.impossible(key, "must have a value for each block")),
        }
    }

    /// Caps of attention scores and of logits.
    fn caps(&self, row: &Architecture) -> Result<[Option<f32>; 2], ModelError> {
        let keys = ["attn_logit_softcapping", "final_logit_softcapping"];
        match row.caps {
            Some([attention, logits]) => Ok([
                Some(self.float_or(keys[0], attention)?),
                Some(self.float_or(keys[1], logits)?),
            ]),
            None => match keys
                .iter()
                .find(|key| self.gguf.get(&self.name(key)).is_some())
            {
                Some(key) => Err(self.feature(&format!("`{}`", self.name(key)))),
                None => Ok([None, None]),
            },
        }
    }

    fn experts(&self, row: &Architecture) -> Result<Option<Experts>, ModelError> {
        if !row.experts {
            return match self.gguf.u32_or(&self.name("expert_count"), 0)? {
                0 => Ok(None),
                _ => Err(self.feature("a mixture of experts")),
            };
        }
        for key in [
            "expert_weights_scale",
            "expert_gating_func",
            "expert_group_count",
        ] {
            if self.gguf.get(&self.name(key)).is_some() {
                return Err(self.feature(&format!("`{}`", self.name(key))));
            }
        }
        let (n, n_used) = (
            self.count("expert_count")?,
            self.count("expert_used_count")?,
        );
        if n_used > n {
            return Err(self.impossible("expert_used_count", "must be at most expert_count"));
        }
        Ok(Some(Experts { n, n_used }))
    }

    fn refuse_unsupported(&self) -> Result<(), ModelError> {
        // Granite's switch for rotation.
        let rotates = self.gguf.get(&self.name("rope.scaling.finetuned"));
        if self.architecture == "granite" && rotates.is_some_and(|v| v.as_bool() == Some(false)) {
            return Err(self.feature("attention without rotary embedding"));
        }
        Ok(())
    }

    fn feature(&self, feature: &str) -> ModelError {
        ModelError::Feature {
            architecture: self.architecture.to_owned(),
            feature: feature.to_owned(),
        }
    }

    fn impossible(&self, key: &str, reason: &str) -> ModelError {
        ModelError::Metadata {
            key: self.name(key),
            reason: reason.to_owned(),
        }
    }
}
