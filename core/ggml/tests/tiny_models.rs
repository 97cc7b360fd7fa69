//! llama.cpp loads the tiny models of the other tests, tokenizes with them and generates from them.

#![allow(clippy::unwrap_used)]

use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;
use thumbprint_fixtures::{TinyModel, tokenizer};
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::{Gguf, check_model};

#[test]
fn llama_cpp_generates_from_every_kind_of_tiny_model() {
    let models = [
        ("plain", TinyModel::llama()),
        (
            "untied",
            TinyModel {
                tied: false,
                seed: 2,
                ..TinyModel::llama()
            },
        ),
        (
            "q4_1",
            TinyModel {
                ty: GgmlType::Q4_1,
                ..TinyModel::llama()
            }
            .with_type("token_embd", GgmlType::Q8_0),
        ),
        (
            "q4_k",
            TinyModel {
                ty: GgmlType::Q4_K,
                ..TinyModel::wide_llama()
            }
            .with_type("ffn_down", GgmlType::Q6_K),
        ),
        (
            "bf16",
            TinyModel {
                ty: GgmlType::BF16,
                ..TinyModel::llama()
            },
        ),
        (
            "other head width",
            TinyModel {
                head_dim: 32,
                n_head: 4,
                n_head_kv: 1,
                ..TinyModel::llama()
            },
        ),
        (
            "llama 3 rope",
            TinyModel {
                llama3_rope: true,
                rope_freq_base: 500_000.0,
                ..TinyModel::llama()
            },
        ),
        (
            "large vocabulary",
            TinyModel {
                n_vocab: 768,
                ..TinyModel::llama()
            },
        ),
    ]
    .into_iter()
    .chain(
        TinyModel::every_architecture()
            .into_iter()
            .map(|tiny| (tiny.architecture, tiny)),
    );
    let folder = tempfile::tempdir().unwrap();
    for (name, tiny) in models {
        let path = folder.path().join("tiny.gguf");
        tiny.write(&path);
        check_model(&Gguf::open(&path).unwrap()).unwrap();

        let model = Model::load(&path);
        let prompt = model
            .tokenize("<|im_start|>user\nHow do I cook rice?<|im_end|>\n<|im_start|>assistant\n");
        let logits = model.logits(&prompt);
        assert_eq!(logits.len(), tiny.n_vocab, "{name}");
        // Observed: 2.31 to 2.66, and 2.20 where logits are capped.
        let spread = standard_deviation(&logits);
        assert!(
            (2.1..2.8).contains(&spread),
            "{name}: logits spread by {spread}"
        );
        let other = model.logits(&model.tokenize("<|im_start|>user\nTell me a story.<|im_end|>\n"));
        // Observed: 2.46 (capped) to 3.7; contexts that shared nothing would give 1.4 times the spread, 3.4.
        let difference: Vec<f32> = logits.iter().zip(&other).map(|(a, b)| a - b).collect();
        let difference = standard_deviation(&difference);
        println!("{name}: spread {spread:.2}, difference {difference:.2}");
        assert!(
            difference > 2.3,
            "{name}: logits hardly depend on the context"
        );

        let mut tokens = prompt;
        for _ in 0..12 {
            let logits = model.logits(&tokens);
            tokens.push(
                (0..logits.len())
                    .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                    .unwrap() as i32,
            );
        }
        let distinct: std::collections::BTreeSet<_> = tokens[tokens.len() - 12..].iter().collect();
        assert!(
            distinct.len() >= 3,
            "{name}: generates one token over and over"
        );
    }
}

