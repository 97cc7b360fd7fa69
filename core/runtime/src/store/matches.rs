//! Blind side-by-sides: two replies to one prompt, and which of them was better.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::database::Durability;
use super::replies::{self, NewReply};
use super::sql::now_ms;
use super::{Result, Store, StoreError};
use crate::arena::{Choice, Contestant, Seen};
use crate::types::{AdapterId, MatchId, ReplyId};

/// A side-by-side about to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMatch {
    /// Hash of the base model.
    pub base_hash: String,
    /// Who wrote the reply that is shown on the left, and that reply.
    pub left: (Contestant, NewReply),
    /// The same on the right; a reply to the same prompt.
    pub right: (Contestant, NewReply),
    /// What the sides were drawn with.
    pub seed: u64,
}

/// A recorded side-by-side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchRow {
    /// Its id.
    pub id: MatchId,
    /// Hash of the base model.
    pub base_hash: String,
    /// Who wrote the reply on the left.
    pub left: Contestant,
    /// Who wrote the reply on the right.
    pub right: Contestant,
    /// The reply on the left.
    pub left_reply: ReplyId,
    /// The reply on the right.
    pub right_reply: ReplyId,
    /// What the sides were drawn with.
    pub seed: u64,
    /// The vote, once there is one.
    pub choice: Option<Choice>,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub voted_at: Option<i64>,
}

impl Store {
    /// Records a side-by-side with its two replies, all of it or nothing. In a conversation the left one becomes the last turn.
    pub fn record_match(&self, new: &NewMatch) -> Result<MatchId> {
        self.write(Durability::Normal, |db| {
            let right = replies::insert(db, &new.right.1)?;
            let left = replies::insert(db, &new.left.1)?;
            if replies::prompt_key_of(db, left)? != replies::prompt_key_of(db, right)? {
                return Err(StoreError::OtherPrompt(right));
            }
            db.prepare_cached(
                "INSERT INTO matches (base_hash, left_adapter, right_adapter, left_reply, right_reply, seed, created_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                new.base_hash,
                new.left.0.adapter(),
                new.right.0.adapter(),
                left,
                right,
                new.seed as i64,
                now_ms()
            ])?;
            Ok(MatchId(db.last_insert_rowid()))
        })
    }

    /// One side-by-side.
    pub fn match_row(&self, id: MatchId) -> Result<MatchRow> {
        self.read(|db| load(db, id))
    }

    /// Those of a base that nobody has voted on, the first one first.
    pub fn open_matches(&self, base_hash: &str) -> Result<Vec<MatchRow>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM matches WHERE base_hash = ? AND choice IS NULL ORDER BY id"
            ))?;
            let mut rows = statement.query([base_hash])?;
            let mut matches = Vec::new();
            while let Some(row) = rows.next()? {
                matches.push(from_row(row)?);
            }
            Ok(matches)
        })
    }

    /// Records the vote. In a conversation that has not gone on, the better reply becomes the last turn; of equals, the left one.
    pub fn vote_match(&self, id: MatchId, choice: Choice) -> Result<MatchRow> {
        self.write(Durability::Full, |db| {
            let changed = db
                .prepare_cached(
                    "UPDATE matches SET choice = ?, voted_at = ? WHERE id = ? AND choice IS NULL",
                )?
                .execute(params![choice.as_str(), now_ms(), id])?;
            let row = load(db, id)?;
            if changed == 0 {
                return Err(StoreError::AlreadyVoted(id));
            }
            if choice == Choice::Right {
                db.prepare_cached(
                    "UPDATE conversations SET head = r.message FROM replies r, replies l
                     WHERE r.id = ? AND l.id = ? AND l.message IS NOT NULL AND head = l.message",
                )?
                .execute([row.right_reply, row.left_reply])?;
            }
            Ok(row)
        })
    }

    /// Every vote on side-by-sides of a base, in the order of the matches, with the lengths of the replies.
    pub fn seen_matches(&self, base_hash: &str) -> Result<Vec<Seen>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT m.id, left_adapter, right_adapter, choice, l.prompt_key,
                     coalesce(length(l.completion_tokens), 0) / 4, coalesce(length(r.completion_tokens), 0) / 4
                 FROM matches m JOIN replies l ON l.id = left_reply JOIN replies r ON r.id = right_reply
                 WHERE base_hash = ? AND choice IS NOT NULL ORDER BY m.id",
            )?;
            let mut rows = statement.query([base_hash])?;
            let mut seen = Vec::new();
            while let Some(row) = rows.next()? {
                let id: MatchId = row.get(0)?;
                seen.push(Seen {
                    left: Contestant::of(row.get(1)?),
                    right: Contestant::of(row.get(2)?),
                    choice: choice(row.get(3)?, id)?.ok_or(StoreError::UnknownMatch(id))?,
                    prompt_key: row.get(4)?,
                    tokens: [row.get::<_, u32>(5)? as usize, row.get::<_, u32>(6)? as usize],
                });
            }
            Ok(seen)
        })
    }
}

const COLUMNS: &str = "id, base_hash, left_adapter, right_adapter, left_reply, right_reply, seed, choice, created_at, voted_at";

fn load(db: &Connection, id: MatchId) -> Result<MatchRow> {
    let mut statement =
        db.prepare_cached(&format!("SELECT {COLUMNS} FROM matches WHERE id = ?"))?;
    let row = statement
        .query_row([id], |row| Ok(from_row(row)))
        .optional()?;
    row.unwrap_or(Err(StoreError::UnknownMatch(id)))
}

fn from_row(row: &Row<'_>) -> Result<MatchRow> {
    let id: MatchId = row.get(0)?;
    Ok(MatchRow {
        id,
        base_hash: row.get(1)?,
        left: Contestant::of(row.get::<_, Option<AdapterId>>(2)?),
        right: Contestant::of(row.get::<_, Option<AdapterId>>(3)?),
        left_reply: row.get(4)?,
        right_reply: row.get(5)?,
        seed: row.get::<_, i64>(6)? as u64,
        choice: choice(row.get(7)?, id)?,
        created_at: row.get(8)?,
        voted_at: row.get(9)?,
    })
}

fn choice(name: Option<String>, id: MatchId) -> Result<Option<Choice>> {
    name.map(|name| {
        name.parse().map_err(|_| StoreError::Unreadable {
            table: "matches",
            id: id.0,
        })
    })
    .transpose()
}
