//! The adapter on the device: factors in the layout of the kernels, refreshed from the trainer's flat parameters.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Backend, GgmlError, Storage, StorageBuilder, TensorId};

use super::kernels::thin::Span;
use crate::adapter::{Lora, LoraTensor};
use crate::model::{Fused, Model};

/// The adapter's part in one fused projection.
///
/// `a` is `[rank total, n_in]`: the A factors of the adapted parts one under another. `b` holds each part's B transposed,
/// `[rank, n_out of the part]`, one after another.
#[derive(Debug, Clone)]
pub struct FusedLora {
    /// Index of each adapted part's tensor in [`Lora::tensors`].
    pub tensors: Vec<usize>,
    /// Rank of all parts together; 0 where nothing is adapted.
    pub rank: usize,
    /// The input side: one span.
    pub a_spans: Vec<Span>,
    /// The output side: a span for each adapted part.
    pub b_spans: Vec<Span>,
    /// Elements of `a`.
    pub a_len: usize,
    /// Elements of `b`.
    pub b_len: usize,
}

/// Factors of one fused projection in a storage.
#[derive(Debug, Clone, Copy)]
pub struct Factors {
    pub a: TensorId,
    pub b: TensorId,
}

/// The adapter's factors on the device, and room for the gradients of one layer.
pub struct DeviceAdapter {
    /// Per layer, in the order of [`LayerWeights::fused`](crate::model::LayerWeights::fused).
    pub layers: Vec<[FusedLora; 4]>,
    /// `alpha / rank`.
    pub scale: f32,
    /// The factors.
    pub storage: Storage,
    /// Where they are, per layer and fused projection; none where nothing is adapted.
    pub factors: Vec<[Option<Factors>; 4]>,
    /// Gradients of one layer.
    pub gradients: Storage,
    /// Where they are.
    pub gradient_factors: [Option<Factors>; 4],
    /// The layout of the parameters.
    pub tensors: Vec<LoraTensor>,
    scratch: Vec<f32>,
}

impl DeviceAdapter {
    pub fn new(model: &Model, lora: &Lora, backend: &Backend) -> Result<Self, GgmlError> {
        let layers: Vec<[FusedLora; 4]> = model
            .layers
            .iter()
            .enumerate()
            .map(|(layer, weights)| {
                weights
                    .fused()
                    .map(|fused| FusedLora::new(layer, fused, lora))
            })
            .collect();
        let mut builder = StorageBuilder::new();
        let mut add = |fused: &FusedLora| {
            (fused.rank > 0).then(|| Factors {
                a: builder.add(GgmlType::F32, &[fused.a_len]),
                b: builder.add(GgmlType::F32, &[fused.b_len]),
            })
        };
        let factors = layers
            .iter()
            .map(|layer| layer.each_ref().map(&mut add))
            .collect();
        let storage = builder.build(backend)?;
        let mut builder = StorageBuilder::new();
        // All layers have the same shapes, but a layer may lack adapted parts that another has.
        let gradient_factors = std::array::from_fn(|which| {
            let largest =
                |f: fn(&FusedLora) -> usize| layers.iter().map(|l| f(&l[which])).max().unwrap_or(0);
            let (a, b) = (largest(|f| f.a_len), largest(|f| f.b_len));
            (a > 0).then(|| Factors {
                a: builder.add(GgmlType::F32, &[a]),
                b: builder.add(GgmlType::F32, &[b]),
            })
        });
        builder.add(GgmlType::F32, &[1]);
        let gradients = builder.build(backend)?;
        let mut adapter = Self {
            layers,
            scale: lora.scale(),
            storage,
            factors,
            gradients,
            gradient_factors,
            tensors: lora.tensors.clone(),
            scratch: Vec::new(),
        };
        adapter.upload(lora)?;
        Ok(adapter)
    }

    /// Copies parameters of the same layout to the device.
    pub fn upload(&mut self, lora: &Lora) -> Result<(), GgmlError> {
        self.scale = lora.scale();
        for (layer, factors) in self.layers.iter().zip(&self.factors) {
            for (fused, factors) in layer.iter().zip(factors) {
                let Some(factors) = factors else { continue };
                self.scratch.clear();
                for &index in &fused.tensors {
                    self.scratch
                        .extend_from_slice(&lora.values[lora.tensors[index].a.clone()]);
                }
                self.storage.write(factors.a, &self.scratch)?;
                self.scratch.clear();
                self.scratch.resize(fused.b_len, 0.0);
                for (&index, span) in fused.tensors.iter().zip(&fused.b_spans) {
                    let b = &lora.values[lora.tensors[index].b.clone()];
                    let transposed = &mut self.scratch[span.factor_start..][..span.len * span.rank];
                    transpose(b, span.rank, transposed, span.len);
                }
                self.storage.write(factors.b, &self.scratch)?;
            }
        }
        Ok(())
    }

    /// Adds one layer's gradients to the flat gradient of the parameters.
    pub fn download_gradients(
        &mut self,
        layer: usize,
        tensors: &[LoraTensor],
        grads: &mut [f32],
    ) -> Result<(), GgmlError> {
        for (fused, factors) in self.layers[layer].iter().zip(self.gradient_factors) {
            let Some(factors) = factors.filter(|_| fused.rank > 0) else {
                continue;
            };
            self.gradients.read_into(factors.a, &mut self.scratch)?;
            let mut at = 0;
            for &index in &fused.tensors {
                let to = &mut grads[tensors[index].a.clone()];
                to.iter_mut()
                    .zip(&self.scratch[at..])
                    .for_each(|(to, from)| *to += from);
                at += to.len();
            }
            self.gradients.read_into(factors.b, &mut self.scratch)?;
            for (&index, span) in fused.tensors.iter().zip(&fused.b_spans) {
                let from = &self.scratch[span.factor_start..][..span.len * span.rank];
                let to = &mut grads[tensors[index].b.clone()];
                for (row, to) in to.chunks_exact_mut(span.rank).enumerate() {
                    for (r, to) in to.iter_mut().enumerate() {
                        *to += from[r * span.len + row];
                    }
                }
            }
        }
        Ok(())
    }
}

impl FusedLora {
    fn new(layer: usize, fused: &Fused, lora: &Lora) -> Self {
        let mut this = Self {
            tensors: Vec::new(),
            rank: 0,
            a_spans: Vec::new(),
            b_spans: Vec::new(),
            a_len: 0,
            b_len: 0,
        };
        let mut column = 0;
        for part in &fused.parts {
            let found = lora
                .tensors
                .iter()
                .position(|t| t.layer == layer && t.module == part.module);
            if let Some(index) = found {
                let rank = lora.config.rank;
                this.b_spans.push(Span {
                    start: column,
                    len: part.n_out,
                    rank_start: this.rank,
                    rank,
                    factor_start: this.b_len,
                });
                this.tensors.push(index);
                this.rank += rank;
                this.b_len += rank * part.n_out;
            }
            column += part.n_out;
        }
        this.a_len = this.rank * fused.n_in;
        this.a_spans.push(Span {
            start: 0,
            len: fused.n_in,
            rank_start: 0,
            rank: this.rank,
            factor_start: 0,
        });
        this
    }
}

/// `from` is `[rows, columns]` row-major with `columns` given; `to` becomes `[columns, rows]`.
fn transpose(from: &[f32], columns: usize, to: &mut [f32], rows: usize) {
    for (row, line) in from.chunks_exact(columns).enumerate() {
        for (column, value) in line.iter().enumerate() {
            to[column * rows + row] = *value;
        }
    }
}
