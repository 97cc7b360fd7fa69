//! Forgetting: an item, what quotes it, and everything that was made of it, until no byte is left
//! in any file.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::sql::now_ms;
use super::{Result, Store, StoreError, adapters, conversations, heads, replies};
use crate::types::{AdapterId, ConversationId, FeedbackId, MessageId, ReplyId, Role, RunId};

/// What to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An event and the reply that it was given on (for a pick or a ranking, also the other replies in
    /// it, unless something else was said about them).
    Feedback(FeedbackId),
    /// A reply and all feedback on it, picks and rankings in which it took part included.
    Reply(ReplyId),
    /// A conversation, with every branch of it.
    Conversation(ConversationId),
    /// All that anybody ever said here, and every adapter. Models and settings stay.
    Everything,
}

/// What was forgotten, and what is left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forgotten {
    /// Events erased, withdrawals included.
    pub feedback: Vec<FeedbackId>,
    /// Replies erased, later ones that quoted the item included.
    pub replies: Vec<ReplyId>,
    /// Turns of conversations erased.
    pub messages: usize,
    /// Votes erased, and side-by-sides.
    pub votes: usize,
    /// Base models whose reward head was fitted on an erased event: it is gone.
    pub heads: Vec<String>,
    /// Adapters that had seen an erased event: never to be served again.
    pub adapters: Vec<AdapterId>,
    /// Runs that had seen one: never to be continued.
    pub runs: Vec<RunId>,
    /// Base models whose active adapter was among them, with what they are served with from now on.
    pub served: Vec<(String, Option<AdapterId>)>,
    /// Files and folders to delete now, relative to the data folder: adapters and checkpoints.
    /// Report them with [`Store::confirm_deleted`]; until then [`Store::pending_deletions`] lists
    /// them, also after a crash.
    pub delete: Vec<PathBuf>,
}

impl Store {
    /// Forgets. Erased are the target, later turns whose prompt holds it, cached log-probabilities
    /// and votes about any of these; marked as forgotten is every adapter and run that learnt from
    /// an erased event. Deleted content is overwritten and the write-ahead log emptied before this
    /// returns.
    pub fn forget(&self, target: Target) -> Result<Forgotten> {
        self.erase(|db| {
            let doomed = match target {
                Target::Everything => Doomed::everything(db)?,
                Target::Feedback(id) => Doomed::from_reply(db, reply_of_feedback(db, id)?)?,
                Target::Reply(id) => {
                    replies::prompt_key_of(db, id)?;
                    Doomed::from_reply(db, id)?
                }
                Target::Conversation(id) => Doomed::from_conversation(db, id)?,
            };
            doomed.erase(db)
        })
    }

    /// Files and folders that forgetting has condemned and nobody has confirmed as deleted.
    pub fn pending_deletions(&self) -> Result<Vec<PathBuf>> {
        self.read(|db| {
            let paths: Vec<String> =
                column(db, "SELECT path FROM pending_deletions ORDER BY path", [])?;
            Ok(paths.into_iter().map(PathBuf::from).collect())
        })
    }

    /// Confirms that a file or folder is gone.
    pub fn confirm_deleted(&self, path: &Path) -> Result<()> {
        self.erase(|db| {
            db.execute(
                "DELETE FROM pending_deletions WHERE path = ?",
                [path.to_string_lossy()],
            )?;
            Ok(())
        })
    }
}

/// The rows to erase.
#[derive(Default)]
struct Doomed {
    replies: BTreeSet<ReplyId>,
    messages: BTreeSet<MessageId>,
    conversations: Vec<ConversationId>,
    /// Every adapter, whatever it learned from: one that was taken in does not say.
    adapters: bool,
}

impl Doomed {
    fn everything(db: &Connection) -> Result<Self> {
        Ok(Self {
            replies: column(db, "SELECT id FROM replies", [])?
                .into_iter()
                .collect(),
            messages: column(db, "SELECT id FROM messages", [])?
                .into_iter()
                .collect(),
            conversations: column(db, "SELECT id FROM conversations", [])?,
            adapters: true,
        })
    }

    fn from_reply(db: &Connection, reply: ReplyId) -> Result<Self> {
        let mut doomed = Self::default();
        doomed.spread(db, vec![reply])?;
        doomed.add_unanswered_questions(db)?;
        Ok(doomed)
    }

