//! What replies are worth, and who says so.

use thumbprint::{AdapterId, reward};

use crate::translate::{Translate, record};

/// Who tells how good a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Judge {
    /// The active adapter: its own reward over the base.
    Active,
    /// The same of another adapter, at the scale that it is served at.
    Adapter {
        /// The adapter.
        id: AdapterId,
    },
    /// The head that was fitted on the person's feedback.
    Head,
}

impl Translate<thumbprint::Judge> for Judge {
    fn translate(self) -> thumbprint::Judge {
        match self {
            Self::Active => thumbprint::Judge::Active,
            Self::Adapter { id } => thumbprint::Judge::Adapter(id),
            Self::Head => thumbprint::Judge::Head,
        }
    }
}

impl Translate<Judge> for thumbprint::Judge {
    fn translate(self) -> Judge {
        match self {
            Self::Active => Judge::Active,
            Self::Adapter(id) => Judge::Adapter { id },
            Self::Head => Judge::Head,
        }
    }
}

record! {
    /// How a reply was chosen among several.
    BestOf of thumbprint::BestOf {
        /// Who chose.
        judge: Judge,
        /// Which one it is, from 0; its seed is the request's plus this.
        chosen: u64,
        /// The score of each, higher is better. Empty if the generation was cancelled before they were scored: then the first that is
        /// complete was taken.
        scores: Vec<f64>,
    }
}

record! {
    /// What a reply is worth.
    Score of reward::Score {
        /// Higher is better. Of an adapter: `beta` times the sum of its log-probabilities over the base's, nats; 0 for an adapter that
        /// changes nothing. Of a head: log-odds of a 👍.
        reward: f64,
        /// The reward of each token, of which `reward` is the sum. Of a head: nothing.
        per_token: Vec<f64>,
        /// The reply's tokens, the end token included if it was finished.
        tokens: Vec<i32>,
        /// Natural log-probability of the reply under the adapter, nats.
        logp: Option<f64>,
        /// The same under the base.
        reference_logp: Option<f64>,
        /// The adapter's beta.
        beta: Option<f64>,
    }
}

/// From one number to another.
#[derive(Debug, Clone, Copy, PartialEq, uniffi::Record)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Translate<Interval> for (f64, f64) {
    fn translate(self) -> Interval {
        Interval {
            low: self.0,
            high: self.1,
        }
    }
}

record! {
    /// A reward head that was fitted. Its weights stay inside, where the hidden states are.
    Head of reward::Head {
        /// SHA-256 of the base whose states it reads.
        base_sha256: String,
        /// Hash of the chat template that prompts were rendered with.
        template_hash: String,
        /// Log-odds of a 👍 at the mean.
        bias: f64,
        /// The ridge.
        l2: f64,
        /// Pairs that it was fitted on.
        pairs: u64,
        /// Single judgements that it was fitted on.
        singles: u64,
        /// How well it does on prompts that it has not seen; absent with feedback on too few prompts.
        cross_validated: Option<CrossValidated>,
    }
}

record! {
    /// How well heads that had not seen a prompt's judgements agreed with them.
    CrossValidated of reward::CrossValidated {
        /// Judgements agreed with: the better one higher, a 👍 over even odds, a 👎 under them.
        right: u64,
        /// Judgements asked.
        of: u64,
        /// `right / of`.
        accuracy: f64,
        /// Its 95 % Wilson interval.
        interval: Interval,
    }
}
