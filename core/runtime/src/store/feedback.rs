//! The log of feedback: recorded, withdrawn, and read as what is in effect.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::database::Durability;
use super::replies::{self, NewReply, Prompt};
use super::sql::{from_json, now_ms, to_json};
use super::{Result, Store, StoreError};
use crate::curation::effect::{Act, Event, in_effect};
use crate::exchange::Said;
use crate::types::{
    Feedback, FeedbackId, LoggedFeedback, LoggedReply, Message, ReplyId, prompt_key,
};

impl Store {
    /// Records what a person said about a reply. It is on disk when this returns. Loads no model.
    pub fn record_feedback(&self, reply: ReplyId, feedback: &Feedback) -> Result<FeedbackId> {
        self.write(Durability::Full, |db| insert(db, reply, feedback))
    }

    /// Takes an event back. What it had replaced does not come back. Returns the id of the
    /// withdrawal; withdrawing twice is withdrawing once.
    pub fn withdraw(&self, id: FeedbackId) -> Result<FeedbackId> {
        self.write(Durability::Full, |db| {
            let reply: ReplyId = db
                .prepare_cached("SELECT reply FROM feedback WHERE id = ? AND kind <> 'withdraw'")?
                .query_row([id], |row| row.get(0))
                .optional()?
                .ok_or(StoreError::UnknownFeedback(id))?;
            let earlier = db
                .prepare_cached("SELECT id FROM feedback WHERE withdraws = ?")?
                .query_row([id], |row| row.get(0))
                .optional()?;
            if let Some(earlier) = earlier {
                return Ok(earlier);
            }
            db.prepare_cached("INSERT INTO feedback (reply, kind, withdraws, created_at) VALUES (?, 'withdraw', ?, ?)")?
                .execute(params![reply, id, now_ms()])?;
            Ok(FeedbackId(db.last_insert_rowid()))
        })
    }

    /// Records feedback on text that was not generated here, such as an answer that the app had
    /// already.
    pub fn record_external(
        &self,
        messages: &[Message],
        completion: &str,
        feedback: &Feedback,
    ) -> Result<(ReplyId, FeedbackId)> {
        if completion.is_empty() {
            return Err(StoreError::Empty {
                what: "the completion",
            });
        }
        self.write(Durability::Full, |db| {
            let reply = hand_in(db, messages, completion)?;
            Ok((reply, insert(db, reply, feedback)?))
        })
    }

    /// Records what the rows of a file say, all of it or, after an error, nothing. What was recorded before in the same words changes
    /// nothing. `said` is read while the store is held for writing.
    pub fn record_all<E: From<StoreError>>(
        &self,
        said: impl Iterator<Item = std::result::Result<Said, E>>,
    ) -> std::result::Result<Recorded, E> {
        let mut stopped = None;
        let recorded = self.write(Durability::Full, |db| {
            let mut recorded = Recorded::default();
            for said in said {
                match said {
                    Ok(said) => recorded.add(record_said(db, &said)?),
                    Err(error) => {
                        stopped = Some(error);
                        return Err(StoreError::Abandoned);
                    }
                }
            }
            Ok(recorded)
        });
        match stopped {
            Some(error) => Err(error),
            None => Ok(recorded?),
        }
    }

    /// Everything in effect, in the order it was said. A reply has one verdict (👍, 👎 or an edit;
    /// the latest counts, and a 👍 after an edit confirms the edit), two replies have one pick between
    /// them, a reply is in one ranking, and a retry stands beside any verdict.
    pub fn effective_feedback(&self) -> Result<Vec<LoggedFeedback>> {
        self.read(|db| {
            let events = events(db, "", &[])?;
            let mut seen = HashMap::new();
            in_effect(&events)
                .into_iter()
                .map(|id| logged(db, id, &mut seen))
                .collect()
        })
    }

