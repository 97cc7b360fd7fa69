//! Everything that a run needs to continue as if it had never stopped, in one file.
//!
//! Layout, little-endian: magic (8 bytes), version (u32), zero (u32), length of the meta data in bytes (u64), number of parameters
//! `n` (u64), meta data (JSON), adapter values, AdamW's first and second moments (`n` f32 each), SHA-256 of all before it.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable::{self, WriteError};
use crate::objective::BcoState;
use crate::rng::Rng;

const MAGIC: &[u8; 8] = b"TPRINTCK";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const CHECKSUM: usize = 32;

/// What a run was made of. A checkpoint continues only the run that it was taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// Of the base model's file.
    pub base_model: String,
    /// Of the training examples.
    pub data: String,
    /// Of the settings.
    pub config: String,
    /// Of the resolved plan: kernels, memory plan, threads, steps.
    pub plan: String,
}

impl Hashes {
    /// The names of the parts in which `self` and `other` differ.
    pub fn differences(&self, other: &Hashes) -> Vec<&'static str> {
        [
            ("base model", &self.base_model, &other.base_model),
            ("training data", &self.data, &other.data),
            ("configuration", &self.config, &other.config),
            ("resolved plan", &self.plan, &other.plan),
        ]
        .into_iter()
        .filter(|(_, a, b)| a != b)
        .map(|(name, _, _)| name)
        .collect()
    }
}

/// Where a run is in its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes completed.
    pub epoch: u64,
    /// Examples of this pass that have been used.
    pub position: u64,
    /// The seed of [`crate::rng::epoch_order`].
    pub order_seed: u64,
}

/// The small part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// What the run was made of.
    pub hashes: Hashes,
    /// Updates that the optimizer has made.
    pub optimizer_step: u64,
    /// The state of the run's random stream (dropout).
    pub rng: Rng,
    /// Where the run is in its data.
    pub cursor: Cursor,
    /// The running means of unpaired BCO.
    pub bco: BcoState,
    /// What else the trainer carries along (the best held-out loss, say). JSON has no NaN and no infinities.
    pub progress: serde_json::Value,
}

/// The state of a run between two optimizer steps. Values survive bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The small part.
    pub meta: CheckpointMeta,
    /// The adapter, `[n]`.
    pub values: Vec<f32>,
    /// AdamW's first moment, `[n]`.
    pub m: Vec<f32>,
    /// AdamW's second moment, `[n]`.
    pub v: Vec<f32>,
}

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint {}: {problem}", path.display())]
pub struct CheckpointError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: CheckpointProblem,
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointProblem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// Not a checkpoint.
    #[error("is not a checkpoint file")]
    Magic,
    /// Written by another version of this library.
    #[error(
        "has format version {found}, and this version of the library reads {VERSION}; start the run again"
    )]
    Version {
        /// The file's version.
        found: u32,
    },
    /// Shorter or longer than its header says.
    #[error("has {found} bytes instead of {expected}: it was cut or added to")]
    Length {
        /// What the header says.
        expected: u64,
        /// What the file has.
        found: u64,
    },
    /// Changed since it was written.
    #[error("is damaged: its checksum does not match")]
    Checksum,
    /// Intact, but its meta data are not what this version writes.
    #[error("has meta data that cannot be read: {0}")]
    Meta(serde_json::Error),
    /// Taken from another run.
    #[error("belongs to another run (different: {}); start the run again, or restore what changed", .0.join(", "))]
    Different(Vec<&'static str>),
    /// Moments that do not belong to the values.
    #[error("would hold {values} adapter values, but {m} and {v} moments")]
    Lengths {
        /// Adapter values.
        values: usize,
        /// First moments.
        m: usize,
        /// Second moments.
        v: usize,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(WriteError),
}

impl Checkpoint {
    /// Writes the checkpoint in the place of the one at `path`, which stays until the new one is on the disk.
    ///
    /// # Errors
    /// What the system refused; `path` then holds what it held before.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        let in_file = |problem| CheckpointError {
            path: path.to_owned(),
            problem,
        };
        let (values, m, v) = (self.values.len(), self.m.len(), self.v.len());
        if values != m || values != v {
            return Err(in_file(CheckpointProblem::Lengths { values, m, v }));
        }
        let meta =
            serde_json::to_vec(&self.meta).map_err(|e| in_file(CheckpointProblem::Meta(e)))?;
        durable::replace(path, |out| self.write_to(&meta, out))
            .map_err(|e| in_file(CheckpointProblem::Write(e)))
    }

    /// Reads the checkpoint at `path`, if there is one, and checks that it is intact and of the run that `expected` describes.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or belongs to another run (with the parts that differ).
    pub fn load(path: &Path, expected: &Hashes) -> Result<Option<Checkpoint>, CheckpointError> {
        let in_file = |problem| CheckpointError {
            path: path.to_owned(),
            problem,
        };
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| in_file(CheckpointProblem::Read(e)))?,
        };
        let checkpoint = read_file(file).map_err(in_file)?;
        let differences = checkpoint.meta.hashes.differences(expected);
        if differences.is_empty() {
            Ok(Some(checkpoint))
        } else {
            Err(in_file(CheckpointProblem::Different(differences)))
        }
    }

    fn write_to(&self, meta: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let mut out = Hashing {
            inner: out,
            hash: Sha256::new(),
        };
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&0u32.to_le_bytes())?;
        out.write_all(&(meta.len() as u64).to_le_bytes())?;
        out.write_all(&(self.values.len() as u64).to_le_bytes())?;
        out.write_all(meta)?;
        for values in [&self.values, &self.m, &self.v] {
            write_f32(values, &mut out)?;
        }
        let Hashing { inner, hash } = out;
        inner.write_all(&hash.finalize())
    }
}

