//! Fragments out of operations that every backend has a kernel for: what trains on a GPU.
//!
//! Slower than `builder`'s on a CPU, where the two are compared with one another.

mod attention;
mod head;
mod ubatch;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Binary, Graph, Rotation, Storage, Tensor, TensorId, Unary};

use super::builder::Builder;
use super::fragments::{Fragments, LoadedNorm, Result, RopeTables, Weights};
use super::kernels::attention::Attention;
use super::kernels::dropout::Dropout;
use super::kernels::rows::GeGlu;
use super::kernels::thin::Span;
use super::scratch::Scratch;
use crate::model::{Activation, BlockSpec, Norm, Rope, RopeKind};

pub use attention::shares;
pub use head::{Chunk, ChunkMemory, graph_nodes, log_prob, log_sum_sq};
pub use ubatch::{GRAPH_NODES, PortableIds, UbatchIds};

/// Any base will do: factors say what the frequencies are.
const BASE: f32 = 10_000.0;

/// Builds fragments in one graph.
pub struct Portable<'g, 'a> {
    pub graph: &'g Graph<'a>,
    pub n_tokens: usize,
    /// 0, 1, 2 and so on, I32: as many as the tallest weight or the vocabulary has rows.
    pub indices: Tensor<'g>,
    /// What is added to scores, `[n, n]`: 0 where a query (a row) sees a key, else much less than any score.
    pub mask: Tensor<'g>,
}

/// What a pair of dimensions' angle a position is divided by, for frequencies in radians a position.
pub fn rope_factors(frequencies: &[f64]) -> Vec<f32> {
    let n = frequencies.len() as f64;
    let of = |(i, frequency): (usize, &f64)| f64::from(BASE).powf(-(i as f64) / n) / frequency;
    frequencies
        .iter()
        .enumerate()
        .map(of)
        .map(|f| f as f32)
        .collect()
}

