//! What the proofs of the trainer share: models on disk, networks over them, llama.cpp's logits, recorded values.
#![allow(dead_code)] // Each test crate uses a part.
#![allow(clippy::unwrap_used)]

pub mod golden;
pub mod llama_cpp;
pub mod measure;
pub mod reference;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::quant::{dequantize, quantize};
use thumbprint_ggml::gguf::{Gguf, GgufWriter};
use thumbprint_tune::adapter::{AdapterFile, Lora, LoraConfig, LoraShape, Module};
use thumbprint_tune::batch::{Group, Packed};
use thumbprint_tune::graph::{Kernels, Network, NetworkOptions};
use thumbprint_tune::model::Model;
use thumbprint_tune::rng::Rng;

/// Held by tests on the whole demo model: each takes all cores and several hundred MiB.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder for files of one test, below `target`: the system's own may lie in memory.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A model file that goes when this goes.
pub struct ModelFile {
    pub path: PathBuf,
    pub folder: TempDir,
}

impl ModelFile {
    pub fn new(writer: &GgufWriter<'_>) -> Self {
        let folder = folder();
        let path = folder.path().join("model.gguf");
        writer.write_atomic(&path).unwrap();
        Self { path, folder }
    }

    pub fn open(&self) -> Model {
        Model::open(&self.path).unwrap()
    }

    pub fn network(&self, options: NetworkOptions, lora: Option<&Lora>) -> Network {
        Network::new(self.open(), options, lora).unwrap()
    }

    /// Writes an adapter beside the model as llama.cpp loads it.
    pub fn write_adapter(&self, lora: &Lora) -> PathBuf {
        let path = self.folder.path().join("adapter.gguf");
        let architecture = self.open().spec.architecture;
        adapter_file(lora, &architecture).write(&path).unwrap();
        path
    }
}

/// A tiny model of each trainable architecture but `llama`.
pub fn other_architectures() -> Vec<TinyModel> {
    TinyModel::every_architecture().split_off(1)
}

/// A wide Llama whose matrices are of one type.
pub fn model_of_type(ty: GgmlType) -> ModelFile {
    use GgmlType::*;
    // To these ggml quantizes with an importance matrix only, or after seconds of preparation.
    if !matches!(ty, IQ2_XXS | IQ2_XS | IQ2_S | IQ1_S | IQ1_M) {
        let tiny = TinyModel {
            ty,
            ..TinyModel::wide_llama()
        };
        return ModelFile::new(&tiny.writer());
    }
    let tiny = Gguf::parse(TinyModel::wide_llama().to_bytes()).unwrap();
    let mut writer = GgufWriter::new();
    writer.copy_keys(&tiny);
    let mut rng = Rng::new(31);
    for tensor in tiny.tensors() {
        if tensor.n_dims < 2 {
            writer.tensor(&tensor.name, tensor.shape(), tensor.ty, tiny.data(tensor));
            continue;
        }
        let mut data = vec![0; ty.row_size(tensor.n_elements())];
        data.fill_with(|| rng.below(256) as u8);
        for block in data.chunks_exact_mut(ty.type_size()) {
            set_scale(ty, block, 0.004);
        }
        writer.tensor(&tensor.name, tensor.shape(), ty, data);
    }
    ModelFile::new(&writer)
}

/// Writes a block's scale, which IQ1_M spreads over the upper bits of its last four numbers.
fn set_scale(ty: GgmlType, block: &mut [u8], scale: f32) {
    let half = quantize(GgmlType::F16, &[scale], 1).unwrap();
    if ty != GgmlType::IQ1_M {
        block[..2].copy_from_slice(&half);
        return;
    }
    let half = u16::from_le_bytes([half[0], half[1]]);
    let n = block.len();
    for (i, byte) in [1, 3, 5, 7].into_iter().enumerate() {
        let nibble = (half >> (4 * i) & 15) as u8;
        let at = &mut block[n - 8 + byte];
        *at = nibble << 4 | (*at & 15);
    }
}

pub fn adapter_file(lora: &Lora, architecture: &str) -> AdapterFile {
    AdapterFile {
        lora: lora.clone(),
        architecture: architecture.to_owned(),
        base_sha256: None,
    }
}

