//! The graph computes what llama.cpp computes: the same logits from the same files, with and without an adapter.
#![allow(clippy::unwrap_used)]

mod common;

use common::measure::{max_difference_f32, rms, rms_difference};
use common::reference::Reference;
use common::{
    Examples, ModelFile, exact, first_layers, llama_cpp, other_architectures, random_lora,
};
use thumbprint_fixtures::{TinyModel, demo_model_path};
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::GgufWriter;
use thumbprint_tune::adapter::{AdapterFile, Lora, LoraConfig, Module};
use thumbprint_tune::graph::{Kernels, NetworkOptions};
use thumbprint_tune::model::trainable_architectures;

/// Every variant of every architecture that llama.cpp loads and the fixtures can make.
fn variants() -> Vec<(&'static str, GgufWriter<'static>)> {
    let tiny = TinyModel::llama();
    let multi_head = TinyModel {
        n_head_kv: 4,
        seed: 2,
        ..tiny.clone()
    };
    let multi_query = TinyModel {
        n_head_kv: 1,
        seed: 3,
        ..tiny.clone()
    };
    let untied = TinyModel {
        tied: false,
        seed: 4,
        ..tiny.clone()
    };
    // Not a multiple of any vector width, and wider in all than the model.
    let wide_heads = TinyModel {
        n_head: 5,
        n_head_kv: 5,
        head_dim: 20,
        seed: 5,
        ..tiny.clone()
    };
    let llama3 = TinyModel {
        llama3_rope: true,
        rope_freq_base: 500_000.0,
        ..tiny.clone()
    };
    let mut scaled = TinyModel {
        seed: 6,
        ..tiny.clone()
    }
    .writer();
    scaled
        .set("llama.rope.scaling.type", "linear")
        .set("llama.rope.scaling.factor", 4.0f32);
    let mut scaled_by_default_kind = TinyModel {
        seed: 6,
        ..tiny.clone()
    }
    .writer();
    scaled_by_default_kind.set("llama.rope.scaling.factor", 4.0f32);
    let mut scaled_by_old_key = TinyModel {
        seed: 6,
        ..tiny.clone()
    }
    .writer();
    scaled_by_old_key.set("llama.rope.scale_linear", 4.0f32);
    vec![
        ("grouped queries", tiny.writer()),
        ("a key head for each query head", multi_head.writer()),
        ("one key head", multi_query.writer()),
        ("untied", untied.writer()),
        ("wide heads", wide_heads.writer()),
        ("frequency factors", llama3.writer()),
        ("linear scaling", scaled),
        ("linear scaling, kind not named", scaled_by_default_kind),
        ("linear scaling under its old key", scaled_by_old_key),
        ("biases", with_biases(&TinyModel { seed: 7, ..tiny })),
    ]
    .into_iter()
    .chain(other_architectures().map(|tiny| (tiny.architecture, tiny.writer())))
    .collect()
}

/// A bias for every matrix of every block.
fn with_biases(tiny: &TinyModel) -> GgufWriter<'static> {
    let mut writer = tiny.writer();
    let (n_q, n_kv) = (tiny.n_head * tiny.head_dim, tiny.n_head_kv * tiny.head_dim);
    for layer in 0..tiny.n_layer {
        let sizes = [
            n_q,
            n_kv,
            n_kv,
            tiny.n_embd,
            tiny.n_ff,
            tiny.n_ff,
            tiny.n_embd,
        ];
        for (module, n) in Module::ALL.into_iter().zip(sizes) {
            let value = |i: usize| 0.3 * ((7 * i + 3 * layer + n) as f32).sin();
            let values: Vec<f32> = (0..n).map(value).collect();
            let name = format!("blk.{layer}.{}.bias", module.gguf_name());
            writer.tensor_f32(&name, &[n as i64], &values);
        }
    }
    writer
}

/// A pair whose prompt is shared, and a single completion, long enough for several tiles of attention.
fn examples() -> Examples {
    Examples::random(11, 384, &[(70, &[40, 5]), (3, &[1])])
}

#[test]
fn every_architecture_of_the_table_is_among_the_variants() {
    let others = other_architectures().map(|tiny| tiny.architecture);
    let all: Vec<_> = ["llama"].into_iter().chain(others).collect();
    assert_eq!(trainable_architectures(), all);
}

#[test]
fn logits_equal_llama_cpps_on_every_variant_of_every_architecture() {
    let examples = examples();
    for (name, writer) in variants() {
        let file = ModelFile::new(&writer);
        let ours = file
            .network(exact(256), None)
            .logits(&examples.pack(), false)
            .unwrap();
        let theirs = llama_cpp::logits(&file.path, None, &examples);
        let difference = max_difference_f32(&ours, &theirs) / rms(&theirs);
        println!("{name}: {difference:.1e}");
        // Observed 3e-6 to 1.1e-5.
        assert!(
            difference < 1e-4,
            "{name}: {difference:.1e} of the logits' rms"
        );
    }
}

