//! An adapter's changes put into the weights of its base: a model of its own, that needs no adapter.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::quant::{QuantError, check_quantizable, dequantize, quantize};
use thumbprint_ggml::gguf::{Gguf, GgufError, GgufWriter, TensorInfo};

use super::{AdapterError, Lora, LoraTensor};
use crate::durable;

/// Numbers that are decoded, changed and encoded at a time.
const CHUNK: usize = 1 << 20;
/// The largest number of F16.
const F16_MAX: f32 = 65504.0;

/// What a merge came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// Matrices that the adapter changed.
    pub changed: usize,
    /// Matrices that were not brought to the type that was asked for, since they are not quantized by anyone: routers of experts.
    pub left: Vec<String>,
}

/// The types that matrices can be brought to.
pub fn mergeable_types() -> Vec<GgmlType> {
    let can = |ty: &&GgmlType| check_quantizable(**ty).is_ok();
    GgmlType::ALL.iter().filter(can).copied().collect()
}

/// The type of that name, in any case, if matrices can be brought to it.
///
/// # Errors
/// For people: the names that there are.
pub fn matrix_type(name: &str) -> Result<GgmlType, String> {
    let all = mergeable_types();
    let found = all.iter().find(|ty| ty.name().eq_ignore_ascii_case(name));
    found.copied().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|ty| ty.name()).collect();
        format!("matrices can be of type {}", names.join(", "))
    })
}

/// Writes `base` with `scale` times the change of `lora` in its weights, to `path`, which is replaced whole or not at all. Matrices
/// become `ty`, or stay as they are in type if there is none given; vectors, and what else [`Merged::left`] names, are copied. Memory
/// holds one piece of one matrix at a time.
///
/// Rounding costs as much as it did when the base was quantized, and comes on top of that: on SmolLM2-135M, Q8_0 keeps logits within a
/// fifth of what an adapter moves them by, and Q4_1 moves them farther than the adapter does. Beside a base of few bits, an adapter
/// loses nothing.
///
/// Whether the adapter is one of this very base is for the caller to check (see [`AdapterFile::check_base`](super::AdapterFile::check_base)).
///
/// # Errors
/// A matrix that the base lacks or has in another size, a type that cannot be encoded to or whose blocks do not fill a matrix's rows,
/// numbers beyond the range of F16, or what the system refused.
pub fn merge(
    base: &Gguf,
    lora: &Lora,
    scale: f32,
    ty: Option<GgmlType>,
    path: &Path,
) -> Result<Merged, AdapterError> {
    lora.check_finite()?;
    if !scale.is_finite() {
        return Err(AdapterError::Invalid {
            setting: "scale",
            reason: format!("must be finite, got {scale}"),
        });
    }
    let plan = Plan::new(base, lora, scale * lora.scale(), ty)?;
    let mut writer = GgufWriter::new();
    writer.copy_keys(base);
    for (tensor, piece) in base.tensors().iter().zip(&plan.pieces) {
        match piece {
            Piece::Copied => {
                writer.tensor(&tensor.name, tensor.shape(), tensor.ty, base.data(tensor))
            }
            Piece::Made { ty, .. } => writer.declare(&tensor.name, tensor.shape(), *ty),
        };
    }
    if let Some(ty) = ty {
        match file_type(ty) {
            Some(number) => writer.set("general.file_type", number),
            None => writer.remove("general.file_type"),
        };
        if ty.is_quantized() {
            writer.set("general.quantization_version", 2u32);
        }
    }
    let mut refused = None;
    let written = durable::replace(path, |mut out| {
        let made = writer.write_with(&mut out, &mut |name, out| {
            plan.make(name, out).map_err(|error| match error {
                Stop::Stream(error) => error,
                Stop::Refused(error) => {
                    refused = Some(error);
                    io::Error::other("a matrix cannot be encoded")
                }
            })
        });
        made.map_err(|error| match error {
            GgufError::Stream(error) => error,
            other => io::Error::other(other),
        })
    });
    match refused {
        Some(error) => Err(error),
        None => {
            written?;
            Ok(plan.outcome())
        }
    }
}

