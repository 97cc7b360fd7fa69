//! Causal grouped-query attention over packed sequences, forward and backward, in memory linear in tokens.
//!
//! Scores exist only for one tile of queries and keys at a time; the backward pass recomputes them from the saved log-sum-exp
//! (Dao et al. 2022). Masks are never stored: which keys a token sees follows from its [`Segment`].

use std::ops::Range;

use thumbprint_ggml::ggml::custom::View;
use thumbprint_ggml::math::exp;

use super::element::Element;
use super::gemm::{LANES, Mat, dot, gemm};
use super::n_processors;
use super::rows::{cap_slope, capped};

/// Consecutive tokens that attend causally to one another and fully to an earlier range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The tokens.
    pub tokens: Range<usize>,
    /// The tokens before the segment that all of it sees: another whole segment (the prompt), or nothing.
    pub prefix: Range<usize>,
}

/// What a query makes of the keys before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; divides `n_head`.
    pub n_head_kv: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Scores `s` become `cap * tanh(s / cap)`.
    pub cap: Option<f32>,
    /// How many positions back a query sees, its own included; all if none.
    pub window: Option<usize>,
}

/// Keys or queries that pass by a block together.
#[derive(Debug, Clone)]
struct Tile {
    tokens: Range<usize>,
    /// A query at row `q` is `q - k + shift` positions after a key at row `k`.
    shift: isize,
}

/// Tokens of one segment that are worked on together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    segment: usize,
    tokens: Range<usize>,
}

/// Tokens of a block of queries, and of keys: the second number where there are enough of them for all processors, since what passes by
/// is packed once a block. What comes out does not depend on it.
const BLOCKS: [usize; 2] = [32, 64];
/// Keys (or, for key gradients, queries) that pass by a block at a time.
const TILE: usize = 64;

/// The geometry of one attention operation.
#[derive(Debug, Clone)]
pub struct Attention {
    scoring: Scoring,
    segments: Vec<Segment>,
    blocks: Vec<Block>,
}

impl Attention {
    /// The segments must cover the tokens in order.
    pub fn new(scoring: Scoring, segments: &[Segment]) -> Self {
        let n_tokens = segments.last().map_or(0, |segment| segment.tokens.end);
        let enough = n_tokens >= 2 * BLOCKS[1] * n_processors();
        Self::in_blocks(scoring, segments, BLOCKS[usize::from(enough)])
    }

    /// The same in blocks of so many tokens.
    pub(super) fn in_blocks(scoring: Scoring, segments: &[Segment], block: usize) -> Self {
        let blocks = segments
            .iter()
            .enumerate()
            .flat_map(|(segment, s)| {
                let end = s.tokens.end;
                let starts = s.tokens.clone().step_by(block);
                starts.map(move |start| Block {
                    segment,
                    tokens: start..(start + block).min(end),
                })
            })
            .collect();
        Self {
            scoring,
            segments: segments.to_vec(),
            blocks,
        }
    }

    /// What a query makes of its keys.
    pub fn scoring(&self) -> Scoring {
        self.scoring
    }

    /// Width of the output.
    pub fn n_attn(&self) -> usize {
        self.scoring.n_head * self.scoring.head_dim
    }

    /// The keys that each query sees, in two ranges: of its prefix and of its own segment.
    pub fn seen(&self) -> Vec<[Range<usize>; 2]> {
        let window = self.scoring.window.unwrap_or(usize::MAX);
        let of_segment = |Segment { tokens, prefix }: &Segment| {
            let (start, prefix) = (tokens.start, prefix.clone());
            tokens.clone().map(move |query| {
                // The nearest keys count first.
                let own = (query + 1 - start).min(window);
                let before = prefix.len().min(window - own);
                [prefix.end - before..prefix.end, query + 1 - own..query + 1]
            })
        };
        self.segments.iter().flat_map(of_segment).collect()
    }

    /// Number of units of work.
    pub fn n_units(&self) -> usize {
        self.blocks.len()
    }

    /// Offsets, in elements, of each unit's rows in an output of `row` elements a token.
    pub fn unit_offsets(&self, row: usize) -> Vec<usize> {
        let ends = self.blocks.iter().map(|block| block.tokens.end * row);
        std::iter::once(0).chain(ends).collect()
    }

