//! How our types are written into columns.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use crate::types::*;

macro_rules! id_column {
    ($($name:ident),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                i64::column_result(value).map(Self)
            }
        }
    )*};
}

id_column!(
    ReplyId,
    FeedbackId,
    ConversationId,
    MessageId,
    AdapterId,
    RunId,
    VoteId,
    MatchId,
    DecisionId
);

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_millis() as i64)
}

/// JSON of a value of ours. None of them can fail to serialize: no maps with odd keys.
pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

/// Reads JSON back without letting its text into the error.
pub(super) fn from_json<T: DeserializeOwned>(
    json: &str,
    table: &'static str,
    id: i64,
) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|_| StoreError::Unreadable { table, id })
}

pub(super) fn role_from_str(role: &str, id: i64) -> Result<Role, StoreError> {
    [Role::System, Role::User, Role::Assistant]
        .into_iter()
        .find(|known| known.as_str() == role)
        .ok_or(StoreError::Unreadable {
            table: "messages",
            id,
        })
}

pub(super) fn tokens_to_blob(tokens: &[i32]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .collect()
}

pub(super) fn tokens_from_blob(blob: &[u8]) -> Vec<i32> {
    blob.as_chunks()
        .0
        .iter()
        .map(|bytes| i32::from_le_bytes(*bytes))
        .collect()
}

pub(super) fn floats_to_blob(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(super) fn floats_from_blob(blob: &[u8]) -> Vec<f64> {
    blob.as_chunks()
        .0
        .iter()
        .map(|bytes| f64::from_le_bytes(*bytes))
        .collect()
}
