//! LoRA adapters in memory, in GGUF and in PEFT's files.
#![allow(clippy::unwrap_used)]

mod recorded;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::quant::{dequantize, quantize};
use thumbprint_ggml::gguf::{Gguf, GgufWriter};
use thumbprint_tune::adapter::{
    AdapterError, AdapterFile, HeadCounts, Lora, LoraConfig, LoraShape, Module, PeftConfig,
};

/// SmolLM2-135M's.
const HEADS: HeadCounts = HeadCounts {
    n_head: 9,
    n_head_kv: 3,
};
/// Of the recorded adapters.
const RECORDED: PeftConfig = PeftConfig {
    rank: 2,
    alpha: 6.0,
    dropout: 0.0,
};

fn block(layer: usize) -> Vec<LoraShape> {
    let (embd, kv, ff) = (36, 12, 64);
    let size = |module| match module {
        Module::Q | Module::O => (embd, embd),
        Module::K | Module::V => (embd, kv),
        Module::Gate | Module::Up => (embd, ff),
        Module::Down => (ff, embd),
        Module::Qkv => (embd, embd + 2 * kv),
        Module::GateUp => (embd, 2 * ff),
    };
    let shape = |module| {
        let (n_in, n_out) = size(module);
        LoraShape {
            layer,
            module,
            n_in,
            n_out,
        }
    };
    Module::SEPARATE.map(shape).to_vec()
}

fn shapes(layers: usize) -> Vec<LoraShape> {
    (0..layers).flat_map(block).collect()
}

fn random(rank: usize, alpha: f32, layers: usize, seed: u64) -> Lora {
    let config = LoraConfig {
        rank,
        alpha,
        seed,
        ..LoraConfig::default()
    };
    let mut lora = Lora::new(config, &shapes(layers)).unwrap();
    lora.randomize_b(0.02, seed + 1);
    lora
}

fn file(lora: Lora) -> AdapterFile {
    AdapterFile {
        lora,
        architecture: "llama".to_owned(),
        base_sha256: Some("ab".repeat(32)),
    }
}

/// What a file keeps of an adapter.
fn assert_same(a: &Lora, b: &Lora) {
    assert_eq!(
        (a.config.rank, a.config.alpha, &a.config.targets),
        (b.config.rank, b.config.alpha, &b.config.targets)
    );
    assert_eq!(a.tensors, b.tensors);
    let bits = |l: &Lora| l.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(a), bits(b));
}

#[test]
fn a_fresh_adapter_is_initialised_as_peft_does() {
    let lora = Lora::new(
        LoraConfig {
            rank: 16,
            ..LoraConfig::default()
        },
        &shapes(3),
    )
    .unwrap();
    assert_eq!(lora.tensors.len(), 21);
    assert_eq!(lora.scale(), 1.0);
    for t in &lora.tensors {
        assert!(lora.b(t).iter().all(|x| *x == 0.0), "{}", t.base);
        let bound = 1.0 / (t.n_in as f32).sqrt();
        let largest = lora.a(t).iter().fold(0f32, |m, x| m.max(x.abs()));
        // 16 x 36 draws or more: the chance that the largest is under 97 % of the bound is under 1e-7.
        assert!(
            largest <= bound && largest > 0.97 * bound,
            "{}: {largest} of {bound}",
            t.base
        );
        let mean = lora.a(t).iter().sum::<f32>() / lora.a(t).len() as f32;
        assert!(
            mean.abs() < 5.0 * bound / (3.0 * lora.a(t).len() as f32).sqrt(),
            "{}: {mean}",
            t.base
        );
    }
}

#[test]
fn peft_s_own_start_has_the_bounds_of_ours() {
    let lora = Lora::read_peft_tensors(
        &recorded::golden("lora_init.safetensors"),
        RECORDED,
        Some(HEADS),
    )
    .unwrap();
    for t in &lora.tensors {
        let bound = 1.0 / (t.n_in as f32).sqrt();
        let largest = lora.a(t).iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(
            largest <= bound && largest > 0.97 * bound,
            "{}: {largest} of {bound}",
            t.base
        );
        assert!(lora.b(t).iter().all(|x| *x == 0.0));
    }
}

