//! Adapters in and out of files, added to one another, and put into the weights of their base.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::{Gguf, check_adapter_for};
use thumbprint_tune::adapter::{AdapterError, AdapterFile, HeadCounts, Lora, Merged, merge};
use thumbprint_tune::durable;
use thumbprint_tune::model::{BlockSpec, ModelError};

use super::{ADAPTERS, Thumbprint, hex, lock};
use crate::error::{Error, Result};
use crate::gate::AdapterState;
use crate::store::{AdapterRow, NewAdapter, StoreError};
use crate::types::{AdapterId, FeedbackId};

/// What an adapter is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdapterFormat {
    /// One file, a stock GGUF LoRA that llama.cpp loads.
    #[default]
    Gguf,
    /// A folder as PEFT's `save_pretrained` writes it, which transformers loads.
    Peft,
}

/// How much of an adapter goes into a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// The adapter, as it is served: at its scale.
    pub adapter: AdapterId,
    /// Finite; below 0 takes it away.
    pub weight: f32,
}

/// The base model's file, open.
struct Base {
    gguf: Gguf,
    sha256: String,
}

impl Base {
    fn spec(&self) -> Result<BlockSpec> {
        Ok(BlockSpec::read(&self.gguf)?)
    }
}

impl Thumbprint {
    /// Writes an adapter to `path`, at full strength: the scale that it is served at is not in it. A file or folder of PEFT names the
    /// base by its hash. The base's own file is needed for PEFT's form alone, in which `llama`-like models have their rows in another
    /// order.
    ///
    /// # Errors
    /// [`Error::AdapterChanged`], [`Error::File`]; for PEFT also [`Error::NoModel`], or that the model at hand is another one.
    pub fn export(&self, id: AdapterId, path: &Path, format: AdapterFormat) -> Result<()> {
        let row = self.store().adapter(id)?;
        let bytes = self.adapter_bytes(&row)?;
        match format {
            AdapterFormat::Gguf => Ok(durable::replace(path, |file| file.write_all(&bytes))?),
            AdapterFormat::Peft => {
                let base = self.base_of(&row)?;
                let heads = HeadCounts::reordered_in(&base.spec()?);
                Ok(read_gguf(bytes)?.write_peft(path, heads)?)
            }
        }
    }

