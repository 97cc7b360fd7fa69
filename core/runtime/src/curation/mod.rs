//! Curation: from events of feedback to training examples. Pure: no clock, no chance, no disk, no
//! model.
//!
//! What each event is worth:
//!
//! | Events on the replies to one prompt | Example |
//! |---|---|
//! | an edit | [`Kind::Demonstration`] of the edited text, weight [`Options::edit_weight`] |
//! | a ranking of several replies | [`Kind::Ranking`], weight 1 |
//! | a pick of one reply over another | [`Kind::Pair`], weight 1, label smoothing 0.1 |
//! | 👍 on one reply and 👎 on another | [`Kind::Pair`], weight 1, label smoothing 0.1 |
//! | a retry whose new reply was kept or got a 👍 | [`Kind::Pair`], weight 0.5, label smoothing 0.25 |
//! | 👍 alone | [`Kind::Unpaired`], desirable, weight 1 |
//! | 👎 alone | [`Kind::Unpaired`], undesirable, weight 1 |
//! | a retry and nothing else | [`Kind::Unpaired`], undesirable, weight 0.25 |
//!
//! All replies to the same prompt messages are one group, and a group gives one example: the first
//! row of the table that applies; pairs by the rule of [`Options::pairs_per_prompt`]; among edits,
//! rankings, 👍 alone, 👎 alone or retries alone, the latest. A ranking that later thumbs contradict
//! does not apply, and replies in it that say the same or nothing are passed over. What is left over in a group is reported and
//! makes no example; the reward head reads it all the same ([`LearnFrom::Thumbs`]).
//!
//! Two numbers change a weight afterwards. A pair of nearly identical replies carries little signal
//! and moves the model most (2410.08847), so above a [`similarity`] of [`Options::similar_from`]
//! its weight falls linearly, down to a tenth; that of a ranking by the mean over its neighbours. And the weights of the rarer kind of unpaired
//! examples are raised, see [`Options::max_minority_weight`].
//!
//! Examples are in the order of their keys, which are hashes of their texts: the same log gives the
//! same examples in the same order, whatever the order of the log, and taking one away never
//! reorders the others.

pub(crate) mod effect;
mod example;
mod group;
mod similarity;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sha2::{Digest, Sha256};

use crate::types::{Feedback, FeedbackId, LoggedFeedback, LoggedReply, prompt_key};
use effect::{Act, Event, in_effect};
pub use example::{Completion, Example, Kind};
pub use similarity::similarity;

/// What of a log becomes examples. Everything but the default is for comparisons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearnFrom {
    /// All that was said, by the module's table.
    #[default]
    Everything,
    /// Pairs alone: those of the table and, for an edit, the edit over what was edited. What has no other side teaches nothing.
    Pairs,
    /// Each verdict by itself, [`Kind::Unpaired`]: an edit is desirable and what was edited is not, and so is a pick; a retry
    /// that nothing else was said of is undesirable.
    Thumbs,
    /// What was liked, as demonstrations: every reply with a 👍, every pick and every edit.
    Liked,
}

/// Choices of the person who builds on this; the defaults are the product's.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What becomes examples.
    pub learn_from: LearnFrom,
    /// Hash of the model at hand. Stored tokens of other models are not used; their text is.
    pub model: Option<String>,
    /// Pairs made from one prompt, at least 1. Candidates are ordered by weight before the discount
    /// for similarity (the explicit before the implicit), then the least similar first, then by
    /// key; from the top, each candidate is taken whose two texts are not in a pair already, and then, from the top again, each
    /// other combination.
    pub pairs_per_prompt: usize,
    /// Also make a pair (edit over original) beside each demonstration.
    pub edit_pairs: bool,
    /// Weight of an edit, greater than 0.
    pub edit_weight: f64,
    /// Similarity, in [0, 1), above which a pair is weighed down.
    pub similar_from: f64,
    /// The factor, at most this, that raises the weights of the rarer kind of unpaired example
    /// until the desirable and the undesirable weigh in total between 1 : 1 and 4 : 3 (2402.01306,
    /// section 4.2).
    pub max_minority_weight: f64,
    /// Below this, there is nothing to learn.
    pub need: Tally,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            learn_from: LearnFrom::Everything,
            model: None,
            pairs_per_prompt: 1,
            edit_pairs: false,
            edit_weight: 1.0,
            similar_from: 0.8,
            max_minority_weight: 4.0,
            need: Tally {
                events: 10,
                liked: 3,
                disliked: 3,
            },
        }
    }
}

