//! Adapters as llama.cpp loads them.

use std::io;
use std::path::Path;

use thumbprint_ggml::ggml::quant::dequantize;
use thumbprint_ggml::gguf::{Gguf, GgufError, GgufWriter, TensorInfo, check_adapter};

use super::{AdapterError, Lora, LoraConfig, LoraShape, Module};
use crate::durable;
use crate::model::has_fused_matrices;

pub(super) const BASE_SHA256: &str = "thumbprint.base_sha256";
const VERSION: &str = "thumbprint.version";

/// An adapter with what its GGUF file says of its origin. Unmodified llama.cpp loads the file; it ignores the keys that are ours.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// The adapter. Read from a file it has no dropout and no seed.
    pub lora: Lora,
    /// `general.architecture` of the base model, such as `llama`.
    pub architecture: String,
    /// SHA-256 of the base model's file, in hexadecimal; None for adapters that others made.
    pub base_sha256: Option<String>,
}

impl AdapterFile {
    /// Writes the adapter in the place of what `path` holds, which stays until the new one is on the disk. The same adapter gives the
    /// same bytes.
    ///
    /// # Errors
    /// An adapter with values that are not finite, or what the system refused.
    pub fn write(&self, path: &Path) -> Result<(), AdapterError> {
        self.lora.check_finite()?;
        let file = self.encode();
        durable::replace(path, |mut out| {
            file.write_to(&mut out).map_err(|e| match e {
                GgufError::Stream(e) => e,
                other => io::Error::other(other),
            })
        })?;
        Ok(())
    }

    /// The file as bytes, for handing to llama.cpp without a file on the disk.
    ///
    /// # Errors
    /// An adapter with values that are not finite.
    pub fn to_bytes(&self) -> Result<Vec<u8>, AdapterError> {
        self.lora.check_finite()?;
        Ok(self.encode().to_bytes()?)
    }

    /// Reads an adapter that was written here or by llama.cpp's converter, of any type that the converter writes.
    ///
    /// # Errors
    /// A file that is malformed, has other tensors than those of [`Module`], pairs of different ranks, or values that are not finite.
    pub fn read(path: &Path) -> Result<Self, AdapterError> {
        AdapterFile::from_gguf(&Gguf::open(path)?)
    }

    /// As [`AdapterFile::read`], of a file that is open already.
    ///
    /// # Errors
    /// As [`AdapterFile::read`].
    pub fn from_gguf(file: &Gguf) -> Result<Self, AdapterError> {
        let pairs = check_adapter(file)?;
        let rank = pairs.first().map_or(0, |p| p.rank());
        let architecture = file.architecture()?;
        let fused = has_fused_matrices(architecture);
        let config = LoraConfig {
            rank,
            alpha: file.f32("adapter.lora.alpha")?,
            ..LoraConfig::default()
        };
        let mut read = Vec::with_capacity(pairs.len());
        for pair in &pairs {
            let Some((layer, module)) = parse_base(pair.base, fused) else {
                let problem = "changes a tensor that is not a matrix of a block".to_owned();
                return Err(AdapterError::Tensor {
                    tensor: pair.a.name.clone(),
                    problem,
                });
            };
            if pair.rank() != rank {
                let tensor = pair.b.name.clone();
                return Err(AdapterError::Rank {
                    tensor,
                    expected: rank,
                    found: pair.rank(),
                });
            }
            let shape = LoraShape {
                layer,
                module,
                n_in: pair.a.dims[0] as usize,
                n_out: pair.b.dims[1] as usize,
            };
            let f32s = |t: &TensorInfo| dequantize(t.ty, file.data(t), t.n_elements());
            read.push((shape, f32s(pair.a)?, f32s(pair.b)?));
        }
        let base_sha256 = match file.str(BASE_SHA256) {
            Err(GgufError::MissingKey { .. }) => None,
            found => Some(found?.to_owned()),
        };
        Ok(AdapterFile {
            lora: Lora::assemble(config, read)?,
            architecture: architecture.to_owned(),
            base_sha256,
        })
    }

    /// Refuses a base model that is not the one that the file names. A file that names none passes: its maker did not say.
    ///
    /// # Errors
    /// [`AdapterError::OtherBase`].
    pub fn check_base(&self, sha256: &str) -> Result<(), AdapterError> {
        match &self.base_sha256 {
            Some(named) if !named.eq_ignore_ascii_case(sha256) => Err(AdapterError::OtherBase {
                adapter: named.clone(),
                base: sha256.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn encode(&self) -> GgufWriter<'static> {
        let lora = &self.lora;
        let mut file = GgufWriter::new();
        file.set("general.type", "adapter")
            .set("general.architecture", self.architecture.as_str())
            .set("adapter.type", "lora")
            .set("adapter.lora.alpha", lora.config.alpha)
            .set(VERSION, env!("CARGO_PKG_VERSION"));
        if let Some(sha256) = &self.base_sha256 {
            file.set(BASE_SHA256, sha256.as_str());
        }
        let rank = lora.config.rank as i64;
        for t in &lora.tensors {
            file.tensor_f32(&t.a_name(), &[t.n_in as i64, rank], lora.a(t));
            file.tensor_f32(&t.b_name(), &[rank, t.n_out as i64], lora.b(t));
        }
        file
    }
}

/// `blk.<layer>.<module>.weight`.
fn parse_base(name: &str, fused: bool) -> Option<(usize, Module)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let module = rest.strip_suffix(".weight")?;
    let module = Module::from_gguf_name(module, fused)?;
    Some((layer.parse().ok()?, module))
}
