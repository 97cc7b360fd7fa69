//! Stored chats: trees of turns, of which a conversation shows the path to its head.

use rusqlite::{Connection, OptionalExtension, params};

use super::database::Durability;
use super::sql::{now_ms, role_from_str};
use super::{Result, Store, StoreError};
use crate::types::{ConversationId, Message, MessageId, ReplyId};

/// A stored chat, without its turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Its id.
    pub id: ConversationId,
    /// Its title, if it was given one.
    pub title: Option<String>,
    /// Its last turn; `None` before the first.
    pub head: Option<MessageId>,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970; changes with each turn.
    pub updated_at: i64,
}

/// One turn of a stored chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its id.
    pub id: MessageId,
    /// The turn before it.
    pub parent: Option<MessageId>,
    /// Who speaks, and what is said.
    pub message: Message,
    /// The reply recorded for it, for turns of the assistant.
    pub reply: Option<ReplyId>,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

impl Store {
    /// Starts a chat without turns.
    pub fn create_conversation(&self, title: Option<&str>) -> Result<ConversationId> {
        self.write(Durability::Full, |db| insert(db, title, None))
    }

    /// Starts a chat that shares the turns of another up to and including `upto`.
    pub fn branch_conversation(
        &self,
        upto: MessageId,
        title: Option<&str>,
    ) -> Result<ConversationId> {
        self.write(Durability::Full, |db| {
            require_message(db, upto)?;
            insert(db, title, Some(upto))
        })
    }

    /// Every chat, the latest used first.
    pub fn conversations(&self) -> Result<Vec<Conversation>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT id, title, head, created_at, updated_at FROM conversations ORDER BY updated_at DESC, id DESC",
            )?;
            Ok(statement.query_map([], conversation_from_row)?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// One chat.
    pub fn conversation(&self, id: ConversationId) -> Result<Conversation> {
        self.read(|db| load(db, id))
    }

    /// The turns that a chat shows, first to last.
    pub fn messages(&self, id: ConversationId) -> Result<Vec<StoredMessage>> {
        self.read(|db| match load(db, id)?.head {
            Some(head) => stored_chain(db, head),
            None => Ok(Vec::new()),
        })
    }

    /// Gives a chat a title, or takes it away.
    pub fn rename_conversation(&self, id: ConversationId, title: Option<&str>) -> Result<()> {
        self.write(Durability::Full, |db| {
            let changed = db.execute(
                "UPDATE conversations SET title = ? WHERE id = ?",
                params![title, id],
            )?;
            if changed == 1 {
                Ok(())
            } else {
                Err(StoreError::UnknownConversation(id))
            }
        })
    }

    /// Adds a turn after the last one. Replies are added by [`Store::record_reply`] instead.
    pub fn append_message(&self, id: ConversationId, message: &Message) -> Result<MessageId> {
        self.write(Durability::Full, |db| {
            let head = load(db, id)?.head;
            insert_message(db, id, head, message)
        })
    }

    /// Makes a turn the last one shown, as before answering it again or to show another answer.
    /// Nothing is lost.
    pub fn rewind_conversation(&self, id: ConversationId, head: Option<MessageId>) -> Result<()> {
        self.write(Durability::Full, |db| {
            if let Some(head) = head {
                require_message(db, head)?;
            }
            let changed = db.execute(
                "UPDATE conversations SET head = ?, updated_at = ? WHERE id = ?",
                params![head, now_ms(), id],
            )?;
            if changed == 1 {
                Ok(())
            } else {
                Err(StoreError::UnknownConversation(id))
            }
        })
    }

    /// Takes a chat off the list and deletes its turns, except those that a branch shares and those
    /// that feedback rests on: the log keeps these until [`Store::forget`].
    pub fn delete_conversation(&self, id: ConversationId) -> Result<()> {
        self.erase(|db| {
            load(db, id)?;
            // Its turns become nobody's.
            db.execute("DELETE FROM conversations WHERE id = ?", [id])?;
            delete_unowned(db)
        })
    }
}

/// Adds a turn and makes it the conversation's last.
pub(super) fn insert_message(
    db: &Connection,
    conversation: ConversationId,
    parent: Option<MessageId>,
    message: &Message,
) -> Result<MessageId> {
    let now = now_ms();
    load(db, conversation)?;
    db.prepare_cached(
        "INSERT INTO messages (conversation, parent, role, content, created_at) VALUES (?, ?, ?, ?, ?)",
    )?
    .execute(params![conversation, parent, message.role.as_str(), message.content, now])?;
    let id = MessageId(db.last_insert_rowid());
    db.prepare_cached("UPDATE conversations SET head = ?, updated_at = ? WHERE id = ?")?
        .execute(params![id, now, conversation])?;
    Ok(id)
}

