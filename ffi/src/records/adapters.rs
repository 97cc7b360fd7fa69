//! Versions of the adapter, and what measured numbers and votes say about them.

use thumbprint::types::RunId;
use thumbprint::{AdapterId, ReplyId, gate, store};

use crate::translate::{Translate, choice, record};

choice! {
    /// Where an adapter stands.
    AdapterState of gate::AdapterState {
        /// Trained, taken from a file or made of others, and not judged.
        Candidate,
        /// Failed the checks after training; kept for the record, never used.
        Rejected,
        /// Passed the checks: may be in use, unconfirmed.
        Trial,
        /// Confirmed by blind votes.
        Promoted,
        /// Withdrawn by votes, by a newer adapter or by the person.
        RolledBack,
        /// Had seen something that was forgotten since; its file is gone.
        Forgotten,
    }
}

/// An adapter with everything that was decided about it.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct AdapterDetails {
    /// Its id.
    pub id: AdapterId,
    /// Where it stands.
    pub state: AdapterState,
    /// The state in a sentence for people.
    pub explanation: String,
    /// Whether replies are generated with it now.
    pub active: bool,
    /// The scale it is served at.
    pub scale: f32,
    /// SHA-256 of the base model that it was made for.
    pub base_hash: String,
    /// The run that made it.
    pub run: Option<RunId>,
    /// Its file, relative to the data folder.
    pub file: String,
    /// SHA-256 of the file.
    pub file_hash: String,
    /// Seed of the run.
    pub seed: u64,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// The resolved configuration, as JSON.
    pub config_json: String,
    /// The rest of the manifest, as JSON; `null` once forgotten.
    pub manifest_json: String,
    /// Decisions about it, the first one first.
    pub decisions: Vec<AdapterDecision>,
    /// Where the votes stand, if it was ever on trial.
    pub verdict: Option<Verdict>,
}

impl Translate<AdapterDetails> for thumbprint::AdapterDetails {
    fn translate(self) -> AdapterDetails {
        let row = self.row;
        AdapterDetails {
            id: row.id,
            state: row.state.translate(),
            explanation: row.state.explain().to_owned(),
            active: self.active,
            scale: row.scale,
            base_hash: row.base_hash,
            run: row.run,
            file: row.file.translate(),
            file_hash: row.file_hash,
            seed: row.seed,
            created_at: row.created_at,
            config_json: row.config.translate(),
            manifest_json: row.manifest.translate(),
            decisions: self.decisions.translate(),
            verdict: self.verdict.translate(),
        }
    }
}

choice! {
    /// What an adapter is written as.
    AdapterFormat of thumbprint::AdapterFormat {
        /// One file, a stock GGUF LoRA that llama.cpp loads.
        Gguf,
        /// A folder as PEFT's `save_pretrained` writes it, which transformers loads.
        Peft,
    }
}

/// How much of an adapter goes into a sum.
#[derive(Debug, Clone, Copy, PartialEq, uniffi::Record)]
pub struct AdapterPart {
    /// The adapter, as it is served: at its scale.
    pub adapter: AdapterId,
    /// Finite; below 0 takes it away.
    pub weight: f32,
}

impl Translate<thumbprint::Part> for AdapterPart {
    fn translate(self) -> thumbprint::Part {
        thumbprint::Part {
            adapter: self.adapter,
            weight: self.weight,
        }
    }
}

record! {
    /// What a merge came to.
    Merged of thumbprint::Merged {
        /// Matrices that the adapter changed.
        changed: u64,
        /// Matrices that were not brought to the type that was asked for, since they are not quantized by anyone: routers of experts.
        left: Vec<String>,
    }
}

/// One decision about an adapter.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct AdapterDecision {
    /// Milliseconds since 1970.
    pub at: i64,
    /// What kind: "offline: trial", "votes: promoted", "by hand: rolled_back".
    pub kind: String,
    /// The same for people, where there is a sentence.
    pub explanation: Option<String>,
    /// The numbers that made it, as JSON.
    pub numbers_json: String,
}

impl Translate<AdapterDecision> for store::Decision {
    fn translate(self) -> AdapterDecision {
        let numbers = self.decision.numbers;
        AdapterDecision {
            at: self.at,
            kind: self.decision.kind,
            explanation: numbers["explanation"].as_str().map(str::to_owned),
            numbers_json: numbers.translate(),
        }
    }
}

choice! {
    /// What the votes say.
    Decision of gate::Decision {
        /// Nothing changes.
        Stay,
        /// The adapter on trial is confirmed.
        Promote,
        /// Back to what was active before.
        RollBack,
    }
}