    fn from_conversation(db: &Connection, id: ConversationId) -> Result<Self> {
        if !db
            .prepare_cached("SELECT 1 FROM conversations WHERE id = ?")?
            .exists([id])?
        {
            return Err(StoreError::UnknownConversation(id));
        }
        let mut doomed = Self {
            conversations: vec![id],
            ..Self::default()
        };
        let mut answered = Vec::new();
        // Of the turns it shares with another one, those whose own conversation was deleted are its
        // now.
        let turns = "WITH RECURSIVE chain(id) AS (
                SELECT head FROM conversations WHERE id = ?1 AND head IS NOT NULL
                UNION SELECT m.parent FROM messages m JOIN chain USING (id) WHERE m.parent IS NOT NULL)
            SELECT m.id FROM messages m JOIN chain USING (id) WHERE m.conversation IS NULL
            UNION SELECT id FROM messages WHERE conversation = ?1";
        for message in column(db, turns, [id])? {
            doomed.add_subtree(db, message, &mut answered)?;
        }
        doomed.spread(db, answered)?;
        Ok(doomed)
    }

    /// Adds replies, and whatever quotes them, until nothing more does.
    fn spread(&mut self, db: &Connection, mut waiting: Vec<ReplyId>) -> Result<()> {
        while let Some(id) = waiting.pop() {
            if !self.replies.insert(id) {
                continue;
            }
            let reply = replies::load(db, id)?;
            let edits: Vec<String> = column(
                db,
                "SELECT body FROM feedback WHERE reply = ? AND kind = 'edit'",
                [id],
            )?;
            if let Some(message) = reply.message {
                // An edited answer may stand beside the original, with a chat of its own after it.
                let siblings = "SELECT b.id FROM messages a JOIN messages b ON b.parent = a.parent
                                WHERE a.id = ?1 AND b.role = 'assistant' AND b.content = ?2";
                for edit in &edits {
                    for sibling in column(db, siblings, params![message, edit])? {
                        self.add_subtree(db, sibling, &mut waiting)?;
                    }
                }
                self.add_subtree(db, message, &mut waiting)?;
            }
            for text in edits.iter().chain([&reply.text]) {
                let [quoted, cut_off] = replies::exchanges_quoting(&reply.prompt, text);
                waiting.extend(column::<ReplyId>(
                    db,
                    "SELECT reply FROM quotes WHERE exchange IN (?, ?)",
                    [quoted, cut_off],
                )?);
            }
            // The losers of a pick or a ranking are part of the item, unless they are part of another one too.
            let losers = "WITH losers(id) AS (
                    SELECT other FROM feedback WHERE reply = ?1 AND other IS NOT NULL
                    UNION SELECT r.reply FROM ranked r JOIN feedback f ON f.id = r.feedback WHERE f.reply = ?1)
                SELECT id FROM losers WHERE
                    NOT EXISTS (SELECT 1 FROM feedback f WHERE f.reply = losers.id)
                    AND NOT EXISTS (SELECT 1 FROM feedback f WHERE f.other = losers.id AND f.reply <> ?1)
                    AND NOT EXISTS (SELECT 1 FROM ranked r JOIN feedback f ON f.id = r.feedback
                        WHERE r.reply = losers.id AND f.reply <> ?1)";
            waiting.extend(column::<ReplyId>(db, losers, [id])?);
            // And so is the other side of a blind comparison.
            let others = "SELECT CASE left_reply WHEN ?1 THEN right_reply ELSE left_reply END AS side FROM matches
                WHERE (left_reply = ?1 OR right_reply = ?1)
                AND NOT EXISTS (SELECT 1 FROM feedback f WHERE f.reply = side OR f.other = side)";
            waiting.extend(column::<ReplyId>(db, others, [id])?);
        }
        Ok(())
    }

    /// Adds a turn and every turn after it; replies among them are left to [`Self::spread`].
    fn add_subtree(
        &mut self,
        db: &Connection,
        root: MessageId,
        found: &mut Vec<ReplyId>,
    ) -> Result<()> {
        let subtree = "WITH RECURSIVE tree(id) AS (
                SELECT ?1 UNION SELECT m.id FROM messages m JOIN tree ON m.parent = tree.id)
            SELECT id FROM tree";
        for message in column(db, subtree, [root])? {
            self.messages.insert(message);
            found.extend(column::<ReplyId>(
                db,
                "SELECT id FROM replies WHERE message = ?",
                [message],
            )?);
        }
        Ok(())
    }

    /// A question goes with its only answer.
    fn add_unanswered_questions(&mut self, db: &Connection) -> Result<()> {
        let mut parents = BTreeSet::new();
        for &message in &self.messages {
            parents.extend(column::<MessageId>(
                db,
                "SELECT p.id FROM messages m JOIN messages p ON p.id = m.parent WHERE m.id = ? AND p.role = 'user'
                     AND NOT EXISTS (SELECT 1 FROM conversations WHERE head = p.id)",
                [message],
            )?);
        }
        for parent in parents {
            let children: Vec<MessageId> =
                column(db, "SELECT id FROM messages WHERE parent = ?", [parent])?;
            if children.iter().all(|child| self.messages.contains(child)) {
                self.messages.insert(parent);
            }
        }
        Ok(())
    }

    fn erase(self, db: &Connection) -> Result<Forgotten> {
        let mut forgotten = Forgotten::default();
        let mut feedback = BTreeSet::new();
        for &reply in &self.replies {
            feedback.extend(column::<FeedbackId>(
                db,
                "SELECT id FROM feedback WHERE reply = ?1 OR other = ?1
                 UNION SELECT feedback FROM ranked WHERE reply = ?1",
                [reply],
            )?);
        }
        // A pick or a ranking of a reply that stays, over one that goes, may have been withdrawn.
        for id in feedback.clone() {
            feedback.extend(column::<FeedbackId>(
                db,
                "SELECT id FROM feedback WHERE withdraws = ?",
                [id],
            )?);
        }
        let adapters = match self.adapters {
            true => column(db, "SELECT id FROM adapters WHERE state <> 'forgotten'", [])?,
            false => adapters_that_saw(db, &feedback)?,
        };
        condemn_adapters(db, adapters, &mut forgotten)?;
        condemn_runs(db, &feedback, &mut forgotten)?;

        for item in &feedback {
            forgotten.heads.extend(heads::drop_fitted_on(db, *item)?);
        }
        for &reply in &self.replies {
            forgotten.votes += db
                .prepare_cached("DELETE FROM matches WHERE left_reply = ?1 OR right_reply = ?1")?
                .execute([reply])?;
            forgotten.votes += db
                .prepare_cached(
                    "DELETE FROM votes WHERE candidate_reply = ?1 OR baseline_reply = ?1",
                )?
                .execute([reply])?;
        }
        // A withdrawal has a larger id than what it withdraws.
        for id in feedback.iter().rev() {
            db.prepare_cached("DELETE FROM feedback WHERE id = ?")?
                .execute([id])?;
        }
        for reply in &self.replies {
            db.prepare_cached("DELETE FROM replies WHERE id = ?")?
                .execute([reply])?;
        }
        self.move_heads(db)?;
        // A turn has a larger id than the one before it.
        for message in self.messages.iter().rev() {
            db.prepare_cached("DELETE FROM messages WHERE id = ?")?
                .execute([message])?;
        }
        for conversation in &self.conversations {
            db.prepare_cached("DELETE FROM conversations WHERE id = ?")?
                .execute([conversation])?;
        }
        conversations::delete_unowned(db)?;
        forgotten.feedback = feedback.into_iter().collect();
        forgotten.messages = self.messages.len();
        forgotten.replies = self.replies.into_iter().collect();
        Ok(forgotten)
    }

    /// Conversations whose last turn goes show what is left before it. A title may quote the first
    /// turn.
    fn move_heads(&self, db: &Connection) -> Result<()> {
        for &message in &self.messages {
            for conversation in column::<ConversationId>(
                db,
                "SELECT id FROM conversations WHERE head = ?",
                [message],
            )? {
                let mut head = Some(message);
                while let Some(doomed) = head.filter(|head| self.messages.contains(head)) {
                    head = db
                        .prepare_cached("SELECT parent FROM messages WHERE id = ?")?
                        .query_row([doomed], |row| row.get(0))?;
                }
                let left = head
                    .map(|head| conversations::chain(db, head))
                    .transpose()?
                    .unwrap_or_default();
                let title_may_stay = left.iter().any(|message| message.role == Role::User);
                db.prepare_cached(
                    "UPDATE conversations SET head = ?, title = iif(?, title, NULL) WHERE id = ?",
                )?
                .execute(params![head, title_may_stay, conversation])?;
            }
        }
        Ok(())
    }
}

