//! Each way in which a GGUF file can be malformed has its own error, that says what and where.

#![allow(clippy::unwrap_used)]

use std::error::Error;

use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::{Gguf, GgufError, GgufWriter, check_model};

#[test]
fn the_undamaged_file_is_accepted() {
    let file = Gguf::parse(Raw::default().bytes()).unwrap();
    assert_eq!(
        (file.tensors().len(), file.u32("a.number").unwrap()),
        (2, 7)
    );
}

#[test]
fn an_empty_file_is_truncated() {
    assert!(matches!(
        refusal(Vec::new()),
        GgufError::Truncated {
            offset: 0,
            needed: 4,
            available: 0,
            ..
        }
    ));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = Raw::default().bytes();
    let end_of_data = bytes.len();
    for length in 0..end_of_data {
        assert!(
            Gguf::parse(bytes[..length].to_vec()).is_err(),
            "cut to {length} of {end_of_data} bytes"
        );
    }
}

#[test]
fn a_file_cut_within_tensor_data_names_the_tensor() {
    let mut bytes = Raw::default().bytes();
    bytes.truncate(bytes.len() - 1);
    let error = refusal(bytes);
    assert!(
        matches!(&error, GgufError::Truncated { what, needed: 34, available: 33, .. } if what.contains("second"))
    );
    assert!(
        error
            .to_string()
            .contains("copy or download the file again"),
        "{error}"
    );
}

#[test]
fn another_magic_is_refused() {
    let error = refusal(Raw::default().patch(0, b"GGML").bytes());
    assert!(matches!(error, GgufError::WrongMagic { found } if &found == b"GGML"));
}

#[test]
fn version_1_is_refused_by_name() {
    let error = refusal(Raw::default().patch(4, &1u32.to_le_bytes()).bytes());
    assert!(matches!(
        error,
        GgufError::UnsupportedVersion { version: 1 }
    ));
    for version in [0, 4, u32::MAX] {
        let error = refusal(Raw::default().patch(4, &version.to_le_bytes()).bytes());
        assert!(
            matches!(error, GgufError::UnsupportedVersion { .. }),
            "{version}"
        );
    }
}

#[test]
fn version_2_is_accepted() {
    assert_eq!(
        Gguf::parse(Raw::default().patch(4, &2u32.to_le_bytes()).bytes())
            .unwrap()
            .version(),
        2
    );
}

#[test]
fn a_big_endian_file_is_refused_by_name() {
    assert!(matches!(
        refusal(Raw::default().patch(4, &3u32.to_be_bytes()).bytes()),
        GgufError::BigEndian
    ));
}

#[test]
fn more_tensors_than_the_file_can_hold_are_refused() {
    for count in [u64::MAX, 1 << 63, 1 << 40, 1000] {
        let error = refusal(Raw::default().patch(8, &count.to_le_bytes()).bytes());
        assert!(
            matches!(error, GgufError::TooMany { ref what, offset: 8, .. } if what == "tensors"),
            "{error}"
        );
    }
}

#[test]
fn more_keys_than_the_file_can_hold_are_refused() {
    let error = refusal(Raw::default().patch(16, &u64::MAX.to_le_bytes()).bytes());
    assert!(
        matches!(error, GgufError::TooMany { ref what, offset: 16, .. } if what == "keys"),
        "{error}"
    );
}

#[test]
fn a_longer_array_than_the_file_can_hold_is_refused() {
    for (kind, count) in [
        (4u32, u64::MAX),
        (4, 1 << 62),
        (8, 1 << 61),
        (12, (1 << 61) + 1),
    ] {
        let value = [
            9u32.to_le_bytes().as_slice(),
            &kind.to_le_bytes(),
            &count.to_le_bytes(),
        ]
        .concat();
        let error = refusal(
            Raw {
                key: ("a.list".into(), value),
                ..Raw::default()
            }
            .bytes(),
        );
        assert!(
            matches!(error, GgufError::TooMany { ref what, .. } if what.contains("a.list")),
            "{error}"
        );
    }
}

