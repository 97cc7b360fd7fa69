//! Number formats of saved activations.

use bytemuck::AnyBitPattern;
use thumbprint_ggml::ggml::bf16_to_f32;

/// An element that kernels read as F32.
pub trait Element: AnyBitPattern {
    /// Converts a row.
    fn widen(from: &[Self], to: &mut [f32]);
}

impl Element for f32 {
    #[inline]
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

/// BF16.
impl Element for u16 {
    #[inline]
    fn widen(from: &[Self], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = bf16_to_f32(*from);
        }
    }
}