#[test]
fn every_matrix_has_a_stream_of_its_own_that_other_matrices_do_not_change() {
    let all = Lora::new(LoraConfig::default(), &shapes(4)).unwrap();
    let starts: BTreeSet<Vec<u32>> = all
        .tensors
        .iter()
        .map(|t| all.a(t)[..4].iter().map(|x| x.to_bits()).collect())
        .collect();
    assert_eq!(starts.len(), all.tensors.len());

    let targets = BTreeSet::from([Module::V, Module::Down]);
    let some = Lora::new(
        LoraConfig {
            targets,
            ..LoraConfig::default()
        },
        &shapes(2),
    )
    .unwrap();
    assert_eq!(some.tensors.len(), 4);
    for t in &some.tensors {
        assert_eq!(some.a(t), all.a(all.tensor(t.layer, t.module).unwrap()));
    }
    let other = Lora::new(
        LoraConfig {
            seed: 1,
            ..LoraConfig::default()
        },
        &shapes(4),
    )
    .unwrap();
    assert_ne!(other.values, all.values);
}

#[test]
fn matrices_lie_in_one_slice_without_gaps_and_can_be_found() {
    let lora = random(3, 5.0, 2, 1);
    let mut end = 0;
    for range in lora.ranges() {
        assert_eq!(range.start, end);
        end = range.end;
    }
    assert_eq!(end, lora.values.len());
    let t = lora.tensor(1, Module::Gate).unwrap();
    assert_eq!(
        (t.base.as_str(), t.a.len(), t.b.len()),
        ("blk.1.ffn_gate.weight", 3 * 36, 64 * 3)
    );
    assert_eq!(
        lora.name_at(t.a.start).unwrap(),
        "blk.1.ffn_gate.weight.lora_a"
    );
    assert_eq!(
        lora.name_at(t.b.end - 1).unwrap(),
        "blk.1.ffn_gate.weight.lora_b"
    );
    assert!(lora.name_at(end).is_none());
    assert!(lora.tensor(2, Module::Gate).is_none());
}

#[test]
fn names_of_gguf_and_peft_are_understood() {
    for (name, module) in [
        ("q_proj", Module::Q),
        ("attn_q", Module::Q),
        ("self_attn.o_proj", Module::O),
        ("attn_output", Module::O),
        ("ffn_down", Module::Down),
        ("mlp.down_proj", Module::Down),
    ] {
        assert_eq!(name.parse::<Module>().unwrap(), module);
    }
    let error = "lm_head".parse::<Module>().unwrap_err().to_string();
    assert!(
        error.contains("`lm_head`") && error.contains("gate_proj"),
        "{error}"
    );
}

#[test]
fn settings_and_shapes_that_make_no_sense_are_refused() {
    let refused = |config: LoraConfig| Lora::new(config, &shapes(1)).unwrap_err().to_string();
    let base = LoraConfig::default;
    assert!(refused(LoraConfig { rank: 0, ..base() }).starts_with("rank: "));
    for alpha in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(refused(LoraConfig { alpha, ..base() }).starts_with("alpha: "));
    }
    assert!(
        refused(LoraConfig {
            dropout: 1.0,
            ..base()
        })
        .starts_with("dropout: ")
    );
    assert!(
        refused(LoraConfig {
            targets: BTreeSet::new(),
            ..base()
        })
        .starts_with("targets: ")
    );
    let without_gate: Vec<_> = shapes(1)
        .into_iter()
        .filter(|s| s.module != Module::Gate)
        .collect();
    let gate = LoraConfig {
        targets: BTreeSet::from([Module::Q, Module::Gate]),
        ..base()
    };
    let error = Lora::new(gate, &without_gate).unwrap_err().to_string();
    assert!(error.contains("no `gate_proj`"), "{error}");
    // All means all that there are.
    let rest = Lora::new(base(), &without_gate).unwrap();
    assert_eq!(rest.tensors.len(), 6);
    assert!(!rest.config.targets.contains(&Module::Gate));
    let twice = [block(0), block(0)].concat();
    assert!(matches!(
        Lora::new(base(), &twice),
        Err(AdapterError::Tensor { .. })
    ));
    let error = Lora::with_values(base(), &shapes(1), vec![0.0; 5]).unwrap_err();
    assert!(matches!(error, AdapterError::ValueCount { found: 5, .. }));
}