/// Why an event gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A later event took its place.
    Replaced,
    /// The prompt is empty.
    EmptyPrompt,
    /// The reply, or the reply not picked, is empty.
    EmptyCompletion,
    /// The edit equals the reply.
    UnchangedEdit,
    /// Both sides have the same text.
    IdenticalSides,
    /// The prompt has its example already.
    LeftOver,
}

/// An event that gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// The event.
    pub item: FeedbackId,
    /// Why.
    pub reason: Reason,
}

/// How much was said. An edit, a pick or a ranking is one event, and counts as one of each class: it
/// shows what is liked and what is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Thumbs, edits, picks and rankings.
    pub events: usize,
    /// 👍, edits, picks and rankings.
    pub liked: usize,
    /// 👎, edits, picks and rankings.
    pub disliked: usize,
}

/// Whether there is enough to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Readiness {
    /// What was said. Left-over events count; skipped ones do not; retries never do.
    pub have: Tally,
    /// What is needed.
    pub need: Tally,
    /// Examples made.
    pub examples: usize,
}

impl Readiness {
    /// Whether each number suffices.
    pub fn is_ready(&self) -> bool {
        self.have.events >= self.need.events
            && self.have.liked >= self.need.liked
            && self.have.disliked >= self.need.disliked
            && self.examples > 0
    }
}

/// How many of what came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Events in effect that came in.
    pub events: usize,
    /// Different prompts among them.
    pub prompts: usize,
    /// [`Kind::Pair`] examples.
    pub pairs: usize,
    /// [`Kind::Ranking`] examples.
    pub rankings: usize,
    /// [`Kind::Demonstration`] examples.
    pub demonstrations: usize,
    /// [`Kind::Unpaired`] examples, desirable.
    pub desirable: usize,
    /// [`Kind::Unpaired`] examples, undesirable.
    pub undesirable: usize,
    /// Completions in examples that another model generated: they are tokenized again from their
    /// text.
    pub of_other_models: usize,
    /// Completions in examples that no model here generated: edits, and text that was handed in.
    pub of_no_model: usize,
}

/// What [`curate`] made of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Curated {
    /// The examples, sorted by key.
    pub examples: Vec<Example>,
    /// The events that gave nothing, sorted.
    pub skipped: Vec<Skipped>,
    /// How many of what.
    pub counts: Counts,
    /// Whether it is enough.
    pub readiness: Readiness,
}

impl Curated {
    /// Every event that an example rests on, sorted: what an adapter's manifest lists. Without any
    /// other event the examples made here would say the same.
    pub fn items(&self) -> Vec<FeedbackId> {
        let items: BTreeSet<_> = self
            .examples
            .iter()
            .flat_map(|example| &example.items)
            .copied()
            .collect();
        items.into_iter().collect()
    }
}

/// Makes examples of a log, in any order. Events should be those in effect
/// ([`crate::store::Store::effective_feedback`]); among several in one place the latest counts here
/// too.
pub fn curate(log: &[LoggedFeedback], options: &Options) -> Curated {
    let mut skipped = Vec::new();
    let mut skip = |item, reason| skipped.push(Skipped { item, reason });
    let mut have = Tally::default();
    let mut counts = Counts::default();

    let mut groups: BTreeMap<[u8; 32], Vec<&LoggedFeedback>> = BTreeMap::new();
    for event in latest(log, &mut skip) {
        counts.events += 1;
        match unusable(event) {
            Some(reason) => skip(event.id, reason),
            None => groups
                .entry(prompt_key(&event.reply.prompt))
                .or_default()
                .push(event),
        }
    }
    counts.prompts = groups.len();

    let mut examples = Vec::new();
    for (key, events) in &groups {
        let outcome = group::examples_of(key, events, options);
        for event in events {
            if outcome.identical.contains(&event.id) {
                skip(event.id, Reason::IdenticalSides);
                continue;
            }
            have.add(&event.feedback);
            if !outcome
                .examples
                .iter()
                .any(|(example, _)| example.items.contains(&event.id))
            {
                skip(event.id, Reason::LeftOver);
            }
        }
        for (example, sources) in outcome.examples {
            counts.add(&example.kind, &sources, options);
            examples.push(example);
        }
    }
    balance(&mut examples, options.max_minority_weight);
    examples.sort_by_key(|example| example.key);
    skipped.sort_unstable();
    let readiness = Readiness {
        have,
        need: options.need,
        examples: examples.len(),
    };
    Curated {
        examples,
        skipped,
        counts,
        readiness,
    }
}

