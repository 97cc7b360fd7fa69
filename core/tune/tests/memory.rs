//! What the planner expects of memory, against what a process takes; and what it says of models that are large.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Examples, folder};
use thumbprint_fixtures::demo_model_path;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::packed::Packing;
use thumbprint_ggml::gguf::GgufWriter;
use thumbprint_tune::adapter::LoraConfig;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::{Example, Kind};
use thumbprint_tune::graph::{Kernels, Scratch};
use thumbprint_tune::model::Model;
use thumbprint_tune::objective::PairWeights;
use thumbprint_tune::plan::{Budget, Plan};
use thumbprint_tune::trainer::{Trainer, lora_shapes};

const MIB: f64 = (1 << 20) as f64;

fn budget(tokens: usize, memory_mib: Option<usize>) -> Budget {
    Budget {
        memory_mib,
        longest_example: tokens,
        step_rows: tokens,
        n_threads: 2,
        kernels: Kernels {
            scratch: Scratch::Packed(Packing::F32),
            saved: GgmlType::BF16,
        },
        last_layers: None,
    }
}

fn n_lora(model: &Model) -> usize {
    let rank = LoraConfig::default().rank;
    let shapes = lora_shapes(model);
    shapes.iter().map(|s| rank * (s.n_in + s.n_out)).sum()
}

/// The plan of least memory, and what it is expected to take.
fn least(model: &Model, tokens: usize) -> (Plan, usize) {
    let resolve = |memory_mib| Plan::resolve(model, n_lora(model), &budget(tokens, memory_mib));
    let needed = resolve(Some(0)).unwrap_err().needed_mib;
    assert!(resolve(Some(needed - 1)).is_err());
    (resolve(Some(needed)).unwrap(), needed)
}

/// The plan for this much memory between the least and the most that helps.
fn within(model: &Model, tokens: usize, share: f64) -> Plan {
    let resolve = |memory_mib| Plan::resolve(model, n_lora(model), &budget(tokens, memory_mib));
    let most = resolve(None).unwrap();
    let most = most.estimate_bytes(model, n_lora(model)) as f64 / MIB;
    let least = least(model, tokens).1 as f64;
    let memory_mib = (least + share * (most - least)) as usize;
    let plan = resolve(Some(memory_mib)).unwrap();
    println!("{memory_mib} MiB: {plan:?}");
    plan
}

/// Elements of blocks that a plan multiplies once more a step, in the demo model: by hand, from its shapes.
fn multiplied_again(model: &Model, plan: &Plan) -> usize {
    let (n_layer, n_embd, n_ff, n_qkv) = (30, 576, 1536, 576 + 2 * 192);
    assert_eq!(
        (n_layer, n_embd, n_ff),
        (model.spec.n_layer, model.spec.n_embd, model.spec.n_ff)
    );
    let gate_up = n_embd * 2 * n_ff;
    let block = n_embd * (n_qkv + n_embd) + gate_up;
    let others = n_layer - plan.recomputed_layers;
    plan.recomputed_layers * block + usize::from(plan.recompute_gate_up) * others * gate_up
}

#[test]
fn of_the_plans_that_fit_the_one_that_multiplies_least_again_is_taken() {
    let model = Model::open(&demo_model_path()).unwrap();
    let all = Plan::resolve(&model, n_lora(&model), &budget(512, None)).unwrap();
    let bytes = |plan: &Plan| plan.estimate_bytes(&model, n_lora(&model));
    let every: Vec<Plan> = [false, true]
        .into_iter()
        .flat_map(|recompute_gate_up| {
            let all = &all;
            (0..30).map(move |recomputed_layers| Plan {
                recomputed_layers,
                recompute_gate_up,
                ..all.clone()
            })
        })
        .collect();
    let (mut kinds, mut before) = (std::collections::BTreeSet::new(), usize::MAX);
    for memory_mib in bytes(&every[29]).div_ceil(MIB as usize)..=bytes(&all).div_ceil(MIB as usize)
    {
        let plan = Plan::resolve(&model, n_lora(&model), &budget(512, Some(memory_mib))).unwrap();
        let fits = |plan: &&Plan| bytes(plan).div_ceil(MIB as usize) <= memory_mib;
        assert!(fits(&&plan), "{memory_mib} MiB: {plan:?}");
        let again = multiplied_again(&model, &plan);
        let least = every
            .iter()
            .filter(fits)
            .map(|plan| multiplied_again(&model, plan))
            .min();
        assert_eq!(Some(again), least, "{memory_mib} MiB: {plan:?}");
        assert!(again <= before, "{memory_mib} MiB: {plan:?}");
        before = again;
        kinds.insert((plan.recomputed_layers > 0, plan.recompute_gate_up));
    }
    assert_eq!(before, 0);
    // Whole blocks give more memory for the same products than gate and up of all do, in this shape.
    assert_eq!(kinds, [(false, false), (true, false)].into());
}

