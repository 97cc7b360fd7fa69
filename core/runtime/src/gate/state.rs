//! The life of an adapter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an adapter stands. Which adapter is *active* is the registry's business; only [`AdapterState::Trial`] and
/// [`AdapterState::Promoted`] may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterState {
    /// Made, not yet judged.
    Candidate,
    /// Failed the offline tier; kept for the record, never used.
    Rejected,
    /// Passed the offline tier: may be active, unconfirmed.
    Trial,
    /// Confirmed by blind votes.
    Promoted,
    /// Withdrawn by votes, by a newer adapter or by the person.
    RolledBack,
    /// Had seen something that was forgotten since; its file is gone or about to go.
    Forgotten,
}

/// What can happen to an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The offline tier passed it.
    PassedOffline,
    /// The offline tier rejected it.
    FailedOffline,
    /// The votes confirmed it.
    Confirmed,
    /// The votes turned against it.
    VotedDown,
    /// A newer candidate took the place of an undecided trial, or a newer trial was promoted over it.
    Superseded,
    /// The person rolled it back.
    RolledBackByHand,
    /// The person activated it again: it starts a new trial, and counts as a new candidate put to a vote.
    ReinstatedByHand,
    /// The person activated one that was not trained here, and that the offline tier never saw.
    AdoptedByHand,
}

/// An event that cannot happen in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an adapter that is {state} cannot be {event}; look at its state before acting on it")]
pub struct IllegalTransition {
    /// Where the adapter stood.
    pub state: AdapterState,
    /// What was asked.
    pub event: Event,
}

impl AdapterState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Candidate,
        Self::Rejected,
        Self::Trial,
        Self::Promoted,
        Self::RolledBack,
        Self::Forgotten,
    ];

    /// The name in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Rejected => "rejected",
            Self::Trial => "trial",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Forgotten => "forgotten",
        }
    }

    /// The state after `event`, or an error where it cannot happen.
    pub fn after(self, event: Event) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Candidate, Event::PassedOffline) => Ok(Self::Trial),
            (Self::Candidate, Event::FailedOffline) => Ok(Self::Rejected),
            (Self::Trial, Event::Confirmed) => Ok(Self::Promoted),
            (
                Self::Trial | Self::Promoted,
                Event::VotedDown | Event::Superseded | Event::RolledBackByHand,
            ) => Ok(Self::RolledBack),
            (Self::RolledBack, Event::ReinstatedByHand)
            | (Self::Candidate, Event::AdoptedByHand) => Ok(Self::Trial),
            (state, event) => Err(IllegalTransition { state, event }),
        }
    }

    /// Whether an adapter in this state may serve replies.
    pub fn may_be_active(self) -> bool {
        matches!(self, Self::Trial | Self::Promoted)
    }

    /// One sentence for people.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Candidate => "Made, and not yet checked.",
            Self::Rejected => "Failed the checks after training; it is not used.",
            Self::Trial => "Is being tried; blind votes will confirm it or roll it back.",
            Self::Promoted => "Confirmed by blind votes.",
            Self::RolledBack => "Was in use and has been withdrawn.",
            Self::Forgotten => "Had learned from something that was forgotten since; it is gone.",
        }
    }
}

impl fmt::Display for AdapterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Candidate => "a candidate",
            Self::Rejected => "rejected",
            Self::Trial => "on trial",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled back",
            Self::Forgotten => "forgotten",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PassedOffline => "put on trial",
            Self::FailedOffline => "rejected",
            Self::Confirmed => "promoted",
            Self::VotedDown => "voted down",
            Self::Superseded => "superseded",
            Self::RolledBackByHand => "rolled back",
            Self::ReinstatedByHand => "reinstated",
            Self::AdoptedByHand => "adopted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use AdapterState::{Candidate, Promoted, Rejected, RolledBack, Trial};
    use Event::{
        AdoptedByHand, Confirmed, FailedOffline, PassedOffline, ReinstatedByHand, RolledBackByHand,
        Superseded, VotedDown,
    };

    #[test]
    fn exactly_the_listed_transitions_are_legal() {
        let legal = [
            (Candidate, PassedOffline, Trial),
            (Candidate, FailedOffline, Rejected),
            (Trial, Confirmed, Promoted),
            (Trial, VotedDown, RolledBack),
            (Trial, Superseded, RolledBack),
            (Trial, RolledBackByHand, RolledBack),
            (Promoted, VotedDown, RolledBack),
            (Promoted, Superseded, RolledBack),
            (Promoted, RolledBackByHand, RolledBack),
            (RolledBack, ReinstatedByHand, Trial),
            (Candidate, AdoptedByHand, Trial),
        ];
        let states = AdapterState::ALL;
        let events = [
            PassedOffline,
            FailedOffline,
            Confirmed,
            VotedDown,
            Superseded,
            RolledBackByHand,
            ReinstatedByHand,
            AdoptedByHand,
        ];
        for state in states {
            for event in events {
                let expected = legal
                    .iter()
                    .find(|(from, by, _)| (*from, *by) == (state, event))
                    .map(|(_, _, to)| *to)
                    .ok_or(IllegalTransition { state, event });
                assert_eq!(state.after(event), expected, "{state} {event}");
            }
        }
    }

    #[test]
    fn a_rejected_adapter_never_serves() {
        assert!(!Rejected.may_be_active() && !Candidate.may_be_active());
        assert!(Trial.may_be_active() && Promoted.may_be_active());
    }

    #[test]
    fn an_illegal_transition_reads_as_a_sentence() {
        let message = Rejected.after(Confirmed).map_err(|error| error.to_string());
        let expected =
            "an adapter that is rejected cannot be promoted; look at its state before acting on it";
        assert_eq!(message, Err(expected.to_owned()));
    }
}
