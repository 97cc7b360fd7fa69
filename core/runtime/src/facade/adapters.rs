//! Versions of the adapter: which there are, which is in use, what votes and people decide about them.

use serde_json::json;
use sha2::{Digest, Sha256};
use thumbprint_tune::adapter::AdapterFile;

use super::{Loaded, Thumbprint, hex, lock, now_ms};
use crate::engine::{AdapterSource, LoadedAdapter};
use crate::error::{Error, Result};
use crate::gate::{self, AdapterState, Verdict};
use crate::store::{AdapterRow, Decision, NewDecision, NewVote, Outcome as VoteOutcome};
use crate::types::AdapterId;

/// Decision with which a trial begins again; votes before it do not count.
const NEW_TRIAL: &str = "by hand: trial";
/// Decision with which an adapter that no run here made is tried at all.
const ADOPTED: &str = "by hand: adopted";

/// An adapter with everything that was decided about it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterDetails {
    /// The record.
    pub row: AdapterRow,
    /// Whether replies are generated with it now.
    pub active: bool,
    /// Decisions about it, the first one first.
    pub decisions: Vec<Decision>,
    /// Where the votes stand, if it was ever on trial.
    pub verdict: Option<Verdict>,
}

impl Thumbprint {
    /// Every adapter ever made, the first one first.
    ///
    /// # Errors
    /// Of the store.
    pub fn adapters(&self) -> Result<Vec<AdapterDetails>> {
        self.0
            .store
            .adapters()?
            .into_iter()
            .map(|row| self.details(row))
            .collect()
    }

    /// One adapter.
    ///
    /// # Errors
    /// Of the store: no such adapter.
    pub fn adapter(&self, id: AdapterId) -> Result<AdapterDetails> {
        self.details(self.0.store.adapter(id)?)
    }

    fn details(&self, row: AdapterRow) -> Result<AdapterDetails> {
        let active = self
            .0
            .store
            .active_adapter(&row.base_hash)?
            .is_some_and(|active| active.id == row.id);
        let voted = matches!(
            row.state,
            AdapterState::Trial | AdapterState::Promoted | AdapterState::RolledBack
        );
        let verdict = if voted {
            Some(self.verdict(&row)?)
        } else {
            None
        };
        Ok(AdapterDetails {
            active,
            decisions: self.0.store.decisions(Some(row.id))?,
            verdict,
            row,
        })
    }

    /// Serves replies with an adapter. One that was rolled back starts a new trial, and one that was taken in or added up from others
    /// its first, without the checks that a trained one has passed.
    ///
    /// # Errors
    /// [`Error::State`] for one that was rejected, forgotten or not yet judged.
    pub fn activate(&self, id: AdapterId) -> Result<()> {
        let row = self.0.store.adapter(id)?;
        let is_made_elsewhere = row.run.is_none() && row.state == AdapterState::Candidate;
        let (event, kind, explanation) = match (row.state.may_be_active(), is_made_elsewhere) {
            (true, _) => (None, "by hand: activated", "Put in use by hand."),
            (false, true) => (
                Some(gate::Event::AdoptedByHand),
                ADOPTED,
                "Put on trial by hand, without the checks after training: no run here made it.",
            ),
            (false, false) => (
                Some(gate::Event::ReinstatedByHand),
                NEW_TRIAL,
                "Put on trial again by hand; the votes of its earlier trial no longer count.",
            ),
        };
        let at = |source| Error::State {
            adapter: id,
            source,
        };
        let new_state = event.map(|event| row.state.after(event).map_err(at));
        let new_state = new_state.transpose()?;
        let last_vote = self.0.store.votes(id)?.last().map(|vote| vote.id);
        let decide = || {
            self.decide_by_hand(
                &row,
                kind,
                json!({ "last_vote": last_vote, "explanation": explanation }),
            )
        };
        // Votes count from the decision on, so that it has to be there first.
        if new_state.is_some() {
            decide()?;
        }
        self.0
            .store
            .activate(&row.base_hash, Some(id), new_state, "by hand")?;
        if new_state.is_none() {
            decide()?;
        }
        self.swap_if_loaded()
    }

