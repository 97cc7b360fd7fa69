//! gemma-3-270m with its real weights: `make test-gemma` fetches them and runs these.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::measure::rms_difference;
use common::{Examples, exact, first_layers, llama_cpp, random_lora};
use thumbprint_tune::adapter::Module;
use thumbprint_tune::graph::{Kernels, NetworkOptions};

fn gemma() -> PathBuf {
    let path = std::env::var_os("THUMBPRINT_GEMMA_MODEL").expect("run `make test-gemma`");
    path.into()
}

/// Six blocks: five with a window of 512 tokens, and one without. Text longer than the window would take minutes in single precision.
#[test]
#[ignore = "needs gemma-3-270m: `make test-gemma`"]
fn logits_of_real_blocks_are_llama_cpps_within_its_table_of_gelu() {
    let examples = Examples::random(5, 262_144, &[(24, &[8, 6])]);
    let quantized = first_layers(&gemma(), 6, false);
    let widened = first_layers(&gemma(), 6, true);
    let lora = random_lora(&quantized.open(), 4, &Module::ALL);
    let adapter = quantized.write_adapter(&lora);
    for adapter in [None, Some(adapter.as_path())] {
        let with = adapter.is_some();
        let ours = |file: &common::ModelFile, kernels| {
            let options = NetworkOptions {
                kernels,
                ..exact(64)
            };
            let mut network = file.network(options, Some(&lora));
            network.logits(&examples.pack(), with).unwrap()
        };
        let theirs = llama_cpp::logits(&widened.path, adapter, &examples);
        let theirs_quantized = llama_cpp::logits(&quantized.path, adapter, &examples);
        let rms = common::measure::rms(&theirs);
        let single = ours(&quantized, Kernels::EXACT);
        let same = rms_difference(&single, &ours(&widened, Kernels::EXACT)) / rms;
        let to_llama = rms_difference(&single, &theirs) / rms;
        let noise = rms_difference(&theirs, &theirs_quantized) / rms;
        let bf16 = rms_difference(&ours(&quantized, Kernels::BF16), &single) / rms;
        println!(
            "adapter {with}: quantized to widened {same:.1e}, to llama.cpp {to_llama:.1e}, llama.cpp's own noise {noise:.1e}, bf16 {bf16:.1e}"
        );
        assert!(same < 1e-5, "{same:.1e}");
        assert!(to_llama < 0.1 * noise, "{to_llama:.1e} of {noise:.1e}");
        assert!(bf16 < noise, "{bf16:.1e} of {noise:.1e}");
    }
}
