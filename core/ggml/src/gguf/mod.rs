//! GGUF files: checked parsing over a memory map, and writing.
//!
//! ggml's own reader aborts the process on some malformed files, and llama.cpp on more. So files are parsed and checked
//! here first, in safe code: [`Gguf::open`] accepts only files that ggml's reader accepts, [`check_model`] and
//! [`check_adapter`] only those that llama.cpp can then load and compute with. Nothing here calls ggml.

mod adapter;
mod error;
mod model;
mod parse;
mod types;
mod value;
mod writer;

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

pub use adapter::{LoraPair, check_adapter, check_adapter_for};
pub use error::GgufError;
pub use model::check_model;
pub use types::GgmlType;
pub use value::{Array, Scalar, Strings, Value, ValueKind};
pub use writer::{GgufWriter, MetaValue};

use parse::Layout;
use value::wrong_kind;

/// The longest tensor name in bytes (ggml's `GGML_MAX_NAME` counts the final zero).
pub const MAX_TENSOR_NAME: usize = 63;

/// The alignment of tensor data where `general.alignment` says nothing, in bytes.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// A GGUF file, parsed and checked. Tensor data stays in the file and is paged in when touched.
#[derive(Debug)]
pub struct Gguf {
    storage: Storage,
    layout: Layout,
}

/// One tensor of a [`Gguf`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, at most [`MAX_TENSOR_NAME`] bytes.
    pub name: String,
    /// Elements along each dimension, fastest first (ggml's `ne`); 1 beyond `n_dims`.
    pub dims: [i64; 4],
    /// The number of dimensions, 1 to 4.
    pub n_dims: usize,
    /// The format of its elements.
    pub ty: GgmlType,
    /// Where its data starts, in bytes from the start of [`Gguf::data_region`]; a multiple of [`Gguf::alignment`].
    pub offset: usize,
    /// The size of its data in bytes.
    pub n_bytes: usize,
}

#[derive(Debug)]
enum Storage {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl TensorInfo {
    /// The number of elements.
    pub fn n_elements(&self) -> usize {
        self.dims.iter().product::<i64>() as usize
    }

    /// The shape without the trailing ones that only fill up to four dimensions, fastest first.
    pub fn shape(&self) -> &[i64] {
        &self.dims[..self.n_dims]
    }
}

impl Gguf {
    /// Maps the file read-only, parses it and checks all of it but the tensors' values.
    ///
    /// The file must not be changed in place or shortened while it is open (replacing it by a rename is fine): as with
    /// every memory map, the system kills a process that reads pages which are no longer there.
    ///
    /// # Errors
    /// [`GgufError::Open`], or [`GgufError::InFile`] with what is malformed.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        let path = path.as_ref();
        let map = map(path).map_err(|source| GgufError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::from_storage(Storage::Mapped(map)).map_err(|problem| GgufError::InFile {
            path: path.to_owned(),
            problem: Box::new(problem),
        })
    }

    /// Parses and checks a file that is already in memory.
    ///
    /// # Errors
    /// What is malformed.
    pub fn parse(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
        Self::from_storage(Storage::Owned(bytes))
    }

    fn from_storage(storage: Storage) -> Result<Gguf, GgufError> {
        let layout = parse::parse(storage.bytes())?;
        let gguf = Gguf { storage, layout };
        model::check_kinds(&gguf)?;
        Ok(gguf)
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.layout.version
    }

    /// The alignment of tensor data in bytes, a power of two.
    pub fn alignment(&self) -> usize {
        self.layout.alignment
    }

    /// `general.architecture`, such as `llama`.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`].
    pub fn architecture(&self) -> Result<&str, GgufError> {
        self.str("general.architecture")
    }

    /// The keys in the order of the file.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.layout.entries.iter().map(|entry| entry.key.as_str())
    }

