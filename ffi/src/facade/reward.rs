//! What replies are worth.

use std::sync::Arc;

use thumbprint::ReplyId;
use thumbprint::reward::HeadOptions;

use crate::canceller::{Canceller, of};
use crate::translate::Translate;
use crate::{Head, Judge, Message, Result, Score, Thumbprint};

#[uniffi::export]
impl Thumbprint {
    /// What a stored reply is worth. One that the model at hand wrote is scored by its own tokens, any other by its text.
    #[uniffi::method(default(judge = None))]
    pub fn score(&self, reply: ReplyId, judge: Option<Judge>) -> Result<Score> {
        let judge = judge.translate().unwrap_or_default();
        let score = self.handle.core()?.score(reply, judge);
        Ok(score
            .map_err(|error| self.handle.explain(error))?
            .translate())
    }

    /// What any reply to a conversation is worth, as one that the model ended itself.
    #[uniffi::method(default(judge = None))]
    pub fn score_text(
        &self,
        messages: Vec<Message>,
        text: String,
        judge: Option<Judge>,
    ) -> Result<Score> {
        let messages: Vec<thumbprint::Message> = messages.translate();
        let judge = judge.translate().unwrap_or_default();
        let score = self.handle.core()?.score_text(&messages, &text, judge);
        Ok(score
            .map_err(|error| self.handle.explain(error))?
            .translate())
    }

    /// Fits a head on the feedback in effect, in the place of the one before: a forward pass over every reply that was judged. It goes as
    /// soon as one of the events that it was fitted on is forgotten. `l2` is the ridge, above 0; by default it is chosen.
    #[uniffi::method(default(l2 = None, canceller = None))]
    pub fn fit_head(&self, l2: Option<f64>, canceller: Option<Arc<Canceller>>) -> Result<Head> {
        let core = self.handle.core()?;
        let head = core.fit_head(&HeadOptions { l2 }, &of(canceller));
        Ok(head
            .map_err(|error| self.handle.explain(error))?
            .translate())
    }

    /// The head of the model at hand, if one was fitted. Never loads a model.
    pub fn head(&self) -> Result<Option<Head>> {
        Ok(self.handle.core()?.head()?.translate())
    }

    /// Drops the head of the model at hand; whether there was one. Never loads a model.
    pub fn drop_head(&self) -> Result<bool> {
        Ok(self.handle.core()?.drop_head()?)
    }
}
