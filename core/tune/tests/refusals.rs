//! What cannot be trained is refused with the name of what is wrong, and never crashes.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Examples, ModelFile, exact, random_lora};
use proptest::prelude::*;
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::GgmlError;
use thumbprint_ggml::gguf::{Gguf, GgufWriter, TensorInfo};
use thumbprint_tune::adapter::Module;
use thumbprint_tune::batch::Packed;
use thumbprint_tune::graph::{Network, NetworkError};
use thumbprint_tune::model::{Model, ModelError};

/// The error of opening a model.
fn refusal(writer: &GgufWriter<'_>) -> ModelError {
    let file = ModelFile::new(writer);
    Model::open(&file.path).err().unwrap()
}

/// The tiny llama with each tensor as `change` wants it: none to leave it out.
fn changed(
    change: impl Fn(&TensorInfo) -> Option<(Vec<i64>, GgmlType, Vec<u8>)>,
) -> GgufWriter<'static> {
    let original = Gguf::parse(TinyModel::llama().to_bytes()).unwrap();
    let mut writer = GgufWriter::new();
    writer.copy_keys(&original);
    for tensor in original.tensors() {
        if let Some((dims, ty, data)) = change(tensor) {
            writer.tensor(&tensor.name, &dims, ty, data);
        }
    }
    writer
}

/// Zeros of another type or shape.
fn zeros(dims: &[i64], ty: GgmlType) -> Option<(Vec<i64>, GgmlType, Vec<u8>)> {
    let rows: i64 = dims[1..].iter().product();
    Some((
        dims.to_vec(),
        ty,
        vec![0; ty.row_size(dims[0] as usize) * rows as usize],
    ))
}

fn as_it_is(tensor: &TensorInfo) -> Option<(Vec<i64>, GgmlType, Vec<u8>)> {
    zeros(tensor.shape(), tensor.ty)
}

#[test]
fn a_missing_tensor_is_named() {
    let original = Gguf::parse(
        TinyModel {
            tied: false,
            ..TinyModel::llama()
        }
        .to_bytes(),
    )
    .unwrap();
    // Without `output.weight` a model is tied.
    for missing in original
        .tensors()
        .iter()
        .filter(|t| t.name != "output.weight")
    {
        let writer = changed(|tensor| {
            if tensor.name == missing.name {
                None
            } else {
                as_it_is(tensor)
            }
        });
        match refusal(&writer) {
            ModelError::Tensor { name, reason } => {
                assert_eq!(
                    (name.as_str(), reason.as_str()),
                    (missing.name.as_str(), "missing")
                );
            }
            other => panic!("{}: {other}", missing.name),
        }
    }
}

#[test]
fn a_tensor_of_another_shape_is_named() {
    let original = Gguf::parse(TinyModel::llama().to_bytes()).unwrap();
    for wrong in original.tensors() {
        let writer = changed(|tensor| {
            if tensor.name != wrong.name {
                return as_it_is(tensor);
            }
            let mut dims = tensor.shape().to_vec();
            dims[0] += 32;
            zeros(&dims, tensor.ty)
        });
        let error = refusal(&writer).to_string();
        assert!(
            error.contains(&wrong.name) && error.contains("shape"),
            "{}: {error}",
            wrong.name
        );
    }
}

#[test]
fn an_architecture_without_a_row_in_the_table_is_named_with_those_that_have_one() {
    let exaone = TinyModel {
        architecture: "exaone",
        ..TinyModel::llama()
    };
    let error = refusal(&exaone.writer());
    assert!(
        matches!(&error, ModelError::Architecture { architecture } if architecture == "exaone")
    );
    let message = error.to_string();
    assert!(
        message.contains("`exaone`") && message.contains("trainable: llama"),
        "{message}"
    );
}

