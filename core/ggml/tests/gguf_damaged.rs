//! Damaged files never panic, never take absurd memory, and what passes the checks does not bring llama.cpp down.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr;
use std::sync::LazyLock;

use llama_cpp_sys_2 as sys;
use proptest::prelude::*;
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::gguf::{Gguf, GgufWriter, Value, ValueKind, check_adapter_for, check_model};

/// What happens to a file. Positions are fractions of the part that is damaged.
#[derive(Clone, Debug)]
enum Damage {
    FlipBit { at: f64, bit: u8 },
    Overwrite { at: f64, with: u64, bytes: usize },
    Insert { at: f64, bytes: Vec<u8> },
    Remove { at: f64, length: usize },
    Copy { from: f64, to: f64, length: usize },
    Truncate { at: f64 },
}

fn any_damage() -> impl Strategy<Value = Damage> {
    // The hyperparameters stand in the first tenth, and most of the rest is vocabulary.
    let at = || prop_oneof![0.0..0.1, 0.0..1.0];
    // Numbers that lengths, counts, kinds and types are likely to be confused by.
    let number = prop_oneof![
        0u64..64,
        any::<u64>(),
        prop::sample::select(vec![
            u64::MAX,
            1 << 63,
            (1 << 63) - 1,
            1 << 62,
            1 << 61,
            1 << 40,
            1 << 32,
            1 << 31,
            65_536
        ]),
    ];
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Damage::FlipBit { at, bit }),
        4 => (at(), number, prop::sample::select(vec![1usize, 4, 8]))
            .prop_map(|(at, with, bytes)| Damage::Overwrite { at, with, bytes }),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..32)).prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        1 => (at(), 1usize..64).prop_map(|(at, length)| Damage::Remove { at, length }),
        2 => (at(), at(), 1usize..64).prop_map(|(from, to, length)| Damage::Copy { from, to, length }),
        1 => at().prop_map(|at| Damage::Truncate { at }),
    ]
}

impl Damage {
    /// Damages the file within its first `extent` bytes, which hold all but the tensors' values.
    fn apply(&self, file: &mut Vec<u8>, extent: usize) {
        let extent = extent.min(file.len());
        let place = |fraction: f64| (fraction * extent as f64) as usize;
        match *self {
            Damage::FlipBit { at, bit } => {
                if let Some(byte) = file.get_mut(place(at)) {
                    *byte ^= 1 << bit;
                }
            }
            Damage::Overwrite { at, with, bytes } => {
                for (target, source) in file[place(at)..]
                    .iter_mut()
                    .zip(&with.to_le_bytes()[..bytes])
                {
                    *target = *source;
                }
            }
            Damage::Insert { at, ref bytes } => {
                drop(file.splice(place(at)..place(at), bytes.iter().copied()))
            }
            Damage::Remove { at, length } => {
                let end = (place(at) + length).min(file.len());
                file.drain(place(at)..end);
            }
            Damage::Copy { from, to, length } => {
                let length = length.min(extent - place(from)).min(extent - place(to));
                file.copy_within(place(from)..place(from) + length, place(to));
            }
            Damage::Truncate { at } => file.truncate((at * file.len() as f64) as usize),
        }
    }
}

type File = (Vec<u8>, usize);

