//! Products with a thin side: a LoRA rank beside thousands of columns. Each reads its wide operand once.
//!
//! Matrices are row-major over tokens: `x` is `[n_tokens, width]`, a factor is `[rank, width]`.

use thumbprint_ggml::math::fma;
use wide::f32x16;

use super::gemm::{LANES, Mat, dot, load, store};

/// A range of columns of the wide operand that belongs to a range of the thin one (one projection of several fused ones).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First column of the wide operand.
    pub start: usize,
    /// Number of columns.
    pub len: usize,
    /// First index on the thin side.
    pub rank_start: usize,
    /// Number of indices on the thin side.
    pub rank: usize,
    /// Where this span's factor `[rank, len]` starts among all factors.
    pub factor_start: usize,
}

/// Tokens that are worked on together: factors are read once for all of them.
const TOKENS: usize = 4;
/// Ranks that are worked on together.
const RANKS: usize = 4;

/// `t[r] = scale * <x[span], factor[r]>` for `n` tokens: `x` holds a row a token, `t` receives a thin row a token.
#[inline]
pub fn project(
    n: usize,
    x: Mat<'_>,
    factors: &[f32],
    spans: &[Span],
    scale: f32,
    (t, t_stride): (&mut [f32], usize),
) {
    for span in spans {
        let row = |token: usize| &x.data[token * x.stride + span.start..][..span.len];
        let factor = |r: usize| &factors[span.factor_start + r * span.len..][..span.len];
        for token in (0..n).step_by(TOKENS) {
            let rows = (n - token).min(TOKENS);
            let t = &mut t[token * t_stride + span.rank_start..];
            for r in (0..span.rank).step_by(RANKS) {
                let ranks = (span.rank - r).min(RANKS);
                if (rows, ranks) == (TOKENS, RANKS) {
                    let sums = dots::<TOKENS, RANKS>(
                        std::array::from_fn(|i| row(token + i)),
                        std::array::from_fn(|j| factor(r + j)),
                    );
                    for (i, sums) in sums.iter().enumerate() {
                        for (t, sum) in t[i * t_stride + r..].iter_mut().zip(sums) {
                            *t = scale * sum;
                        }
                    }
                } else {
                    for i in 0..rows {
                        for j in r..r + ranks {
                            t[i * t_stride + j] = scale * dot(row(token + i), factor(j));
                        }
                    }
                }
            }
        }
    }
}

/// The products of each of some rows with each of some others, all of one length.
#[inline(always)]
fn dots<const T: usize, const R: usize>(x: [&[f32]; T], f: [&[f32]; R]) -> [[f32; R]; T] {
    let blocks = x[0].len() / LANES;
    let mut acc = [[f32x16::ZERO; R]; T];
    for at in (0..blocks * LANES).step_by(LANES) {
        let f: [f32x16; R] = std::array::from_fn(|j| load(&f[j][at..]));
        for (acc, x) in acc.iter_mut().zip(&x) {
            let x = load(&x[at..]);
            for (acc, f) in acc.iter_mut().zip(&f) {
                *acc = x.mul_add(*f, *acc);
            }
        }
    }
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let rest = x[i].iter().zip(f[j]).skip(blocks * LANES);
            acc[i][j].reduce_add() + rest.map(|(x, f)| x * f).sum::<f32>()
        })
    })
}

