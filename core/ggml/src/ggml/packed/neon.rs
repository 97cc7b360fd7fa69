//! What a CPU of the Arm v8.6 generation computes: sums of products of BF16 pairs.

use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vdupq_n_f32, vld1q_dup_u32, vld1q_f32, vld1q_u32, vst1q_f32,
};
use std::arch::asm;

use super::{PANEL, Tile};

/// Numbers in a register.
const LANES: usize = 4;
const REGISTERS: usize = PANEL / LANES;
/// Tokens whose sums stay in registers beside a word of the panel: there are 32.
const TOKENS: usize = 3;
/// Words that all tokens take before the next ones: a panel's share stays in the first cache.
const WORDS: usize = 128;

/// [`Tile::multiply_slowly`] of BF16.
///
/// # Safety
/// The CPU has BF16. From the start of each of the tile's tokens on, its inputs hold as many pairs as its panel and `y` holds
/// [`PANEL`] numbers.
#[target_feature(enable = "neon,bf16")]
pub unsafe fn multiply_bf16(tile: &Tile<'_>, y: &mut [f32], y_stride: usize) {
    for (share, panel) in tile.panel.chunks(WORDS * PANEL).enumerate() {
        let add = tile.add || share > 0;
        for token in (0..tile.n_tokens).step_by(TOKENS) {
            // SAFETY: as this function's; a share is part of the panel.
            unsafe {
                let x = tile.x.as_ptr().add(token * tile.x_stride + share * WORDS);
                let y = y.as_mut_ptr().add(token * y_stride);
                let (x, y) = ((x, tile.x_stride), (y, y_stride));
                match tile.n_tokens - token {
                    1 => tokens::<1>(panel, x, y, add),
                    2 => tokens::<2>(panel, x, y, add),
                    _ => tokens::<TOKENS>(panel, x, y, add),
                }
            }
        }
    }
}

/// Of `N` tokens. `x` and `y` come with what lies from one token to the next.
///
/// # Safety
/// As [`multiply_bf16`].
#[inline]
#[target_feature(enable = "neon,bf16")]
unsafe fn tokens<const N: usize>(
    panel: &[u32],
    (x, x_stride): (*const u32, usize),
    (y, y_stride): (*mut f32, usize),
    add: bool,
) {
    // SAFETY: as this function's.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); REGISTERS]; N];
        if add {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = vld1q_f32(y.add(i * y_stride + r * LANES));
                }
            }
        }
        for (step, weights) in panel.chunks_exact(PANEL).enumerate() {
            let x: [uint32x4_t; N] =
                std::array::from_fn(|i| vld1q_dup_u32(x.add(i * x_stride + step)));
            for r in 0..REGISTERS {
                let weights = vld1q_u32(weights.as_ptr().add(r * LANES));
                for (x, sums) in x.iter().zip(&mut sums) {
                    sums[r] = add_products(sums[r], weights, *x);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (r, sum) in sums.into_iter().enumerate() {
                vst1q_f32(y.add(i * y_stride + r * LANES), sum);
            }
        }
    }
}

/// To each lane of `sum`, the product of the two pairs of BF16 in that lane. The compiler's own name for it is not stable.
#[inline]
#[target_feature(enable = "neon,bf16")]
fn add_products(mut sum: float32x4_t, a: uint32x4_t, b: uint32x4_t) -> float32x4_t {
    // SAFETY: computes on registers only.
    unsafe {
        asm!(
            "bfdot {sum:v}.4s, {a:v}.8h, {b:v}.8h",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
