//! What training learns from.

use sha2::{Digest, Sha256};

use super::Options;
use crate::types::{FeedbackId, LoggedReply, Message, update_with_length};

/// One side of an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text.
    pub text: String,
    /// The tokens as generated, end token included if there was one; only if the model at hand
    /// generated them.
    pub tokens: Option<Vec<i32>>,
    /// Whether an end token belongs after it: the model ended it, or a person wrote it.
    pub finished: bool,
}

/// What a training example says.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One reply is better than another.
    Pair {
        /// The better one.
        chosen: Completion,
        /// The other one.
        rejected: Completion,
        /// In (0, 1].
        weight: f64,
        /// The probability, in [0, 0.5), that the order is wrong.
        label_smoothing: f64,
        /// Whether the chosen reply is good in itself (it got a 👍), so that its likelihood may be
        /// raised.
        nll: bool,
    },
    /// Several replies in order.
    Ranking {
        /// Two at least, all different, the best first.
        completions: Vec<Completion>,
        /// In (0, 1].
        weight: f64,
        /// Whether the best reply is good in itself (it got a 👍), so that its likelihood may be
        /// raised.
        nll: bool,
    },
    /// A reply is good, or is bad.
    Unpaired {
        /// The reply.
        completion: Completion,
        /// Which of the two.
        desirable: bool,
        /// In (0, [`Options::max_minority_weight`]].
        weight: f64,
    },
    /// This is how to answer.
    Demonstration {
        /// The answer.
        completion: Completion,
        /// Greater than 0.
        weight: f64,
    },
}

/// One training example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// SHA-256 over prompt, kind and texts. Examples are sorted by it.
    pub key: [u8; 32],
    /// The prompt.
    pub prompt: Vec<Message>,
    /// [`crate::types::prompt_key`] of the prompt.
    pub prompt_key: [u8; 32],
    /// What it says.
    pub kind: Kind,
    /// The events that it rests on, in order, those included that kept others from speaking
    /// instead.
    pub items: Vec<FeedbackId>,
}

impl Completion {
    pub(super) fn of_reply(reply: &LoggedReply, options: &Options) -> Self {
        let at_hand = reply.model.is_some() && reply.model == options.model;
        Self {
            text: reply.text.clone(),
            tokens: reply
                .tokens
                .clone()
                .filter(|tokens| at_hand && !tokens.is_empty()),
            finished: reply.finished,
        }
    }

    pub(super) fn of_edit(text: &str) -> Self {
        Self {
            text: text.into(),
            tokens: None,
            finished: true,
        }
    }
}

impl Kind {
    pub(super) fn key(&self, prompt_key: &[u8; 32]) -> [u8; 32] {
        let name = match self {
            Kind::Pair { .. } => "pair",
            Kind::Ranking { .. } => "ranking",
            Kind::Unpaired {
                desirable: true, ..
            } => "desirable",
            Kind::Unpaired {
                desirable: false, ..
            } => "undesirable",
            Kind::Demonstration { .. } => "demonstration",
        };
        let mut hash = Sha256::new();
        hash.update(b"thumbprint example 1");
        hash.update(prompt_key);
        update_with_length(&mut hash, name.as_bytes());
        for completion in self.completions() {
            update_with_length(&mut hash, completion.text.as_bytes());
        }
        hash.finalize().into()
    }

    /// The completions, the better ones first.
    pub fn completions(&self) -> Vec<&Completion> {
        match self {
            Kind::Pair {
                chosen, rejected, ..
            } => vec![chosen, rejected],
            Kind::Ranking { completions, .. } => completions.iter().collect(),
            Kind::Unpaired { completion, .. } | Kind::Demonstration { completion, .. } => {
                vec![completion]
            }
        }
    }
}
