//! Architectures as data: what a transformer block consists of, filled in from a model file's metadata.

use thumbprint_ggml::gguf::Gguf;

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
}

/// Normalisation before attention, before the feed-forward part and before the head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + eps) * weight`.
    Rms {
        /// Added under the root.
        eps: f32,
    },
}

/// The feed-forward part's non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up`.
    SwiGlu,
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
    /// Width of the feed-forward part.
    pub n_ff: usize,
    /// Tokens that the head scores.
    pub n_vocab: usize,
    /// Longest context of the original training, tokens.
    pub n_ctx_train: usize,
    /// The norms.
    pub norm: Norm,
    /// Position embedding of queries and keys.
    pub rope: Rope,
    /// Every how many blocks one goes without rotation; none where absent.
    pub no_rope_every: Option<usize>,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// The feed-forward part's non-linearity.
    pub activation: Activation,
    /// Factor on token embeddings.
    pub embedding_scale: f32,
    /// Factor on what a block adds to the residual stream.
    pub residual_scale: f32,
    /// Factor on logits.
    pub logit_scale: f32,
}

/// A row of the architecture table: a name and how its specification is read.
struct Architecture {
    name: &'static str,
    rope: RopeKind,
    no_rope_every: Option<usize>,
    activation: Activation,
    /// Whether the file scales embeddings, attention scores, residuals and logits.
    scales: bool,
}

impl Architecture {
    const fn new(name: &'static str, rope: RopeKind) -> Self {
        Self {
            name,
            rope,
            no_rope_every: None,
            activation: Activation::SwiGlu,
            scales: false,
        }
    }
}

const ARCHITECTURES: &[Architecture] = &[
    Architecture::new("llama", RopeKind::Interleaved),
    Architecture::new("qwen2", RopeKind::Halves),
    Architecture {
        no_rope_every: Some(4),
        ..Architecture::new("smollm3", RopeKind::Interleaved)
    },
    Architecture {
        scales: true,
        ..Architecture::new("granite", RopeKind::Interleaved)
    },
];

/// Names of the architectures that can be trained.
pub fn trainable_architectures() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|row| row.name).collect()
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
        Ok(Self {
            n_layer: keys.count("block_count")?,
            n_embd,
            n_head,
            n_head_kv,
            head_dim,
            n_ff: keys.count("feed_forward_length")?,
            n_vocab: embedding.dims[1] as usize,
            n_ctx_train: keys.count("context_length")?,
            norm: Norm::Rms {
                eps: keys.float("attention.layer_norm_rms_epsilon")?,
            },
            rope: Rope {
                kind: row.rope,
                n_dims: n_rot,
                freq_base: f64::from(keys.float_or("rope.freq_base", 10_000.0)?),
                freq_scale: 1.0 / f64::from(keys.rope_factor()?),
            },
            no_rope_every: row.no_rope_every,
            attention_scale: scale("attention.scale", 1.0 / (head_dim as f32).sqrt())?,
            activation: row.activation,
            embedding_scale: scale("embedding_scale", 1.0)?,
            residual_scale: scale("residual_scale", 1.0)?,
            logit_scale: match row.scales {
                true => 1.0 / keys.float("logit_scale")?,
                false => 1.0,
            },
            architecture,
        })
    }

    /// Whether a block rotates its queries and keys.
    pub fn rotates(&self, layer: usize) -> bool {
        self.no_rope_every
            .is_none_or(|every| !(layer + 1).is_multiple_of(every))
    }

    /// Rows of the fused query, key and value projection: `(n_head + 2 n_head_kv) * head_dim`.
    pub fn n_qkv(&self) -> usize {
        (self.n_head + 2 * self.n_head_kv) * self.head_dim
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

    /// Linear scaling of positions; other kinds are refused.
    fn rope_factor(&self) -> Result<f32, ModelError> {
        // llama.cpp takes linear scaling, by default by 1, where the key is missing.
        let key = self.name("rope.scaling.type");
        match self.gguf.str_or(&key, "linear")? {
            "none" => Ok(1.0),
            "linear" if self.gguf.get(&self.name("rope.scaling.factor")).is_some() => {
                self.float("rope.scaling.factor")
            }
            // The key's name in older files, which llama.cpp still reads.
            "linear" => self.float_or("rope.scale_linear", 1.0),
            other => Err(self.feature(&format!("rope scaling `{other}`"))),
        }
    }

    fn refuse_unsupported(&self) -> Result<(), ModelError> {
        if self.gguf.u32_or(&self.name("expert_count"), 0)? > 0 {
            return Err(self.feature("a mixture of experts"));
        }
        if self
            .gguf
            .u32_or(&self.name("attention.sliding_window"), 0)?
            > 0
        {
            return Err(self.feature("sliding-window attention"));
        }
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