/// A turn and all before it, first to last.
pub(super) fn chain(db: &Connection, head: MessageId) -> Result<Vec<Message>> {
    Ok(stored_chain(db, head)?
        .into_iter()
        .map(|turn| turn.message)
        .collect())
}

/// All turns before one.
pub(super) fn chain_before(db: &Connection, message: MessageId) -> Result<Vec<Message>> {
    let mut chain = chain(db, message)?;
    chain.pop();
    Ok(chain)
}

/// Deletes the turns of deleted conversations, but for those that a branch or feedback rests on.
pub(super) fn delete_unowned(db: &Connection) -> Result<()> {
    let mut statement = db.prepare(
        "WITH RECURSIVE kept(id) AS (
             SELECT m.id FROM messages m WHERE conversation IS NULL AND (
                 EXISTS (SELECT 1 FROM messages WHERE parent = m.id AND conversation IS NOT NULL)
                 OR EXISTS (SELECT 1 FROM conversations WHERE head = m.id))
             UNION SELECT m.id FROM messages m JOIN replies r ON r.message = m.id
                 WHERE m.conversation IS NULL AND (
                     EXISTS (SELECT 1 FROM feedback WHERE reply = r.id)
                     OR EXISTS (SELECT 1 FROM feedback WHERE other = r.id)
                     OR EXISTS (SELECT 1 FROM ranked WHERE ranked.reply = r.id)
                     OR EXISTS (SELECT 1 FROM votes WHERE candidate_reply = r.id)
                     OR EXISTS (SELECT 1 FROM votes WHERE baseline_reply = r.id)
                     OR EXISTS (SELECT 1 FROM matches WHERE left_reply = r.id)
                     OR EXISTS (SELECT 1 FROM matches WHERE right_reply = r.id))
             -- That the chat went on after a retry says that the new reply was kept.
             UNION SELECT m.id FROM messages m JOIN replies r ON r.message = m.parent
                 WHERE m.conversation IS NULL AND r.replaces IS NOT NULL
             UNION SELECT parent FROM messages JOIN kept USING (id) WHERE parent IS NOT NULL)
         SELECT id FROM messages WHERE conversation IS NULL AND id NOT IN kept ORDER BY id DESC",
    )?;
    let unowned: Vec<MessageId> = statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    // A turn has a larger id than the one before it.
    for message in unowned {
        db.execute("DELETE FROM messages WHERE id = ?", [message])?;
    }
    Ok(())
}

fn stored_chain(db: &Connection, head: MessageId) -> Result<Vec<StoredMessage>> {
    let mut statement = db.prepare_cached(
        "WITH RECURSIVE chain(id, parent, role, content, created_at, depth) AS (
             SELECT id, parent, role, content, created_at, 0 FROM messages WHERE id = ?
             UNION ALL
             SELECT m.id, m.parent, m.role, m.content, m.created_at, depth + 1
                 FROM messages m JOIN chain ON m.id = chain.parent)
         SELECT id, parent, role, content, created_at, (SELECT r.id FROM replies r WHERE r.message = chain.id)
             FROM chain ORDER BY depth DESC",
    )?;
    let mut rows = statement.query([head])?;
    let mut turns = Vec::new();
    while let Some(row) = rows.next()? {
        let id: MessageId = row.get(0)?;
        turns.push(StoredMessage {
            id,
            parent: row.get(1)?,
            message: Message {
                role: role_from_str(row.get_ref(2)?.as_str().unwrap_or(""), id.0)?,
                content: row.get(3)?,
            },
            created_at: row.get(4)?,
            reply: row.get(5)?,
        });
    }
    if turns.is_empty() {
        Err(StoreError::UnknownMessage(head))
    } else {
        Ok(turns)
    }
}

fn load(db: &Connection, id: ConversationId) -> Result<Conversation> {
    db.prepare_cached(
        "SELECT id, title, head, created_at, updated_at FROM conversations WHERE id = ?",
    )?
    .query_row([id], conversation_from_row)
    .optional()?
    .ok_or(StoreError::UnknownConversation(id))
}

fn conversation_from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Conversation> {
    Ok(Conversation {
        id: row.get(0)?,
        title: row.get(1)?,
        head: row.get(2)?,
        created_at: row.get(3)?,
        updated_at: row.get(4)?,
    })
}

fn insert(db: &Connection, title: Option<&str>, head: Option<MessageId>) -> Result<ConversationId> {
    let now = now_ms();
    db.execute(
        "INSERT INTO conversations (title, head, created_at, updated_at) VALUES (?, ?, ?, ?)",
        params![title, head, now, now],
    )?;
    Ok(ConversationId(db.last_insert_rowid()))
}

fn require_message(db: &Connection, id: MessageId) -> Result<()> {
    if db
        .prepare_cached("SELECT 1 FROM messages WHERE id = ?")?
        .exists([id])?
    {
        Ok(())
    } else {
        Err(StoreError::UnknownMessage(id))
    }
}
