//! Stored chats: a thin layer over [`Thumbprint::generate`](crate::Thumbprint::generate).

use crate::engine::GenerateOptions;
use crate::error::{Error, Result};
use crate::facade::Thumbprint;
use crate::generation::{By, Generation, Request};
use crate::store::{self, Prompt, StoredMessage};
use crate::types::{ConversationId, Feedback, Message, MessageId, ReplyId, Role};

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

    /// Says something and starts the reply to it.
    ///
    /// # Errors
    /// Of the engine, or of the store. What was said is stored even then.
    pub fn send(&self, text: &str, options: GenerateOptions) -> Result<Generation> {
        let parent = self.store().append_message(self.id, &Message::user(text))?;
        self.reply_to(parent, None, options)
    }

    /// Takes the last reply back and answers again. The old reply stays in the log, with a [`Feedback::Retry`] on it.
    ///
    /// # Errors
    /// [`Error::NothingToRegenerate`] without a reply; else as [`send`](Self::send).
    pub fn regenerate(&self, options: GenerateOptions) -> Result<Generation> {
        let messages = self.messages()?;
        let last = messages.last().filter(|message| message.message.role == Role::Assistant);
        let (Some(old), Some(parent)) = (last.and_then(|m| m.reply), last.and_then(|m| m.parent)) else {
            return Err(Error::NothingToRegenerate);
        };
        self.thumbprint.record(old, &Feedback::Retry)?;
        self.store().rewind_conversation(self.id, Some(parent))?;
        self.reply_to(parent, Some(old), options)
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

    fn reply_to(
        &self,
        parent: MessageId,
        replaces: Option<ReplyId>,
        options: GenerateOptions,
    ) -> Result<Generation> {
        let messages = self.messages()?.into_iter().map(|m| m.message).collect();
        let request = Request { messages, options, replaces, by: By::Active };
        let prompt = Prompt::Turn { conversation: self.id, parent };
        self.thumbprint.generate_for(request, prompt)
    }

    fn store(&self) -> &store::Store {
        self.thumbprint.store()
    }
}