#[test]
fn logits_equal_a_double_precision_forward_pass() {
    let examples = examples();
    let mut variants = variants();
    // llama.cpp refuses a llama whose heads are rotated in part.
    let mut partly_rotated = TinyModel::llama().writer();
    partly_rotated.set("llama.rope.dimension_count", 6u32);
    variants.push(("heads rotated in part", partly_rotated));
    for (name, writer) in variants {
        let file = ModelFile::new(&writer);
        let ours = file
            .network(exact(256), None)
            .logits(&examples.pack(), false)
            .unwrap();
        let reference = Reference::open(&file.path);
        let exact: Vec<f32> = examples
            .sequences()
            .flat_map(|(prompt, completion)| reference.plain().logits(prompt, completion).concat())
            .map(|x| x as f32)
            .collect();
        let difference = max_difference_f32(&ours, &exact) / rms(&exact);
        println!("{name}: {difference:.1e}");
        // Observed 3.4e-6 to 9e-6.
        assert!(
            difference < 1e-4,
            "{name}: {difference:.1e} of the logits' rms"
        );
    }
}

#[test]
fn llama_cpp_with_our_adapter_gives_our_logits() {
    let examples = examples();
    for (name, writer) in variants() {
        let file = ModelFile::new(&writer);
        let model = file.open();
        for targets in [&Module::ALL[..], &[Module::Q, Module::V], &[Module::Down]] {
            let lora = random_lora(&model, 3, targets);
            let path = file.write_adapter(&lora);
            let mut network = file.network(exact(256), Some(&lora));
            let ours = network.logits(&examples.pack(), true).unwrap();
            let plain = network.logits(&examples.pack(), false).unwrap();
            let theirs = llama_cpp::logits(&file.path, Some(&path), &examples);
            let difference = max_difference_f32(&ours, &theirs) / rms(&theirs);
            let effect = rms_difference(&ours, &plain) / rms(&plain);
            println!("{name}, {targets:?}: {difference:.1e}, effect {effect:.2}");
            // Observed 3e-6 to 1.8e-5, where the adapter itself changes logits by 0.16 to 0.85 of their rms.
            assert!(
                difference < 1e-4,
                "{name}, {targets:?}: {difference:.1e} of the rms"
            );
            assert!(
                effect > 0.05,
                "{name}, {targets:?}: the adapter does too little to test"
            );
        }
    }
}

#[test]
fn an_adapter_file_read_back_gives_bit_equal_logits() {
    let file = ModelFile::new(&TinyModel::llama().writer());
    let lora = random_lora(&file.open(), 3, &Module::ALL);
    let path = file.write_adapter(&lora);
    let read = AdapterFile::read(&path).unwrap().lora;
    assert_eq!(read.values, lora.values);
    let logits = |lora: &Lora| {
        file.network(exact(256), Some(lora))
            .logits(&examples().pack(), true)
            .unwrap()
    };
    assert_eq!(logits(&lora), logits(&read));
}

/// Text of the kind that the model knows.
fn real_examples() -> Examples {
    let pairs = common::golden::pairs();
    let mut examples = common::golden::examples(&pairs[..1]);
    examples.0[0].1[0].truncate(8);
    examples.0[0].1[1].truncate(8);
    examples
}