/// `y[span] += sum over r of t[r] * factor[r]` for `n` tokens: `t` holds a thin row a token, `y` a row a token.
#[inline]
pub fn expand(
    n: usize,
    t: Mat<'_>,
    factors: &[f32],
    spans: &[Span],
    (y, y_stride): (&mut [f32], usize),
) {
    for span in spans {
        let factor = |r: usize| &factors[span.factor_start + r * span.len..][..span.len];
        let coefficient = |token: usize, r: usize| t.data[token * t.stride + span.rank_start + r];
        for token in (0..n).step_by(TOKENS) {
            let rows = (n - token).min(TOKENS);
            let y = &mut y[token * y_stride + span.start..];
            for r in (0..span.rank).step_by(RANKS) {
                let ranks = (span.rank - r).min(RANKS);
                if (rows, ranks) == (TOKENS, RANKS) {
                    let t: [[f32; RANKS]; TOKENS] = std::array::from_fn(|i| {
                        std::array::from_fn(|j| coefficient(token + i, r + j))
                    });
                    add_products(&t, std::array::from_fn(|j| factor(r + j)), y, y_stride);
                } else {
                    for i in 0..rows {
                        let y = &mut y[i * y_stride..][..span.len];
                        for j in r..r + ranks {
                            let t = coefficient(token + i, j);
                            for (y, f) in y.iter_mut().zip(factor(j)) {
                                *y = fma(t, *f, *y);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Adds to each of some rows the factors, weighted.
#[inline(always)]
fn add_products<const T: usize, const R: usize>(
    t: &[[f32; R]; T],
    f: [&[f32]; R],
    y: &mut [f32],
    y_stride: usize,
) {
    let len = f[0].len();
    let blocks = len / LANES * LANES;
    for at in (0..blocks).step_by(LANES) {
        let f: [f32x16; R] = std::array::from_fn(|j| load(&f[j][at..]));
        for (i, t) in t.iter().enumerate() {
            let y = &mut y[i * y_stride + at..][..LANES];
            let mut sum = load(y);
            for (t, f) in t.iter().zip(&f) {
                sum = f32x16::splat(*t).mul_add(*f, sum);
            }
            store(sum, y);
        }
    }
    for (i, t) in t.iter().enumerate() {
        for at in blocks..len {
            let y = &mut y[i * y_stride + at];
            for (t, f) in t.iter().zip(&f) {
                *y = fma(*t, f[at], *y);
            }
        }
    }
}

/// Columns that one unit of [`outer`] owns.
pub const OUTER_COLUMNS: usize = 4 * LANES;

/// Sums over tokens of `t[token, r] * x[token, c]` for up to [`OUTER_COLUMNS`] columns `c`, given row by row to `emit`. Both
/// operands come from their first used column on, with the elements from one token to the next.
#[inline]
pub fn outer(
    n_tokens: usize,
    rank: usize,
    (t, t_stride): (&[f32], usize),
    (x, x_stride): (&[f32], usize),
    columns: usize,
    mut emit: impl FnMut(usize, &[f32]),
) {
    let mut r = 0;
    while r < rank {
        let rows = (rank - r).min(4);
        let mut acc = [[0f32; OUTER_COLUMNS]; 4];
        if columns == OUTER_COLUMNS && rows == 4 {
            let mut wide = [[f32x16::ZERO; OUTER_COLUMNS / LANES]; 4];
            for token in 0..n_tokens {
                let x = &x[token * x_stride..][..OUTER_COLUMNS];
                let t = &t[token * t_stride + r..][..4];
                let x: [f32x16; OUTER_COLUMNS / LANES] =
                    std::array::from_fn(|v| load(&x[v * LANES..]));
                for (t, wide) in t.iter().zip(&mut wide) {
                    for (x, wide) in x.iter().zip(wide) {
                        *wide = f32x16::splat(*t).mul_add(*x, *wide);
                    }
                }
            }
            for (acc, wide) in acc.iter_mut().zip(wide) {
                for (v, wide) in wide.into_iter().enumerate() {
                    store(wide, &mut acc[v * LANES..]);
                }
            }
        } else {
            for token in 0..n_tokens {
                let x = &x[token * x_stride..][..columns];
                for i in 0..rows {
                    let t = t[token * t_stride + r + i];
                    for (acc, x) in acc[i].iter_mut().zip(x) {
                        *acc = fma(t, *x, *acc);
                    }
                }
            }
        }
        for (i, acc) in acc.iter().enumerate().take(rows) {
            emit(r + i, &acc[..columns]);
        }
        r += rows;
    }
}
