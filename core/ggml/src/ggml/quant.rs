//! Encoding and decoding of quantized numbers, by ggml's reference routines.

use llama_cpp_sys_2 as sys;

use crate::GgmlType;

/// Why numbers cannot be encoded or decoded.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum QuantError {
    /// ggml encodes or decodes this type nowhere: integers, and formats of intermediate results.
    #[error("ggml cannot convert between {ty} and f32")]
    Unsupported {
        /// The type.
        ty: GgmlType,
    },
    /// The type is only usable with an importance matrix, which needs a run of the model over text.
    #[error("{ty} needs an importance matrix to quantize to; choose another type")]
    NeedsImportanceMatrix {
        /// The type.
        ty: GgmlType,
    },
    /// The numbers do not make up whole rows of whole blocks.
    #[error("{n_elements} elements are not rows of {n_per_row} in blocks of {block}")]
    Shape {
        /// The number of elements.
        n_elements: usize,
        /// Elements of a row.
        n_per_row: usize,
        /// Elements of a block.
        block: usize,
    },
    /// The encoded bytes are not as many as the elements take.
    #[error("{n_elements} elements of {ty} take {expected} bytes, and {found} were given")]
    DataSize {
        /// The type.
        ty: GgmlType,
        /// The number of elements.
        n_elements: usize,
        /// Bytes that they take.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A number is infinite or NaN, and would spoil its block.
    #[error("element {index} is not finite and cannot be quantized")]
    NotFinite {
        /// Its index.
        index: usize,
    },
}

/// Encodes rows of `n_per_row` numbers, without an importance matrix.
///
/// # Errors
/// [`QuantError`]; a number that is not finite is refused for quantized types only.
pub fn quantize(ty: GgmlType, values: &[f32], n_per_row: usize) -> Result<Vec<u8>, QuantError> {
    check_quantizable(ty)?;
    check_shape(ty, values.len(), n_per_row)?;
    if ty.is_quantized()
        && let Some(index) = values.iter().position(|value| !value.is_finite())
    {
        return Err(QuantError::NotFinite { index });
    }
    let n_rows = values.len() / n_per_row;
    let mut out = AlignedBytes::zeroed(ty.row_size(n_per_row) * n_rows);
    // SAFETY: `values` holds n_rows rows of n_per_row floats, `out` their encoded size and is aligned for every block
    // type, and the type is one that the function encodes without an importance matrix.
    unsafe {
        sys::ggml_quantize_chunk(
            ty as sys::ggml_type,
            values.as_ptr(),
            out.words.as_mut_ptr().cast(),
            0,
            n_rows as i64,
            n_per_row as i64,
            std::ptr::null(),
        );
    }
    Ok(out.as_bytes().to_vec())
}

/// Checks that numbers can be encoded as this type. The first encoding as some takes seconds, for tables; this does not.
///
/// # Errors
/// [`QuantError::Unsupported`] or [`QuantError::NeedsImportanceMatrix`].
pub fn check_quantizable(ty: GgmlType) -> Result<(), QuantError> {
    if matches!(ty, GgmlType::Q8_1 | GgmlType::Q8_K) || (!ty.is_quantized() && !is_float(ty)) {
        return Err(QuantError::Unsupported { ty });
    }
    // SAFETY: a pure function of a type that ggml knows.
    match unsafe { sys::ggml_quantize_requires_imatrix(ty as sys::ggml_type) } {
        true => Err(QuantError::NeedsImportanceMatrix { ty }),
        false => Ok(()),
    }
}

/// Decodes `n_elements` numbers, which lie in whole rows in `data`.
///
/// # Errors
/// [`QuantError`].
pub fn dequantize(ty: GgmlType, data: &[u8], n_elements: usize) -> Result<Vec<f32>, QuantError> {
    check_shape(ty, n_elements, n_elements)?;
    let expected = ty.row_size(n_elements);
    if data.len() != expected {
        return Err(QuantError::DataSize {
            ty,
            n_elements,
            expected,
            found: data.len(),
        });
    }
    if ty == GgmlType::F32 {
        return Ok(data
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect());
    }
    // SAFETY: a row of a static table for a type that ggml knows.
    let to_float = unsafe { (*sys::ggml_get_type_traits(ty as sys::ggml_type)).to_float };
    let to_float = to_float.ok_or(QuantError::Unsupported { ty })?;
    let data = AlignedBytes::copy_of(data);
    let mut values = vec![0f32; n_elements];
    // SAFETY: `data` holds n_elements in whole blocks and is aligned for every block type; `values` has room for them.
    unsafe {
        to_float(
            data.words.as_ptr().cast(),
            values.as_mut_ptr(),
            n_elements as i64,
        )
    };
    Ok(values)
}

fn is_float(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16)
}

fn check_shape(ty: GgmlType, n_elements: usize, n_per_row: usize) -> Result<(), QuantError> {
    let block = ty.block_size();
    if n_per_row == 0 || !n_elements.is_multiple_of(n_per_row) || !n_per_row.is_multiple_of(block) {
        return Err(QuantError::Shape {
            n_elements,
            n_per_row,
            block,
        });
    }
    Ok(())
}

