//! Blind side-by-sides.

use std::sync::Arc;

use thumbprint::MatchId;

use crate::canceller::{Canceller, of};
use crate::translate::Translate;
use crate::{ArenaResults, Choice, Contest, Match, Message, Result, Thumbprint, Voted};

#[uniffi::export]
impl Thumbprint {
    /// Two contestants answer a conversation, and what they say is recorded as a match, on sides drawn at random. Waits for both.
    /// Cancelled, nothing is recorded.
    #[uniffi::method(default(canceller = None))]
    pub fn side_by_side(
        &self,
        messages: Vec<Message>,
        contest: Contest,
        canceller: Option<Arc<Canceller>>,
    ) -> Result<Match> {
        let core = self.handle.core()?;
        let made = core.side_by_side(messages.translate(), &contest.translate(), &of(canceller));
        Ok(made
            .map_err(|error| self.handle.explain(error))?
            .translate())
    }

    /// A match that was recorded.
    pub fn side_by_side_of(&self, id: MatchId) -> Result<Match> {
        Ok(self.handle.core()?.side_by_side_of(id)?.translate())
    }

    /// Matches of the model at hand that nobody has voted on, the first one first. Never loads a model.
    pub fn open_matches(&self) -> Result<Vec<Match>> {
        Ok(self.handle.core()?.open_matches()?.translate())
    }

    /// Votes on a match, once, and tells who was on which side. In a conversation the better reply becomes the last turn, of equals the
    /// left one. Between the base and an adapter on trial or promoted, the vote counts as `record_vote`'s do. Never loads a model.
    pub fn vote(&self, id: MatchId, choice: Choice) -> Result<Voted> {
        Ok(self
            .handle
            .core()?
            .vote(id, choice.translate())?
            .translate())
    }

    /// Whether the next prompt should be answered twice for a blind vote, and by whom: with a probability of `share` while the adapter
    /// in use is on trial. Never loads a model.
    #[uniffi::method(default(share = None))]
    pub fn contest_due(&self, share: Option<f64>) -> Result<Option<Contest>> {
        Ok(self.handle.core()?.contest_due(share)?.translate())
    }

    /// What the votes on matches of the model at hand come to. Never loads a model.
    pub fn arena_results(&self) -> Result<ArenaResults> {
        Ok(self.handle.core()?.arena_results()?.translate())
    }
}
