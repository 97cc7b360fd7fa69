//! Files of questions, asked of the model at hand with an adapter or without.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::Thumbprint;
use crate::arena::Contestant;
use crate::engine::{
    Canceller, Chat, Engine, EngineError, GenerateOptions, Priority, Prompt, Request, ScoreText,
    With,
};
use crate::error::Result;
use crate::evaluate::choices::Answer;
use crate::evaluate::{
    ChoiceReport, Comparison, HarmlessPrompt, Question, RefusalReport, RewardReport,
};
use crate::types::{Judge, Message, Sampling, prompt_key};

/// Texts that are scored between two looks at whether to go on.
const SCORED_AT_ONCE: usize = 64;
/// Tokens of a reply in which a refusal shows.
const REPLY_TOKENS: u32 = 64;

impl Thumbprint {
    /// Asks multiple-choice questions ([`choices::read`](crate::evaluate::choices::read)) by log-likelihood. `on_progress` is told how many
    /// are answered; `Break` cancels.
    ///
    /// # Errors
    /// Of the engine, [`EngineError::Cancelled`] among them; a question longer than the model's context names its line.
    pub fn evaluate_choices(
        &self,
        questions: &[Question],
        who: Contestant,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<ChoiceReport> {
        let loaded = self.loaded_whatever_its_adapter()?;
        let with = self.contestant(&loaded, who)?;
        let answers = answer_all(
            &loaded.engine,
            with,
            questions,
            &Canceller::default(),
            on_progress,
        )?;
        Ok(ChoiceReport::new(questions, answers))
    }

    /// Asks harmless prompts ([`refusals::read`](crate::evaluate::refusals::read)), each in a conversation of its own, the likeliest token
    /// each time, and counts refusals. Nothing is recorded.
    ///
    /// # Errors
    /// Of the engine, [`EngineError::Cancelled`] among them.
    pub fn evaluate_refusals(
        &self,
        prompts: &[HarmlessPrompt],
        who: Contestant,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<RefusalReport> {
        let loaded = self.loaded_whatever_its_adapter()?;
        let with = self.contestant(&loaded, who)?;
        let replies = reply_all(&loaded.engine, with, prompts, on_progress)?;
        Ok(RefusalReport::new(prompts, &replies))
    }

    /// Asks a judge which of two replies is better ([`comparisons::read`](crate::evaluate::comparisons::read)).
    ///
    /// # Errors
    /// [`Error::NoActiveAdapter`](crate::Error::NoActiveAdapter), [`Error::NoHead`](crate::Error::NoHead); of the engine,
    /// [`EngineError::Cancelled`] among them; a reply longer than the model's context names its line.
    pub fn evaluate_reward(
        &self,
        comparisons: &[Comparison],
        judge: Judge,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<RewardReport> {
        let loaded = self.loaded_whatever_its_adapter()?;
        let scorer = self.scorer(&loaded, judge)?;
        let (engine, chat) = (&loaded.engine, loaded.engine.chat());
        let mut texts = Vec::with_capacity(2 * comparisons.len());
        for comparison in comparisons {
            let prompt = chat.prompt_tokens(&comparison.prompt)?;
            for side in [&comparison.chosen, &comparison.rejected] {
                let completion = chat.completion_tokens(side)?;
                let prompt = prompt.clone();
                texts.push(ScoreText { prompt, completion });
                fits(engine, texts.last(), comparison.line)?;
            }
        }
        let canceller = Canceller::default();
        let mut scores = Vec::with_capacity(texts.len());
        for texts in texts.chunks(SCORED_AT_ONCE) {
            let scored = scorer.score(engine, Priority::Background, texts.to_vec(), &canceller)?;
            scores.extend(scored.iter().map(|score| score.reward));
            go_on(on_progress(scores.len() / 2))?;
        }
        let pairs: Vec<(f64, f64)> = scores
            .as_chunks()
            .0
            .iter()
            .map(|[chosen, rejected]| (*chosen, *rejected))
            .collect();
        let log = self.0.store.effective_feedback()?;
        let judged: HashSet<_> = log.iter().map(|e| prompt_key(&e.reply.prompt)).collect();
        let seen = comparisons
            .iter()
            .filter(|c| judged.contains(&c.prompt_key()));
        Ok(RewardReport::new(comparisons, &pairs, seen.count()))
    }
}

/// A model's answer to each question.
pub(crate) fn answer_all(
    engine: &Engine,
    with: With,
    questions: &[Question],
    canceller: &Canceller,
    on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(questions.len());
    for questions in questions.chunks(SCORED_AT_ONCE / 4) {
        let mut texts = Vec::new();
        for question in questions {
            for choice in &question.choices {
                texts.push(split(
                    engine.chat(),
                    &question.context,
                    &format!(" {choice}"),
                )?);
                fits(engine, texts.last(), question.line)?;
            }
        }
        let logps = engine.score(texts, with.clone(), canceller)?;
        let mut sums = logps.iter().map(|logps| logps.iter().sum::<f64>());
        for question in questions {
            let of_question: Vec<f64> = sums.by_ref().take(question.choices.len()).collect();
            answers.push(Answer::new(question, &of_question));
        }
        go_on(on_progress(answers.len()))?;
    }
    Ok(answers)
}

/// A model's likeliest reply to each prompt, as far as a refusal shows.
pub(crate) fn reply_all(
    engine: &Engine,
    with: With,
    prompts: &[HarmlessPrompt],
    on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<String>> {
    let requests: Vec<Request> = prompts
        .iter()
        .map(|prompt| Request {
            prompt: Prompt::Messages(vec![Message::user(&prompt.prompt)]),
            options: GenerateOptions {
                max_tokens: REPLY_TOKENS,
                sampling: Sampling::greedy(),
                ..GenerateOptions::default()
            },
            with: with.clone(),
        })
        .collect();
    let mut batch = engine.generate_batch(&requests, engine.info().side_by_side())?;
    let mut replies = vec![String::new(); requests.len()];
    let mut done = 0;
    while let Some((at, reply)) = batch.next()? {
        replies[at] = reply.text;
        done += 1;
        // Letting go of the batch cancels it.
        go_on(on_progress(done))?;
    }
    Ok(replies)
}

/// Context and choice in tokens as lm-evaluation-harness splits them: tokenized together, so that the choice's first token may begin with
/// the space, and cut where the context's own tokens end.
fn split(chat: &Chat, context: &str, choice: &str) -> Result<ScoreText> {
    let kept = context.trim_end();
    let choice = format!("{}{choice}", &context[kept.len()..]);
    let tokenize = |text: &str| {
        let tokens = chat.model().tokenize(text, true, false);
        tokens.map_err(EngineError::from)
    };
    let mut prompt = tokenize(kept)?;
    let mut completion = tokenize(&format!("{kept}{choice}"))?;
    completion.drain(..prompt.len().min(completion.len()));
    if completion.is_empty() {
        // The choice melted into the context's last token.
        completion.extend(prompt.pop());
    }
    Ok(ScoreText { prompt, completion })
}

fn fits(engine: &Engine, text: Option<&ScoreText>, line: usize) -> Result<()> {
    let n = text.map_or(0, |text| text.prompt.len() + text.completion.len());
    let n_ctx = engine.info().n_ctx_train as usize;
    match n <= n_ctx {
        true => Ok(()),
        false => Err(crate::Error::TooLong { line, n, n_ctx }),
    }
}

fn go_on(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(EngineError::Cancelled.into()),
    }
}
