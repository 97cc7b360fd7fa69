//! Fragments out of custom operations, for the CPU; those with frozen weights are in `products`, attention in `attention`.

use std::sync::Arc;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::{Args, Work};
use thumbprint_ggml::ggml::{Graph, Storage, Tensor, TensorId};

use super::fragments::{Fragments, LoadedNorm, Result, RopeTables, Weights};
use super::kernels::attention::Attention;
use super::kernels::dropout::Dropout;
use super::kernels::element::Element;
use super::kernels::gemm::Mat;
use super::kernels::rows::{self, Gated, GeGlu, SwiGlu};
use super::kernels::thin::{self, OUTER_COLUMNS, Span};
use super::scratch::Scratch;
use crate::model::{Activation, BlockSpec, Norm, Rope, RopeKind};

/// Rows that one unit of a row-wise operation takes.
const ROWS: usize = 8;
const F32: usize = size_of::<f32>();

impl<'g> LoadedNorm<'g> {
    /// The weights as arguments of an operation: always two, of which the second has no meaning without a bias.
    fn args(&self) -> [Tensor<'g>; 2] {
        [self.weight, self.bias.unwrap_or(self.weight)]
    }

    /// The function of a row, its arguments starting at `first`.
    fn kernel(&self, first: usize) -> impl Fn(&Args, &[f32], &mut [f32]) + Send + Sync + use<> {
        let (norm, has_bias) = (self.norm, self.bias.is_some());
        move |args, x, y| {
            let weight = args.f32(first).data;
            match norm {
                Norm::Rms { eps } => rows::rms_norm(x, weight, eps, y),
                Norm::Layer { eps } => rows::layer_norm(x, weight, eps, y),
            }
            if has_bias {
                let bias = args.f32(first + 1).data;
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }
}

impl Norm {
    /// Adds to `dx`.
    fn backward(self, x: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32]) {
        match self {
            Norm::Rms { eps } => rows::rms_norm_backward(x, weight, eps, dy, dx),
            Norm::Layer { eps } => rows::layer_norm_backward(x, weight, eps, dy, dx),
        }
    }
}

/// Builds fragments in one graph.
#[derive(Clone, Copy)]
pub struct Builder<'g, 'a> {
    pub graph: &'g Graph<'a>,
    /// What frozen weights are made into before a product.
    pub scratch: Scratch,
    pub n_tokens: usize,
}

impl<'g, 'a: 'g> Fragments<'g, 'a> for Builder<'g, 'a> {
    fn graph(&self) -> &'g Graph<'a> {
        self.graph
    }

    fn project(&self, weights: &Weights<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        self.product_with(weights, x)
    }

