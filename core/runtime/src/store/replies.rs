//! Replies: what was answered to which prompt, with all that training needs later.

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::database::Durability;
use super::sql::{from_json, now_ms, to_json, tokens_from_blob, tokens_to_blob};
use super::{Result, Store, StoreError, conversations};
use crate::types::{
    AdapterId, ConversationId, Message, MessageId, ReplyId, Role, Sampling, StopReason, Usage,
    prompt_key, update_with_length,
};

/// What a reply answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// The whole prompt, from an app that keeps its own chat. Not empty.
    Messages(Vec<Message>),
    /// A turn of a stored conversation and those before it. The reply becomes the conversation's
    /// last turn.
    Turn {
        /// The conversation.
        conversation: ConversationId,
        /// The turn that is answered.
        parent: MessageId,
    },
}

/// A reply to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewReply {
    /// What it answers.
    pub prompt: Prompt,
    /// Its text; may be empty if the model said nothing.
    pub text: String,
    /// The reply to the same prompt whose place it takes: the person pressed retry.
    pub replaces: Option<ReplyId>,
    /// How it was generated; `None` for text that was handed in.
    pub generation: Option<Generation>,
}

/// How a reply was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Hash of the base model.
    pub model: String,
    /// Hash of the chat template.
    pub template_hash: String,
    /// The adapter that was active; `None` for the base alone.
    pub adapter: Option<AdapterId>,
    /// How many tokens of the prompt precede `prompt_tokens`: those shared with the previous turn.
    pub prompt_offset: u32,
    /// The prompt's tokens from `prompt_offset` on.
    pub prompt_tokens: Vec<i32>,
    /// The tokens generated, the end token included if there was one.
    pub completion_tokens: Vec<i32>,
    /// How they were drawn.
    pub sampling: Sampling,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// What it consumed.
    pub usage: Usage,
}

/// A recorded reply.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredReply {
    /// Its id.
    pub id: ReplyId,
    /// Its turn, if it belongs to a stored conversation.
    pub message: Option<MessageId>,
    /// The whole prompt.
    pub prompt: Vec<Message>,
    /// [`prompt_key`] of the prompt: equal for all replies of one group.
    pub prompt_key: [u8; 32],
    /// Its text.
    pub text: String,
    /// The reply whose place it took.
    pub replaces: Option<ReplyId>,
    /// How it was generated; `None` for text that was handed in.
    pub generation: Option<Generation>,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

impl Store {
    /// Records a reply. In a conversation it becomes the last turn.
    ///
    /// Pressing retry is two calls: [`crate::types::Feedback::Retry`] on the old reply at once, and
    /// then this one with `replaces` for the new reply, so that a crash in between loses neither.
    pub fn record_reply(&self, reply: NewReply) -> Result<ReplyId> {
        self.write(Durability::Normal, |db| insert(db, &reply))
    }

    /// A reply by its id.
    pub fn reply(&self, id: ReplyId) -> Result<StoredReply> {
        self.read(|db| load(db, id))
    }

    /// Every reply to the same prompt, oldest first, the given one included.
    pub fn replies_to_same_prompt(&self, id: ReplyId) -> Result<Vec<ReplyId>> {
        self.read(|db| {
            let key = prompt_key_of(db, id)?;
            let mut statement =
                db.prepare_cached("SELECT id FROM replies WHERE prompt_key = ? ORDER BY id")?;
            Ok(statement
                .query_map([key], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?)
        })
    }
}

pub(super) fn insert(db: &Connection, reply: &NewReply) -> Result<ReplyId> {
    let now = now_ms();
    let messages = match &reply.prompt {
        Prompt::Messages(messages) => messages.clone(),
        Prompt::Turn { parent, .. } => conversations::chain(db, *parent)?,
    };
    if messages.is_empty() {
        return Err(StoreError::Empty { what: "the prompt" });
    }
    let key = prompt_key(&messages);
    if let Some(replaced) = reply.replaces
        && prompt_key_of(db, replaced)? != key
    {
        return Err(StoreError::OtherPrompt(replaced));
    }
    let (message, prompt) = match &reply.prompt {
        Prompt::Messages(messages) => (None, Some(to_json(messages))),
        Prompt::Turn {
            conversation,
            parent,
        } => {
            let answer = Message::assistant(&reply.text);
            let message = conversations::insert_message(db, *conversation, Some(*parent), &answer)?;
            (Some(message), None)
        }
    };
    let generation = reply.generation.as_ref();
    let model = generation
        .map(|generation| model_row(db, &generation.model, now))
        .transpose()?;
    if let Some(adapter) = generation.and_then(|generation| generation.adapter) {
        let known = db
            .prepare_cached("SELECT 1 FROM adapters WHERE id = ?")?
            .exists([adapter])?;
        if !known {
            return Err(StoreError::UnknownAdapter(adapter));
        }
    }
    db.prepare_cached(
        "INSERT INTO replies (message, prompt_key, replaces, created_at, text, prompt, model, adapter, template_hash,
             prompt_offset, prompt_tokens, completion_tokens, sampling, stop_reason, usage)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        message,
        key,
        reply.replaces,
        now,
        reply.text,
        prompt,
        model,
        generation.and_then(|generation| generation.adapter),
        generation.map(|generation| &generation.template_hash),
        generation.map(|generation| generation.prompt_offset),
        generation.map(|generation| tokens_to_blob(&generation.prompt_tokens)),
        generation.map(|generation| tokens_to_blob(&generation.completion_tokens)),
        generation.map(|generation| to_json(&generation.sampling)),
        generation.map(|generation| to_json(&generation.stop_reason)),
        generation.map(|generation| to_json(&generation.usage)),
    ])?;
    let id = ReplyId(db.last_insert_rowid());
    if message.is_none() {
        let mut quote =
            db.prepare_cached("INSERT OR IGNORE INTO quotes (exchange, reply) VALUES (?, ?)")?;
        for exchange in exchanges(&messages) {
            quote.execute(params![exchange, id])?;
        }
    }
    Ok(id)
}