    /// Computes unit `unit`: `out` receives its rows of the attention's output `[n_tokens, n_head * head_dim]`, `lse` the
    /// log-sum-exp of its scores `[n_tokens, n_head]`. `qkv` holds a token's queries, keys and values side by side.
    pub fn forward<T: Element>(
        &self,
        unit: usize,
        qkv: View<'_, T>,
        out: &mut [f32],
        lse: &mut [f32],
    ) {
        let block = &self.blocks[unit];
        let Scoring {
            n_head,
            n_head_kv,
            head_dim: d,
            scale,
            cap,
            ..
        } = self.scoring;
        let group = n_head / n_head_kv;
        let (rows, wide) = (group * block.tokens.len(), d.next_multiple_of(LANES));
        let mut q = vec![0.0; rows * d];
        let mut k_t = vec![0.0; d * TILE];
        let mut v = vec![0.0; TILE * wide];
        let mut s = vec![0.0; rows * TILE];
        let mut o = vec![0.0; rows * wide];
        for kv in 0..n_head_kv {
            self.pack_queries(block, kv, scale, &mut q, |token, column| {
                &qkv.row(token)[column..column + d]
            });
            o.fill(0.0);
            let mut max = vec![f32::NEG_INFINITY; rows];
            let mut sum = vec![0.0f32; rows];
            for keys in self.keys_of(block) {
                let tokens = &keys.tokens;
                pack_transposed(&qkv, tokens, self.key_column(kv), d, TILE, &mut k_t);
                pack_rows(&qkv, tokens, self.value_column(kv), d, wide, &mut v);
                s.fill(0.0);
                gemm(rows, TILE, d, mat(&q, d), mat(&k_t, TILE), &mut s, TILE);
                for row in 0..rows {
                    let scores = &mut s[row * TILE..(row + 1) * TILE];
                    let seen = self.seen_keys(block, row, &keys);
                    hide(scores, &seen);
                    let seen = &mut scores[seen];
                    if let Some(cap) = cap {
                        seen.iter_mut().for_each(|x| *x = capped(*x, cap));
                    }
                    let new_max = seen.iter().copied().fold(max[row], f32::max);
                    if new_max == f32::NEG_INFINITY {
                        continue;
                    }
                    seen.iter_mut().for_each(|x| *x = exp(*x - new_max));
                    let shrink = exp(max[row] - new_max);
                    sum[row] = sum[row] * shrink + seen.iter().sum::<f32>();
                    if shrink != 1.0 {
                        o[row * wide..(row + 1) * wide]
                            .iter_mut()
                            .for_each(|x| *x *= shrink);
                    }
                    max[row] = new_max;
                }
                gemm(
                    rows,
                    wide,
                    tokens.len(),
                    mat(&s, TILE),
                    mat(&v, wide),
                    &mut o,
                    wide,
                );
            }
            for row in 0..rows {
                let (token, head) = self.place(block, kv, row);
                let target = &mut out[(token * n_head + head) * d..][..d];
                for (to, from) in target.iter_mut().zip(&o[row * wide..]) {
                    *to = from / sum[row];
                }
                lse[token * n_head + head] = max[row] + sum[row].ln();
            }
        }
    }

