//! Stored chats: a thin layer over [`Thumbprint::generate`](crate::Thumbprint::generate).

use crate::engine::{Canceller, EngineError, GenerateOptions};
use crate::error::{Error, Result};
use crate::facade::{Contest, Match, Thumbprint};
use crate::generation::{By, Generation, Request};
use crate::store::{self, Prompt, StoredMessage};
use crate::types::{ConversationId, Feedback, FeedbackId, Message, MessageId, ReplyId, Role};

/// A stored chat.
#[derive(Clone)]
pub struct Conversation {
    thumbprint: Thumbprint,
    id: ConversationId,
}

impl Conversation {
    pub(crate) fn new(thumbprint: Thumbprint, id: ConversationId) -> Self {
        Self { thumbprint, id }
    }

    /// Its id, to open it again.
    pub fn id(&self) -> ConversationId {
        self.id
    }

    /// Its turns, the first one first.
    ///
    /// # Errors
    /// Of the store.
    pub fn messages(&self) -> Result<Vec<StoredMessage>> {
        Ok(self.store().messages(self.id)?)
    }

    /// Adds a turn that is not answered: instructions at the beginning, say.
    ///
    /// # Errors
    /// Of the store.
    pub fn append(&self, message: &Message) -> Result<MessageId> {
        Ok(self.store().append_message(self.id, message)?)
    }

    /// Says something and starts the reply to it. What was said before and never answered (it was too long, or the process
    /// ended) is left out of the chat from now on: most models know no two turns of the user in a row.
    ///
    /// # Errors
    /// [`EngineError::EmptyPrompt`] for blank text; of the engine, or of the store. What was said is stored even then, except
    /// when it is blank.
    pub fn send(&self, text: &str, options: GenerateOptions) -> Result<Generation> {
        let parent = self.say(text)?;
        self.reply_to(parent, None, options)
    }

    /// Takes the last reply back and answers again. The old reply stays in the log, with a [`Feedback::Retry`] on it. A last
    /// message that was never answered is answered now.
    ///
    /// # Errors
    /// [`Error::NothingToRegenerate`] without a reply of this library's or a message; else as [`send`](Self::send).
    pub fn regenerate(&self, options: GenerateOptions) -> Result<Generation> {
        let messages = self.messages()?;
        let last = messages.last().ok_or(Error::NothingToRegenerate)?;
        if last.message.role == Role::User {
            return self.reply_to(last.id, None, options);
        }
        let (Some(old), Some(parent)) = (last.reply, last.parent) else {
            return Err(Error::NothingToRegenerate);
        };
        self.thumbprint.record(old, &Feedback::Retry)?;
        self.store().rewind_conversation(self.id, Some(parent))?;
        self.reply_to(parent, Some(old), options)
    }

    /// Says something, and two contestants answer side by side ([`Thumbprint::side_by_side`]). The left reply is the last turn until a
    /// vote for the right one ([`Thumbprint::vote`]).
    ///
    /// # Errors
    /// [`EngineError::EmptyPrompt`] for blank text; else as [`Thumbprint::side_by_side`]. What was said is stored even then, except when
    /// it is blank.
    pub fn side_by_side(
        &self,
        text: &str,
        contest: &Contest,
        canceller: &Canceller,
    ) -> Result<Match> {
        let parent = self.say(text)?;
        let messages = self.messages()?.into_iter().map(|m| m.message).collect();
        let prompt = Prompt::Turn {
            conversation: self.id,
            parent,
        };
        self.thumbprint
            .side_by_side_for(messages, prompt, contest, canceller)
    }

    /// Records what the person wants instead of the last reply, and goes on from that.
    ///
    /// # Errors
    /// [`Error::NothingToEdit`] without a reply; of the store when `text` is blank.
    pub fn edit(&self, text: &str) -> Result<FeedbackId> {
        let messages = self.messages()?;
        let last = messages.last().ok_or(Error::NothingToEdit)?;
        let (Some(reply), Some(parent)) = (last.reply, last.parent) else {
            return Err(Error::NothingToEdit);
        };
        let feedback = self
            .thumbprint
            .record(reply, &Feedback::Edit(text.to_owned()))?;
        self.store().rewind_conversation(self.id, Some(parent))?;
        self.append(&Message::assistant(text))?;
        Ok(feedback)
    }

    /// A new conversation that shares the turns up to and including `upto`.
    ///
    /// # Errors
    /// Of the store.
    pub fn branch(&self, upto: MessageId, title: Option<&str>) -> Result<Self> {
        let id = self.store().branch_conversation(upto, title)?;
        Ok(Self::new(self.thumbprint.clone(), id))
    }

    /// Gives it a title, or takes it away.
    ///
    /// # Errors
    /// Of the store.
    pub fn rename(&self, title: Option<&str>) -> Result<()> {
        Ok(self.store().rename_conversation(self.id, title)?)
    }

    /// Deletes it. Turns that feedback rests on stay until they are forgotten.
    ///
    /// # Errors
    /// Of the store.
    pub fn delete(self) -> Result<()> {
        Ok(self.store().delete_conversation(self.id)?)
    }

    /// Adds the person's turn, leaving out one that was never answered.
    fn say(&self, text: &str) -> Result<MessageId> {
        if text.trim().is_empty() {
            return Err(EngineError::EmptyPrompt.into());
        }
        let messages = self.messages()?;
        if let Some(unanswered) = messages
            .last()
            .filter(|last| last.message.role == Role::User)
        {
            self.store()
                .rewind_conversation(self.id, unanswered.parent)?;
        }
        self.append(&Message::user(text))
    }

    fn reply_to(
        &self,
        parent: MessageId,
        replaces: Option<ReplyId>,
        options: GenerateOptions,
    ) -> Result<Generation> {
        let messages = self.messages()?.into_iter().map(|m| m.message).collect();
        let request = Request {
            messages,
            options,
            replaces,
            by: By::Active,
        };
        let prompt = Prompt::Turn {
            conversation: self.id,
            parent,
        };
        self.thumbprint.generate_for(request, prompt)
    }

    fn store(&self) -> &store::Store {
        self.thumbprint.store()
    }
}