    fn decide_by_hand(
        &self,
        row: &AdapterRow,
        kind: &str,
        numbers: serde_json::Value,
    ) -> Result<()> {
        let decision = NewDecision {
            adapter: Some(row.id),
            run: row.run,
            kind: kind.to_owned(),
            numbers,
        };
        Ok(self.0.store.record_decision(&decision).map(drop)?)
    }

    /// Serves the base model alone, keeping the adapter as it is.
    ///
    /// # Errors
    /// Of the store.
    pub fn deactivate(&self) -> Result<()> {
        let base = self.base_hash()?;
        let active = self.0.store.active_adapter(&base)?;
        self.0.store.activate(&base, None, None, "by hand")?;
        if let Some(row) = active {
            self.decide_by_hand(
                &row,
                "by hand: deactivated",
                json!({ "explanation": "Put out of use by hand." }),
            )?;
        }
        self.swap_if_loaded()
    }

    /// Takes the active adapter back and serves the one before it, or the base alone. Says which.
    ///
    /// # Errors
    /// [`Error::NoActiveAdapter`].
    pub fn rollback(&self) -> Result<Option<AdapterId>> {
        let base = self.base_hash()?;
        let active = self
            .0
            .store
            .active_adapter(&base)?
            .ok_or(Error::NoActiveAdapter)?;
        let now = self.0.store.roll_back(&base, "by hand")?;
        let explanation = match now {
            Some(now) => format!("Rolled back by hand; adapter {now} is in use again."),
            None => "Rolled back by hand; the base model is in use.".to_owned(),
        };
        self.decide_by_hand(
            &active,
            "by hand: rolled_back",
            json!({ "explanation": explanation, "now": now }),
        )?;
        self.tell_in_use_again(now, "the adapter after it was rolled back by hand")?;
        self.swap_if_loaded()?;
        Ok(now)
    }

    pub(super) fn base_hash(&self) -> Result<String> {
        let path = lock(&self.0.model).clone().ok_or(Error::NoModel)?;
        self.model_hash(&path)
    }

    /// The adapter's file, checked against its record.
    pub(super) fn adapter_bytes(&self, row: &AdapterRow) -> Result<Vec<u8>> {
        let path = self.0.store.dir().join(&row.file);
        let bytes = std::fs::read(&path).map_err(|source| Error::File { path, source })?;
        if hex(Sha256::digest(&bytes)) == row.file_hash {
            Ok(bytes)
        } else {
            Err(Error::AdapterChanged { adapter: row.id })
        }
    }

    /// Whether the adapter's file is what was recorded.
    pub(crate) fn is_intact(&self, row: &AdapterRow) -> bool {
        self.adapter_bytes(row).is_ok()
    }

    /// Loads an adapter into the engine without putting it in force.
    pub(crate) fn load_adapter(
        &self,
        loaded: &Loaded,
        row: &AdapterRow,
        scale: f32,
    ) -> Result<LoadedAdapter> {
        let bytes = self.adapter_bytes(row)?;
        let gguf = thumbprint_ggml::gguf::Gguf::parse(bytes.clone())
            .map_err(|_| Error::AdapterChanged { adapter: row.id })?;
        AdapterFile::from_gguf(&gguf)?.check_base(&loaded.sha256)?;
        Ok(loaded
            .engine
            .load_adapter(AdapterSource::Bytes(bytes), row.id.to_string(), scale)?)
    }

    /// Puts the adapter that the store says is active in force.
    pub(crate) fn apply_active(&self, loaded: &Loaded) -> Result<()> {
        let adapter = match self.0.store.active_adapter(&loaded.sha256)? {
            Some(row) => Some(self.load_adapter(loaded, &row, row.scale)?),
            None => None,
        };
        Ok(loaded.engine.set_adapter(adapter)?)
    }

