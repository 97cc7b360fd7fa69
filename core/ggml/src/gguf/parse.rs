//! The parser: one pass over the bytes, bounded by the size of the file.

use std::collections::HashMap;
use std::collections::hash_map;

use super::value::{Array, Scalar, Value, ValueKind};
use super::{DEFAULT_ALIGNMENT, GgmlType, GgufError, MAX_TENSOR_NAME, TensorInfo, value};

/// Where everything is in a file.
#[derive(Debug)]
pub(super) struct Layout {
    pub version: u32,
    pub alignment: usize,
    /// Where tensor data starts, in bytes from the start of the file; at most the size of the file.
    pub data_offset: usize,
    pub entries: Vec<Entry>,
    pub by_key: HashMap<String, usize>,
    pub tensors: Vec<TensorInfo>,
    pub by_name: HashMap<String, usize>,
}

/// A key and the place of its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    kind: ValueKind,
    /// For arrays: the kind and the number of elements.
    elements: Option<(ValueKind, usize)>,
    /// Where the number of the kind stands, which comes before the value.
    kind_at: usize,
    start: usize,
    end: usize,
}

/// Parses a whole file. Every extent in the result lies within `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Result<Layout, GgufError> {
    let mut input = Cursor { bytes, position: 0 };
    let version = header(&mut input)?;
    let n_tensors = count(&mut input, "tensors", MIN_TENSOR_BYTES)?;
    let n_entries = count(&mut input, "keys", MIN_ENTRY_BYTES)?;

    let mut entries = Vec::new();
    let mut by_key = HashMap::new();
    for index in 0..n_entries {
        let offset = input.position as u64;
        let entry = entry(&mut input)?;
        if by_key.insert(entry.key.clone(), index).is_some() {
            return Err(GgufError::DuplicateKey {
                key: entry.key,
                offset,
            });
        }
        entries.push(entry);
    }
    let alignment = match by_key.get("general.alignment") {
        Some(&index) => alignment(entries[index].value(bytes))?,
        None => DEFAULT_ALIGNMENT,
    };

    let mut tensors = Vec::new();
    let mut by_name = HashMap::new();
    for index in 0..n_tensors {
        let tensor = tensor_info(&mut input)?;
        match by_name.entry(tensor.name.clone()) {
            hash_map::Entry::Occupied(_) => {
                return Err(GgufError::DuplicateTensor {
                    tensor: tensor.name,
                });
            }
            hash_map::Entry::Vacant(place) => place.insert(index),
        };
        tensors.push(tensor);
    }

    let data_offset = input
        .position
        .checked_next_multiple_of(alignment)
        .unwrap_or(bytes.len())
        .min(bytes.len());
    check_extents(&tensors, alignment, data_offset, bytes.len())?;
    Ok(Layout {
        version,
        alignment,
        data_offset,
        entries,
        by_key,
        tensors,
        by_name,
    })
}

impl Entry {
    /// The value; `bytes` is the file that the entry was parsed from.
    pub fn value<'a>(&self, bytes: &'a [u8]) -> Value<'a> {
        let bytes = &bytes[self.start..self.end];
        match self.elements {
            Some((kind, len)) => Value::Array(Array::new(kind, len, bytes)),
            // `entry` refused strings that are not UTF-8.
            None => Value::decode(self.kind, bytes).unwrap_or(Value::String("")),
        }
    }

    /// The kind and the value as they stand in the file.
    pub fn encoded<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.kind_at..self.end]
    }
}

/// A key's length, one byte of key, the kind, one byte of value.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 1;
/// A name's length, one byte of name, the number of dimensions, one dimension, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 1 + 4 + 8 + 4 + 8;
/// The longest key that the GGUF specification allows.
const MAX_KEY: u64 = 65_535;

struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `length` bytes. `what` names them in the error.
    fn take(&mut self, length: u64, what: impl FnOnce() -> String) -> Result<&'a [u8], GgufError> {
        let available = self.left() as u64;
        if length > available {
            let offset = self.position as u64;
            return Err(GgufError::Truncated {
                what: what(),
                offset,
                needed: length,
                available,
            });
        }
        let start = self.position;
        self.position += length as usize;
        Ok(&self.bytes[start..self.position])
    }

    fn number<T: Scalar>(&mut self, what: impl FnOnce() -> String) -> Result<T, GgufError> {
        self.take(size_of::<T>() as u64, what).map(T::decode)
    }
}

fn header(input: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let start = &input.bytes[..input.bytes.len().min(4)];
    if !b"GGUF".starts_with(start) {
        let mut found = [0; 4];
        found[..start.len()].copy_from_slice(start);
        return Err(GgufError::WrongMagic { found });
    }
    input.take(4, || "the magic \"GGUF\"".into())?;
    let version: u32 = input.number(|| "the version".into())?;
    match version {
        2 | 3 => Ok(version),
        // A small number in the wrong byte order; ggml's test.
        _ if version != 0 && version & 0xffff == 0 => Err(GgufError::BigEndian),
        _ => Err(GgufError::UnsupportedVersion { version }),
    }
}

/// Reads a number of things that take at least `min_bytes` each.
fn count(input: &mut Cursor<'_>, what: &str, min_bytes: usize) -> Result<usize, GgufError> {
    let offset = input.position as u64;
    let count: u64 = input.number(|| format!("the number of {what}"))?;
    let limit = (input.left() / min_bytes) as u64;
    if count > limit {
        return Err(GgufError::TooMany {
            what: what.to_owned(),
            count,
            offset,
            limit,
        });
    }
    Ok(count as usize)
}

fn entry(input: &mut Cursor<'_>) -> Result<Entry, GgufError> {
    let offset = input.position as u64;
    let length: u64 = input.number(|| "the length of a key".into())?;
    if length == 0 || length > MAX_KEY {
        return Err(GgufError::KeyLength { offset, length });
    }
    let key = name(input, length, "a key")?;

    let kind_at = input.position;
    let kind = value_kind(input, &key)?;
    let elements = if kind == ValueKind::Array {
        let offset = input.position as u64;
        let kind = value_kind(input, &key)?;
        if kind == ValueKind::Array {
            return Err(GgufError::NestedArray { key, offset });
        }
        // Strings take at least the bytes of their length.
        let len = count(
            input,
            &format!("elements of key {key:?}"),
            kind.size().unwrap_or(size_of::<u64>()),
        )?;
        Some((kind, len))
    } else {
        None
    };

    let what = || format!("the value of key {key:?}");
    let mut start = input.position;
    match (elements, kind.size()) {
        (Some((ValueKind::String, len)), _) => {
            for _ in 0..len {
                let length: u64 = input.number(what)?;
                input.take(length, what)?;
            }
        }
        (Some((kind, len)), _) => {
            input.take((len * kind.size().unwrap_or(0)) as u64, what)?;
        }
        (None, Some(size)) => {
            input.take(size as u64, what)?;
        }
        (None, None) => {
            let length: u64 = input.number(what)?;
            start = input.position;
            let string = input.take(length, what)?;
            Value::decode(kind, string).map_err(|_| GgufError::NotUtf8 {
                what: what(),
                offset: start as u64,
            })?;
        }
    }
    Ok(Entry {
        kind,
        elements,
        kind_at,
        start,
        end: input.position,
        key,
    })
}

/// The `length` bytes of a key or a tensor name.
fn name(input: &mut Cursor<'_>, length: u64, what: &'static str) -> Result<String, GgufError> {
    let offset = input.position as u64;
    let bytes = input.take(length, || what.into())?;
    if bytes.contains(&0) {
        return Err(GgufError::ZeroByte { what, offset });
    }
    let name = str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 {
        what: what.into(),
        offset,
    })?;
    Ok(name.to_owned())
}

