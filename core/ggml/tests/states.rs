//! Hidden states of every token.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;

use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::llama::{
    Batch, Context, ContextParams, FlashAttention, KvType, LlamaError, Model, ModelParams,
    Products, Token,
};

const TOKENS: [Token; 7] = [12, 7, 300, 45, 7, 101, 9];

#[test]
fn every_architecture_gives_the_embeddings_of_its_tokens_and_the_output_of_each_block_but_the_last()
{
    for tiny in TinyModel::every_architecture() {
        let model = load(&tiny);
        let table = floats(&model, "token_embd.weight");
        let n_embd = model.n_embd() as usize;
        for block in 0..model.n_layer() - 1 {
            let mut context = context(&model, Some(block), 64);
            decode(&mut context, false);
            let states = context.states().unwrap();
            let expected: Vec<f32> = TOKENS
                .iter()
                .flat_map(|token| &table[*token as usize * n_embd..][..n_embd])
                .copied()
                .collect();
            assert_eq!(states.embeddings, expected, "{}", tiny.architecture);
            assert_eq!(states.block.len(), expected.len());
            assert!(states.block.iter().all(|value| value.is_finite()));
            assert_ne!(states.block, states.embeddings);
        }
    }
}

#[test]
fn after_the_last_block_a_state_is_what_logits_are_made_of() {
    let model = load(&TinyModel::llama());
    let (table, norm) = (
        floats(&model, "token_embd.weight"),
        floats(&model, "output_norm.weight"),
    );
    let mut context = context(&model, Some(model.n_layer() - 1), 64);
    decode(&mut context, true);
    let states = context.states().unwrap().block.clone();
    for (at, state) in states.chunks(norm.len()).enumerate() {
        let mean = state.iter().map(|v| v * v).sum::<f32>() / norm.len() as f32;
        let scale = (mean + 1e-5).sqrt().recip();
        let normed: Vec<f32> = state
            .iter()
            .zip(&norm)
            .map(|(v, n)| v * scale * n)
            .collect();
        let expected = table.chunks(norm.len());
        let expected = expected.map(|row| row.iter().zip(&normed).map(|(a, b)| a * b).sum::<f32>());
        for (logit, expected) in context.logits(at).unwrap().iter().zip(expected) {
            assert!((logit - expected).abs() < 2e-2, "{logit} {expected}");
        }
    }
}

#[test]
fn states_do_not_depend_on_the_pieces_that_a_batch_is_cut_into() {
    let model = load(&TinyModel::llama());
    let of = |n_ubatch| {
        let mut context = context(&model, Some(0), n_ubatch);
        decode(&mut context, false);
        context.states().unwrap().clone()
    };
    let (whole, cut) = (of(64), of(3));
    assert_eq!(whole.embeddings, cut.embeddings);
    for (a, b) in whole.block.iter().zip(&cut.block) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn there_are_no_states_where_none_were_asked_for_and_before_the_first_decode() {
    let model = load(&TinyModel::llama());
    let mut without = context(&model, None, 64);
    decode(&mut without, false);
    assert!(matches!(without.states(), Err(LlamaError::NoStates { .. })));
    let mut with = context(&model, Some(0), 64);
    assert!(matches!(with.states(), Err(LlamaError::NoStates { .. })));
    decode(&mut with, false);
    assert!(with.states().is_ok());
    let mut outside = context(&model, Some(99), 64);
    decode(&mut outside, false);
    let error = outside.states().unwrap_err().to_string();
    assert!(error.contains("l_out-99"), "{error}");
}

fn load(tiny: &TinyModel) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny.write(&path);
    Model::load(&path, &ModelParams::default(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

fn floats(model: &Model, name: &str) -> Vec<f32> {
    let tensor = model.gguf().require_tensor(name).unwrap();
    let bytes = model.gguf().data(tensor).as_chunks().0.iter();
    bytes.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn context(model: &Arc<Model>, states_after: Option<u32>, n_ubatch: u32) -> Context {
    let params = ContextParams {
        n_ctx: 256,
        n_batch: 64,
        n_ubatch,
        n_outputs_max: 32,
        n_threads: 1,
        flash_attention: FlashAttention::Off,
        kv_type: KvType::F32,
        products: Products::Alike,
        states_after,
        ..ContextParams::default()
    };
    Context::new(model, &params).unwrap()
}

fn decode(context: &mut Context, with_logits: bool) {
    let mut batch = Batch::new();
    for (position, &token) in TOKENS.iter().enumerate() {
        batch.push(token, position as i32, 0, with_logits);
    }
    context.decode(&batch, None).unwrap();
}