#[test]
fn recorded_adapters_are_read_with_q_and_k_in_gguf_s_order() {
    let path = recorded::golden("lora_random.safetensors");
    let lora = Lora::read_peft_tensors(&path, RECORDED, Some(HEADS)).unwrap();
    assert_eq!((lora.tensors.len(), lora.scale()), (210, 3.0));
    let bytes = fs::read(&path).unwrap();
    let raw = SafeTensors::deserialize(&bytes).unwrap();
    let peft = |t: &thumbprint_tune::adapter::LoraTensor, half: &str| {
        let name = format!(
            "base_model.model.model.layers.{}.{}.{half}.weight",
            t.layer,
            t.module.peft_path()
        );
        let view = raw.tensor(&name).unwrap();
        dequantize(GgmlType::F32, view.data(), view.shape().iter().product()).unwrap()
    };
    let mut moved = 0;
    for t in &lora.tensors {
        assert_eq!(lora.a(t), peft(t, "lora_A"), "{}", t.base);
        let (b, hf) = (lora.b(t), peft(t, "lora_B"));
        assert!(b.iter().any(|x| *x != 0.0));
        let heads = match t.module {
            Module::Q => HEADS.n_head,
            Module::K => HEADS.n_head_kv,
            _ => {
                assert_eq!(b, hf, "{}", t.base);
                continue;
            }
        };
        // The formula of trajectory.json: W_gguf[i*d + 2*j + s] = W_hf[i*d + s*(d/2) + j].
        let d = t.n_out / heads;
        for i in 0..heads {
            for j in 0..d / 2 {
                for s in 0..2 {
                    let (gguf, hf_row) = (i * d + 2 * j + s, i * d + s * (d / 2) + j);
                    assert_eq!(b[gguf * 2..][..2], hf[hf_row * 2..][..2]);
                }
            }
        }
        assert_ne!(b, hf);
        moved += 1;
    }
    assert_eq!(moved, 60);
}

