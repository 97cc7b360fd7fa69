//! Graph fragments out of custom operations; those with frozen weights are in `products`.

use std::sync::Arc;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::{Args, Work};
use thumbprint_ggml::ggml::{GgmlError, Graph, Tensor};

use super::kernels::dropout::Dropout;
use super::kernels::thin::{self, OUTER_COLUMNS, Span};
use super::kernels::{element::Element, rows};
use super::scratch::Scratch;
use crate::model::{BlockSpec, Norm, RopeKind};

type Result<T> = std::result::Result<T, GgmlError>;

/// Rows that one unit of a row-wise operation takes.
const ROWS: usize = 8;
const F32: usize = size_of::<f32>();

/// The cosines and sines of rotary embedding, `[n_dims / 2, n_tokens]` each.
#[derive(Clone, Copy)]
pub struct RopeTables<'g> {
    pub cos: Tensor<'g>,
    pub sin: Tensor<'g>,
}

/// The frozen weights of a fused projection as loaded into a graph.
pub struct LoadedWeights<'g> {
    pub weights: Vec<Tensor<'g>>,
    pub biases: Vec<(usize, Tensor<'g>)>,
}

/// Builds fragments in one graph.
pub struct Builder<'g, 'a> {
    pub graph: &'g Graph<'a>,
    /// What frozen weights are made into before a product.
    pub scratch: Scratch,
    pub n_tokens: usize,
}

