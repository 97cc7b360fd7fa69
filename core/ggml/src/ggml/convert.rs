//! Conversions between number formats, a row at a time.

use llama_cpp_sys_2 as sys;

use super::error::{GgmlError, Result};
use crate::GgmlType;

/// Dequantizes whole blocks: `out.len()` elements from exactly as many bytes as they take.
pub fn dequantize_row(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    const OP: &str = "dequantize";
    if !out.len().is_multiple_of(ty.block_size()) || ty.row_size(out.len()) != bytes.len() {
        return Err(GgmlError::Size {
            tensor: bytes.len(),
            host: out.len(),
        });
    }
    match ty {
        GgmlType::F32 => {
            for (to, from) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
            }
        }
        GgmlType::BF16 => {
            for (to, from) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *to = bf16_to_f32(u16::from_le_bytes([from[0], from[1]]));
            }
        }
        // ggml's loop over these is not vectorized.
        GgmlType::Q4_1 => {
            let blocks = bytes.as_chunks::<20>().0.iter();
            for (to, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(blocks) {
                dequantize_q4_1(block, to);
            }
        }
        _ => {
            // SAFETY: the type is in ggml's table, whose rows live as long as the process.
            let convert = unsafe { (*sys::ggml_get_type_traits(ty as u32)).to_float };
            let convert = convert.ok_or(GgmlError::Type { op: OP, ty })?;
            // SAFETY: both slices hold `out.len()` elements; ggml reads blocks byte-wise aligned to their 2-byte scales, and
            // mapped tensors are aligned to 32 bytes with blocks of even size.
            unsafe { convert(bytes.as_ptr().cast(), out.as_mut_ptr(), out.len() as i64) };
        }
    }
    Ok(())
}

/// Converts a row to another format: whole blocks of `ty` for every element of `row`.
pub fn convert_row(ty: GgmlType, row: &[f32], out: &mut [u8]) -> Result<()> {
    if !row.len().is_multiple_of(ty.block_size()) || ty.row_size(row.len()) != out.len() {
        return Err(GgmlError::Size {
            tensor: out.len(),
            host: row.len(),
        });
    }
    match ty {
        GgmlType::F32 => out.copy_from_slice(bytemuck::cast_slice(row)),
        GgmlType::BF16 => {
            for (to, from) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
                *to = f32_to_bf16(*from).to_ne_bytes();
            }
        }
        _ => {
            // SAFETY: the type is in ggml's table, whose rows live as long as the process.
            #[cfg(not(feature = "dynamic-backends"))]
            let convert = unsafe { (*sys::ggml_get_type_traits_cpu(ty as u32)).from_float };
            // The CPU's table is in a module then.
            // SAFETY: as above.
            #[cfg(feature = "dynamic-backends")]
            let convert = unsafe { (*sys::ggml_get_type_traits(ty as u32)).from_float_ref };
            let convert = convert.ok_or(GgmlError::Type { op: "convert", ty })?;
            // SAFETY: both slices hold `row.len()` elements.
            unsafe { convert(row.as_ptr(), out.as_mut_ptr().cast(), row.len() as i64) };
        }
    }
    Ok(())
}

/// Whether [`dequantize_row`] reads this type.
pub fn can_dequantize(ty: GgmlType) -> bool {
    // SAFETY: the type is in ggml's table.
    ty == GgmlType::F32 || unsafe { (*sys::ggml_get_type_traits(ty as u32)).to_float.is_some() }
}

/// A block is a scale and a minimum in F16, then sixteen bytes: the low halves are the first sixteen numbers. By itself, or the
/// compiler takes several blocks together, and their bytes one by one.
#[inline(never)]
fn dequantize_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let half = |at: usize| f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
    let (scale, minimum) = (half(0), half(2));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[4..]) {
        *low = f32::from(byte & 15) * scale + minimum;
        *high = f32::from(byte >> 4) * scale + minimum;
    }
}

/// Exact.
#[inline]
pub fn f16_to_f32(value: u16) -> f32 {
    let (sign, rest) = (u32::from(value & 0x8000) << 16, u32::from(value & 0x7fff));
    let magnitude = match rest {
        // Infinite or NaN.
        0x7c00.. => f32::from_bits(0x7f80_0000 | rest << 13),
        // The exponent's bias is 112 less; multiplying also makes subnormal numbers normal.
        _ => f32::from_bits(rest << 13) * f32::from_bits((127 + 112) << 23),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// Rounds to the nearest BF16, ties to even. NaN stays NaN or becomes infinite.
#[inline]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Exact.
#[inline]
pub fn bf16_to_f32(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ggml::quant::quantize;

    #[test]
    fn halves_convert_as_ggml_converts_them() {
        for bits in 0..=u16::MAX {
            // SAFETY: a pure function of any bits.
            let expected = unsafe { sys::ggml_fp16_to_fp32(bits) };
            let found = f16_to_f32(bits);
            assert!(
                found == expected || found.is_nan() && expected.is_nan(),
                "{bits:#x}: {found} {expected}"
            );
        }
    }

    #[test]
    fn q4_1_converts_as_ggml_converts_it_but_for_rounding() {
        let values: Vec<f32> = (0..320).map(|i| (i as f32 * 0.7).sin() - 0.2).collect();
        let bytes = quantize(GgmlType::Q4_1, &values, 320).unwrap();
        let mut found = vec![0.0; 320];
        dequantize_row(GgmlType::Q4_1, &bytes, &mut found).unwrap();
        let expected = crate::ggml::quant::dequantize(GgmlType::Q4_1, &bytes, 320).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 2e-7, "{found} {expected}");
        }
    }
}