#[test]
fn a_recorded_adapter_written_as_peft_does_has_the_same_tensors() {
    let path = recorded::golden("lora_step20.safetensors");
    let lora = Lora::read_peft_tensors(&path, RECORDED, Some(HEADS)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("adapter");
    lora.write_peft(&out, Some(HEADS)).unwrap();
    let (theirs, ours) = (
        fs::read(&path).unwrap(),
        fs::read(out.join("adapter_model.safetensors")).unwrap(),
    );
    let tensors = |bytes: &[u8]| -> HashMap<String, (Vec<usize>, Vec<u8>)> {
        let file = SafeTensors::deserialize(bytes).unwrap();
        file.iter()
            .map(|(name, v)| (name.to_owned(), (v.shape().to_vec(), v.data().to_vec())))
            .collect()
    };
    assert_eq!(tensors(&theirs), tensors(&ours));
    assert_same(&Lora::read_peft(&out, Some(HEADS)).unwrap(), &lora);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn files_give_back_what_was_written(
        rank in 1usize..6,
        alpha in 0.5f32..40.0,
        layers in 1usize..4,
        seed in any::<u32>(),
        targets in proptest::sample::subsequence(Module::SEPARATE.to_vec(), 1..=7),
        llama_like in any::<bool>(),
    ) {
        let config = LoraConfig {
            rank, alpha, seed: seed.into(), targets: targets.into_iter().collect(), ..LoraConfig::default()
        };
        let mut lora = Lora::new(config, &shapes(layers)).unwrap();
        lora.randomize_b(0.5, 7);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter.gguf");
        let written = file(lora.clone());
        written.write(&path).unwrap();
        prop_assert_eq!(written.to_bytes().unwrap(), fs::read(&path).unwrap());
        let read = AdapterFile::read(&path).unwrap();
        assert_same(&read.lora, &lora);
        prop_assert_eq!((&read.architecture, &read.base_sha256), (&written.architecture, &written.base_sha256));

        let heads = llama_like.then_some(HeadCounts { n_head: 9, n_head_kv: 3 });
        lora.write_peft(folder.path(), heads).unwrap();
        assert_same(&Lora::read_peft(folder.path(), heads).unwrap(), &lora);
    }
}

#[test]
fn a_gguf_adapter_has_the_keys_and_shapes_that_llama_cpp_reads() {
    let gguf = Gguf::parse(file(random(4, 6.0, 2, 3)).to_bytes().unwrap()).unwrap();
    for (key, value) in [
        ("general.type", "adapter"),
        ("general.architecture", "llama"),
        ("adapter.type", "lora"),
    ] {
        assert_eq!(gguf.str(key).unwrap(), value);
    }
    assert_eq!(gguf.f32("adapter.lora.alpha").unwrap(), 6.0);
    assert_eq!(gguf.str("thumbprint.base_sha256").unwrap(), "ab".repeat(32));
    assert_eq!(gguf.tensors().len(), 28);
    assert_eq!(
        gguf.tensor("blk.1.ffn_down.weight.lora_a").unwrap().shape(),
        [64, 4]
    );
    assert_eq!(
        gguf.tensor("blk.1.ffn_down.weight.lora_b").unwrap().shape(),
        [4, 36]
    );
}

/// An adapter as others write it: a file whose pairs are given.
fn foreign(pairs: &[(&str, usize, usize, usize, GgmlType)]) -> Gguf {
    let mut file = GgufWriter::new();
    file.set("general.type", "adapter")
        .set("general.architecture", "llama")
        .set("adapter.type", "lora");
    file.set("adapter.lora.alpha", 4f32);
    for &(base, n_in, n_out, rank, ty) in pairs {
        let values: Vec<f32> = (0..n_in.max(n_out) * rank)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let a = quantize(ty, &values[..n_in * rank], n_in).unwrap();
        // Rows of B are too short for blocks.
        let b_type = if rank % ty.block_size() == 0 {
            ty
        } else {
            GgmlType::F32
        };
        let b = quantize(b_type, &values[..n_out * rank], rank).unwrap();
        file.tensor(
            &format!("{base}.lora_a"),
            &[n_in as i64, rank as i64],
            ty,
            a,
        );
        file.tensor(
            &format!("{base}.lora_b"),
            &[rank as i64, n_out as i64],
            b_type,
            b,
        );
    }
    Gguf::parse(file.to_bytes().unwrap()).unwrap()
}

#[test]
fn adapters_of_other_types_are_converted() {
    for ty in [GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0, GgmlType::F32] {
        let gguf = foreign(&[
            ("blk.3.attn_q.weight", 64, 32, 2, ty),
            ("blk.0.attn_v.weight", 32, 16, 2, ty),
        ]);
        let read = AdapterFile::from_gguf(&gguf).unwrap();
        assert_eq!(read.base_sha256, None);
        assert_eq!((read.lora.config.rank, read.lora.config.alpha), (2, 4.0));
        assert_eq!(
            read.lora.config.targets,
            BTreeSet::from([Module::Q, Module::V])
        );
        for t in &read.lora.tensors {
            let raw = gguf.tensor(&t.a_name()).unwrap();
            assert_eq!(
                read.lora.a(t),
                dequantize(ty, gguf.data(raw), raw.n_elements()).unwrap(),
                "{ty}"
            );
            let want = (0..t.n_in * 2).map(|i| (i as f32 * 0.37).sin());
            // Q8_0 is the coarsest: half of 1/127 = 0.0039, and its scale is f16 (2^-11 = 0.0005 of the value).
            assert!(
                read.lora
                    .a(t)
                    .iter()
                    .zip(want)
                    .all(|(x, w)| (x - w).abs() < 0.0045),
                "{ty}"
            );
        }
        assert_eq!(
            read.lora.tensors[0].base, "blk.0.attn_v.weight",
            "by layer, whatever the file's order"
        );
    }
}

#[test]
fn gguf_adapters_that_cannot_be_trained_on_are_refused_by_tensor() {
    let f32 = GgmlType::F32;
    let refused = |pairs: &[_]| {
        AdapterFile::from_gguf(&foreign(pairs))
            .unwrap_err()
            .to_string()
    };
    for name in [
        "output.weight",
        "blk.0.attn_rotary.weight",
        "blk.x.attn_q.weight",
        "blk.0.attn_q.bias",
    ] {
        assert!(
            refused(&[(name, 8, 8, 2, f32)]).contains(&format!("`{name}.lora_a`")),
            "{name}"
        );
    }
    let error = refused(&[
        ("blk.0.attn_q.weight", 8, 8, 2, f32),
        ("blk.0.attn_k.weight", 8, 8, 3, f32),
    ]);
    assert_eq!(
        error,
        "adapter tensor `blk.0.attn_k.weight.lora_b` has rank 3, and the adapter has rank 2"
    );
}

#[test]
fn an_adapter_for_another_base_is_refused() {
    let adapter = file(random(2, 4.0, 1, 0));
    adapter.check_base(&"AB".repeat(32)).unwrap();
    assert!(matches!(
        adapter.check_base(&"cd".repeat(32)),
        Err(AdapterError::OtherBase { .. })
    ));
    AdapterFile {
        base_sha256: None,
        ..adapter
    }
    .check_base("anything")
    .unwrap();
}

#[test]
fn a_peft_folder_of_ours_names_its_base_and_the_same_adapter_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = file(random(3, 5.0, 2, 8));
    let written = |name: &str| {
        let out = folder.path().join(name);
        adapter.write_peft(&out, Some(HEADS)).unwrap();
        fs::read(out.join("adapter_model.safetensors")).unwrap()
    };
    let bytes = written("one");
    assert_eq!(bytes, written("two"));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    // transformers asks for it.
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let one = folder.path().join("one");
    let read = AdapterFile::read_peft(&one, "llama", Some(HEADS)).unwrap();
    assert_eq!(read.base_sha256, adapter.base_sha256);
    assert_same(&read.lora, &adapter.lora);
    read.check_base(&"ab".repeat(32)).unwrap();
    assert!(read.check_base(&"cd".repeat(32)).is_err());

    let nameless = folder.path().join("nameless");
    adapter.lora.write_peft(&nameless, Some(HEADS)).unwrap();
    let read = AdapterFile::read_peft(&nameless, "llama", Some(HEADS)).unwrap();
    assert_eq!(read.base_sha256, None);
}

