//! What a model needs of memory, from its file alone: nothing is loaded.

use std::path::Path;

use serde::Serialize;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::packed::Packing;
use thumbprint_ggml::gguf::{Gguf, GgufError};
use thumbprint_tune::adapter::LoraConfig;
use thumbprint_tune::graph::{Kernels, Scratch};
use thumbprint_tune::model::{Model, ModelError};
use thumbprint_tune::plan::{Budget, Plan};
use thumbprint_tune::trainer::lora_shapes;

use crate::error::Result;

/// Bytes of resident memory, on the CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// To generate.
    pub inference: InferenceMemory,
    /// To learn beside that; none where the model cannot be trained.
    pub training: Option<TrainingMemory>,
}

/// What generation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InferenceMemory {
    /// The mapped model.
    pub weights: u64,
    /// Keys and values of a whole context, in F16.
    pub cache: u64,
    /// What is computed with.
    pub compute: u64,
}

impl InferenceMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.compute
    }
}

/// What training takes; its mapping of the model counts, as far as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// Without a budget.
    pub full_speed: u64,
    /// The smallest [`Budget::memory_mib`](crate::Budget::memory_mib) that works.
    pub least: u64,
}

/// Estimates memory for a context of `n_ctx` tokens, and for examples that take up to `example_tokens` (a pair takes its prompt once
/// and both replies).
///
/// # Errors
/// The file is no readable GGUF model, or lacks a key that says how large it is.
pub fn estimate_memory(model: &Path, n_ctx: u32, example_tokens: usize) -> Result<MemoryEstimate> {
    let gguf = Gguf::open(model).map_err(ModelError::File)?;
    let inference = InferenceMemory::of(&gguf, n_ctx).map_err(ModelError::File)?;
    let training = match Model::from_gguf(gguf.into()) {
        Ok(model) => Some(TrainingMemory::of(&model, example_tokens)),
        Err(_) => None,
    };
    Ok(MemoryEstimate {
        inference,
        training,
    })
}

/// Tokens that the engine reads at a time.
const READ: u64 = 512;

impl InferenceMemory {
    fn of(gguf: &Gguf, n_ctx: u32) -> std::result::Result<Self, GgufError> {
        let architecture = gguf.architecture()?;
        let key = |name: &str| format!("{architecture}.{name}");
        // Where blocks differ, the largest value there is.
        let count = |name: &str| -> std::result::Result<u64, GgufError> {
            match gguf.u32(&key(name)) {
                Ok(n) => Ok(u64::from(n)),
                Err(error) => {
                    let array = gguf.get(&key(name)).and_then(|value| value.as_array());
                    let largest = array.and_then(|array| array.values::<u32>()?.max());
                    largest.map(u64::from).ok_or(error)
                }
            }
        };
        let (n_layer, n_embd) = (count("block_count")?, count("embedding_length")?);
        let heads = count("attention.head_count")?.max(1);
        let kv_heads = count("attention.head_count_kv").unwrap_or(heads);
        let key_length = count("attention.key_length").unwrap_or(n_embd / heads);
        let value_length = count("attention.value_length").unwrap_or(key_length);
        let half = GgmlType::F16.type_size() as u64;
        let n_ff = count("feed_forward_length").unwrap_or(4 * n_embd);
        let n_vocab = gguf
            .tensor("token_embd.weight")
            .map_or(0, |tensor| tensor.dims[1] as u64);
        let width = 2 * n_ff + 4 * n_embd + heads * key_length;
        Ok(Self {
            weights: gguf.tensors().iter().map(|t| t.n_bytes as u64).sum(),
            cache: n_layer * kv_heads * (key_length + value_length) * u64::from(n_ctx) * half,
            compute: 4 * (READ * width + n_vocab),
        })
    }
}

impl TrainingMemory {
    fn of(model: &Model, example_tokens: usize) -> Self {
        let rank = LoraConfig::default().rank;
        let n_lora = lora_shapes(model)
            .iter()
            .map(|shape| rank * (shape.n_in + shape.n_out))
            .sum();
        // The largest form of scratch matrices: which is fastest is known on the machine only.
        let kernels = Kernels {
            scratch: Scratch::Packed(Packing::F32),
            saved: GgmlType::BF16,
        };
        let budget = |memory_mib| Budget {
            memory_mib,
            longest_example: example_tokens,
            step_rows: 0,
            n_threads: 1,
            kernels,
            last_layers: None,
        };
        let bytes = |plan: Plan| plan.estimate_bytes(model, n_lora) as u64;
        let full = Plan::resolve(model, n_lora, &budget(None)).map_or(0, bytes);
        let least = match Plan::resolve(model, n_lora, &budget(Some(0))) {
            Err(over) => (over.needed_mib as u64) << 20,
            Ok(plan) => bytes(plan),
        };
        Self {
            full_speed: full,
            // Budgets are whole MiB.
            least: least.min(full),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use thumbprint_fixtures::{TinyModel, demo_model_path};

    use super::*;

    #[test]
    fn the_demo_models_parts_are_what_its_shape_says() {
        let estimate = estimate_memory(&demo_model_path(), 1024, 512).unwrap();
        // 30 blocks of 3 heads of 64, keys and values, two bytes each.
        assert_eq!(estimate.inference.cache, 30 * 3 * 128 * 1024 * 2);
        assert!((90 << 20..96 << 20).contains(&estimate.inference.weights));
        let training = estimate.training.unwrap();
        assert!(training.least < training.full_speed);
        assert!(training.least < 250 << 20, "{}", training.least >> 20);
    }

    #[test]
    fn twice_the_context_takes_twice_the_cache_and_longer_examples_more_to_train() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        TinyModel::gemma3().write(&path);
        let at = |n_ctx, tokens| estimate_memory(&path, n_ctx, tokens).unwrap();
        let (short, long) = (at(512, 512), at(1024, 2048));
        assert_eq!(2 * short.inference.cache, long.inference.cache);
        assert_eq!(short.inference.weights, long.inference.weights);
        assert!(short.training.unwrap().least < long.training.unwrap().least);
    }

    #[test]
    fn a_model_that_cannot_be_trained_still_tells_what_generation_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        let exaone = TinyModel {
            architecture: "exaone",
            ..TinyModel::llama()
        };
        exaone.write(&path);
        let estimate = estimate_memory(&path, 512, 512).unwrap();
        assert_eq!(estimate.training, None);
        assert!(estimate.inference.total() > estimate.inference.weights);
        assert!(estimate_memory(&folder.path().join("absent.gguf"), 512, 512).is_err());
    }
}
