//! llama.cpp handles on the demo model.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use thumbprint_fixtures::demo_model_path;
use thumbprint_ggml::gguf::GgufWriter;
use thumbprint_ggml::llama::{
    Adapter, AdapterTensors, Batch, Context, ContextParams, FlashAttention, KvType, LlamaError,
    Model, ModelParams, Products, Sampler, SamplingParams, Token,
};

const TEXT: &str = "The capital of France is Paris, and the capital of Italy is";

#[test]
fn a_model_tells_its_facts() {
    let model = model();
    assert_eq!(model.architecture(), "llama");
    assert_eq!(
        (
            model.n_vocab(),
            model.n_embd(),
            model.n_layer(),
            model.n_ctx_train()
        ),
        (49152, 576, 30, 8192)
    );
    assert!(model.chat_template().unwrap().contains("<|im_start|>"));
    assert_eq!(model.metadata("no.such.key"), None);
    assert_eq!(
        (model.eos(), model.is_eog(2), model.is_eog(9690)),
        (Some(2), true, false)
    );
    assert_eq!(model.eog_tokens(), [0, 2, 4]);
    assert!(
        model.is_control(1)
            && !model.is_control(9690)
            && !model.is_control(-1)
            && !model.is_control(49152)
    );
}

#[test]
fn text_becomes_tokens_and_pieces_become_text() {
    let model = model();
    let text = "Grüße, 東京! 🦀👩‍👩‍👧 12";
    let tokens = model.tokenize(text, false, false).unwrap();
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|&t| model.token_to_piece(t, false))
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);

    assert_eq!(model.tokenize("<|im_end|>", false, true).unwrap(), [2]);
    assert!(
        model.tokenize("<|im_end|>", false, false).unwrap().len() > 1,
        "a user's text is never a control token"
    );
    assert!(model.tokenize("", false, true).unwrap().is_empty());
    assert!(
        model.token_to_piece(-1, true).is_empty() && model.token_to_piece(1 << 30, true).is_empty()
    );
}

