//! The number formats of ggml tensors.

macro_rules! ggml_types {
    ($($variant:ident = $id:literal, $name:literal, $block:literal, $bytes:literal, $quantized:literal;)*) => {
        /// A ggml tensor type. The discriminants are those of `enum ggml_type` in `ggml.h`.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum GgmlType {
            $(#[doc = concat!("`", $name, "`: ", $block, " elements in ", $bytes, " bytes.")] $variant = $id,)*
        }

        impl GgmlType {
            /// Every type of this ggml version, in the order of their numbers.
            pub const ALL: &[GgmlType] = &[$(GgmlType::$variant),*];

            /// ggml's name, such as `q4_1`.
            pub const fn name(self) -> &'static str {
                match self { $(GgmlType::$variant => $name,)* }
            }

            /// Elements in one block; a row holds whole blocks. 1 for types that are not quantized.
            pub const fn block_size(self) -> usize {
                match self { $(GgmlType::$variant => $block,)* }
            }

            /// Bytes of one block.
            pub const fn type_size(self) -> usize {
                match self { $(GgmlType::$variant => $bytes,)* }
            }

            /// Whether several elements share a scale.
            pub const fn is_quantized(self) -> bool {
                match self { $(GgmlType::$variant => $quantized,)* }
            }
        }

        impl TryFrom<u32> for GgmlType {
            type Error = u32;

            /// Gives the number back when this ggml version has no such type, or removed it.
            fn try_from(id: u32) -> Result<Self, u32> {
                match id { $($id => Ok(GgmlType::$variant),)* unknown => Err(unknown) }
            }
        }
    };
}

// A test compares this table with the linked ggml.
ggml_types! {
    F32 = 0, "f32", 1, 4, false;
    F16 = 1, "f16", 1, 2, false;
    Q4_0 = 2, "q4_0", 32, 18, true;
    Q4_1 = 3, "q4_1", 32, 20, true;
    Q5_0 = 6, "q5_0", 32, 22, true;
    Q5_1 = 7, "q5_1", 32, 24, true;
    Q8_0 = 8, "q8_0", 32, 34, true;
    Q8_1 = 9, "q8_1", 32, 36, true;
    Q2_K = 10, "q2_K", 256, 84, true;
    Q3_K = 11, "q3_K", 256, 110, true;
    Q4_K = 12, "q4_K", 256, 144, true;
    Q5_K = 13, "q5_K", 256, 176, true;
    Q6_K = 14, "q6_K", 256, 210, true;
    Q8_K = 15, "q8_K", 256, 292, true;
    IQ2_XXS = 16, "iq2_xxs", 256, 66, true;
    IQ2_XS = 17, "iq2_xs", 256, 74, true;
    IQ3_XXS = 18, "iq3_xxs", 256, 98, true;
    IQ1_S = 19, "iq1_s", 256, 50, true;
    IQ4_NL = 20, "iq4_nl", 32, 18, true;
    IQ3_S = 21, "iq3_s", 256, 110, true;
    IQ2_S = 22, "iq2_s", 256, 82, true;
    IQ4_XS = 23, "iq4_xs", 256, 136, true;
    I8 = 24, "i8", 1, 1, false;
    I16 = 25, "i16", 1, 2, false;
    I32 = 26, "i32", 1, 4, false;
    I64 = 27, "i64", 1, 8, false;
    F64 = 28, "f64", 1, 8, false;
    IQ1_M = 29, "iq1_m", 256, 56, true;
    BF16 = 30, "bf16", 1, 2, false;
    TQ1_0 = 34, "tq1_0", 256, 54, true;
    TQ2_0 = 35, "tq2_0", 256, 66, true;
    MXFP4 = 39, "mxfp4", 32, 17, true;
    NVFP4 = 40, "nvfp4", 64, 36, true;
    Q1_0 = 41, "q1_0", 128, 18, true;
    Q2_0 = 42, "q2_0", 64, 18, true;
}

impl GgmlType {
    /// Bytes that `n_elements` consecutive elements take.
    ///
    /// # Panics
    /// When `n_elements` is not a multiple of [`block_size`](Self::block_size).
    pub const fn row_size(self, n_elements: usize) -> usize {
        assert!(
            n_elements.is_multiple_of(self.block_size()),
            "a row must hold whole blocks"
        );
        n_elements / self.block_size() * self.type_size()
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ffi::CStr;

    use super::*;

    #[test]
    fn the_table_agrees_with_the_linked_ggml() {
        let count = llama_cpp_sys_2::GGML_TYPE_COUNT;
        for id in 0..count {
            // SAFETY: the three functions read a static table that has GGML_TYPE_COUNT rows, and names are static strings.
            let (block, bytes, quantized, name) = unsafe {
                (
                    llama_cpp_sys_2::ggml_blck_size(id),
                    llama_cpp_sys_2::ggml_type_size(id),
                    llama_cpp_sys_2::ggml_is_quantized(id),
                    llama_cpp_sys_2::ggml_type_name(id),
                )
            };
            match GgmlType::try_from(id) {
                Ok(ty) => {
                    assert_eq!(ty as u32, id);
                    // SAFETY: see above.
                    let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap();
                    assert_eq!(
                        (ty.name(), ty.block_size(), ty.type_size()),
                        (name, block as usize, bytes)
                    );
                    assert_eq!(ty.is_quantized(), quantized, "{ty}");
                }
                Err(_) => assert_eq!(block, 0, "type {id} is missing from the table"),
            }
        }
        assert_eq!(GgmlType::try_from(count), Err(count));
        assert_eq!(GgmlType::try_from(u32::MAX), Err(u32::MAX));
        assert!(
            GgmlType::ALL
                .iter()
                .all(|&ty| GgmlType::try_from(ty as u32) == Ok(ty))
        );
    }

    #[test]
    #[should_panic(expected = "whole blocks")]
    fn a_row_of_half_a_block_has_no_size() {
        GgmlType::Q4_1.row_size(48);
    }
}
