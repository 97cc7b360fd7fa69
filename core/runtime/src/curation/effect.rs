//! Which events are in effect.
//!
//! An event speaks in one of four places, and within a place the latest event replaces the earlier
//! ones:
//! - the *verdict* on a reply: 👍, 👎 or an edit. One exception: a 👍 after an edit leaves the edit in
//!   effect,
//!   because what the person then likes is the text that they wrote;
//! - the *pick* between two replies, whichever of the two it favours;
//! - the *ranking* of several replies. It takes the place of every earlier one that has a reply in common with it, and of every earlier
//!   pick between two of its replies. A later pick that contradicts it takes its place;
//! - the *retry* of a reply, which is an act and takes no verdict back.
//!
//! Withdrawing the event in effect leaves its place empty; the earlier one does not come back.
//! Withdrawing an event that was replaced already changes nothing.

use std::collections::HashMap;

use crate::types::{FeedbackId, ReplyId};

/// One row of the log, as far as the rule needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub id: FeedbackId,
    pub reply: ReplyId,
    pub act: Act,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Up,
    Down,
    Edit,
    Prefer { over: ReplyId },
    Rank { over: Vec<ReplyId> },
    Retry,
    Withdraw(FeedbackId),
}

impl Event {
    /// Where in a ranking a reply stands, the best at 0.
    fn place_of(&self, reply: ReplyId) -> Option<usize> {
        let Act::Rank { over } = &self.act else {
            return None;
        };
        let mut ranked = std::iter::once(&self.reply).chain(over);
        ranked.position(|ranked| *ranked == reply)
    }

    /// Whether it ends the effect of an earlier event beyond its own place.
    fn ends(&self, earlier: &Event) -> bool {
        match (&self.act, &earlier.act) {
            (Act::Rank { over }, Act::Rank { .. }) => std::iter::once(&self.reply)
                .chain(over)
                .any(|reply| earlier.place_of(*reply).is_some()),
            (Act::Rank { .. }, Act::Prefer { over }) => {
                self.place_of(earlier.reply).is_some() && self.place_of(*over).is_some()
            }
            (Act::Prefer { over }, Act::Rank { .. }) => {
                match (earlier.place_of(self.reply), earlier.place_of(*over)) {
                    (Some(picked), Some(other)) => picked > other,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Verdict(ReplyId),
    Pick(ReplyId, ReplyId),
    Ranking(FeedbackId),
    Retry(ReplyId),
}

/// The events in effect among `events`, which are in the order of their ids. The result is too.
pub(crate) fn in_effect(events: &[Event]) -> Vec<FeedbackId> {
    let mut current: HashMap<Place, &Event> = HashMap::new();
    let mut places: HashMap<FeedbackId, Place> = HashMap::new();
    for event in events {
        let place = match &event.act {
            Act::Up | Act::Down | Act::Edit => Place::Verdict(event.reply),
            Act::Prefer { over } => Place::Pick(event.reply.min(*over), event.reply.max(*over)),
            Act::Rank { .. } => Place::Ranking(event.id),
            Act::Retry => Place::Retry(event.reply),
            Act::Withdraw(id) => {
                if let Some(place) = places.get(id)
                    && current.get(place).is_some_and(|event| event.id == *id)
                {
                    current.remove(place);
                }
                continue;
            }
        };
        places.insert(event.id, place);
        let confirms = event.act == Act::Up
            && current
                .get(&place)
                .is_some_and(|event| event.act == Act::Edit);
        if !confirms {
            current.retain(|_, earlier| !event.ends(earlier));
            current.insert(place, event);
        }
    }
    let mut ids: Vec<_> = current.into_values().map(|event| event.id).collect();
    ids.sort_unstable();
    ids
}
