//! Runs of the personalization job and their metrics, step by step.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::database::Durability;
use super::sql::{from_json, now_ms, to_json};
use super::{Result, Store, StoreError};
use crate::types::{FeedbackId, RunId};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Under way, or killed while under way.
    Running,
    /// Stopped by budget or by a person; continues from its checkpoint.
    Paused,
    /// Came to its end; the outcome says which.
    Finished,
    /// Given up by a person.
    Cancelled,
    /// Stopped by an error.
    Failed,
    /// Had seen something that was forgotten since: must not continue.
    Forgotten,
}

impl RunState {
    const ALL: [Self; 6] = [
        Self::Running,
        Self::Paused,
        Self::Finished,
        Self::Cancelled,
        Self::Failed,
        Self::Forgotten,
    ];

    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Forgotten => "forgotten",
        }
    }
}

/// A run about to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// Hash of the base model.
    pub base_hash: String,
    /// The resolved configuration: all that decides the result beside base, items and seed. No user
    /// text.
    pub config: Value,
    /// Seed of the run.
    pub seed: u64,
    /// The feedback it learns from.
    pub items: Vec<FeedbackId>,
    /// Steps planned.
    pub total_steps: u32,
}

/// What changes while a run goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct RunProgress {
    /// Where it stands.
    pub state: RunState,
    /// What it is doing, in one word: "train", "gate", ...
    pub phase: String,
    /// Steps done.
    pub step: u32,
    /// Steps planned.
    pub total_steps: u32,
    /// The last checkpoint, relative to the data folder.
    pub checkpoint: Option<PathBuf>,
    /// How it ended. No user text.
    pub outcome: Option<Value>,
}

/// A recorded run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Hash of the base model.
    pub base_hash: String,
    /// The resolved configuration.
    pub config: Value,
    /// Seed of the run.
    pub seed: u64,
    /// Where it stands.
    pub progress: RunProgress,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub updated_at: i64,
}

/// Metrics of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStep {
    /// The step, from 1.
    pub step: u32,
    /// Names and numbers. No user text.
    pub metrics: Value,
}

impl Store {
    /// Records that a run begins, in state `Running` and phase "prepare".
    pub fn begin_run(&self, run: &NewRun) -> Result<RunId> {
        self.write(Durability::Normal, |db| {
            require_items(db, &run.items)?;
            let now = now_ms();
            db.execute(
                "INSERT INTO runs (base_hash, state, phase, total_steps, config, seed, created_at, updated_at)
                 VALUES (?, 'running', 'prepare', ?, ?, ?, ?, ?)",
                params![run.base_hash, run.total_steps, to_json(&run.config), run.seed as i64, now, now],
            )?;
            let id = RunId(db.last_insert_rowid());
            let mut item = db.prepare_cached("INSERT OR IGNORE INTO run_items (feedback, run) VALUES (?, ?)")?;
            for feedback in &run.items {
                item.execute(params![feedback, id])?;
            }
            Ok(id)
        })
    }

    /// Records where a run stands. Fails with [`StoreError::ForgottenRun`] once an item of it was
    /// forgotten.
    pub fn update_run(&self, id: RunId, progress: &RunProgress) -> Result<()> {
        self.write(Durability::Normal, |db| {
            require_alive(db, id)?;
            db.prepare_cached(
                "UPDATE runs SET state = ?, phase = ?, step = ?, total_steps = ?, checkpoint = ?, outcome = ?,
                     updated_at = ? WHERE id = ?",
            )?
            .execute(params![
                progress.state.as_str(),
                progress.phase,
                progress.step,
                progress.total_steps,
                progress.checkpoint.as_ref().map(|path| path.to_string_lossy()),
                progress.outcome.as_ref().map(to_json),
                now_ms(),
                id
            ])?;
            Ok(())
        })
    }