/// How a tensor of the new file comes about.
enum Piece<'a> {
    /// As it is.
    Copied,
    /// Decoded, changed if there is a change, encoded.
    Made {
        ty: GgmlType,
        change: Option<&'a LoraTensor>,
    },
}

struct Plan<'a> {
    base: &'a Gguf,
    lora: &'a Lora,
    /// What `B A` is multiplied by.
    factor: f32,
    /// One for each tensor of the base.
    pieces: Vec<Piece<'a>>,
    left: Vec<String>,
}

enum Stop {
    Stream(io::Error),
    Refused(AdapterError),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Stream(error)
    }
}

impl From<AdapterError> for Stop {
    fn from(error: AdapterError) -> Self {
        Stop::Refused(error)
    }
}

impl From<QuantError> for Stop {
    fn from(error: QuantError) -> Self {
        Stop::Refused(error.into())
    }
}

impl<'a> Plan<'a> {
    fn new(
        base: &'a Gguf,
        lora: &'a Lora,
        factor: f32,
        ty: Option<GgmlType>,
    ) -> Result<Self, AdapterError> {
        let mut changes: HashMap<&str, &LoraTensor> =
            lora.tensors.iter().map(|t| (t.base.as_str(), t)).collect();
        let mut left = Vec::new();
        let mut pieces = Vec::with_capacity(base.tensors().len());
        for tensor in base.tensors() {
            let change = changes.remove(tensor.name.as_str());
            if let Some(change) = change {
                check_size(tensor, change)?;
            }
            let wanted = match ty {
                Some(ty) if is_matrix(tensor) && is_router(tensor) => {
                    if tensor.ty != ty {
                        left.push(tensor.name.clone());
                    }
                    tensor.ty
                }
                Some(ty) if is_matrix(tensor) => ty,
                _ => tensor.ty,
            };
            if change.is_none() && wanted == tensor.ty {
                pieces.push(Piece::Copied);
                continue;
            }
            check_type(tensor, wanted)?;
            pieces.push(Piece::Made { ty: wanted, change });
        }
        // In the order of the adapter, so that the same mistake has the same message.
        if let Some(missing) = lora
            .tensors
            .iter()
            .find(|t| changes.contains_key(t.base.as_str()))
        {
            return Err(AdapterError::Tensor {
                tensor: missing.a_name(),
                problem: "changes a matrix that the base model does not have".to_owned(),
            });
        }
        Ok(Self {
            base,
            lora,
            factor,
            pieces,
            left,
        })
    }

