//! What replies are worth: by an adapter's own reward, or by a head fitted on the feedback.

use std::collections::BTreeSet;

use thumbprint_ggml::llama::Token;

use super::{Loaded, Thumbprint};
use crate::curation::{self, Completion, Kind, LearnFrom, Readiness, curate, fold_of};
use crate::engine::{
    Canceller, Chat, Embedded, Engine, EngineError, LoadedAdapter, Priority, ScoreText, With,
};
use crate::error::{Error, Result};
use crate::gate::Opinion;
use crate::reward::{
    self, DEFAULT_BETA, FOLDS, Head, HeadOptions, Judged, Judgement, Score, Unfit,
};
use crate::store::{AdapterRow, StoredReply};
use crate::types::{FeedbackId, Judge, LoggedFeedback, Message, ReplyId};

/// Curated pairs of one prompt that a head is fitted on.
const PAIRS_PER_PROMPT: usize = 4;

impl Thumbprint {
    /// What a stored reply is worth. One that the model at hand wrote is scored by its own tokens, any other by its text.
    ///
    /// # Errors
    /// [`Error::NoActiveAdapter`], [`Error::NoHead`]; of the store: no such reply; of the engine: it is longer than the model's context.
    pub fn score(&self, reply: ReplyId, judge: Judge) -> Result<Score> {
        let reply = self.0.store.reply(reply)?;
        let loaded = self.loaded()?;
        let text = in_tokens(&loaded, &reply)?;
        self.score_one(&loaded, text, judge)
    }

    /// What any reply to a conversation is worth, as one that the model ended itself.
    ///
    /// # Errors
    /// As [`score`](Self::score), and [`EngineError::EmptyPrompt`].
    pub fn score_text(&self, messages: &[Message], text: &str, judge: Judge) -> Result<Score> {
        let loaded = self.loaded()?;
        let text = ScoreText {
            prompt: loaded.engine.chat().prompt_tokens(messages)?,
            completion: loaded.engine.chat().completion_tokens(text)?,
        };
        self.score_one(&loaded, text, judge)
    }

    fn score_one(&self, loaded: &Loaded, text: ScoreText, judge: Judge) -> Result<Score> {
        let scorer = self.scorer(loaded, judge)?;
        let canceller = Canceller::default();
        let scores = scorer.score(&loaded.engine, Priority::Foreground, vec![text], &canceller)?;
        Ok(scores.into_iter().next().ok_or(EngineError::Stopped)?)
    }

    pub(crate) fn scorer(&self, loaded: &Loaded, judge: Judge) -> Result<Scorer> {
        let row = match judge {
            Judge::Active => self
                .0
                .store
                .active_adapter(&loaded.sha256)?
                .ok_or(Error::NoActiveAdapter)?,
            Judge::Adapter(id) => self.0.store.adapter(id)?,
            Judge::Head => {
                let head = self.0.store.head(&loaded.sha256)?.ok_or(Error::NoHead)?;
                let template = &loaded.engine.info().template_hash;
                let n_embd = loaded.engine.chat().model().n_embd() as usize;
                let width = 2 * n_embd + 2;
                return match (&head.base_sha256, &head.template_hash, head.weights.len())
                    == (&loaded.sha256, template, width)
                {
                    true => Ok(Scorer::Head(Box::new(head))),
                    false => Err(Error::HeadOfAnotherModel),
                };
            }
        };
        Ok(Scorer::Implicit {
            adapter: self.load_adapter(loaded, &row, row.scale)?,
            beta: beta_of(&row),
        })
    }

    // ---- the head ----

    /// Fits a head on the feedback in effect, in the place of the one before: a forward pass over every reply that was judged. It is kept
    /// with the events that it was fitted on, and goes as soon as one of them is forgotten.
    ///
    /// # Errors
    /// [`Error::TooLittleFeedback`], [`Error::Head`]; of the engine, [`EngineError::Cancelled`] among them.
    pub fn fit_head(&self, options: &HeadOptions, canceller: &Canceller) -> Result<Head> {
        let loaded = self.loaded_whatever_its_adapter()?;
        let log = self.0.store.effective_feedback()?;
        let material = HeadMaterial::of_log(&log, &loaded)?;
        if !material.readiness.is_ready() {
            return Err(Error::TooLittleFeedback(material.readiness));
        }
        let embedded =
            loaded
                .engine
                .embed(Priority::Background, material.texts, With::Base, canceller)?;
        let features: Vec<Vec<f32>> = embedded.iter().map(Embedded::features).collect();
        let template = &loaded.engine.info().template_hash;
        let judged: Vec<Judged> = material.judged.iter().map(|(_, judged)| *judged).collect();
        let head = reward::fit(&loaded.sha256, template, &features, &judged, options)?;
        self.0.store.put_head(&head, &material.items)?;
        Ok(head)
    }

