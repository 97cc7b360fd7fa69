//! The reward head of each base model.

use rusqlite::{Connection, OptionalExtension, params};

use super::database::Durability;
use super::runs::require_items;
use super::sql::{from_json, now_ms, to_json};
use super::{Result, Store};
use crate::reward::Head;
use crate::types::FeedbackId;

impl Store {
    /// Records the head of a base, in the place of the one before. `items` are the events that it was fitted on; fails with
    /// [`StoreError::ForgottenItem`](super::StoreError::ForgottenItem) if one is gone by now.
    pub fn put_head(&self, head: &Head, items: &[FeedbackId]) -> Result<()> {
        self.write(Durability::Normal, |db| {
            require_items(db, items)?;
            db.execute("DELETE FROM heads WHERE base_hash = ?", [&head.base_sha256])?;
            db.execute(
                "INSERT INTO heads (base_hash, head, created_at) VALUES (?, ?, ?)",
                params![head.base_sha256, to_json(head), now_ms()],
            )?;
            let id = db.last_insert_rowid();
            let mut insert = db.prepare_cached(
                "INSERT OR IGNORE INTO head_items (feedback, head) VALUES (?, ?)",
            )?;
            for item in items {
                insert.execute(params![item, id])?;
            }
            Ok(())
        })
    }

    /// The head of a base.
    pub fn head(&self, base_hash: &str) -> Result<Option<Head>> {
        self.read(|db| {
            let row: Option<(i64, String)> = db
                .prepare_cached("SELECT id, head FROM heads WHERE base_hash = ?")?
                .query_row([base_hash], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            row.map(|(id, json)| from_json(&json, "heads", id))
                .transpose()
        })
    }

    /// The events that a base's head was fitted on.
    pub fn head_items(&self, base_hash: &str) -> Result<Vec<FeedbackId>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT feedback FROM head_items i JOIN heads h ON h.id = i.head WHERE h.base_hash = ? ORDER BY feedback",
            )?;
            Ok(statement
                .query_map([base_hash], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Drops the head of a base; whether there was one.
    pub fn drop_head(&self, base_hash: &str) -> Result<bool> {
        self.write(Durability::Full, |db| {
            Ok(db.execute("DELETE FROM heads WHERE base_hash = ?", [base_hash])? > 0)
        })
    }
}

/// Drops the heads that were fitted on an event; of which bases.
pub(super) fn drop_fitted_on(db: &Connection, item: FeedbackId) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached(
        "DELETE FROM heads WHERE id IN (SELECT head FROM head_items WHERE feedback = ?)
         RETURNING base_hash",
    )?;
    Ok(statement
        .query_map([item], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}
