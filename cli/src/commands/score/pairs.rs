//! `score --data`: what a model, with or without an adapter, thinks of a file of preferences.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};
use thumbprint_tune::batch::{Group, Packed};
use thumbprint_tune::graph::{Network, NetworkOptions, Scores};

use crate::base_model::{self, Base};
use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::kernels::kernels;
use crate::options::{ModelOption, Precision, ThreadsOption};
use crate::output::Output;
use crate::pairs::{Preparation, Row, Rows};

#[derive(Args, Debug)]
pub struct Options {
    /// Score with this adapter (of the same base), and compare with the base
    #[arg(long, value_name = "GGUF", requires = "data")]
    adapter: Option<PathBuf>,
    /// Prepare tokens as TRL does: with what the chat template writes after the end token
    #[arg(long, requires = "data")]
    trl_tokens: bool,
    /// Number formats
    #[arg(long, value_enum, default_value_t = Precision::Exact)]
    kernels: Precision,
    #[command(flatten)]
    threads: ThreadsOption,
}

/// Rows of a ubatch.
const UBATCH: usize = 512;

/// Scores and prints.
///
/// # Errors
/// A file that cannot be used, or a pair longer than the model's context.
pub fn run(options: &Options, model: &ModelOption, data: &Path, out: &Output) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let path = model.path()?;
    let model = base_model::open(&path)?;
    let adapter = match &options.adapter {
        Some(file) => Some(Base::new(&path)?.read_adapter(file, model.gguf())?.lora),
        None => None,
    };
    let preparation = if options.trl_tokens {
        Preparation::Trl
    } else {
        Preparation::EndToken
    };
    let pairs = Rows::pairs(data, &base_model::load_chat(&path)?, preparation)?;
    let n_ctx = model.spec.n_ctx_train;
    if let Some(pair) = pairs.rows.iter().find(|pair| pair.length() > n_ctx) {
        let n = pair.length();
        return Err(pairs.error(
            pair.line,
            format!("has {n} tokens, and the model was trained for {n_ctx}"),
        ));
    }

    let n_threads = options.threads.count();
    let network = NetworkOptions {
        n_threads,
        max_tokens: pairs.rows.iter().map(n_rows).max().unwrap_or(0).max(UBATCH),
        kernels: kernels(options.kernels, n_threads)?,
        // Nothing is kept here: as few layers have room for it as there can be.
        recomputed_layers: usize::MAX,
        head_rows: 64,
        recompute_gate_up: false,
        keep_weights: false,
        device: None,
    };
    let max_tokens = network.max_tokens;
    let mut network = Network::new(model, network, adapter.as_ref())?;
    interrupt.also_raise(network.abort_flag())?;
    if let Some(lora) = &adapter {
        network.update_adapter(lora)?;
    }

    let mut summary = Summary::default();
    let bar = out.progress(pairs.rows.len() as u64, "scoring");
    for chunk in chunks(&pairs.rows, max_tokens) {
        let packed = pack(chunk);
        let mut score = |with_adapter| match network.score(&packed, with_adapter) {
            Err(error) if error.is_aborted() => Err(CliError::Interrupted(String::new())),
            scores => Ok(scores?),
        };
        let base = score(false)?;
        let scored = adapter.is_some().then(|| score(true)).transpose()?;
        for (at, pair) in chunk.iter().enumerate() {
            let pair = Scored {
                pair,
                base: sides(&base, at),
                adapted: scored.as_ref().map(|s| sides(s, at)),
            };
            summary.add(&pair);
            bar.suspend(|| pair.print(out))?;
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    summary.print(out)
}

/// Log-probabilities of chosen and rejected tokens, nats.
type Sides<'a> = [&'a [f64]; 2];

/// A pair with its log-probabilities under the base and, if there is one, with the adapter.
struct Scored<'a> {
    pair: &'a Row,
    base: Sides<'a>,
    adapted: Option<Sides<'a>>,
}

