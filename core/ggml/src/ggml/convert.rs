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
            let convert = unsafe { (*sys::ggml_get_type_traits_cpu(ty as u32)).from_float };
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
