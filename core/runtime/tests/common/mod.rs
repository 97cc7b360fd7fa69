//! What several test programs share.
#![allow(dead_code, missing_docs)] // each test program uses a part

use std::ops::ControlFlow;
use std::path::Path;

use thumbprint::engine::{
    AdapterSource, Completed, Engine, EngineOptions, GenerateOptions, LoadedAdapter, ModelSource,
    Request,
};
use thumbprint::types::{Message, Sampling};
use thumbprint::{Recipe, WestOfN};
use thumbprint_ggml::gguf::GgufWriter;

/// Fewer and shorter replies of the base. A model of random weights seldom ends one, so that they would take most of a test's time.
pub fn few_replies() -> WestOfN {
    WestOfN {
        prompts: 48,
        max_tokens: 32,
        ..WestOfN::default()
    }
}

/// The product's way, but for folds where there is little feedback, too, and fewer of the base's own replies.
pub fn with_folds() -> Recipe {
    Recipe {
        folds_from: 0,
        west_of_n: Some(few_replies()),
        ..Recipe::default()
    }
}

pub fn greedy(max_tokens: u32) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        sampling: Sampling::greedy(),
        ..GenerateOptions::default()
    }
}

/// From the model's own distribution.
pub fn draw(max_tokens: u32, seed: u64) -> GenerateOptions {
    let sampling = Sampling {
        seed,
        ..Sampling::plain()
    };
    GenerateOptions {
        max_tokens,
        sampling,
        ..GenerateOptions::default()
    }
}

pub fn ask(question: &str, options: GenerateOptions) -> Request {
    Request::chat(vec![Message::user(question)], options)
}

pub fn run(engine: &Engine, request: &Request) -> Completed {
    engine.generate(request).unwrap().wait().unwrap()
}

pub fn start(path: &Path, n_threads: u32) -> Engine {
    let options = EngineOptions {
        n_ctx: Some(1024),
        n_threads: Some(n_threads),
        ..EngineOptions::default()
    };
    let source = ModelSource::File(path.to_owned());
    Engine::start(source, &options, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// A rank-8 adapter on every query projection, alpha 16. `size` says how far it goes.
pub fn adapter(engine: &Engine, version: &str, size: f32) -> LoadedAdapter {
    engine
        .load_adapter(AdapterSource::Bytes(lora(engine, size)), version, 1.0)
        .unwrap()
}

pub fn lora(engine: &Engine, size: f32) -> Vec<u8> {
    let model = engine.chat().model();
    let mut writer = GgufWriter::new();
    writer
        .set("general.type", "adapter")
        .set("general.architecture", model.architecture().as_str())
        .set("adapter.type", "lora")
        .set("adapter.lora.alpha", 16f32);
    let wave = |n: i64, step: f32| {
        (0..n)
            .map(|i| size * (i as f32 * step).sin())
            .collect::<Vec<_>>()
    };
    for layer in 0..model.n_layer() {
        let base = format!("blk.{layer}.attn_q.weight");
        let dims = model.gguf().require_tensor(&base).unwrap().dims;
        for (name, dims, step) in [("lora_a", [dims[0], 8], 0.7), ("lora_b", [8, dims[1]], 1.3)] {
            writer.tensor_f32(
                &format!("{base}.{name}"),
                &dims,
                &wave(dims[0] * dims[1], step),
            );
        }
    }
    writer.to_bytes().unwrap()
}

/// Whether log-probabilities agree. Observed 0 where they should; other processors may compute
/// batches of other sizes with other kernels.
pub fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.02)
}
