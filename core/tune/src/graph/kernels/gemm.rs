//! Small dense products in F32 on tiles that fit a cache, in vectors of 16 that become whatever SIMD the CPU has.

use wide::f32x16;

/// Elements of one vector step; a multiple of every SIMD width in use.
pub const LANES: usize = 16;

/// A row-major matrix inside a larger slice.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    /// From the first element on.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
}

/// `c += a b`: `a` is `[m, k]`, `b` `[k, n]`, `c` `[m, n]`, all row-major; `n` must be a multiple of [`LANES`].
///
/// # Panics
/// If a slice is too short.
#[inline]
pub fn gemm(m: usize, n: usize, k: usize, a: Mat<'_>, b: Mat<'_>, c: &mut [f32], c_stride: usize) {
    debug_assert!(n.is_multiple_of(LANES));
    let mut row = 0;
    while row < m {
        let rows = (m - row).min(MR);
        let a = Mat {
            data: &a.data[row * a.stride..],
            stride: a.stride,
        };
        let c = &mut c[row * c_stride..];
        match rows {
            6 => row_block::<6>(n, k, a, b, c, c_stride),
            5 => row_block::<5>(n, k, a, b, c, c_stride),
            4 => row_block::<4>(n, k, a, b, c, c_stride),
            3 => row_block::<3>(n, k, a, b, c, c_stride),
            2 => row_block::<2>(n, k, a, b, c, c_stride),
            _ => row_block::<1>(n, k, a, b, c, c_stride),
        }
        row += rows;
    }
}

/// Rows, and vectors of each, whose sums one micro-kernel keeps in registers, beside a row of `b` and an element of `a`. AVX-512 has 32
/// registers of a whole vector each; elsewhere a vector takes two of AVX2's 16, or four of NEON's 32, and sums that do not fit go through
/// memory at every step.
const MR: usize = 6;
const NR: usize = if cfg!(target_feature = "avx512f") {
    4
} else {
    1
};

#[inline(always)]
fn row_block<const M: usize>(
    n: usize,
    k: usize,
    a: Mat<'_>,
    b: Mat<'_>,
    c: &mut [f32],
    c_stride: usize,
) {
    let mut column = 0;
    while column + NR * LANES <= n {
        micro::<M, NR>(k, a, b, column, c, c_stride);
        column += NR * LANES;
    }
    while column < n {
        micro::<M, 1>(k, a, b, column, c, c_stride);
        column += LANES;
    }
}

#[inline(always)]
fn micro<const M: usize, const N: usize>(
    k: usize,
    a: Mat<'_>,
    b: Mat<'_>,
    column: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    let mut acc = [[f32x16::ZERO; N]; M];
    for (i, acc) in acc.iter_mut().enumerate() {
        for (v, acc) in acc.iter_mut().enumerate() {
            *acc = load(&c[i * c_stride + column + v * LANES..]);
        }
    }
    let a_rows: [&[f32]; M] = std::array::from_fn(|i| &a.data[i * a.stride..i * a.stride + k]);
    #[allow(clippy::needless_range_loop)] // several rows are read at the same step
    for step in 0..k {
        let start = step * b.stride + column;
        let b_row = &b.data[start..start + N * LANES];
        let b_row: [f32x16; N] = std::array::from_fn(|v| load(&b_row[v * LANES..]));
        for i in 0..M {
            let a = f32x16::splat(a_rows[i][step]);
            for v in 0..N {
                acc[i][v] = a.mul_add(b_row[v], acc[i][v]);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (v, acc) in acc.iter().enumerate() {
            store(*acc, &mut c[i * c_stride + column + v * LANES..]);
        }
    }
}

/// The first [`LANES`] elements.
#[inline(always)]
pub fn load(from: &[f32]) -> f32x16 {
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(&from[..LANES]);
    f32x16::from(lanes)
}

/// Writes the first [`LANES`] elements.
#[inline(always)]
pub fn store(vector: f32x16, to: &mut [f32]) {
    to[..LANES].copy_from_slice(&vector.to_array());
}

/// The sum of products of two rows.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [f32x16::ZERO; 2];
    let (a_blocks, a_rest) = a.as_chunks::<{ 2 * LANES }>();
    let (b_blocks, b_rest) = b.as_chunks::<{ 2 * LANES }>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        acc[0] = load(a).mul_add(load(b), acc[0]);
        acc[1] = load(&a[LANES..]).mul_add(load(&b[LANES..]), acc[1]);
    }
    let tail: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    (acc[0] + acc[1]).reduce_add() + tail
}
