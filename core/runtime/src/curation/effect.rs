//! Which events are in effect.
//!
//! An event speaks in one of three places, and within a place the latest event replaces the earlier
//! ones:
//! - the *verdict* on a reply: 👍, 👎 or an edit. One exception: a 👍 after an edit leaves the edit in
//!   effect,
//!   because what the person then likes is the text that they wrote;
//! - the *pick* between two replies, whichever of the two it favours;
//! - the *retry* of a reply, which is an act and takes no verdict back.
//!
//! Withdrawing the event in effect leaves its place empty; the earlier one does not come back.
//! Withdrawing an event that was replaced already changes nothing.

use std::collections::HashMap;

use crate::types::{FeedbackId, ReplyId};

/// One row of the log, as far as the rule needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub id: FeedbackId,
    pub reply: ReplyId,
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Up,
    Down,
    Edit,
    Prefer { over: ReplyId },
    Retry,
    Withdraw(FeedbackId),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Verdict(ReplyId),
    Pick(ReplyId, ReplyId),
    Retry(ReplyId),
}

/// The events in effect among `events`, which are in the order of their ids. The result is too.
pub(crate) fn in_effect(events: &[Event]) -> Vec<FeedbackId> {
    let mut current: HashMap<Place, Event> = HashMap::new();
    let mut places: HashMap<FeedbackId, Place> = HashMap::new();
    for &event in events {
        let place = match event.act {
            Act::Up | Act::Down | Act::Edit => Place::Verdict(event.reply),
            Act::Prefer { over } => Place::Pick(event.reply.min(over), event.reply.max(over)),
            Act::Retry => Place::Retry(event.reply),
            Act::Withdraw(id) => {
                if let Some(place) = places.get(&id)
                    && current.get(place).is_some_and(|event| event.id == id)
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
            current.insert(place, event);
        }
    }
    let mut ids: Vec<_> = current.into_values().map(|event| event.id).collect();
    ids.sort_unstable();
    ids
}
