//! What can be wrong with a GGUF file, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a GGUF file cannot be read, used or written. Offsets are in bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// A problem of the file at `path`.
    #[error("{}: {problem}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: Box<GgufError>,
    },
    /// The file cannot be opened or mapped.
    #[error("cannot open {}: {source}; check that it is a file that exists and may be read", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {} (failed to {step}): {source}; check that the folder exists, may be written to and has free space", path.display())]
    Write {
        /// The file that was to be written; what stood there before is untouched.
        path: PathBuf,
        /// The step that failed.
        step: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A stream refused the bytes.
    #[error("cannot write the GGUF data: {0}")]
    Stream(#[from] io::Error),

    /// The first four bytes are not `GGUF`.
    #[error(
        "not a GGUF file: it begins with bytes {found:02x?} instead of \"GGUF\"; give a model or adapter in GGUF format"
    )]
    WrongMagic {
        /// The first bytes of the file.
        found: [u8; 4],
    },
    /// Numbers are stored most significant byte first.
    #[error("this GGUF file is big-endian (byte 4); convert it to little-endian first")]
    BigEndian,
    /// A version other than 2 and 3.
    #[error(
        "GGUF version {version} (byte 4) is not supported, only 2 and 3; convert the model again with a current llama.cpp"
    )]
    UnsupportedVersion {
        /// The version in the file.
        version: u32,
    },
    /// The file ends before something that must be there.
    #[error(
        "the file ends too early: {what} at byte {offset} takes {needed} bytes and {available} are left; copy or download the file again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it starts.
        offset: u64,
        /// Its size.
        needed: u64,
        /// The bytes left from there.
        available: u64,
    },
    /// More keys, tensors or elements than the file could hold.
    #[error(
        "damaged file: byte {offset} announces {count} {what}, but the rest of the file has room for at most {limit}; copy or download it again"
    )]
    TooMany {
        /// What is counted.
        what: String,
        /// The announced number.
        count: u64,
        /// Where the number stands.
        offset: u64,
        /// The most that the rest of the file could hold.
        limit: u64,
    },

    /// A key is empty, or longer than 65,535 bytes.
    #[error(
        "the key at byte {offset} is {length} bytes long; keys have 1 to 65535 bytes, so the file is damaged"
    )]
    KeyLength {
        /// Where the key stands.
        offset: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// A key, a string value or a tensor name is not UTF-8.
    #[error("{what} at byte {offset} is not UTF-8; the file is damaged")]
    NotUtf8 {
        /// What was being read.
        what: String,
        /// Where it stands.
        offset: u64,
    },
    /// A key or a tensor name with a zero byte, behind which C reads no further.
    #[error("{what} at byte {offset} contains a zero byte; the file is damaged")]
    ZeroByte {
        /// What was being read.
        what: &'static str,
        /// Where it stands.
        offset: u64,
    },
    /// The same key twice.
    #[error("key {key:?} occurs twice, again at byte {offset}; the file is damaged")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands the second time.
        offset: u64,
    },
    /// A kind of value that GGUF does not define.
    #[error("key {key:?} has a value of unknown kind {kind} at byte {offset}; the file is damaged")]
    UnknownValueKind {
        /// The key.
        key: String,
        /// The number found in the place of the kind.
        kind: u32,
        /// Where it stands.
        offset: u64,
    },
    /// An array of arrays.
    #[error("key {key:?} holds an array of arrays (byte {offset}), which llama.cpp does not read")]
    NestedArray {
        /// The key.
        key: String,
        /// Where it stands.
        offset: u64,
    },
    /// A key that is needed is absent.
    #[error(
        "key {key:?} is missing; this file is not the kind of model or adapter that is needed here"
    )]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key holds a value of another kind than llama.cpp demands.
    #[error(
        "key {key:?} must be {expected} and is {found}; the file was written by a faulty converter"
    )]
    WrongKeyType {
        /// The key.
        key: String,
        /// The kind or kinds it may have.
        expected: String,
        /// The kind it has.
        found: String,
    },
    /// A key has a value that llama.cpp cannot work with.
    #[error(
        "key {key:?} is {found}, but must be {expected}; the file was written by a faulty converter"
    )]
    BadKeyValue {
        /// The key.
        key: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// `general.alignment` is not a power of two.
    #[error("general.alignment is {alignment} and must be a power of two")]
    BadAlignment {
        /// The value in the file.
        alignment: u32,
    },

    /// A tensor name is empty or longer than ggml's 63 bytes.
    #[error("the tensor name at byte {offset} is {length} bytes long; names have 1 to 63 bytes")]
    TensorNameLength {
        /// Where the name stands.
        offset: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// Two tensors with one name.
    #[error("tensor {tensor:?} occurs twice; the file is damaged")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// A tensor with 0 or more than 4 dimensions.
    #[error("tensor {tensor:?} has {n_dims} dimensions; ggml tensors have 1 to 4")]
    TensorRank {
        /// The name.
        tensor: String,
        /// The number of dimensions.
        n_dims: u64,
    },
    /// A dimension below 1, or a product that no memory can hold.
    #[error("tensor {tensor:?} has the impossible shape {dims:?}; the file is damaged")]
    TensorShape {
        /// The name.
        tensor: String,
        /// The dimensions, fastest first.
        dims: Vec<i64>,
    },
    /// A tensor type that this ggml version does not have.
    #[error(
        "tensor {tensor:?} has type {ty}, which this version does not know or no longer supports; use another quantization of the model"
    )]
    UnknownTensorType {
        /// The name.
        tensor: String,
        /// The number of the type.
        ty: u32,
    },
    /// Rows that do not hold whole blocks.
    #[error(
        "tensor {tensor:?} has rows of {row} elements, which {ty} cannot hold: its blocks have {block}"
    )]
    TensorBlocks {
        /// The name.
        tensor: String,
        /// Elements of a row.
        row: i64,
        /// The type.
        ty: super::GgmlType,
        /// Elements of a block of that type.
        block: usize,
    },
    /// Data that does not start where the data of the tensor before it ends (padded to the alignment).
    #[error(
        "the data of tensor {tensor:?} is said to start at {offset}, but must start at {expected} of the data section; the file is damaged"
    )]
    TensorOffset {
        /// The name.
        tensor: String,
        /// The offset in the file, from the start of the data section.
        offset: u64,
        /// The only offset that llama.cpp accepts.
        expected: u64,
    },
    /// A tensor that is needed is absent.
    #[error(
        "tensor {tensor:?} is missing; this file is not the kind of model or adapter that is needed here"
    )]
    MissingTensor {
        /// The name.
        tensor: String,
    },
    /// A tensor's bytes do not match its shape (when writing).
    #[error(
        "tensor {tensor:?} was given {found} bytes of data, but its shape and type take {expected}"
    )]
    TensorData {
        /// The name.
        tensor: String,
        /// Bytes that the shape takes.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// A tensor that llama.cpp could load but not compute with.
    #[error("tensor {tensor:?} {problem}; use another file")]
    UnusableTensor {
        /// The name.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The model is one part of several files.
    #[error("the model is split into {parts} files; merge them first (llama-gguf-split --merge)")]
    SplitModel {
        /// The number of files.
        parts: u16,
    },
    /// Two tokens with one text.
    #[error(
        "tokens {first} and {second} of the vocabulary are the same, which llama.cpp does not survive; the file was written by a faulty converter"
    )]
    DuplicateToken {
        /// The first of the two.
        first: usize,
        /// The second of the two.
        second: usize,
    },

    /// Half of a LoRA pair is absent.
    #[error(
        "the adapter has {present:?} but not {missing:?}; the file is damaged or was not written as a LoRA"
    )]
    LoraPair {
        /// The tensor that is there.
        present: String,
        /// The tensor that is not.
        missing: String,
    },
    /// The adapter changes a tensor that the base model lacks, or that has another shape.
    #[error(
        "the adapter does not fit the base model: {tensor:?} {problem}; use the model that it was trained on"
    )]
    AdapterMismatch {
        /// The adapter's tensor or the base model's.
        tensor: String,
        /// What does not fit.
        problem: String,
    },
    /// The adapter belongs to another architecture.
    #[error(
        "the adapter is for architecture {adapter:?} and the base model is {base:?}; use the model that it was trained on"
    )]
    AdapterArchitecture {
        /// The adapter's architecture.
        adapter: String,
        /// The base model's.
        base: String,
    },
}
