//! Models in GGUF: what must hold before llama.cpp gets one.

use std::collections::HashMap;

use super::value::{Value, ValueKind, wrong_kind};
use super::{GgmlType, Gguf, GgufError};

/// Checks that a file is a whole language model whose keys, vocabulary and tensors llama.cpp survives.
///
/// llama.cpp reports most problems, but aborts the process (or throws through C) on those that are checked here.
/// Whether the tensors have the shapes that the architecture demands is left to llama.cpp, which reports it. The widths
/// of heads are checked for those that the trainer knows; keys that only other architectures have are not.
///
/// # Errors
/// What is wrong with the first key or tensor that does not fit.
pub fn check_model(model: &Gguf) -> Result<(), GgufError> {
    let kind = model.str_or("general.type", "model")?;
    if kind != "model" {
        return Err(bad_value("general.type", "\"model\"", format!("{kind:?}")));
    }
    if let Some(Value::U16(parts @ 2..)) = model.get("split.count") {
        return Err(GgufError::SplitModel { parts });
    }
    check_hyperparameters(model, model.architecture()?)?;
    check_vocabulary(model)?;
    check_tensors(model)
}

/// llama.cpp's `LLAMA_MAX_LAYERS` and `LLAMA_MAX_EXPERTS`.
const MAX_LAYERS: u32 = 512;
const MAX_EXPERTS: u32 = 512;

const ROTATED_WHOLE: [&str; 10] = [
    "llama", "qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "smollm3", "olmo2",
    "granite",
];
const ROTATED_IN_PART: [&str; 2] = ["phi3", "stablelm"];

/// Vocabularies whose requirements `check_vocabulary` knows: byte-level BPE, SentencePiece, and Gemma 4's mixture.
const TOKENIZERS: [&str; 3] = ["gpt2", "llama", "gemma4"];

/// The highest id of a special token that llama.cpp assumes where a key is absent.
const DEFAULT_TOKEN_ID: usize = 11;

