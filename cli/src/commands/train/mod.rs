//! `train`: from TRL's preference JSONL, or rankings, to an adapter that llama.cpp loads.

mod manifest;
mod options;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use thumbprint_tune::adapter::{AdapterFile, Lora, LoraConfig};
use thumbprint_tune::checkpoint::Checkpoint;
use thumbprint_tune::example::{Example, ExampleError};
use thumbprint_tune::graph::{DeviceOptions, NetworkError};
use thumbprint_tune::model::Model;
use thumbprint_tune::objective::ObjectiveError;
use thumbprint_tune::plan::{Budget, Plan};
use thumbprint_tune::preset::Amount;
use thumbprint_tune::trainer::{TrainError, Trainer, lora_shapes};

use crate::base_model::{self, Base};
use crate::error::{CliError, Result};
use crate::files;
use crate::interrupt::Interrupt;
use crate::kernels::kernels;
use crate::output::Output;
use crate::pairs::{Preparation, Rows};

use manifest::{Manifest, Preparing, Replay};
pub use options::Options;
use options::{Objective, Truncation};

/// Trains and writes the adapter.
///
/// # Errors
/// Anything that keeps it from being written; what stood in its place then still does.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let replay = Replay::of(options)?;
    let objective = match &replay {
        Some(replay) => replay.manifest.data.objective,
        None => {
            let objective = options.objective()?;
            options.validate(objective)?;
            objective
        }
    };
    let device = options.device.device()?;
    let interrupt = Interrupt::install()?;
    files::check_writable(&options.out)?;
    for file in [&options.checkpoint, &options.manifest]
        .into_iter()
        .flatten()
    {
        files::check_writable(file)?;
    }

    let path = options.model.path()?;
    let model = base_model::open(&path)?;
    let base = Base::new(&path)?;
    let preparing = match &replay {
        Some(replay) => replay.manifest.data,
        None => Preparing::of(options, objective, model.spec.n_ctx_train)?,
    };
    let data = Data::read(&options.data, preparing, &path, out)?;
    interrupt.check()?;

    let mut config = match &replay {
        Some(replay) => replay.manifest.config.clone(),
        None => options.config(objective, n_params(&model), Amount::of(&data.examples)),
    };
    let read = |file: &Option<PathBuf>| {
        let file = file.as_deref();
        file.map(|file| base.read_adapter(file, model.gguf()))
            .transpose()
    };
    let (initial, reference) = (read(&options.init_adapter)?, read(&options.ref_adapter)?);
    let lora = match initial {
        Some(AdapterFile { lora, .. }) => Lora {
            config: LoraConfig {
                dropout: config.lora.dropout,
                seed: config.lora.seed,
                ..lora.config
            },
            ..lora
        },
        None => Lora::new(config.lora.clone(), &lora_shapes(&model))?,
    };
    config.lora = lora.config.clone();
    let total = config.max_steps;
    let plan = match &replay {
        Some(replay) => replay.manifest.plan.clone(),
        None => plan(
            options,
            config.batch_size,
            device,
            &model,
            &data.examples,
            &lora,
        )?,
    };
    let architecture = model.spec.architecture.clone();
    // A checkpoint belongs to this start, and to this reference, only.
    let mut started_from = base.sha256.clone();
    for (word, file) in [
        ("with", &options.init_adapter),
        ("against", &options.ref_adapter),
    ] {
        if let Some(file) = file {
            started_from += &format!(" {word} {}", thumbprint::hash_file(file)?);
        }
    }
    report::beginning(out, &base, &data.examples, &config, &plan)?;

    let mut trainer = Trainer::with_adapter(
        model,
        started_from,
        data.examples.clone(),
        config.clone(),
        plan.clone(),
        lora,
    )
    .map_err(|error| data.error(error))?;
    let manifest = Manifest::new(trainer.hashes(), preparing, config, plan);
    if let Some(Replay { path, manifest }) = &replay {
        manifest.check(path, &trainer.hashes())?;
    }
    if let Some(reference) = reference {
        trainer.set_reference_adapter(reference.lora)?;
    }
    let mut run = Run {
        trainer,
        data,
        options,
        total,
        interrupt,
        out,
    };
    let result = run.train()?;
    let (fallbacks, steps) = (run.trainer.network().fallbacks(), run.trainer.steps_done());
    if !fallbacks.is_empty() {
        out.note(&format!(
            "the CPU computed what the device has no kernel for: {}",
            fallbacks.join(", ")
        ));
    }
    let adapter = AdapterFile {
        lora: run.trainer.lora()?.clone(),
        architecture,
        base_sha256: Some(base.sha256),
    };
    adapter.write(&options.out)?;
    let manifest = manifest.ended(steps, fallbacks, &options.out)?;
    if let Some(path) = &options.manifest {
        manifest.write(path)?;
    }
    if let Some(checkpoint) = &options.checkpoint {
        // It has done its work; if it stays, the next run ends where this one did.
        let _ = std::fs::remove_file(checkpoint);
    }
    let of_replay = replay.as_ref().map(|replay| &replay.manifest);
    let same_bytes = of_replay.map(|first| first.adapter_sha256 == manifest.adapter_sha256);
    if same_bytes == Some(false) {
        let why = of_replay.and_then(Manifest::elsewhere);
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        out.note(&format!(
            "the adapter is not the first run's, bit for bit{why}"
        ));
    }
    report::end(out, &options.out, &result, same_bytes)
}

