//! What the demo and the benchmark share: simulated people at an app.

use thumbprint::personalize::Recipe;
use thumbprint::{
    AdapterDetails, Budget, By, GenerateOptions, Message, Outcome, Phase, Reply, Request, Sampling,
    Thumbprint,
};

use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::watch::Watch;

/// Temperature of answers to held-out questions. What is taught on is drawn from the model's own distribution.
pub const ANSWER_TEMPERATURE: f32 = 0.7;

/// A question to the model, perhaps with instructions before it.
pub fn request(
    question: &str,
    instructions: Option<&str>,
    by: By,
    max_tokens: u32,
    sampling: Sampling,
) -> Request {
    let instructions = instructions.map(Message::system);
    let messages = instructions.into_iter().chain([Message::user(question)]);
    Request {
        options: GenerateOptions {
            max_tokens,
            sampling,
            ..GenerateOptions::default()
        },
        by,
        ..Request::new(messages.collect())
    }
}

/// Answers many questions, counting them.
///
/// # Errors
/// Of the model, or of the store.
pub fn answered(
    thumbprint: &Thumbprint,
    requests: Vec<Request>,
    watch: &Watch<'_>,
) -> Result<Vec<Reply>> {
    let at_once = thumbprint.engine()?.info().side_by_side();
    Ok(thumbprint.generate_batch(requests, at_once, &mut |_| watch.step())?)
}

/// A draw from the model's own distribution.
pub fn plain(seed: u64) -> Sampling {
    Sampling {
        seed,
        ..Sampling::plain()
    }
}

/// An answer as it is given to held-out questions.
pub fn answer(seed: u64) -> Sampling {
    Sampling {
        temperature: ANSWER_TEMPERATURE,
        ..plain(seed)
    }
}

/// Learns from what was said, telling how far it is. With an interrupt, Ctrl-C lets the job rest where it is.
///
/// # Errors
/// Of the job, or [`CliError::Interrupted`].
pub fn learn(
    thumbprint: &Thumbprint,
    budget: Budget,
    recipe: Recipe,
    out: &Output,
    interrupt: Option<&Interrupt>,
    on_progress: &mut dyn FnMut(Phase),
) -> Result<Outcome> {
    let job = thumbprint.personalize_with(budget, recipe)?;
    let pause = job.clone();
    let mut watch = None;
    let outcome = job.wait_with(&mut |progress| {
        on_progress(progress.phase);
        if interrupt.is_some_and(Interrupt::is_raised) {
            pause.pause();
        }
        let what = match progress.phase {
            Phase::Curate => "reading the log",
            Phase::Replay => "replaying the base",
            Phase::Reference => "scoring the reference",
            Phase::Fold => "training on halves",
            Phase::Train => "training",
            Phase::Online => "answering again",
            Phase::Gate => "checking for harm",
            Phase::Done => "done",
        };
        if watch
            .as_ref()
            .is_none_or(|(phase, _)| *phase != progress.phase)
        {
            watch = Some((
                progress.phase,
                Watch::new(out, progress.total as usize, what),
            ));
        }
        if let Some((_, watch)) = &watch {
            watch.set(progress.step, progress.total);
        }
    })?;
    match (outcome, interrupt) {
        (Outcome::Paused, Some(interrupt)) => {
            interrupt.check()?;
            Ok(Outcome::Paused)
        }
        (outcome, _) => Ok(outcome),
    }
}

/// What the gate measured of an adapter: at the scale that it serves at, else at the last one that was tried. Divergences in nats
/// per token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Perplexity of neutral texts over the base's.
    pub ppl_ratio: Option<f64>,
    /// KL(base || adapter) on the prompts of the feedback.
    pub kl_feedback: Option<f64>,
    /// KL(adapter || base) on the adapter's own samples.
    pub kl_own_samples: Option<f64>,
}

/// The numbers of the offline decision.
pub fn gate_numbers(details: &AdapterDetails) -> Option<serde_json::Value> {
    let mut decisions = details.decisions.iter();
    let decision = decisions.find(|d| d.decision.kind.starts_with("offline"))?;
    Some(decision.decision.numbers.clone())
}

/// What the gate measured.
pub fn measured(details: &AdapterDetails) -> Measured {
    let Some(numbers) = gate_numbers(details) else {
        return Measured::default();
    };
    let measured = &numbers["measured"];
    let served = f64::from(details.row.scale);
    let scales = measured["scales"].as_array().map(Vec::as_slice);
    let scales = scales.unwrap_or_default();
    let at_scale = scales
        .iter()
        .find(|s| s["scale"].as_f64() == Some(served))
        .or(scales.last());
    let number = |key: &str| at_scale.and_then(|s| s[key].as_f64());
    let base_ppl = measured["base"]["neutral_perplexity"].as_f64();
    Measured {
        ppl_ratio: number("neutral_perplexity")
            .zip(base_ppl)
            .map(|(after, before)| after / before),
        kl_feedback: number("kl_feedback"),
        kl_own_samples: number("kl_own_samples"),
    }
}

/// Mean length of replies, tokens.
pub fn mean_tokens(replies: &[Reply]) -> f64 {
    let tokens = replies.iter().map(|r| r.usage.completion_tokens as f64);
    tokens.sum::<f64>() / replies.len() as f64
}

/// A folder that is removed when this goes.
pub struct TemporaryFolder(pub std::path::PathBuf);

impl TemporaryFolder {
    /// A new one; `name` tells what it is for.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("thumbprint-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|source| CliError::File {
            doing: "create",
            path: path.clone(),
            source,
        })?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
