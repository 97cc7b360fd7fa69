//! Attention out of products and softmax, a share of the queries at a time: scores of all of them would be quadratic in memory.

use std::ops::Range;

use thumbprint_ggml::ggml::{Tensor, Unary};

use super::super::fragments::Result;
use super::super::kernels::attention::Scoring;
use super::Portable;

/// Most scores that exist at once, of all heads.
const SCORES: usize = 1 << 24;

/// Queries that are worked on together.
fn share(n_head: usize, n_tokens: usize) -> usize {
    (SCORES / (n_head * n_tokens).max(1)).clamp(1, n_tokens.max(1))
}

/// How often so many are needed.
pub fn shares(n_head: usize, n_tokens: usize) -> usize {
    n_tokens.div_ceil(share(n_head, n_tokens))
}

/// Keys and values of all tokens, `[head_dim, n, n_head_kv]`, and queries `[head_dim, n, n_head]`.
struct Heads<'g> {
    q: Tensor<'g>,
    k: Tensor<'g>,
    v: Tensor<'g>,
}

/// Scores of some queries, `[n, n_queries, n_head]`.
struct Scores<'g> {
    /// After the cap, if there is one, else scores without their factor.
    raw: Tensor<'g>,
    /// Their softmax.
    p: Tensor<'g>,
}