/// Examples, and where they came from.
struct Data {
    rows: Rows,
    examples: Vec<Example>,
    /// The line of each example.
    lines: Vec<usize>,
}

impl Data {
    fn read(file: &Path, preparing: Preparing, path: &Path, out: &Output) -> Result<Self> {
        let Preparing {
            objective,
            max_length,
            truncation,
            trl_tokens,
        } = preparing;
        let preparation = if trl_tokens {
            Preparation::Trl
        } else {
            Preparation::EndToken
        };
        let chat = base_model::load_chat(path)?;
        let mut rows = match objective {
            Objective::Rankings => Rows::rankings(file, &chat, preparation)?,
            _ => Rows::pairs(file, &chat, preparation)?,
        };
        if rows.n_merged > 0 {
            let n = rows.n_merged;
            out.note(&format!(
                "{n} completions begin within a token of their prompt's text, as TRL would warn"
            ));
        }
        if rows.n_passed > 0 {
            let n = rows.n_passed;
            out.note(&format!(
                "passed over {n} answers or comparisons: empty, or rated alike"
            ));
        }
        let n_before = rows.rows.len();
        match truncation {
            Truncation::Refuse => refuse_long(&rows, max_length)?,
            Truncation::Skip => rows.rows.retain(|row| row.length() <= max_length),
        }
        let n_skipped = n_before - rows.rows.len();
        if n_skipped > 0 {
            out.note(&format!(
                "skipped {n_skipped} of {n_before} pairs, which are longer than {max_length} tokens"
            ));
        }
        if rows.rows.is_empty() {
            return Err(CliError::Nothing(
                "no pair is short enough: raise --max-length".to_owned(),
            ));
        }
        let mut data = Self {
            examples: Vec::new(),
            lines: Vec::new(),
            rows,
        };
        for row in &data.rows.rows {
            for example in objective.examples(row) {
                data.examples.push(example);
                data.lines.push(row.line);
            }
        }
        Ok(data)
    }

    /// Says which line an error is about, where the trainer says which example.
    fn error(&self, error: TrainError) -> CliError {
        let index = match &error {
            TrainError::Objective(
                ObjectiveError::NotFinite { index, .. }
                | ObjectiveError::EmptyCompletion { index, .. },
            ) => *index,
            TrainError::Example(
                ExampleError::EmptyPrompt { index }
                | ExampleError::EmptyCompletion { index }
                | ExampleError::Identical { index }
                | ExampleError::TooFew { index }
                | ExampleError::TooLong { index, .. },
            ) => *index,
            _ => return error.into(),
        };
        match self.lines.get(index) {
            Some(&line) => self.rows.error(line, error.to_string()),
            None => error.into(),
        }
    }
}

/// Names the lines, the first few of them at least.
fn refuse_long(rows: &Rows, max_length: usize) -> Result<()> {
    const NAMED: usize = 8;
    let long: Vec<_> = rows
        .rows
        .iter()
        .filter(|row| row.length() > max_length)
        .collect();
    let Some(first) = long.first() else {
        return Ok(());
    };
    let named: Vec<String> = long
        .iter()
        .take(NAMED)
        .map(|row| row.line.to_string())
        .collect();
    let more = if long.len() > NAMED {
        format!(" and {} more", long.len() - NAMED)
    } else {
        String::new()
    };
    let longest = long.iter().map(|row| row.length()).max().unwrap_or(0);
    let problem = format!(
        "longer than {max_length} tokens, prompt and completion together; the longest has {longest} (lines {}{more}): \
         raise --max-length, or leave them out with --truncation skip",
        named.join(", ")
    );
    Err(rows.error(first.line, problem))
}