const MODEL: &str = "THUMBPRINT_TEST_MEMORY_MODEL";
const TOKENS: &str = "THUMBPRINT_TEST_MEMORY_TOKENS";
/// How much between the least and the most, such as 0.5; the most, if it is not set.
const SHARE: &str = "THUMBPRINT_TEST_MEMORY_SHARE";

/// Not a test by itself: the next one starts it, for each measurement in a process of its own.
#[test]
fn the_process_that_is_measured() {
    let Ok(tokens) = std::env::var(TOKENS) else {
        return;
    };
    let tokens: usize = tokens.parse().unwrap();
    let path = std::env::var_os(MODEL).map_or_else(demo_model_path, PathBuf::from);
    let model = Model::open(&path).unwrap();
    let plan = match std::env::var(SHARE) {
        Ok(share) => within(&model, tokens, share.parse().unwrap()),
        Err(_) => Plan::resolve(&model, n_lora(&model), &budget(tokens, None)).unwrap(),
    };
    let expected = plan.estimate_bytes(&model, n_lora(&model)) as f64 / MIB;
    // A third of it prompt, the rest completions, the last token of each being a label only.
    let side = tokens / 3;
    let lengths = (tokens - 2 * side, [side + 1, side + 1]);
    let examples = Examples::random(3, model.spec.n_vocab, &[(lengths.0, &lengths.1)]);
    let (prompt, sides) = examples.0.into_iter().next().unwrap();
    let example = Example {
        prompt,
        kind: Kind::Pair {
            chosen: sides[0].clone(),
            rejected: sides[1].clone(),
            weights: PairWeights::default(),
        },
    };
    assert_eq!(example.n_rows(), tokens);
    let config = TrainConfig {
        batch_size: 1,
        max_steps: 2,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(model, "", vec![example], config, plan).unwrap();
    while !trainer.score_references().unwrap().is_empty() {}
    trainer.step().unwrap();
    trainer.step().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    println!("\npeak {} expected {expected}", kib / 1024.0);
}

/// What a process of its own takes for steps on one pair of so many tokens, and what was expected of it, MiB.
fn measured(model: Option<&Path>, tokens: usize, share: Option<f64>) -> (f64, f64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "the_process_that_is_measured", "--nocapture"])
        .env(TOKENS, tokens.to_string())
        .envs(model.map(|path| (MODEL, path)))
        .envs(share.map(|share| (SHARE, share.to_string())));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("peak "));
    let words: Vec<&str> = line
        .unwrap_or_else(|| panic!("{text}"))
        .split(' ')
        .collect();
    let (peak, expected) = (words[1].parse().unwrap(), words[3].parse().unwrap());
    println!("{tokens} tokens, {share:?}: {peak:.0} MiB, {expected:.0} expected");
    (peak, expected)
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_takes_what_its_plan_says_within_fifteen_percent() {
    let _alone = common::alone();
    for (tokens, share) in [
        (512, None),
        (512, Some(0.8)),
        (512, Some(0.4)),
        (512, Some(0.1)),
        (512, Some(0.0)),
        (1536, Some(0.0)),
    ] {
        let (peak, expected) = measured(None, tokens, share);
        assert!(
            (expected / peak - 1.0).abs() < 0.15,
            "{tokens} tokens, {share:?}: {peak:.0} MiB, {expected:.0} expected"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs gemma-3-270m (make test-gemma)"]
fn a_process_takes_what_its_plan_says_of_gemma_on_short_and_long_pairs() {
    let path = PathBuf::from(std::env::var_os("THUMBPRINT_GEMMA_MODEL").unwrap());
    let least = Some(0.0);
    for (tokens, share) in [
        (512, None),
        (512, Some(0.5)),
        (512, least),
        (2048, least),
        (4096, least),
    ] {
        let (peak, expected) = measured(Some(&path), tokens, share);
        assert!(
            (expected / peak - 1.0).abs() < 0.15,
            "{tokens} tokens, {share:?}: {peak:.0} MiB, {expected:.0} expected"
        );
    }
}

/// A file whose zeros take no room on the disk.
struct Sparse(std::fs::File);

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.iter().all(|byte| *byte == 0) {
            self.0.seek(SeekFrom::Current(bytes.len() as i64))?;
            return Ok(bytes.len());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Most matrices, and those that quantizers spare.
const Q4_K_M: [GgmlType; 2] = [GgmlType::Q4_K, GgmlType::Q6_K];
const Q2_K: [GgmlType; 2] = [GgmlType::Q2_K, GgmlType::Q3_K];

/// Llama 2 7B in shape, which has 32 blocks; all zeros.
fn wide(path: &Path, n_layer: usize, [most, spared]: [GgmlType; 2]) -> Model {
    let (n_embd, n_ff, n_vocab) = (4096, 11008, 32000);
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "llama")
        .set("llama.block_count", n_layer as u32)
        .set("llama.context_length", 4096u32)
        .set("llama.embedding_length", n_embd as u32)
        .set("llama.feed_forward_length", n_ff as u32)
        .set("llama.attention.head_count", 32u32)
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    let zeros = vec![0; spared.row_size(n_embd * n_vocab)];
    let mut matrix = |name: &str, n_in: usize, n_out: usize, ty: GgmlType| {
        let n_bytes = ty.row_size(n_in) * n_out;
        let shape = [n_in as i64, n_out as i64];
        writer.tensor(name, &shape, ty, &zeros[..n_bytes]);
    };
    matrix("token_embd.weight", n_embd, n_vocab, most);
    matrix("output.weight", n_embd, n_vocab, spared);
    for layer in 0..n_layer {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for part in ["attn_q", "attn_k", "attn_output"] {
            matrix(&name(part), n_embd, n_embd, most);
        }
        matrix(&name("attn_v"), n_embd, n_embd, spared);
        matrix(&name("ffn_gate"), n_embd, n_ff, most);
        matrix(&name("ffn_up"), n_embd, n_ff, most);
        matrix(&name("ffn_down"), n_ff, n_embd, spared);
    }
    let ones = vec![1.0; n_embd];
    let mut norm = |name: &str| {
        writer.tensor_f32(name, &[n_embd as i64], &ones);
    };
    norm("output_norm.weight");
    for layer in 0..n_layer {
        norm(&format!("blk.{layer}.attn_norm.weight"));
        norm(&format!("blk.{layer}.ffn_norm.weight"));
    }
    let mut file = Sparse(std::fs::File::create(path).unwrap());
    writer.write_to(&mut file).unwrap();
    let length = file.0.stream_position().unwrap();
    file.0.set_len(length).unwrap();
    Model::open(path).unwrap()
}

/// The table that QLoRA is usually sized by gives 6 GB for a 7B model in 4 bits and 4 GB in 2 bits.
#[test]
fn seven_billion_parameters_are_planned_under_the_published_figures() {
    let folder = folder();
    let path = folder.path().join("7b.gguf");
    for (name, types, published_gb) in [("Q4_K_M", Q4_K_M, 6.0), ("Q2_K", Q2_K, 4.0)] {
        let model = wide(&path, 32, types);
        let weights = model.gguf().bytes().len() as f64 / 1e9;
        let (plan, needed) = least(&model, 512);
        let full = Plan::resolve(&model, n_lora(&model), &budget(512, None)).unwrap();
        let gb = |mib: f64| mib * MIB / 1e9;
        let (least, full) = (
            gb(needed as f64),
            full.estimate_bytes(&model, n_lora(&model)) as f64 / 1e9,
        );
        println!(
            "{name}: file {weights:.2} GB; resident at least {least:.2} GB, at full speed {full:.2} GB; {} parameters; {plan:?}",
            n_lora(&model)
        );
        // Even if every page of the file stayed.
        assert!(
            least + weights < published_gb,
            "{name}: {least} + {weights}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a quarter of an hour for two cores, and 4 GB of page cache"]
fn a_process_takes_what_its_plan_says_of_seven_billion_parameters() {
    takes_what_its_plan_says_of_wide_blocks(32);
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_takes_what_its_plan_says_of_two_blocks_as_wide_as_those() {
    let _alone = common::alone();
    takes_what_its_plan_says_of_wide_blocks(2);
}

#[cfg(target_os = "linux")]
fn takes_what_its_plan_says_of_wide_blocks(n_layer: usize) {
    let folder = folder();
    let path = folder.path().join("wide.gguf");
    for types in [Q4_K_M, Q2_K] {
        drop(wide(&path, n_layer, types));
        let (peak, expected) = measured(Some(&path), 512, Some(0.0));
        assert!(
            (expected / peak - 1.0).abs() < 0.15,
            "{types:?}: {peak:.0} MiB, {expected:.0} expected"
        );
    }
}
