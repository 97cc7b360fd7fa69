//! Products of F32, and panels for them, in vectors that become whatever the compiler may use: AVX2 or NEON, with fused multiply-add.

use wide::f32x8;

use super::{PANEL, Tile};

/// Whether this was compiled for a CPU that multiplies and adds vectors in one instruction.
pub const ARE_FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// Numbers in a vector.
const LANES: usize = 8;
/// Vectors of outputs, and tokens, whose sums stay in registers beside a word's weights and an input: AVX2 has 16 of them, and
/// a sum that is kept in memory makes a product take twice as long.
const VECTORS: usize = 2;
const TOKENS: usize = 6;
/// Outputs that are computed together.
const OUTPUTS: usize = VECTORS * LANES;
/// Numbers in a cache line.
const LINE: usize = 16;
/// Words that all tokens take before the next ones: a panel's share stays in the first cache.
const WORDS: usize = 128;

/// Packs [`PANEL`] rows of `n_in` numbers, a multiple of [`PANEL`], into a panel of F32.
pub fn pack_rows(rows: &[f32], n_in: usize, out: &mut [u32]) {
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);
    // All of a cache line is taken before the next one.
    for (at, out) in out.chunks_exact_mut(LINE * PANEL).enumerate() {
        for (part, rows) in rows.chunks_exact(LANES * n_in).enumerate() {
            for (half, out) in out.chunks_exact_mut(LANES * PANEL).enumerate() {
                let column = at * LINE + half * LANES;
                let block: [f32x8; LANES] = std::array::from_fn(|row| {
                    let from = rows[row * n_in + column..].as_chunks::<LANES>().0;
                    f32x8::from(from[0])
                });
                let words = f32x8::transpose(block);
                for (word, out) in words.iter().zip(out.chunks_exact_mut(PANEL)) {
                    out[part * LANES..][..LANES].copy_from_slice(word.as_array());
                }
            }
        }
    }
}

/// [`Tile::multiply_slowly`] of F32.
pub fn multiply_f32(tile: &Tile<'_>, y: &mut [f32], y_stride: usize) {
    let panel: &[f32] = bytemuck::cast_slice(tile.panel);
    let x: &[f32] = bytemuck::cast_slice(tile.x);
    for (share, panel) in panel.chunks(WORDS * PANEL).enumerate() {
        let add = tile.add || share > 0;
        for token in (0..tile.n_tokens).step_by(TOKENS) {
            let x = &x[token * tile.x_stride + share * WORDS..];
            for part in (0..PANEL).step_by(OUTPUTS) {
                let (panel, y) = (&panel[part..], &mut y[token * y_stride + part..]);
                let (x, y) = ((x, tile.x_stride), (y, y_stride));
                match tile.n_tokens - token {
                    1 => tokens::<1>(panel, x, y, add),
                    2 => tokens::<2>(panel, x, y, add),
                    3 => tokens::<3>(panel, x, y, add),
                    4 => tokens::<4>(panel, x, y, add),
                    5 => tokens::<5>(panel, x, y, add),
                    _ => tokens::<TOKENS>(panel, x, y, add),
                }
            }
        }
    }
}

/// [`OUTPUTS`] of `N` tokens. `x` and `y` come with what lies from one token to the next.
#[inline(always)]
fn tokens<const N: usize>(
    panel: &[f32],
    (x, x_stride): (&[f32], usize),
    (y, y_stride): (&mut [f32], usize),
    add: bool,
) {
    let n_words = panel.len().div_ceil(PANEL);
    let x: [&[f32]; N] = std::array::from_fn(|i| &x[i * x_stride..][..n_words]);
    let mut sums = [[f32x8::ZERO; VECTORS]; N];
    if add {
        for (i, sums) in sums.iter_mut().enumerate() {
            *sums = load(&y[i * y_stride..]);
        }
    }
    for (step, weights) in panel.chunks(PANEL).enumerate() {
        let weights = load(weights);
        for (x, sums) in x.iter().zip(&mut sums) {
            let x = f32x8::splat(x[step]);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = x.mul_add(weight, *sum);
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        let y = &mut y[i * y_stride..][..OUTPUTS];
        for (y, sum) in y.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            *y = sum.to_array();
        }
    }
}

/// The first [`OUTPUTS`] numbers.
#[inline(always)]
fn load(from: &[f32]) -> [f32x8; VECTORS] {
    let vectors = from[..OUTPUTS].as_chunks::<LANES>().0;
    std::array::from_fn(|v| f32x8::from(vectors[v]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_words_of_all_their_numbers_in_a_place() {
        for n_in in [PANEL, 6 * PANEL] {
            let rows: Vec<f32> = (0..PANEL * n_in).map(|i| i as f32).collect();
            let mut out = vec![u32::MAX; rows.len()];
            pack_rows(&rows, n_in, &mut out);
            for (word, out) in out.chunks(PANEL).enumerate() {
                for (row, found) in out.iter().enumerate() {
                    assert_eq!(f32::from_bits(*found), rows[row * n_in + word]);
                }
            }
        }
    }
}
