//! Versions of adapters, and which one each base model is served with.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::database::Durability;
use super::runs::require_items;
use super::sql::{from_json, now_ms, to_json};
use super::{Result, Store, StoreError};
use crate::gate::AdapterState;
use crate::types::{AdapterId, FeedbackId, RunId};

/// An adapter about to be recorded. Its file is complete and synced already.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAdapter {
    /// Hash of the base model it was made for.
    pub base_hash: String,
    /// The run that made it.
    pub run: Option<RunId>,
    /// The resolved configuration. It outlives forgetting, so that the adapter can be made again
    /// without the forgotten item: no user text, nothing derived from it.
    pub config: Value,
    /// The rest of the manifest.
    pub manifest: Value,
    /// The feedback it was trained on.
    pub items: Vec<FeedbackId>,
    /// Its file, relative to the data folder.
    pub file: PathBuf,
    /// SHA-256 of the file, in hex.
    pub file_hash: String,
    /// Seed of the run.
    pub seed: u64,
}

/// A recorded adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterRow {
    /// Its id.
    pub id: AdapterId,
    /// Hash of the base model it was made for.
    pub base_hash: String,
    /// The run that made it.
    pub run: Option<RunId>,
    /// The resolved configuration.
    pub config: Value,
    /// The rest of the manifest; null once forgotten.
    pub manifest: Value,
    /// Its file, relative to the data folder.
    pub file: PathBuf,
    /// SHA-256 of the file, in hex.
    pub file_hash: String,
    /// Seed of the run.
    pub seed: u64,
    /// The scale it is served at: above 0, and at most the largest of [`STRENGTHS`](crate::gate::STRENGTHS).
    pub scale: f32,
    /// The gate's report.
    pub gate: Option<Value>,
    /// Where it stands.
    pub state: AdapterState,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

/// One change of what a base model is served with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The adapter; `None` is the base alone.
    pub adapter: Option<AdapterId>,
    /// Why, in a few words of ours.
    pub reason: String,
    /// Milliseconds since 1970.
    pub at: i64,
}

impl Store {
    /// Records an adapter as a candidate. Fails with [`StoreError::ForgottenItem`] if an item is
    /// gone by now.
    pub fn insert_adapter(&self, adapter: &NewAdapter) -> Result<AdapterId> {
        self.write(Durability::Full, |db| {
            require_items(db, &adapter.items)?;
            db.execute(
                "INSERT INTO adapters (base_hash, run, config, manifest, file, file_hash, seed, state, created_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?, 'candidate', ?)",
                params![
                    adapter.base_hash,
                    adapter.run,
                    to_json(&adapter.config),
                    to_json(&adapter.manifest),
                    adapter.file.to_string_lossy(),
                    adapter.file_hash,
                    adapter.seed as i64,
                    now_ms()
                ],
            )?;
            let id = AdapterId(db.last_insert_rowid());
            let mut insert = db.prepare_cached("INSERT OR IGNORE INTO adapter_items (feedback, adapter) VALUES (?, ?)")?;
            for item in &adapter.items {
                insert.execute(params![item, id])?;
            }
            Ok(id)
        })
    }

    /// Records the gate's report and the scale and state that follow from it.
    pub fn set_adapter_gate(
        &self,
        id: AdapterId,
        gate: &Value,
        scale: f32,
        state: AdapterState,
    ) -> Result<()> {
        self.write(Durability::Full, |db| {
            let changed = db.execute(
                "UPDATE adapters SET gate = ?, scale = ?, state = ? WHERE id = ? AND state <> 'forgotten'",
                params![to_json(gate), scale, state.as_str(), id],
            )?;
            if changed == 1 { Ok(()) } else { Err(gone(db, id)?) }
        })
    }

    /// Changes where an adapter stands. What is forgotten stays forgotten.
    pub fn set_adapter_state(&self, id: AdapterId, state: AdapterState) -> Result<()> {
        self.write(Durability::Full, |db| set_state(db, id, state))
    }

    /// One adapter.
    pub fn adapter(&self, id: AdapterId) -> Result<AdapterRow> {
        self.read(|db| load(db, id))
    }

    /// Every adapter ever made, the first one first.
    pub fn adapters(&self) -> Result<Vec<AdapterRow>> {
        self.read(|db| select(db, "", &[]))
    }

