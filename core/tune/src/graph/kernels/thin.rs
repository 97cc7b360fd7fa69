//! Products with a thin side: a LoRA rank beside thousands of columns. Each reads its wide operand once.
//!
//! Matrices are row-major over tokens: `x` is `[n_tokens, width]`, a factor is `[rank, width]`.

use thumbprint_ggml::math::fma;
use wide::f32x16;

use super::gemm::{LANES, dot, load, store};

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

/// `t[r] = scale * <x[span], factor[r]>` for one token: `x` the token's row, `t` its thin row.
#[inline]
pub fn project(x: &[f32], factors: &[f32], spans: &[Span], scale: f32, t: &mut [f32]) {
    for span in spans {
        let x = &x[span.start..span.start + span.len];
        for r in 0..span.rank {
            let factor = &factors[span.factor_start + r * span.len..][..span.len];
            t[span.rank_start + r] = scale * dot(x, factor);
        }
    }
}

/// `y[span] += sum over r of t[r] * factor[r]` for one token.
#[inline]
pub fn expand(t: &[f32], factors: &[f32], spans: &[Span], y: &mut [f32]) {
    for span in spans {
        let y = &mut y[span.start..span.start + span.len];
        let t = &t[span.rank_start..span.rank_start + span.rank];
        let factor = |r: usize| &factors[span.factor_start + r * span.len..][..span.len];
        let mut r = 0;
        while r + 4 <= t.len() {
            let (f0, f1, f2, f3) = (factor(r), factor(r + 1), factor(r + 2), factor(r + 3));
            for (i, y) in y.iter_mut().enumerate() {
                *y = fma(
                    t[r],
                    f0[i],
                    fma(
                        t[r + 1],
                        f1[i],
                        fma(t[r + 2], f2[i], fma(t[r + 3], f3[i], *y)),
                    ),
                );
            }
            r += 4;
        }
        for (t, r) in t[r..].iter().zip(r..) {
            for (y, f) in y.iter_mut().zip(factor(r)) {
                *y = fma(*t, *f, *y);
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