    /// The gradient of queries for unit `unit`: `dq` `[n_tokens, n_head * head_dim]`, and `delta` `[n_tokens, n_head]`, the
    /// inner products of outputs and their gradients that [`backward_keys`](Self::backward_keys) needs.
    pub fn backward_queries<T: Element>(
        &self,
        unit: usize,
        qkv: View<'_, T>,
        output: View<'_, T>,
        d_output: View<'_, f32>,
        lse: View<'_, f32>,
        (dq_out, delta_out): (&mut [f32], &mut [f32]),
    ) {
        let block = &self.blocks[unit];
        let Scoring {
            n_head,
            n_head_kv,
            head_dim: d,
            scale,
            cap,
            ..
        } = self.scoring;
        let group = n_head / n_head_kv;
        let (rows, wide) = (group * block.tokens.len(), d.next_multiple_of(LANES));
        let mut q = vec![0.0; rows * d];
        let mut d_o = vec![0.0; rows * d];
        let mut o = vec![0.0; d];
        let mut k_t = vec![0.0; d * TILE];
        let mut v_t = vec![0.0; d * TILE];
        let mut k = vec![0.0; TILE * wide];
        let mut s = vec![0.0; rows * TILE];
        let mut dp = vec![0.0; rows * TILE];
        let mut dq = vec![0.0; rows * wide];
        let mut delta = vec![0.0; rows];
        for kv in 0..n_head_kv {
            self.pack_queries(block, kv, scale, &mut q, |token, column| {
                &qkv.row(token)[column..column + d]
            });
            self.pack_queries(block, kv, 1.0, &mut d_o, |token, column| {
                &d_output.row(token)[column..column + d]
            });
            for row in 0..rows {
                let (token, head) = self.place(block, kv, row);
                let token = token + block.tokens.start;
                T::widen(&output.row(token)[head * d..(head + 1) * d], &mut o);
                delta[row] = dot(&o, &d_o[row * d..(row + 1) * d]);
            }
            dq.fill(0.0);
            for keys in self.keys_of(block) {
                let tokens = &keys.tokens;
                pack_transposed(&qkv, tokens, self.key_column(kv), d, TILE, &mut k_t);
                pack_transposed(&qkv, tokens, self.value_column(kv), d, TILE, &mut v_t);
                pack_rows(&qkv, tokens, self.key_column(kv), d, wide, &mut k);
                s.fill(0.0);
                dp.fill(0.0);
                gemm(rows, TILE, d, mat(&q, d), mat(&k_t, TILE), &mut s, TILE);
                gemm(rows, TILE, d, mat(&d_o, d), mat(&v_t, TILE), &mut dp, TILE);
                for row in 0..rows {
                    let (token, head) = self.place(block, kv, row);
                    let lse = lse.row(block.tokens.start + token)[head];
                    let scores = &mut s[row * TILE..(row + 1) * TILE];
                    let dp = &dp[row * TILE..(row + 1) * TILE];
                    let delta = delta[row];
                    match cap {
                        None => scores.iter_mut().zip(dp).for_each(|(s, dp)| {
                            *s = exp(*s - lse) * (dp - delta) * scale;
                        }),
                        Some(cap) => scores.iter_mut().zip(dp).for_each(|(s, dp)| {
                            let y = capped(*s, cap);
                            *s = exp(y - lse) * (dp - delta) * scale * cap_slope(y, cap);
                        }),
                    }
                    hide(scores, &self.seen_keys(block, row, &keys));
                }
                gemm(
                    rows,
                    wide,
                    tokens.len(),
                    mat(&s, TILE),
                    mat(&k, wide),
                    &mut dq,
                    wide,
                );
            }
            for row in 0..rows {
                let (token, head) = self.place(block, kv, row);
                let target = &mut dq_out[(token * n_head + head) * d..][..d];
                target.copy_from_slice(&dq[row * wide..row * wide + d]);
                delta_out[token * n_head + head] = delta[row];
            }
        }
    }

