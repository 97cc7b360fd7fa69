//! What the gate wants to know about a candidate, measured with the engine.

use serde::{Deserialize, Serialize};

use super::examples::questions;
use crate::engine::{
    Canceller, Comparison, Completed, Engine, EngineError, GenerateOptions, LoadedAdapter,
    Overflow, Priority, Prompt, Request, ScoreText, With,
};
use crate::error::Result;
use crate::facade::Scorer;
use crate::gate::{BaseMeasurements, Rate, ScaleMeasurements, neutral, stats, text};
use crate::types::{Message, Sampling, StopReason};

/// Prompts of each kind that both models answer.
const SAMPLED_PROMPTS: usize = 16;
/// Replies in the log on which the divergence is measured.
const SCORED_REPLIES: usize = 10;
/// Tokens of sampled replies that are scored, about: of short replies all.
const SCORED_TOKENS: usize = 2500;
/// Texts whose features are computed between two looks at whether to go on.
const CHUNK: usize = 8;
/// Tokens of a sampled reply at most.
const SAMPLE_TOKENS: u32 = 192;
const SEED: u32 = 20_260_101;

/// What all measurements rest on.
pub struct Bench<'a> {
    pub engine: &'a Engine,
    pub canceller: &'a Canceller,
    /// Asked between pieces of work; false ends the measurement as if it were cancelled.
    pub go_on: &'a dyn Fn() -> bool,
    /// Prompts that feedback was given on, and replies of the base to them, in tokens.
    pub feedback: &'a [(Vec<Message>, ScoreText)],
    /// What orders replies by the feedback, if anything does.
    pub head: Option<&'a Scorer>,
}

/// A reply with what it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    question: String,
    text: String,
    prompt: Vec<i32>,
    tokens: Vec<i32>,
    finished: bool,
}

impl Sample {
    fn to_score(&self) -> ScoreText {
        ScoreText {
            prompt: self.prompt.clone(),
            completion: self.tokens.clone(),
        }
    }
}

/// What the base says to neutral prompts.
pub fn neutral(bench: &Bench<'_>) -> Result<Vec<Sample>> {
    bench.sample(neutral_prompts(), 0, With::Base)
}

/// The base model's numbers; `samples` are its own to [`neutral`] prompts.
pub fn base(bench: &Bench<'_>, mut samples: Vec<Sample>) -> Result<BaseMeasurements> {
    samples.extend(bench.sample(bench.feedback_prompts(), SAMPLED_PROMPTS, With::Base)?);
    let score = |texts| -> Result<_> {
        bench.check()?;
        Ok(bench.engine.score(texts, With::Base, bench.canceller)?)
    };
    let own = score(score_texts(&samples))?;
    let neutral = score(bench.neutral_texts()?)?;
    Ok(BaseMeasurements {
        neutral_perplexity: (-mean(neutral.iter().flatten())).exp(),
        own_nats: -mean(own.iter().flatten()),
        own_nats_at: nats_by_place(&own),
        repetition: Rate::count(&samples, |s| text::repeats(&s.text)),
        finished: Rate::count(&samples, |s| s.finished),
        echo: Rate::count(&samples, |s| text::echoes(&s.question, &s.text)),
        median_tokens: median_tokens(&samples),
        rewards: bench.rewards(&samples)?,
    })
}

/// How far a candidate moves the model on the prompts of the feedback: KL(base || adapter), nats per token.
pub fn feedback_kl(bench: &Bench<'_>, adapter: &LoadedAdapter) -> Result<f64> {
    let comparisons = bench.compare(
        bench.feedback_replies(),
        With::Base,
        With::Adapter(adapter.clone()),
    )?;
    Ok(mean_kl(&comparisons))
}

/// The numbers of a candidate at one scale, which the loaded adapter has.
pub fn scale(bench: &Bench<'_>, adapter: &LoadedAdapter) -> Result<ScaleMeasurements> {
    let with = || With::Adapter(adapter.clone());
    let neutral = bench.compare(bench.neutral_texts()?, With::Base, with())?;
    let feedback = bench.compare(bench.feedback_replies(), With::Base, with())?;
    let prompts = [neutral_prompts(), bench.feedback_prompts()].concat();
    let samples = bench.sample(prompts, 0, with())?;
    let scored = score_texts(&samples);
    let own_lengths = scored.iter().map(|text| text.completion.len()).collect();
    let own = bench.compare(scored, with(), With::Base)?;
    Ok(ScaleMeasurements {
        scale: f64::from(adapter.scale()),
        neutral_perplexity: (-mean(neutral.iter().flat_map(|c| &c.logps_q))).exp(),
        kl_neutral: mean_kl(&neutral),
        kl_feedback: mean_kl(&feedback),
        kl_own_samples: mean_kl(&own),
        own_nats_under_base: -mean(own.iter().flat_map(|c| &c.logps_q)),
        own_lengths,
        repetition: Rate::count(&samples, |s| text::repeats(&s.text)),
        finished: Rate::count(&samples, |s| s.finished),
        echo: Rate::count(&samples, |s| text::echoes(&s.question, &s.text)),
        median_tokens: median_tokens(&samples),
        rewards: bench.rewards(&samples)?,
        choices: None,
        refusals: None,
    })
}