/// Bytes at an address that suits ggml's block types, of which none is aligned to more than 8.
struct AlignedBytes {
    words: Vec<u64>,
    len: usize,
}

impl AlignedBytes {
    fn zeroed(len: usize) -> Self {
        AlignedBytes {
            words: vec![0; len.div_ceil(8)],
            len,
        }
    }

    fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        // SAFETY: `words` has room for `bytes.len()` bytes, is freshly allocated, and any bytes are valid words.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                copy.words.as_mut_ptr().cast(),
                bytes.len(),
            )
        };
        copy
    }

    fn as_bytes(&self) -> &[u8] {
        // SAFETY: `words` holds at least `len` initialized bytes and lives as long as the slice.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Deterministic numbers between -1 and 1.
    fn values(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i as f32 * 12.9898).sin() * 43758.547).fract())
            .collect()
    }

    /// `|decoded - values| / |values|`, in Euclidean norms.
    fn relative_error(ty: GgmlType, values: &[f32], n_per_row: usize) -> f32 {
        let encoded = quantize(ty, values, n_per_row).unwrap();
        assert_eq!(
            encoded.len(),
            ty.row_size(n_per_row) * (values.len() / n_per_row)
        );
        let decoded = dequantize(ty, &encoded, values.len()).unwrap();
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
        norm(&mut decoded.iter().zip(values).map(|(a, b)| a - b))
            / norm(&mut values.iter().copied())
    }

    #[test]
    fn every_type_is_encoded_as_exactly_as_its_bits_allow_or_refused() {
        use GgmlType::*;
        let values = values(4 * 256);
        let mut refused = Vec::new();
        for &ty in GgmlType::ALL {
            // Observed errors: about nine tenths of each bound.
            let bound = match ty {
                F32 => 0.0,
                F16 => 5e-5,
                BF16 => 1.3e-3,
                Q8_0 => 0.0043,
                Q6_K => 0.015,
                Q5_K | Q5_0 | Q5_1 => 0.035,
                Q4_0 | Q4_1 | Q4_K | IQ4_NL | IQ4_XS => 0.073,
                NVFP4 => 0.114,
                Q3_K | MXFP4 | IQ3_S => 0.16,
                IQ3_XXS => 0.22,
                Q2_K => 0.27,
                Q2_0 | Q1_0 | TQ1_0 | TQ2_0 => 0.57,
                // ggml takes 5 and 10 seconds to prepare the tables that these are encoded with.
                IQ2_S | IQ1_M => continue,
                _ => {
                    refused.push(ty);
                    assert!(quantize(ty, &values, 256).is_err(), "{ty}");
                    continue;
                }
            };
            let error = relative_error(ty, &values, 256);
            assert!(error <= bound, "{ty}: {error}");
        }
        assert_eq!(
            refused,
            [Q8_1, Q8_K, IQ2_XXS, IQ2_XS, IQ1_S, I8, I16, I32, I64, F64]
        );
    }

    #[test]
    fn a_type_that_needs_an_importance_matrix_is_refused_by_name() {
        let error = quantize(GgmlType::IQ2_XS, &values(256), 256).unwrap_err();
        assert_eq!(
            error,
            QuantError::NeedsImportanceMatrix {
                ty: GgmlType::IQ2_XS
            }
        );
        assert!(error.to_string().contains("iq2_xs"));
    }

    #[test]
    fn data_at_an_odd_address_decodes_to_the_same_numbers() {
        let encoded = quantize(GgmlType::Q4_1, &values(64), 64).unwrap();
        let mut shifted = vec![0u8];
        shifted.extend_from_slice(&encoded);
        let here = dequantize(GgmlType::Q4_1, &encoded, 64).unwrap();
        assert_eq!(dequantize(GgmlType::Q4_1, &shifted[1..], 64).unwrap(), here);
    }

    #[test]
    fn shapes_sizes_and_numbers_that_do_not_fit_are_refused() {
        let shape = |n_elements, n_per_row| {
            Err(QuantError::Shape {
                n_elements,
                n_per_row,
                block: 32,
            })
        };
        assert_eq!(quantize(GgmlType::Q4_1, &values(64), 48), shape(64, 48));
        assert_eq!(quantize(GgmlType::Q4_1, &values(96), 64), shape(96, 64));
        assert_eq!(quantize(GgmlType::Q4_1, &[], 0), shape(0, 0));
        let size = QuantError::DataSize {
            ty: GgmlType::Q4_1,
            n_elements: 32,
            expected: 20,
            found: 19,
        };
        assert_eq!(dequantize(GgmlType::Q4_1, &[0; 19], 32), Err(size));
        let mut infinite = values(32);
        infinite[7] = f32::INFINITY;
        assert_eq!(
            quantize(GgmlType::Q4_1, &infinite, 32),
            Err(QuantError::NotFinite { index: 7 })
        );
        assert!(quantize(GgmlType::F32, &infinite, 32).is_ok());
    }
}
