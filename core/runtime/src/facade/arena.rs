//! Blind side-by-sides: two contestants answer, a person says who was better, and the votes add up.

use std::sync::Arc;

use super::{Loaded, Thumbprint};
use crate::arena::{self, Choice, Contestant, Results, first_on_the_left};
use crate::engine::{self, Canceller, EngineError, GenerateOptions, With, fresh_seed};
use crate::error::{Error, Result};
use crate::gate::{AdapterState, BLIND_SHARE, Verdict};
use crate::generation::{Recorder, Request};
use crate::store::{MatchRow, NewMatch, NewVote, Outcome, Prompt};
use crate::types::{AdapterId, MatchId, Message, ReplyId, StopReason};

/// Who is compared, and how they answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Contest {
    /// One of the two.
    pub contestants: (Contestant, Contestant),
    /// How both answer, seed included: from the same model the same reply would come twice.
    pub options: GenerateOptions,
    /// Draws the sides.
    pub seed: u64,
}

impl Contest {
    /// Default options, sides drawn afresh.
    pub fn new(a: Contestant, b: Contestant) -> Self {
        Self {
            contestants: (a, b),
            options: GenerateOptions::default(),
            seed: fresh_seed(),
        }
    }
}

/// Two replies side by side. It does not tell who wrote which.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// What the vote refers to.
    pub id: MatchId,
    /// What was answered.
    pub prompt: Vec<Message>,
    /// The reply on the left.
    pub left: Side,
    /// The reply on the right.
    pub right: Side,
    /// The vote, once there is one.
    pub choice: Option<Choice>,
}

/// One side of a [`Match`].
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// What feedback refers to: a vote is none, and teaches nothing by itself.
    pub reply: ReplyId,
    /// The reply's text.
    pub text: String,
    /// Why it ended.
    pub stop_reason: Option<StopReason>,
}

/// What a vote came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Voted {
    /// Who was on the left.
    pub left: Contestant,
    /// Who was on the right.
    pub right: Contestant,
    /// Where the trial stands, if the match was between the base and an adapter on trial or promoted: then the vote counts there too.
    pub verdict: Option<Verdict>,
}

impl Thumbprint {
    /// Two contestants answer a conversation, and what they say is recorded as a match, on sides drawn at random. Waits for both;
    /// `canceller` ends it, and then nothing is recorded.
    ///
    /// # Errors
    /// [`Error::SameContestant`]; of the engine, [`EngineError::Cancelled`] among them; of the store: no such adapter; an adapter made for
    /// another base.
    pub fn side_by_side(
        &self,
        messages: Vec<Message>,
        contest: &Contest,
        canceller: &Canceller,
    ) -> Result<Match> {
        let prompt = Prompt::Messages(messages.clone());
        self.side_by_side_for(messages, prompt, contest, canceller)
    }

    pub(crate) fn side_by_side_for(
        &self,
        messages: Vec<Message>,
        prompt: Prompt,
        contest: &Contest,
        canceller: &Canceller,
    ) -> Result<Match> {
        let (a, b) = contest.contestants;
        if a == b {
            return Err(Error::SameContestant);
        }
        let loaded = self.loaded()?;
        // Both are loaded before either answers.
        let withs = (self.contestant(&loaded, a)?, self.contestant(&loaded, b)?);
        let mut request = Request::new(messages);
        request.options = contest.options.clone();
        let reply = |with: With| {
            let request = request.engine_request(with);
            let generation = loaded.engine.generate_with(&request, canceller.clone())?;
            let completed = generation.wait()?;
            match completed.stop_reason {
                StopReason::Cancelled => Err(Error::from(EngineError::Cancelled)),
                _ => Ok(completed),
            }
        };
        let (first, second) = (reply(withs.0)?, reply(withs.1)?);
        let recorder = Recorder {
            store: self.0.store.clone(),
            loaded: Arc::clone(&loaded),
            prompt,
            replaces: None,
        };
        let made = |who: Contestant, completed: engine::Completed| {
            (who, recorder.new_reply(&completed, who.adapter()))
        };
        let (first, second) = (made(a, first), made(b, second));
        let (left, right) = match first_on_the_left(contest.seed) {
            true => (first, second),
            false => (second, first),
        };
        let id = self.0.store.record_match(&NewMatch {
            base_hash: loaded.sha256.clone(),
            left,
            right,
            seed: contest.seed,
        })?;
        self.side_by_side_of(id)
    }

