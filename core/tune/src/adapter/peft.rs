//! Adapters as PEFT saves them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT's files do not say which weights they belong to. Ours do, in the tensors' metadata, which others pass over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::quant::dequantize;

use super::gguf::BASE_SHA256;
use super::permute::{Direction, permute};
use super::{AdapterError, AdapterFile, HeadCounts, Lora, LoraConfig, LoraShape, Module};
use crate::durable;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.model.layers.";

/// The part of `adapter_config.json` that says how the tensors are to be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeftConfig {
    /// `r`.
    pub rank: usize,
    /// `lora_alpha`.
    pub alpha: f32,
    /// `lora_dropout`.
    pub dropout: f32,
}

impl PeftConfig {
    /// Reads an `adapter_config.json`.
    ///
    /// # Errors
    /// A file that is not plain LoRA: ranks or alphas that differ by module, rsLoRA, DoRA, biases, or further trained modules.
    pub fn read(path: &Path) -> Result<Self, AdapterError> {
        let refuse = |problem: String| AdapterError::Peft {
            path: path.to_owned(),
            problem,
        };
        let text = read(path)?;
        let raw: RawConfig = serde_json::from_slice(&text)
            .map_err(|e| refuse(format!("is no PEFT configuration: {e}")))?;
        if raw.peft_type != "LORA" {
            return Err(refuse(format!(
                "peft_type is {:?}; only LORA can be read",
                raw.peft_type
            )));
        }
        let unsupported = [
            ("use_rslora", raw.use_rslora),
            ("use_dora", raw.use_dora),
            ("fan_in_fan_out", raw.fan_in_fan_out),
            ("lora_bias", raw.lora_bias),
            ("bias", raw.bias.is_some_and(|b| b != "none")),
            ("rank_pattern", !is_blank(&raw.rank_pattern)),
            ("alpha_pattern", !is_blank(&raw.alpha_pattern)),
            ("modules_to_save", !is_blank(&raw.modules_to_save)),
        ];
        if let Some((name, _)) = unsupported.into_iter().find(|(_, set)| *set) {
            return Err(refuse(format!("{name} is set, which is not supported")));
        }
        Ok(PeftConfig {
            rank: raw.r,
            alpha: raw.lora_alpha,
            dropout: raw.lora_dropout,
        })
    }
}

impl AdapterFile {
    /// As [`Lora::read_peft`], with the base that the file names, if we wrote it. `architecture` is that of the model at hand: PEFT's
    /// files name none.
    ///
    /// # Errors
    /// As [`Lora::read_peft`].
    pub fn read_peft(
        folder: &Path,
        architecture: &str,
        permute: Option<HeadCounts>,
    ) -> Result<Self, AdapterError> {
        let lora = Lora::read_peft(folder, permute)?;
        let path = folder.join(TENSORS);
        let bytes = read(&path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| AdapterError::Peft {
            path,
            problem: e.to_string(),
        })?;
        let named = header.metadata().as_ref();
        let base_sha256 = named.and_then(|named| named.get(BASE_SHA256)).cloned();
        Ok(Self {
            lora,
            architecture: architecture.to_owned(),
            base_sha256,
        })
    }

    /// As [`Lora::write_peft`], naming the base.
    ///
    /// # Errors
    /// As [`Lora::write_peft`].
    pub fn write_peft(
        &self,
        folder: &Path,
        permute: Option<HeadCounts>,
    ) -> Result<(), AdapterError> {
        self.lora
            .write_peft_of(folder, permute, self.base_sha256.as_deref())
    }
}

impl Lora {
    /// Reads a folder that PEFT's `save_pretrained` wrote. `permute`: the heads of a `llama`-like model (see [`HeadCounts`]); None where
    /// GGUF keeps the order of the rows.
    ///
    /// # Errors
    /// As [`PeftConfig::read`] and [`Lora::read_peft_tensors`].
    pub fn read_peft(folder: &Path, permute: Option<HeadCounts>) -> Result<Self, AdapterError> {
        let config = PeftConfig::read(&folder.join(CONFIG))?;
        Lora::read_peft_tensors(&folder.join(TENSORS), config, permute)
    }

