//! The adapter on the device: factors in the layout of the kernels, refreshed from the trainer's flat parameters.

use std::ops::Range;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Backend, GgmlError, Storage, StorageBuilder, TensorId};

use super::kernels::thin::Span;
use crate::adapter::{Lora, LoraTensor};
use crate::model::{Fused, LayerWeights, Model};

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

/// Where the factors of one fused projection are among all values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factors {
    pub a: Range<usize>,
    pub b: Range<usize>,
}

/// Factors begin at multiples of so many values, so that kernels may read them in vectors.
const ALIGNMENT: usize = 64;

/// How the trainer's flat parameters are arranged for the kernels.
pub struct Layout {
    /// Per layer, in the order of [`LayerWeights::fused`].
    pub layers: Vec<[FusedLora; 4]>,
    /// Where factors are, in the same order; none where nothing is adapted.
    pub factors: Vec<[Option<Factors>; 4]>,
    /// The layout of the parameters.
    pub tensors: Vec<LoraTensor>,
    /// All values, with what lies between factors.
    pub n_values: usize,
}

impl Layout {
    pub fn new(model: &Model, lora: &Lora) -> Self {
        let of_layer = |(layer, weights): (usize, &LayerWeights)| {
            let fused = weights.fused();
            fused.map(|fused| FusedLora::new(layer, fused, lora))
        };
        let layers: Vec<_> = model.layers.iter().enumerate().map(of_layer).collect();
        let mut n_values = 0;
        let mut take = |len: usize| {
            let start = n_values;
            n_values += len.next_multiple_of(ALIGNMENT);
            start..start + len
        };
        let mut place = |fused: &FusedLora| {
            (fused.rank > 0).then(|| Factors {
                a: take(fused.a_len),
                b: take(fused.b_len),
            })
        };
        let factors = layers
            .iter()
            .map(|layer| layer.each_ref().map(&mut place))
            .collect();
        Self {
            layers,
            factors,
            tensors: lora.tensors.clone(),
            n_values,
        }
    }

    /// The values of a layer, with what lies between.
    fn values_of(&self, layer: usize) -> Range<usize> {
        let mut all = self.factors[layer].iter().flatten();
        match (all.next(), all.next_back()) {
            (Some(first), last) => first.a.start..last.unwrap_or(first).b.end,
            (None, _) => 0..0,
        }
    }

    /// Writes flat parameters, or what belongs to them, into a vector of the device.
    pub fn write(
        &self,
        flat: &[f32],
        (storage, id): (&mut Storage, TensorId),
    ) -> Result<(), GgmlError> {
        let mut scratch = Vec::new();
        for (fused, factors) in self.pieces(0..self.layers.len()) {
            scratch.clear();
            for &index in &fused.tensors {
                scratch.extend_from_slice(&flat[self.tensors[index].a.clone()]);
            }
            storage.write_at(id, factors.a.start * size_of::<f32>(), &scratch)?;
            scratch.clear();
            scratch.resize(fused.b_len, 0.0);
            for (&index, span) in fused.tensors.iter().zip(&fused.b_spans) {
                let b = &flat[self.tensors[index].b.clone()];
                let transposed = &mut scratch[span.factor_start..][..span.len * span.rank];
                transpose(b, span.rank, transposed, span.len);
            }
            storage.write_at(id, factors.b.start * size_of::<f32>(), &scratch)?;
        }
        Ok(())
    }

