//! What a frozen weight is made into before a product.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::packed::Packing;

/// The form of scratch matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scratch {
    /// Rows of this type, for ggml's own product.
    Rows(GgmlType),
    /// Packed, for ours ([`thumbprint_ggml::ggml::packed`]).
    Packed(Packing),
}

const PACKED_BF16: &str = "packed_bf16";
const PACKED_F32: &str = "packed_f32";

impl Scratch {
    /// For people and for records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows(ty) => ty.name(),
            Self::Packed(Packing::Bf16) => PACKED_BF16,
            Self::Packed(Packing::F32) => PACKED_F32,
        }
    }

    /// Bytes of a matrix of so many elements, about.
    pub fn bytes(self, elements: usize) -> usize {
        let each = match self {
            Self::Rows(ty) => ty.type_size(),
            Self::Packed(packing) => size_of::<u32>() / packing.inputs(),
        };
        each * elements
    }
}

impl Serialize for Scratch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Scratch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.as_str() {
            PACKED_BF16 => return Ok(Self::Packed(Packing::Bf16)),
            PACKED_F32 => return Ok(Self::Packed(Packing::F32)),
            _ => {}
        }
        let ty = GgmlType::ALL.iter().find(|ty| ty.name() == name);
        ty.map(|ty| Self::Rows(*ty))
            .ok_or_else(|| D::Error::custom(format!("no form of scratch matrices: {name}")))
    }
}