fn value_kind(input: &mut Cursor<'_>, key: &str) -> Result<ValueKind, GgufError> {
    let offset = input.position as u64;
    let kind: u32 = input.number(|| format!("the kind of key {key:?}"))?;
    ValueKind::from_id(kind).ok_or_else(|| GgufError::UnknownValueKind {
        key: key.to_owned(),
        kind,
        offset,
    })
}

fn alignment(value: Value<'_>) -> Result<usize, GgufError> {
    let alignment = value
        .as_u32()
        .ok_or_else(|| value::wrong_kind("general.alignment", "u32", value))?;
    if !alignment.is_power_of_two() {
        return Err(GgufError::BadAlignment { alignment });
    }
    Ok(alignment as usize)
}

fn tensor_info(input: &mut Cursor<'_>) -> Result<TensorInfo, GgufError> {
    let offset = input.position as u64;
    let length: u64 = input.number(|| "the length of a tensor name".into())?;
    if length == 0 || length > MAX_TENSOR_NAME as u64 {
        return Err(GgufError::TensorNameLength { offset, length });
    }
    let name = name(input, length, "a tensor name")?;

    let what = || format!("the description of tensor {name:?}");
    let n_dims: u32 = input.number(what)?;
    if !(1..=4).contains(&n_dims) {
        return Err(GgufError::TensorRank {
            tensor: name,
            n_dims: n_dims.into(),
        });
    }
    let n_dims = n_dims as usize;
    let mut dims = [1; 4];
    for dim in &mut dims[..n_dims] {
        *dim = input.number(what)?;
    }
    let ty: u32 = input.number(what)?;
    let offset: u64 = input.number(what)?;
    let ty = GgmlType::try_from(ty).map_err(|ty| GgufError::UnknownTensorType {
        tensor: name.clone(),
        ty,
    })?;
    let n_bytes = tensor_bytes(&name, &dims[..n_dims], ty)?;
    // An offset beyond the address space stays beyond the file, which `check_extents` refuses.
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    Ok(TensorInfo {
        name,
        dims,
        n_dims,
        ty,
        offset,
        n_bytes,
    })
}

/// The size of a tensor's data in bytes. Checks that the shape is one that ggml can represent.
pub(super) fn tensor_bytes(name: &str, dims: &[i64], ty: GgmlType) -> Result<usize, GgufError> {
    let impossible = || GgufError::TensorShape {
        tensor: name.to_owned(),
        dims: dims.to_owned(),
    };
    if dims.iter().any(|&dim| dim < 1) {
        return Err(impossible());
    }
    let (row, block) = (dims[0], ty.block_size());
    if row % block as i64 != 0 {
        return Err(GgufError::TensorBlocks {
            tensor: name.to_owned(),
            row,
            ty,
            block,
        });
    }
    let elements = dims
        .iter()
        .try_fold(1i64, |product, &dim| product.checked_mul(dim))
        .ok_or_else(impossible)?;
    let bytes = (elements / block as i64)
        .checked_mul(ty.type_size() as i64)
        .ok_or_else(impossible)?;
    usize::try_from(bytes).map_err(|_| impossible())
}

/// Tensors must follow each other without gaps other than padding, as ggml's reader demands, and end within the file.
fn check_extents(
    tensors: &[TensorInfo],
    alignment: usize,
    data_offset: usize,
    file_size: usize,
) -> Result<(), GgufError> {
    let available = (file_size - data_offset) as u64;
    let mut expected = 0u64;
    for tensor in tensors {
        if tensor.offset as u64 != expected {
            let (tensor, offset) = (tensor.name.clone(), tensor.offset as u64);
            return Err(GgufError::TensorOffset {
                tensor,
                offset,
                expected,
            });
        }
        let end = expected
            .checked_add(tensor.n_bytes as u64)
            .filter(|&end| end <= available);
        let Some(end) = end else {
            return Err(GgufError::Truncated {
                what: format!("the data of tensor {:?}", tensor.name),
                offset: data_offset as u64 + expected,
                needed: tensor.n_bytes as u64,
                available: available.saturating_sub(expected),
            });
        };
        expected = end.next_multiple_of(alignment as u64);
    }
    Ok(())
}