    /// The head of the model at hand, if one was fitted. Never loads a model.
    ///
    /// # Errors
    /// [`Error::NoModel`]; of the store.
    pub fn head(&self) -> Result<Option<Head>> {
        Ok(self.0.store.head(&self.base_hash()?)?)
    }

    /// Drops the head of the model at hand; whether there was one. Never loads a model.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn drop_head(&self) -> Result<bool> {
        Ok(self.0.store.drop_head(&self.base_hash()?)?)
    }
}

/// A judge, ready to score.
#[derive(Debug)]
pub(crate) enum Scorer {
    Implicit { adapter: LoadedAdapter, beta: f64 },
    Head(Box<Head>),
}

impl Scorer {
    /// Scores texts, in their order. Those in a row that begin alike share the work for that beginning.
    pub fn score(
        &self,
        engine: &Engine,
        priority: Priority,
        texts: Vec<ScoreText>,
        canceller: &Canceller,
    ) -> Result<Vec<Score>> {
        let tokens = texts.iter().map(|text| text.completion.clone());
        let tokens: Vec<Vec<Token>> = tokens.collect();
        match self {
            Self::Implicit { adapter, beta } => {
                let with = With::Adapter(adapter.clone());
                let policy = engine.score_at(priority, texts.clone(), with, canceller)?;
                let reference = engine.score_at(priority, texts, With::Base, canceller)?;
                let scores = tokens.into_iter().zip(policy.iter().zip(&reference));
                Ok(scores
                    .map(|(tokens, (p, r))| Score::implicit(tokens, p, r, *beta))
                    .collect())
            }
            Self::Head(head) => {
                let whole = texts.iter().map(|text| whole(text, engine.chat()));
                let embedded = engine.embed(priority, whole.collect(), With::Base, canceller)?;
                let score = |(tokens, embedded): (_, &Embedded)| {
                    let reward = head.score(&embedded.features());
                    let reward = reward.ok_or(Error::HeadOfAnotherModel)?;
                    Ok(Score::of_head(tokens, reward))
                };
                tokens.into_iter().zip(&embedded).map(score).collect()
            }
        }
    }
}

/// What a head is fitted on: texts whose features are wanted, and what was said about them.
pub(crate) struct HeadMaterial {
    pub texts: Vec<ScoreText>,
    /// Comparisons, and every verdict by itself, each with the key of its prompt.
    pub judged: Vec<([u8; 32], Judged)>,
    /// The events that it was made of.
    pub items: Vec<FeedbackId>,
    pub readiness: Readiness,
}

impl HeadMaterial {
    pub fn of_log(log: &[LoggedFeedback], loaded: &Loaded) -> Result<Self> {
        let curated = |learn_from| {
            let options = curation::Options {
                learn_from,
                model: Some(loaded.sha256.clone()),
                pairs_per_prompt: PAIRS_PER_PROMPT,
                edit_pairs: true,
                ..curation::Options::default()
            };
            curate(log, &options)
        };
        let (compared, alone) = (curated(LearnFrom::Everything), curated(LearnFrom::Thumbs));
        let items: BTreeSet<_> = compared.items().into_iter().chain(alone.items()).collect();
        let mut made = Self {
            texts: Vec::new(),
            judged: Vec::new(),
            items: items.into_iter().collect(),
            readiness: compared.readiness,
        };
        let is_comparison = |example: &&curation::Example| {
            matches!(example.kind, Kind::Pair { .. } | Kind::Ranking { .. })
        };
        let comparisons = compared.examples.iter().filter(is_comparison);
        let mut examples: Vec<_> = comparisons.chain(&alone.examples).collect();
        // What was said last comes last, since of very many judgements the last are fitted.
        examples.sort_by_key(|example| example.items.iter().max().copied());
        for example in examples {
            made.add(example, loaded)?;
        }
        Ok(made)
    }

    /// Every verdict by itself.
    pub fn opinions(&self) -> Vec<Opinion> {
        let opinion = |(prompt, judged): &([u8; 32], Judged)| match judged.judgement {
            Judgement::Pair { .. } => None,
            Judgement::Single {
                reply,
                liked,
                weight,
            } => Some(Opinion {
                prompt: *prompt,
                reply,
                liked,
                weight,
            }),
        };
        self.judged.iter().filter_map(opinion).collect()
    }