    fn project_backward(&self, weights: &Weights<'g>, dy: Tensor<'g>) -> Result<Tensor<'g>> {
        self.product_with_transposed(weights, dy)
    }

    fn rope_tables(
        &self,
        rope: &'a Rope,
        storage: &'a Storage,
        ids: [TensorId; 2],
    ) -> Result<RopeTables<'g, 'a>> {
        let load = |id| {
            self.graph
                .rows(self.graph.load(storage, id)?, 0, self.n_tokens)
        };
        let tables = [load(ids[0])?, load(ids[1])?];
        Ok(RopeTables { rope, tables })
    }

    fn attention(
        &self,
        geometry: &'a Attention,
        qkv: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Option<Tensor<'g>>)> {
        let (attn, lse) = self.attend(geometry, qkv)?;
        Ok((attn, Some(lse)))
    }

    fn attention_backward(
        &self,
        geometry: &'a Attention,
        qkv: Tensor<'g>,
        attn: Tensor<'g>,
        lse: Tensor<'g>,
        d_attn: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)> {
        match attn.ty() {
            GgmlType::F32 => self.attend_backward::<f32>(geometry, qkv, attn, lse, d_attn),
            _ => self.attend_backward::<u16>(geometry, qkv, attn, lse, d_attn),
        }
    }

    // ---- the adapter ----

    fn dropped(&self, x: Tensor<'g>, dropout: Option<Dropout>) -> Result<Tensor<'g>> {
        let Some(dropout) = dropout else { return Ok(x) };
        self.rows("dropout", x.ne()[0], &[x], move |row, args, y| {
            y.copy_from_slice(args.f32(0).row(row));
            dropout.apply(row, y);
        })
    }

    fn thin(
        &self,
        x: Tensor<'g>,
        factors: Tensor<'g>,
        spans: &[Span],
        scale: f32,
    ) -> Result<Tensor<'g>> {
        let rank: usize = spans.iter().map(|s| s.rank).sum();
        let spans: Arc<[Span]> = spans.into();
        let work = Work::rows("lora_project", self.n_tokens, rank * F32, ROWS);
        self.graph.custom(
            GgmlType::F32,
            [rank, self.n_tokens, 1, 1],
            &[x, factors],
            work,
            Box::new(move |unit, args, out| {
                let t = out.region::<f32>(0);
                let (n, x) = (t.len() / rank, rows_from(args, 0, unit * ROWS));
                thin::project(n, x, args.f32(1).data, &spans, scale, (t, rank));
            }),
        )
    }

    fn add_expanded(
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
                let (t, factors) = (rows_from(args, 0, unit * ROWS), args.f32(1).data);
                let y = out.region::<f32>(0);
                let n = y.len() / width;
                let Some(dropout) = dropout else {
                    return thin::expand(n, t, factors, &spans, (y, width));
                };
                let mut added = vec![0.0; y.len()];
                thin::expand(n, t, factors, &spans, (&mut added, width));
                for (i, added) in added.chunks_exact_mut(width).enumerate() {
                    dropout.apply(unit * ROWS + i, added);
                }
                y.iter_mut().zip(&added).for_each(|(y, added)| *y += added);
            }),
        )
    }

    fn factor_gradients(&self, t: Tensor<'g>, x: Tensor<'g>, spans: &[Span]) -> Result<Tensor<'g>> {
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

    fn norm(&self, loaded: &LoadedNorm<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let (kernel, [weight, bias]) = (loaded.kernel(1), loaded.args());
        let args = [x, weight, bias];
        self.rows("norm", x.ne()[0], &args, move |row, args, y| {
            kernel(args, args.f32(0).row(row), y);
        })
    }

    fn norm_backward(
        &self,
        loaded: &LoadedNorm<'g>,
        x: Tensor<'g>,
        dy: Tensor<'g>,
        residual: Option<Tensor<'g>>,
    ) -> Result<Tensor<'g>> {
        let (norm, weight) = (loaded.norm, loaded.weight);
        let args: Vec<_> = [x, weight, dy].into_iter().chain(residual).collect();
        let has_residual = residual.is_some();
        self.rows("norm_backward", x.ne()[0], &args, move |row, args, dx| {
            if has_residual {
                dx.copy_from_slice(args.f32(3).row(row));
            } else {
                dx.fill(0.0);
            }
            let (x, weight, dy) = (args.f32(0).row(row), args.f32(1).data, args.f32(2).row(row));
            norm.backward(x, weight, dy, dx);
        })
    }

    fn norm_heads(
        &self,
        spec: &BlockSpec,
        norms: &[LoadedNorm<'g>; 2],
        qkv: Tensor<'g>,
        rope: Option<RopeTables<'g, 'a>>,
    ) -> Result<Tensor<'g>> {
        let kernels = [norms[0].kernel(1), norms[1].kernel(3)];
        let (n_q, n_qk) = (spec.n_attn(), spec.n_qk());
        let rotation = rope.map(|tables| Rotation::new(spec, tables));
        let mut args = vec![qkv];
        args.extend(norms.iter().flat_map(LoadedNorm::args));
        args.extend(rope.into_iter().flat_map(|t| t.tables));
        self.rows("norm_heads", spec.n_qkv(), &args, move |row, args, y| {
            let x = args.f32(0).row(row);
            for (which, part) in [0..n_q, n_q..n_qk].into_iter().enumerate() {
                let together = args.f32(1 + 2 * which).data.len();
                let inputs = x[part.clone()].chunks_exact(together);
                for (x, y) in inputs.zip(y[part].chunks_exact_mut(together)) {
                    kernels[which](args, x, y);
                }
            }
            y[n_qk..].copy_from_slice(&x[n_qk..]);
            if let Some(rotation) = &rotation {
                rotation.apply(y, args.f32(5).row(row), args.f32(6).row(row), 1.0);
            }
        })
    }

    fn norm_heads_backward(
        &self,
        spec: &BlockSpec,
        norms: &[LoadedNorm<'g>; 2],
        qkv: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let norm = norms[0].norm;
        let (n_q, n_qk) = (spec.n_attn(), spec.n_qk());
        let args = [qkv, dy, norms[0].weight, norms[1].weight];
        self.rows(
            "norm_heads_backward",
            spec.n_qkv(),
            &args,
            move |row, args, dx| {
                let (x, dy) = (args.f32(0).row(row), args.f32(1).row(row));
                dx[..n_qk].fill(0.0);
                for (which, part) in [0..n_q, n_q..n_qk].into_iter().enumerate() {
                    let weight = args.f32(2 + which).data;
                    let together = weight.len();
                    let rows = x[part.clone()]
                        .chunks_exact(together)
                        .zip(dy[part.clone()].chunks_exact(together));
                    for ((x, dy), dx) in rows.zip(dx[part].chunks_exact_mut(together)) {
                        norm.backward(x, weight, dy, dx);
                    }
                }
                dx[n_qk..].copy_from_slice(&dy[n_qk..]);
            },
        )
    }

    fn scaled(&self, x: Tensor<'g>, factor: f32) -> Result<Tensor<'g>> {
        if factor == 1.0 {
            return Ok(x);
        }
        self.rows("scale", x.ne()[0], &[x], move |row, args, y| {
            let x = args.f32(0).row(row);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = factor * x);
        })
    }

    fn capped(&self, x: Tensor<'g>, cap: Option<f32>) -> Result<Tensor<'g>> {
        let Some(cap) = cap else { return Ok(x) };
        let width = x.ne()[0];
        let work = Work::rows("cap", self.n_tokens, width * F32, ROWS);
        self.graph.custom_in_place(
            x,
            &[],
            work,
            Box::new(move |_, _, out| {
                let x = out.region::<f32>(0);
                x.iter_mut().for_each(|x| *x = rows::capped(*x, cap));
            }),
        )
    }

    fn epilogue(
        &self,
        y: Tensor<'g>,
        biases: &[(usize, Tensor<'g>)],
        residual: Option<(Tensor<'g>, f32)>,
        rope: Option<(&BlockSpec, RopeTables<'g, 'a>)>,
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
            args.extend(tables.tables);
            Rotation::new(spec, tables)
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

    fn join_qkv_gradients(
        &self,
        spec: &BlockSpec,
        dq: Tensor<'g>,
        dkv: Tensor<'g>,
        rope: Option<RopeTables<'g, 'a>>,
    ) -> Result<Tensor<'g>> {
        let (width, n_attn) = (spec.n_qkv(), spec.n_attn());
        let rotation = rope.map(|tables| Rotation::new(spec, tables));
        let mut args = vec![dq, dkv];
        args.extend(rope.into_iter().flat_map(|rope| rope.tables));
        self.rows("join_qkv", width, &args, move |row, args, y| {
            y[..n_attn].copy_from_slice(args.f32(0).row(row));
            y[n_attn..].copy_from_slice(args.f32(1).row(row));
            if let Some(rotation) = &rotation {
                rotation.apply(y, args.f32(2).row(row), args.f32(3).row(row), -1.0);
            }
        })
    }

    fn activation(&self, kind: Activation, gate_up: Tensor<'g>) -> Result<Tensor<'g>> {
        match (kind, gate_up.ty()) {
            (Activation::SwiGlu, GgmlType::F32) => self.activation_of::<f32, SwiGlu>(gate_up),
            (Activation::SwiGlu, _) => self.activation_of::<u16, SwiGlu>(gate_up),
            (Activation::GeGlu, GgmlType::F32) => self.activation_of::<f32, GeGlu>(gate_up),
            (Activation::GeGlu, _) => self.activation_of::<u16, GeGlu>(gate_up),
        }
    }

    fn activation_backward(
        &self,
        kind: Activation,
        gate_up: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        match (kind, gate_up.ty()) {
            (Activation::SwiGlu, GgmlType::F32) => {
                self.activation_backward_of::<f32, SwiGlu>(gate_up, dy)
            }
            (Activation::SwiGlu, _) => self.activation_backward_of::<u16, SwiGlu>(gate_up, dy),
            (Activation::GeGlu, GgmlType::F32) => {
                self.activation_backward_of::<f32, GeGlu>(gate_up, dy)
            }
            (Activation::GeGlu, _) => self.activation_backward_of::<u16, GeGlu>(gate_up, dy),
        }
    }
}

impl<'g, 'a: 'g> Builder<'g, 'a> {
    /// `[width, n_tokens]`, each row written by `kernel`, which gets its index, the arguments and the row.
    pub fn rows(
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

    fn activation_of<T: Element, G: Gated>(&self, gate_up: Tensor<'g>) -> Result<Tensor<'g>> {
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
                        *y = G::value(*gate, *up);
                    }
                }
            }),
        )
    }

    fn activation_backward_of<T: Element, G: Gated>(
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
                        (*d_gate, *d_up) = G::gradient(*gate, *up, *dy);
                    }
                }
            }),
        )
    }
}

/// Rows of an argument from the first one on.
fn rows_from(args: &Args, index: usize, first: usize) -> Mat<'_> {
    let view = args.f32(index);
    Mat {
        data: &view.data[first * view.stride[1]..],
        stride: view.stride[1],
    }
}

/// Which columns of a token's queries, keys and values are rotated.
struct Rotation {
    kind: RopeKind,
    head_dim: usize,
    n_heads: usize,
}

impl Rotation {
    fn new(spec: &BlockSpec, tables: RopeTables<'_, '_>) -> Self {
        Self {
            kind: tables.rope.kind,
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