impl Bench<'_> {
    fn compare(&self, texts: Vec<ScoreText>, p: With, q: With) -> Result<Vec<Comparison>> {
        self.check()?;
        Ok(self.engine.compare(texts, p, q, self.canceller)?)
    }

    fn feedback_replies(&self) -> Vec<ScoreText> {
        let replies = spread(self.feedback, SCORED_REPLIES);
        replies.map(|(_, reply)| reply.clone()).collect()
    }

    fn check(&self) -> Result<()> {
        match self.canceller.is_cancelled() || !(self.go_on)() {
            true => Err(EngineError::Cancelled.into()),
            false => Ok(()),
        }
    }

    fn feedback_prompts(&self) -> Vec<Vec<Message>> {
        let prompts = spread(self.feedback, SAMPLED_PROMPTS);
        prompts.map(|(prompt, _)| prompt.clone()).collect()
    }

    /// Replies as people get them: drawn plainly, a small model repeats itself less. `first` is the place of the first prompt among all, which decides its draws.
    fn sample(&self, prompts: Vec<Vec<Message>>, first: usize, with: With) -> Result<Vec<Sample>> {
        let requests: Vec<_> = prompts
            .iter()
            .enumerate()
            .map(|(i, messages)| Request {
                prompt: Prompt::Messages(messages.clone()),
                options: GenerateOptions {
                    max_tokens: SAMPLE_TOKENS,
                    sampling: Sampling {
                        seed: u64::from(SEED) + (first + i) as u64,
                        ..Sampling::default()
                    },
                    overflow: Overflow::TruncateOldestTurns,
                    ..GenerateOptions::default()
                },
                with: with.clone(),
            })
            .collect();
        let mut batch = self
            .engine
            .generate_batch(&requests, self.engine.info().side_by_side())?;
        let mut samples: Vec<Option<Completed>> = requests.iter().map(|_| None).collect();
        while let Some((index, reply)) = batch.next()? {
            self.check()?;
            samples[index] = Some(reply);
        }
        let samples = prompts.iter().zip(samples).filter_map(|(prompt, reply)| {
            let reply = reply?;
            Some(Sample {
                question: prompt.last().map(|m| m.content.clone()).unwrap_or_default(),
                finished: reply.stop_reason == StopReason::EndOfTurn,
                text: reply.text,
                prompt: reply.prompt_tokens,
                tokens: reply.tokens,
            })
        });
        Ok(samples.collect())
    }

    /// What the head gives each reply. To say nothing is worse than anything.
    fn rewards(&self, samples: &[Sample]) -> Result<Vec<f64>> {
        let Some(head) = self.head else {
            return Ok(Vec::new());
        };
        let said = samples.iter().filter(|s| !s.tokens.is_empty());
        let said: Vec<ScoreText> = said.map(Sample::to_score).collect();
        let mut rewards = Vec::with_capacity(said.len());
        for chunk in said.chunks(CHUNK) {
            self.check()?;
            let (background, texts) = (Priority::Background, chunk.to_vec());
            let scores = head.score(self.engine, background, texts, self.canceller)?;
            rewards.extend(scores.iter().map(|score| score.reward));
        }
        let mut of_said = rewards.into_iter();
        let reward = |sample: &Sample| match sample.tokens.is_empty() {
            true => f64::MIN,
            false => of_said.next().unwrap_or_default(),
        };
        Ok(samples.iter().map(reward).collect())
    }

    fn neutral_texts(&self) -> Result<Vec<ScoreText>> {
        neutral::TEXTS
            .iter()
            .map(|text| {
                let model = self.engine.chat().model();
                let tokens = model
                    .tokenize(text, true, false)
                    .map_err(EngineError::from)?;
                // The first tokens are context: without any, their probabilities say little.
                let split = tokens.len().min(4);
                Ok(ScoreText {
                    prompt: tokens[..split].to_vec(),
                    completion: tokens[split..].to_vec(),
                })
            })
            .collect()
    }
}

/// Neutral prompts that base and candidate answer.
pub fn neutral_prompts() -> Vec<Vec<Message>> {
    questions(&neutral::PROMPTS[..SAMPLED_PROMPTS])
}

fn score_texts(samples: &[Sample]) -> Vec<ScoreText> {
    let texts: Vec<_> = samples.iter().filter(|s| !s.tokens.is_empty()).collect();
    let tokens: usize = texts.iter().map(|s| s.tokens.len()).sum();
    let n = (texts.len() * SCORED_TOKENS).div_ceil(tokens.max(1));
    spread(&texts, n).map(|sample| sample.to_score()).collect()
}

/// Mean of -log p at each place of the replies that reach it.
fn nats_by_place(logps: &[Vec<f64>]) -> Vec<f64> {
    let longest = logps.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .map(|place| -mean(logps.iter().filter_map(|logps| logps.get(place))))
        .collect()
}

fn mean_kl(comparisons: &[Comparison]) -> f64 {
    mean(comparisons.iter().flat_map(|c| &c.kl_pq))
}

fn median_tokens(samples: &[Sample]) -> f64 {
    let lengths: Vec<f64> = samples.iter().map(|s| s.tokens.len() as f64).collect();
    stats::median(&lengths).unwrap_or(f64::NAN)
}

fn mean<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    let (sum, n) = values
        .into_iter()
        .fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
    sum / n as f64
}

/// At most `n` of the items, evenly spread.
fn spread<T>(items: &[T], n: usize) -> impl Iterator<Item = &T> {
    let n = n.min(items.len());
    (0..n).map(move |i| &items[i * items.len() / n.max(1)])
}