    /// What is in effect on one reply, picks and rankings in which it took part included, for showing
    /// a thumb as pressed.
    pub fn feedback_on(&self, reply: ReplyId) -> Result<Vec<(FeedbackId, Feedback)>> {
        self.read(|db| {
            replies::prompt_key_of(db, reply)?;
            let events = events(
                db,
                // Of all replies to its prompt: a ranking of others may have taken the place of one that it was in.
                "WHERE reply IN (SELECT other.id FROM replies this JOIN replies other USING (prompt_key) WHERE this.id = ?1)",
                &[&reply],
            )?;
            let mut on_it = Vec::new();
            for id in in_effect(&events) {
                let (on, feedback) = said(db, id)?;
                let takes_part = match &feedback {
                    Feedback::Prefer { over } => *over == reply,
                    Feedback::Rank { over } => over.contains(&reply),
                    _ => false,
                };
                if on == reply || takes_part {
                    on_it.push((id, feedback));
                }
            }
            Ok(on_it)
        })
    }

    /// How many events of feedback were ever recorded and not forgotten, withdrawals included.
    pub fn feedback_count(&self) -> Result<u64> {
        self.read(|db| Ok(db.query_row("SELECT count(*) FROM feedback", [], |row| row.get(0))?))
    }
}

/// How many events a file brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// New ones.
    pub new: u64,
    /// Ones that were in the log already.
    pub known: u64,
}

impl Recorded {
    fn add(&mut self, is_new: bool) {
        match is_new {
            true => self.new += 1,
            false => self.known += 1,
        }
    }
}

