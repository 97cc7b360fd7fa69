//! Weights of a mapped model file, grouped as a block uses them.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{
    Backend, Storage, StorageBuilder, TensorId, can_dequantize, dequantize_row,
};
use thumbprint_ggml::gguf::Gguf;

use super::error::ModelError;
use super::spec::{BlockSpec, Norm, QkNorms};
use crate::adapter::Module;

/// One projection of a block: a frozen weight `[n_in, n_out]` and what of it can be adapted.
#[derive(Debug, Clone)]
pub struct Part {
    /// Which projection it is.
    pub module: Module,
    /// The weight's name in the file, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// The weight.
    pub weight: TensorId,
    /// A frozen bias `[n_out]`, F32.
    pub bias: Option<TensorId>,
    /// Rows.
    pub n_out: usize,
}

/// Projections of one input, computed by one matrix product: q, k, v; or gate, up; or a single one.
#[derive(Debug, Clone)]
pub struct Fused {
    /// The projections, in the order of the output.
    pub parts: Vec<Part>,
    /// Width of the input.
    pub n_in: usize,
    /// Width of the output: the sum over the parts.
    pub n_out: usize,
}

/// Types that frozen matrices may have: all that ggml dequantizes.
pub fn trainable_types() -> Vec<GgmlType> {
    let all = GgmlType::ALL.iter().copied();
    all.filter(|ty| can_dequantize(*ty)).collect()
}

/// What a norm multiplies with, and adds; F32.
#[derive(Debug, Clone, Copy)]
pub struct NormWeights {
    /// Factors, as many as are normed together.
    pub weight: TensorId,
    /// Added to the product, if anything is.
    pub bias: Option<TensorId>,
}

/// The weights of a feed-forward part of experts; matrices of all experts one behind the other: `[n_in, n_out, n_expert]`.
#[derive(Debug, Clone, Copy)]
pub struct ExpertWeights {
    /// Gives each expert's logit: `[n_embd, n_expert]`.
    pub router: TensorId,
    /// `[n_embd, n_ff, n_expert]`.
    pub gate: TensorId,
    /// `[n_embd, n_ff, n_expert]`.
    pub up: TensorId,
    /// `[n_ff, n_embd, n_expert]`.
    pub down: TensorId,
}

/// The weights of one block. Norms are of width `n_embd` unless said otherwise.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// Of what enters attention.
    pub attn_norm: Option<NormWeights>,
    /// Query, key and value projections.
    pub qkv: Fused,
    /// Of queries and of keys: as wide as one head, or as all of them.
    pub qk_norms: Option<[NormWeights; 2]>,
    /// The attention's output projection.
    pub attn_output: Fused,
    /// Of what attention adds.
    pub attn_post_norm: Option<NormWeights>,
    /// Of what enters the feed-forward part.
    pub ffn_norm: Option<NormWeights>,
    /// Gate and up projections; none where the block has experts.
    pub gate_up: Fused,
    /// The down projection; none where the block has experts.
    pub down: Fused,
    /// In place of the two above.
    pub experts: Option<ExpertWeights>,
    /// Of what the feed-forward part adds.
    pub ffn_post_norm: Option<NormWeights>,
}

impl LayerWeights {
    /// The four fused projections in the order of computation.
    pub fn fused(&self) -> [&Fused; 4] {
        [&self.qkv, &self.attn_output, &self.gate_up, &self.down]
    }
}

/// A frozen model, mapped from its file: opening it copies no weights.
pub struct Model {
    /// The architecture.
    pub spec: BlockSpec,
    /// The mapped tensors.
    pub storage: Storage,
    /// One entry a block.
    pub layers: Vec<LayerWeights>,
    /// Of what enters the head.
    pub output_norm: NormWeights,
    /// Token embeddings `[n_embd, n_vocab]`.
    pub embeddings: TensorId,
    /// The head `[n_embd, n_vocab]`; the token embedding where the two are tied.
    pub head: TensorId,
    /// Type of the head.
    pub head_type: GgmlType,
    /// Factors that divide the rotary frequencies, one a pair of dimensions (Llama 3, long rope).
    pub rope_factors: Option<Vec<f32>>,
    /// The number of positions that `rope_factors` hold for, if they hold for some only.
    pub n_positions: Option<usize>,
    gguf: Arc<Gguf>,
}