    /// The feedback that an adapter was trained on; empty once any of it was forgotten.
    pub fn adapter_items(&self, id: AdapterId) -> Result<Vec<FeedbackId>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT feedback FROM adapter_items WHERE adapter = ? ORDER BY feedback",
            )?;
            Ok(statement
                .query_map([id], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The adapter that a base model is served with; `None` is the base alone.
    pub fn active_adapter(&self, base_hash: &str) -> Result<Option<AdapterRow>> {
        self.read(|db| active(db, base_hash)?.map(|id| load(db, id)).transpose())
    }

    /// Serves a base model with an adapter from now on, or alone. The adapter must be on trial or
    /// promoted; to put one on trial and serve it at once, and atomically, give its new state.
    pub fn activate(
        &self,
        base_hash: &str,
        adapter: Option<AdapterId>,
        new_state: Option<AdapterState>,
        reason: &str,
    ) -> Result<()> {
        self.write(Durability::Full, |db| {
            if let Some(id) = adapter {
                if let Some(state) = new_state {
                    set_state(db, id, state)?;
                }
                let row = load(db, id)?;
                if row.base_hash != base_hash {
                    return Err(StoreError::OtherBase { adapter: id });
                }
                if !row.state.may_be_active() {
                    return Err(StoreError::NotServable {
                        adapter: id,
                        state: row.state,
                    });
                }
            }
            push_activation(db, base_hash, adapter, reason)
        })
    }

    /// Takes the active adapter back and serves the one before it, or the base alone. Returns what
    /// is served now. Without an active adapter nothing changes.
    pub fn roll_back(&self, base_hash: &str, reason: &str) -> Result<Option<AdapterId>> {
        self.write(Durability::Full, |db| {
            let Some(current) = active(db, base_hash)? else {
                return Ok(None);
            };
            set_state(db, current, AdapterState::RolledBack)?;
            fall_back(db, base_hash, reason)
        })
    }

    /// What a base model was served with over time, the first change first.
    pub fn activations(&self, base_hash: &str) -> Result<Vec<Activation>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT adapter, reason, at FROM activations WHERE base_hash = ? ORDER BY id",
            )?;
            let rows = statement.query_map([base_hash], |row| {
                Ok(Activation {
                    adapter: row.get(0)?,
                    reason: row.get(1)?,
                    at: row.get(2)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }
}

pub(super) fn active(db: &Connection, base_hash: &str) -> Result<Option<AdapterId>> {
    let last = db
        .prepare_cached(
            "SELECT adapter FROM activations WHERE base_hash = ? ORDER BY id DESC LIMIT 1",
        )?
        .query_row([base_hash], |row| row.get(0))
        .optional()?;
    Ok(last.flatten())
}

/// Serves the last adapter before now that may still be served, or the base alone.
pub(super) fn fall_back(
    db: &Connection,
    base_hash: &str,
    reason: &str,
) -> Result<Option<AdapterId>> {
    let previous = db
        .prepare_cached(
            "SELECT a.id FROM activations JOIN adapters a ON a.id = activations.adapter
             WHERE activations.base_hash = ? AND a.state IN ('trial', 'promoted') ORDER BY activations.id DESC LIMIT 1",
        )?
        .query_row([base_hash], |row| row.get(0))
        .optional()?;
    push_activation(db, base_hash, previous, reason)?;
    Ok(previous)
}

fn push_activation(
    db: &Connection,
    base_hash: &str,
    adapter: Option<AdapterId>,
    reason: &str,
) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO activations (base_hash, adapter, reason, at) VALUES (?, ?, ?, ?)",
    )?
    .execute(params![base_hash, adapter, reason, now_ms()])?;
    Ok(())
}

fn set_state(db: &Connection, id: AdapterId, state: AdapterState) -> Result<()> {
    let changed = db.execute(
        "UPDATE adapters SET state = ? WHERE id = ? AND state <> 'forgotten'",
        params![state.as_str(), id],
    )?;
    if changed == 1 {
        Ok(())
    } else {
        Err(gone(db, id)?)
    }
}

/// Why an adapter could not be changed.
fn gone(db: &Connection, id: AdapterId) -> Result<StoreError> {
    let state = load(db, id)?.state;
    Ok(StoreError::NotServable { adapter: id, state })
}

fn load(db: &Connection, id: AdapterId) -> Result<AdapterRow> {
    select(db, "WHERE id = ?", &[&id])?
        .pop()
        .ok_or(StoreError::UnknownAdapter(id))
}

fn select(
    db: &Connection,
    condition: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> Result<Vec<AdapterRow>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT id, base_hash, run, config, manifest, file, file_hash, seed, scale, gate, state, created_at
         FROM adapters {condition} ORDER BY id"
    ))?;
    let mut rows = statement.query(parameters)?;
    let mut adapters = Vec::new();
    while let Some(row) = rows.next()? {
        let id: AdapterId = row.get(0)?;
        let json = |column: usize| -> Result<Option<Value>> {
            let json: Option<String> = row.get(column)?;
            json.map(|json| from_json(&json, "adapters", id.0))
                .transpose()
        };
        let state: String = row.get(10)?;
        let state = AdapterState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or(StoreError::Unreadable {
                table: "adapters",
                id: id.0,
            })?;
        adapters.push(AdapterRow {
            id,
            base_hash: row.get(1)?,
            run: row.get(2)?,
            config: json(3)?.unwrap_or_default(),
            manifest: json(4)?.unwrap_or_default(),
            file: PathBuf::from(row.get::<_, String>(5)?),
            file_hash: row.get(6)?,
            seed: row.get::<_, i64>(7)? as u64,
            scale: row.get(8)?,
            gate: json(9)?,
            state,
            created_at: row.get(11)?,
        });
    }
    Ok(adapters)
}