    /// The gradients of keys and values for unit `unit`, side by side: `[n_tokens, 2 * n_head_kv * head_dim]`.
    pub fn backward_keys<T: Element>(
        &self,
        unit: usize,
        qkv: View<'_, T>,
        d_output: View<'_, f32>,
        lse: View<'_, f32>,
        delta: View<'_, f32>,
        out: &mut [f32],
    ) {
        let block = &self.blocks[unit];
        let Scoring {
            n_head,
            n_head_kv,
            head_dim: d,
            scale,
            cap,
            ..
        } = self.scoring;
        let group = n_head / n_head_kv;
        let (keys, wide) = (block.tokens.len(), d.next_multiple_of(LANES));
        let mut k = vec![0.0; keys * d];
        let mut v = vec![0.0; keys * d];
        let mut q_t = vec![0.0; d * TILE];
        let mut do_t = vec![0.0; d * TILE];
        let mut q = vec![0.0; TILE * wide];
        let mut d_o = vec![0.0; TILE * wide];
        let mut s = vec![0.0; keys * TILE];
        let mut dp = vec![0.0; keys * TILE];
        let mut dk = vec![0.0; keys * wide];
        let mut dv = vec![0.0; keys * wide];
        let tiles = self.queries_of(block);
        let mut lse_row = [0.0; TILE];
        let mut delta_row = [0.0; TILE];
        for kv in 0..n_head_kv {
            pack_rows(&qkv, &block.tokens, self.key_column(kv), d, d, &mut k);
            pack_rows(&qkv, &block.tokens, self.value_column(kv), d, d, &mut v);
            dk.fill(0.0);
            dv.fill(0.0);
            for head in kv * group..(kv + 1) * group {
                for tile in &tiles {
                    let queries = &tile.tokens;
                    pack_transposed(&qkv, queries, head * d, d, TILE, &mut q_t);
                    pack_transposed(&d_output, queries, head * d, d, TILE, &mut do_t);
                    pack_rows(&qkv, queries, head * d, d, wide, &mut q);
                    pack_rows(&d_output, queries, head * d, d, wide, &mut d_o);
                    for (i, token) in queries.clone().enumerate() {
                        lse_row[i] = lse.row(token)[head];
                        delta_row[i] = delta.row(token)[head];
                    }
                    s.fill(0.0);
                    dp.fill(0.0);
                    gemm(keys, TILE, d, mat(&k, d), mat(&q_t, TILE), &mut s, TILE);
                    gemm(keys, TILE, d, mat(&v, d), mat(&do_t, TILE), &mut dp, TILE);
                    for row in 0..keys {
                        let seen = self.seen_queries(block.tokens.start + row, tile);
                        let s = &mut s[row * TILE..(row + 1) * TILE];
                        let dp = &mut dp[row * TILE..(row + 1) * TILE];
                        for i in 0..TILE {
                            let (y, slope) = match cap {
                                None => (s[i] * scale, scale),
                                Some(cap) => {
                                    let y = capped(s[i] * scale, cap);
                                    (y, scale * cap_slope(y, cap))
                                }
                            };
                            let p = exp(y - lse_row[i]);
                            dp[i] = p * (dp[i] - delta_row[i]) * slope;
                            s[i] = p;
                        }
                        hide(s, &seen);
                        hide(dp, &seen);
                    }
                    gemm(
                        keys,
                        wide,
                        queries.len(),
                        mat(&s, TILE),
                        mat(&d_o, wide),
                        &mut dv,
                        wide,
                    );
                    gemm(
                        keys,
                        wide,
                        queries.len(),
                        mat(&dp, TILE),
                        mat(&q, wide),
                        &mut dk,
                        wide,
                    );
                }
            }
            let width = 2 * n_head_kv * d;
            for row in 0..keys {
                let out = &mut out[row * width..(row + 1) * width];
                out[kv * d..(kv + 1) * d].copy_from_slice(&dk[row * wide..row * wide + d]);
                let values = (n_head_kv + kv) * d;
                out[values..values + d].copy_from_slice(&dv[row * wide..row * wide + d]);
            }
        }
    }

    fn key_column(&self, kv: usize) -> usize {
        (self.scoring.n_head + kv) * self.scoring.head_dim
    }

    fn value_column(&self, kv: usize) -> usize {
        (self.scoring.n_head + self.scoring.n_head_kv + kv) * self.scoring.head_dim
    }

    /// A tile's row as a token of the block and a query head: the heads of a group lie one after another.
    fn place(&self, block: &Block, kv: usize, row: usize) -> (usize, usize) {
        let tokens = block.tokens.len();
        let group = self.scoring.n_head / self.scoring.n_head_kv;
        (row % tokens, kv * group + row / tokens)
    }

    /// Which keys of a tile a row of the block sees.
    fn seen_keys(&self, block: &Block, row: usize, keys: &Tile) -> Range<usize> {
        let query = (block.tokens.start + row % block.tokens.len()) as isize + keys.shift;
        keys.within(query - self.reach() + 1, query + 1)
    }

    /// Which queries of a tile see the key in a row.
    fn seen_queries(&self, key: usize, queries: &Tile) -> Range<usize> {
        let first = key as isize - queries.shift;
        queries.within(first, first + self.reach())
    }

    /// Positions that a query sees.
    fn reach(&self) -> isize {
        // Far from where sums overflow.
        let all = isize::MAX / 4;
        self.scoring.window.map_or(all, |n| (n as isize).min(all))
    }

