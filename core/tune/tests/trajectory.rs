//! Twenty steps of DPO against PyTorch's, from the same adapter on the same pairs.
#![allow(clippy::unwrap_used, missing_docs)]

use std::ops::ControlFlow;

use serde_json::Value;
use thumbprint_fixtures::{demo_model_path, golden_data, golden_dir};
use thumbprint_ggml::llama::{self, ModelParams};
use thumbprint_tune::adapter::{HeadCounts, Lora, PeftConfig};
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::data::{PreferenceReader, Text};
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::graph::Kernels;
use thumbprint_tune::model::Model;
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::plan::Plan;
use thumbprint_tune::schedule::Shape;
use thumbprint_tune::trainer::Trainer;

const STEPS: usize = 20;

#[test]
fn twenty_steps_of_dpo_follow_pytorchs_trajectory() {
    let golden = read("trajectory.json");
    let model = Model::open(&demo_model_path()).unwrap();
    let heads = HeadCounts {
        n_head: model.spec.n_head,
        n_head_kv: model.spec.n_head_kv,
    };
    let adapter = |name: &str| {
        let peft = PeftConfig {
            rank: 2,
            alpha: 6.0,
            dropout: 0.0,
        };
        Lora::read_peft_tensors(&golden_dir().join(name), peft, Some(heads)).unwrap()
    };
    let start = adapter("lora_init.safetensors");
    let config = TrainConfig {
        lora: start.config.clone(),
        learning_rate: 4e-4,
        lr_scheduler_type: Shape::Constant,
        batch_size: 2,
        max_steps: STEPS as u64,
        shuffle: false,
        ..TrainConfig::default()
    };
    let plan = Plan {
        kernels: Kernels::EXACT,
        n_threads: 2,
        max_tokens: 640,
        head_rows: 256,
        recomputed_layers: 0,
        last_layers: None,
        recompute_gate_up: false,
        keep_weights: false,
        device: None,
    };
    let mut trainer =
        Trainer::with_adapter(model, "base", examples(), config, plan, start.clone()).unwrap();
    while !trainer.score_references().unwrap().is_empty() {}

    let (mut worst_loss, mut worst_norm, mut worst_logp) = (0f64, 0f64, 0f64);
    for step in golden["steps"].as_array().unwrap() {
        let ours = trainer.step().unwrap();
        let mean = |key: &str| {
            let values = step[key].as_array().unwrap();
            values.iter().map(|v| v.as_f64().unwrap()).sum::<f64>() / values.len() as f64
        };
        worst_loss = worst_loss.max((ours.loss - step["loss"].as_f64().unwrap()).abs());
        let norm = step["grad_norm"].as_f64().unwrap();
        worst_norm = worst_norm.max((ours.grad_norm - norm).abs() / norm);
        let metrics = &ours.metrics;
        worst_logp = worst_logp.max((metrics.logps_chosen.unwrap() - mean("logps_chosen")).abs());
        worst_logp =
            worst_logp.max((metrics.logps_rejected.unwrap() - mean("logps_rejected")).abs());
    }
    let end = adapter("lora_step20.safetensors");
    let distance = |a: &Lora, b: &Lora| {
        let squares = a
            .values
            .iter()
            .zip(&b.values)
            .map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let off = distance(trainer.lora().unwrap(), &end) / distance(&start, &end);
    eprintln!(
        "loss {worst_loss:.2e}, grad_norm {worst_norm:.2e}, logps {worst_logp:.2e}, adapter {off:.2e}"
    );
    assert!(worst_loss < 2e-3, "loss differs by {worst_loss}");
    assert!(worst_norm < 2e-2, "gradient norm differs by {worst_norm}");
    assert!(
        worst_logp < 5e-2,
        "log-probabilities differ by {worst_logp}"
    );
    // AdamW turns the noise of tiny gradients into whole steps.
    assert!(off < 0.1, "the adapter is {off} of its way off");
}

fn read(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden_dir().join(name)).unwrap()).unwrap()
}

/// The pairs of the trajectory, prepared as TRL does: the newline after the end token is part of a completion.
fn examples() -> Vec<Example> {
    let vocabulary = llama::Model::load(&demo_model_path(), &ModelParams::default(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let tokenize = |text: String| vocabulary.tokenize(&text, false, true).unwrap();
    let content = |text: &Text| match text {
        Text::Chat(messages) => messages
            .iter()
            .map(|m| m.content.as_str())
            .collect::<String>(),
        Text::Plain(text) => text.clone(),
    };
    let rows = PreferenceReader::read_all(golden_data("train.jsonl")).unwrap();
    let examples: Vec<_> = rows
        .iter()
        .take(2 * STEPS)
        .map(|row| Example {
            prompt: tokenize(format!(
                "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
                 <|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
                content(&row.prompt)
            )),
            kind: Kind::Pair {
                chosen: tokenize(format!("{}<|im_end|>\n", content(&row.chosen))),
                rejected: tokenize(format!("{}<|im_end|>\n", content(&row.rejected))),
                weights: PairWeights::default(),
            },
        })
        .collect();
    for pair in read("logps.json")["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["set"] == "train")
    {
        let example = &examples[pair["index"].as_u64().unwrap() as usize];
        let ids = |key: &str| -> Vec<i32> {
            pair[key]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_i64().unwrap() as i32)
                .collect()
        };
        assert_eq!(example.prompt, ids("prompt_ids"));
        assert_eq!(
            example.completions(),
            [ids("chosen_ids"), ids("rejected_ids")]
        );
    }
    examples
}
