//! `bench train`: a training step in detail.

use std::collections::BTreeMap;
use std::path::Path;

use indicatif::ProgressBar;
use serde::Serialize;
use thumbprint::engine::Chat;
use thumbprint_tune::graph::DeviceOptions;

use super::batch::{BenchBatch, UBATCH};
use super::inference::{Bare, Inference};
use super::matmul::MulMats;
use super::memory;
use super::training::{PHASES, Training};
use super::{Times, cpu, flops};
use crate::base_model;
use crate::error::Result;
use crate::options::Precision;
use crate::output::{Output, columns};

/// Rows of the steps that show how cost grows with context.
const CONTEXTS: [usize; 5] = [256, 512, 1024, 2048, 4096];

#[derive(Serialize)]
struct Figures {
    /// Time of a step of 512 tokens over llama.cpp's own reading of as many.
    step_over_pp: Option<f64>,
    /// Useful FLOP/s over the best of ggml's products.
    utilisation: Option<f64>,
    pair_tok_s: Option<f64>,
    forward_tok_s: Option<f64>,
    step_tok_s: Option<f64>,
    pp512_tok_s: Option<f64>,
    /// Generation on the device, by llama.cpp alone and by the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    tg64_tok_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine_tg64_tok_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine_pp512_tok_s: Option<f64>,
    per_phase_ms: BTreeMap<&'static str, f64>,
    mul_mat_gflops: BTreeMap<&'static str, f64>,
    step_gflop: f64,
    /// Of training on the CPU.
    #[serde(flatten)]
    memory: Option<MemoryFigures>,
    model: String,
    products_in: &'static str,
    threads: usize,
    rounds: u32,
    cpu: String,
    /// Where training computed, if not on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// What the CPU computed instead of the device.
    fallbacks: Vec<String>,
}

#[derive(Serialize)]
struct MemoryFigures {
    peak_rss_mib: Option<f64>,
    planned_rss_mib: f64,
    anon_rss_mib: Option<f64>,
    peak_rss_low_mib: Option<f64>,
    planned_rss_low_mib: f64,
    anon_rss_low_mib: Option<f64>,
    ctx_scaling: Vec<AtContext>,
}

/// A step on one pair of so many rows, in the low-memory mode.
#[derive(Serialize)]
struct AtContext {
    tokens: usize,
    step_ms: f64,
    peak_rss_mib: Option<f64>,
    planned_rss_mib: f64,
}

/// Measures and prints.
///
/// # Errors
/// The model cannot be trained or loaded.
pub fn run(
    path: &Path,
    n_threads: usize,
    rounds: u32,
    device: Option<(DeviceOptions, Precision)>,
    out: &Output,
) -> Result<()> {
    let model = base_model::open(path)?;
    let chat = match device {
        None => base_model::load_chat(path)?,
        Some(_) => Chat::new(base_model::load_on_gpu(path)?)?,
    };
    let batch = BenchBatch::new(&chat, UBATCH)?;
    let mut contexts = CONTEXTS.to_vec();
    contexts.retain(|n| *n <= model.spec.n_ctx_train && device.is_none());

    let bar = out.progress(u64::from(rounds) + contexts.len() as u64 + 3, "memory");
    let memory = match device {
        None => Some(MemoryFigures::measure(
            path, &batch, n_threads, contexts, &bar,
        )?),
        Some(_) => None,
    };

    bar.set_message("warming up");
    let name = device.as_ref().map(|(device, _)| device.name.clone());
    let mut mul_mats = MulMats::new(&model, n_threads, name.as_deref())?;
    let work = flops::step(&model.spec, &batch.packed());
    let mut training = match device {
        None => Training::new(model, &batch, n_threads)?,
        Some((device, precision)) => {
            Training::on_device(model, &batch, n_threads, device, precision)?
        }
    };
    let description = chat.model().description();
    let mut inference = match name {
        None => Reading::Bare(Bare::new(
            chat.model(),
            2 * UBATCH as u32,
            n_threads as u32,
        )?),
        Some(_) => Reading::Engine(Box::new(Inference::new(
            chat,
            &batch,
            training.adapter()?,
            n_threads,
        )?)),
    };
    let text = batch.packed().tokens;
    let mut times = Times::default();
    for round in 0..=rounds {
        if round == 1 {
            // The first round has paid for memory and page faults.
            times = Times::default();
            bar.set_message("measuring");
        }
        mul_mats.measure(&mut times)?;
        match &mut inference {
            Reading::Bare(bare) => times.add("bare pp", bare.read(&text)?),
            Reading::Engine(inference) => inference.measure(round, &mut times)?,
        }
        training.measure(&mut times)?;
        bar.inc(1);
    }
    bar.finish_and_clear();

    let rows = batch.n_rows() as f64;
    let rate = |tokens: f64, seconds: Option<f64>| seconds.map(|seconds| tokens / seconds);
    let step = times.median("step");
    let mul_mat_gflops = mul_mats.by_type(&times);
    let best = mul_mat_gflops.values().copied().fold(0.0, f64::max);
    let phase = |name: &'static str| Some((name, times.median(name)? * 1e3));
    let figures = Figures {
        step_over_pp: times.ratio("step", "bare pp"),
        utilisation: step.map(|seconds| work.total() / seconds / (best * 1e9)),
        pair_tok_s: step
            .zip(times.median("reference"))
            .map(|(a, b)| batch.n_pair_tokens() as f64 / (a + b)),
        forward_tok_s: rate(rows, times.median("forward")),
        step_tok_s: rate(rows, step),
        pp512_tok_s: rate(rows, times.median("bare pp")),
        tg64_tok_s: times.median("bare tg"),
        engine_tg64_tok_s: times.median("engine tg"),
        engine_pp512_tok_s: rate(rows, times.median("engine pp")),
        per_phase_ms: PHASES.into_iter().filter_map(phase).collect(),
        mul_mat_gflops,
        step_gflop: work.total() / 1e9,
        memory,
        model: description,
        products_in: training.products_in(),
        threads: n_threads,
        rounds,
        cpu: cpu(),
        fallbacks: training.fallbacks(),
        device: name,
    };
    figures.print(out)
}