    pub(crate) fn swap_if_loaded(&self) -> Result<()> {
        let loaded = lock(&self.0.loaded).clone();
        loaded.map_or(Ok(()), |loaded| self.apply_active(&loaded))
    }

    /// Records a blind vote between a reply under an adapter and one without, and acts on the evidence: promotes the adapter, or
    /// rolls it back.
    ///
    /// # Errors
    /// Of the store: no such adapter or reply.
    pub fn record_vote(&self, vote: &NewVote) -> Result<Verdict> {
        let vote_id = self.0.store.record_vote(vote)?;
        let row = self.0.store.adapter(vote.adapter)?;
        let verdict = self.verdict(&row)?;
        let new_state = match verdict.decision {
            gate::Decision::Stay => return Ok(verdict),
            gate::Decision::Promote => AdapterState::Promoted,
            gate::Decision::RollBack => AdapterState::RolledBack,
        };
        self.0.store.record_decision(&NewDecision {
            adapter: Some(row.id),
            run: row.run,
            kind: format!("votes: {}", new_state.as_str()),
            numbers: json!({ "last_vote": vote_id, "verdict": verdict, "explanation": verdict.explain() }),
        })?;
        let is_active = self
            .0
            .store
            .active_adapter(&row.base_hash)?
            .is_some_and(|active| active.id == row.id);
        if new_state == AdapterState::RolledBack && is_active {
            let now = self.0.store.roll_back(&row.base_hash, "votes")?;
            self.tell_in_use_again(now, "the adapter after it was rolled back by votes")?;
            self.swap_if_loaded()?;
        } else {
            self.0.store.set_adapter_state(row.id, new_state)?;
        }
        Ok(verdict)
    }

    /// Records why an adapter is in use that nobody decided on just now.
    pub(super) fn tell_in_use_again(&self, now: Option<AdapterId>, why: &str) -> Result<()> {
        let Some(id) = now else {
            return Ok(());
        };
        let decision = NewDecision {
            adapter: Some(id),
            run: self.0.store.adapter(id)?.run,
            kind: "in use again".to_owned(),
            numbers: json!({ "explanation": format!("In use again, since {why}.") }),
        };
        Ok(self.0.store.record_decision(&decision).map(drop)?)
    }

    fn verdict(&self, row: &AdapterRow) -> Result<Verdict> {
        // Only votes since the promotion count for a promoted adapter, and since the last trial began for any.
        let decisions = self.0.store.decisions(Some(row.id))?;
        let starts_anew = |decision: &&Decision| match decision.decision.kind.as_str() {
            "votes: promoted" => row.state == AdapterState::Promoted,
            kind => kind == NEW_TRIAL,
        };
        let start = decisions.iter().rev().find(starts_anew);
        let since = start
            .and_then(|d| d.decision.numbers["last_vote"].as_i64())
            .unwrap_or(0);
        let votes = self.0.store.votes(row.id)?;
        let votes: Vec<_> = votes
            .iter()
            .filter(|v| v.id.0 > since)
            .map(|v| match v.vote.outcome {
                VoteOutcome::Win => gate::Vote::Win,
                VoteOutcome::Loss => gate::Vote::Loss,
                VoteOutcome::Tie => gate::Vote::Tie,
            })
            .collect();
        let tried = self.0.store.adapters()?;
        let untried = |state| matches!(state, AdapterState::Candidate | AdapterState::Rejected);
        let k = tried
            .iter()
            .filter(|other| other.id <= row.id && !untried(other.state))
            .count()
            .max(1);
        // A trial that is held again is one more look at the same question.
        let held_again = decisions
            .iter()
            .filter(|d| d.decision.kind == NEW_TRIAL)
            .count();
        let k = k + held_again;
        let began = decisions
            .iter()
            .rev()
            .find(|d| [NEW_TRIAL, ADOPTED].contains(&d.decision.kind.as_str()))
            .map_or(row.created_at, |d| d.at);
        let days = (now_ms() - began) as f64 / 86_400_000.0;
        Ok(gate::decide(row.state, &votes, k, days))
    }
}
