//! What a job does, how it ends, and what goes into and out of the log.

use std::collections::HashMap;

use thumbprint::curation;
use thumbprint::exchange;
use thumbprint::store;
use thumbprint::types::RunId;
use thumbprint::{AdapterId, ConversationId, FeedbackId, ReplyId};

use super::OfflineReport;
use crate::error::ThumbprintError;
use crate::translate::{Translate, choice, record};

record! {
    /// How much was said. An edit, a pick or a ranking is one event, and counts as one of each class.
    Tally of curation::Tally {
        /// Thumbs, edits, picks and rankings.
        events: u64,
        /// 👍, edits, picks and rankings.
        liked: u64,
        /// 👎, edits, picks and rankings.
        disliked: u64,
    }
}

/// Whether there is enough to learn from.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Readiness {
    /// Whether all that is needed is there.
    pub is_ready: bool,
    /// What was said.
    pub have: Tally,
    /// What is needed.
    pub need: Tally,
    /// Examples that it makes.
    pub examples: u64,
}

impl Translate<Readiness> for curation::Readiness {
    fn translate(self) -> Readiness {
        Readiness {
            is_ready: self.is_ready(),
            have: self.have.translate(),
            need: self.need.translate(),
            examples: self.examples.translate(),
        }
    }
}

choice! {
    /// What a job is doing.
    Phase of thumbprint::Phase {
        /// Reads the log and makes examples of it.
        Curate,
        /// The base answers neutral prompts, to be kept as it is there.
        Replay,
        /// The base scores the examples.
        Reference,
        /// Trains on one half, to rank the other.
        Fold,
        /// Trains on everything.
        Train,
        /// Answers prompts of the feedback again, and trains on what its own reward prefers (see `Budget.online_rounds`).
        Online,
        /// Measures whether the candidate harms.
        Gate,
        /// Over.
        Done,
    }
}

record! {
    /// How far a job is.
    Progress of thumbprint::Progress {
        /// What it is doing.
        phase: Phase,
        /// Part of the phase that is done.
        step: u64,
        /// Parts of the phase.
        total: u64,
        /// Loss of the last training step.
        loss: Option<f64>,
        /// Mean difference of rewards between chosen and rejected in the last training step.
        margin: Option<f64>,
        /// Seconds until the end, estimated; absent before there is anything to go by.
        eta_seconds: Option<f64>,
    }
}

impl Translate<thumbprint::Progress> for Progress {
    fn translate(self) -> thumbprint::Progress {
        thumbprint::Progress {
            phase: self.phase.translate(),
            step: self.step,
            total: self.total,
            loss: self.loss,
            margin: self.margin,
            eta_seconds: self.eta_seconds,
        }
    }
}

/// How a job ended, or why it rests.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum Outcome {
    /// A new adapter is in use, unconfirmed until blind votes decide.
    Trial {
        /// The adapter.
        adapter: AdapterId,
        /// What the gate measured.
        report: OfflineReport,
    },
    /// A new adapter failed the gate; what was in use before still is.
    Rejected {
        /// The adapter.
        adapter: AdapterId,
        /// What the gate measured.
        report: OfflineReport,
    },
    /// The adapter in use is still on trial and must not change before its votes are in (see `Budget.replace_trial`).
    TrialRunning {
        /// The adapter on trial.
        adapter: AdapterId,
    },
    /// The log does not say enough yet: there is too little of it, or, where `readiness` is met, it tells replies apart no better than
    /// chance does.
    NothingToLearn {
        /// What there is and what is needed.
        readiness: Readiness,
    },
    /// The job rests: asked for, or out of time. `personalize` or `resume` goes on.
    Paused,
    /// Given up.
    Cancelled,
}

impl Outcome {
    pub(crate) fn of(outcome: thumbprint::Outcome) -> Result<Self, ThumbprintError> {
        Ok(match outcome {
            thumbprint::Outcome::Trial(adapter, report) => Self::Trial {
                adapter,
                report: (*report).translate(),
            },
            thumbprint::Outcome::Rejected(adapter, report) => Self::Rejected {
                adapter,
                report: (*report).translate(),
            },
            thumbprint::Outcome::TrialRunning(adapter) => Self::TrialRunning { adapter },
            thumbprint::Outcome::NothingToLearn(readiness) => Self::NothingToLearn {
                readiness: readiness.translate(),
            },
            thumbprint::Outcome::Paused => Self::Paused,
            thumbprint::Outcome::Cancelled => Self::Cancelled,
            other => {
                let reason = format!("an outcome that these bindings do not know: {other:?}");
                return Err(ThumbprintError::internal(reason));
            }
        })
    }
}

/// What to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Target {
    /// An event and the reply that it was given on.
    Feedback {
        /// The event.
        id: FeedbackId,
    },
    /// A reply and all feedback on it.
    Reply {
        /// The reply.
        id: ReplyId,
    },
    /// A conversation, with every branch of it.
    Conversation {
        /// The conversation.
        id: ConversationId,
    },
    /// All that anybody ever said here. Models and settings stay.
    Everything,
}

impl Translate<thumbprint::Target> for Target {
    fn translate(self) -> thumbprint::Target {
        match self {
            Self::Feedback { id } => thumbprint::Target::Feedback(id),
            Self::Reply { id } => thumbprint::Target::Reply(id),
            Self::Conversation { id } => thumbprint::Target::Conversation(id),
            Self::Everything => thumbprint::Target::Everything,
        }
    }
}

record! {
    /// What was forgotten.
    Forgotten of store::Forgotten {
        /// Events erased, withdrawals included.
        feedback: Vec<FeedbackId>,
        /// Replies erased, later ones that quoted the item included.
        replies: Vec<ReplyId>,
        /// Turns of conversations erased.
        messages: u64,
        /// Votes erased, and side-by-sides.
        votes: u64,
        /// SHA-256 of base models whose reward head was fitted on an erased event: it is gone.
        heads: Vec<String>,
        /// Adapters that had seen an erased event: never to be served again.
        adapters: Vec<AdapterId>,
        /// Runs that had seen one: never to be continued.
        runs: Vec<RunId>,
        /// Base models whose active adapter was among them, with what they are served with from now on.
        served: Vec<Served>,
    }
}

/// What a base model is served with.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Served {
    /// SHA-256 of the base model.
    pub base_hash: String,
    /// The adapter; absent for the base alone.
    pub adapter: Option<AdapterId>,
}

impl Translate<Served> for (String, Option<AdapterId>) {
    fn translate(self) -> Served {
        let (base_hash, adapter) = self;
        Served { base_hash, adapter }
    }
}

/// What an export came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct Exported {
    /// Lines written.
    pub lines: u64,
    /// Events in effect that the format has no form for.
    pub left_out: u64,
}

impl Translate<Exported> for exchange::Exported {
    fn translate(self) -> Exported {
        Exported {
            lines: self.lines,
            left_out: self.left_out,
        }
    }
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Imported {
    /// Lines read.
    pub rows: u64,
    /// Events of feedback recorded.
    pub recorded: u64,
    /// Events that were in the log already.
    pub known: u64,
    /// What was passed over, and how often: "tie", "too_long".
    pub passed: HashMap<String, u64>,
}

impl Translate<Imported> for exchange::Imported {
    fn translate(self) -> Imported {
        let name = |passed| match serde_json::to_value(passed) {
            Ok(serde_json::Value::String(name)) => name,
            _ => String::new(),
        };
        let passed = self.passed.into_iter();
        Imported {
            rows: self.rows,
            recorded: self.recorded,
            known: self.known,
            passed: passed.map(|(why, n)| (name(why), n)).collect(),
        }
    }
}
