//! Logits as unmodified llama.cpp computes them.

use std::ops::ControlFlow;
use std::path::Path;

use thumbprint_ggml::llama::{
    Adapter, Batch, Context, ContextParams, FlashAttention, KvType, Model, ModelParams, Products,
};

use super::Examples;

/// The logits that predict each token of each completion, one after another as
/// [`Network::logits`](thumbprint_tune::graph::Network::logits) gives them; each sequence decoded by itself, with an F32 cache and
/// plain attention.
pub fn logits(model: &Path, adapter: Option<&Path>, examples: &Examples) -> Vec<f32> {
    let adapters: Vec<_> = adapter.into_iter().map(|path| (path, 1.0)).collect();
    logits_with(model, &adapters, examples)
}

/// The same under several adapters at once, each at a scale.
pub fn logits_with(model: &Path, adapters: &[(&Path, f32)], examples: &Examples) -> Vec<f32> {
    let proceed = &mut |_| ControlFlow::Continue(());
    let model = Model::load(model, &ModelParams::default(), proceed).unwrap();
    let longest = examples
        .sequences()
        .map(|(p, c)| p.len() + c.len())
        .max()
        .unwrap();
    let n = longest as u32;
    let params = ContextParams {
        n_ctx: n,
        n_batch: n,
        n_ubatch: n,
        n_outputs_max: n,
        n_threads: 1,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        products: Products::Stock,
        ..ContextParams::default()
    };
    let mut context = Context::new(&model, &params).unwrap();
    let load = |(path, scale): &(&Path, f32)| (Adapter::load(&model, path).unwrap(), *scale);
    let adapters: Vec<_> = adapters.iter().map(load).collect();
    context.set_adapters(&adapters).unwrap();
    let mut logits = Vec::new();
    for (prompt, completion) in examples.sequences() {
        context.kv_clear();
        let input = [prompt, &completion[..completion.len() - 1]].concat();
        let mut batch = Batch::new();
        for (position, &token) in input.iter().enumerate() {
            batch.push(token, position as i32, 0, position + 1 >= prompt.len());
        }
        context.decode(&batch, None).unwrap();
        for row in prompt.len() - 1..input.len() {
            logits.extend_from_slice(context.logits(row).unwrap());
        }
    }
    logits
}