#[test]
fn an_adapter_with_values_that_are_not_finite_is_neither_written_nor_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let good = file(random(2, 4.0, 2, 0));
    good.write(&path).unwrap();
    let mut bad = good.clone();
    let at = bad.lora.tensor(1, Module::Up).unwrap().b.start;
    bad.lora.values[at] = f32::NAN;
    for error in [
        bad.write(&path).unwrap_err(),
        bad.to_bytes().unwrap_err(),
        bad.lora.write_peft(folder.path(), None).unwrap_err(),
    ] {
        assert!(
            matches!(&error, AdapterError::NotFinite { tensor } if tensor == "blk.1.ffn_up.weight.lora_b"),
            "{error}"
        );
    }
    assert_same(&AdapterFile::read(&path).unwrap().lora, &good.lora);

    let mut bytes = good.to_bytes().unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = AdapterFile::read(&path).unwrap_err();
    assert!(matches!(error, AdapterError::NotFinite { .. }), "{error}");
}

/// Writes a safetensors file of F32 tensors.
fn safetensors(path: &Path, tensors: &[(&str, [usize; 2], Dtype)]) {
    let data = vec![0u8; 4096];
    let views = tensors.iter().map(|(name, shape, dtype)| {
        let bytes = shape[0] * shape[1] * dtype.bitsize() / 8;
        (
            *name,
            TensorView::new(*dtype, shape.to_vec(), &data[..bytes]).unwrap(),
        )
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn peft_files_that_cannot_be_read_are_refused_by_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let (a, b) = (
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight",
    );
    let heads = Some(HeadCounts {
        n_head: 2,
        n_head_kv: 1,
    });
    let read = |tensors: &[(&str, [usize; 2], Dtype)]| {
        safetensors(&path, tensors);
        Lora::read_peft_tensors(&path, RECORDED, heads)
    };
    let good = (a, [2, 6], Dtype::F32);
    assert_eq!(
        read(&[good, (b, [8, 2], Dtype::F16)])
            .unwrap()
            .tensors
            .len(),
        1
    );

    let refused = |tensors: &[(&str, [usize; 2], Dtype)]| read(tensors).unwrap_err().to_string();
    assert!(refused(&[good]).contains(&format!("`{a}` has no other half")));
    assert!(
        refused(&[good, (b, [8, 3], Dtype::F32)])
            .contains("has rank 3, and the adapter has rank 2")
    );
    assert!(
        refused(&[good, (b, [6, 2], Dtype::F32)])
            .contains("6 rows, which are not 2 heads of an even size")
    );
    assert!(refused(&[good, (b, [8, 2], Dtype::I32)]).contains("I32"));
    let again = a.replace(".weight", ".default.weight");
    assert!(refused(&[good, (again.as_str(), [2, 6], Dtype::F32)]).contains("occurs twice"));
    for unknown in [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight",
        "base_model.model.model.layers.0.self_attn.rotary_proj.lora_A.weight",
    ] {
        assert!(
            refused(&[(unknown, [2, 6], Dtype::F32)])
                .contains(&format!("`{unknown}` is not a LoRA matrix"))
        );
    }
    assert!(refused(&[]).contains("holds no LoRA matrices"));
    fs::write(&path, b"not safetensors").unwrap();
    let error = Lora::read_peft_tensors(&path, RECORDED, heads)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("x.safetensors") && error.contains("is no safetensors file"),
        "{error}"
    );
}

#[test]
fn peft_configurations_beyond_plain_lora_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_config.json");
    let read = |extra: &str| {
        fs::write(&path, format!(r#"{{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "rank_pattern": {{}}{extra}}}"#)).unwrap();
        PeftConfig::read(&path)
    };
    assert_eq!(
        read(r#", "modules_to_save": null"#).unwrap(),
        PeftConfig {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0
        }
    );
    for (extra, name) in [
        (r#", "use_rslora": true"#, "use_rslora"),
        (r#", "use_dora": true"#, "use_dora"),
        (r#", "alpha_pattern": {"q_proj": 4}"#, "alpha_pattern"),
        (r#", "modules_to_save": ["lm_head"]"#, "modules_to_save"),
    ] {
        let error = read(extra).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("adapter_config.json"),
            "{error}"
        );
    }
    fs::write(&path, r#"{"peft_type": "IA3", "r": 8, "lora_alpha": 16}"#).unwrap();
    assert!(
        PeftConfig::read(&path)
            .unwrap_err()
            .to_string()
            .contains("IA3")
    );
    assert!(matches!(
        PeftConfig::read(&folder.path().join("absent.json")),
        Err(AdapterError::Read { .. })
    ));
}