    /// Reads PEFT's tensors alone, in F32, F16 or BF16.
    ///
    /// # Errors
    /// A file that is malformed, has a tensor that is not a LoRA matrix of a [`Module`], lacks the other half of one, has another rank
    /// than `config`, or holds values that are not finite; each with the tensor's name.
    pub fn read_peft_tensors(
        path: &Path,
        config: PeftConfig,
        permute: Option<HeadCounts>,
    ) -> Result<Self, AdapterError> {
        let bytes = read(path)?;
        let refuse = |problem: String| AdapterError::Peft {
            path: path.to_owned(),
            problem,
        };
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| refuse(format!("is no safetensors file: {e}")))?;
        let mut halves: BTreeMap<(usize, Module), [Option<Matrix>; 2]> = BTreeMap::new();
        for (name, view) in file.tensors() {
            let Some(Name {
                layer,
                module,
                half,
            }) = Name::parse(&name)
            else {
                let problem =
                    "is not a LoRA matrix of a block's attention or feed-forward part".to_owned();
                return Err(AdapterError::Tensor {
                    tensor: name,
                    problem,
                });
            };
            let matrix = Matrix::read(name, &view)?;
            let slot = &mut halves.entry((layer, module)).or_default()[half as usize];
            if slot.is_some() {
                return Err(AdapterError::Tensor {
                    tensor: matrix.name,
                    problem: "occurs twice".to_owned(),
                });
            }
            *slot = Some(matrix);
        }
        if halves.is_empty() {
            return Err(refuse("holds no LoRA matrices".to_owned()));
        }
        let mut pairs = Vec::with_capacity(halves.len());
        for ((layer, module), [a, b]) in halves {
            let (a, mut b) = match (a, b) {
                (Some(a), Some(b)) => (a, b),
                (Some(m), None) | (None, Some(m)) => {
                    return Err(AdapterError::Tensor {
                        tensor: m.name,
                        problem: "has no other half".to_owned(),
                    });
                }
                (None, None) => continue,
            };
            a.check_rank(a.rows, config.rank)?;
            b.check_rank(b.columns, config.rank)?;
            let shape = LoraShape {
                layer,
                module,
                n_in: a.columns,
                n_out: b.rows,
            };
            b.values = reorder(
                &b.name,
                &shape,
                &b.values,
                config.rank,
                permute,
                Direction::ToGguf,
            )?;
            pairs.push((shape, a.values, b.values));
        }
        let PeftConfig {
            rank,
            alpha,
            dropout,
        } = config;
        Lora::assemble(
            LoraConfig {
                rank,
                alpha,
                dropout,
                ..LoraConfig::default()
            },
            pairs,
        )
    }

    /// Writes a folder that PEFT's `from_pretrained` reads (made if it does not exist), with the rows of q and k in transformers' order.
    ///
    /// # Errors
    /// Values that are not finite, rows that are not heads, or what the system refused.
    pub fn write_peft(
        &self,
        folder: &Path,
        permute: Option<HeadCounts>,
    ) -> Result<(), AdapterError> {
        self.write_peft_of(folder, permute, None)
    }

    fn write_peft_of(
        &self,
        folder: &Path,
        permute: Option<HeadCounts>,
        base_sha256: Option<&str>,
    ) -> Result<(), AdapterError> {
        self.check_finite()?;
        let rank = self.config.rank;
        let mut matrices: Vec<(String, [usize; 2], Vec<u8>)> =
            Vec::with_capacity(2 * self.tensors.len());
        for t in &self.tensors {
            let name =
                |half: &str| format!("{PREFIX}{}.{}.{half}.weight", t.layer, t.module.peft_path());
            let b = reorder(
                &t.b_name(),
                &t.shape(),
                self.b(t),
                rank,
                permute,
                Direction::ToPeft,
            )?;
            matrices.push((name("lora_A"), [rank, t.n_in], bytes_of(self.a(t))));
            matrices.push((name("lora_B"), [t.n_out, rank], bytes_of(&b)));
        }
        let path = folder.join(TENSORS);
        let refuse = |e: safetensors::SafeTensorError| AdapterError::Peft {
            path: path.clone(),
            problem: e.to_string(),
        };
        let mut views = Vec::with_capacity(matrices.len());
        for (name, shape, bytes) in &matrices {
            views.push((
                name,
                TensorView::new(Dtype::F32, shape.to_vec(), bytes).map_err(refuse)?,
            ));
        }
        let tensors = safetensors::serialize(views, None).map_err(refuse)?;
        let tensors = with_metadata(&tensors, base_sha256);
        let config = format!("{:#}\n", self.peft_config());
        std::fs::create_dir_all(folder).map_err(|source| durable::WriteError {
            path: folder.to_owned(),
            step: "create the folder",
            source,
        })?;
        durable::replace(&path, |out| out.write_all(&tensors))?;
        durable::replace(&folder.join(CONFIG), |out| out.write_all(config.as_bytes()))?;
        Ok(())
    }

    fn layers(&self) -> BTreeSet<usize> {
        self.tensors.iter().map(|t| t.layer).collect()
    }

    fn peft_config(&self) -> Value {
        let LoraConfig {
            rank,
            alpha,
            targets,
            dropout,
            ..
        } = &self.config;
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": null,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "target_modules": targets,
            "layers_to_transform": self.config.last_layers.map(|_| self.layers()),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
        })
    }
}