    /// The value of a key, if the file has it.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let entry = &self.layout.entries[*self.layout.by_key.get(key)?];
        Some(entry.value(self.bytes()))
    }

    /// The value of a `u32` key.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] or [`GgufError::WrongKeyType`]; so for all the typed accessors.
    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.typed(key, "u32", |value| value.as_u32())
    }

    /// The value of an `f32` key.
    ///
    /// # Errors
    /// As [`u32`](Self::u32).
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.typed(key, "f32", |value| value.as_f32())
    }

    /// The value of a `bool` key.
    ///
    /// # Errors
    /// As [`u32`](Self::u32).
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        self.typed(key, "bool", |value| value.as_bool())
    }

    /// The value of a string key.
    ///
    /// # Errors
    /// As [`u32`](Self::u32).
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        self.typed(key, "string", |value| value.as_str())
    }

    /// The value of an array key.
    ///
    /// # Errors
    /// As [`u32`](Self::u32).
    pub fn array(&self, key: &str) -> Result<Array<'_>, GgufError> {
        self.typed(key, "array", |value| value.as_array())
    }

    /// The value of a `u32` key, or `default` where the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongKeyType`]; so for all the accessors with a default.
    pub fn u32_or(&self, key: &str, default: u32) -> Result<u32, GgufError> {
        or_default(self.u32(key), default)
    }

    /// The value of an `f32` key, or `default` where the key is absent.
    ///
    /// # Errors
    /// As [`u32_or`](Self::u32_or).
    pub fn f32_or(&self, key: &str, default: f32) -> Result<f32, GgufError> {
        or_default(self.f32(key), default)
    }

    /// The value of a `bool` key, or `default` where the key is absent.
    ///
    /// # Errors
    /// As [`u32_or`](Self::u32_or).
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool, GgufError> {
        or_default(self.bool(key), default)
    }

    /// The value of a string key, or `default` where the key is absent.
    ///
    /// # Errors
    /// As [`u32_or`](Self::u32_or).
    pub fn str_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, GgufError> {
        or_default(self.str(key), default)
    }

    /// The tensors in the order of the file, which is the order of their data.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.layout.tensors
    }

    /// The tensor of that name, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.layout
            .by_name
            .get(name)
            .map(|&index| &self.layout.tensors[index])
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn require_tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensor(name).ok_or_else(|| GgufError::MissingTensor {
            tensor: name.to_owned(),
        })
    }

    /// The encoded elements of a tensor, where they lie in the file.
    ///
    /// # Panics
    /// When `tensor` comes from a longer file than this one.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.bytes()[self.file_range(tensor)]
    }

    /// Where a tensor's data lies in the file, in bytes.
    pub fn file_range(&self, tensor: &TensorInfo) -> Range<usize> {
        let start = self.layout.data_offset + tensor.offset;
        start..start + tensor.n_bytes
    }

    /// All tensor data with the padding between: what a ggml buffer over the file wraps.
    /// [`TensorInfo::offset`] counts from its start.
    pub fn data_region(&self) -> &[u8] {
        &self.bytes()[self.layout.data_offset..]
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// Tells the system that the pages of `range` (bytes of the file) are not needed for now, so that they stop counting
    /// as this process's memory. Reading them later fetches them again, from the page cache where they still are there.
    ///
    /// Does nothing for a file that was parsed from memory, or where the system knows no such advice.
    ///
    /// # Panics
    /// When the range does not lie within the file.
    pub fn advise_dont_need(&self, range: Range<usize>) {
        let length = self.bytes()[range.clone()].len();
        #[cfg(unix)]
        if let Storage::Mapped(map) = &self.storage
            && length > 0
        {
            // SAFETY: the map is shared, file-backed and read-only, so MADV_DONTNEED drops no data: the next access
            // reads the same bytes from the file.
            let advised = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, length)
            };
            // Only advice: whoever refuses it has lost nothing.
            let _ = advised;
        }
        #[cfg(not(unix))]
        let _ = length;
    }

    /// Every key, with its kind and value as they stand in the file.
    fn encoded_entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.layout
            .entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.encoded(self.bytes())))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<T, GgufError> {
        let value = self.get(key).ok_or_else(|| GgufError::MissingKey {
            key: key.to_owned(),
        })?;
        convert(&value).ok_or_else(|| wrong_kind(key, expected, value))
    }
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Storage::Mapped(map) => map,
            Storage::Owned(bytes) => bytes,
        }
    }
}

fn map(path: &Path) -> io::Result<Mmap> {
    // Opening a pipe would wait for a writer, so look first.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let file = fs::File::open(path)?;
    // SAFETY: the map is read-only, and `Gguf::open` documents that the file must not be changed in place meanwhile.
    // Model and adapter files are replaced by rename only.
    unsafe { Mmap::map(&file) }
}

fn or_default<T>(value: Result<T, GgufError>, default: T) -> Result<T, GgufError> {
    match value {
        Err(GgufError::MissingKey { .. }) => Ok(default),
        other => other,
    }
}
