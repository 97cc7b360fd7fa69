//! LoRA adapters: what is accepted, and each way in which one can be wrong.

#![allow(clippy::unwrap_used)]

use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::{Gguf, GgufError, GgufWriter, check_adapter, check_adapter_for};

#[test]
fn an_adapter_gives_its_pairs_in_the_order_of_the_file() {
    let adapter = parse(&adapter());
    let pairs = check_adapter_for(&adapter, &base()).unwrap();
    let facts: Vec<_> = pairs.iter().map(|pair| (pair.base, pair.rank())).collect();
    assert_eq!(
        facts,
        [("blk.0.attn_q.weight", 4), ("blk.1.ffn_down.weight", 2)]
    );
    assert_eq!(
        (pairs[1].a.shape(), pairs[1].b.shape()),
        ([128, 2].as_slice(), [2, 64].as_slice())
    );
}

#[test]
fn a_matrix_of_another_float_type_is_accepted() {
    for (ty, bytes) in [(GgmlType::F16, 2), (GgmlType::BF16, 2)] {
        let mut file = adapter();
        file.tensor(
            "blk.0.attn_v.weight.lora_a",
            &[64, 4],
            ty,
            vec![0; 64 * 4 * bytes],
        );
        file.tensor(
            "blk.0.attn_v.weight.lora_b",
            &[4, 32],
            ty,
            vec![0; 4 * 32 * bytes],
        );
        assert_eq!(check_adapter_for(&parse(&file), &base()).unwrap().len(), 3);
    }
}

#[test]
fn token_embeddings_are_changed_by_a_transposed_a() {
    let untied = Gguf::parse(
        TinyModel {
            tied: false,
            ..TinyModel::llama()
        }
        .to_bytes(),
    )
    .unwrap();
    let mut file = adapter();
    file.tensor_f32("token_embd.weight.lora_a", &[4, 384], &[0.0; 4 * 384]);
    file.tensor_f32("token_embd.weight.lora_b", &[4, 64], &[0.0; 4 * 64]);
    assert_eq!(check_adapter_for(&parse(&file), &untied).unwrap().len(), 3);

    let mut file = adapter();
    file.tensor_f32("token_embd.weight.lora_a", &[4, 384], &[0.0; 4 * 384]);
    file.tensor_f32("token_embd.weight.lora_b", &[2, 64], &[0.0; 2 * 64]);
    assert!(
        matches!(refusal(&file), GgufError::UnusableTensor { tensor, .. } if tensor == "token_embd.weight.lora_a")
    );
}

#[test]
fn token_embeddings_that_are_also_the_output_matrix_cannot_be_changed() {
    let mut file = adapter();
    file.tensor_f32("token_embd.weight.lora_a", &[4, 384], &[0.0; 4 * 384]);
    file.tensor_f32("token_embd.weight.lora_b", &[4, 64], &[0.0; 4 * 64]);
    let error = check_adapter_for(&parse(&file), &base()).unwrap_err();
    assert!(
        matches!(error, GgufError::AdapterMismatch { tensor, .. } if tensor == "token_embd.weight")
    );
}

#[test]
fn a_model_is_no_adapter() {
    assert!(
        matches!(check_adapter(&base()), Err(GgufError::BadKeyValue { key, .. }) if key == "general.type")
    );
}

#[test]
fn an_adapter_of_another_kind_is_refused() {
    let mut file = adapter();
    file.set("adapter.type", "control_vector");
    assert!(matches!(refusal(&file), GgufError::BadKeyValue { key, .. } if key == "adapter.type"));
}

#[test]
fn each_needed_key_is_missed_by_name() {
    for missing in [
        "general.type",
        "general.architecture",
        "adapter.type",
        "adapter.lora.alpha",
    ] {
        let mut file = adapter();
        file.remove(missing);
        assert!(matches!(refusal(&file), GgufError::MissingKey { key } if key == missing));
    }
}

#[test]
fn keys_of_another_kind_are_refused_before_llama_cpp_aborts_on_them() {
    for key in [
        "general.type",
        "general.architecture",
        "adapter.type",
        "adapter.lora.alpha",
    ] {
        let mut file = adapter();
        file.set(key, 16u32);
        // The writer refuses them too.
        assert!(
            matches!(file.to_bytes(), Err(GgufError::WrongKeyType { key: found, .. }) if found == key)
        );
    }
}

#[test]
fn an_alpha_of_zero_or_not_a_number_is_refused() {
    for alpha in [0.0, f32::NAN, f32::INFINITY] {
        let mut file = adapter();
        file.set("adapter.lora.alpha", alpha);
        assert!(
            matches!(refusal(&file), GgufError::BadKeyValue { key, .. } if key == "adapter.lora.alpha")
        );
    }
}

#[test]
fn an_activated_lora_is_refused() {
    let mut file = adapter();
    file.set("adapter.alora.invocation_tokens", [1u32, 2].as_slice());
    assert!(
        matches!(refusal(&file), GgufError::BadKeyValue { key, .. } if key == "adapter.alora.invocation_tokens")
    );
}

#[test]
fn half_a_pair_is_refused_and_both_names_are_given() {
    for (present, missing) in [("lora_a", "lora_b"), ("lora_b", "lora_a")] {
        let mut file = adapter();
        file.tensor_f32(
            &format!("blk.0.ffn_up.weight.{present}"),
            &[4, 4],
            &[0.0; 16],
        );
        let error = refusal(&file);
        let fits = matches!(&error, GgufError::LoraPair { present: p, missing: m }
            if p.ends_with(present) && *m == format!("blk.0.ffn_up.weight.{missing}"));
        assert!(fits, "{error}");
    }
}