/// Records one thing that was said; false if it was in the log.
fn record_said(db: &Connection, said: &Said) -> Result<bool> {
    let (reply, feedback) = match said {
        Said::Judged {
            prompt,
            completion,
            liked,
        } => {
            let feedback = match liked {
                true => Feedback::Up,
                false => Feedback::Down {
                    reasons: Vec::new(),
                },
            };
            (handed_in(db, prompt, completion)?, feedback)
        }
        Said::Preferred {
            prompt,
            better,
            worse,
        } => {
            let over = handed_in(db, prompt, worse)?;
            (handed_in(db, prompt, better)?, Feedback::Prefer { over })
        }
        Said::Ranked { prompt, answers } => {
            let mut replies = Vec::with_capacity(answers.len());
            for answer in answers {
                replies.push(handed_in(db, prompt, answer)?);
            }
            let over = replies.split_off(replies.len().min(1));
            let best = replies.pop().ok_or(StoreError::Empty {
                what: "the ranking",
            })?;
            (best, Feedback::Rank { over })
        }
    };
    let (kind, other) = match &feedback {
        Feedback::Prefer { over } => ("prefer", Some(*over)),
        Feedback::Rank { .. } => ("rank", None),
        Feedback::Up => ("up", None),
        _ => ("down", None),
    };
    let same: Vec<FeedbackId> = db
        .prepare_cached("SELECT id FROM feedback WHERE reply = ? AND kind = ? AND other IS ?")?
        .query_map(params![reply, kind, other], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut known = false;
    for id in same {
        known = known
            || match &feedback {
                Feedback::Rank { over } => ranked(db, id)? == *over,
                _ => true,
            };
    }
    if !known {
        insert(db, reply, &feedback)?;
    }
    Ok(!known)
}

/// The reply of these words that was handed in before, or a new one.
fn handed_in(db: &Connection, prompt: &[Message], text: &str) -> Result<ReplyId> {
    let known = db
        .prepare_cached(
            "SELECT id FROM replies WHERE prompt_key = ? AND text = ? AND model IS NULL AND message IS NULL",
        )?
        .query_row(params![prompt_key(prompt), text], |row| row.get(0))
        .optional()?;
    match known {
        Some(known) => Ok(known),
        None => hand_in(db, prompt, text),
    }
}

/// A new reply that was not generated here.
fn hand_in(db: &Connection, prompt: &[Message], text: &str) -> Result<ReplyId> {
    let reply = NewReply {
        prompt: Prompt::Messages(prompt.to_vec()),
        text: text.into(),
        replaces: None,
        generation: None,
    };
    replies::insert(db, &reply)
}

pub(super) fn insert(db: &Connection, reply: ReplyId, feedback: &Feedback) -> Result<FeedbackId> {
    if !db
        .prepare_cached("SELECT 1 FROM replies WHERE id = ?")?
        .exists([reply])?
    {
        return Err(StoreError::UnknownReply(reply));
    }
    let (kind, body, other) = match feedback {
        Feedback::Up => ("up", None, None),
        Feedback::Down { reasons } if reasons.is_empty() => ("down", None, None),
        Feedback::Down { reasons } => ("down", Some(to_json(reasons)), None),
        Feedback::Edit(text) if text.trim().is_empty() => {
            return Err(StoreError::Empty { what: "the edit" });
        }
        Feedback::Edit(text) => ("edit", Some(text.clone()), None),
        Feedback::Prefer { over } => {
            if reply == *over {
                return Err(StoreError::SameReply(reply));
            }
            if replies::prompt_key_of(db, reply)? != replies::prompt_key_of(db, *over)? {
                return Err(StoreError::OtherPrompt(*over));
            }
            ("prefer", None, Some(*over))
        }
        Feedback::Rank { over } => {
            check_ranking(db, reply, over)?;
            ("rank", None, None)
        }
        Feedback::Retry => ("retry", None, None),
    };
    db.prepare_cached(
        "INSERT INTO feedback (reply, kind, body, other, created_at) VALUES (?, ?, ?, ?, ?)",
    )?
    .execute(params![reply, kind, body, other, now_ms()])?;
    let id = FeedbackId(db.last_insert_rowid());
    if let Feedback::Rank { over } = feedback {
        let mut insert =
            db.prepare_cached("INSERT INTO ranked (feedback, place, reply) VALUES (?, ?, ?)")?;
        for (place, reply) in (1i64..).zip(over) {
            insert.execute(params![id, place, reply])?;
        }
    }
    Ok(id)
}

fn check_ranking(db: &Connection, best: ReplyId, over: &[ReplyId]) -> Result<()> {
    if over.is_empty() {
        return Err(StoreError::Empty {
            what: "the ranking",
        });
    }
    let prompt = replies::prompt_key_of(db, best)?;
    for (at, reply) in over.iter().enumerate() {
        if *reply == best || over[..at].contains(reply) {
            return Err(StoreError::SameReply(*reply));
        }
        if replies::prompt_key_of(db, *reply)? != prompt {
            return Err(StoreError::OtherPrompt(*reply));
        }
    }
    Ok(())
}

/// The replies of a ranking after the best, in order.
fn ranked(db: &Connection, id: FeedbackId) -> Result<Vec<ReplyId>> {
    let mut statement =
        db.prepare_cached("SELECT reply FROM ranked WHERE feedback = ? ORDER BY place")?;
    Ok(statement
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}

/// Events that meet a condition, in the order of their ids.
fn events(
    db: &Connection,
    condition: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> Result<Vec<Event>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT id, reply, kind, other, withdraws FROM feedback {condition} ORDER BY id"
    ))?;
    let mut rows = statement.query(parameters)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event_from_row(db, row)?);
    }
    Ok(events)
}

fn event_from_row(db: &Connection, row: &Row<'_>) -> Result<Event> {
    let id: FeedbackId = row.get(0)?;
    let act = match (
        row.get_ref(2)?.as_str().unwrap_or(""),
        row.get(3)?,
        row.get(4)?,
    ) {
        ("up", ..) => Act::Up,
        ("down", ..) => Act::Down,
        ("edit", ..) => Act::Edit,
        ("prefer", Some(over), _) => Act::Prefer { over },
        ("rank", ..) => Act::Rank {
            over: ranked(db, id)?,
        },
        ("retry", ..) => Act::Retry,
        ("withdraw", _, Some(withdrawn)) => Act::Withdraw(withdrawn),
        _ => {
            return Err(StoreError::Unreadable {
                table: "feedback",
                id: id.0,
            });
        }
    };
    Ok(Event {
        id,
        reply: row.get(1)?,
        act,
    })
}