/// PEFT's own fields; what is not named here does not change what tensors mean.
#[derive(Deserialize)]
struct RawConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    lora_bias: bool,
    bias: Option<String>,
    #[serde(default)]
    rank_pattern: Value,
    #[serde(default)]
    alpha_pattern: Value,
    #[serde(default)]
    modules_to_save: Value,
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[derive(Clone, Copy)]
enum Half {
    A = 0,
    B = 1,
}

struct Name {
    layer: usize,
    module: Module,
    half: Half,
}

impl Name {
    /// `base_model.model.model.layers.<layer>.<path>.lora_<A|B>.weight`, with or without `default` (the adapter's name) before `weight`.
    fn parse(name: &str) -> Option<Name> {
        let (layer, rest) = name.strip_prefix(PREFIX)?.split_once('.')?;
        let (path, half) = rest.split_once(".lora_")?;
        let half = match half {
            "A.weight" | "A.default.weight" => Half::A,
            "B.weight" | "B.default.weight" => Half::B,
            _ => return None,
        };
        let module = Module::ALL.into_iter().find(|m| m.peft_path() == path)?;
        Some(Name {
            layer: layer.parse().ok()?,
            module,
            half,
        })
    }
}

struct Matrix {
    name: String,
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn read(name: String, view: &TensorView<'_>) -> Result<Matrix, AdapterError> {
        let &[rows, columns] = view.shape() else {
            let problem = format!(
                "has {} dimensions, and LoRA matrices have 2",
                view.shape().len()
            );
            return Err(AdapterError::Tensor {
                tensor: name,
                problem,
            });
        };
        let ty = match view.dtype() {
            Dtype::F32 => GgmlType::F32,
            Dtype::F16 => GgmlType::F16,
            Dtype::BF16 => GgmlType::BF16,
            other => {
                let problem = format!("is {other:?}; F32, F16 and BF16 can be read");
                return Err(AdapterError::Tensor {
                    tensor: name,
                    problem,
                });
            }
        };
        if rows * columns == 0 {
            return Err(AdapterError::Tensor {
                tensor: name,
                problem: "is empty".to_owned(),
            });
        }
        let values = dequantize(ty, view.data(), rows * columns)?;
        Ok(Matrix {
            name,
            rows,
            columns,
            values,
        })
    }

    fn check_rank(&self, found: usize, expected: usize) -> Result<(), AdapterError> {
        if found == expected {
            return Ok(());
        }
        Err(AdapterError::Rank {
            tensor: self.name.clone(),
            expected,
            found,
        })
    }
}

/// The rows of B in the other order, where that of `shape` differs.
fn reorder(
    name: &str,
    shape: &LoraShape,
    b: &[f32],
    rank: usize,
    heads: Option<HeadCounts>,
    to: Direction,
) -> Result<Vec<f32>, AdapterError> {
    let Some(n_heads) = heads.and_then(|h| h.of(shape.module)) else {
        return Ok(b.to_vec());
    };
    permute(b, rank, n_heads, to).ok_or_else(|| AdapterError::Tensor {
        tensor: name.to_owned(),
        problem: format!(
            "has {} rows, which are not {n_heads} heads of an even size",
            shape.n_out
        ),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, AdapterError> {
    std::fs::read(path).map_err(|source| AdapterError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The file with what it says of itself: the header is a length (8 bytes, little-endian) and that much JSON, filled up with spaces to
/// whole words. By hand, since the library keeps metadata in an order of chance, and the same adapter has to give the same bytes.
fn with_metadata(tensors: &[u8], base_sha256: Option<&str>) -> Vec<u8> {
    let (length, rest) = tensors.split_at(8);
    let length = length
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | usize::from(*byte));
    let (header, data) = rest.split_at(length);
    let mut header: Map<String, Value> = serde_json::from_slice(header).unwrap_or_default();
    // transformers refuses metadata without a format.
    let mut metadata = json!({ "format": "pt" });
    if let Some(sha256) = base_sha256 {
        metadata[BASE_SHA256] = json!(sha256);
    }
    header.insert("__metadata__".to_owned(), metadata);
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