#[test]
fn an_absurd_string_length_is_refused() {
    let value = [8u32.to_le_bytes().as_slice(), &u64::MAX.to_le_bytes()].concat();
    let error = refusal(
        Raw {
            key: ("a.name".into(), value),
            ..Raw::default()
        }
        .bytes(),
    );
    assert!(
        matches!(error, GgufError::Truncated { ref what, needed: u64::MAX, .. } if what.contains("a.name"))
    );
}

#[test]
fn an_unknown_kind_of_value_is_refused() {
    for kind in [13u32, u32::MAX] {
        let error = refusal(
            Raw {
                key: ("a.key".into(), kind.to_le_bytes().to_vec()),
                ..Raw::default()
            }
            .bytes(),
        );
        assert!(
            matches!(error, GgufError::UnknownValueKind { ref key, kind: k, .. } if key == "a.key" && k == kind)
        );
    }
}

#[test]
fn an_array_of_arrays_is_refused() {
    let value = [
        9u32.to_le_bytes().as_slice(),
        &9u32.to_le_bytes(),
        &1u64.to_le_bytes(),
    ]
    .concat();
    let error = refusal(
        Raw {
            key: ("a.nest".into(), value),
            ..Raw::default()
        }
        .bytes(),
    );
    assert!(matches!(error, GgufError::NestedArray { ref key, .. } if key == "a.nest"));
}

#[test]
fn an_empty_or_endless_key_is_refused() {
    let number = [4u32.to_le_bytes(), 7u32.to_le_bytes()].concat();
    let empty = Raw {
        key: (String::new(), number.clone()),
        ..Raw::default()
    };
    assert!(matches!(
        refusal(empty.bytes()),
        GgufError::KeyLength {
            offset: 24,
            length: 0
        }
    ));
    let endless = Raw {
        key: ("k".repeat(65_536), number),
        ..Raw::default()
    };
    assert!(matches!(
        refusal(endless.bytes()),
        GgufError::KeyLength {
            offset: 24,
            length: 65_536
        }
    ));
}

#[test]
fn keys_values_and_names_that_are_not_utf8_are_refused() {
    let bytes = Raw::default().bytes();
    for (text, what) in [
        ("a.number", "a key"),
        ("general.architecture", "a key"),
        ("first", "a tensor name"),
    ] {
        let mut bytes = bytes.clone();
        let at = find(&bytes, text);
        bytes[at] = 0xff;
        assert!(matches!(refusal(bytes), GgufError::NotUtf8 { what: found, .. } if found == what));
    }
    let mut bytes = bytes;
    let at = find(&bytes, "test");
    bytes[at] = 0xff;
    let error = refusal(bytes);
    assert!(
        matches!(&error, GgufError::NotUtf8 { what, .. } if what.contains("general.architecture")),
        "{error}"
    );
}

#[test]
fn keys_and_names_with_a_zero_byte_are_refused() {
    for (text, named) in [("a.number", "a key"), ("second", "a tensor name")] {
        let mut bytes = Raw::default().bytes();
        let at = find(&bytes, text);
        bytes[at + 2] = 0;
        assert!(
            matches!(refusal(bytes), GgufError::ZeroByte { what, offset } if what == named && offset == at as u64)
        );
    }
}

#[test]
fn the_same_key_twice_is_refused() {
    let mut bytes = Raw {
        key: ("b.number".into(), raw_u32(7)),
        ..Raw::default()
    }
    .with_second_key("a.number")
    .bytes();
    assert!(Gguf::parse(bytes.clone()).is_ok());
    let at = find(&bytes, "b.number");
    bytes[at] = b'a';
    assert!(matches!(refusal(bytes), GgufError::DuplicateKey { key, .. } if key == "a.number"));
}

#[test]
fn an_alignment_that_is_no_power_of_two_is_refused() {
    for alignment in [0u32, 3, 48] {
        let error = refusal(
            Raw {
                key: ("general.alignment".into(), raw_u32(alignment)),
                ..Raw::default()
            }
            .bytes(),
        );
        assert!(
            matches!(error, GgufError::BadAlignment { alignment: found } if found == alignment)
        );
    }
}

