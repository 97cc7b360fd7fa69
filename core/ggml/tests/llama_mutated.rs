//! Damaged files never end the process, whatever llama.cpp would do with them: each is refused, or
//! works.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::gguf::GgufWriter;
use thumbprint_ggml::llama::{Adapter, Batch, Context, ContextParams, Model, ModelParams};

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_damaged_model_is_refused_or_loads(damages in damages()) {
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = BYTES.get_or_init(|| TinyModel::llama().to_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.gguf");
        std::fs::write(&path, damaged(bytes, &damages)).unwrap();
        if let Ok(model) = Model::load(&path, &ModelParams::default(), &mut go_on) {
            compute(&model, None);
        }
    }

    #[test]
    fn a_damaged_adapter_is_refused_or_loads(damages in damages()) {
        static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
        let model = MODEL.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("tiny.gguf");
            TinyModel::llama().write(&path);
            Model::load(&path, &ModelParams::default(), &mut go_on).unwrap()
        });
        if let Ok(adapter) = Adapter::from_bytes(model, damaged(&lora(), &damages)) {
            compute(model, Some(adapter));
        }
    }
}

/// One token; NaN and infinity are as good a result as any.
fn compute(model: &Arc<Model>, adapter: Option<Arc<Adapter>>) {
    let params = ContextParams {
        n_ctx: 256,
        n_threads: 1,
        ..ContextParams::default()
    };
    let Ok(mut context) = Context::new(model, &params) else {
        return;
    };
    let adapters: Vec<_> = adapter.into_iter().map(|adapter| (adapter, 1.0)).collect();
    context.set_adapters(&adapters).unwrap();
    let mut batch = Batch::new();
    batch.push(0, 0, 0, true);
    context.decode(&batch, None).unwrap();
    assert_eq!(context.logits(0).unwrap().len(), model.n_vocab());
}

/// Places, as a share of the file's metadata, and what is written there.
fn damages() -> impl Strategy<Value = Vec<(f64, Vec<u8>)>> {
    let byte = any::<u8>().prop_map(|byte| vec![byte]);
    let number = prop_oneof![
        any::<u64>().prop_map(|n| n.to_le_bytes().to_vec()),
        (0u32..16).prop_map(|n| n.to_le_bytes().to_vec()),
        Just(u32::MAX.to_le_bytes().to_vec()),
    ];
    prop::collection::vec((0.0..1.0, prop_oneof![byte, number]), 1..4)
}

fn damaged(bytes: &[u8], damages: &[(f64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // All of it but the weights' values, which may be anything.
    let metadata = bytes.len().min(24_000);
    for (place, new) in damages {
        let at = (place * (metadata - new.len()) as f64) as usize;
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    bytes
}

fn go_on(_: f32) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn lora() -> Vec<u8> {
    let values = [0.1f32; 64 * 4];
    GgufWriter::new()
        .set("general.type", "adapter")
        .set("general.architecture", "llama")
        .set("adapter.type", "lora")
        .set("adapter.lora.alpha", 8f32)
        .tensor_f32("blk.0.attn_q.weight.lora_a", &[64, 4], &values)
        .tensor_f32("blk.0.attn_q.weight.lora_b", &[4, 64], &values)
        .to_bytes()
        .unwrap()
}