/// llama.cpp quantizes activations for its products with Q4_1 weights, so its own logits lie at a distance from those of the very same
/// weights widened to F32. Ours must lie at the F32 end of that distance.
#[test]
fn on_the_quantized_demo_model_logits_are_those_of_its_weights_within_llama_cpps_own_noise() {
    let _alone = common::alone();
    let examples = real_examples();
    let quantized = first_layers(&demo_model_path(), 4, false);
    let widened = first_layers(&demo_model_path(), 4, true);
    let lora = random_lora(&quantized.open(), 8, &Module::ALL);
    let adapter = quantized.write_adapter(&lora);
    for adapter in [None, Some(adapter.as_path())] {
        let with = adapter.is_some();
        let theirs_quantized = llama_cpp::logits(&quantized.path, adapter, &examples);
        let theirs_widened = llama_cpp::logits(&widened.path, adapter, &examples);
        let noise = rms_difference(&theirs_quantized, &theirs_widened);
        let ours = |kernels| {
            let options = NetworkOptions {
                kernels,
                ..exact(128)
            };
            quantized
                .network(options, Some(&lora))
                .logits(&examples.pack(), with)
                .unwrap()
        };
        let exact = ours(Kernels::EXACT);
        let to_widened = rms_difference(&exact, &theirs_widened);
        let to_quantized = rms_difference(&exact, &theirs_quantized);
        let bf16 = rms_difference(&ours(Kernels::BF16), &theirs_widened);
        println!(
            "adapter {with}: rms {:.2}, noise {noise:.1e}, exact to F32 {to_widened:.1e}, exact to Q4_1 {to_quantized:.1e}, \
             bf16 to F32 {bf16:.1e}",
            rms(&theirs_widened)
        );
        // Observed without and with the adapter, in units of the noise: 4.0e-5, 4.1e-5; 1.000, 1.000; 0.36, 0.31.
        assert!(
            to_widened < 1e-3 * noise,
            "{to_widened:.1e} of a noise of {noise:.1e}"
        );
        assert!(
            to_quantized < 1.01 * noise,
            "{to_quantized:.1e} of a noise of {noise:.1e}"
        );
        assert!(bf16 < noise, "{bf16:.1e} of a noise of {noise:.1e}");
    }
}

/// All 30 layers: an adapter must move llama.cpp's logits and ours in the same way, so that the distance between them does not grow. An
/// adapter with a wrong scale would move ours elsewhere.
#[test]
fn on_the_whole_demo_model_llama_cpp_with_our_adapter_stays_as_near_to_us_as_without() {
    let _alone = common::alone();
    let examples = real_examples();
    let path = demo_model_path();
    let model = thumbprint_tune::model::Model::open(&path).unwrap();
    let config = LoraConfig {
        rank: 4,
        alpha: 12.0,
        ..LoraConfig::default()
    };
    let mut lora = Lora::new(config, &common::shapes(&model)).unwrap();
    lora.randomize_b(0.06, 3);
    let folder = common::folder();
    let adapter = folder.path().join("adapter.gguf");
    common::adapter_file(&lora, "llama")
        .write(&adapter)
        .unwrap();

    let mut network = thumbprint_tune::graph::Network::new(model, exact(128), Some(&lora)).unwrap();
    let ours_plain = network.logits(&examples.pack(), false).unwrap();
    let ours = network.logits(&examples.pack(), true).unwrap();
    let theirs_plain = llama_cpp::logits(&path, None, &examples);
    let theirs = llama_cpp::logits(&path, Some(&adapter), &examples);
    let distance = rms_difference(&ours_plain, &theirs_plain);
    let with_adapter = rms_difference(&ours, &theirs);
    let effect = rms_difference(&theirs, &theirs_plain);
    lora.config.alpha *= 1.5;
    let mut wrong = network_of(&path, &lora);
    let wrong = rms_difference(&wrong.logits(&examples.pack(), true).unwrap(), &theirs);
    println!(
        "distance {distance:.3}, with adapter {with_adapter:.3}, effect {effect:.3}, wrong scale {wrong:.3}"
    );
    // Observed 0.25 without and 0.26 with, where the adapter moves logits by 1.33; 0.77 with the wrong scale.
    assert!(
        with_adapter < 1.5 * distance,
        "{with_adapter} with, {distance} without"
    );
    assert!(
        wrong > 2.0 * with_adapter,
        "a wrong scale must be seen: {wrong}"
    );
}

fn network_of(path: &std::path::Path, lora: &Lora) -> thumbprint_tune::graph::Network {
    let model = thumbprint_tune::model::Model::open(path).unwrap();
    thumbprint_tune::graph::Network::new(model, exact(128), Some(lora)).unwrap()
}

#[test]
fn every_trainable_type_of_weight_gives_the_logits_of_its_values() {
    let types = [
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2_K,
        GgmlType::Q3_K,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
        GgmlType::IQ4_NL,
        GgmlType::IQ4_XS,
    ];
    let examples = Examples::random(12, 384, &[(6, &[5, 4])]);
    for ty in types {
        let file = ModelFile::new(
            &TinyModel {
                ty,
                ..TinyModel::wide_llama()
            }
            .writer(),
        );
        let ours = file
            .network(exact(64), None)
            .logits(&examples.pack(), false)
            .unwrap();
        let widened = first_layers(&file.path, 2, true);
        let theirs = llama_cpp::logits(&widened.path, None, &examples);
        let difference = max_difference_f32(&ours, &theirs) / rms(&theirs);
        println!("{}: {difference:.1e}", ty.name());
        // Observed 2.2e-6 to 3.9e-6.
        assert!(
            difference < 1e-4,
            "{}: {difference:.1e} of the logits' rms",
            ty.name()
        );
    }
}