#[test]
fn an_alignment_beyond_the_file_leaves_no_tensor_data() {
    let error = refusal(
        Raw {
            key: ("general.alignment".into(), raw_u32(1 << 31)),
            ..Raw::default()
        }
        .bytes(),
    );
    assert!(
        matches!(error, GgufError::Truncated { available: 0, .. }),
        "{error}"
    );
}

#[test]
fn keys_of_kinds_that_llama_cpp_does_not_take_are_refused() {
    let wrong: [(&str, &[u8], &str); 8] = [
        (
            "general.alignment",
            &[10, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0],
            "u32",
        ),
        ("general.type", &[4, 0, 0, 0, 1, 0, 0, 0], "string"),
        (
            "adapter.lora.alpha",
            &[12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x30, 0x40],
            "f32",
        ),
        (
            "tokenizer.ggml.tokens",
            &[9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "array of string",
        ),
        (
            "tokenizer.ggml.token_type",
            &[9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "array of i32",
        ),
        (
            "tokenizer.ggml.scores",
            &[4, 0, 0, 0, 1, 0, 0, 0],
            "array of f32 or array of i32",
        ),
        (
            "tokenizer.ggml.eos_token_id",
            &[5, 0, 0, 0, 1, 0, 0, 0],
            "u32",
        ),
        ("test.block_count", &[5, 0, 0, 0, 1, 0, 0, 0], "u32"),
    ];
    for (name, value, kinds) in wrong {
        let error = refusal(
            Raw {
                key: (name.into(), value.to_vec()),
                ..Raw::default()
            }
            .bytes(),
        );
        let fits = matches!(&error, GgufError::WrongKeyType { key, expected, .. } if key == name && expected == kinds);
        assert!(fits, "{name}: {error}");
    }
}

#[test]
fn an_architecture_that_is_no_string_is_refused() {
    let mut bytes = Raw {
        key: ("general.architecturf".into(), raw_u32(7)),
        ..Raw::default()
    }
    .bytes();
    // Swap the roles of the two keys.
    let (string, number) = (
        find(&bytes, "general.architecture"),
        find(&bytes, "general.architecturf"),
    );
    bytes[string + 19] = b'f';
    bytes[number + 19] = b'e';
    assert!(
        matches!(refusal(bytes), GgufError::WrongKeyType { key, .. } if key == "general.architecture")
    );
}

#[test]
fn a_typed_accessor_says_which_key_is_missing_or_of_another_kind() {
    let file = Gguf::parse(Raw::default().bytes()).unwrap();
    assert!(
        matches!(file.f32("a.number"), Err(GgufError::WrongKeyType { key, expected, found })
        if (key.as_str(), expected.as_str(), found.as_str()) == ("a.number", "f32", "u32"))
    );
    assert!(matches!(file.u32("no.such"), Err(GgufError::MissingKey { key }) if key == "no.such"));
    assert_eq!(file.u32_or("no.such", 3).unwrap(), 3);
    assert!(matches!(
        file.f32_or("a.number", 1.0),
        Err(GgufError::WrongKeyType { .. })
    ));
    assert!(
        matches!(file.require_tensor("third"), Err(GgufError::MissingTensor { tensor }) if tensor == "third")
    );
}

#[test]
fn an_empty_or_long_tensor_name_is_refused() {
    for name in [String::new(), "n".repeat(64)] {
        let error = refusal(
            Raw::default()
                .tensor(0, |tensor| tensor.name = name.clone())
                .bytes(),
        );
        assert!(
            matches!(error, GgufError::TensorNameLength { length, .. } if length == name.len() as u64)
        );
    }
    assert!(
        Gguf::parse(
            Raw::default()
                .tensor(0, |tensor| tensor.name = "n".repeat(63))
                .bytes()
        )
        .is_ok()
    );
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let error = refusal(
        Raw::default()
            .tensor(1, |tensor| tensor.name = "first".into())
            .bytes(),
    );
    assert!(matches!(error, GgufError::DuplicateTensor { tensor } if tensor == "first"));
}

#[test]
fn too_few_and_too_many_dimensions_are_refused() {
    for dims in [vec![], vec![1; 5]] {
        let error = refusal(
            Raw::default()
                .tensor(0, |tensor| tensor.dims = dims.clone())
                .bytes(),
        );
        assert!(
            matches!(error, GgufError::TensorRank { n_dims, .. } if n_dims == dims.len() as u64)
        );
    }
}

#[test]
fn absurd_dimensions_are_refused() {
    let absurd = [
        vec![0],
        vec![-4],
        vec![4, i64::MIN],
        vec![1 << 32, 1 << 32],
        vec![i64::MAX],
        vec![1 << 40, 1 << 20, 8],
        vec![4, 0, 4],
    ];
    for dims in absurd {
        let error = refusal(
            Raw::default()
                .tensor(0, |tensor| tensor.dims = dims.clone())
                .bytes(),
        );
        assert!(
            matches!(error, GgufError::TensorShape { dims: ref found, .. } if *found == dims),
            "{dims:?}: {error}"
        );
    }
    // Representable, but far beyond the file.
    let error = refusal(
        Raw::default()
            .tensor(0, |tensor| tensor.dims = vec![1 << 40])
            .bytes(),
    );
    assert!(
        matches!(
            error,
            GgufError::Truncated {
                needed: 0x400_0000_0000,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn rows_of_half_a_block_are_refused() {
    let error = refusal(
        Raw::default()
            .tensor(1, |tensor| tensor.dims = vec![16, 2])
            .bytes(),
    );
    assert!(matches!(
        error,
        GgufError::TensorBlocks {
            row: 16,
            ty: GgmlType::Q8_0,
            block: 32,
            ..
        }
    ));
}

#[test]
fn unknown_and_removed_tensor_types_are_refused() {
    for ty in [4, 31, 38, 43, u32::MAX] {
        let error = refusal(Raw::default().tensor(0, |tensor| tensor.ty = ty).bytes());
        assert!(matches!(error, GgufError::UnknownTensorType { ty: found, .. } if found == ty));
    }
}

#[test]
fn tensor_offsets_other_than_the_next_aligned_one_are_refused() {
    for offset in [0, 16, 33, 64, 1 << 40, u64::MAX] {
        let error = refusal(
            Raw::default()
                .tensor(1, |tensor| tensor.offset = offset)
                .bytes(),
        );
        assert!(
            matches!(error, GgufError::TensorOffset { expected: 32, offset: found, .. } if found == offset)
        );
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.gguf");
    let error = Gguf::open(&missing).unwrap_err();
    assert!(matches!(&error, GgufError::Open { path, .. } if *path == missing));
    assert!(error.to_string().contains("missing.gguf"), "{error}");
    assert!(
        matches!(Gguf::open(folder.path()), Err(GgufError::Open { .. })),
        "a folder"
    );
}

#[test]
fn a_malformed_file_on_disk_is_named_together_with_its_problem() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.gguf");
    for (bytes, problem) in [
        (b"PK\x03\x04 zip".as_slice(), "not a GGUF file"),
        (b"", "ends too early"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Gguf::open(&path).unwrap_err();
        assert!(matches!(error, GgufError::InFile { .. }) && error.source().is_some());
        let message = error.to_string();
        assert!(
            message.contains("damaged.gguf") && message.contains(problem),
            "{message}"
        );
    }
}

#[test]
fn a_tiny_model_passes_the_model_check() {
    for tiny in TinyModel::every_architecture() {
        check_model(&Gguf::parse(tiny.to_bytes()).unwrap()).unwrap();
    }
}

#[test]
fn a_model_whose_keys_llama_cpp_would_abort_on_is_refused() {
    let changes: [(&str, u32); 10] = [
        ("llama.block_count", 0),
        ("llama.block_count", 513),
        ("llama.nextn_predict_layers", 3),
        ("llama.expert_count", 513),
        ("llama.expert_used_count", 1),
        ("llama.attention.head_count_kv", 3),
        ("llama.attention.head_count", 0),
        ("llama.attention.value_length", 8),
        ("llama.rope.dimension_count", 8),
        ("tokenizer.ggml.eos_token_id", 384),
    ];
    for (name, value) in changes {
        let mut model = TinyModel::llama().writer();
        model.set(name, value);
        let error = model_refusal(&model);
        assert!(
            matches!(&error, GgufError::BadKeyValue { key, .. } if key == name),
            "{name} = {value}: {error}"
        );
    }
    let mut model = TinyModel::llama().writer();
    model.set("llama.rope.scaling.type", "quadratic");
    assert!(
        matches!(model_refusal(&model), GgufError::BadKeyValue { key, .. } if key == "llama.rope.scaling.type")
    );
}

#[test]
fn a_model_without_a_needed_key_is_refused() {
    for missing in [
        "llama.block_count",
        "llama.context_length",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
    ] {
        let whole = Gguf::parse(TinyModel::llama().to_bytes()).unwrap();
        let mut part = GgufWriter::new();
        part.copy_keys(&whole).remove(missing);
        assert!(matches!(model_refusal(&part), GgufError::MissingKey { key } if key == missing));
    }
}

#[test]
fn a_vocabulary_with_the_same_token_twice_is_refused() {
    let mut model = TinyModel::llama().writer();
    let mut tokens = thumbprint_fixtures::tokenizer::vocabulary(384).tokens;
    tokens[300] = tokens[7].clone();
    model.set("tokenizer.ggml.tokens", tokens.as_slice());
    assert!(matches!(
        model_refusal(&model),
        GgufError::DuplicateToken {
            first: 7,
            second: 300
        }
    ));
}

#[test]
fn tokens_that_differ_behind_a_zero_byte_are_the_same_to_llama_cpp() {
    let mut model = TinyModel::llama().writer();
    let mut tokens = thumbprint_fixtures::tokenizer::vocabulary(384).tokens;
    tokens[300] = format!("{}\0 and more", tokens[7]);
    model.set("tokenizer.ggml.tokens", tokens.as_slice());
    assert!(matches!(
        model_refusal(&model),
        GgufError::DuplicateToken {
            first: 7,
            second: 300
        }
    ));
}

#[test]
fn hyperparameters_that_are_not_numbers_or_negative_are_refused() {
    for name in [
        "llama.attention.layer_norm_rms_epsilon",
        "llama.rope.freq_base",
    ] {
        for value in [f32::NAN, f32::INFINITY, -1e-5] {
            let mut model = TinyModel::llama().writer();
            model.set(name, value);
            assert!(
                matches!(model_refusal(&model), GgufError::BadKeyValue { key, .. } if key == name)
            );
        }
    }
}

#[test]
fn a_vocabulary_with_fewer_token_types_than_tokens_is_refused() {
    let mut model = TinyModel::llama().writer();
    model.set("tokenizer.ggml.token_type", [1i32; 383].as_slice());
    assert!(
        matches!(model_refusal(&model), GgufError::BadKeyValue { key, .. } if key == "tokenizer.ggml.token_type")
    );
}

#[test]
fn a_sentencepiece_vocabulary_without_every_byte_is_refused() {
    let mut model = TinyModel::llama().writer();
    model.set("tokenizer.ggml.model", "llama");
    let error = model_refusal(&model);
    assert!(error.to_string().contains("without byte 0x00"), "{error}");
    let mut tokens: Vec<String> = (0..128).map(|id| format!("token {id}")).collect();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    model.set("tokenizer.ggml.tokens", tokens.as_slice());
    check_model(&Gguf::parse(model.to_bytes().unwrap()).unwrap()).unwrap();
}

#[test]
fn an_unknown_tokenizer_and_a_split_model_and_an_adapter_are_no_models() {
    let mut model = TinyModel::llama().writer();
    model.set("tokenizer.ggml.model", "no_vocab");
    assert!(
        matches!(model_refusal(&model), GgufError::BadKeyValue { key, .. } if key == "tokenizer.ggml.model")
    );
    let mut model = TinyModel::llama().writer();
    model.set("split.count", 2u16);
    assert!(matches!(
        model_refusal(&model),
        GgufError::SplitModel { parts: 2 }
    ));
    let mut model = TinyModel::llama().writer();
    model.set("general.type", "adapter");
    assert!(
        matches!(model_refusal(&model), GgufError::BadKeyValue { key, .. } if key == "general.type")
    );
}

#[test]
fn a_model_with_tensors_that_cannot_be_computed_with_is_refused() {
    let mut model = TinyModel::llama().writer();
    model.tensor("blk.0.extra.weight", &[4, 2], GgmlType::F64, vec![0; 64]);
    assert!(
        matches!(model_refusal(&model), GgufError::UnusableTensor { tensor, .. } if tensor == "blk.0.extra.weight")
    );
    let mut model = TinyModel::llama().writer();
    model.tensor("rope_freqs.weight", &[8], GgmlType::F16, vec![0; 16]);
    assert!(
        matches!(model_refusal(&model), GgufError::UnusableTensor { tensor, .. } if tensor == "rope_freqs.weight")
    );
}

fn refusal(bytes: Vec<u8>) -> GgufError {
    Gguf::parse(bytes).expect_err("a malformed file was accepted")
}

fn model_refusal(model: &GgufWriter<'_>) -> GgufError {
    check_model(&Gguf::parse(model.to_bytes().unwrap()).unwrap())
        .expect_err("a bad model was accepted")
}

fn find(bytes: &[u8], text: &str) -> usize {
    bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes())
        .unwrap()
}

fn raw_u32(value: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), value.to_le_bytes()].concat()
}

/// A small file, written byte by byte so that any part of it can be wrong: two keys, two tensors.
struct Raw {
    /// The key after `general.architecture`, and its kind and value.
    key: (String, Vec<u8>),
    second_key: Option<String>,
    tensors: [RawTensor; 2],
    patch: Option<(usize, Vec<u8>)>,
}

struct RawTensor {
    name: String,
    dims: Vec<i64>,
    ty: u32,
    offset: u64,
    data: Vec<u8>,
}

impl Default for Raw {
    fn default() -> Self {
        let first = RawTensor {
            name: "first".into(),
            dims: vec![4],
            ty: 0,
            offset: 0,
            data: vec![1; 16],
        };
        let second = RawTensor {
            name: "second".into(),
            dims: vec![32, 1],
            ty: 8,
            offset: 32,
            data: vec![2; 34],
        };
        Raw {
            key: ("a.number".into(), raw_u32(7)),
            second_key: None,
            tensors: [first, second],
            patch: None,
        }
    }
}

impl Raw {
    fn with_second_key(mut self, key: &str) -> Self {
        self.second_key = Some(key.into());
        self
    }

    fn tensor(mut self, index: usize, change: impl FnOnce(&mut RawTensor)) -> Self {
        change(&mut self.tensors[index]);
        self
    }

    fn patch(mut self, at: usize, bytes: &[u8]) -> Self {
        self.patch = Some((at, bytes.to_vec()));
        self
    }

    fn bytes(self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let n_keys = 2 + u64::from(self.second_key.is_some());
        out.extend(2u64.to_le_bytes());
        out.extend(n_keys.to_le_bytes());
        out.extend(string(&self.key.0));
        out.extend(&self.key.1);
        out.extend(string("general.architecture"));
        out.extend(8u32.to_le_bytes());
        out.extend(string("test"));
        if let Some(key) = self.second_key {
            out.extend(string(&key));
            out.extend(raw_u32(8));
        }
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.data);
        }
        if let Some((at, bytes)) = self.patch {
            out[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        out
    }
}