fn n_params(model: &Model) -> u64 {
    let tensors = model.gguf().tensors().iter();
    tensors.map(|tensor| tensor.n_elements() as u64).sum()
}

fn plan(
    options: &Options,
    batch_size: usize,
    device: Option<DeviceOptions>,
    model: &Model,
    examples: &[Example],
    lora: &Lora,
) -> Result<Plan> {
    let n_threads = options.threads.count();
    let kernels = kernels(options.kernels, n_threads)?;
    let memory_mib = options.memory_mib;
    let mut budget = Budget::for_examples(examples, batch_size, n_threads, kernels, memory_mib);
    budget.last_layers = lora.config.last_layers;
    let n_lora = lora.values.len();
    let mut plan = Plan::resolve(model, n_lora, &budget)?;
    if options.gradient_checkpointing {
        plan.recomputed_layers = plan.most_recomputed(model);
    }
    let Some(device) = device else {
        return Ok(plan);
    };
    let is_exact = options.kernels == crate::options::Precision::Exact;
    let on_device = plan.on_device(device, is_exact, &budget, model, n_lora);
    Ok(on_device.map_err(NetworkError::from)?)
}

struct Run<'a> {
    trainer: Trainer,
    data: Data,
    options: &'a Options,
    /// Steps in all.
    total: u64,
    interrupt: Interrupt,
    out: &'a Output,
}

/// What a run comes to.
struct RunResult {
    seconds: f64,
    /// Steps taken here, without those of an earlier run that was resumed.
    steps: u64,
    resumed_from: u64,
    mean_loss: f64,
}

impl Run<'_> {
    fn train(&mut self) -> Result<RunResult> {
        let started = Instant::now();
        self.interrupt.also_raise(self.trainer.abort_flag())?;
        let resumed_from = self.resume()?;
        self.score_references()?;
        report::header(self.out)?;
        let mut losses = 0.0;
        let bar = self
            .out
            .progress(self.total, "training")
            .with_position(resumed_from);
        while !self.trainer.is_finished() {
            let step_started = Instant::now();
            let metrics = match self.trainer.step() {
                Ok(metrics) => metrics,
                Err(error) if error.is_aborted() => return Err(self.interrupted()),
                Err(error) => return Err(self.data.error(error)),
            };
            losses += metrics.loss;
            bar.suspend(|| report::step(self.out, &metrics, step_started.elapsed()))?;
            bar.set_position(metrics.step);
            if metrics.step.is_multiple_of(self.options.save_steps) && !self.trainer.is_finished() {
                self.save()?;
            }
        }
        bar.finish_and_clear();
        let steps = self.trainer.steps_done() - resumed_from;
        let mean_loss = if steps == 0 {
            0.0
        } else {
            losses / steps as f64
        };
        Ok(RunResult {
            seconds: started.elapsed().as_secs_f64(),
            steps,
            resumed_from,
            mean_loss,
        })
    }

    /// Takes up the checkpoint, if there is one, and says at which step.
    fn resume(&mut self) -> Result<u64> {
        let Some(path) = &self.options.checkpoint else {
            return Ok(0);
        };
        let Some(checkpoint) = Checkpoint::load(path, &self.trainer.hashes())? else {
            return Ok(0);
        };
        self.trainer
            .resume(checkpoint)
            .map_err(|error| self.data.error(error))?;
        let step = self.trainer.steps_done();
        self.out.note(&format!("resuming after step {step}"));
        Ok(step)
    }

    fn score_references(&mut self) -> Result<()> {
        let bar = self
            .out
            .progress(self.data.examples.len() as u64, "reference");
        loop {
            match self.trainer.score_references() {
                Ok(scored) if scored.is_empty() => break,
                Ok(scored) => bar.inc(scored.len() as u64),
                Err(error) if error.is_aborted() => return Err(self.interrupted()),
                Err(error) => return Err(self.data.error(error)),
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Saves the run, if asked for, and says how to go on.
    fn interrupted(&mut self) -> CliError {
        let Some(path) = self.options.checkpoint.clone() else {
            return CliError::Interrupted(": no adapter was written".to_owned());
        };
        match self.save() {
            Ok(()) => {
                let (step, path) = (self.trainer.steps_done(), path.display());
                CliError::Interrupted(format!(
                    ": the same command goes on after step {step}, from {path}"
                ))
            }
            Err(error) => error,
        }
    }

    fn save(&mut self) -> Result<()> {
        match &self.options.checkpoint {
            Some(path) => Ok(self.trainer.checkpoint()?.save(path)?),
            None => Ok(()),
        }
    }
}