/// Files to damage, and the extent of everything before the tensors' values.
static UNDAMAGED: LazyLock<[File; 4]> = LazyLock::new(|| {
    let small = {
        let mut file = GgufWriter::new();
        file.set("general.architecture", "test")
            .set("general.alignment", 64u32)
            .set("a.flag", true);
        file.set("a.list", [1u64, 2, 3].as_slice())
            .set("a.names", ["one", "two", ""].as_slice());
        file.tensor_f32("first", &[3, 2], &[1.0; 6])
            .tensor_f32("second", &[1, 1, 1, 2], &[2.0; 2]);
        file.to_bytes().unwrap()
    };
    let [llama, qwen2] = [TinyModel::llama(), TinyModel::qwen2()].map(tiny_model);
    [small, tiny_adapter(), llama, qwen2].map(|file| {
        let data = Gguf::parse(file.clone()).unwrap().data_region().len();
        let extent = file.len() - data;
        (file, extent)
    })
});

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_damaged_file_is_read_or_refused_without_panic_or_absurd_memory(
        which in 0usize..4,
        damages in prop::collection::vec(any_damage(), 1..4),
    ) {
        let base = Gguf::parse(UNDAMAGED[2].0.clone()).unwrap();
        let (mut file, extent) = UNDAMAGED[which].clone();
        for damage in damages {
            damage.apply(&mut file, extent);
        }
        let size = file.len();
        let peak = peak_memory(|| {
            if let Ok(file) = Gguf::parse(file) {
                read_everything(&file);
                let _ = check_model(&file);
                let _ = check_adapter_for(&file, &base);
            }
        });
        // Observed: at most 19,756 bytes for a file of 147,680, and 1,730 for one of 5,120.
        prop_assert!(peak < 64 * 1024 + size, "{peak} bytes for a file of {size}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    /// An abort in ggml or llama.cpp ends the test process, which is how this test fails.
    #[test]
    fn a_damaged_file_that_passes_the_checks_does_not_bring_llama_cpp_down(
        damages in prop::collection::vec(any_damage(), 1..3),
        qwen2 in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let [_, adapter, llama, qwen] = &*UNDAMAGED;
        let model = if qwen2 { qwen } else { llama };
        let damaged = |(file, extent): &File| {
            let mut file = file.clone();
            damages.iter().for_each(|damage| damage.apply(&mut file, *extent));
            file
        };

        let bytes = damaged(model);
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = Gguf::open(&path) {
            prop_assert!(ggml_reads(&bytes), "ggml refuses what was accepted");
            if check_model(&file).is_ok() {
                run_llama_cpp(&path, None);
            }
        }

        let base_path = folder.path().join("base.gguf");
        std::fs::write(&base_path, &llama.0).unwrap();
        let bytes = damaged(adapter);
        let path = folder.path().join("adapter.gguf");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = Gguf::open(&path) {
            prop_assert!(ggml_reads(&bytes), "ggml refuses what was accepted");
if check_adapter_for(&file, &Gguf::open(&base_path).unwrap()).is_ok() {
                prop_assert!(run_llama_cpp(&base_path, Some(&path)), "llama.cpp refuses an adapter that was accepted");
            }
        }
    }
}

#[test]
fn the_undamaged_files_pass_the_checks_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let [model_path, adapter_path] =
        ["model.gguf", "adapter.gguf"].map(|name| folder.path().join(name));
    let [_, adapter, llama, qwen2] = &*UNDAMAGED;
    for (model, adapter) in [(llama, Some(adapter)), (qwen2, None)] {
        std::fs::write(&model_path, &model.0).unwrap();
        let base = Gguf::open(&model_path).unwrap();
        check_model(&base).unwrap();
        if let Some(adapter) = adapter {
            std::fs::write(&adapter_path, &adapter.0).unwrap();
            check_adapter_for(&Gguf::open(&adapter_path).unwrap(), &base).unwrap();
        }
        assert!(run_llama_cpp(
            &model_path,
            adapter.map(|_| adapter_path.as_path())
        ));
    }
}

/// More where a fuzzing run is wanted (200,000 take five minutes and passed): `THUMBPRINT_DAMAGE_CASES=20000 cargo test --release --test gguf_damaged`.
fn cases() -> u32 {
    std::env::var("THUMBPRINT_DAMAGE_CASES").map_or(2000, |cases| cases.parse().unwrap())
}

fn tiny_model(model: TinyModel) -> Vec<u8> {
    TinyModel {
        n_layer: 1,
        n_ff: 32,
        n_vocab: 264,
        tied: false,
        ..model
    }
    .to_bytes()
}

fn tiny_adapter() -> Vec<u8> {
    let mut file = GgufWriter::new();
    file.set("general.type", "adapter")
        .set("general.architecture", "llama");
    file.set("adapter.type", "lora")
        .set("adapter.lora.alpha", 8.0f32);
    file.tensor_f32("blk.0.attn_q.weight.lora_a", &[64, 4], &[0.5; 64 * 4]);
    file.tensor_f32("blk.0.attn_q.weight.lora_b", &[4, 64], &[0.5; 64 * 4]);
    file.tensor_f32("token_embd.weight.lora_a", &[2, 264], &[0.5; 264 * 2]);
    file.tensor_f32("token_embd.weight.lora_b", &[2, 64], &[0.5; 64 * 2]);
    file.to_bytes().unwrap()
}

