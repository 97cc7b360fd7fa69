//! What is written is what is read back.

#![allow(clippy::unwrap_used)]

use std::io::{self, Write};

use proptest::prelude::*;
use thumbprint_fixtures::demo_model_path;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::{Gguf, GgufError, GgufWriter, Value};

/// A value to write. Comparing by bits makes NaN equal to itself.
#[derive(Clone, Debug)]
enum Any {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(u32),
    Bool(bool),
    String(String),
    U64(u64),
    I64(i64),
    F64(u64),
    Numbers(Vec<i32>),
    Flags(Vec<bool>),
    Wide(Vec<u64>),
    Strings(Vec<String>),
}

fn any_value() -> impl Strategy<Value = Any> {
    prop_oneof![
        any::<u8>().prop_map(Any::U8),
        any::<i8>().prop_map(Any::I8),
        any::<u16>().prop_map(Any::U16),
        any::<i16>().prop_map(Any::I16),
        any::<u32>().prop_map(Any::U32),
        any::<i32>().prop_map(Any::I32),
        any::<u32>().prop_map(Any::F32),
        any::<bool>().prop_map(Any::Bool),
        any::<String>().prop_map(Any::String),
        any::<u64>().prop_map(Any::U64),
        any::<i64>().prop_map(Any::I64),
        any::<u64>().prop_map(Any::F64),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(Any::Numbers),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Any::Flags),
        prop::collection::vec(any::<u64>(), 0..9).prop_map(Any::Wide),
        prop::collection::vec(any::<String>(), 0..9).prop_map(Any::Strings),
    ]
}

#[derive(Clone, Debug)]
struct AnyTensor {
    dims: Vec<i64>,
    ty: GgmlType,
    byte: u8,
}

impl AnyTensor {
    fn data(&self) -> Vec<u8> {
        vec![self.byte; self.ty.row_size(self.dims.iter().product::<i64>() as usize)]
    }
}