    /// Takes each number of some layers from a vector of the device, which begins at value `first`, to its place among flat parameters.
    pub fn read(
        &self,
        layers: Range<usize>,
        (storage, id, first): (&Storage, TensorId, usize),
        flat: &mut [f32],
        take: impl Fn(&mut f32, f32),
    ) -> Result<(), GgmlError> {
        let mut scratch = Vec::new();
        let load = |values: &Range<usize>, scratch: &mut Vec<f32>| {
            scratch.resize(values.len(), 0.0);
            storage.read_at(id, (values.start - first) * size_of::<f32>(), scratch)
        };
        for (fused, factors) in self.pieces(layers) {
            load(&factors.a, &mut scratch)?;
            let mut at = 0;
            for &index in &fused.tensors {
                let to = &mut flat[self.tensors[index].a.clone()];
                let from = &scratch[at..];
                to.iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| take(to, *from));
                at += to.len();
            }
            load(&factors.b, &mut scratch)?;
            for (&index, span) in fused.tensors.iter().zip(&fused.b_spans) {
                let from = &scratch[span.factor_start..][..span.len * span.rank];
                let to = &mut flat[self.tensors[index].b.clone()];
                for (row, to) in to.chunks_exact_mut(span.rank).enumerate() {
                    for (r, to) in to.iter_mut().enumerate() {
                        take(to, from[r * span.len + row]);
                    }
                }
            }
        }
        Ok(())
    }

    fn pieces(&self, layers: Range<usize>) -> impl Iterator<Item = (&FusedLora, &Factors)> {
        let all = layers.flat_map(|layer| self.layers[layer].iter().zip(&self.factors[layer]));
        all.filter_map(|(fused, factors)| Some((fused, factors.as_ref()?)))
    }
}

/// The adapter's factors on the device, and their gradients.
pub struct DeviceAdapter {
    pub layout: Layout,
    /// `alpha / rank`.
    pub scale: f32,
    /// Holds `values`.
    pub storage: Storage,
    /// All values, those between factors being 0.
    pub values: TensorId,
    /// Holds `gradient`.
    pub gradients: Storage,
    /// Gradients in the order of values: of one layer, or sums of all.
    pub gradient: TensorId,
    /// Whether gradients of all layers are summed up here.
    pub sums_up: bool,
}

impl DeviceAdapter {
    /// With `sums_up` there is room for the gradients of all layers; otherwise for those of one.
    pub fn new(
        model: &Model,
        lora: &Lora,
        sums_up: bool,
        backend: &Backend,
    ) -> Result<Self, GgmlError> {
        let layout = Layout::new(model, lora);
        let largest = (0..layout.layers.len()).map(|layer| layout.values_of(layer).len());
        let n_gradients = match sums_up {
            true => layout.n_values,
            false => largest.max().unwrap_or(0),
        };
        let (storage, values) = vector(layout.n_values, backend)?;
        let (gradients, gradient) = vector(n_gradients, backend)?;
        let mut adapter = Self {
            layout,
            scale: 0.0,
            storage,
            values,
            gradients,
            gradient,
            sums_up,
        };
        adapter.upload(lora)?;
        Ok(adapter)
    }

    /// Copies parameters of the same layout to the device.
    pub fn upload(&mut self, lora: &Lora) -> Result<(), GgmlError> {
        self.scale = lora.scale();
        self.layout
            .write(&lora.values, (&mut self.storage, self.values))
    }

    /// Where values of a layer have their gradients.
    pub fn gradient_of(&self, layer: usize, values: &Range<usize>) -> Range<usize> {
        let first = self.first_gradient(layer);
        values.start - first..values.end - first
    }

    /// Adds gradients of some layers, of one if they are not summed up here, to the flat gradient of the parameters.
    pub fn add_gradients(&self, layers: Range<usize>, grads: &mut [f32]) -> Result<(), GgmlError> {
        let first = self.first_gradient(layers.start);
        let from = (&self.gradients, self.gradient, first);
        self.layout
            .read(layers, from, grads, |to, from| *to += from)
    }

    /// The value that the first gradient is of, while those of this layer are there.
    fn first_gradient(&self, layer: usize) -> usize {
        match self.sums_up {
            true => 0,
            false => self.layout.values_of(layer).start,
        }
    }
}

/// Zeros on a backend.
pub fn vector(len: usize, backend: &Backend) -> Result<(Storage, TensorId), GgmlError> {
    let mut builder = StorageBuilder::new();
    let id = builder.add(GgmlType::F32, &[len.max(1)]);
    Ok((builder.build(backend)?, id))
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