/// The first `n_layer` blocks of a model. With `widen` every tensor becomes F32, with the very values that the file's own types
/// stand for.
pub fn first_layers(path: &Path, n_layer: usize, widen: bool) -> ModelFile {
    let from = Gguf::open(path).unwrap();
    let mut writer = GgufWriter::new();
    writer.copy_keys(&from);
    let architecture = from.architecture().unwrap();
    writer.set(&format!("{architecture}.block_count"), n_layer as u32);
    for tensor in from.tensors() {
        let layer = tensor.name.strip_prefix("blk.");
        let layer = layer.map(|rest| rest.split('.').next().unwrap().parse::<usize>().unwrap());
        if layer.is_some_and(|layer| layer >= n_layer) {
            continue;
        }
        let data = from.data(tensor);
        if widen {
            let values = dequantize(tensor.ty, data, tensor.n_elements()).unwrap();
            let bytes: &[u8] = bytemuck::cast_slice(&values);
            writer.tensor(&tensor.name, tensor.shape(), GgmlType::F32, bytes.to_vec());
        } else {
            writer.tensor(&tensor.name, tensor.shape(), tensor.ty, data);
        }
    }
    ModelFile::new(&writer)
}

/// Everything in F32, room for `max_tokens`. One thread: tests run beside one another, and threads that wait for each other spin.
pub fn exact(max_tokens: usize) -> NetworkOptions {
    NetworkOptions {
        n_threads: 1,
        max_tokens,
        kernels: Kernels::EXACT,
        recomputed_layers: 0,
        // Few enough that tests see several chunks.
        head_rows: 16,
        recompute_gate_up: false,
        keep_weights: false,
        device: None,
    }
}

/// The matrices of a model that can be adapted.
pub fn shapes(model: &Model) -> Vec<LoraShape> {
    let shape = |(layer, part, n_in): (usize, &thumbprint_tune::model::Part, usize)| LoraShape {
        layer,
        module: part.module,
        n_in,
        n_out: part.n_out,
    };
    model.parts().map(shape).collect()
}

/// An adapter with alpha other than rank, and a B that changes the model noticeably.
pub fn random_lora(model: &Model, rank: usize, targets: &[Module]) -> Lora {
    let config = LoraConfig {
        rank,
        alpha: 2.5 * rank as f32,
        targets: targets.iter().copied().collect(),
        ..LoraConfig::default()
    };
    let mut lora = Lora::new(config, &shapes(model)).unwrap();
    lora.randomize_b(0.1, 1);
    lora
}

/// Prompts with their completions, owned.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples(pub Vec<(Vec<i32>, Vec<Vec<i32>>)>);

impl Examples {
    /// Random tokens: for each prompt its length, and the lengths of its completions.
    pub fn random(seed: u64, n_vocab: usize, lengths: &[(usize, &[usize])]) -> Self {
        let mut rng = Rng::new(seed);
        let mut tokens =
            |n: usize| -> Vec<i32> { (0..n).map(|_| rng.below(n_vocab as u64) as i32).collect() };
        Self(
            lengths
                .iter()
                .map(|(prompt, completions)| {
                    let prompt = tokens(*prompt);
                    (prompt, completions.iter().map(|n| tokens(*n)).collect())
                })
                .collect(),
        )
    }

    /// All in one ubatch.
    pub fn pack(&self) -> Packed {
        let completions: Vec<Vec<&[i32]>> = self
            .0
            .iter()
            .map(|(_, completions)| completions.iter().map(Vec::as_slice).collect())
            .collect();
        let groups: Vec<Group<'_>> = self
            .0
            .iter()
            .zip(&completions)
            .map(|((prompt, _), completions)| Group {
                prompt,
                completions,
            })
            .collect();
        Packed::new(&groups)
    }

    /// Every completion with a copy of its prompt: the same sequences, nothing shared.
    pub fn unshared(&self) -> Self {
        Self(
            self.sequences()
                .map(|(prompt, completion)| (prompt.to_vec(), vec![completion.to_vec()]))
                .collect(),
        )
    }

    /// Prompt and completion of each sequence, in the order of [`Packed::sequences`].
    pub fn sequences(&self) -> impl Iterator<Item = (&[i32], &[i32])> {
        self.0.iter().flat_map(|(prompt, completions)| {
            completions
                .iter()
                .map(move |completion| (prompt.as_slice(), completion.as_slice()))
        })
    }
}