fn any_tensor() -> impl Strategy<Value = AnyTensor> {
    let ty = prop::sample::select(GgmlType::ALL);
    (prop::collection::vec(1i64..5, 1..=4), ty, any::<u8>()).prop_map(|(mut dims, ty, byte)| {
        dims[0] *= ty.block_size() as i64;
        AnyTensor { dims, ty, byte }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn whatever_is_written_is_read_back(
        values in prop::collection::btree_map("[a-z]{1,8}\\.\\PC{0,12}", any_value(), 0..12),
        tensors in prop::collection::btree_map("\\PC{1,15}", any_tensor(), 0..6),
        alignment in prop::option::of(0u32..10),
    ) {
        let mut file = GgufWriter::new();
        if let Some(exponent) = alignment {
            file.set("general.alignment", 1u32 << exponent);
        }
        for (key, value) in &values {
            set(&mut file, key, value);
        }
        for (name, tensor) in &tensors {
            file.tensor(name, &tensor.dims, tensor.ty, tensor.data());
        }
        let bytes = file.to_bytes().unwrap();
        let read = Gguf::parse(bytes.clone()).unwrap();

        prop_assert_eq!(read.version(), 3);
        prop_assert_eq!(read.alignment(), alignment.map_or(32, |exponent| 1 << exponent));
        prop_assert_eq!(read.keys().len(), values.len() + usize::from(alignment.is_some()));
        for (key, value) in &values {
            prop_assert!(same(&read.get(key).unwrap(), value), "{}: {:?} is not {:?}", key, read.get(key), value);
        }
        let names: Vec<&str> = read.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        prop_assert_eq!(names, tensors.keys().collect::<Vec<_>>());
        for (name, tensor) in &tensors {
            let info = read.require_tensor(name).unwrap();
            prop_assert_eq!((info.shape(), info.ty), (tensor.dims.as_slice(), tensor.ty));
            prop_assert_eq!(read.data(info), tensor.data());
            prop_assert_eq!(info.offset % read.alignment(), 0);
            prop_assert_eq!(&read.data_region()[info.offset..][..info.n_bytes], read.data(info));
        }

        // So does making the data as it is written.
        let mut made = GgufWriter::new();
        made.copy_keys(&read);
        for info in read.tensors() {
            made.declare(&info.name, info.shape(), info.ty);
        }
        let mut out = Vec::new();
        made.write_with(&mut out, &mut |name, out| {
            // In pieces.
            read.data(read.tensor(name).unwrap()).chunks(7).try_for_each(|piece| out.write_all(piece))
        })
        .unwrap();
        prop_assert_eq!(&out, &bytes);

        // Copying all of it gives the same bytes.
        let mut copy = GgufWriter::new();
        copy.copy_keys(&read);
        for info in read.tensors() {
            copy.tensor(&info.name, info.shape(), info.ty, read.data(info));
        }
        prop_assert_eq!(copy.to_bytes().unwrap(), bytes);
    }
}

#[test]
fn a_copy_of_the_demo_model_has_the_same_keys_and_tensors() {
    let model = Gguf::open(demo_model_path()).unwrap();
    let mut copy = GgufWriter::new();
    copy.copy_keys(&model);
    for info in model.tensors() {
        copy.tensor(&info.name, info.shape(), info.ty, model.data(info));
    }
    assert!(
        copy.to_bytes().unwrap() == model.bytes(),
        "the copy differs from the file"
    );
}

#[test]
fn a_key_that_is_set_again_keeps_its_place_and_takes_the_new_value() {
    let mut file = GgufWriter::new();
    file.set("first", 1u32)
        .set("second", 2u32)
        .set("first", "new");
    let read = Gguf::parse(file.to_bytes().unwrap()).unwrap();
    assert_eq!(read.keys().collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(read.str("first").unwrap(), "new");
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    type Build = for<'w> fn(&'w mut GgufWriter<'static>) -> &'w mut GgufWriter<'static>;
    let bad: [(&str, Build); 7] = [
        ("keys have 1 to 65535 bytes", |file| file.set("", 1u32)),
        ("must be a power of two", |file| {
            file.set("general.alignment", 24u32)
        }),
        ("names have 1 to 63 bytes", |file| {
            file.tensor_f32("", &[1], &[0.0])
        }),
        ("occurs twice", |file| {
            file.tensor_f32("a", &[1], &[0.0])
                .tensor_f32("a", &[1], &[0.0])
        }),
        ("1 to 4", |file| file.tensor_f32("a", &[1; 5], &[0.0])),
        ("impossible shape", |file| file.tensor_f32("a", &[0], &[])),
        ("given 4 bytes of data", |file| {
            file.tensor_f32("a", &[2], &[0.0])
        }),
    ];
    for (message, build) in bad {
        let mut file = GgufWriter::new();
        build(&mut file);
        let mut out = Vec::new();
        let error = file.write_to(&mut out).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(out.is_empty(), "{message}");
    }
}

#[test]
fn a_stream_that_is_full_is_reported() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut file = GgufWriter::new();
    file.tensor_f32("a", &[64], &[0.0; 64]);
    let whole = file.to_bytes().unwrap().len();
    assert!(file.write_to(&mut Full(whole)).is_ok());
    for room in [0, 24, whole - 1] {
        let error = file.write_to(&mut Full(room)).unwrap_err();
        assert!(
            matches!(error, GgufError::Stream(ref source) if source.kind() == io::ErrorKind::StorageFull)
        );
    }
}

#[test]
fn an_atomic_write_replaces_the_file_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    for value in [1u32, 2] {
        let mut file = GgufWriter::new();
        file.set("a.value", value);
        file.write_atomic(&path).unwrap();
        assert_eq!(Gguf::open(&path).unwrap().u32("a.value").unwrap(), value);
    }
    assert_eq!(names(folder.path()), ["adapter.gguf"]);
}

#[test]
fn a_map_of_a_file_that_is_replaced_still_shows_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let write = |value: f32| {
        let mut file = GgufWriter::new();
        file.tensor_f32("a", &[4096], &[value; 4096]);
        file.write_atomic(&path).unwrap();
    };
    write(1.0);
    let old = Gguf::open(&path).unwrap();
    write(2.0);
    let new = Gguf::open(&path).unwrap();
    assert_eq!(old.data(&old.tensors()[0])[..4], 1f32.to_le_bytes());
    assert_eq!(new.data(&new.tensors()[0])[..4], 2f32.to_le_bytes());
}

