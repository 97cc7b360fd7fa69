//! Recorded values of PyTorch and TRL on SmolLM2-135M; the `note` of each file says how they were made.

use serde::Deserialize;
use thumbprint_fixtures::golden_dir;
use thumbprint_tune::adapter::{HeadCounts, Lora, PeftConfig};

use super::Examples;

/// SmolLM2-135M's heads: rows of q and k are in another order in PEFT's files.
pub const HEADS: HeadCounts = HeadCounts {
    n_head: 9,
    n_head_kv: 3,
};

/// The recorded adapters' settings.
pub const PEFT: PeftConfig = PeftConfig {
    rank: 2,
    alpha: 6.0,
    dropout: 0.0,
};

/// `logps.json`: log-probabilities under the base model.
#[derive(Debug, Deserialize)]
pub struct RecordedPair {
    pub set: String,
    pub index: usize,
    pub prompt_ids: Vec<i32>,
    pub chosen_ids: Vec<i32>,
    pub rejected_ids: Vec<i32>,
    pub chosen_logps_f64: Vec<f64>,
    pub rejected_logps_f64: Vec<f64>,
    pub chosen_sum_f64: f64,
    pub rejected_sum_f64: f64,
}

/// `trajectory.json`: 20 steps of DPO, and one loss at a random adapter.
#[derive(Debug, Deserialize)]
pub struct Trajectory {
    pub config: TrajectoryConfig,
    pub random: RandomAdapter,
    pub steps: Vec<RecordedStep>,
}

#[derive(Debug, Deserialize)]
pub struct TrajectoryConfig {
    pub r: usize,
    pub alpha: f32,
    pub lr: f64,
    pub beta: f64,
    pub steps: usize,
}

#[derive(Debug, Deserialize)]
pub struct RandomAdapter {
    pub pairs: Vec<usize>,
    pub loss_f64: f64,
    pub grad_norm_f64: f64,
    pub token_logps_chosen_f64: Vec<Vec<f64>>,
    pub token_logps_rejected_f64: Vec<Vec<f64>>,
}

/// All values of a step are those before its update, except the last.
#[derive(Debug, Deserialize)]
pub struct RecordedStep {
    pub step: usize,
    /// Lines of `train.jsonl`, from 0.
    pub pairs: Vec<usize>,
    pub loss: f64,
    pub logps_chosen: Vec<f64>,
    pub logps_rejected: Vec<f64>,
    pub rewards_chosen: Vec<f64>,
    pub rewards_rejected: Vec<f64>,
    pub margins: Vec<f64>,
    pub grad_norm: f64,
    pub lr: f64,
    pub adapter_norm_after: f64,
}

#[derive(Deserialize)]
struct LogpsFile {
    pairs: Vec<RecordedPair>,
}

/// Every pair of `logps.json`.
pub fn pairs() -> Vec<RecordedPair> {
    read::<LogpsFile>("logps.json").pairs
}

/// The pair of that line of `train.jsonl`.
pub fn training_pair(pairs: &[RecordedPair], index: usize) -> &RecordedPair {
    pairs
        .iter()
        .find(|pair| pair.set == "train" && pair.index == index)
        .unwrap()
}

pub fn trajectory() -> Trajectory {
    read("trajectory.json")
}

/// A recorded adapter (or gradient of one, which has the same layout) with its rows in GGUF's order.
pub fn adapter(file: &str) -> Lora {
    Lora::read_peft_tensors(&golden_dir().join(file), PEFT, Some(HEADS)).unwrap()
}

/// Pairs as groups of their two completions, chosen first.
pub fn examples<'a>(pairs: impl IntoIterator<Item = &'a RecordedPair>) -> Examples {
    let group = |pair: &RecordedPair| {
        let completions = vec![pair.chosen_ids.clone(), pair.rejected_ids.clone()];
        (pair.prompt_ids.clone(), completions)
    };
    Examples(pairs.into_iter().map(group).collect())
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let path = golden_dir().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