    /// Takes in an adapter for the model at hand: a GGUF LoRA, or a folder of PEFT's. It becomes a candidate that no gate has judged;
    /// [`activate`](Self::activate) puts it on trial. One that is here already is found again.
    ///
    /// What an adapter learned from is not in its file, so that [`forget`](Self::forget) of a single item does not reach what was taken
    /// in; it does reach what was exported from this folder and not forgotten since, and refuses what was.
    ///
    /// # Errors
    /// [`Error::NoModel`]; an adapter that names another base, or none unless `accept_unnamed_base`, or whose matrices the base does not
    /// have; [`Error::ForgottenAdapter`].
    pub fn import_adapter(&self, path: &Path, accept_unnamed_base: bool) -> Result<AdapterId> {
        let base = self.base()?;
        let (mut adapter, raw) = if path.is_dir() {
            let spec = base.spec()?;
            let heads = HeadCounts::reordered_in(&spec);
            let read = AdapterFile::read_peft(path, &spec.architecture, heads)?;
            (read, None)
        } else {
            let bytes = fs::read(path).map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })?;
            let hash = hex(Sha256::digest(&bytes));
            (read_gguf(bytes)?, Some(hash))
        };
        adapter.check_base(&base.sha256)?;
        if adapter.base_sha256.is_none() && !accept_unnamed_base {
            return Err(AdapterError::UnnamedBase {
                path: path.to_owned(),
            }
            .into());
        }
        adapter.base_sha256 = Some(base.sha256.clone());
        let bytes = adapter.to_bytes()?;
        let fits = Gguf::parse(bytes.clone()).and_then(|adapter| {
            check_adapter_for(&adapter, &base.gguf)?;
            Ok(())
        });
        fits.map_err(AdapterError::Gguf)?;
        let hash = hex(Sha256::digest(&bytes));
        let same = |row: &&AdapterRow| {
            row.base_hash == base.sha256
                && (row.file_hash == hash || Some(&row.file_hash) == raw.as_ref())
        };
        if let Some(known) = self.store().adapters()?.iter().find(same) {
            return match known.state {
                AdapterState::Forgotten => Err(Error::ForgottenAdapter { adapter: known.id }),
                _ => Ok(known.id),
            };
        }
        let made = json!({ "by": "import", "rank": adapter.lora.config.rank });
        self.keep(&bytes, hash, &base.sha256, made, Vec::new())
    }

    /// Makes an adapter that is the weighted sum of others, each as it is served. A difference has a weight below 0. The sum is exact,
    /// and its rank the sum of the ranks, unless a smaller `rank` is given: then it is the nearest one of that rank. It becomes a
    /// candidate that no gate has judged, and is forgotten with any of the feedback that its parts learned from.
    ///
    /// # Errors
    /// No parts, parts of different bases, [`Error::AdapterChanged`], or a rank of 0.
    pub fn combine(&self, parts: &[Part], rank: Option<usize>) -> Result<AdapterId> {
        let store = self.store();
        let mut read = Vec::with_capacity(parts.len());
        let mut items = BTreeSet::new();
        for part in parts {
            let row = store.adapter(part.adapter)?;
            let file = read_gguf(self.adapter_bytes(&row)?)?;
            items.extend(store.adapter_items(row.id)?);
            read.push((part.weight * row.scale, row, file));
        }
        let base = read.first().map(|(_, row, _)| row.base_hash.clone());
        if let Some((_, row, _)) = read
            .iter()
            .find(|(_, row, _)| Some(&row.base_hash) != base.as_ref())
        {
            return Err(StoreError::OtherBase { adapter: row.id }.into());
        }
        let weighed: Vec<_> = read.iter().map(|(w, _, file)| (*w, &file.lora)).collect();
        let mut lora = Lora::weighted_sum(&weighed)?;
        let mut lost = 0.0;
        if let Some(rank) = rank {
            (lora, lost) = lora.truncated(rank)?;
        }
        let parts: Vec<Value> = parts
            .iter()
            .zip(&read)
            .map(|(part, (_, row, _))| {
                json!({ "adapter": part.adapter, "weight": part.weight, "scale": row.scale })
            })
            .collect();
        let made = json!({ "by": "sum", "parts": parts, "rank": lora.config.rank, "lost": lost });
        let architecture = read.first().map(|(_, _, file)| file.architecture.clone());
        let base = base.unwrap_or_default();
        let bytes = AdapterFile {
            lora,
            architecture: architecture.unwrap_or_default(),
            base_sha256: Some(base.clone()),
        }
        .to_bytes()?;
        let hash = hex(Sha256::digest(&bytes));
        self.keep(&bytes, hash, &base, made, items.into_iter().collect())
    }

    /// Writes a model that needs no adapter: the base with the adapter, as it is served, in its weights. Matrices become `ty`, or stay
    /// of their types without one. See [`merge`](thumbprint_tune::adapter::merge) for what rounding does to it.
    ///
    /// # Errors
    /// [`Error::NoModel`], or that the model at hand is another one; [`Error::AdapterChanged`]; a type that does not fit.
    pub fn merge(&self, id: AdapterId, ty: Option<GgmlType>, path: &Path) -> Result<Merged> {
        let row = self.store().adapter(id)?;
        let adapter = read_gguf(self.adapter_bytes(&row)?)?;
        let base = self.base_of(&row)?;
        Ok(merge(&base.gguf, &adapter.lora, row.scale, ty, path)?)
    }

    /// Puts a new adapter's file in the folder, and records it.
    fn keep(
        &self,
        bytes: &[u8],
        file_hash: String,
        base_hash: &str,
        made: Value,
        items: Vec<FeedbackId>,
    ) -> Result<AdapterId> {
        let store = self.store();
        let name = file_hash.get(..16).unwrap_or(&file_hash);
        let file = PathBuf::from(ADAPTERS).join(format!("made-{name}.gguf"));
        let taken = |row: &AdapterRow| row.file == file && row.state != AdapterState::Forgotten;
        if let Some(row) = store.adapters()?.into_iter().find(taken) {
            return Ok(row.id);
        }
        let path = store.dir().join(&file);
        let folder = store.dir().join(ADAPTERS);
        fs::create_dir_all(&folder).map_err(|source| Error::File {
            path: folder,
            source,
        })?;
        durable::replace(&path, |out| out.write_all(bytes))?;
        let recorded = store.insert_adapter(&NewAdapter {
            base_hash: base_hash.to_owned(),
            run: None,
            config: json!({ "made": made }),
            manifest: json!({}),
            items,
            file,
            file_hash,
            seed: 0,
        });
        if recorded.is_err() {
            // What an item was forgotten of meanwhile must not stay. The error to report is the first one.
            let _ = fs::remove_file(&path);
        }
        Ok(recorded?)
    }

    fn base(&self) -> Result<Base> {
        let path = lock(&self.0.model).clone().ok_or(Error::NoModel)?;
        Ok(Base {
            sha256: self.model_hash(&path)?,
            gguf: Gguf::open(&path).map_err(ModelError::from)?,
        })
    }

    /// The base, if it is an adapter's.
    fn base_of(&self, row: &AdapterRow) -> Result<Base> {
        let base = self.base()?;
        match base.sha256 == row.base_hash {
            true => Ok(base),
            false => Err(StoreError::OtherBase { adapter: row.id }.into()),
        }
    }
}

fn read_gguf(bytes: Vec<u8>) -> Result<AdapterFile> {
    let gguf = Gguf::parse(bytes).map_err(AdapterError::Gguf)?;
    Ok(AdapterFile::from_gguf(&gguf)?)
}