    /// Records metrics. A step that is done again after a resume replaces its earlier record.
    pub fn append_run_steps(&self, id: RunId, steps: &[RunStep]) -> Result<()> {
        self.write(Durability::Normal, |db| {
            require_alive(db, id)?;
            let mut insert = db.prepare_cached(
                "INSERT OR REPLACE INTO run_steps (run, step, metrics) VALUES (?, ?, ?)",
            )?;
            for step in steps {
                insert.execute(params![id, step.step, to_json(&step.metrics)])?;
            }
            Ok(())
        })
    }

    /// One run.
    pub fn run(&self, id: RunId) -> Result<Run> {
        self.read(|db| {
            select(db, "WHERE id = ?", &[&id])?
                .pop()
                .ok_or(StoreError::UnknownRun(id))
        })
    }

    /// Every run, the first one first.
    pub fn runs(&self) -> Result<Vec<Run>> {
        self.read(|db| select(db, "", &[]))
    }

    /// Runs that are running or paused, the first one first. Right after opening, a running one was
    /// killed.
    pub fn unfinished_runs(&self) -> Result<Vec<Run>> {
        self.read(|db| select(db, "WHERE state IN ('running', 'paused')", &[]))
    }

    /// The feedback that a run learns from; empty once any of it was forgotten.
    pub fn run_items(&self, id: RunId) -> Result<Vec<FeedbackId>> {
        self.read(|db| {
            let mut statement = db
                .prepare_cached("SELECT feedback FROM run_items WHERE run = ? ORDER BY feedback")?;
            Ok(statement
                .query_map([id], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The metrics of a run, in the order of its steps.
    pub fn run_steps(&self, id: RunId) -> Result<Vec<RunStep>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT step, metrics FROM run_steps WHERE run = ? ORDER BY step",
            )?;
            let rows = statement
                .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(u32, String)>>>()?;
            rows.into_iter()
                .map(|(step, json)| {
                    Ok(RunStep {
                        step,
                        metrics: from_json(&json, "run_steps", id.0)?,
                    })
                })
                .collect()
        })
    }
}

/// Nothing may be made from feedback that is gone: a person may forget an item while a run is under
/// way.
pub(super) fn require_items(db: &Connection, items: &[FeedbackId]) -> Result<()> {
    let mut known = db.prepare_cached("SELECT 1 FROM feedback WHERE id = ?")?;
    for &item in items {
        if !known.exists([item])? {
            return Err(StoreError::ForgottenItem(item));
        }
    }
    Ok(())
}

fn require_alive(db: &Connection, id: RunId) -> Result<()> {
    let state: Option<String> = db
        .prepare_cached("SELECT state FROM runs WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    match state.as_deref() {
        None => Err(StoreError::UnknownRun(id)),
        Some("forgotten") => Err(StoreError::ForgottenRun(id)),
        Some(_) => Ok(()),
    }
}

fn select(
    db: &Connection,
    condition: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> Result<Vec<Run>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT id, base_hash, config, seed, state, phase, step, total_steps, checkpoint, outcome, created_at,
             updated_at FROM runs {condition} ORDER BY id"
    ))?;
    let mut rows = statement.query(parameters)?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        let id: RunId = row.get(0)?;
        let state: String = row.get(4)?;
        let state = RunState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or(StoreError::Unreadable {
                table: "runs",
                id: id.0,
            })?;
        let outcome: Option<String> = row.get(9)?;
        runs.push(Run {
            id,
            base_hash: row.get(1)?,
            config: from_json(&row.get::<_, String>(2)?, "runs", id.0)?,
            seed: row.get::<_, i64>(3)? as u64,
            progress: RunProgress {
                state,
                phase: row.get(5)?,
                step: row.get(6)?,
                total_steps: row.get(7)?,
                checkpoint: row.get::<_, Option<String>>(8)?.map(PathBuf::from),
                outcome: outcome
                    .map(|json| from_json(&json, "runs", id.0))
                    .transpose()?,
            },
            created_at: row.get(10)?,
            updated_at: row.get(11)?,
        });
    }
    Ok(runs)
}