impl<'g, 'a: 'g> Portable<'g, 'a> {
    /// The output, `[n_attn, n]`.
    pub(super) fn attend(&self, scoring: Scoring, qkv: Tensor<'g>) -> Result<Tensor<'g>> {
        let heads = self.heads(scoring, qkv)?;
        let v = self.transposed(heads.v)?;
        let mut all = None;
        for queries in self.shares(scoring) {
            let scores = self.scores(scoring, &heads, queries)?;
            let out = self.side_by_side(self.graph.mul_mat(v, scores.p)?)?;
            all = Some(match all {
                None => out,
                Some(before) => self.graph.concat(before, out, 1)?,
            });
        }
        Ok(all.expect("a share"))
    }

    /// Gradients of queries `[n_attn, n]`, and of keys and values side by side.
    pub(super) fn attend_backward(
        &self,
        scoring: Scoring,
        qkv: Tensor<'g>,
        d_attn: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)> {
        let heads = self.heads(scoring, qkv)?;
        let keys = self.transposed(heads.k)?;
        let d_out = self.head_by_head(d_attn, scoring.n_head, scoring.head_dim)?;
        let (mut dq, mut dk, mut dv) = (None, None, None);
        for queries in self.shares(scoring) {
            let Scores { raw, p } = self.scores(scoring, &heads, queries.clone())?;
            let d_out = self.some(d_out, &queries)?;
            let dp = self.graph.mul_mat(heads.v, d_out)?;
            let weighted = self.mul(p, dp)?;
            let pull = self.mul(p, self.graph.sum_rows(weighted)?)?;
            let mut ds = self.sub(weighted, pull)?;
            if let Some(cap) = scoring.cap {
                let relative = self.graph.scale(raw, 1.0 / cap, 0.0)?;
                let square = self.graph.unary(Unary::Square, relative)?;
                ds = self.mul(ds, self.graph.scale(square, -1.0, 1.0)?)?;
            }
            let ds = self.graph.scale(ds, scoring.scale, 0.0)?;

            let of_queries = self.side_by_side(self.graph.mul_mat(keys, ds)?)?;
            let q = self.some(heads.q, &queries)?;
            let of_keys = self.over_queries(scoring, q, ds)?;
            let of_values = self.over_queries(scoring, d_out, p)?;
            dq = Some(match dq {
                None => of_queries,
                Some(before) => self.graph.concat(before, of_queries, 1)?,
            });
            dk = Some(self.added(dk, of_keys)?);
            dv = Some(self.added(dv, of_values)?);
        }
        let [dk, dv] = [dk, dv].map(|d| d.expect("a share"));
        let dkv = self.stacked([self.side_by_side(dk)?, self.side_by_side(dv)?])?;
        Ok((dq.expect("a share"), dkv))
    }

    fn shares(&self, scoring: Scoring) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.n_tokens;
        let share = share(scoring.n_head, n);
        (0..n)
            .step_by(share)
            .map(move |start| start..n.min(start + share))
    }

    fn heads(&self, scoring: Scoring, qkv: Tensor<'g>) -> Result<Heads<'g>> {
        let qkv = self.graph.to_f32(qkv)?;
        let d = scoring.head_dim;
        let (n_q, n_kv) = (scoring.n_head * d, scoring.n_head_kv * d);
        let part =
            |start, n_heads| self.head_by_head(self.part(qkv, start, n_heads * d)?, n_heads, d);
        Ok(Heads {
            q: part(0, scoring.n_head)?,
            k: part(n_q, scoring.n_head_kv)?,
            v: part(n_q + n_kv, scoring.n_head_kv)?,
        })
    }

    /// `[n_heads * head_dim, n]` as `[head_dim, n, n_heads]`.
    fn head_by_head(&self, x: Tensor<'g>, n_heads: usize, head_dim: usize) -> Result<Tensor<'g>> {
        let heads = [head_dim, n_heads, x.ne()[1], 1];
        let heads = self.graph.reshape(self.graph.cont(x)?, heads)?;
        self.graph.cont(self.graph.permute(heads, [0, 2, 1, 3])?)
    }

    /// `[head_dim, n, n_heads]` as `[n_heads * head_dim, n]`.
    fn side_by_side(&self, heads: Tensor<'g>) -> Result<Tensor<'g>> {
        let [d, n, n_heads, _] = heads.ne();
        let tokens = self.graph.cont(self.graph.permute(heads, [0, 2, 1, 3])?)?;
        self.graph.reshape(tokens, [d * n_heads, n, 1, 1])
    }

    /// Some of the tokens of `[head_dim, n, n_heads]`.
    fn some(&self, heads: Tensor<'g>, tokens: &Range<usize>) -> Result<Tensor<'g>> {
        let ([d, n, n_heads, _], nb) = (heads.ne(), heads.nb());
        if *tokens == (0..n) {
            return Ok(heads);
        }
        let ne = [d, tokens.len(), n_heads, 1];
        let view = self
            .graph
            .view(heads, ne, [nb[1], nb[2], nb[3]], tokens.start * nb[1])?;
        self.graph.cont(view)
    }

    fn scores(
        &self,
        scoring: Scoring,
        heads: &Heads<'g>,
        queries: Range<usize>,
    ) -> Result<Scores<'g>> {
        let graph = self.graph;
        let products = graph.mul_mat(heads.k, self.some(heads.q, &queries)?)?;
        let mask = graph.rows(self.mask, queries.start, queries.len())?;
        let (raw, scale) = match scoring.cap {
            None => (products, scoring.scale),
            Some(cap) => {
                let relative = graph.scale(products, scoring.scale / cap, 0.0)?;
                let tangent = graph.unary(Unary::Tanh, relative)?;
                (graph.scale(tangent, cap, 0.0)?, 1.0)
            }
        };
        let p = graph.soft_max(raw, Some(mask), scale)?;
        Ok(Scores { raw, p })
    }

    /// Sums over queries and over the heads that share keys: `x` `[head_dim, n_queries, n_head]` times weights
    /// `[n, n_queries, n_head]`, as `[head_dim, n, n_head_kv]`.
    fn over_queries(
        &self,
        scoring: Scoring,
        x: Tensor<'g>,
        weights: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let group = scoring.n_head / scoring.n_head_kv;
        let folded = |t: Tensor<'g>| {
            let [width, n, ..] = t.ne();
            let ne = [width, n * group, scoring.n_head_kv, 1];
            self.transposed(self.graph.reshape(t, ne)?)
        };
        self.graph.mul_mat(folded(x)?, folded(weights)?)
    }

    fn added(&self, before: Option<Tensor<'g>>, more: Tensor<'g>) -> Result<Tensor<'g>> {
        match before {
            None => Ok(more),
            Some(before) => self.add(before, more),
        }
    }
}
