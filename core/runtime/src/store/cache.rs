//! What can be computed again, facts about models, and settings.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::database::Durability;
use super::sql::{floats_from_blob, floats_to_blob, from_json, now_ms, to_json};
use super::{Result, Store, StoreError, replies};
use crate::types::ReplyId;

impl Store {
    /// Remembers a model by the hash of its file, with facts that are not user text (name,
    /// architecture, ...).
    pub fn put_model(&self, hash: &str, facts: &serde_json::Value) -> Result<()> {
        self.write(Durability::Normal, |db| {
            replies::model_row(db, hash, now_ms())?;
            db.execute(
                "UPDATE models SET facts = ? WHERE hash = ?",
                params![to_json(facts), hash],
            )?;
            Ok(())
        })
    }

    /// Every model ever used, as hash and facts, the first one first.
    pub fn models(&self) -> Result<Vec<(String, serde_json::Value)>> {
        self.read(|db| {
            let mut statement =
                db.prepare_cached("SELECT id, hash, facts FROM models ORDER BY id")?;
            let rows = statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<rusqlite::Result<Vec<(i64, String, String)>>>()?;
            rows.into_iter()
                .map(|(id, hash, facts)| Ok((hash, from_json(&facts, "models", id)?)))
                .collect()
        })
    }

    /// Caches log-probabilities of a completion's tokens with the adapter off, in nats.
    ///
    /// `completion_key`: [`crate::types::completion_key`]. `context` names all else that the
    /// numbers depend on: base model, template, tokens, backend. `reply` is the reply that the
    /// completion belongs to (or edits), with which the entry is forgotten.
    pub fn put_reference_logps(
        &self,
        reply: ReplyId,
        completion_key: &[u8; 32],
        context: &str,
        logps: &[f64],
    ) -> Result<()> {
        self.write(Durability::Normal, |db| {
            replies::prompt_key_of(db, reply)?;
            db.prepare_cached(
                "INSERT OR REPLACE INTO reference_logps (completion_key, context, reply, logps) VALUES (?, ?, ?, ?)",
            )?
            .execute(params![completion_key, context, reply, floats_to_blob(logps)])?;
            Ok(())
        })
    }

    /// What [`Store::put_reference_logps`] cached.
    pub fn reference_logps(
        &self,
        completion_key: &[u8; 32],
        context: &str,
    ) -> Result<Option<Vec<f64>>> {
        self.read(|db| {
            let blob: Option<Vec<u8>> = db
                .prepare_cached(
                    "SELECT logps FROM reference_logps WHERE completion_key = ? AND context = ?",
                )?
                .query_row(params![completion_key, context], |row| row.get(0))
                .optional()?;
            Ok(blob.map(|blob| floats_from_blob(&blob)))
        })
    }

    /// Sets a setting.
    pub fn set_setting<T: Serialize>(&self, key: &str, value: &T) -> Result<()> {
        self.write(Durability::Full, |db| {
            db.execute(
                "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)",
                params![key, to_json(value)],
            )?;
            Ok(())
        })
    }

    /// Reads a setting; `None` if it was never set.
    pub fn setting<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.read(|db| {
            let json: Option<String> = db
                .prepare_cached("SELECT value FROM settings WHERE key = ?")?
                .query_row([key], |row| row.get(0))
                .optional()?;
            json.map(|json| serde_json::from_str(&json))
                .transpose()
                .map_err(|_| StoreError::Unreadable {
                    table: "settings",
                    id: 0,
                })
        })
    }
}