    fn add(&mut self, example: &curation::Example, loaded: &Loaded) -> Result<()> {
        let chat = loaded.engine.chat();
        let n_ctx = loaded.engine.info().n_ctx_train as usize;
        let prompt = chat.prompt_tokens(&example.prompt)?;
        let text = |completion: &Completion| -> Result<Option<ScoreText>> {
            let completion = chat.completion_tokens(&completion.text)?;
            let text = ScoreText {
                prompt: prompt.clone(),
                completion,
            };
            let text = whole(&text, chat);
            let fits = text.prompt.len() + text.completion.len() <= n_ctx;
            Ok(fits.then_some(text))
        };
        let mut pair = |better: &Completion, worse: &Completion, weight, label_smoothing| {
            if let (Some(better), Some(worse)) = (text(better)?, text(worse)?) {
                let judgement = Judgement::Pair {
                    better: self.place(better),
                    worse: self.place(worse),
                    weight,
                    label_smoothing,
                };
                self.push(&example.prompt_key, judgement);
            }
            Ok(())
        };
        match &example.kind {
            Kind::Pair {
                chosen,
                rejected,
                weight,
                label_smoothing,
                ..
            } => pair(chosen, rejected, *weight, *label_smoothing),
            // Each over the next, all of them together as heavy as the ranking.
            Kind::Ranking {
                completions,
                weight,
                ..
            } => {
                let weight = weight / completions.len().saturating_sub(1).max(1) as f64;
                let mut pairs = completions.windows(2);
                pairs.try_for_each(|sides| pair(&sides[0], &sides[1], weight, 0.0))
            }
            Kind::Demonstration { .. } => Ok(()),
            Kind::Unpaired {
                completion,
                desirable,
                weight,
            } => {
                if let Some(text) = text(completion)? {
                    let judgement = Judgement::Single {
                        reply: self.place(text),
                        liked: *desirable,
                        weight: *weight,
                    };
                    self.push(&example.prompt_key, judgement);
                }
                Ok(())
            }
        }
    }

    fn push(&mut self, prompt_key: &[u8; 32], judgement: Judgement) {
        let fold = fold_of(prompt_key, FOLDS);
        self.judged.push((*prompt_key, Judged { judgement, fold }));
    }

    /// The index of a text, which stands once however often it was judged.
    fn place(&mut self, text: ScoreText) -> usize {
        match self.texts.iter().position(|known| *known == text) {
            Some(known) => known,
            None => {
                self.texts.push(text);
                self.texts.len() - 1
            }
        }
    }
}

/// A reply that was recorded, in tokens of the model at hand.
pub(super) fn in_tokens(loaded: &Loaded, reply: &StoredReply) -> Result<ScoreText> {
    let chat = loaded.engine.chat();
    let finished = match &reply.generation {
        Some(made)
            if made.model == loaded.sha256
                && made.template_hash == loaded.engine.info().template_hash
                && made.prompt_offset == 0
                && !made.completion_tokens.is_empty() =>
        {
            return Ok(ScoreText {
                prompt: made.prompt_tokens.clone(),
                completion: made.completion_tokens.clone(),
            });
        }
        Some(made) => made.stop_reason.is_finished(),
        None => true,
    };
    let mut completion = chat.completion_tokens(&reply.text)?;
    if !finished && completion.len() > 1 {
        completion.pop();
    }
    Ok(ScoreText {
        prompt: chat.prompt_tokens(&reply.prompt)?,
        completion,
    })
}

/// The reply up to an end token, also where it was cut off: what was said is judged, not where a limit fell.
pub(crate) fn whole(text: &ScoreText, chat: &Chat) -> ScoreText {
    let ends = |token: &Token| chat.completion_end_tokens().contains(token);
    let end = match text.completion.last().is_some_and(ends) {
        true => None,
        false => chat.end_of_turn(),
    };
    ScoreText {
        prompt: text.prompt.clone(),
        completion: text.completion.iter().copied().chain(end).collect(),
    }
}

/// The beta that an adapter was trained with.
fn beta_of(row: &AdapterRow) -> f64 {
    row.config
        .pointer("/train/pair/beta")
        .and_then(serde_json::Value::as_f64)
        .unwrap_or(DEFAULT_BETA)
}

impl From<Unfit> for Error {
    fn from(error: Unfit) -> Self {
        Self::Head(error)
    }
}