/// Touches every value and every byte of data.
fn read_everything(file: &Gguf) {
    let mut sum = 0usize;
    for key in file.keys() {
        match file.get(key).unwrap() {
            Value::String(text) => sum += text.chars().count(),
            Value::Array(array) if array.kind() == ValueKind::String => {
                let strings = array.strings().unwrap();
                assert_eq!(strings.len(), array.len());
                sum += strings.map(<[u8]>::len).sum::<usize>();
            }
            Value::Array(array) => {
                sum += array.values::<u32>().map_or(0, Iterator::count);
                sum += array.values::<u64>().map_or(0, Iterator::count);
            }
            other => sum += other.kind().name().len(),
        }
    }
    for tensor in file.tensors() {
        assert_eq!(tensor.ty.row_size(tensor.n_elements()), tensor.n_bytes);
        sum += file
            .data(tensor)
            .iter()
            .map(|&byte| usize::from(byte))
            .sum::<usize>();
    }
    std::hint::black_box(sum);
}

fn ggml_reads(bytes: &[u8]) -> bool {
    // SAFETY: the buffer is alive and as long as is said; the context is freed once.
    unsafe {
        quiet();
        let params = sys::gguf_init_params {
            no_alloc: true,
            ctx: ptr::null_mut(),
        };
        let context = sys::gguf_init_from_buffer(bytes.as_ptr().cast(), bytes.len(), params);
        if context.is_null() {
            return false;
        }
        sys::gguf_free(context);
        true
    }
}

/// Loads the model and the adapter, tokenizes and decodes. Whether llama.cpp took all of it.
fn run_llama_cpp(model: &Path, adapter: Option<&Path>) -> bool {
    let c_path = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: handles are used while alive, freed once and in order; buffers are as long as is said.
    unsafe {
        quiet();
        sys::llama_backend_init();
        let model = sys::llama_model_load_from_file(
            c_path(model).as_ptr(),
            sys::llama_model_default_params(),
        );
        if model.is_null() {
            return false;
        }
        let mut params = sys::llama_context_default_params();
        (params.n_ctx, params.n_threads, params.n_threads_batch) = (64, 1, 1);
        let context = sys::llama_init_from_model(model, params);
        let mut done = !context.is_null();
        if let Some(adapter) = adapter.filter(|_| done) {
            let mut adapter = sys::llama_adapter_lora_init(model, c_path(adapter).as_ptr());
            let mut scale = 1.0;
            done = !adapter.is_null()
                && sys::llama_set_adapters_lora(context, &mut adapter, 1, &mut scale) == 0;
        }
        if done {
            let mut tokens = [0; 32];
            let text = "<|im_start|>How do I\ncook 7 é\u{0}";
            let vocabulary = sys::llama_model_get_vocab(model);
            let length = text.len() as i32;
            let n = sys::llama_tokenize(
                vocabulary,
                text.as_ptr().cast(),
                length,
                tokens.as_mut_ptr(),
                32,
                true,
                true,
            );
            done = n > 0
                && sys::llama_decode(context, sys::llama_batch_get_one(tokens.as_mut_ptr(), n))
                    == 0;
        }
        sys::llama_free(context);
        sys::llama_model_free(model);
        done
    }
}

fn quiet() {
    // SAFETY: the callback ignores its arguments.
    unsafe { sys::llama_log_set(Some(ignore), ptr::null_mut()) };
}

unsafe extern "C" fn ignore(_: sys::ggml_log_level, _: *const c_char, _: *mut c_void) {}

/// The most bytes that were allocated at one time by this thread while `run` ran, beyond those before.
fn peak_memory(run: impl FnOnce()) -> usize {
    let before = ALLOCATED.get();
    PEAK.set(before);
    run();
    (PEAK.get() - before).max(0) as usize
}

thread_local! {
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|allocated| {
            allocated.set(allocated.get() + layout.size() as isize);
            PEAK.with(|peak| peak.set(peak.get().max(allocated.get())));
        });
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ =
            ALLOCATED.try_with(|allocated| allocated.set(allocated.get() - layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}