pub(super) fn load(db: &Connection, id: ReplyId) -> Result<StoredReply> {
    type Columns = (
        (
            Option<MessageId>,
            [u8; 32],
            Option<ReplyId>,
            i64,
            String,
            Option<String>,
        ),
        (
            Option<String>,
            Option<AdapterId>,
            Option<String>,
            Option<u32>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
        ),
        (Option<String>, Option<String>, Option<String>),
    );
    let columns: Option<Columns> = db
        .prepare_cached(
            "SELECT message, prompt_key, replaces, created_at, text, prompt,
                 (SELECT hash FROM models WHERE models.id = model), adapter, template_hash, prompt_offset,
                 prompt_tokens, completion_tokens, sampling, stop_reason, usage
             FROM replies WHERE id = ?",
        )?
        .query_row([id], |row| {
            Ok((
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?),
                (row.get(6)?, row.get(7)?, row.get(8)?, row.get(9)?, row.get(10)?, row.get(11)?),
                (row.get(12)?, row.get(13)?, row.get(14)?),
            ))
        })
        .optional()?;
    let Some((place, origin, json)) = columns else {
        return Err(StoreError::UnknownReply(id));
    };
    let (message, prompt_key, replaces, created_at, text, prompt) = place;
    let unreadable = StoreError::Unreadable {
        table: "replies",
        id: id.0,
    };
    let prompt = match (message, prompt) {
        (_, Some(json)) => from_json(&json, "replies", id.0)?,
        (Some(message), None) => conversations::chain_before(db, message)?,
        (None, None) => return Err(unreadable),
    };
    let generation = match (origin, json) {
        ((None, ..), _) => None,
        (
            (
                Some(model),
                adapter,
                Some(template_hash),
                Some(prompt_offset),
                Some(prompt),
                Some(completion),
            ),
            (Some(sampling), Some(stop_reason), Some(usage)),
        ) => Some(Generation {
            model,
            template_hash,
            adapter,
            prompt_offset,
            prompt_tokens: tokens_from_blob(&prompt),
            completion_tokens: tokens_from_blob(&completion),
            sampling: from_json(&sampling, "replies", id.0)?,
            stop_reason: from_json(&stop_reason, "replies", id.0)?,
            usage: from_json(&usage, "replies", id.0)?,
        }),
        _ => return Err(unreadable),
    };
    Ok(StoredReply {
        id,
        message,
        prompt,
        prompt_key,
        text,
        replaces,
        generation,
        created_at,
    })
}

pub(super) fn prompt_key_of(db: &Connection, id: ReplyId) -> Result<[u8; 32]> {
    db.prepare_cached("SELECT prompt_key FROM replies WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?
        .ok_or(StoreError::UnknownReply(id))
}

/// The exchanges that a prompt holds: each turn of the assistant with the question before it.
fn exchanges(prompt: &[Message]) -> impl Iterator<Item = [u8; 32]> + '_ {
    prompt
        .iter()
        .enumerate()
        .filter(|(_, message)| message.role == Role::Assistant)
        .map(|(at, answer)| {
            let question = at.checked_sub(1).map(|before| &prompt[before]);
            exchange(
                question.filter(|message| message.role == Role::User),
                &answer.content,
            )
        })
}

/// How a later prompt may quote an answer: after its question, or without it where an app has cut
/// off the beginning of its chat.
pub(super) fn exchanges_quoting(prompt: &[Message], answer: &str) -> [[u8; 32]; 2] {
    let question = prompt.last().filter(|message| message.role == Role::User);
    [exchange(question, answer), exchange(None, answer)]
}

fn exchange(question: Option<&Message>, answer: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"thumbprint exchange 1");
    if let Some(question) = question {
        update_with_length(&mut hash, question.content.as_bytes());
    }
    update_with_length(&mut hash, answer.as_bytes());
    hash.finalize().into()
}

pub(super) fn model_row(db: &Connection, hash: &str, now: i64) -> Result<i64> {
    db.prepare_cached("INSERT OR IGNORE INTO models (hash, first_seen_at) VALUES (?, ?)")?
        .execute(params![hash, now])?;
    Ok(db
        .prepare_cached("SELECT id FROM models WHERE hash = ?")?
        .query_row([hash], |row| row.get(0))?)
}