impl Scored<'_> {
    fn policy(&self) -> Sides<'_> {
        self.adapted.unwrap_or(self.base)
    }

    /// By how much the chosen side is more probable, nats.
    fn margin(&self) -> f64 {
        let [chosen, rejected] = self.policy().map(sum);
        chosen - rejected
    }

    /// How much more the adapter raised the chosen side than the rejected one, nats.
    fn reward_margin(&self) -> Option<f64> {
        let [chosen, rejected] = self.base.map(sum);
        self.adapted.map(|_| self.margin() - (chosen - rejected))
    }

    fn print(&self, out: &Output) -> Result<()> {
        let Row { line, prompt, .. } = self.pair;
        let (chosen, rejected) = (self.pair.chosen(), self.pair.rejected());
        let logps = self.policy();
        if !out.is_json() {
            let margins = match self.reward_margin() {
                Some(reward) => format!("  margin over the base {reward:+9.3}"),
                None => String::new(),
            };
            let [c, r] = logps.map(sum);
            return out.line(format!(
                "line {line:>5}  chosen {c:9.3} ({:>4} tokens)  rejected {r:9.3} ({:>4} tokens)  margin {:+9.3}{margins}",
                chosen.len(),
                rejected.len(),
                self.margin(),
            ));
        }
        let mut object = Map::new();
        let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
        set("line", json!(line));
        set("prompt_ids", json!(prompt));
        set("chosen_ids", json!(chosen));
        set("rejected_ids", json!(rejected));
        set("chosen_logps", json!(logps[0]));
        set("rejected_logps", json!(logps[1]));
        set("chosen_logp", json!(sum(logps[0])));
        set("rejected_logp", json!(sum(logps[1])));
        if let Some(reward) = self.reward_margin() {
            set("ref_chosen_logps", json!(self.base[0]));
            set("ref_rejected_logps", json!(self.base[1]));
            set("ref_chosen_logp", json!(sum(self.base[0])));
            set("ref_rejected_logp", json!(sum(self.base[1])));
            set("reward_margin", json!(reward));
        }
        out.object(&object)
    }
}

/// Counts over all pairs.
#[derive(Default)]
struct Summary {
    pairs: usize,
    ranked_right: usize,
    rewarded_right: Option<usize>,
}

impl Summary {
    fn add(&mut self, scored: &Scored<'_>) {
        self.pairs += 1;
        self.ranked_right += usize::from(scored.margin() > 0.0);
        if let Some(reward) = scored.reward_margin() {
            *self.rewarded_right.get_or_insert(0) += usize::from(reward > 0.0);
        }
    }

    fn print(&self, out: &Output) -> Result<()> {
        let share = |count: usize| count as f64 / self.pairs as f64;
        if out.is_json() {
            let mut object =
                json!({ "pairs": self.pairs, "ranked_right": share(self.ranked_right) });
            if let Some(count) = self.rewarded_right {
                object["rewards/accuracies"] = json!(share(count));
            }
            return out.object(&object);
        }
        let n = self.pairs;
        out.line(format!(
            "{}: {:.1} % of {n} pairs",
            out.bold("ranked right"),
            100.0 * share(self.ranked_right)
        ))?;
        match self.rewarded_right {
            Some(count) => out.line(format!(
                "{}: {:.1} %, as measured by what the adapter changed (rewards/accuracies)",
                out.bold("ranked right over the base"),
                100.0 * share(count)
            )),
            None => Ok(()),
        }
    }
}

fn sides(scores: &Scores, pair: usize) -> Sides<'_> {
    [&scores.logps[2 * pair], &scores.logps[2 * pair + 1]]
}

fn sum(logps: &[f64]) -> f64 {
    logps.iter().sum()
}

fn n_rows(pair: &Row) -> usize {
    Group {
        prompt: &pair.prompt,
        completions: &[pair.chosen(), pair.rejected()],
    }
    .n_rows()
}

fn pack(pairs: &[Row]) -> Packed {
    let completions: Vec<[&[i32]; 2]> = pairs
        .iter()
        .map(|pair| [pair.chosen(), pair.rejected()])
        .collect();
    let groups = pairs.iter().zip(&completions);
    Packed::new(
        &groups
            .map(|(pair, completions)| Group {
                prompt: &pair.prompt,
                completions,
            })
            .collect::<Vec<_>>(),
    )
}

/// Runs of pairs that fit a ubatch.
fn chunks(pairs: &[Row], max_tokens: usize) -> Vec<&[Row]> {
    let mut chunks = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (at, pair) in pairs.iter().enumerate() {
        let n = n_rows(pair);
        if rows + n > max_tokens && at > start {
            chunks.push(&pairs[start..at]);
            (start, rows) = (at, 0);
        }
        rows += n;
    }
    chunks.push(&pairs[start..]);
    chunks
}