/// The fold, in `0..folds`, of every example with this prompt: decided by its hash alone, so that
/// no prompt is ever on both sides of a split and no other prompt moves when one is taken away.
pub fn fold_of(prompt_key: &[u8; 32], folds: u32) -> u32 {
    let mut hash = Sha256::new();
    hash.update(b"thumbprint fold 1");
    hash.update(prompt_key);
    let bytes: [u8; 32] = hash.finalize().into();
    let number = u64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ]);
    (number % u64::from(folds.max(1))) as u32
}

/// The events in effect, in the order of their ids.
fn latest<'a>(
    log: &'a [LoggedFeedback],
    skip: &mut impl FnMut(FeedbackId, Reason),
) -> Vec<&'a LoggedFeedback> {
    let mut log: Vec<_> = log.iter().collect();
    log.sort_by_key(|event| event.id);
    log.dedup_by_key(|event| event.id);
    let events: Vec<_> = log
        .iter()
        .map(|event| Event {
            id: event.id,
            reply: event.reply.id,
            act: match &event.feedback {
                Feedback::Up => Act::Up,
                Feedback::Down { .. } => Act::Down,
                Feedback::Edit(_) => Act::Edit,
                Feedback::Prefer { over } => Act::Prefer { over: *over },
                Feedback::Rank { over } => Act::Rank { over: over.clone() },
                Feedback::Retry => Act::Retry,
            },
        })
        .collect();
    let current: HashSet<_> = in_effect(&events).into_iter().collect();
    log.retain(|event| {
        let keep = current.contains(&event.id);
        if !keep {
            skip(event.id, Reason::Replaced);
        }
        keep
    });
    log
}

fn unusable(event: &LoggedFeedback) -> Option<Reason> {
    let empty = |reply: &LoggedReply| reply.text.trim().is_empty();
    if event
        .reply
        .prompt
        .iter()
        .all(|message| message.content.trim().is_empty())
    {
        return Some(Reason::EmptyPrompt);
    }
    match &event.feedback {
        Feedback::Edit(text) if text.trim().is_empty() => Some(Reason::EmptyCompletion),
        Feedback::Edit(text) if text.trim() == event.reply.text.trim() => {
            Some(Reason::UnchangedEdit)
        }
        Feedback::Edit(_) => None,
        Feedback::Prefer { .. } if event.other.as_deref().is_none_or(empty) => {
            Some(Reason::EmptyCompletion)
        }
        _ if empty(&event.reply) => Some(Reason::EmptyCompletion),
        _ => None,
    }
}

/// Raises the weights of the rarer kind of unpaired examples, by as little as needed.
fn balance(examples: &mut [Example], max_factor: f64) {
    let total = |wanted: bool| -> f64 {
        let weights = examples.iter().map(|example| match example.kind {
            Kind::Unpaired {
                desirable, weight, ..
            } if desirable == wanted => weight,
            _ => 0.0,
        });
        weights.sum()
    };
    let (liked, disliked) = (total(true), total(false));
    if liked == 0.0 || disliked == 0.0 {
        return;
    }
    let (raised, factor) = if liked < disliked {
        (true, disliked / liked)
    } else {
        (false, liked / disliked * 0.75)
    };
    let factor = factor.clamp(1.0, max_factor.max(1.0));
    for example in examples {
        if let Kind::Unpaired {
            desirable, weight, ..
        } = &mut example.kind
            && *desirable == raised
        {
            *weight *= factor;
        }
    }
}

impl Tally {
    fn add(&mut self, feedback: &Feedback) {
        let (liked, disliked) = match feedback {
            Feedback::Up => (1, 0),
            Feedback::Down { .. } => (0, 1),
            Feedback::Edit(_) | Feedback::Prefer { .. } | Feedback::Rank { .. } => (1, 1),
            Feedback::Retry => return,
        };
        self.events += 1;
        self.liked += liked;
        self.disliked += disliked;
    }
}

impl Counts {
    /// `sources`: for each completion, the reply that it is, or `None` for an edit.
    fn add(&mut self, kind: &Kind, sources: &[Option<&LoggedReply>], options: &Options) {
        match kind {
            Kind::Pair { .. } => self.pairs += 1,
            Kind::Ranking { .. } => self.rankings += 1,
            Kind::Demonstration { .. } => self.demonstrations += 1,
            Kind::Unpaired {
                desirable: true, ..
            } => self.desirable += 1,
            Kind::Unpaired {
                desirable: false, ..
            } => self.undesirable += 1,
        }
        for source in sources {
            match source.and_then(|reply| reply.model.as_ref()) {
                None => self.of_no_model += 1,
                model if model != options.model.as_ref() => self.of_other_models += 1,
                Some(_) => {}
            }
        }
    }
}
