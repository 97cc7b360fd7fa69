//! Writing GGUF files.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::value::{Scalar, ValueKind};
use super::{DEFAULT_ALIGNMENT, GgmlType, Gguf, GgufError, MAX_TENSOR_NAME, parse};

/// Collects keys and tensors, and writes them as a GGUF file of version 3.
///
/// Keys and tensors are written in the order in which they were given; the same calls give the same bytes.
/// `'a` is the life of tensor data that is borrowed rather than owned.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter<'a> {
    entries: Vec<Entry>,
    tensors: Vec<Tensor<'a>>,
}

/// A value that [`GgufWriter::set`] takes: numbers, `bool`, strings, and slices or vectors of these.
pub trait MetaValue {
    /// Appends the kind and the value as they stand in a file.
    #[doc(hidden)]
    fn encode_value(&self, out: &mut Vec<u8>);
}

#[derive(Clone, Debug)]
struct Entry {
    key: String,
    /// The kind and the value, encoded.
    value: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Tensor<'a> {
    name: String,
    dims: Vec<i64>,
    ty: GgmlType,
    /// None for one whose data is made as the file is written.
    data: Option<Cow<'a, [u8]>>,
}

impl<'a> GgufWriter<'a> {
    /// A file without keys and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key, in the place of an earlier value if there is one.
    pub fn set(&mut self, key: &str, value: impl MetaValue) -> &mut Self {
        let mut encoded = Vec::new();
        value.encode_value(&mut encoded);
        self.set_encoded(key, encoded);
        self
    }

    /// Copies every key of another file.
    pub fn copy_keys(&mut self, from: &Gguf) -> &mut Self {
        for (key, value) in from.encoded_entries() {
            self.set_encoded(key, value.to_vec());
        }
        self
    }

    /// Removes a key, if it was set.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.entries.retain(|entry| entry.key != key);
        self
    }

    /// Adds a tensor. `dims` are the elements along each dimension, fastest first; `data` holds the encoded rows.
    pub fn tensor(
        &mut self,
        name: &str,
        dims: &[i64],
        ty: GgmlType,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> &mut Self {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dims: dims.to_owned(),
            ty,
            data: Some(data.into()),
        });
        self
    }

    /// Adds a tensor whose data is made when it is written, by [`write_with`](Self::write_with): a model need not fit the memory.
    pub fn declare(&mut self, name: &str, dims: &[i64], ty: GgmlType) -> &mut Self {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dims: dims.to_owned(),
            ty,
            data: None,
        });
        self
    }

    /// Adds an F32 tensor.
    pub fn tensor_f32(&mut self, name: &str, dims: &[i64], values: &[f32]) -> &mut Self {
        let data: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.tensor(name, dims, GgmlType::F32, data)
    }

    /// Writes the file to a stream.
    ///
    /// # Errors
    /// What [`Gguf::parse`] would refuse about keys and tensors, before anything is written; [`GgufError::TensorData`];
    /// [`GgufError::Stream`].
    pub fn write_to(&self, out: &mut impl Write) -> Result<(), GgufError> {
        // A tensor that was only declared has fewer bytes than it should.
        self.write_with(out, &mut |_, _| Ok(()))
    }

    /// The same, where `make` writes the data of the tensor of that name, for each that was [declared](Self::declare).
    ///
    /// # Errors
    /// As [`write_to`](Self::write_to), and what `make` says; [`GgufError::TensorData`] where it writes more or less than the tensor
    /// takes.
    pub fn write_with(
        &self,
        out: &mut impl Write,
        make: &mut dyn FnMut(&str, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), GgufError> {
        let (alignment, sizes) = self.check()?;
        let header = self.header(alignment, &sizes);
        out.write_all(&header)?;
        if self.tensors.is_empty() {
            return Ok(());
        }
        write_padding(out, header.len(), alignment)?;
        for (tensor, &size) in self.tensors.iter().zip(&sizes) {
            let mut counted = Counted { out, n: 0 };
            match &tensor.data {
                Some(data) => counted.write_all(data)?,
                None => make(&tensor.name, &mut counted)?,
            }
            let found = counted.n;
            if found != size {
                return Err(tensor_data(tensor, size, found));
            }
            write_padding(out, size, alignment)?;
        }
        Ok(())
    }

    /// The file as bytes.
    ///
    /// # Errors
    /// As [`write_to`](Self::write_to).
    pub fn to_bytes(&self) -> Result<Vec<u8>, GgufError> {
        let mut out = Vec::new();
        self.write_to(&mut out)?;
        Ok(out)
    }

    /// Writes the file so that `path` holds either what it held before or the whole new file, also after a power cut:
    /// a temporary file beside it, synced, renamed, and the folder synced.
    ///
    /// # Errors
    /// As [`write_to`](Self::write_to), with [`GgufError::Write`] for what the system refused. The temporary file is
    /// removed.
    pub fn write_atomic(&self, path: impl AsRef<Path>) -> Result<(), GgufError> {
        let path = path.as_ref();
        let temporary = temporary_beside(path);
        let result = self.write_and_rename(&temporary, path);
        if result.is_err() {
            // The error to report is the first one.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn write_and_rename(&self, temporary: &Path, path: &Path) -> Result<(), GgufError> {
        let failed = |step| {
            move |source| GgufError::Write {
                path: path.to_owned(),
                step,
                source,
            }
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(temporary);
        let mut out = BufWriter::new(file.map_err(failed("create a temporary file beside it"))?);
        self.write_to(&mut out).map_err(|error| match error {
            GgufError::Stream(source) => failed("write the data")(source),
            other => other,
        })?;
        let file = out
            .into_inner()
            .map_err(|error| failed("write the data")(error.into_error()))?;
        file.sync_all().map_err(failed("sync the data"))?;
        drop(file);
        fs::rename(temporary, path).map_err(failed("rename the temporary file"))?;
        sync_folder(path).map_err(failed("sync the folder"))
    }

    /// Checks everything that a reader would refuse, and gives the alignment and each tensor's bytes.
    fn check(&self) -> Result<(usize, Vec<usize>), GgufError> {
        // Reading back what will be written, with tensors that take no data, finds all that is wrong with the keys.
        let keys_only = GgufWriter {
            entries: self.entries.clone(),
            tensors: Vec::new(),
        };
        let keys = Gguf::parse(keys_only.header(DEFAULT_ALIGNMENT, &[]))?;
        let mut names = std::collections::HashSet::new();
        let mut sizes = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            let (name, length) = (&tensor.name, tensor.name.len());
            if length == 0 || length > MAX_TENSOR_NAME {
                return Err(GgufError::TensorNameLength {
                    offset: 0,
                    length: length as u64,
                });
            }
            if name.contains('\0') {
                return Err(GgufError::ZeroByte {
                    what: "a tensor name",
                    offset: 0,
                });
            }
            if !names.insert(name) {
                return Err(GgufError::DuplicateTensor {
                    tensor: name.clone(),
                });
            }
            if !(1..=4).contains(&tensor.dims.len()) {
                return Err(GgufError::TensorRank {
                    tensor: name.clone(),
                    n_dims: tensor.dims.len() as u64,
                });
            }
            let expected = parse::tensor_bytes(name, &tensor.dims, tensor.ty)?;
            let found = tensor.data.as_ref().map_or(expected, |data| data.len());
            if found != expected {
                return Err(tensor_data(tensor, expected, found));
            }
            sizes.push(expected);
        }
        Ok((keys.alignment(), sizes))
    }

    /// Everything before the tensor data, without the padding.
    fn header(&self, alignment: usize, sizes: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(b"GGUF");
        3u32.encode(&mut out);
        (self.tensors.len() as u64).encode(&mut out);
        (self.entries.len() as u64).encode(&mut out);
        for entry in &self.entries {
            encode_string(&entry.key, &mut out);
            out.extend_from_slice(&entry.value);
        }
        let mut offset = 0;
        for (tensor, size) in self.tensors.iter().zip(sizes) {
            encode_string(&tensor.name, &mut out);
            (tensor.dims.len() as u32).encode(&mut out);
            for &dim in &tensor.dims {
                dim.encode(&mut out);
            }
            (tensor.ty as u32).encode(&mut out);
            (offset as u64).encode(&mut out);
            offset = (offset + size).next_multiple_of(alignment);
        }
        out
    }

    fn set_encoded(&mut self, key: &str, value: Vec<u8>) {
        match self.entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.value = value,
            None => self.entries.push(Entry {
                key: key.to_owned(),
                value,
            }),
        }
    }
}