fn check_hyperparameters(model: &Gguf, architecture: &str) -> Result<(), GgufError> {
    let key = |name: &str| format!("{architecture}.{name}");
    let within = |name: &str, value: u32, least: u32, most: u32| {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(bad_value(&key(name), format!("{least} to {most}"), value))
    };

    let n_layer = model.u32(&key("block_count"))?;
    within("block_count", n_layer, 1, MAX_LAYERS)?;
    within(
        "nextn_predict_layers",
        model.u32_or(&key("nextn_predict_layers"), 0)?,
        0,
        n_layer,
    )?;
    within(
        "context_length",
        model.u32(&key("context_length"))?,
        1,
        i32::MAX as u32,
    )?;
    let n_embd = model.u32(&key("embedding_length"))?;
    within("embedding_length", n_embd, 1, i32::MAX as u32)?;

    let n_expert = model.u32_or(&key("expert_count"), 0)?;
    within("expert_count", n_expert, 0, MAX_EXPERTS)?;
    let n_used = per_layer(model, &key("expert_used_count"))?
        .into_iter()
        .max()
        .unwrap_or(0);
    within("expert_used_count", n_used, n_expert.min(1), n_expert)?;
    let n_groups = model.u32_or(&key("expert_group_count"), 0)?;
    within(
        "expert_group_count",
        n_groups,
        0,
        n_expert.saturating_sub(1),
    )?;
    if n_groups > 1 {
        within(
            "expert_group_used_count",
            model.u32_or(&key("expert_group_used_count"), 0)?,
            1,
            n_groups - 1,
        )?;
        if n_expert % n_groups != 0 {
            return Err(bad_value(
                &key("expert_group_count"),
                "a divisor of the number of experts",
                n_groups,
            ));
        }
    }

    let scaling = model.str_or(&key("rope.scaling.type"), "linear")?;
    if !["none", "linear", "yarn", "longrope"].contains(&scaling) {
        return Err(bad_value(
            &key("rope.scaling.type"),
            "none, linear, yarn or longrope",
            format!("{scaling:?}"),
        ));
    }

    for name in [
        "attention.layer_norm_rms_epsilon",
        "attention.layer_norm_epsilon",
        "rope.freq_base",
    ] {
        let value = model.f32_or(&key(name), 0.0)?;
        if !value.is_finite() || value < 0.0 {
            return Err(bad_value(&key(name), "finite and not negative", value));
        }
    }

    // Grouped queries: each key-value head serves a whole number of heads, else the attention matmul aborts.
    let heads = per_layer(model, &key("attention.head_count"))?;
    let heads_kv = per_layer(model, &key("attention.head_count_kv"))?;
    for (layer, &n_head) in heads.iter().enumerate() {
        let n_head_kv = *heads_kv.get(layer).or(heads_kv.first()).unwrap_or(&n_head);
        if n_head_kv > 0 && !n_head.is_multiple_of(n_head_kv) {
            let expected = format!("a divisor of the {n_head} heads");
            return Err(bad_value(
                &key("attention.head_count_kv"),
                expected,
                n_head_kv,
            ));
        }
    }

    // The graphs of these architectures assert that a head has one width, and most that all of it is rotated.
    if ROTATED_WHOLE.contains(&architecture) || ROTATED_IN_PART.contains(&architecture) {
        let n_head = heads.first().copied().unwrap_or(0);
        within("attention.head_count", n_head, 1, n_embd)?;
        let head = model.u32_or(&key("attention.key_length"), n_embd / n_head)?;
        within("attention.key_length", head, 2, n_embd.max(1024))?;
        for name in ["attention.value_length", "rope.dimension_count"] {
            let default = if name == "rope.dimension_count" {
                head
            } else {
                n_embd / n_head
            };
            let in_part = name == "rope.dimension_count" && ROTATED_IN_PART.contains(&architecture);
            let least = if in_part { 2 } else { head };
            within(name, model.u32_or(&key(name), default)?, least, head)?;
        }
    }
    Ok(())
}

fn check_vocabulary(model: &Gguf) -> Result<(), GgufError> {
    let tokenizer = model.str("tokenizer.ggml.model")?;
    if !TOKENIZERS.contains(&tokenizer) {
        return Err(bad_value(
            "tokenizer.ggml.model",
            "gpt2, llama or gemma4",
            format!("{tokenizer:?}"),
        ));
    }
    let tokens = model.array("tokenizer.ggml.tokens")?;
    let n_tokens = tokens.len();
    if n_tokens <= DEFAULT_TOKEN_ID {
        return Err(bad_value(
            "tokenizer.ggml.tokens",
            "at least 12 tokens",
            format!("{n_tokens} tokens"),
        ));
    }
    for key in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
        if let Some(array) = model.get(key).and_then(|value| value.as_array())
            && array.len() < n_tokens
        {
            return Err(bad_value(
                key,
                format!("as long as the {n_tokens} tokens"),
                array.len(),
            ));
        }
    }
    for key in model.keys().filter(|key| is_token_id(key)) {
        let id = model.u32(key)?;
        if id as usize >= n_tokens {
            return Err(bad_value(key, format!("one of the {n_tokens} tokens"), id));
        }
    }
    if tokenizer == "gemma4" {
        model.u32("tokenizer.ggml.bos_token_id")?;
    }

    let mut ids: HashMap<&[u8], usize> = HashMap::with_capacity(n_tokens);
    for (second, token) in tokens.strings().into_iter().flatten().enumerate() {
        // llama.cpp reads up to a zero byte, and gives empty tokens a name of their own.
        let token = token.split(|&byte| byte == 0).next().unwrap_or(token);
        if token.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(token, second) {
            return Err(GgufError::DuplicateToken { first, second });
        }
    }
    if tokenizer == "llama" {
        // SentencePiece falls back to bytes for unknown text, and a missing byte throws out of llama_tokenize.
        for byte in 0..=255u8 {
            if !ids.contains_key(format!("<0x{byte:02X}>").as_bytes())
                && !ids.contains_key([byte].as_slice())
            {
                return Err(bad_value(
                    "tokenizer.ggml.tokens",
                    "complete",
                    format!("without byte 0x{byte:02X}"),
                ));
            }
        }
    }
    Ok(())
}