impl Model {
    /// Opens a model file for training.
    ///
    /// # Errors
    /// [`ModelError`] when the file is not a readable GGUF, or its architecture or a tensor's type cannot be trained.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::from_gguf(Arc::new(Gguf::open(path)?))
    }

    /// The same for a file that is open already.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_gguf(gguf: Arc<Gguf>) -> Result<Self, ModelError> {
        let spec = BlockSpec::read(&gguf)?;
        let storage = Storage::map(&gguf)?;
        let find = Finder {
            gguf: &gguf,
            storage: &storage,
            used: RefCell::default(),
        };
        let layers = (0..spec.n_layer)
            .map(|layer| find.layer(&spec, layer))
            .collect::<Result<_, _>>()?;
        let embeddings = find.matrix("token_embd.weight", spec.n_embd, spec.n_vocab)?;
        debug_assert!(can_dequantize(embeddings.1));
        let (head, head_type) = match find.optional("output.weight") {
            Some(_) => find.matrix("output.weight", spec.n_embd, spec.n_vocab)?,
            None => embeddings,
        };
        let output_norm = find.norm(&spec, "output_norm", spec.n_embd)?;
        let (rope_factors, n_positions) = find.rope_factors(&spec)?;
        find.refuse_unused(&spec)?;
        Ok(Self {
            spec,
            layers,
            output_norm,
            embeddings: embeddings.0,
            head,
            head_type,
            rope_factors,
            n_positions,
            storage,
            gguf,
        })
    }

    /// The same with its weights copied into a device's memory, each in its type.
    ///
    /// # Errors
    /// [`ModelError`] when the device's memory does not suffice.
    pub fn on_device(mut self, backend: &Backend) -> Result<Self, ModelError> {
        let mut builder = StorageBuilder::new();
        for tensor in self.gguf.tensors() {
            builder.add(tensor.ty, &tensor.dims.map(|n| n as usize));
        }
        let mut storage = builder.build(backend)?;
        for (index, tensor) in self.gguf.tensors().iter().enumerate() {
            if let Some(id) = storage.id(index) {
                storage.write(id, self.gguf.data(tensor))?;
            }
        }
        self.storage = storage;
        self.release(|_| true);
        Ok(self)
    }

    /// Rows of the weight with the most, head and embeddings aside.
    pub fn tallest_weight(&self) -> usize {
        let fused = self.layers.iter().flat_map(LayerWeights::fused);
        let parts = fused.flat_map(|fused| &fused.parts);
        parts.map(|part| part.n_out).max().unwrap_or(0)
    }

    /// The mapped file.
    pub fn gguf(&self) -> &Arc<Gguf> {
        &self.gguf
    }

    /// The embeddings of `tokens`, one row of `n_embd` a token, scaled as the architecture wants.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] for a token outside of the vocabulary.
    pub fn embed(&self, tokens: &[i32]) -> Result<Vec<f32>, ModelError> {
        self.check_tokens(tokens)?;
        let info = self
            .gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| missing("token_embd.weight"))?;
        let row = info.ty.row_size(self.spec.n_embd);
        let data = self.gguf.data(info);
        let mut out = vec![0.0; tokens.len() * self.spec.n_embd];
        for (&token, to) in tokens.iter().zip(out.chunks_exact_mut(self.spec.n_embd)) {
            dequantize_row(info.ty, &data[token as usize * row..][..row], to)?;
            if self.spec.embedding_scale != 1.0 {
                to.iter_mut().for_each(|v| *v *= self.spec.embedding_scale);
            }
        }
        Ok(out)
    }

    /// # Errors
    /// [`ModelError::Metadata`] for a token outside of the vocabulary.
    pub fn check_tokens(&self, tokens: &[i32]) -> Result<(), ModelError> {
        let n_vocab = self.spec.n_vocab;
        let is_known = |token: i32| usize::try_from(token).is_ok_and(|token| token < n_vocab);
        match tokens.iter().find(|token| !is_known(**token)) {
            None => Ok(()),
            Some(token) => Err(ModelError::Metadata {
                key: "token".to_owned(),
                reason: format!("token {token} is outside of the vocabulary of {n_vocab}"),
            }),
        }
    }

    /// Lets go of the pages of a block's weights: they stop counting as memory of the process until they are read again, from the
    /// page cache where they still are there.
    pub fn release_layer(&self, layer: usize) {
        let prefix = format!("blk.{layer}.");
        self.release(|name| name.starts_with(&prefix));
    }

    /// The same for what belongs to no block: embeddings and head.
    pub fn release_ends(&self) {
        self.release(|name| !name.starts_with("blk."));
    }

    /// Bytes of the largest block's weights.
    pub fn largest_block_bytes(&self) -> usize {
        let of = |layer: usize| self.bytes_of(&format!("blk.{layer}."));
        (0..self.spec.n_layer).map(of).max().unwrap_or(0)
    }

    /// Bytes of what belongs to no block.
    pub fn ends_bytes(&self) -> usize {
        let all: usize = self.gguf.tensors().iter().map(|t| t.n_bytes).sum();
        all - self.bytes_of("blk.")
    }

    fn bytes_of(&self, prefix: &str) -> usize {
        let tensors = self.gguf.tensors().iter();
        let meant = tensors.filter(|tensor| tensor.name.starts_with(prefix));
        meant.map(|tensor| tensor.n_bytes).sum()
    }

    fn release(&self, is_meant: impl Fn(&str) -> bool) {
        let data_starts = self.gguf.bytes().len() - self.gguf.data_region().len();
        let tensors = self.gguf.tensors().iter();
        for tensor in tensors.filter(|tensor| is_meant(&tensor.name)) {
            let start = data_starts + tensor.offset;
            self.gguf.advise_dont_need(start..start + tensor.n_bytes);
        }
    }

    /// Every projection that can be adapted, as `(layer, part, n_in)`, in the file's order of blocks.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &Part, usize)> {
        self.layers.iter().enumerate().flat_map(|(layer, weights)| {
            weights.fused().into_iter().flat_map(move |fused| {
                fused
                    .parts
                    .iter()
                    .map(move |part| (layer, part, fused.n_in))
            })
        })
    }
}