#[test]
fn a_pair_whose_ranks_disagree_is_refused() {
    let mut file = adapter();
    file.tensor_f32("blk.0.attn_v.weight.lora_a", &[64, 4], &[0.0; 256]);
    file.tensor_f32("blk.0.attn_v.weight.lora_b", &[8, 32], &[0.0; 256]);
    let error = refusal(&file);
    assert!(
        error
            .to_string()
            .contains("has rank 4, but its .lora_b has rank 8"),
        "{error}"
    );
}

#[test]
fn matrices_of_other_dimensions_or_types_are_refused() {
    for (dims, ty) in [
        ([64, 4, 1].as_slice(), GgmlType::F32),
        (&[256], GgmlType::F32),
        (&[64, 4], GgmlType::I32),
    ] {
        let mut file = adapter();
        file.tensor("blk.0.attn_v.weight.lora_a", dims, ty, vec![0; 64 * 4 * 4]);
        file.tensor_f32("blk.0.attn_v.weight.lora_b", &[4, 32], &[0.0; 128]);
        assert!(
            matches!(refusal(&file), GgufError::UnusableTensor { tensor, .. } if tensor.ends_with("lora_a"))
        );
    }
}

#[test]
fn tensors_that_llama_cpp_would_skip_or_misname_are_refused() {
    let mut file = adapter();
    file.tensor_f32("blk.0.attn_norm.weight", &[64], &[0.0; 64]);
    assert!(
        matches!(refusal(&file), GgufError::UnusableTensor { tensor, .. } if tensor == "blk.0.attn_norm.weight")
    );
    let mut file = adapter();
    file.tensor_f32("blk.0.lora_a.weight.lora_a", &[64, 4], &[0.0; 256]);
    file.tensor_f32("blk.0.lora_a.weight.lora_b", &[4, 32], &[0.0; 128]);
    assert!(
        refusal(&file)
            .to_string()
            .contains("suffix within its name")
    );
}

#[test]
fn an_adapter_without_tensors_is_refused() {
    let mut file = GgufWriter::new();
    file.copy_keys(&parse(&adapter()));
    assert!(matches!(refusal(&file), GgufError::MissingTensor { .. }));
}

#[test]
fn an_adapter_for_another_architecture_is_refused_by_both_names() {
    let base = Gguf::parse(TinyModel::qwen2().to_bytes()).unwrap();
    let error = check_adapter_for(&parse(&adapter()), &base).unwrap_err();
    assert!(
        matches!(error, GgufError::AdapterArchitecture { adapter, base } if adapter == "llama" && base == "qwen2")
    );
}

#[test]
fn an_adapter_for_a_model_of_another_size_is_refused() {
    let wide = Gguf::parse(TinyModel::wide_llama().to_bytes()).unwrap();
    let shallow = Gguf::parse(
        TinyModel {
            n_layer: 1,
            ..TinyModel::llama()
        }
        .to_bytes(),
    )
    .unwrap();
    for (base, name) in [
        (wide, "blk.0.attn_q.weight"),
        (shallow, "blk.1.ffn_down.weight"),
    ] {
        let error = check_adapter_for(&parse(&adapter()), &base).unwrap_err();
        assert!(
            matches!(&error, GgufError::AdapterMismatch { tensor, .. } if tensor == name),
            "{error}"
        );
    }
}

#[test]
fn a_change_of_a_norm_is_refused() {
    let mut file = adapter();
    file.tensor_f32("output_norm.weight.lora_a", &[64, 4], &[0.0; 256]);
    file.tensor_f32("output_norm.weight.lora_b", &[4, 1], &[0.0; 4]);
    let error = check_adapter_for(&parse(&file), &base()).unwrap_err();
    assert!(
        matches!(error, GgufError::AdapterMismatch { tensor, .. } if tensor == "output_norm.weight")
    );
}

fn base() -> Gguf {
    Gguf::parse(TinyModel::llama().to_bytes()).unwrap()
}

/// An adapter for the tiny Llama, with two ranks.
fn adapter() -> GgufWriter<'static> {
    let mut file = GgufWriter::new();
    file.set("general.type", "adapter")
        .set("general.architecture", "llama");
    file.set("adapter.type", "lora")
        .set("adapter.lora.alpha", 8.0f32);
    file.tensor_f32("blk.0.attn_q.weight.lora_a", &[64, 4], &[0.5; 64 * 4]);
    file.tensor_f32("blk.0.attn_q.weight.lora_b", &[4, 64], &[0.5; 64 * 4]);
    file.tensor_f32("blk.1.ffn_down.weight.lora_b", &[2, 64], &[0.5; 64 * 2]);
    file.tensor_f32("blk.1.ffn_down.weight.lora_a", &[128, 2], &[0.5; 128 * 2]);
    file
}

fn parse(file: &GgufWriter<'_>) -> Gguf {
    Gguf::parse(file.to_bytes().unwrap()).unwrap()
}

fn refusal(file: &GgufWriter<'_>) -> GgufError {
    check_adapter(&parse(file)).expect_err("a bad adapter was accepted")
}