fn check_tensors(model: &Gguf) -> Result<(), GgufError> {
    use GgmlType::*;
    for tensor in model.tensors() {
        let unusable = |problem: String| GgufError::UnusableTensor {
            tensor: tensor.name.clone(),
            problem,
        };
        // Formats of intermediate results, and of numbers that no model has as weights.
        if matches!(tensor.ty, Q8_1 | Q8_K | F64 | I8 | I16 | I64) {
            return Err(unusable(format!(
                "is {}, which no operation takes as weights",
                tensor.ty
            )));
        }
        // Norms, biases and rope factors are added and multiplied element by element, in f32.
        if tensor.n_dims == 1 && tensor.ty.is_quantized() {
            return Err(unusable(format!(
                "is a vector in {}; vectors are f32",
                tensor.ty
            )));
        }
    }
    for name in ["rope_freqs.weight", "output_norm.weight"] {
        if let Some(tensor) = model.tensor(name)
            && tensor.ty != F32
        {
            let problem = format!("is {}, and must be f32", tensor.ty);
            return Err(GgufError::UnusableTensor {
                tensor: name.into(),
                problem,
            });
        }
    }
    Ok(())
}

/// A hyperparameter that is one number, or one per layer. Empty where the key is absent.
fn per_layer(model: &Gguf, key: &str) -> Result<Vec<u32>, GgufError> {
    match model.get(key) {
        None => Ok(Vec::new()),
        Some(Value::U32(value)) => Ok(vec![value]),
        Some(value) => {
            let array = value.as_array();
            let unsigned = array
                .and_then(|array| array.values::<u32>())
                .map(|values| values.collect());
            let signed = || {
                array
                    .and_then(|array| array.values::<i32>())
                    .map(|v| v.map(|v| v as u32).collect())
            };
            unsigned
                .or_else(signed)
                .ok_or_else(|| wrong_kind(key, "u32 or array of u32", value))
        }
    }
}

fn bad_value(key: &str, expected: impl Into<String>, found: impl ToString) -> GgufError {
    GgufError::BadKeyValue {
        key: key.to_owned(),
        expected: expected.into(),
        found: found.to_string(),
    }
}

/// Checks the kinds of the keys that ggml and llama.cpp read without asking first, or refuse in another kind.
pub(super) fn check_kinds(gguf: &Gguf) -> Result<(), GgufError> {
    let architecture = match gguf.get("general.architecture") {
        Some(Value::String(name)) => Some(name),
        Some(other) => return Err(wrong_kind("general.architecture", "string", other)),
        None => None,
    };
    for key in gguf.keys() {
        let own = architecture.and_then(|name| key.strip_prefix(name)?.strip_prefix('.'));
        let allowed = own.map_or_else(|| general_kinds(key), hyperparameter_kinds);
        let Some(value) = gguf.get(key) else { continue };
        if !allowed.is_empty() && !allowed.iter().any(|kind| kind.fits(&value)) {
            let names: Vec<_> = allowed.iter().map(Kind::name).collect();
            return Err(wrong_kind(key, names.join(" or "), value));
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    One(ValueKind),
    Many(ValueKind),
}

impl Kind {
    fn fits(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Kind::Many(kind), Value::Array(array)) => array.kind() == *kind,
            (Kind::One(kind), value) => value.kind() == *kind,
            _ => false,
        }
    }

    fn name(&self) -> String {
        match self {
            Kind::One(kind) => kind.name().to_owned(),
            Kind::Many(kind) => format!("array of {}", kind.name()),
        }
    }
}