/// Looks tensors up by name and checks their shapes.
struct Finder<'a> {
    gguf: &'a Gguf,
    storage: &'a Storage,
    /// Indices of the tensors found.
    used: RefCell<HashSet<usize>>,
}

impl Finder<'_> {
    fn layer(&self, spec: &BlockSpec, layer: usize) -> Result<LayerWeights, ModelError> {
        let n_kv = spec.n_head_kv * spec.head_dim;
        let layout = spec.layout;
        let fused = |n_in, parts: &[(Module, usize)]| self.fused(layer, n_in, parts);
        let norm = |name: &str, n| self.norm(spec, &format!("blk.{layer}.{name}"), n);
        let norm_if = |there: bool, name: &str| match there {
            true => norm(name, spec.n_embd).map(Some),
            false => Ok(None),
        };
        let qk_norms = match layout.qk_norms {
            None => None,
            Some(kind) => {
                let [n_q, n_k] = match kind {
                    QkNorms::Heads => [spec.head_dim; 2],
                    QkNorms::Whole => [spec.n_attn(), n_kv],
                };
                Some([norm("attn_q_norm", n_q)?, norm("attn_k_norm", n_k)?])
            }
        };
        let qkv = [
            (Module::Q, spec.n_attn()),
            (Module::K, n_kv),
            (Module::V, n_kv),
        ];
        let gate_up = [(Module::Gate, spec.n_ff), (Module::Up, spec.n_ff)];
        let (qkv, gate_up) = match layout.fused {
            false => (&qkv[..], &gate_up[..]),
            true => (
                &[(Module::Qkv, spec.n_qkv())][..],
                &[(Module::GateUp, 2 * spec.n_ff)][..],
            ),
        };
        let down = [(Module::Down, spec.n_embd)];
        let (gate_up, down) = match spec.experts {
            None => (gate_up, &down[..]),
            Some(_) => (&[][..], &[][..]),
        };
        Ok(LayerWeights {
            attn_norm: norm_if(layout.pre_norms, "attn_norm")?,
            qkv: fused(spec.n_embd, qkv)?,
            qk_norms,
            attn_output: fused(spec.n_attn(), &[(Module::O, spec.n_embd)])?,
            attn_post_norm: norm_if(layout.post_norms, "post_attention_norm")?,
            ffn_norm: norm_if(layout.pre_norms, "ffn_norm")?,
            gate_up: fused(spec.n_embd, gate_up)?,
            down: fused(spec.n_ff, down)?,
            experts: spec
                .experts
                .map(|experts| self.experts(spec, layer, experts.n))
                .transpose()?,
            ffn_post_norm: norm_if(layout.post_norms, "post_ffw_norm")?,
        })
    }

    fn experts(
        &self,
        spec: &BlockSpec,
        layer: usize,
        n_expert: usize,
    ) -> Result<ExpertWeights, ModelError> {
        let (n_embd, n_ff) = (spec.n_embd, spec.n_ff);
        let find = |part: &str, shape: [usize; 3]| {
            let name = format!("blk.{layer}.{part}.weight");
            let id = self.find(&name, shape)?;
            self.require_dequantizable(&name, id)?;
            Ok::<_, ModelError>(id)
        };
        Ok(ExpertWeights {
            router: find("ffn_gate_inp", [n_embd, n_expert, 1])?,
            gate: find("ffn_gate_exps", [n_embd, n_ff, n_expert])?,
            up: find("ffn_up_exps", [n_embd, n_ff, n_expert])?,
            down: find("ffn_down_exps", [n_ff, n_embd, n_expert])?,
        })
    }

    fn norm(&self, spec: &BlockSpec, stem: &str, n: usize) -> Result<NormWeights, ModelError> {
        Ok(NormWeights {
            weight: self.vector(&format!("{stem}.weight"), n)?,
            bias: match spec.norm {
                Norm::Rms { .. } => None,
                Norm::Layer { .. } => Some(self.vector(&format!("{stem}.bias"), n)?),
            },
        })
    }

    fn fused(
        &self,
        layer: usize,
        n_in: usize,
        parts: &[(Module, usize)],
    ) -> Result<Fused, ModelError> {
        let parts = parts
            .iter()
            .map(|&(module, n_out)| {
                let stem = format!("blk.{layer}.{}", module.gguf_name());
                let bias = format!("{stem}.bias");
                Ok(Part {
                    module,
                    weight: self.matrix(&format!("{stem}.weight"), n_in, n_out)?.0,
                    bias: match self.optional(&bias) {
                        Some(_) => Some(self.vector(&bias, n_out)?),
                        None => None,
                    },
                    name: format!("{stem}.weight"),
                    n_out,
                })
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        let n_out = parts.iter().map(|part| part.n_out).sum();
        Ok(Fused { parts, n_in, n_out })
    }

    fn matrix(
        &self,
        name: &str,
        n_in: usize,
        n_out: usize,
    ) -> Result<(TensorId, GgmlType), ModelError> {
        let id = self.find(name, [n_in, n_out, 1])?;
        Ok((id, self.require_dequantizable(name, id)?))
    }

    fn require_dequantizable(&self, name: &str, id: TensorId) -> Result<GgmlType, ModelError> {
        match self.storage.get(id).ty() {
            ty if can_dequantize(ty) => Ok(ty),
            ty => Err(ModelError::TensorType {
                name: name.to_owned(),
                ty: ty.name(),
            }),
        }
    }

    fn vector(&self, name: &str, n: usize) -> Result<TensorId, ModelError> {
        let id = self.find(name, [n, 1, 1])?;
        match self.storage.get(id).ty() {
            GgmlType::F32 => Ok(id),
            ty => Err(ModelError::TensorType {
                name: name.to_owned(),
                ty: ty.name(),
            }),
        }
    }

    fn optional(&self, name: &str) -> Option<usize> {
        self.gguf
            .tensors()
            .iter()
            .position(|tensor| tensor.name == name)
    }

    fn find(&self, name: &str, expected: [usize; 3]) -> Result<TensorId, ModelError> {
        let index = self.optional(name).ok_or_else(|| missing(name))?;
        let id = self.storage.id(index).ok_or_else(|| missing(name))?;
        self.used.borrow_mut().insert(index);
        let ne = self.storage.get(id).ne();
        let [n0, n1, n2] = expected;
        if ne != [n0, n1, n2, 1] {
            let reason = format!("shape {ne:?} instead of {expected:?}");
            return Err(ModelError::Tensor {
                name: name.to_owned(),
                reason,
            });
        }
        Ok(id)
    }

    /// A weight that is in the file and not in the specification would make another model of it.
    fn refuse_unused(&self, spec: &BlockSpec) -> Result<(), ModelError> {
        let used = self.used.borrow();
        let mut tensors = self.gguf.tensors().iter().enumerate();
        match tensors.find(|(index, _)| !used.contains(index)) {
            None => Ok(()),
            Some((_, tensor)) => Err(ModelError::Feature {
                architecture: spec.architecture.clone(),
                feature: format!("the tensor `{}`", tensor.name),
            }),
        }
    }

    /// Factors of rotary frequencies, and how far they hold. Of the two sets of long rope, that for the original context is taken.
    fn rope_factors(
        &self,
        spec: &BlockSpec,
    ) -> Result<(Option<Vec<f32>>, Option<usize>), ModelError> {
        let (one, [short, long]) = (
            "rope_freqs.weight",
            ["rope_factors_short.weight", "rope_factors_long.weight"],
        );
        let factors = |name| self.factors(name, spec.rope.n_dims / 2);
        if self.optional(one).is_some() {
            return Ok((Some(factors(one)?), None));
        }
        if self.optional(short).is_none() {
            return Ok((None, None));
        }
        factors(long)?;
        Ok((Some(factors(short)?), Some(spec.n_ctx_orig)))
    }

    fn factors(&self, name: &str, n: usize) -> Result<Vec<f32>, ModelError> {
        let id = self.vector(name, n)?;
        let factors = self.storage.to_vec::<f32>(id)?;
        if factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
            let reason = "factors must be positive".to_owned();
            return Err(ModelError::Tensor {
                name: name.to_owned(),
                reason,
            });
        }
        Ok(factors)
    }
}

fn missing(name: &str) -> ModelError {
    ModelError::Tensor {
        name: name.to_owned(),
        reason: "missing".to_owned(),
    }
}
