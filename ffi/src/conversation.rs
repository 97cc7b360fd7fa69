//! Stored chats.

use std::sync::Arc;

use thumbprint::types::MessageId;
use thumbprint::{ConversationId, FeedbackId};

use crate::canceller::{Canceller, of};
use crate::handle::Handle;
use crate::translate::Translate;
use crate::{
    Contest, ConversationInfo, GenerateOptions, Generation, Match, Message, Result, StoredMessage,
};

/// A stored chat.
#[derive(uniffi::Object)]
pub struct Conversation {
    handle: Arc<Handle>,
    id: ConversationId,
}

impl Conversation {
    pub(crate) fn new(handle: &Arc<Handle>, id: Option<ConversationId>) -> Result<Arc<Self>> {
        let id = handle.core()?.conversation(id)?.id();
        Ok(Self::of(handle, id))
    }

    fn of(handle: &Arc<Handle>, id: ConversationId) -> Arc<Self> {
        Arc::new(Self {
            handle: Arc::clone(handle),
            id,
        })
    }

    fn core(&self) -> Result<thumbprint::Conversation> {
        Ok(self.handle.core()?.conversation(Some(self.id))?)
    }
}

#[uniffi::export]
impl Conversation {
    /// Its id, to open it again.
    pub fn id(&self) -> ConversationId {
        self.id
    }

    /// Its title and when it was used.
    pub fn info(&self) -> Result<ConversationInfo> {
        let info = self.handle.core()?.store().conversation(self.id);
        Ok(info.map_err(thumbprint::Error::from)?.translate())
    }

    /// Its turns, the first one first.
    pub fn messages(&self) -> Result<Vec<StoredMessage>> {
        Ok(self.core()?.messages()?.translate())
    }

    /// Adds a turn that is not answered: instructions at the beginning, say.
    pub fn append(&self, message: Message) -> Result<MessageId> {
        Ok(self.core()?.append(&message.translate())?)
    }

    /// Says something and starts the reply to it. What was said before and never answered is left out of the chat from now on.
    #[uniffi::method(default(options = None))]
    pub fn send(&self, text: String, options: Option<GenerateOptions>) -> Result<Arc<Generation>> {
        let options = options.unwrap_or_default().translate();
        let conversation = self.core()?;
        self.handle
            .generation(|_| conversation.send(&text, options))
    }

    /// Takes the last reply back and answers again. The old reply stays in the log, with a `Retry` on it. A last message that was
    /// never answered is answered now.
    #[uniffi::method(default(options = None))]
    pub fn regenerate(&self, options: Option<GenerateOptions>) -> Result<Arc<Generation>> {
        let options = options.unwrap_or_default().translate();
        let conversation = self.core()?;
        self.handle.generation(|_| conversation.regenerate(options))
    }

    /// Says something, and two contestants answer side by side. Waits for both. The left reply is the last turn until a vote for the right
    /// one. What was said is kept even where it is cancelled.
    #[uniffi::method(default(canceller = None))]
    pub fn side_by_side(
        &self,
        text: String,
        contest: Contest,
        canceller: Option<Arc<Canceller>>,
    ) -> Result<Match> {
        let made = self
            .core()?
            .side_by_side(&text, &contest.translate(), &of(canceller));
        Ok(made
            .map_err(|error| self.handle.explain(error))?
            .translate())
    }

    /// Records what the person wants instead of the last reply, and goes on from that.
    pub fn edit(&self, text: String) -> Result<FeedbackId> {
        Ok(self.core()?.edit(&text)?)
    }

    /// A new conversation that shares the turns up to and including `upto`.
    #[uniffi::method(default(title = None))]
    pub fn branch(&self, upto: MessageId, title: Option<String>) -> Result<Arc<Self>> {
        let branch = self.core()?.branch(upto, title.as_deref())?;
        Ok(Self::of(&self.handle, branch.id()))
    }

    /// Gives it a title, or takes it away.
    pub fn rename(&self, title: Option<String>) -> Result<()> {
        Ok(self.core()?.rename(title.as_deref())?)
    }

    /// Deletes it. Turns that feedback rests on stay until they are forgotten.
    pub fn delete(&self) -> Result<()> {
        Ok(self.core()?.delete()?)
    }
}