fn is_token_id(key: &str) -> bool {
    key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id")
}

/// The kinds that a key outside the architecture's own may have; empty where any will do.
fn general_kinds(key: &str) -> &'static [Kind] {
    use Kind::*;
    match key {
        "general.type" | "general.name" | "adapter.type" => &[One(ValueKind::String)],
        "general.alignment" | "general.file_type" | "general.quantization_version" => {
            &[One(ValueKind::U32)]
        }
        "adapter.lora.alpha" => &[One(ValueKind::F32)],
        "adapter.alora.invocation_tokens" => &[Many(ValueKind::U32)],
        "tokenizer.ggml.model" | "tokenizer.ggml.pre" | "tokenizer.chat_template" => {
            &[One(ValueKind::String)]
        }
        "tokenizer.ggml.tokens" | "tokenizer.ggml.merges" => &[Many(ValueKind::String)],
        "tokenizer.ggml.scores" => &[Many(ValueKind::F32), Many(ValueKind::I32)],
        "tokenizer.ggml.token_type" | "tokenizer.ggml.suppress_tokens" => &[Many(ValueKind::I32)],
        "tokenizer.ggml.token_type_count" => &[One(ValueKind::U32)],
        "tokenizer.ggml.precompiled_charsmap" => &[Many(ValueKind::I8), Many(ValueKind::U8)],
        "tokenizer.ggml.add_bos_token"
        | "tokenizer.ggml.add_eos_token"
        | "tokenizer.ggml.add_sep_token"
        | "tokenizer.ggml.add_space_prefix"
        | "tokenizer.ggml.remove_extra_whitespaces" => &[One(ValueKind::Bool)],
        "split.count" | "split.no" => &[One(ValueKind::U16)],
        key if is_token_id(key) => &[One(ValueKind::U32)],
        _ => &[],
    }
}

/// The kinds that `<architecture>.<name>` may have; empty where any will do.
fn hyperparameter_kinds(name: &str) -> &'static [Kind] {
    use Kind::*;
    match name {
        "context_length"
        | "embedding_length"
        | "block_count"
        | "vocab_size"
        | "nextn_predict_layers"
        | "expert_count"
        | "expert_group_count"
        | "expert_group_used_count"
        | "attention.key_length"
        | "attention.value_length"
        | "rope.dimension_count"
        | "attention.sliding_window"
        | "rope.scaling.original_context_length" => &[One(ValueKind::U32)],
        "attention.sliding_window_pattern" => &[
            One(ValueKind::U32),
            Many(ValueKind::Bool),
            Many(ValueKind::U32),
            Many(ValueKind::I32),
        ],
        "attention.layer_norm_epsilon"
        | "attention.layer_norm_rms_epsilon"
        | "rope.freq_base"
        | "rope.scale_linear"
        | "rope.scaling.factor"
        | "rope.scaling.attn_factor"
        | "rope.freq_base_swa"
        | "rope.scaling.yarn_ext_factor"
        | "rope.scaling.yarn_attn_factor"
        | "rope.scaling.yarn_log_multiplier"
        | "rope.scaling.yarn_beta_fast"
        | "rope.scaling.yarn_beta_slow"
        | "attn_logit_softcapping"
        | "final_logit_softcapping" => &[One(ValueKind::F32)],
        "attention.causal" | "rope.scaling.finetuned" => &[One(ValueKind::Bool)],
        "rope.scaling.type" => &[One(ValueKind::String)],
        "feed_forward_length"
        | "expert_feed_forward_length"
        | "attention.head_count"
        | "attention.head_count_kv"
        | "expert_used_count" => &[
            One(ValueKind::U32),
            Many(ValueKind::U32),
            Many(ValueKind::I32),
        ],
        _ => &[],
    }
}