#[test]
fn the_tiny_vocabulary_tokenizes_by_its_merges_and_restores_every_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::llama().write(&path);
    let model = Model::load(&path);

    let vocabulary = tokenizer::vocabulary(TinyModel::llama().n_vocab);
    let spelled = |text: &str| -> Vec<String> {
        model
            .tokenize(text)
            .iter()
            .map(|&token| vocabulary.tokens[token as usize].clone())
            .collect()
    };
    assert_eq!(
        spelled("<|im_start|> the answer"),
        ["<|im_start|>", "Ġthe", "Ġanswer"]
    );
    assert_eq!(spelled("in 10")[..], ["in", "Ġ", "1", "0"]);
    for text in [
        "What is 7 + 35?\n\n",
        "  two  spaces",
        "naïve – 日本語 🎈",
        "\u{0}\u{7f}tab\tend ",
    ] {
        assert_eq!(model.detokenize(&model.tokenize(text)), text.as_bytes());
    }
    let chat = model.tokenize("<|im_start|>user\nHi<|im_end|>\n");
    assert_eq!(
        chat.iter()
            .filter(|&&token| token == tokenizer::IM_END as i32)
            .count(),
        1
    );
}

#[test]
fn the_same_fields_give_the_same_bytes_and_another_seed_gives_others() {
    let model = TinyModel::llama();
    assert_eq!(model.to_bytes(), model.to_bytes());
    assert_ne!(model.to_bytes(), TinyModel { seed: 2, ..model }.to_bytes());
}

fn standard_deviation(values: &[f32]) -> f32 {
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    (values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f32>()
        / values.len() as f32)
        .sqrt()
}

/// The least that it takes to run a model.
struct Model(NonNull<sys::llama_model>);

impl Model {
    fn load(path: &Path) -> Self {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the callback ignores its arguments; the path is a C string; parameters are the defaults.
        unsafe {
            sys::llama_log_set(Some(ignore), std::ptr::null_mut());
            sys::llama_backend_init();
            let model =
                sys::llama_model_load_from_file(path.as_ptr(), sys::llama_model_default_params());
            Model(NonNull::new(model).expect("llama.cpp refused the model"))
        }
    }

    fn vocabulary(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_get_vocab(self.0.as_ptr()) }
    }

    fn tokenize(&self, text: &str) -> Vec<i32> {
        let mut tokens = vec![0; text.len() + 2];
        // SAFETY: both buffers are described by their lengths; a text has no more tokens than bytes.
        let n = unsafe {
            let (text, length) = (text.as_ptr().cast(), text.len() as i32);
            sys::llama_tokenize(
                self.vocabulary(),
                text,
                length,
                tokens.as_mut_ptr(),
                tokens.len() as i32,
                false,
                true,
            )
        };
        tokens.truncate(usize::try_from(n).unwrap());
        tokens
    }

    fn detokenize(&self, tokens: &[i32]) -> Vec<u8> {
        let mut text = vec![0u8; 64 * tokens.len()];
        // SAFETY: both buffers are described by their lengths.
        let n = unsafe {
            let (out, size) = (text.as_mut_ptr().cast(), text.len() as i32);
            sys::llama_detokenize(
                self.vocabulary(),
                tokens.as_ptr(),
                tokens.len() as i32,
                out,
                size,
                false,
                true,
            )
        };
        text.truncate(usize::try_from(n).unwrap());
        text
    }

    /// The logits after the last of the tokens.
    fn logits(&self, tokens: &[i32]) -> Vec<f32> {
        let mut tokens = tokens.to_vec();
        // SAFETY: model, context and batch are alive until the logits have been copied; the batch fits the context.
        unsafe {
            let mut params = sys::llama_context_default_params();
            (params.n_ctx, params.n_threads, params.n_threads_batch) = (256, 1, 1);
            let context = sys::llama_init_from_model(self.0.as_ptr(), params);
            assert!(!context.is_null());
            let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32);
            assert_eq!(sys::llama_decode(context, batch), 0);
            let n = sys::llama_vocab_n_tokens(self.vocabulary()) as usize;
            let logits =
                std::slice::from_raw_parts(sys::llama_get_logits_ith(context, -1), n).to_vec();
            sys::llama_free(context);
            logits
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: every context of the model is gone.
        unsafe { sys::llama_model_free(self.0.as_ptr()) };
    }
}

unsafe extern "C" fn ignore(_: sys::ggml_log_level, _: *const std::ffi::c_char, _: *mut c_void) {}
