//! The figures, ratios first, with what each should reach beside it.

use std::collections::BTreeMap;

use serde::Serialize;
use thumbprint::store::bench::RecordLatency;

use super::Times;
use super::batch::{BenchBatch, UBATCH};
use super::flops::Work;
use super::matmul::MulMats;
use super::memory::Memory;
use crate::error::Result;
use crate::output::{Output, columns};

/// What was measured. None where this machine or model does not allow it.
#[derive(Debug, Serialize)]
pub struct Figures {
    step_over_pp: Option<f64>,
    utilisation: Option<f64>,
    engine_over_bare: EngineOverBare,
    pair_tok_s: Option<f64>,
    forward_tok_s: Option<f64>,
    step_tok_s: Option<f64>,
    pp512_tok_s: Option<f64>,
    tg64_tok_s: Option<f64>,
    mul_mat_gflops: BTreeMap<&'static str, f64>,
    step_gflop: f64,
    peak_rss_mib: Option<f64>,
    peak_rss_low_mib: Option<f64>,
    anon_rss_mib: Option<f64>,
    anon_rss_low_mib: Option<f64>,
    record_p50_ms: f64,
    record_p99_ms: f64,
    fsync_p50_ms: f64,
    fsync_p99_ms: f64,
    rows: u64,
    swap_ms: Option<f64>,
    #[serde(flatten)]
    setting: Setting,
}

/// What was measured on.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// The model in words.
    pub model: String,
    /// The format that the trainer computes products in.
    pub products_in: &'static str,
    /// Compute threads.
    pub threads: usize,
    /// Rounds that medians are over.
    pub rounds: u32,
    /// The processor in words.
    pub cpu: String,
    /// Its instruction sets.
    pub cpu_features: Vec<String>,
}

/// The engine's time over the bare loop's, for the same work.
#[derive(Debug, Serialize)]
struct EngineOverBare {
    pp: Option<f64>,
    tg: Option<f64>,
}

impl Figures {
    /// Medians, and what follows from them.
    pub fn new(
        times: &Times,
        batch: &BenchBatch,
        work: &Work,
        mul_mats: &MulMats,
        [full, low]: [Memory; 2],
        record: RecordLatency,
        setting: Setting,
    ) -> Self {
        let median = |name| times.median(name);
        let rows = batch.n_rows() as f64;
        let rate = |tokens: f64, seconds: Option<f64>| seconds.map(|seconds| tokens / seconds);
        let (step, pp) = (median("step"), median("bare pp"));
        let mul_mat_gflops = mul_mats.by_type(times);
        let best = mul_mat_gflops.values().copied().fold(0.0, f64::max);
        Self {
            // Per token, in case the ubatch is not quite full.
            step_over_pp: times
                .ratio("step", "bare pp")
                .map(|ratio| ratio * UBATCH as f64 / rows),
            utilisation: step.map(|seconds| work.total() / seconds / (best * 1e9)),
            engine_over_bare: EngineOverBare {
                pp: times.ratio("engine pp", "bare pp"),
                // Rates, not times.
                tg: times.ratio("bare tg", "engine tg"),
            },
            pair_tok_s: step
                .zip(median("reference"))
                .map(|(a, b)| batch.n_pair_tokens() as f64 / (a + b)),
            forward_tok_s: rate(rows, median("forward")),
            step_tok_s: rate(rows, step),
            pp512_tok_s: rate(UBATCH as f64, pp),
            tg64_tok_s: median("bare tg"),
            mul_mat_gflops,
            step_gflop: work.total() / 1e9,
            peak_rss_mib: full.peak_mib,
            peak_rss_low_mib: low.peak_mib,
            anon_rss_mib: full.anonymous_mib,
            anon_rss_low_mib: low.anonymous_mib,
            record_p50_ms: record.p50_ms,
            record_p99_ms: record.p99_ms,
            fsync_p50_ms: record.fsync_p50_ms,
            fsync_p99_ms: record.fsync_p99_ms,
            rows: record.rows,
            swap_ms: median("swap").map(|seconds| seconds * 1e3),
            setting,
        }
    }

    /// One object, or a table.
    pub fn print(&self, out: &Output) -> Result<()> {
        if out.is_json() {
            return out.object(self);
        }
        let Setting {
            model,
            cpu,
            threads,
            rounds,
            products_in,
            ..
        } = &self.setting;
        out.line(format!(
            "{model} on {cpu}, {threads} threads, training in {products_in}, medians of {rounds} rounds"
        ))?;
        let mut lines = columns(&self.rows()).into_iter();
        if let Some(header) = lines.next() {
            out.line(out.bold(&header))?;
        }
        lines.try_for_each(|line| out.line(line))
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["figure", "measured", "goal"].map(str::to_owned).to_vec()];
        let mut row = |name: &str, value: Option<f64>, digits: usize, unit: &str, goal: &str| {
            let value = value.map_or("-".to_owned(), |value| format!("{value:.digits$}{unit}"));
            rows.push(vec![name.to_owned(), value, goal.to_owned()]);
        };
        row(
            "training step over llama.cpp's pp512",
            self.step_over_pp,
            2,
            "",
            "at most 1.0",
        );
        row(
            "utilisation: useful FLOP/s over the best mul_mat's",
            self.utilisation,
            2,
            "",
            "0.6",
        );
        row(
            "engine over bare llama.cpp, reading",
            self.engine_over_bare.pp,
            3,
            "",
            "at most 1.03",
        );
        row(
            "engine over bare llama.cpp, writing",
            self.engine_over_bare.tg,
            3,
            "",
            "at most 1.03",
        );
        row(
            "pairs, 2P + C + R, reference included",
            self.pair_tok_s,
            0,
            " tok/s",
            "",
        );
        row("training step", self.step_tok_s, 0, " tok/s", "");
        row("forward pass", self.forward_tok_s, 0, " tok/s", "");
        row("llama.cpp pp512", self.pp512_tok_s, 0, " tok/s", "");
        row("llama.cpp tg64", self.tg64_tok_s, 1, " tok/s", "");
        for (ty, gflops) in &self.mul_mat_gflops {
            row(
                &format!("mul_mat {ty}, 512 tokens"),
                Some(*gflops),
                0,
                " GFLOP/s",
                "",
            );
        }
        row(
            "useful work of the step",
            Some(self.step_gflop),
            0,
            " GFLOP",
            "",
        );
        row(
            "peak memory of a step",
            self.peak_rss_mib,
            0,
            " MiB",
            "under 300",
        );
        row("  of it anonymous", self.anon_rss_mib, 0, " MiB", "");
        row(
            "peak memory of a step, low-memory mode",
            self.peak_rss_low_mib,
            0,
            " MiB",
            "under 200",
        );
        row("  of it anonymous", self.anon_rss_low_mib, 0, " MiB", "");
        row(
            &format!("record a thumb among {}, p99", self.rows),
            Some(self.record_p99_ms),
            2,
            " ms",
            "under 5",
        );
        row(
            "  the disk's own fsync, p99",
            Some(self.fsync_p99_ms),
            2,
            " ms",
            "",
        );
        row(
            "swap adapters and decode one token",
            self.swap_ms,
            1,
            " ms",
            "under 50",
        );
        rows
    }
}