fn read_file(file: File) -> Result<Checkpoint, CheckpointProblem> {
    let found = file.metadata()?.len();
    let mut input = Hashing {
        inner: BufReader::with_capacity(1 << 16, file),
        hash: Sha256::new(),
    };
    let mut header = [0; HEADER];
    if found < HEADER as u64 {
        // What is too short for a header may still tell what it is.
        let mut start = Vec::new();
        input.read_to_end(&mut start)?;
        let cut = MAGIC.starts_with(&start[..start.len().min(MAGIC.len())]);
        let expected = (HEADER + CHECKSUM) as u64;
        return Err(if cut {
            CheckpointProblem::Length { expected, found }
        } else {
            CheckpointProblem::Magic
        });
    }
    input.read_exact(&mut header)?;
    let (magic, rest) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(CheckpointProblem::Magic);
    }
    let version = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
    if version != VERSION {
        return Err(CheckpointProblem::Version { found: version });
    }
    let u64_at = |at: usize| {
        rest[at..at + 8]
            .iter()
            .rev()
            .fold(0u64, |n, b| n << 8 | u64::from(*b))
    };
    let (meta_length, n) = (u64_at(8), u64_at(16));
    // Before anything is allocated: the lengths may be garbage.
    let expected = n.checked_mul(12).and_then(|x| {
        x.checked_add(meta_length)?
            .checked_add((HEADER + CHECKSUM) as u64)
    });
    if expected != Some(found) {
        return Err(CheckpointProblem::Length {
            expected: expected.unwrap_or(u64::MAX),
            found,
        });
    }
    let mut meta = vec![0; meta_length as usize];
    input.read_exact(&mut meta)?;
    let values = read_f32(n as usize, &mut input)?;
    let m = read_f32(n as usize, &mut input)?;
    let v = read_f32(n as usize, &mut input)?;
    let Hashing { mut inner, hash } = input;
    let mut checksum = [0; CHECKSUM];
    inner.read_exact(&mut checksum)?;
    if hash.finalize().as_slice() != checksum {
        return Err(CheckpointProblem::Checksum);
    }
    let meta = serde_json::from_slice(&meta).map_err(CheckpointProblem::Meta)?;
    Ok(Checkpoint { meta, values, m, v })
}

impl From<io::Error> for CheckpointProblem {
    fn from(e: io::Error) -> Self {
        CheckpointProblem::Read(e)
    }
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}

/// In pieces, so that a checkpoint needs no second copy in memory.
const PIECE: usize = 4096;

fn write_f32(values: &[f32], out: &mut impl Write) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * PIECE);
    for piece in values.chunks(PIECE) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn read_f32(n: usize, input: &mut impl Read) -> io::Result<Vec<f32>> {
    let mut values = Vec::with_capacity(n);
    let mut bytes = vec![0; 4 * PIECE];
    while values.len() < n {
        let piece = &mut bytes[..4 * PIECE.min(n - values.len())];
        input.read_exact(piece)?;
        let (words, _) = piece.as_chunks::<4>();
        values.extend(words.iter().map(|w| f32::from_le_bytes(*w)));
    }
    Ok(values)
}
