//! Blind votes, and every decision with the numbers that made it.

use rusqlite::params;
use serde_json::Value;

use super::database::Durability;
use super::sql::{from_json, now_ms, to_json};
use super::{Result, Store, StoreError, replies};
use crate::types::{AdapterId, DecisionId, ReplyId, RunId, VoteId};

/// How a blind vote went, from the adapter's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The adapter's reply was picked.
    Win,
    /// The base's reply was picked.
    Loss,
    /// Neither.
    Tie,
}

impl Outcome {
    /// +1, -1 or 0: the e-process's `s`.
    pub fn sign(self) -> i32 {
        match self {
            Outcome::Win => 1,
            Outcome::Loss => -1,
            Outcome::Tie => 0,
        }
    }
}

/// A vote about to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewVote {
    /// The adapter on trial.
    pub adapter: AdapterId,
    /// Its reply, if replies were recorded.
    pub candidate_reply: Option<ReplyId>,
    /// The base's reply, if replies were recorded.
    pub baseline_reply: Option<ReplyId>,
    /// Whether the adapter's reply was shown first; sides are drawn at random.
    pub candidate_first: bool,
    /// How it went.
    pub outcome: Outcome,
}

/// A recorded vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Its id.
    pub id: VoteId,
    /// What was voted.
    pub vote: NewVote,
    /// Milliseconds since 1970.
    pub at: i64,
}

/// A decision about to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDecision {
    /// The adapter that it is about.
    pub adapter: Option<AdapterId>,
    /// The run that it came from.
    pub run: Option<RunId>,
    /// What kind, in a word of ours: "offline_gate", "e_process", "rollback", ...
    pub kind: String,
    /// The numbers that made it. No user text.
    pub numbers: Value,
}

/// A recorded decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Its id.
    pub id: DecisionId,
    /// What was decided.
    pub decision: NewDecision,
    /// Milliseconds since 1970.
    pub at: i64,
}

impl Store {
    /// Records a blind vote.
    pub fn record_vote(&self, vote: &NewVote) -> Result<VoteId> {
        self.write(Durability::Full, |db| {
            if !db.prepare_cached("SELECT 1 FROM adapters WHERE id = ?")?.exists([vote.adapter])? {
                return Err(StoreError::UnknownAdapter(vote.adapter));
            }
            for reply in [vote.candidate_reply, vote.baseline_reply].into_iter().flatten() {
                replies::prompt_key_of(db, reply)?;
            }
            db.prepare_cached(
                "INSERT INTO votes (adapter, candidate_reply, baseline_reply, candidate_first, outcome, at)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                vote.adapter,
                vote.candidate_reply,
                vote.baseline_reply,
                vote.candidate_first,
                vote.outcome.sign(),
                now_ms()
            ])?;
            Ok(VoteId(db.last_insert_rowid()))
        })
    }

    /// The votes on an adapter, in the order they were cast.
    pub fn votes(&self, adapter: AdapterId) -> Result<Vec<Vote>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT id, candidate_reply, baseline_reply, candidate_first, outcome, at FROM votes
                 WHERE adapter = ? ORDER BY id",
            )?;
            let votes = statement.query_map([adapter], |row| {
                let outcome = match row.get::<_, i32>(4)? {
                    1 => Outcome::Win,
                    -1 => Outcome::Loss,
                    _ => Outcome::Tie,
                };
                let vote = NewVote {
                    adapter,
                    candidate_reply: row.get(1)?,
                    baseline_reply: row.get(2)?,
                    candidate_first: row.get(3)?,
                    outcome,
                };
                Ok(Vote {
                    id: row.get(0)?,
                    vote,
                    at: row.get(5)?,
                })
            })?;
            Ok(votes.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Records a decision.
    pub fn record_decision(&self, decision: &NewDecision) -> Result<DecisionId> {
        self.write(Durability::Full, |db| {
            db.prepare_cached(
                "INSERT INTO decisions (adapter, run, kind, numbers, at) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![
                decision.adapter,
                decision.run,
                decision.kind,
                to_json(&decision.numbers),
                now_ms()
            ])?;
            Ok(DecisionId(db.last_insert_rowid()))
        })
    }

    /// Every decision, or those about one adapter, in the order they were made.
    pub fn decisions(&self, about: Option<AdapterId>) -> Result<Vec<Decision>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT id, adapter, run, kind, numbers, at FROM decisions
                 WHERE ?1 IS NULL OR adapter = ?1 ORDER BY id",
            )?;
            let mut rows = statement.query([about])?;
            let mut decisions = Vec::new();
            while let Some(row) = rows.next()? {
                let id: DecisionId = row.get(0)?;
                decisions.push(Decision {
                    id,
                    decision: NewDecision {
                        adapter: row.get(1)?,
                        run: row.get(2)?,
                        kind: row.get(3)?,
                        numbers: from_json(&row.get::<_, String>(4)?, "decisions", id.0)?,
                    },
                    at: row.get(5)?,
                });
            }
            Ok(decisions)
        })
    }
}
