//! Products with frozen weights, in both directions: made into scratch matrices first, then multiplied by ggml or by us.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::Tensor;
use thumbprint_ggml::ggml::custom::{Args, Kernel, Work};
use thumbprint_ggml::ggml::packed::{self, PANEL, Packing};

use super::builder::Builder;
use super::fragments::{Result, Weights};
use super::kernels::dequantize::{self, PACKED_ROWS, Weight};
use super::kernels::n_processors;
use super::scratch::Scratch;

/// A unit of a product takes a multiple of the first number of tokens, and at most the second: each goes through the whole packed
/// matrix, so the fewer units the better, as long as no thread waits for another's.
const PRODUCT_TOKENS: (usize, usize) = (12, 252);

impl<'g, 'a: 'g> Builder<'g, 'a> {
    /// `x` `[n_in, n]` times frozen weights: `[n_out, n]`.
    pub(super) fn product_with(&self, weights: &Weights<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let Weights { parts, kept } = weights;
        match self.scratch {
            Scratch::Rows(ty) => self.graph.mul_mat(self.scratch_rows(ty, parts)?, x),
            Scratch::Packed(packing) => {
                let [_, n_out] = stacked(parts);
                let packed = match kept {
                    Some([forward, _]) => *forward,
                    None => self.packed(packing, parts, None)?,
                };
                self.product(packing, packed, n_out, x)
            }
        }
    }

    /// The gradient of [`product_with`](Self::product_with) with respect to `x`.
    pub(super) fn product_with_transposed(
        &self,
        weights: &Weights<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let Weights { parts, kept } = weights;
        match self.scratch {
            Scratch::Rows(ty) => {
                let transposed = self.scratch_transposed(ty, parts)?;
                self.graph.mul_mat(transposed, dy)
            }
            Scratch::Packed(packing) => {
                let [n_in, _] = stacked(parts);
                let packed = match kept {
                    Some([_, backward]) => *backward,
                    None => self.packed_transposed(packing, parts, None)?,
                };
                self.product(packing, packed, n_in, dy)
            }
        }
    }

    /// A packed matrix of `n_out` outputs times `x`.
    fn product(
        &self,
        packing: Packing,
        packed: Tensor<'g>,
        n_out: usize,
        x: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let [n_in, n, ..] = x.ne();
        let n_words = packing.words(n_in);
        let tokens = n
            .div_ceil(2 * n_processors())
            .next_multiple_of(PRODUCT_TOKENS.0)
            .min(PRODUCT_TOKENS.1);
        let work = Work::rows("product", n, n_out * size_of::<f32>(), tokens);
        self.graph.custom(
            GgmlType::F32,
            [n_out, n, 1, 1],
            &[packed, x],
            work,
            Box::new(move |unit, args, out| {
                let (matrix, x) = (args.view::<u32>(0).data, args.f32(1));
                let y = out.region::<f32>(0);
                let mut inputs = vec![0; y.len() / n_out * n_words];
                for (i, to) in inputs.chunks_exact_mut(n_words).enumerate() {
                    packing.pack_inputs(x.row(unit * tokens + i), to);
                }
                packed::multiply(packing, matrix, n_words, &inputs, n_out, y);
            }),
        )
    }

    /// Weights of one input width as one packed matrix, in place of `into` if that is given.
    pub(super) fn packed(
        &self,
        packing: Packing,
        weights: &[Tensor<'g>],
        into: Option<Tensor<'g>>,
    ) -> Result<Tensor<'g>> {
        let [n_in, n_out] = stacked(weights);
        let (n_words, n_panels) = (packing.words(n_in), n_out.div_ceil(PANEL));
        let types: Vec<_> = weights.iter().map(Tensor::ty).collect();
        let work = Work::rows("pack", n_panels, n_words * PANEL * size_of::<u32>(), 1);
        let kernel: Kernel<'a> = Box::new(move |unit, args, out| {
            let weights = raw(args, &types);
            or_panic(dequantize::packed(packing, &weights, unit, out.region(0)));
        });
        self.written([PANEL, n_words, n_panels, 1], weights, work, kernel, into)
    }

    /// Weights of one input width, transposed, as one packed matrix, in place of `into` if that is given.
    pub(super) fn packed_transposed(
        &self,
        packing: Packing,
        weights: &[Tensor<'g>],
        into: Option<Tensor<'g>>,
    ) -> Result<Tensor<'g>> {
        let [n_in, n_out] = stacked(weights);
        let (n_words, n_panels) = (packing.words(n_out), n_in.div_ceil(PANEL));
        let types: Vec<_> = weights.iter().map(Tensor::ty).collect();
        let word_bytes = PANEL * size_of::<u32>();
        let n_units = n_out.div_ceil(PACKED_ROWS);
        let regions = (0..n_panels).map(|panel| {
            let words =
                (0..=n_units).map(|unit| (unit * PACKED_ROWS / packing.inputs()).min(n_words));
            words
                .map(|word| (panel * n_words + word) * word_bytes)
                .collect()
        });
        let work = Work {
            name: "pack_transposed",
            n_units,
            regions: regions.collect(),
        };
        let kernel: Kernel<'a> = Box::new(move |unit, args, out| {
            let (weights, first) = (raw(args, &types), unit * PACKED_ROWS);
            or_panic(dequantize::packed_transposed(packing, &weights, first, out));
        });
        self.written([PANEL, n_words, n_panels, 1], weights, work, kernel, into)
    }

    /// What a kernel makes of weights: 32-bit words, in a tensor of their own or in `into`.
    fn written(
        &self,
        ne: [usize; 4],
        weights: &[Tensor<'g>],
        work: Work,
        kernel: Kernel<'a>,
        into: Option<Tensor<'g>>,
    ) -> Result<Tensor<'g>> {
        match into {
            Some(target) => self.graph.custom_in_place(target, weights, work, kernel),
            None => self.graph.custom(GgmlType::I32, ne, weights, work, kernel),
        }
    }

    /// Weights of one input width as one matrix `[n_in, n_out]` of type `to`; they themselves where they are one matrix of that
    /// type.
    fn scratch_rows(&self, to: GgmlType, weights: &[Tensor<'g>]) -> Result<Tensor<'g>> {
        if let [only] = weights
            && only.ty() == to
        {
            return Ok(*only);
        }
        let [n_in, n_out] = stacked(weights);
        let types: Vec<_> = weights.iter().map(Tensor::ty).collect();
        // Units do not straddle weights.
        let mut units = Vec::new();
        let mut offsets = vec![0];
        let mut done = 0;
        for (which, weight) in weights.iter().enumerate() {
            let n_rows = weight.ne()[1];
            for first in (0..n_rows).step_by(dequantize::ROWS) {
                units.push((which, first));
                done += (n_rows - first).min(dequantize::ROWS);
                offsets.push(done * to.row_size(n_in));
            }
        }
        let work = Work {
            name: "dequantize",
            n_units: units.len(),
            regions: vec![offsets],
        };
        self.graph.custom(
            to,
            [n_in, n_out, 1, 1],
            weights,
            work,
            Box::new(move |unit, args, out| {
                let (which, first) = units[unit];
                let weight = Weight {
                    ty: types[which],
                    view: args.raw(which),
                };
                or_panic(dequantize::rows(weight, first, to, out.region(0)));
            }),
        )
    }

    /// Weights of one input width as one transposed matrix `[n_out, n_in]` of type `to`.
    fn scratch_transposed(&self, to: GgmlType, weights: &[Tensor<'g>]) -> Result<Tensor<'g>> {
        let [n_in, n_out] = stacked(weights);
        let types: Vec<_> = weights.iter().map(Tensor::ty).collect();
        let columns = types
            .iter()
            .map(|ty| dequantize::transposed_columns(*ty))
            .max()
            .unwrap_or(1);
        let work = Work::rows("dequantize_transposed", n_in, to.row_size(n_out), columns);
        self.graph.custom(
            to,
            [n_out, n_in, 1, 1],
            weights,
            work,
            Box::new(move |unit, args, out| {
                let weights = raw(args, &types);
                let first = unit * columns;
                or_panic(dequantize::transposed(&weights, first, to, out.region(0)));
            }),
        )
    }
}

/// Inputs and outputs of weights of one input width, one below the other.
fn stacked(weights: &[Tensor<'_>]) -> [usize; 2] {
    let n_out = weights.iter().map(|w| w.ne()[1]).sum();
    [weights[0].ne()[0], n_out]
}

/// Weights of such types, the first arguments of an operation.
fn raw<'a>(args: &'a Args, types: &[GgmlType]) -> Vec<Weight<'a>> {
    let weight = |(i, ty): (usize, &GgmlType)| Weight {
        ty: *ty,
        view: args.raw(i),
    };
    types.iter().enumerate().map(weight).collect()
}

/// Types were checked when the model was opened, so this is a bug; it is caught at the boundary to C and reported.
fn or_panic(result: Result<()>) {
    if let Err(error) = result {
        panic!("{error}");
    }
}