#[test]
fn a_failed_atomic_write_keeps_the_old_file_and_names_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    GgufWriter::new()
        .set("a.value", 1u32)
        .write_atomic(&path)
        .unwrap();
    let before = std::fs::read(&path).unwrap();

    let mut bad = GgufWriter::new();
    bad.tensor_f32("a", &[2], &[0.0]);
    assert!(matches!(
        bad.write_atomic(&path),
        Err(GgufError::TensorData { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(names(folder.path()), ["adapter.gguf"]);

    let nowhere = folder.path().join("missing/adapter.gguf");
    let error = GgufWriter::new().write_atomic(&nowhere).unwrap_err();
    assert!(matches!(&error, GgufError::Write { path, .. } if *path == nowhere));
    assert!(error.to_string().contains("has free space"), "{error}");

    // A folder in the way: the rename fails, and the temporary file is removed.
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let error = GgufWriter::new().write_atomic(&taken).unwrap_err();
    assert!(matches!(
        error,
        GgufError::Write {
            step: "rename the temporary file",
            ..
        }
    ));
    assert_eq!(names(folder.path()), ["adapter.gguf", "taken"]);
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn set(file: &mut GgufWriter<'_>, key: &str, value: &Any) {
    match value {
        Any::U8(v) => file.set(key, *v),
        Any::I8(v) => file.set(key, *v),
        Any::U16(v) => file.set(key, *v),
        Any::I16(v) => file.set(key, *v),
        Any::U32(v) => file.set(key, *v),
        Any::I32(v) => file.set(key, *v),
        Any::F32(v) => file.set(key, f32::from_bits(*v)),
        Any::Bool(v) => file.set(key, *v),
        Any::String(v) => file.set(key, v.as_str()),
        Any::U64(v) => file.set(key, *v),
        Any::I64(v) => file.set(key, *v),
        Any::F64(v) => file.set(key, f64::from_bits(*v)),
        Any::Numbers(v) => file.set(key, v.as_slice()),
        Any::Flags(v) => file.set(key, v.as_slice()),
        Any::Wide(v) => file.set(key, v.as_slice()),
        Any::Strings(v) => file.set(key, v.as_slice()),
    };
}

fn same(read: &Value<'_>, written: &Any) -> bool {
    match (read, written) {
        (Value::U8(a), Any::U8(b)) => a == b,
        (Value::I8(a), Any::I8(b)) => a == b,
        (Value::U16(a), Any::U16(b)) => a == b,
        (Value::I16(a), Any::I16(b)) => a == b,
        (Value::U32(a), Any::U32(b)) => a == b,
        (Value::I32(a), Any::I32(b)) => a == b,
        (Value::F32(a), Any::F32(b)) => a.to_bits() == *b,
        (Value::Bool(a), Any::Bool(b)) => a == b,
        (Value::String(a), Any::String(b)) => a == b,
        (Value::U64(a), Any::U64(b)) => a == b,
        (Value::I64(a), Any::I64(b)) => a == b,
        (Value::F64(a), Any::F64(b)) => a.to_bits() == *b,
        (Value::Array(a), Any::Numbers(b)) => a.values::<i32>().unwrap().eq(b.iter().copied()),
        (Value::Array(a), Any::Flags(b)) => a.values::<bool>().unwrap().eq(b.iter().copied()),
        (Value::Array(a), Any::Wide(b)) => a.values::<u64>().unwrap().eq(b.iter().copied()),
        (Value::Array(a), Any::Strings(b)) => {
            a.strings().unwrap().eq(b.iter().map(String::as_bytes))
        }
        _ => false,
    }
}

#[test]
fn data_that_is_made_must_be_as_much_as_the_tensor_takes() {
    let mut file = GgufWriter::new();
    file.declare("x", &[4], GgmlType::F32);
    for n in [0, 15, 17] {
        let error = file
            .write_with(&mut Vec::new(), &mut |_, out| out.write_all(&vec![0; n]))
            .unwrap_err();
        let expected =
            matches!(error, GgufError::TensorData { expected: 16, found, .. } if found == n as u64);
        assert!(expected, "{error}");
    }
    assert!(matches!(
        file.to_bytes(),
        Err(GgufError::TensorData { found: 0, .. })
    ));
    let refused = file.write_with(&mut Vec::new(), &mut |_, _| Err(io::Error::other("no")));
    assert!(matches!(refused, Err(GgufError::Stream(_))));
}