fn reply_of_feedback(db: &Connection, id: FeedbackId) -> Result<ReplyId> {
    db.prepare_cached("SELECT reply FROM feedback WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?
        .ok_or(StoreError::UnknownFeedback(id))
}

fn adapters_that_saw(db: &Connection, feedback: &BTreeSet<FeedbackId>) -> Result<Vec<AdapterId>> {
    let mut saw = BTreeSet::new();
    for item in feedback {
        saw.extend(column::<AdapterId>(
            db,
            "SELECT adapter FROM adapter_items WHERE feedback = ?",
            [item],
        )?);
    }
    Ok(saw.into_iter().collect())
}

/// Marks adapters as forgotten, and serves their bases with something else.
fn condemn_adapters(
    db: &Connection,
    condemned: Vec<AdapterId>,
    forgotten: &mut Forgotten,
) -> Result<()> {
    let mut bases = HashSet::new();
    for &id in &condemned {
        let (base, file): (String, String) = db.query_row(
            "UPDATE adapters SET state = 'forgotten', manifest = 'null', gate = NULL WHERE id = ?
             RETURNING base_hash, file",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        condemn_file(db, file, forgotten)?;
        db.execute("DELETE FROM adapter_items WHERE adapter = ?", [id])?;
        db.execute("DELETE FROM decisions WHERE adapter = ?", [id])?;
        forgotten.votes += db.execute(
            "DELETE FROM matches WHERE left_adapter = ?1 OR right_adapter = ?1",
            [id],
        )?;
        if adapters::active(db, &base)? == Some(id) {
            bases.insert(base);
        }
    }
    for base in bases {
        let next = adapters::fall_back(db, &base, "forget")?;
        forgotten.served.push((base, next));
    }
    forgotten.served.sort();
    forgotten.adapters = condemned;
    Ok(())
}

/// Marks the runs that learnt from an erased event, and drops what they left.
fn condemn_runs(
    db: &Connection,
    feedback: &BTreeSet<FeedbackId>,
    forgotten: &mut Forgotten,
) -> Result<()> {
    let mut condemned = BTreeSet::new();
    for item in feedback {
        condemned.extend(column::<RunId>(
            db,
            "SELECT run FROM run_items WHERE feedback = ?",
            [item],
        )?);
    }
    for &id in &condemned {
        let checkpoint: Option<String> =
            db.query_row("SELECT checkpoint FROM runs WHERE id = ?", [id], |row| {
                row.get(0)
            })?;
        if let Some(checkpoint) = checkpoint {
            condemn_file(db, checkpoint, forgotten)?;
        }
        db.execute(
            "UPDATE runs SET state = 'forgotten', checkpoint = NULL, outcome = NULL, updated_at = ? WHERE id = ?",
            params![now_ms(), id],
        )?;
        db.execute("DELETE FROM run_steps WHERE run = ?", [id])?;
        db.execute("DELETE FROM run_items WHERE run = ?", [id])?;
        db.execute("DELETE FROM decisions WHERE run = ?", [id])?;
    }
    forgotten.runs = condemned.into_iter().collect();
    Ok(())
}

fn condemn_file(db: &Connection, path: String, forgotten: &mut Forgotten) -> Result<()> {
    db.execute(
        "INSERT OR IGNORE INTO pending_deletions (path) VALUES (?)",
        [&path],
    )?;
    forgotten.delete.push(path.into());
    Ok(())
}

/// The first column of every row of a query.
fn column<T: FromSql>(db: &Connection, query: &str, parameters: impl Params) -> Result<Vec<T>> {
    let mut statement = db.prepare_cached(query)?;
    Ok(statement
        .query_map(parameters, |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}