    /// Tiles of keys that some token of the block sees: in its segment's prefix, then in its own segment up to itself.
    fn keys_of(&self, block: &Block) -> Vec<Tile> {
        let segment = &self.segments[block.segment];
        let own = segment.tokens.start..block.tokens.end;
        tiles(&segment.prefix, segment.shift())
            .chain(tiles(&own, 0))
            .filter(|keys| self.sees(&block.tokens, keys, &keys.tokens))
            .collect()
    }

    /// Tiles of queries some of which see keys of the block.
    fn queries_of(&self, block: &Block) -> Vec<Tile> {
        let own = block.tokens.start..self.segments[block.segment].tokens.end;
        let after = self
            .segments
            .iter()
            .filter(|other| other.prefix.contains(&block.tokens.start));
        tiles(&own, 0)
            .chain(after.flat_map(|other| tiles(&other.tokens, other.shift())))
            .filter(|queries| self.sees(&queries.tokens, queries, &block.tokens))
            .collect()
    }

    /// Whether the window of the first query reaches back to the last key.
    fn sees(&self, queries: &Range<usize>, tile: &Tile, keys: &Range<usize>) -> bool {
        let distance = queries.start as isize - (keys.end as isize - 1) + tile.shift;
        distance < self.reach()
    }

    fn pack_queries<'a, T: Element + 'a>(
        &self,
        block: &Block,
        kv: usize,
        scale: f32,
        tile: &mut [f32],
        row_of: impl Fn(usize, usize) -> &'a [T],
    ) {
        let d = self.scoring.head_dim;
        for (row, to) in tile.chunks_exact_mut(d).enumerate() {
            let (token, head) = self.place(block, kv, row);
            T::widen(row_of(block.tokens.start + token, head * d), to);
            if scale != 1.0 {
                to.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }
}

impl Segment {
    /// The [`shift`](Tile::shift) between the segment's queries and its prefix's keys.
    fn shift(&self) -> isize {
        self.prefix.end as isize - self.tokens.start as isize
    }
}

impl Tile {
    /// The rows of the tile from `first` to `end`, counted from the tile's first.
    fn within(&self, first: isize, end: isize) -> Range<usize> {
        let n = self.tokens.len() as isize;
        let relative = |row: isize| (row - self.tokens.start as isize).clamp(0, n) as usize;
        relative(first)..relative(end)
    }
}

fn tiles(range: &Range<usize>, shift: isize) -> impl Iterator<Item = Tile> + use<> {
    let (start, end) = (range.start, range.end);
    (start..end).step_by(TILE).map(move |at| Tile {
        tokens: at..(at + TILE).min(end),
        shift,
    })
}

/// Masks all of a row of scores but what is seen.
fn hide(scores: &mut [f32], seen: &Range<usize>) {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
}

fn mat(data: &[f32], stride: usize) -> Mat<'_> {
    Mat { data, stride }
}

/// Columns `column .. column + d` of some rows, one row after another, `stride` elements apart.
fn pack_rows<T: Element>(
    source: &View<'_, T>,
    rows: &Range<usize>,
    column: usize,
    d: usize,
    stride: usize,
    tile: &mut [f32],
) {
    for (to, row) in tile.chunks_exact_mut(stride).zip(rows.clone()) {
        T::widen(&source.row(row)[column..column + d], &mut to[..d]);
    }
}

/// The same transposed: `tile[i * stride + row]`.
fn pack_transposed<T: Element>(
    source: &View<'_, T>,
    rows: &Range<usize>,
    column: usize,
    d: usize,
    stride: usize,
    tile: &mut [f32],
) {
    const STEP: usize = 16;
    let mut lines = [[0f32; STEP]; STEP];
    for first in (0..rows.len()).step_by(STEP) {
        let n = (rows.len() - first).min(STEP);
        for start in (0..d).step_by(STEP) {
            let width = (d - start).min(STEP);
            for (i, line) in lines.iter_mut().enumerate().take(n) {
                let from = column + start;
                T::widen(
                    &source.row(rows.start + first + i)[from..from + width],
                    &mut line[..width],
                );
            }
            for c in 0..width {
                let to = &mut tile[(start + c) * stride + first..][..n];
                for (to, line) in to.iter_mut().zip(&lines) {
                    *to = line[c];
                }
            }
        }
    }
}
