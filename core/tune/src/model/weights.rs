//! Weights of a mapped model file, grouped as a block uses them.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Storage, TensorId, can_dequantize, dequantize_row};
use thumbprint_ggml::gguf::Gguf;

use super::error::ModelError;
use super::spec::BlockSpec;
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

/// The weights of one block.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// `[n_embd]`, F32.
    pub attn_norm: TensorId,
    /// Query, key and value projections.
    pub qkv: Fused,
    /// The attention's output projection.
    pub attn_output: Fused,
    /// `[n_embd]`, F32.
    pub ffn_norm: TensorId,
    /// Gate and up projections.
    pub gate_up: Fused,
    /// The down projection.
    pub down: Fused,
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
    /// `[n_embd]`, F32.
    pub output_norm: TensorId,
    /// The head `[n_embd, n_vocab]`; the token embedding where the two are tied.
    pub head: TensorId,
    /// Type of the head.
    pub head_type: GgmlType,
    /// Factors that divide the rotary frequencies, one a pair of dimensions (Llama 3).
    pub rope_factors: Option<Vec<f32>>,
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
        let (_, embedding) = find.matrix("token_embd.weight", spec.n_embd, spec.n_vocab)?;
        let (head, head_type) = match find.optional("output.weight") {
            Some(_) => find.matrix("output.weight", spec.n_embd, spec.n_vocab)?,
            None => find.matrix("token_embd.weight", spec.n_embd, spec.n_vocab)?,
        };
        debug_assert!(can_dequantize(embedding));
        let output_norm = find.vector("output_norm.weight", spec.n_embd)?;
        let rope_factors = find.rope_factors(&spec)?;
        find.refuse_unused(&spec)?;
        Ok(Self {
            spec,
            layers,
            output_norm,
            head,
            head_type,
            rope_factors,
            storage,
            gguf,
        })
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
        let info = self
            .gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| missing("token_embd.weight"))?;
        let row = info.ty.row_size(self.spec.n_embd);
        let data = self.gguf.data(info);
        let mut out = vec![0.0; tokens.len() * self.spec.n_embd];
        for (&token, to) in tokens.iter().zip(out.chunks_exact_mut(self.spec.n_embd)) {
            let index = usize::try_from(token)
                .ok()
                .filter(|&t| t < self.spec.n_vocab);
            let index = index.ok_or_else(|| ModelError::Metadata {
                key: "token".to_owned(),
                reason: format!(
                    "token {token} is outside of the vocabulary of {}",
                    self.spec.n_vocab
                ),
            })?;
            dequantize_row(info.ty, &data[index * row..(index + 1) * row], to)?;
            if self.spec.embedding_scale != 1.0 {
                to.iter_mut().for_each(|v| *v *= self.spec.embedding_scale);
            }
        }
        Ok(out)
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
        let fused = |n_in, parts: &[(Module, usize)]| self.fused(layer, n_in, parts);
        Ok(LayerWeights {
            attn_norm: self.vector(&format!("blk.{layer}.attn_norm.weight"), spec.n_embd)?,
            qkv: fused(
                spec.n_embd,
                &[
                    (Module::Q, spec.n_attn()),
                    (Module::K, n_kv),
                    (Module::V, n_kv),
                ],
            )?,
            attn_output: fused(spec.n_attn(), &[(Module::O, spec.n_embd)])?,
            ffn_norm: self.vector(&format!("blk.{layer}.ffn_norm.weight"), spec.n_embd)?,
            gate_up: fused(
                spec.n_embd,
                &[(Module::Gate, spec.n_ff), (Module::Up, spec.n_ff)],
            )?,
            down: fused(spec.n_ff, &[(Module::Down, spec.n_embd)])?,
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
        let id = self.find(name, [n_in, n_out])?;
        let ty = self.storage.get(id).ty();
        if !can_dequantize(ty) {
            return Err(ModelError::TensorType {
                name: name.to_owned(),
                ty: ty.name(),
            });
        }
        Ok((id, ty))
    }

    fn vector(&self, name: &str, n: usize) -> Result<TensorId, ModelError> {
        let id = self.find(name, [n, 1])?;
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

    fn find(&self, name: &str, expected: [usize; 2]) -> Result<TensorId, ModelError> {
        let index = self.optional(name).ok_or_else(|| missing(name))?;
        let id = self.storage.id(index).ok_or_else(|| missing(name))?;
        self.used.borrow_mut().insert(index);
        let ne = self.storage.get(id).ne();
        if ne != [expected[0], expected[1], 1, 1] {
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

    fn rope_factors(&self, spec: &BlockSpec) -> Result<Option<Vec<f32>>, ModelError> {
        let name = "rope_freqs.weight";
        if self.optional(name).is_none() {
            return Ok(None);
        }
        let id = self.vector(name, spec.rope.n_dims / 2)?;
        let factors = self.storage.to_vec::<f32>(id)?;
        if factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
            let reason = "factors must be positive".to_owned();
            return Err(ModelError::Tensor {
                name: name.to_owned(),
                reason,
            });
        }
        Ok(Some(factors))
    }
}

fn missing(name: &str) -> ModelError {
    ModelError::Tensor {
        name: name.to_owned(),
        reason: "missing".to_owned(),
    }
}
