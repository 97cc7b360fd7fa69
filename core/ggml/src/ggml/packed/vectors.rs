//! Products of F32 in vectors that become whatever the compiler may use: AVX2 or NEON, with fused multiply-add.

use wide::f32x8;

use super::{PANEL, Tile};

/// Whether this was compiled for a CPU that multiplies and adds vectors in one instruction.
pub const ARE_FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// Numbers in a vector.
const LANES: usize = 8;
const VECTORS: usize = PANEL / LANES;
/// Tokens whose sums stay in registers beside a word of the panel: AVX2 has 16 registers.
const TOKENS: usize = 3;
/// Words that all tokens take before the next ones: a panel's share stays in the first cache.
const WORDS: usize = 128;

/// [`Tile::multiply_slowly`] of F32.
pub fn multiply_f32(tile: &Tile<'_>, y: &mut [f32], y_stride: usize) {
    let panel: &[f32] = bytemuck::cast_slice(tile.panel);
    let x: &[f32] = bytemuck::cast_slice(tile.x);
    for (share, panel) in panel.chunks(WORDS * PANEL).enumerate() {
        let add = tile.add || share > 0;
        for token in (0..tile.n_tokens).step_by(TOKENS) {
            let x = &x[token * tile.x_stride + share * WORDS..];
            let (x, y) = ((x, tile.x_stride), (&mut y[token * y_stride..], y_stride));
            match tile.n_tokens - token {
                1 => tokens::<1>(panel, x, y, add),
                2 => tokens::<2>(panel, x, y, add),
                _ => tokens::<TOKENS>(panel, x, y, add),
            }
        }
    }
}

/// Of `N` tokens. `x` and `y` come with what lies from one token to the next.
#[inline(always)]
fn tokens<const N: usize>(
    panel: &[f32],
    (x, x_stride): (&[f32], usize),
    (y, y_stride): (&mut [f32], usize),
    add: bool,
) {
    let words = panel.as_chunks::<PANEL>().0;
    let x: [&[f32]; N] = std::array::from_fn(|i| &x[i * x_stride..][..words.len()]);
    let mut sums = [[f32x8::ZERO; VECTORS]; N];
    if add {
        for (i, sums) in sums.iter_mut().enumerate() {
            *sums = load(&y[i * y_stride..]);
        }
    }
    for (step, weights) in words.iter().enumerate() {
        let weights = load(weights);
        for (x, sums) in x.iter().zip(&mut sums) {
            let x = f32x8::splat(x[step]);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = x.mul_add(weight, *sum);
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        let y = &mut y[i * y_stride..][..PANEL];
        for (y, sum) in y.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            *y = sum.to_array();
        }
    }
}

/// The first [`PANEL`] numbers.
#[inline(always)]
fn load(from: &[f32]) -> [f32x8; VECTORS] {
    let vectors = from[..PANEL].as_chunks::<LANES>().0;
    std::array::from_fn(|v| f32x8::from(vectors[v]))
}