impl<'g, 'a: 'g> Portable<'g, 'a> {
    pub fn new(
        graph: &'g Graph<'a>,
        storage: &'a Storage,
        ids: PortableIds,
        n_tokens: usize,
    ) -> Result<Self> {
        let flat = graph.columns(graph.load(storage, ids.mask)?, 0, n_tokens * n_tokens)?;
        Ok(Self {
            graph,
            n_tokens,
            indices: graph.load(storage, ids.indices)?,
            mask: graph.reshape(flat, [n_tokens, n_tokens, 1, 1])?,
        })
    }

    // ---- arithmetic ----

    fn add(&self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.graph.binary(Binary::Add, a, b)
    }

    fn sub(&self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.graph.binary(Binary::Sub, a, b)
    }

    fn mul(&self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.graph.binary(Binary::Mul, a, b)
    }

    fn div(&self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.graph.binary(Binary::Div, a, b)
    }

    /// Columns of a matrix, contiguous.
    fn part(&self, x: Tensor<'g>, start: usize, len: usize) -> Result<Tensor<'g>> {
        if (start, len) == (0, x.ne()[0]) {
            return self.graph.cont(x);
        }
        self.graph.cont(self.graph.columns(x, start, len)?)
    }

    /// Rows become columns, in each of the matrices of a tensor; contiguous.
    pub fn transposed(&self, x: Tensor<'g>) -> Result<Tensor<'g>> {
        self.graph.cont(self.graph.permute(x, [1, 0, 2, 3])?)
    }

    /// One below the other; there is at least one.
    fn stacked(&self, parts: impl IntoIterator<Item = Tensor<'g>>) -> Result<Tensor<'g>> {
        let mut parts = parts.into_iter();
        let first = parts.next().expect("a part");
        parts.try_fold(first, |above, part| self.graph.concat(above, part, 0))
    }

    /// `x` with `added` on some of its columns.
    fn add_to_columns(&self, x: Tensor<'g>, start: usize, added: Tensor<'g>) -> Result<Tensor<'g>> {
        let (width, len) = (x.ne()[0], added.ne()[0]);
        if len == width {
            return self.add(x, added);
        }
        let end = start + len;
        let mut parts = Vec::new();
        if start > 0 {
            parts.push(self.part(x, 0, start)?);
        }
        parts.push(self.add(self.part(x, start, len)?, added)?);
        if end < width {
            parts.push(self.part(x, end, width - end)?);
        }
        self.stacked(parts)
    }

    /// A frozen weight, dequantized: what backends multiply quantized weights with, they round to 8 bits, and a pair's two rewards
    /// would differ by that noise.
    pub fn plain(&self, weight: Tensor<'g>) -> Result<Tensor<'g>> {
        match weight.ty() {
            GgmlType::F32 => Ok(weight),
            _ => {
                let rows = self.graph.columns(self.indices, 0, weight.ne()[1])?;
                self.graph.get_rows(weight, rows)
            }
        }
    }

    /// Factors of a span: `[len, rank]`.
    fn factor(&self, factors: Tensor<'g>, span: &Span) -> Result<Tensor<'g>> {
        let flat = self
            .graph
            .columns(factors, span.factor_start, span.rank * span.len)?;
        self.graph.reshape(flat, [span.len, span.rank, 1, 1])
    }

    // ---- norms ----

    /// Rows over their size, without weights.
    fn normalized(&self, norm: Norm, x: Tensor<'g>) -> Result<Tensor<'g>> {
        match norm {
            Norm::Rms { eps } => self.graph.rms_norm(x, eps),
            Norm::Layer { eps } => self.graph.layer_norm(x, eps),
        }
    }

    /// The mean of each row: `[1, ...]`.
    fn mean(&self, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let n = x.ne()[0] as f32;
        self.graph.scale(self.graph.sum_rows(x)?, 1.0 / n, 0.0)
    }

    fn normed(&self, loaded: &LoadedNorm<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let y = self.mul(self.normalized(loaded.norm, x)?, loaded.weight)?;
        match loaded.bias {
            Some(bias) => self.add(y, bias),
            None => Ok(y),
        }
    }

    /// The gradient of [`normed`](Self::normed) with respect to `x`, which is contiguous.
    fn normed_backward(
        &self,
        loaded: &LoadedNorm<'g>,
        x: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let graph = self.graph;
        let normal = self.normalized(loaded.norm, x)?;
        let d = self.mul(dy, loaded.weight)?;
        let pull = self.mean(self.mul(d, normal)?)?;
        let mut dx = self.sub(d, self.mul(normal, pull)?)?;
        let (centered, eps) = match loaded.norm {
            Norm::Rms { eps } => (x, eps),
            Norm::Layer { eps } => {
                dx = self.sub(dx, self.mean(d)?)?;
                (self.sub(x, self.mean(x)?)?, eps)
            }
        };
        let square = self.mean(graph.unary(Unary::Square, centered)?)?;
        let size = graph.unary(Unary::Root, graph.scale(square, 1.0, eps)?)?;
        self.div(dx, size)
    }

    /// Queries, keys and values apart: `[width, n]` each, contiguous.
    fn apart(&self, spec: &BlockSpec, qkv: Tensor<'g>) -> Result<[Tensor<'g>; 3]> {
        let (n_q, n_qk, n_qkv) = (spec.n_attn(), spec.n_qk(), spec.n_qkv());
        Ok([
            self.part(qkv, 0, n_q)?,
            self.part(qkv, n_q, n_qk - n_q)?,
            self.part(qkv, n_qk, n_qkv - n_qk)?,
        ])
    }

    /// As rows of so many numbers.
    fn in_rows_of(&self, x: Tensor<'g>, width: usize) -> Result<Tensor<'g>> {
        self.graph.reshape(x, [width, x.n_elements() / width, 1, 1])
    }

    // ---- rotation ----

    /// Queries and keys turned, or turned back.
    fn turned(
        &self,
        spec: &BlockSpec,
        qkv: Tensor<'g>,
        tables: RopeTables<'g, 'a>,
        back: bool,
    ) -> Result<Tensor<'g>> {
        let (n_qk, n_qkv) = (spec.n_qk(), spec.n_qkv());
        let (head_dim, n) = (spec.head_dim, self.n_tokens);
        let heads = self.part(qkv, 0, n_qk)?;
        let heads = self
            .graph
            .reshape(heads, [head_dim, n_qk / head_dim, n, 1])?;
        let RopeTables {
            rope,
            tables: [positions, factors],
        } = tables;
        let rotation = Rotation {
            n_dims: rope.n_dims,
            halves: rope.kind == RopeKind::Halves,
            base: BASE,
            magnitude: rope.magnitude,
            back,
        };
        let heads = self.graph.rope(heads, positions, factors, rotation)?;
        let heads = self.graph.reshape(heads, [n_qk, n, 1, 1])?;
        self.stacked([heads, self.part(qkv, n_qk, n_qkv - n_qk)?])
    }

    // ---- activations ----

    /// Gate and up, contiguous.
    fn gate_and_up(&self, gate_up: Tensor<'g>) -> Result<[Tensor<'g>; 2]> {
        let gate_up = self.graph.to_f32(gate_up)?;
        let n_ff = gate_up.ne()[0] / 2;
        Ok([
            self.part(gate_up, 0, n_ff)?,
            self.part(gate_up, n_ff, n_ff)?,
        ])
    }

    /// The tangent in GELU's approximation, and the slope of what it is taken of.
    fn gelu_tangent(&self, x: Tensor<'g>) -> Result<[Tensor<'g>; 2]> {
        const ROOT: f32 = GeGlu::ROOT;
        const CUBIC: f32 = GeGlu::CUBIC;
        let graph = self.graph;
        let square = graph.unary(Unary::Square, x)?;
        let inner = self.mul(x, graph.scale(square, ROOT * CUBIC, ROOT)?)?;
        let slope = graph.scale(square, 3.0 * ROOT * CUBIC, ROOT)?;
        Ok([graph.unary(Unary::Tanh, inner)?, slope])
    }
}

impl<'g, 'a: 'g> Fragments<'g, 'a> for Portable<'g, 'a> {
    fn graph(&self) -> &'g Graph<'a> {
        self.graph
    }

    fn project(&self, weights: &Weights<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        if let Some([forward, _]) = weights.kept {
            return self.graph.mul_mat(forward, x);
        }
        let product = |weight| self.graph.mul_mat(self.plain(weight)?, x);
        let parts = weights.parts.iter().map(|weight| product(*weight));
        self.stacked(parts.collect::<Result<Vec<_>>>()?)
    }

    fn project_backward(&self, weights: &Weights<'g>, dy: Tensor<'g>) -> Result<Tensor<'g>> {
        if let Some([_, backward]) = weights.kept {
            return self.graph.mul_mat(backward, dy);
        }
        let mut start = 0;
        let mut sum = None;
        for weight in &weights.parts {
            let n_out = weight.ne()[1];
            let dy = self.part(dy, start, n_out)?;
            let dx = self
                .graph
                .mul_mat(self.transposed(self.plain(*weight)?)?, dy)?;
            sum = Some(match sum {
                None => dx,
                Some(sum) => self.add(sum, dx)?,
            });
            start += n_out;
        }
        Ok(sum.expect("a weight"))
    }

    /// On the CPU: which elements are dropped follows from their places, by arithmetic on integers.
    fn dropped(&self, x: Tensor<'g>, dropout: Option<Dropout>) -> Result<Tensor<'g>> {
        let custom = Builder {
            graph: self.graph,
            scratch: Scratch::Rows(GgmlType::F32),
            n_tokens: self.n_tokens,
        };
        custom.dropped(x, dropout)
    }

    fn thin(
        &self,
        x: Tensor<'g>,
        factors: Tensor<'g>,
        spans: &[Span],
        scale: f32,
    ) -> Result<Tensor<'g>> {
        let parts = spans.iter().map(|span| {
            let x = self.part(x, span.start, span.len)?;
            self.graph.mul_mat(self.factor(factors, span)?, x)
        });
        let t = self.stacked(parts.collect::<Result<Vec<_>>>()?)?;
        self.graph.scale(t, scale, 0.0)
    }

    fn add_expanded(
        &self,
        y: Tensor<'g>,
        t: Tensor<'g>,
        factors: Tensor<'g>,
        spans: &[Span],
        dropout: Option<Dropout>,
    ) -> Result<Tensor<'g>> {
        let expanded = |span: &Span| {
            let factor = self.transposed(self.factor(factors, span)?)?;
            let t = self.part(t, span.rank_start, span.rank)?;
            self.dropped(self.graph.mul_mat(factor, t)?, dropout)
        };
        // Spans come in the order of columns: where they leave none out, what they add is added at once.
        if spans.iter().map(|span| span.len).sum::<usize>() == y.ne()[0] {
            let parts = spans.iter().map(expanded).collect::<Result<Vec<_>>>()?;
            return self.add(y, self.stacked(parts)?);
        }
        spans.iter().try_fold(y, |y, span| {
            self.add_to_columns(y, span.start, expanded(span)?)
        })
    }

    fn factor_gradients(&self, t: Tensor<'g>, x: Tensor<'g>, spans: &[Span]) -> Result<Tensor<'g>> {
        let parts = spans.iter().map(|span| {
            let x = self.transposed(self.part(x, span.start, span.len)?)?;
            let t = self.transposed(self.part(t, span.rank_start, span.rank)?)?;
            let product = self.graph.mul_mat(x, t)?;
            self.graph.reshape(product, [product.n_elements(), 1, 1, 1])
        });
        self.stacked(parts.collect::<Result<Vec<_>>>()?)
    }

    fn norm(&self, norm: &LoadedNorm<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        self.normed(norm, x)
    }

    fn norm_backward(
        &self,
        norm: &LoadedNorm<'g>,
        x: Tensor<'g>,
        dy: Tensor<'g>,
        residual: Option<Tensor<'g>>,
    ) -> Result<Tensor<'g>> {
        let dx = self.normed_backward(norm, x, dy)?;
        match residual {
            Some(residual) => self.add(residual, dx),
            None => Ok(dx),
        }
    }

    fn norm_heads(
        &self,
        spec: &BlockSpec,
        norms: &[LoadedNorm<'g>; 2],
        qkv: Tensor<'g>,
        rope: Option<RopeTables<'g, 'a>>,
    ) -> Result<Tensor<'g>> {
        let [q, k, v] = self.apart(spec, qkv)?;
        let mut parts = Vec::new();
        for (norm, x) in norms.iter().zip([q, k]) {
            let rows = self.in_rows_of(x, norm.weight.ne()[0])?;
            parts.push(self.in_rows_of(self.normed(norm, rows)?, x.ne()[0])?);
        }
        let qkv = self.stacked([parts[0], parts[1], v])?;
        match rope {
            Some(tables) => self.turned(spec, qkv, tables, false),
            None => Ok(qkv),
        }
    }

    fn norm_heads_backward(
        &self,
        spec: &BlockSpec,
        norms: &[LoadedNorm<'g>; 2],
        qkv: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let [q, k, _] = self.apart(spec, qkv)?;
        let [dq, dk, dv] = self.apart(spec, dy)?;
        let mut parts = Vec::new();
        for (norm, (x, dy)) in norms.iter().zip([(q, dq), (k, dk)]) {
            let width = norm.weight.ne()[0];
            let (rows, dy) = (self.in_rows_of(x, width)?, self.in_rows_of(dy, width)?);
            parts.push(self.in_rows_of(self.normed_backward(norm, rows, dy)?, x.ne()[0])?);
        }
        self.stacked([parts[0], parts[1], dv])
    }

    fn scaled(&self, x: Tensor<'g>, factor: f32) -> Result<Tensor<'g>> {
        match factor {
            1.0 => Ok(x),
            _ => self.graph.scale(x, factor, 0.0),
        }
    }

    fn capped(&self, x: Tensor<'g>, cap: Option<f32>) -> Result<Tensor<'g>> {
        let Some(cap) = cap else { return Ok(x) };
        let inner = self.graph.scale(x, 1.0 / cap, 0.0)?;
        self.graph
            .scale(self.graph.unary(Unary::Tanh, inner)?, cap, 0.0)
    }

    fn epilogue(
        &self,
        y: Tensor<'g>,
        biases: &[(usize, Tensor<'g>)],
        residual: Option<(Tensor<'g>, f32)>,
        rope: Option<(&BlockSpec, RopeTables<'g, 'a>)>,
    ) -> Result<Tensor<'g>> {
        let mut y = y;
        for (start, bias) in biases {
            y = self.add_to_columns(y, *start, *bias)?;
        }
        if let Some((residual, factor)) = residual {
            y = self.add(self.scaled(y, factor)?, residual)?;
        }
        match rope {
            Some((spec, tables)) => self.turned(spec, y, tables, false),
            None => Ok(y),
        }
    }

    fn activation(&self, kind: Activation, gate_up: Tensor<'g>) -> Result<Tensor<'g>> {
        let graph = self.graph;
        let [gate, up] = self.gate_and_up(gate_up)?;
        let gated = match kind {
            Activation::SwiGlu => graph.unary(Unary::Silu, gate)?,
            Activation::GeGlu => {
                let [tangent, _] = self.gelu_tangent(gate)?;
                self.mul(gate, graph.scale(tangent, 0.5, 0.5)?)?
            }
        };
        self.mul(gated, up)
    }

    fn activation_backward(
        &self,
        kind: Activation,
        gate_up: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let graph = self.graph;
        let [gate, up] = self.gate_and_up(gate_up)?;
        let by_up = self.mul(dy, up)?;
        let [d_gate, gated] = match kind {
            Activation::SwiGlu => [
                graph.silu_back(by_up, gate)?,
                graph.unary(Unary::Silu, gate)?,
            ],
            Activation::GeGlu => {
                let [tangent, inner_slope] = self.gelu_tangent(gate)?;
                let half = graph.scale(tangent, 0.5, 0.5)?;
                // 1 - tanh^2
                let rest = graph.scale(graph.unary(Unary::Square, tangent)?, -0.5, 0.5)?;
                let bend = self.mul(self.mul(gate, rest)?, inner_slope)?;
                [
                    self.mul(by_up, self.add(half, bend)?)?,
                    self.mul(gate, half)?,
                ]
            }
        };
        self.stacked([d_gate, self.mul(dy, gated)?])
    }

    fn rope_tables(
        &self,
        rope: &'a Rope,
        storage: &'a Storage,
        [positions, factors]: [TensorId; 2],
    ) -> Result<RopeTables<'g, 'a>> {
        let positions = self.graph.load(storage, positions)?;
        let tables = [
            self.graph.columns(positions, 0, self.n_tokens)?,
            self.graph.load(storage, factors)?,
        ];
        Ok(RopeTables { rope, tables })
    }

    fn attention(
        &self,
        geometry: &'a Attention,
        qkv: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Option<Tensor<'g>>)> {
        Ok((self.attend(geometry.scoring(), qkv)?, None))
    }

    fn attention_backward(
        &self,
        geometry: &'a Attention,
        qkv: Tensor<'g>,
        _attn: Tensor<'g>,
        _lse: Tensor<'g>,
        d_attn: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)> {
        self.attend_backward(geometry.scoring(), qkv, d_attn)
    }

    fn join_qkv_gradients(
        &self,
        spec: &BlockSpec,
        dq: Tensor<'g>,
        dkv: Tensor<'g>,
        rope: Option<RopeTables<'g, 'a>>,
    ) -> Result<Tensor<'g>> {
        let joined = self.stacked([dq, dkv])?;
        match rope {
            Some(tables) => self.turned(spec, joined, tables, true),
            None => Ok(joined),
        }
    }
}