/// A stream that counts what goes through it.
struct Counted<'a, W> {
    out: &'a mut W,
    n: usize,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.n += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn tensor_data(tensor: &Tensor<'_>, expected: usize, found: usize) -> GgufError {
    GgufError::TensorData {
        tensor: tensor.name.clone(),
        expected: expected as u64,
        found: found as u64,
    }
}

fn encode_string(string: &str, out: &mut Vec<u8>) {
    (string.len() as u64).encode(out);
    out.extend_from_slice(string.as_bytes());
}

fn write_padding(out: &mut impl Write, written: usize, alignment: usize) -> io::Result<()> {
    let mut left = written.next_multiple_of(alignment) - written;
    while left > 0 {
        let chunk = left.min(64);
        out.write_all(&[0; 64][..chunk])?;
        left -= chunk;
    }
    Ok(())
}

/// A name in the same folder, so that the rename stays within one file system, that no other call uses.
fn temporary_beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(
        ".{}-{}.tmp",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ));
    path.with_file_name(name)
}

/// Makes a rename durable. Windows has no such call, and needs none.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

impl<T: Scalar> MetaValue for T {
    fn encode_value(&self, out: &mut Vec<u8>) {
        (T::KIND as u32).encode(out);
        self.encode(out);
    }
}

impl<T: Scalar> MetaValue for &[T] {
    fn encode_value(&self, out: &mut Vec<u8>) {
        encode_array(T::KIND, self, out, |item, out| item.encode(out));
    }
}

impl MetaValue for &str {
    fn encode_value(&self, out: &mut Vec<u8>) {
        (ValueKind::String as u32).encode(out);
        encode_string(self, out);
    }
}

impl MetaValue for &[&str] {
    fn encode_value(&self, out: &mut Vec<u8>) {
        encode_array(ValueKind::String, self, out, |item, out| {
            encode_string(item, out)
        });
    }
}

impl MetaValue for &[String] {
    fn encode_value(&self, out: &mut Vec<u8>) {
        encode_array(ValueKind::String, self, out, |item, out| {
            encode_string(item, out)
        });
    }
}

fn encode_array<T>(
    kind: ValueKind,
    items: &[T],
    out: &mut Vec<u8>,
    encode: impl Fn(&T, &mut Vec<u8>),
) {
    (ValueKind::Array as u32).encode(out);
    (kind as u32).encode(out);
    (items.len() as u64).encode(out);
    for item in items {
        encode(item, out);
    }
}