#[test]
fn a_tensor_that_the_specification_has_no_place_for_is_named() {
    for name in ["output.bias", "blk.1.attn_q_norm.weight"] {
        let mut writer = TinyModel::llama().writer();
        writer.tensor_f32(name, &[16], &[1.0; 16]);
        let message = refusal(&writer).to_string();
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_granite_without_its_scale_or_without_rotation_is_refused() {
    let mut still = TinyModel::granite().writer();
    still.set("granite.rope.scaling.finetuned", false);
    let message = refusal(&still).to_string();
    assert!(message.contains("without rotary embedding"), "{message}");
    let mut unscaled = TinyModel::granite().writer();
    unscaled.set("granite.logit_scale", 0.0f32);
    let message = refusal(&unscaled).to_string();
    assert!(message.contains("granite.logit_scale"), "{message}");
}

#[test]
fn features_that_are_not_trained_are_named() {
    let with = |set: &dyn Fn(&mut GgufWriter<'_>)| {
        let mut writer = TinyModel::llama().writer();
        set(&mut writer);
        match refusal(&writer) {
            ModelError::Feature { feature, .. } => feature,
            other => panic!("{other}"),
        }
    };
    let heads: &[u32] = &[4, 2];
    let scaling = with(&|w| {
        w.set("llama.rope.scaling.type", "yarn");
        w.set("llama.rope.scaling.yarn_log_multiplier", 0.1f32);
    });
    assert_eq!(
        scaling,
        "yarn with `llama.rope.scaling.yarn_log_multiplier`"
    );
    let caps = with(&|w| {
        w.set("llama.attn_logit_softcapping", 50.0f32);
    });
    assert_eq!(caps, "`llama.attn_logit_softcapping`");
    let experts = with(&|w| {
        w.set("llama.expert_count", 8u32);
    });
    assert_eq!(experts, "a mixture of experts");
    let window = with(&|w| {
        w.set("llama.attention.sliding_window", 128u32);
    });
    assert_eq!(window, "sliding-window attention");
    let values = with(&|w| {
        w.set("llama.attention.value_length", 8u32);
    });
    assert_eq!(values, "value heads of another size than key heads");
    let per_layer = with(&|w| {
        w.set("llama.attention.head_count", heads);
    });
    assert!(per_layer.contains("differs between layers"), "{per_layer}");
}

#[test]
fn windows_block_by_block_that_are_not_for_every_block_are_refused() {
    let short: &[bool] = &[true, false];
    let long: &[u32] = &[1; 7];
    let refused = |set: &dyn Fn(&mut GgufWriter<'_>)| {
        let mut writer = TinyModel::gemma3().writer();
        set(&mut writer);
        refusal(&writer).to_string()
    };
    let key = "gemma3.attention.sliding_window_pattern";
    for message in [
        refused(&|w| {
            w.set(key, short);
        }),
        refused(&|w| {
            w.set(key, long);
        }),
    ] {
        assert!(
            message.contains(key) && message.contains("each block"),
            "{message}"
        );
    }
}

#[test]
fn a_missing_or_impossible_key_is_named() {
    for key in [
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.context_length",
        "llama.attention.layer_norm_rms_epsilon",
        "general.architecture",
    ] {
        let mut writer = TinyModel::llama().writer();
        writer.remove(key);
        let error = refusal(&writer).to_string();
        assert!(error.contains(key), "{key}: {error}");
    }
    let numbers = [
        ("llama.block_count", 0),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", 3),
        ("llama.rope.dimension_count", 15),
        ("llama.rope.dimension_count", 18),
        ("llama.embedding_length", 0),
    ];
    for (key, value) in numbers {
        let mut writer = TinyModel::llama().writer();
        writer.set(key, value as u32);
        let error = refusal(&writer).to_string();
        assert!(error.contains(key), "{key} = {value}: {error}");
    }
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        for key in [
            "llama.attention.layer_norm_rms_epsilon",
            "llama.rope.freq_base",
            "llama.rope.scaling.factor",
        ] {
            let mut writer = TinyModel::llama().writer();
            writer.set(key, value);
            let error = refusal(&writer).to_string();
            assert!(error.contains(key), "{key} = {value}: {error}");
        }
    }
}

#[test]
fn frequency_factors_must_be_positive() {
    let mut writer = TinyModel::llama().writer();
    writer.tensor_f32(
        "rope_freqs.weight",
        &[8],
        &[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    );
    let error = refusal(&writer).to_string();
    assert!(
        error.contains("rope_freqs.weight") && error.contains("positive"),
        "{error}"
    );
}

#[test]
fn a_tensor_whose_type_cannot_be_trained_on_is_named_with_its_type() {
    for (tensor, ty) in [
        ("blk.1.ffn_up.weight", GgmlType::I32),
        ("blk.0.attn_q.weight", GgmlType::F64),
        ("token_embd.weight", GgmlType::I8),
        // Vectors are read by kernels as they are.
        ("blk.0.attn_norm.weight", GgmlType::F16),
        ("output_norm.weight", GgmlType::BF16),
    ] {
        let writer = changed(|info| {
            if info.name == tensor {
                zeros(info.shape(), ty)
            } else {
                as_it_is(info)
            }
        });
        let error = refusal(&writer);
        assert!(
            matches!(&error, ModelError::TensorType { name, ty: found } if name == tensor && *found == ty.name()),
            "{tensor}: {error}"
        );
    }
}

#[test]
fn a_file_that_is_not_there_or_not_a_model_is_named() {
    let folder = common::folder();
    let text = folder.path().join("text.gguf");
    std::fs::write(&text, "hello, I am not a model").unwrap();
    for path in [folder.path().join("missing.gguf"), text] {
        let error = Model::open(&path).err().unwrap();
        assert!(matches!(error, ModelError::File(_)), "{error}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// An adapter is a GGUF file, too.
#[test]
fn an_adapter_is_not_a_model() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let path = file.write_adapter(&random_lora(&file.open(), 2, &[Module::Q]));
    assert!(Model::open(&path).is_err());
}

#[test]
fn tensor_data_that_ggml_cannot_use_in_place_is_refused() {
    let mut writer = TinyModel::llama().writer();
    writer.set("general.alignment", 8u32);
    let error = refusal(&writer);
    assert!(
        matches!(
            error,
            ModelError::Ggml(GgmlError::Misaligned { alignment: 32 })
        ),
        "{error}"
    );
    // Multiples are fine.
    let mut writer = TinyModel::llama().writer();
    writer.set("general.alignment", 64u32);
    ModelFile::new(&writer).open();
}

/// In memory a file may lie anywhere.
#[test]
fn a_model_parsed_from_memory_works_or_is_refused() {
    let bytes = TinyModel::llama().to_bytes();
    for _ in 0..8 {
        match Model::from_gguf(Arc::new(Gguf::parse(bytes.clone()).unwrap())) {
            Ok(_) | Err(ModelError::Ggml(GgmlError::Misaligned { .. })) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = TinyModel::llama().to_bytes();
    let folder = common::folder();
    let path = folder.path().join("model.gguf");
    proptest!(|(cut in 0..bytes.len())| {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        prop_assert!(matches!(Model::open(&path), Err(ModelError::File(_))), "{cut}");
    });
}

fn tiny() -> ModelFile {
    ModelFile::new(&TinyModel::llama().writer())
}

fn packed() -> Packed {
    Examples::random(41, 384, &[(5, &[4, 3])]).pack()
}

fn reason<T>(result: Result<T, NetworkError>) -> String {
    match result {
        Err(NetworkError::Mismatch { reason }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn tokens_outside_of_the_vocabulary_are_refused_as_input_and_as_label() {
    let mut network = tiny().network(exact(64), None);
    for bad in [-1, 384, i32::MAX, i32::MIN] {
        let input = Examples(vec![(vec![1, bad], vec![vec![3]])]).pack();
        let error = network.score(&input, false).unwrap_err().to_string();
        assert!(
            error.contains(&bad.to_string()) && error.contains("384"),
            "{error}"
        );
        // The last token of a completion is only a label.
        let label = Examples(vec![(vec![1, 2], vec![vec![3, bad]])]).pack();
        let error = reason(network.score(&label, false));
        assert!(
            error.contains(&bad.to_string()) && error.contains("384"),
            "{error}"
        );
    }
}

#[test]
fn a_batch_that_does_not_fit_the_memory_is_refused_with_both_sizes() {
    let mut network = tiny().network(exact(9), None);
    match network.score(&packed(), false) {
        Err(NetworkError::TooLong { rows: 10, max: 9 }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_empty_batch_is_refused() {
    let mut network = tiny().network(exact(9), None);
    assert!(network.score(&Packed::default(), false).is_err());
}

#[test]
fn an_adapter_of_another_models_shape_is_refused() {
    let other = TinyModel {
        n_ff: 160,
        ..TinyModel::llama()
    };
    let lora = random_lora(&ModelFile::new(&other.writer()).open(), 2, &Module::ALL);
    let error = reason(Network::new(tiny().open(), exact(64), Some(&lora)));
    assert!(
        error.contains("blk.0.ffn_gate.weight") && error.contains("160"),
        "{error}"
    );

    let deeper = TinyModel {
        n_layer: 3,
        ..TinyModel::llama()
    };
    let lora = random_lora(&ModelFile::new(&deeper.writer()).open(), 2, &Module::ALL);
    let error = reason(Network::new(tiny().open(), exact(64), Some(&lora)));
    assert!(error.contains("blk.2."), "{error}");
}

#[test]
fn passes_that_do_not_belong_together_are_refused() {
    let file = tiny();
    let lora = random_lora(&file.open(), 2, &Module::ALL);
    let other = random_lora(&file.open(), 3, &Module::ALL);
    let mut grads = vec![0.0; lora.values.len()];

    let mut without = file.network(exact(64), None);
    assert!(reason(without.forward(&packed())).contains("without an adapter"));
    assert!(reason(without.score(&packed(), true)).contains("without an adapter"));
    assert!(reason(without.update_adapter(&lora)).contains("without an adapter"));

    let mut network = file.network(exact(64), Some(&lora));
    assert!(reason(network.update_adapter(&other)).contains("another layout"));
    let no_forward = network.backward(&packed(), &[1.0, 1.0], &lora, &mut grads);
    assert!(reason(no_forward).contains("forward pass right before it"));

    // Scoring overwrites what the forward pass kept.
    network.forward(&packed()).unwrap();
    network.score(&packed(), false).unwrap();
    let after_score = network.backward(&packed(), &[1.0, 1.0], &lora, &mut grads);
    assert!(reason(after_score).contains("forward pass right before it"));

    network.forward(&packed()).unwrap();
    let another = Examples::random(42, 384, &[(5, &[4, 3])]).pack();
    let other_batch = network.backward(&another, &[1.0, 1.0], &lora, &mut grads);
    assert!(reason(other_batch).contains("forward pass right before it"));
    assert_eq!(
        reason(network.backward(&packed(), &[1.0], &lora, &mut grads)),
        "1 coefficients for 2 completions"
    );
    assert!(
        reason(network.backward(&packed(), &[1.0, 1.0], &other, &mut grads)).contains("layout")
    );
    let short = &mut [0.0; 7];
    assert!(reason(network.backward(&packed(), &[1.0, 1.0], &lora, short)).contains("layout"));
    assert!(grads.iter().all(|g| *g == 0.0), "nothing was written");
    network
        .backward(&packed(), &[1.0, 1.0], &lora, &mut grads)
        .unwrap();
}

#[test]
fn refusals_of_files_name_the_file() {
    let error = Model::open(Path::new("/no/such/folder/model.gguf"))
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("/no/such/folder/model.gguf"),
        "{error}"
    );
}