/// A decision over votes, with its numbers.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Verdict {
    /// The decision.
    pub decision: Decision,
    /// Votes for the adapter.
    pub wins: u64,
    /// Votes for the base.
    pub losses: u64,
    /// Votes for neither.
    pub ties: u64,
    /// Evidence for the adapter; 1 at the start.
    pub evidence: f64,
    /// Evidence against it; 1 at the start.
    pub evidence_against: f64,
    /// `evidence` at which it is promoted.
    pub promote_at: f64,
    /// `evidence_against` at which it is rolled back.
    pub roll_back_at: f64,
    /// Whether a newer candidate may take its place now.
    pub replaceable: bool,
    /// All of it in plain sentences.
    pub explanation: String,
}

impl Translate<Verdict> for gate::Verdict {
    fn translate(self) -> Verdict {
        Verdict {
            explanation: self.explain(),
            decision: self.decision.translate(),
            wins: self.votes.wins.translate(),
            losses: self.votes.losses.translate(),
            ties: self.votes.ties.translate(),
            evidence: self.evidence,
            evidence_against: self.evidence_against,
            promote_at: self.promote_at,
            roll_back_at: self.roll_back_at,
            replaceable: self.replaceable,
        }
    }
}

choice! {
    /// How a blind vote went, from the adapter's side.
    VoteOutcome of store::Outcome {
        /// The adapter's reply was picked.
        Win,
        /// The base's reply was picked.
        Loss,
        /// Neither.
        Tie,
    }
}

/// A blind vote between a reply under an adapter and one without.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Vote {
    /// The adapter on trial.
    pub adapter: AdapterId,
    /// How it went.
    pub outcome: VoteOutcome,
    /// Whether the adapter's reply was shown first; sides are drawn at random.
    pub candidate_first: bool,
    /// The adapter's reply, if replies were recorded.
    #[uniffi(default = None)]
    pub candidate_reply: Option<ReplyId>,
    /// The base's reply, if replies were recorded.
    #[uniffi(default = None)]
    pub baseline_reply: Option<ReplyId>,
}

impl Translate<store::NewVote> for Vote {
    fn translate(self) -> store::NewVote {
        store::NewVote {
            adapter: self.adapter,
            candidate_reply: self.candidate_reply,
            baseline_reply: self.baseline_reply,
            candidate_first: self.candidate_first,
            outcome: self.outcome.translate(),
        }
    }
}

/// What the gate decided about a candidate, and every number it rests on.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct OfflineReport {
    /// Factor on the adapter's strength in its trial; absent where it was rejected.
    pub scale: Option<f64>,
    /// Why it was rejected, one sentence for each check that failed.
    pub reasons: Vec<String>,
    /// Feedback events that it was trained on.
    pub thumbs: u64,
    /// Whether it ranks unseen feedback right.
    pub held_out: GuardResult,
    /// Guards at each scale measured, largest first.
    pub scales: Vec<ScaleReport>,
    /// The decision in plain sentences.
    pub explanation: String,
}

impl Translate<OfflineReport> for gate::OfflineReport {
    fn translate(self) -> OfflineReport {
        let explanation = self.explain();
        let (scale, reasons) = match self.outcome {
            gate::Offline::Trial { scale } => (Some(scale), Vec::new()),
            gate::Offline::Rejected { reasons } => (None, reasons),
        };
        OfflineReport {
            scale,
            reasons,
            thumbs: self.thumbs.translate(),
            held_out: self.held_out.translate(),
            scales: self.scales.translate(),
            explanation,
        }
    }
}

record! {
    /// The guards at one scale.
    ScaleReport of gate::ScaleReport {
        /// Factor on the adapter's strength.
        scale: f64,
        /// Whether a trial may use it.
        allowed: bool,
        /// One result a guard.
        guards: Vec<GuardResult>,
    }
}

/// One check with its numbers.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct GuardResult {
    /// What was checked: "neutral_perplexity", "kl_neutral".
    pub name: String,
    /// What was measured; not a number where it could not be.
    pub value: f64,
    /// Lowest allowed value.
    pub at_least: Option<f64>,
    /// Highest allowed value.
    pub at_most: Option<f64>,
    /// Whether the value lay there.
    pub passed: bool,
    /// The same for people.
    pub sentence: String,
}

impl Translate<GuardResult> for gate::GuardResult {
    fn translate(self) -> GuardResult {
        let name = match serde_json::to_value(self.name) {
            Ok(serde_json::Value::String(name)) => name,
            _ => self.name.to_string(),
        };
        GuardResult {
            name,
            value: self.value,
            at_least: self.limit.at_least,
            at_most: self.limit.at_most,
            passed: self.passed,
            sentence: self.sentence,
        }
    }
}
