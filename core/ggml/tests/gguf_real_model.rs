//! The demo model, opened from disk.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use thumbprint_fixtures::demo_model_path;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::{Gguf, check_model};

#[test]
fn the_demo_model_opens_in_a_tenth_of_a_second_with_the_right_facts() {
    let path = demo_model_path();
    let start = Instant::now();
    let model = Gguf::open(&path).unwrap();
    check_model(&model).unwrap();
    let seconds = start.elapsed().as_secs_f64();

    // Observed: 0.006 s.
    assert!(seconds < 0.1, "opening took {seconds} s");
    assert_eq!(
        (model.version(), model.tensors().len(), model.keys().len()),
        (3, 272, 33)
    );
    assert_eq!(model.architecture().unwrap(), "llama");
    assert_eq!(model.u32("llama.block_count").unwrap(), 30);
    assert_eq!(model.u32("llama.attention.head_count_kv").unwrap(), 3);
    assert_eq!(
        model.f32("llama.attention.layer_norm_rms_epsilon").unwrap(),
        1e-5
    );
    assert_eq!(model.f32("llama.rope.freq_base").unwrap(), 100_000.0);
    assert_eq!(model.str("tokenizer.ggml.pre").unwrap(), "smollm");
    assert!(
        model
            .str("tokenizer.chat_template")
            .unwrap()
            .contains("<|im_start|>")
    );

    let tokens = model.array("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.len(), 49_152);
    assert_eq!(
        tokens.strings().unwrap().next(),
        Some(b"<|endoftext|>".as_slice())
    );
    assert_eq!(tokens.strings().unwrap().count(), 49_152);
    assert_eq!(
        model
            .array("tokenizer.ggml.token_type")
            .unwrap()
            .values::<i32>()
            .unwrap()
            .next(),
        Some(3)
    );

    let embedding = model.require_tensor("token_embd.weight").unwrap();
    assert_eq!(
        (embedding.shape(), embedding.ty),
        ([576, 49_152].as_slice(), GgmlType::Q8_0)
    );
    let gate = model.require_tensor("blk.29.ffn_gate.weight").unwrap();
    assert_eq!(
        (gate.shape(), gate.ty),
        ([576, 1536].as_slice(), GgmlType::Q4_1)
    );
    assert_eq!(model.data(gate).len(), 576 * 1536 / 32 * 20);
    assert_eq!(
        model.data(gate).as_ptr().addr() % 32,
        0,
        "tensor data in a map is aligned for ggml"
    );
    let first = &model.tensors()[0];
    assert_eq!(model.data_region()[..8], model.data(first)[..8]);
}

#[test]
fn pages_that_are_not_needed_leave_memory_and_come_back_unchanged() {
    let model = Gguf::open(demo_model_path()).unwrap();
    let embedding = model.require_tensor("token_embd.weight").unwrap();
    let checksum = |bytes: &[u8]| {
        bytes.iter().fold(0u64, |sum, &byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        })
    };
    let before = checksum(model.data(embedding));
    let (start, end) = (
        model.data(embedding).as_ptr().addr(),
        model.data(embedding).as_ptr_range().end.addr(),
    );
    let resident_before = resident_kib(start, end);
    model.advise_dont_need(model.file_range(embedding));
    let resident_after = resident_kib(start, end);
    // Observed: 29,377 KiB of 98 MB mapped before, and at most one page's neighbours after.
    assert!(resident_before >= 29_000, "{resident_before} KiB");
    assert!(
        resident_after + 28_000 < resident_before,
        "{resident_after} of {resident_before} KiB stay"
    );
    assert_eq!(checksum(model.data(embedding)), before);
}

/// Resident KiB of the mappings that overlap the addresses.
fn resident_kib(start: usize, end: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    let mut total = 0;
    for line in maps.lines() {
        let first = line.split_whitespace().next().unwrap_or("");
        if let Some((from, to)) = first.split_once('-') {
            let address = |hex| usize::from_str_radix(hex, 16).unwrap();
            inside = address(from) < end && start < address(to);
        } else if inside && first == "Rss:" {
            total += line
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<usize>()
                .unwrap();
        }
    }
    total
}