/// What reads as many tokens as a step has.
enum Reading {
    Bare(Bare),
    /// On a device, generation is measured, too.
    Engine(Box<Inference>),
}

impl MemoryFigures {
    /// Each figure in a process of its own.
    fn measure(
        path: &Path,
        batch: &BenchBatch,
        n_threads: usize,
        contexts: Vec<usize>,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let full = memory::measure(path, batch, n_threads, false)?;
        bar.inc(1);
        let low = memory::measure(path, batch, n_threads, true)?;
        bar.inc(1);
        let mut ctx_scaling = Vec::new();
        for tokens in contexts {
            let one = memory::measure(path, &batch.of_one_pair(tokens), n_threads, true)?;
            ctx_scaling.push(AtContext {
                tokens,
                step_ms: one.step_s * 1e3,
                peak_rss_mib: one.peak_mib,
                planned_rss_mib: one.planned_mib,
            });
            bar.inc(1);
        }
        Ok(Self {
            peak_rss_mib: full.peak_mib,
            planned_rss_mib: full.planned_mib,
            anon_rss_mib: full.anonymous_mib,
            peak_rss_low_mib: low.peak_mib,
            planned_rss_low_mib: low.planned_mib,
            anon_rss_low_mib: low.anonymous_mib,
            ctx_scaling,
        })
    }

    /// Names, figures, and what was planned.
    fn rows(&self) -> Vec<[String; 3]> {
        let mut rows = Vec::new();
        let mut row = |name: String, peak: Option<f64>, planned: f64| {
            rows.push([name, shown(peak, 0), format!("{planned:.0} planned")]);
        };
        let (full, low) = ("peak memory of a step, MiB", "  low-memory mode");
        row(full.to_owned(), self.peak_rss_mib, self.planned_rss_mib);
        row(
            low.to_owned(),
            self.peak_rss_low_mib,
            self.planned_rss_low_mib,
        );
        for at in &self.ctx_scaling {
            let name = format!("  one pair of {} tokens, {:.0} ms", at.tokens, at.step_ms);
            row(name, at.peak_rss_mib, at.planned_rss_mib);
        }
        rows
    }
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

impl Figures {
    /// One object, or tables.
    fn print(&self, out: &Output) -> Result<()> {
        if out.is_json() {
            return out.object(self);
        }
        out.line(format!(
            "{} on {}, {} threads, training in {}, medians of {} rounds",
            self.model,
            self.device.as_ref().unwrap_or(&self.cpu),
            self.threads,
            self.products_in,
            self.rounds
        ))?;
        let mut rows = vec![
            ["figure", "measured", "planned or goal"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let mut row = |name: &str, value: String, goal: &str| {
            rows.push(vec![name.to_owned(), value, goal.to_owned()]);
        };
        row(
            "training step over llama.cpp's pp512",
            shown(self.step_over_pp, 2),
            "at most 1.0",
        );
        row(
            "utilisation: useful FLOP/s over the best mul_mat's",
            shown(self.utilisation, 2),
            "0.6",
        );
        row(
            "pairs, 2P + C + R, reference included, tok/s",
            shown(self.pair_tok_s, 0),
            "",
        );
        row("training step, tok/s", shown(self.step_tok_s, 0), "");
        row("forward pass, tok/s", shown(self.forward_tok_s, 0), "");
        row("llama.cpp pp512, tok/s", shown(self.pp512_tok_s, 0), "");
        for (name, rate) in [
            ("engine pp512, tok/s", self.engine_pp512_tok_s),
            ("llama.cpp tg64, tok/s", self.tg64_tok_s),
            ("engine tg64, tok/s", self.engine_tg64_tok_s),
        ] {
            if rate.is_some() {
                row(name, shown(rate, 0), "");
            }
        }
        for phase in PHASES {
            let ms = self.per_phase_ms.get(phase).copied();
            row(
                &format!("  {}, ms", phase.replace('_', " ")),
                shown(ms, 0),
                "",
            );
        }
        for (ty, gflops) in &self.mul_mat_gflops {
            row(
                &format!("mul_mat {ty}, 512 tokens, GFLOP/s"),
                format!("{gflops:.0}"),
                "",
            );
        }
        let memory = self.memory.iter().flat_map(MemoryFigures::rows);
        rows.extend(memory.map(|row| row.to_vec()));
        for op in &self.fallbacks {
            rows.push(vec![
                "computed on the CPU".to_owned(),
                op.clone(),
                String::new(),
            ]);
        }
        let mut lines = columns(&rows).into_iter();
        if let Some(header) = lines.next() {
            out.line(out.bold(&header))?;
        }
        lines.try_for_each(|line| out.line(line))
    }
}