#[test]
fn loading_refuses_what_is_not_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.gguf");
    std::fs::write(&text, "hello, I am not a model").unwrap();
    let truncated = dir.path().join("truncated.gguf");
    std::fs::write(
        &truncated,
        &std::fs::read(demo_model_path()).unwrap()[..100_000],
    )
    .unwrap();
    for path in [text, truncated, dir.path().join("missing.gguf")] {
        let error = Model::load(&path, &ModelParams::default(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
        assert!(matches!(error, LlamaError::ModelFile { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains(path.file_name().unwrap().to_str().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn loading_reports_progress_and_can_be_cancelled() {
    let mut seen = Vec::new();
    Model::load(&demo_model_path(), &ModelParams::default(), &mut |p| {
        seen.push(p);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen.is_sorted() && seen.last() == Some(&1.0), "{seen:?}");

    let cancelled = Model::load(&demo_model_path(), &ModelParams::default(), &mut |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(cancelled, Err(LlamaError::LoadCancelled)));
}

#[test]
fn a_panic_in_the_progress_callback_comes_back_to_the_caller() {
    let caught = std::panic::catch_unwind(|| {
        let _ = Model::load(&demo_model_path(), &ModelParams::default(), &mut |_| {
            panic!("from the app")
        });
    });
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"from the app"));
}

#[test]
fn what_would_trip_an_assertion_is_an_error() {
    let model = model();
    let mut context = context(&model, 2);
    let batch = |entries: &[(Token, i32, i32, bool)]| {
        let mut batch = Batch::new();
        entries.iter().for_each(|&(t, p, s, o)| {
            batch.push(t, p, s, o);
        });
        batch
    };
    let bad = [
        batch(&[]),
        batch(&[(-1, 0, 0, true)]),
        batch(&[(49152, 0, 0, true)]),
        batch(&[(5, 0, 2, true)]),
        batch(&[(5, 0, -1, true)]),
        batch(&[(5, 1, 0, true)]),
        batch(&[(5, -1, 0, true)]),
        batch(&[(5, 0, 0, true), (5, 2, 0, true)]),
        batch(&[(5, 0, 0, true), (5, 0, 0, true)]),
        batch(&(0..33).map(|i| (5, i, 0, true)).collect::<Vec<_>>()),
        batch(&(0..65).map(|i| (5, i, 0, false)).collect::<Vec<_>>()),
    ];
    for (i, bad) in bad.iter().enumerate() {
        let error = context.decode(bad, None).unwrap_err();
        assert!(
            matches!(
                error,
                LlamaError::Batch { .. } | LlamaError::Sequence { .. }
            ),
            "{i}: {error}"
        );
    }
    assert!(matches!(
        context.logits(0),
        Err(LlamaError::NoLogits { index: 0 })
    ));
    assert!(
        context.kv_truncate(2, 0).is_err()
            && context.kv_copy(0, 2).is_err()
            && context.kv_last_position(-1).is_err()
    );

    context
        .decode(&batch(&[(5, 0, 0, false), (6, 1, 0, true)]), None)
        .unwrap();
    assert!(context.logits(0).is_err() && context.logits(2).is_err());
    assert_eq!(context.logits(1).unwrap().len(), 49152);

    let no_threads = ContextParams {
        n_threads: 0,
        ..ContextParams::default()
    };
    let too_many = ContextParams {
        n_seq_max: 1000,
        n_batch: 1000,
        ..ContextParams::default()
    };
    let no_room = ContextParams {
        n_ctx: 0,
        ..ContextParams::default()
    };
    for params in [no_threads, too_many, no_room] {
        assert!(matches!(
            Context::new(&model, &params),
            Err(LlamaError::Context { .. })
        ));
    }
}

#[test]
fn a_full_context_is_an_error_and_keeps_what_it_had() {
    let model = model();
    let params = ContextParams {
        n_ctx: 256,
        n_batch: 256,
        n_ubatch: 256,
        ..ContextParams::default()
    };
    let mut context = Context::new(&model, &params).unwrap();
    let mut batch = Batch::new();
    for position in 0..256 {
        batch.push(9690, position, 0, false);
    }
    context.decode(&batch, None).unwrap();
    let mut one_more = Batch::new();
    one_more.push(9690, 256, 0, true);
    assert!(matches!(
        context.decode(&one_more, None),
        Err(LlamaError::KvFull {
            n_tokens: 1,
            n_ctx: 256
        })
    ));
    assert_eq!(context.kv_last_position(0).unwrap(), Some(255));
}

#[test]
fn a_raised_cancel_flag_stops_decoding_and_the_context_works_again_after() {
    let model = model();
    let mut context = context(&model, 1);
    let prompt = prompt(&model, 0);
    let cancel = AtomicBool::new(true);
    assert!(matches!(
        context.decode(&prompt, Some(&cancel)),
        Err(LlamaError::Cancelled)
    ));
    assert_eq!(context.kv_last_position(0).unwrap(), None);
    assert!(context.logits(prompt.len() - 1).is_err());
    cancel.store(false, Ordering::Relaxed);
    context.decode(&prompt, Some(&cancel)).unwrap();
}

#[test]
fn a_copied_and_a_truncated_sequence_give_the_logits_of_one_computed_afresh() {
    let model = model();
    let mut context = context(&model, 2);
    let first = prompt(&model, 0);
    context.decode(&first, None).unwrap();
    let expected = context.logits(first.len() - 1).unwrap().to_vec();

    context.kv_copy(0, 1).unwrap();
    for sequence in [0, 1] {
        let last = first.len() as i32 - 1;
        context.kv_truncate(sequence, last).unwrap();
        let mut batch = Batch::new();
        batch.push(*tokens(&model).last().unwrap(), last, sequence, true);
        context.decode(&batch, None).unwrap();
        let difference = max_difference(context.logits(0).unwrap(), &expected);
        // Of attention: llama.cpp computes one token and many tokens with different kernels.
        assert!(difference < 0.05, "sequence {sequence}: {difference}");
    }
}

#[test]
fn greedy_sampling_takes_the_largest_logit_and_a_seed_repeats_its_draws() {
    let model = model();
    let mut context = context(&model, 1);
    let prompt = prompt(&model, 0);
    context.decode(&prompt, None).unwrap();
    let row = prompt.len() - 1;
    let logits = context.logits(row).unwrap();
    let largest = (0..logits.len())
        .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
        .unwrap() as Token;
    let mut greedy = Sampler::new(&model, &SamplingParams::greedy()).unwrap();
    assert_eq!(greedy.sample(&mut context, row).unwrap(), largest);

    let params = SamplingParams {
        temperature: 1.5,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 7,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(&model, &params).unwrap();
    let mut draw = |n: usize| {
        (0..n)
            .map(|_| sampler.sample(&mut context, row).unwrap())
            .collect::<Vec<_>>()
    };
    let first = draw(20);
    assert!(
        first.iter().any(|&t| t != first[0]),
        "20 draws at temperature 1.5 differ"
    );
    let mut again = Sampler::new(&model, &params).unwrap();
    assert_eq!(
        first,
        (0..20)
            .map(|_| again.sample(&mut context, row).unwrap())
            .collect::<Vec<_>>()
    );
    again.reset();
    assert_eq!(first[0], again.sample(&mut context, row).unwrap());
    assert!(again.sample(&mut context, 0).is_err());
}

#[test]
fn a_repetition_penalty_pushes_down_what_was_said() {
    let model = model();
    let mut context = context(&model, 1);
    let prompt = prompt(&model, 0);
    context.decode(&prompt, None).unwrap();
    let row = prompt.len() - 1;
    let params = SamplingParams {
        repeat_penalty: 50.0,
        ..SamplingParams::greedy()
    };
    let mut sampler = Sampler::new(&model, &params).unwrap();
    let first = sampler.sample(&mut context, row).unwrap();
    assert_ne!(sampler.sample(&mut context, row).unwrap(), first);
}

#[test]
fn sampling_parameters_out_of_range_are_named() {
    for (params, name) in [
        (
            SamplingParams {
                temperature: -0.1,
                ..SamplingParams::default()
            },
            "temperature",
        ),
        (
            SamplingParams {
                temperature: f32::NAN,
                ..SamplingParams::default()
            },
            "temperature",
        ),
        (
            SamplingParams {
                top_p: 0.0,
                ..SamplingParams::default()
            },
            "top_p",
        ),
        (
            SamplingParams {
                min_p: 1.5,
                ..SamplingParams::default()
            },
            "min_p",
        ),
        (
            SamplingParams {
                repeat_penalty: 0.0,
                ..SamplingParams::default()
            },
            "repeat_penalty",
        ),
    ] {
        let error = Sampler::new(&model(), &params).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn an_adapter_changes_the_logits_while_it_is_set_and_only_then() {
    let model = model();
    let mut context = context(&model, 1);
    let prompt = prompt(&model, 0);
    let row = prompt.len() - 1;
    let mut logits = |adapters: &[(Arc<Adapter>, f32)]| {
        context.set_adapters(adapters).unwrap();
        context.decode(&prompt, None).unwrap();
        context.logits(row).unwrap().to_vec()
    };
    let base = logits(&[]);
    let adapter = Adapter::from_bytes(&model, lora("llama", 0.05)).unwrap();
    let with = logits(&[(Arc::clone(&adapter), 1.0)]);
    let half = logits(&[(Arc::clone(&adapter), 0.5)]);
    // Observed 0.0076 and 0.0038; where activations are quantized, more.
    assert!(max_difference(&base, &with) > 0.003);
    assert!(max_difference(&with, &half) > 0.0015);
    assert_eq!(logits(&[(Arc::clone(&adapter), 0.0)]), base);
    assert_eq!(logits(&[(adapter, 1.0)]), with);
    assert_eq!(logits(&[]), base);
}

#[test]
fn an_adapter_is_freed_when_its_last_owner_drops_it() {
    let model = model();
    let mut context = context(&model, 1);
    for i in 0..50 {
        let adapter = Adapter::from_bytes(&model, lora("llama", 0.01 * i as f32)).unwrap();
        let weak = Arc::downgrade(&adapter);
        context.set_adapters(&[(adapter, 1.0)]).unwrap();
        assert!(weak.upgrade().is_some(), "the context keeps it");
        context.set_adapters(&[]).unwrap();
        assert!(weak.upgrade().is_none());
    }
}

#[test]
fn overwriting_an_adapter_in_place_equals_loading_the_new_one() {
    let model = model();
    let mut context = context(&model, 1);
    let prompt = prompt(&model, 0);
    let row = prompt.len() - 1;
    let old = Adapter::from_bytes(&model, lora("llama", 0.05)).unwrap();
    let new = Adapter::from_bytes(&model, lora("llama", -0.08)).unwrap();
    let logits = |context: &mut Context| {
        context.kv_clear();
        context.decode(&prompt, None).unwrap();
        context.logits(row).unwrap().to_vec()
    };
    context.set_adapters(&[(new, 1.0)]).unwrap();
    let expected = logits(&mut context);

    let tensors = AdapterTensors::of(&old).unwrap();
    let names: Vec<_> = tensors.names().collect();
    assert_eq!(
        names,
        [
            ("blk.0.attn_q.weight.lora_a", 576 * 4),
            ("blk.0.attn_q.weight.lora_b", 4 * 576)
        ]
    );
    context.set_adapters(&[(old, 1.0)]).unwrap();
    let before = logits(&mut context);
    let (a, b) = lora_values(-0.08);
    tensors
        .overwrite(&[(names[0].0, &a), (names[1].0, &b)])
        .unwrap();
    let after = logits(&mut context);
    assert_ne!(before, after);
    assert_eq!(after, expected);

    assert!(matches!(
        tensors.overwrite(&[("nothing", &a)]),
        Err(LlamaError::AdapterTensor { .. })
    ));
    assert!(matches!(
        tensors.overwrite(&[(names[0].0, &a[1..])]),
        Err(LlamaError::AdapterTensor { .. })
    ));
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let model = model();
    let not_gguf = b"nothing of the kind".to_vec();
    let other_architecture = lora("gemma3", 0.05);
    for bytes in [not_gguf, other_architecture] {
        let error = Adapter::from_bytes(&model, bytes).unwrap_err();
        assert!(matches!(error, LlamaError::Adapter { .. }), "{error}");
    }
    let same_file = Model::load(&demo_model_path(), &ModelParams::default(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let adapter = Adapter::from_bytes(&same_file, lora("llama", 0.05)).unwrap();
    let error = context(&model, 1)
        .set_adapters(&[(adapter, 1.0)])
        .unwrap_err();
    assert!(matches!(error, LlamaError::AdapterOfAnotherModel));
}

#[test]
fn a_context_keeps_its_model_alive_whatever_is_dropped_first() {
    let model = Model::load(&demo_model_path(), &ModelParams::default(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let adapter = Adapter::from_bytes(&model, lora("llama", 0.05)).unwrap();
    let mut context = context(&model, 1);
    context
        .set_adapters(&[(Arc::clone(&adapter), 1.0)])
        .unwrap();
    let prompt = prompt(&model, 0);
    drop((model, adapter));
    context.decode(&prompt, None).unwrap();
    let moved = std::thread::spawn(move || context.logits(prompt.len() - 1).unwrap()[0]);
    assert!(moved.join().unwrap().is_finite());
}

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let load = || {
        Model::load(&demo_model_path(), &ModelParams::default(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap()
    };
    Arc::clone(MODEL.get_or_init(load))
}

fn context(model: &Arc<Model>, n_seq_max: u32) -> Context {
    let params = ContextParams {
        n_ctx: 256,
        n_batch: 64,
        n_ubatch: 64,
        n_seq_max,
        n_outputs_max: 32,
        n_threads: 1,
        flash_attention: FlashAttention::Off,
        kv_type: KvType::F32,
        products: Products::Alike,
        ..ContextParams::default()
    };
    Context::new(model, &params).unwrap()
}

fn tokens(model: &Model) -> Vec<Token> {
    model.tokenize(TEXT, false, false).unwrap()
}

fn prompt(model: &Model, sequence: i32) -> Batch {
    let tokens = tokens(model);
    let mut batch = Batch::new();
    for (position, &token) in tokens.iter().enumerate() {
        batch.push(
            token,
            position as i32,
            sequence,
            position + 1 == tokens.len(),
        );
    }
    batch
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// A rank-4 adapter on the first layer's query projection, alpha 8.
fn lora(architecture: &str, size: f32) -> Vec<u8> {
    let (a, b) = lora_values(size);
    GgufWriter::new()
        .set("general.type", "adapter")
        .set("general.architecture", architecture)
        .set("adapter.type", "lora")
        .set("adapter.lora.alpha", 8f32)
        .tensor_f32("blk.0.attn_q.weight.lora_a", &[576, 4], &a)
        .tensor_f32("blk.0.attn_q.weight.lora_b", &[4, 576], &b)
        .to_bytes()
        .unwrap()
}

fn lora_values(size: f32) -> (Vec<f32>, Vec<f32>) {
    let wave = |n: usize, step: f32| (0..n).map(|i| size * (i as f32 * step).sin()).collect();
    (wave(576 * 4, 0.7), wave(4 * 576, 1.3))
}