    pub(super) fn contestant(&self, loaded: &Loaded, contestant: Contestant) -> Result<With> {
        let Some(id) = contestant.adapter() else {
            return Ok(With::Base);
        };
        let row = self.0.store.adapter(id)?;
        Ok(With::Adapter(self.load_adapter(loaded, &row, row.scale)?))
    }

    /// A match that was recorded.
    ///
    /// # Errors
    /// Of the store: no such match.
    pub fn side_by_side_of(&self, id: MatchId) -> Result<Match> {
        let row = self.0.store.match_row(id)?;
        let (left, prompt) = self.side(row.left_reply)?;
        let (right, _) = self.side(row.right_reply)?;
        Ok(Match {
            id,
            prompt,
            left,
            right,
            choice: row.choice,
        })
    }

    fn side(&self, reply: ReplyId) -> Result<(Side, Vec<Message>)> {
        let stored = self.0.store.reply(reply)?;
        let side = Side {
            reply,
            text: stored.text,
            stop_reason: stored.generation.map(|made| made.stop_reason),
        };
        Ok((side, stored.prompt))
    }

    /// Matches of the model at hand that nobody has voted on, the first one first. Never loads a model.
    ///
    /// # Errors
    /// [`Error::NoModel`]; of the store.
    pub fn open_matches(&self) -> Result<Vec<Match>> {
        let open = self.0.store.open_matches(&self.base_hash()?)?;
        open.into_iter()
            .map(|row| self.side_by_side_of(row.id))
            .collect()
    }

    /// Votes on a match, once, and tells who was on which side. In a conversation the better reply becomes the last turn, of equals the
    /// left one. If the match was between the base and an adapter on trial or promoted, the vote counts as
    /// [`record_vote`](Self::record_vote)'s do, and may promote the adapter or roll it back. Never loads a model.
    ///
    /// # Errors
    /// Of the store: no such match, or it has its vote.
    pub fn vote(&self, id: MatchId, choice: Choice) -> Result<Voted> {
        let row = self.0.store.vote_match(id, choice)?;
        let verdict = match trial_vote(&row, choice) {
            Some(vote) if self.is_judged_by_votes(vote.adapter)? => Some(self.record_vote(&vote)?),
            _ => None,
        };
        Ok(Voted {
            left: row.left,
            right: row.right,
            verdict,
        })
    }

    fn is_judged_by_votes(&self, id: AdapterId) -> Result<bool> {
        let state = self.0.store.adapter(id)?.state;
        Ok(matches!(
            state,
            AdapterState::Trial | AdapterState::Promoted
        ))
    }

    /// Whether the next prompt should be answered twice for a blind vote, and by whom: with a probability of `share` (default
    /// [`BLIND_SHARE`]) while the adapter in use is on trial. Never loads a model.
    ///
    /// # Errors
    /// [`Error::NoModel`]; of the store.
    pub fn contest_due(&self, share: Option<f64>) -> Result<Option<Contest>> {
        let active = self.0.store.active_adapter(&self.base_hash()?)?;
        let on_trial = active.filter(|row| row.state == AdapterState::Trial);
        let drawn = fresh_seed() as f64 / 4_294_967_296.0;
        Ok(on_trial
            .filter(|_| drawn < share.unwrap_or(BLIND_SHARE))
            .map(|row| Contest::new(Contestant::Adapter(row.id), Contestant::Base)))
    }

    /// What the votes on matches of the model at hand come to. Never loads a model.
    ///
    /// # Errors
    /// [`Error::NoModel`]; of the store.
    pub fn arena_results(&self) -> Result<Results> {
        let seen = self.0.store.seen_matches(&self.base_hash()?)?;
        Ok(arena::results(&seen, 0))
    }
}

/// The vote as the gate counts it, if the match was between an adapter and its base.
fn trial_vote(row: &MatchRow, choice: Choice) -> Option<NewVote> {
    let (adapter, candidate_first) = match (row.left, row.right) {
        (Contestant::Adapter(id), Contestant::Base) => (id, true),
        (Contestant::Base, Contestant::Adapter(id)) => (id, false),
        _ => return None,
    };
    let outcome = match choice {
        Choice::Tie | Choice::BothBad => Outcome::Tie,
        Choice::Left if candidate_first => Outcome::Win,
        Choice::Right if !candidate_first => Outcome::Win,
        Choice::Left | Choice::Right => Outcome::Loss,
    };
    let (left, right) = (Some(row.left_reply), Some(row.right_reply));
    let (candidate_reply, baseline_reply) = match candidate_first {
        true => (left, right),
        false => (right, left),
    };
    Some(NewVote {
        adapter,
        candidate_reply,
        baseline_reply,
        candidate_first,
        outcome,
    })
}