/// One event with what was said in it.
fn said(db: &Connection, id: FeedbackId) -> Result<(ReplyId, Feedback)> {
    let (reply, kind, body, other): (ReplyId, String, Option<String>, Option<ReplyId>) = db
        .prepare_cached("SELECT reply, kind, body, other FROM feedback WHERE id = ?")?
        .query_row([id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
    let feedback = match (kind.as_str(), body, other) {
        ("up", ..) => Feedback::Up,
        ("down", None, _) => Feedback::Down {
            reasons: Vec::new(),
        },
        ("down", Some(json), _) => Feedback::Down {
            reasons: from_json(&json, "feedback", id.0)?,
        },
        ("edit", Some(text), _) => Feedback::Edit(text),
        ("prefer", _, Some(over)) => Feedback::Prefer { over },
        ("rank", ..) => Feedback::Rank {
            over: ranked(db, id)?,
        },
        ("retry", ..) => Feedback::Retry,
        _ => {
            return Err(StoreError::Unreadable {
                table: "feedback",
                id: id.0,
            });
        }
    };
    Ok((reply, feedback))
}

/// One event with the replies that it speaks of; `seen` spares loading a reply twice.
fn logged(
    db: &Connection,
    id: FeedbackId,
    seen: &mut HashMap<ReplyId, Arc<LoggedReply>>,
) -> Result<LoggedFeedback> {
    let (reply, feedback) = said(db, id)?;
    let other = match &feedback {
        Feedback::Prefer { over } => Some(*over),
        Feedback::Retry => kept_successor(db, reply)?,
        _ => None,
    };
    let mut reply_of = |id: ReplyId| -> Result<Arc<LoggedReply>> {
        if let Some(reply) = seen.get(&id) {
            return Ok(reply.clone());
        }
        let stored = replies::load(db, id)?;
        let generation = stored.generation;
        let finished = generation
            .as_ref()
            .is_none_or(|generation| generation.stop_reason.is_finished());
        let (tokens, model) = generation
            .map(|generation| (generation.completion_tokens, generation.model))
            .unzip();
        let reply = Arc::new(LoggedReply {
            id,
            prompt: stored.prompt,
            text: stored.text,
            tokens,
            finished,
            model,
        });
        seen.insert(id, reply.clone());
        Ok(reply)
    };
    let after = match &feedback {
        Feedback::Rank { over } => over.as_slice(),
        _ => &[],
    };
    Ok(LoggedFeedback {
        id,
        reply: reply_of(reply)?,
        other: other.map(&mut reply_of).transpose()?,
        ranked: after
            .iter()
            .map(|reply| reply_of(*reply))
            .collect::<Result<_>>()?,
        feedback,
    })
}

/// The last of the replies that took the place of `reply`, if the chat went on from it.
fn kept_successor(db: &Connection, reply: ReplyId) -> Result<Option<ReplyId>> {
    let mut next = db.prepare_cached("SELECT max(id) FROM replies WHERE replaces = ?")?;
    let mut last = reply;
    // Ids grow along the chain, so it ends.
    while let Some(successor) = next.query_row([last], |row| row.get::<_, Option<ReplyId>>(0))? {
        last = successor;
    }
    if last == reply {
        return Ok(None);
    }
    let end = replies::load(db, last)?;
    let went_on = match end.message {
        Some(message) => db
            .prepare_cached("SELECT 1 FROM messages WHERE parent = ?")?
            .exists([message])?,
        None => {
            let [quoted, cut_off] = replies::exchanges_quoting(&end.prompt, &end.text);
            db.prepare_cached("SELECT 1 FROM quotes WHERE exchange IN (?, ?)")?
                .exists([quoted, cut_off])?
        }
    };
    Ok(went_on.then_some(last))
}
