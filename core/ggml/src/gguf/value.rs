//! Metadata values, decoded when asked for.

use super::GgufError;

/// The kinds of metadata values, with the numbers that GGUF gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueKind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

/// A metadata value. Strings and arrays borrow from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata values of one kind, still encoded: a vocabulary of 262,144 strings costs nothing until it is read.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    kind: ValueKind,
    len: usize,
    bytes: &'a [u8],
}

/// A number (or truth value) that GGUF stores in a fixed number of little-endian bytes.
pub trait Scalar: Copy + private::Sealed {
    /// Its kind in a file.
    const KIND: ValueKind;
    /// Decodes the first bytes of `bytes`.
    #[doc(hidden)]
    fn decode(bytes: &[u8]) -> Self;
    /// Appends the encoded value.
    #[doc(hidden)]
    fn encode(self, out: &mut Vec<u8>);
}

impl ValueKind {
    /// The kind that GGUF numbers `id`.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        use ValueKind::*;
        [
            U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64,
        ]
        .get(id as usize)
        .copied()
    }

    /// Bytes of one value; `None` where that depends on the value.
    pub(super) fn size(self) -> Option<usize> {
        use ValueKind::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }

    /// The name used in messages, such as `u32`.
    pub fn name(self) -> &'static str {
        use ValueKind::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }
}

impl<'a> Value<'a> {
    /// The kind of the value.
    pub fn kind(&self) -> ValueKind {
        match self {
            Value::U8(_) => ValueKind::U8,
            Value::I8(_) => ValueKind::I8,
            Value::U16(_) => ValueKind::U16,
            Value::I16(_) => ValueKind::I16,
            Value::U32(_) => ValueKind::U32,
            Value::I32(_) => ValueKind::I32,
            Value::F32(_) => ValueKind::F32,
            Value::Bool(_) => ValueKind::Bool,
            Value::String(_) => ValueKind::String,
            Value::Array(_) => ValueKind::Array,
            Value::U64(_) => ValueKind::U64,
            Value::I64(_) => ValueKind::I64,
            Value::F64(_) => ValueKind::F64,
        }
    }

    /// The value if it is a `u32`. Kinds are never converted: llama.cpp does not either.
    pub fn as_u32(&self) -> Option<u32> {
        if let Value::U32(value) = *self {
            Some(value)
        } else {
            None
        }
    }

    /// The value if it is an `f32`.
    pub fn as_f32(&self) -> Option<f32> {
        if let Value::F32(value) = *self {
            Some(value)
        } else {
            None
        }
    }

    /// The value if it is a `bool`.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = *self {
            Some(value)
        } else {
            None
        }
    }

    /// The value if it is a string.
    pub fn as_str(&self) -> Option<&'a str> {
        if let Value::String(value) = *self {
            Some(value)
        } else {
            None
        }
    }

    /// The value if it is an array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        if let Value::Array(value) = *self {
            Some(value)
        } else {
            None
        }
    }

    /// The kind as messages name it, such as `u32` or `array of string`.
    pub(super) fn kind_name(&self) -> String {
        match self {
            Value::Array(array) => format!("array of {}", array.kind.name()),
            other => other.kind().name().to_owned(),
        }
    }

    /// Decodes a scalar or a string whose extent the parser has checked.
    pub(super) fn decode(kind: ValueKind, bytes: &'a [u8]) -> Result<Self, std::str::Utf8Error> {
        Ok(match kind {
            ValueKind::U8 => Value::U8(Scalar::decode(bytes)),
            ValueKind::I8 => Value::I8(Scalar::decode(bytes)),
            ValueKind::U16 => Value::U16(Scalar::decode(bytes)),
            ValueKind::I16 => Value::I16(Scalar::decode(bytes)),
            ValueKind::U32 => Value::U32(Scalar::decode(bytes)),
            ValueKind::I32 => Value::I32(Scalar::decode(bytes)),
            ValueKind::F32 => Value::F32(Scalar::decode(bytes)),
            ValueKind::Bool => Value::Bool(Scalar::decode(bytes)),
            ValueKind::U64 => Value::U64(Scalar::decode(bytes)),
            ValueKind::I64 => Value::I64(Scalar::decode(bytes)),
            ValueKind::F64 => Value::F64(Scalar::decode(bytes)),
            ValueKind::String | ValueKind::Array => Value::String(std::str::from_utf8(bytes)?),
        })
    }
}

impl<'a> Array<'a> {
    pub(super) fn new(kind: ValueKind, len: usize, bytes: &'a [u8]) -> Self {
        Array { kind, len, bytes }
    }

    /// The kind of its elements; never [`ValueKind::Array`].
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, if they are of kind `T`.
    pub fn values<T: Scalar>(&self) -> Option<impl ExactSizeIterator<Item = T> + use<'a, T>> {
        (self.kind == T::KIND).then(|| self.bytes.chunks_exact(size_of::<T>()).map(T::decode))
    }

    /// The elements, if they are strings. Bytes, because vocabularies exist whose tokens are not UTF-8.
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.kind == ValueKind::String).then_some(Strings {
            rest: self.bytes,
            left: self.len,
        })
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}; {}]", self.kind.name(), self.len)
    }
}

/// The strings of an [`Array`], in order.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (length, rest) = self.rest.split_at(8);
        let (string, rest) = rest.split_at(u64::decode(length) as usize);
        self.rest = rest;
        Some(string)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// Says that the value of `key` is not what it must be.
pub(super) fn wrong_kind(key: &str, expected: impl Into<String>, found: Value<'_>) -> GgufError {
    GgufError::WrongKeyType {
        key: key.to_owned(),
        expected: expected.into(),
        found: found.kind_name(),
    }
}

mod private {
    pub trait Sealed {}
}

macro_rules! scalars {
    ($($ty:ty => $kind:ident,)*) => {$(
        impl private::Sealed for $ty {}
        impl Scalar for $ty {
            const KIND: ValueKind = ValueKind::$kind;
            fn decode(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$ty>()];
                raw.copy_from_slice(&bytes[..size_of::<$ty>()]);
                <$ty>::from_le_bytes(raw)
            }
            fn encode(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

scalars! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, u64 => U64, i64 => I64, f64 => F64,
}

impl private::Sealed for bool {}
impl Scalar for bool {
    const KIND: ValueKind = ValueKind::Bool;
    fn decode(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
    fn encode(self, out: &mut Vec<u8>) {
        out.push(self.into());
    }
}