impl<'g, 'a: 'g> Builder<'g, 'a> {
    // ---- the adapter ----

    /// A copy of `x` with dropped elements.
    pub fn dropped(&self, x: Tensor<'g>, dropout: Option<Dropout>) -> Result<Tensor<'g>> {
        let Some(dropout) = dropout else { return Ok(x) };
        self.rows("dropout", x.ne()[0], &[x], move |row, args, y| {
            y.copy_from_slice(args.f32(0).row(row));
            dropout.apply(row, y);
        })
    }

    /// Thin side of a product with factors: `[rank, n]`, `scale * <row of x over the span, factor>`.
    pub fn thin(
        &self,
        x: Tensor<'g>,
        factors: Tensor<'g>,
        spans: &[Span],
        scale: f32,
    ) -> Result<Tensor<'g>> {
        let rank: usize = spans.iter().map(|s| s.rank).sum();
        let spans: Arc<[Span]> = spans.into();
        self.rows("lora_project", rank, &[x, factors], move |row, args, t| {
            thin::project(args.f32(0).row(row), args.f32(1).data, &spans, scale, t);
        })
    }

    /// Adds `t` `[rank, n]` times the factors to `y` in place, what it adds being subject to dropout.
    pub fn add_expanded(
        &self,
        y: Tensor<'g>,
        t: Tensor<'g>,
        factors: Tensor<'g>,
        spans: &[Span],
        dropout: Option<Dropout>,
    ) -> Result<Tensor<'g>> {
        let width = y.ne()[0];
        let spans: Arc<[Span]> = spans.into();
        let work = Work::rows("lora_expand", self.n_tokens, width * F32, ROWS);
        self.graph.custom_in_place(
            y,
            &[t, factors],
            work,
            Box::new(move |unit, args, out| {
                let (t, factors) = (args.f32(0), args.f32(1).data);
                for (i, y) in out.region::<f32>(0).chunks_exact_mut(width).enumerate() {
                    let row = unit * ROWS + i;
                    let Some(dropout) = dropout else {
                        thin::expand(t.row(row), factors, &spans, y);
                        continue;
                    };
                    let mut added = vec![0.0; width];
                    thin::expand(t.row(row), factors, &spans, &mut added);
                    dropout.apply(row, &mut added);
                    y.iter_mut().zip(&added).for_each(|(y, added)| *y += added);
                }
            }),
        )
    }

    /// Gradients of factors: sums over tokens of `t` `[rank, n]` times `x` `[width, n]`, laid out as the factors are.
    pub fn factor_gradients(
        &self,
        t: Tensor<'g>,
        x: Tensor<'g>,
        spans: &[Span],
    ) -> Result<Tensor<'g>> {
        let len: usize = spans.iter().map(|s| s.rank * s.len).sum();
        let mut units = Vec::new();
        for (which, span) in spans.iter().enumerate() {
            units.extend(
                (0..span.len)
                    .step_by(OUTER_COLUMNS)
                    .map(|first| (which, first)),
            );
        }
        // A unit owns a range of columns in each row of its own span, and nothing of the others.
        let mut regions = Vec::new();
        for (which, span) in spans.iter().enumerate() {
            for r in 0..span.rank {
                let start = span.factor_start + r * span.len;
                let mut offsets = vec![start * F32];
                for &(unit_span, first) in &units {
                    let end = match unit_span.cmp(&which) {
                        std::cmp::Ordering::Less => start,
                        std::cmp::Ordering::Equal => start + (first + OUTER_COLUMNS).min(span.len),
                        std::cmp::Ordering::Greater => start + span.len,
                    };
                    offsets.push(end * F32);
                }
                regions.push(offsets);
            }
        }
        let first_region: Vec<usize> = spans
            .iter()
            .scan(0, |at, span| {
                *at += span.rank;
                Some(*at - span.rank)
            })
            .collect();
        let spans: Arc<[Span]> = spans.into();
        let (n_tokens, work) = (
            self.n_tokens,
            Work {
                name: "lora_gradient",
                n_units: units.len(),
                regions,
            },
        );
        self.graph.custom(
            GgmlType::F32,
            [len, 1, 1, 1],
            &[t, x],
            work,
            Box::new(move |unit, args, out| {
                let (which, first) = units[unit];
                let span = spans[which];
                let (t, x) = (args.f32(0), args.f32(1));
                let columns = (span.len - first).min(OUTER_COLUMNS);
                thin::outer(
                    n_tokens,
                    span.rank,
                    (&t.data[span.rank_start..], t.stride[1]),
                    (&x.data[span.start + first..], x.stride[1]),
                    columns,
                    |r, sums| {
                        out.region::<f32>(first_region[which] + r)
                            .copy_from_slice(sums)
                    },
                );
            }),
        )
    }

    // ---- rows ----

    /// `[width, n_tokens]`, each row written by `kernel`, which gets its index, the arguments and the row.
    fn rows(
        &self,
        name: &'static str,
        width: usize,
        args: &[Tensor<'g>],
        kernel: impl Fn(usize, &Args, &mut [f32]) + Send + Sync + 'a,
    ) -> Result<Tensor<'g>> {
        let work = Work::rows(name, self.n_tokens, width * F32, ROWS);
        self.graph.custom(
            GgmlType::F32,
            [width, self.n_tokens, 1, 1],
            args,
            work,
            Box::new(move |unit, args, out| {
                for (i, row) in out.region::<f32>(0).chunks_exact_mut(width).enumerate() {
                    kernel(unit * ROWS + i, args, row);
                }
            }),
        )
    }

    /// The norm of `x` `[width, n]`.
    pub fn norm(&self, norm: Norm, x: Tensor<'g>, weight: Tensor<'g>) -> Result<Tensor<'g>> {
        let Norm::Rms { eps } = norm;
        self.rows("norm", x.ne()[0], &[x, weight], move |row, args, y| {
            rows::rms_norm(args.f32(0).row(row), args.f32(1).data, eps, y);
        })
    }

    /// `residual` plus the gradient of [`norm`](Self::norm) with respect to `x`, given the output's gradient `dy`.
    pub fn norm_backward(
        &self,
        norm: Norm,
        x: Tensor<'g>,
        weight: Tensor<'g>,
        dy: Tensor<'g>,
        residual: Option<Tensor<'g>>,
    ) -> Result<Tensor<'g>> {
        let Norm::Rms { eps } = norm;
        let args: Vec<_> = [x, weight, dy].into_iter().chain(residual).collect();
        let has_residual = residual.is_some();
        self.rows("norm_backward", x.ne()[0], &args, move |row, args, dx| {
            if has_residual {
                dx.copy_from_slice(args.f32(3).row(row));
            } else {
                dx.fill(0.0);
            }
            let (x, weight, dy) = (args.f32(0).row(row), args.f32(1).data, args.f32(2).row(row));
            rows::rms_norm_backward(x, weight, eps, dy, dx);
        })
    }

    /// `factor * x`; `x` itself where the factor is 1.
    pub fn scaled(&self, x: Tensor<'g>, factor: f32) -> Result<Tensor<'g>> {
        if factor == 1.0 {
            return Ok(x);
        }
        self.rows("scale", x.ne()[0], &[x], move |row, args, y| {
            let x = args.f32(0).row(row);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = factor * x);
        })
    }

    /// What follows a projection, in place on `y`: biases, the residual stream (to which `y` is added with a factor), rotary embedding
    /// of queries and keys.
    pub fn epilogue(
        &self,
        y: Tensor<'g>,
        biases: &[(usize, Tensor<'g>)],
        residual: Option<(Tensor<'g>, f32)>,
        rope: Option<(&BlockSpec, RopeTables<'g>)>,
    ) -> Result<Tensor<'g>> {
        if biases.is_empty() && residual.is_none() && rope.is_none() {
            return Ok(y);
        }
        let width = y.ne()[0];
        let starts: Vec<usize> = biases.iter().map(|(start, _)| *start).collect();
        let n_biases = biases.len();
        let mut args: Vec<_> = biases.iter().map(|(_, bias)| *bias).collect();
        args.extend(residual.map(|(x, _)| x));
        let residual = residual.map(|(_, factor)| factor);
        let rotation = rope.map(|(spec, tables)| {
            args.extend([tables.cos, tables.sin]);
            Rotation::new(spec)
        });
        let work = Work::rows("epilogue", self.n_tokens, width * F32, ROWS);
        self.graph.custom_in_place(
            y,
            &args,
            work,
            Box::new(move |unit, args, out| {
                for (i, y) in out.region::<f32>(0).chunks_exact_mut(width).enumerate() {
                    let row = unit * ROWS + i;
                    for (b, start) in starts.iter().enumerate() {
                        let bias = args.f32(b).data;
                        y[*start..].iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                    }
                    if let Some(factor) = residual {
                        y.iter_mut()
                            .zip(args.f32(n_biases).row(row))
                            .for_each(|(y, x)| *y = factor * *y + x);
                    }
                    if let Some(rotation) = &rotation {
                        let first = n_biases + usize::from(residual.is_some());
                        rotation.apply(
                            y,
                            args.f32(first).row(row),
                            args.f32(first + 1).row(row),
                            1.0,
                        );
                    }
                }
            }),
        )
    }

    /// Gradients of queries and of keys and values side by side, rotated back: the gradient of the fused projection's output.
    pub fn join_qkv_gradients(
        &self,
        spec: &BlockSpec,
        dq: Tensor<'g>,
        dkv: Tensor<'g>,
        rope: Option<RopeTables<'g>>,
    ) -> Result<Tensor<'g>> {
        let (width, n_attn) = (spec.n_qkv(), spec.n_attn());
        let rotation = rope.map(|_| Rotation::new(spec));
        let mut args = vec![dq, dkv];
        args.extend(rope.into_iter().flat_map(|tables| [tables.cos, tables.sin]));
        self.rows("join_qkv", width, &args, move |row, args, y| {
            y[..n_attn].copy_from_slice(args.f32(0).row(row));
            y[n_attn..].copy_from_slice(args.f32(1).row(row));
            if let Some(rotation) = &rotation {
                rotation.apply(y, args.f32(2).row(row), args.f32(3).row(row), -1.0);
            }
        })
    }

    /// The gated activation of `gate_up` `[2 n_ff, n]`: `[n_ff, n]`.
    pub fn activation(&self, gate_up: Tensor<'g>) -> Result<Tensor<'g>> {
        match gate_up.ty() {
            GgmlType::F32 => self.activation_of::<f32>(gate_up),
            _ => self.activation_of::<u16>(gate_up),
        }
    }

    fn activation_of<T: Element>(&self, gate_up: Tensor<'g>) -> Result<Tensor<'g>> {
        let n_ff = gate_up.ne()[0] / 2;
        let work = Work::rows("activation", self.n_tokens, n_ff * F32, ROWS);
        self.graph.custom(
            GgmlType::F32,
            [n_ff, self.n_tokens, 1, 1],
            &[gate_up],
            work,
            Box::new(move |unit, args, out| {
                let gate_up = args.view::<T>(0);
                let mut wide = vec![0.0; 2 * n_ff];
                for (i, y) in out.region::<f32>(0).chunks_exact_mut(n_ff).enumerate() {
                    T::widen(gate_up.row(unit * ROWS + i), &mut wide);
                    let (gate, up) = wide.split_at(n_ff);
                    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                        *y = rows::swiglu(*gate, *up);
                    }
                }
            }),
        )
    }

    /// The gradient of [`activation`](Self::activation): `[2 n_ff, n]`.
    pub fn activation_backward(&self, gate_up: Tensor<'g>, dy: Tensor<'g>) -> Result<Tensor<'g>> {
        match gate_up.ty() {
            GgmlType::F32 => self.activation_backward_of::<f32>(gate_up, dy),
            _ => self.activation_backward_of::<u16>(gate_up, dy),
        }
    }

    fn activation_backward_of<T: Element>(
        &self,
        gate_up: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let n_ff = dy.ne()[0];
        let work = Work::rows("activation_backward", self.n_tokens, 2 * n_ff * F32, ROWS);
        let ne = [2 * n_ff, self.n_tokens, 1, 1];
        self.graph.custom(
            GgmlType::F32,
            ne,
            &[gate_up, dy],
            work,
            Box::new(move |unit, args, out| {
                let (gate_up, dy) = (args.view::<T>(0), args.f32(1));
                let mut wide = vec![0.0; 2 * n_ff];
                for (i, grad) in out.region::<f32>(0).chunks_exact_mut(2 * n_ff).enumerate() {
                    let row = unit * ROWS + i;
                    T::widen(gate_up.row(row), &mut wide);
                    let (gate, up) = wide.split_at(n_ff);
                    let (d_gate, d_up) = grad.split_at_mut(n_ff);
                    let inputs = gate.iter().zip(up).zip(dy.row(row));
                    for ((d_gate, d_up), ((gate, up), dy)) in
                        d_gate.iter_mut().zip(d_up).zip(inputs)
                    {
                        (*d_gate, *d_up) = rows::swiglu_backward(*gate, *up, *dy);
                    }
                }
            }),
        )
    }
}

/// Which columns of a token's queries, keys and values are rotated.
struct Rotation {
    kind: RopeKind,
    head_dim: usize,
    n_heads: usize,
}

impl Rotation {
    fn new(spec: &BlockSpec) -> Self {
        Self {
            kind: spec.rope.kind,
            head_dim: spec.head_dim,
            n_heads: spec.n_head + spec.n_head_kv,
        }
    }

    fn apply(&self, row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        for head in row.chunks_exact_mut(self.head_dim).take(self.n_heads) {
            match self.kind {
                RopeKind::Interleaved => {
                    rows::rotate_interleaved(&mut head[..2 * cos.len()], cos, sin, sign);
                }
                RopeKind::Halves => rows::rotate_halves(head, cos, sin, sign),
            }
        }
    }
}