    fn outcome(self) -> Merged {
        let changes = |piece: &&Piece<'_>| {
            matches!(
                piece,
                Piece::Made {
                    change: Some(_),
                    ..
                }
            )
        };
        Merged {
            changed: self.pieces.iter().filter(changes).count(),
            left: self.left,
        }
    }

    /// Writes the encoded rows of one matrix.
    fn make(&self, name: &str, out: &mut dyn Write) -> Result<(), Stop> {
        let tensors = self.base.tensors().iter().zip(&self.pieces);
        let mut of_name = tensors.filter(|(tensor, _)| tensor.name == name);
        let Some((tensor, Piece::Made { ty, change })) = of_name.next() else {
            return Ok(());
        };
        let n_per_row = tensor.dims[0] as usize;
        let n_rows = tensor.n_elements() / n_per_row;
        let row_bytes = tensor.ty.row_size(n_per_row);
        let data = self.base.data(tensor);
        let rows_at_once = (CHUNK / n_per_row).clamp(1, n_rows);
        for first in (0..n_rows).step_by(rows_at_once) {
            let n = rows_at_once.min(n_rows - first);
            let encoded = &data[first * row_bytes..][..n * row_bytes];
            let mut values = dequantize(tensor.ty, encoded, n * n_per_row)?;
            if let Some(change) = change {
                self.add(change, first, &mut values);
            }
            if *ty == GgmlType::F16 && values.iter().any(|x| x.abs() > F16_MAX) {
                let problem = "holds numbers beyond what f16 can: choose bf16 or f32".to_owned();
                let tensor = tensor.name.clone();
                return Err(AdapterError::Tensor { tensor, problem }.into());
            }
            out.write_all(&quantize(*ty, &values, n_per_row)?)?;
        }
        self.base.advise_dont_need(self.base.file_range(tensor));
        Ok(())
    }

    /// Adds `factor B A` to whole rows, of which `first` is the first.
    fn add(&self, change: &LoraTensor, first: usize, rows: &mut [f32]) {
        let (a, b) = (self.lora.a(change), self.lora.b(change));
        let rank = self.lora.config.rank;
        let mut sum = vec![0.0f32; change.n_in];
        for (row, b) in rows
            .chunks_mut(change.n_in)
            .zip(b[first * rank..].chunks(rank))
        {
            sum.fill(0.0);
            for (b, a) in b.iter().zip(a.chunks(change.n_in)) {
                for (sum, a) in sum.iter_mut().zip(a) {
                    *sum += b * a;
                }
            }
            for (weight, sum) in row.iter_mut().zip(&sum) {
                *weight += self.factor * sum;
            }
        }
    }
}

fn check_size(tensor: &TensorInfo, change: &LoraTensor) -> Result<(), AdapterError> {
    if tensor.shape() == [change.n_in as i64, change.n_out as i64] {
        return Ok(());
    }
    Err(AdapterError::Tensor {
        tensor: change.a_name(),
        problem: format!(
            "changes a matrix of [{}, {}], and the base model's is {:?}",
            change.n_in,
            change.n_out,
            tensor.shape()
        ),
    })
}

/// Whether a matrix can be decoded, and its rows be encoded.
fn check_type(tensor: &TensorInfo, ty: GgmlType) -> Result<(), AdapterError> {
    let (row, block) = (tensor.dims[0] as usize, ty.block_size());
    if !row.is_multiple_of(block) {
        return Err(AdapterError::Tensor {
            tensor: tensor.name.clone(),
            problem: format!(
                "has rows of {row}, which are not blocks of {block} as {ty} has them: choose a type of smaller blocks, such as q8_0"
            ),
        });
    }
    check_quantizable(ty)?;
    let one = vec![0; tensor.ty.type_size()];
    dequantize(tensor.ty, &one, tensor.ty.block_size())?;
    Ok(())
}

fn is_matrix(tensor: &TensorInfo) -> bool {
    tensor.n_dims > 1 && tensor.name.ends_with(".weight") && !tensor.name.contains("_norm.")
}

/// Small, and the choice of an expert hangs on it: llama.cpp's quantizer leaves it, too.
fn is_router(tensor: &TensorInfo) -> bool {
    tensor.name.contains("ffn_gate_inp.")
}

/// llama.cpp's number of a file whose matrices are mostly of a type, where it has one for that type alone.
fn file_type(ty: GgmlType) -> Option<u32> {
    Some(match ty {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q8_0 => 7,
        GgmlType::Q5_0 => 8,
        GgmlType::Q5_1 => 9,
        GgmlType::Q2_K => 10,
        GgmlType::Q3_K => 11,
        GgmlType::Q4_K => 14,
        GgmlType::Q5_K => 16,
        GgmlType::Q6_K => 18,
        GgmlType::IQ3_XXS => 23,
        GgmlType::IQ4_NL => 25,
        GgmlType::IQ3_S => 26,
        GgmlType::IQ4_XS => 30,
        GgmlType::BF16 => 32,
        GgmlType::TQ1_0 => 36,
        GgmlType::TQ2_0 => 37,
        GgmlType::MXFP4 => 38,
        _ => return None,
    })
}
