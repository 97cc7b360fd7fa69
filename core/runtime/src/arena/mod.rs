//! The arena: which of several adapters, the base alone among them, people prefer when they do not know who wrote what. Pure.
//!
//! A side-by-side shows two replies to one prompt, the sides drawn at random; a vote says which is better. From the votes come win
//! rates, win rates at equal length, and, with three contestants or more, Bradley-Terry strengths.
//!
//! Must not know SQL, the engine, or what a reply said.

mod results;
mod strengths;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thumbprint_tune::rng::Rng;

use crate::types::AdapterId;

pub use results::{PairResult, Results, results};
pub use strengths::{RESAMPLES, STRENGTH_RIDGE, Strength};

/// Who replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contestant {
    /// The base model alone.
    Base,
    /// The base model with an adapter, at the scale that it is served at.
    Adapter(AdapterId),
}

impl Contestant {
    /// An adapter, or the base.
    pub fn of(adapter: Option<AdapterId>) -> Self {
        adapter.map_or(Self::Base, Self::Adapter)
    }

    /// The adapter; `None` is the base.
    pub fn adapter(self) -> Option<AdapterId> {
        match self {
            Self::Base => None,
            Self::Adapter(id) => Some(id),
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Adapter(id) => id.fmt(f),
        }
    }
}

impl FromStr for Contestant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "base" => Ok(Self::Base),
            id => id
                .parse()
                .map(Self::Adapter)
                .map_err(|_| format!("{id:?} is neither an adapter's number nor `base`")),
        }
    }
}

impl Serialize for Contestant {
    /// `"base"`, or the adapter's number.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Base => serializer.serialize_str("base"),
            Self::Adapter(id) => id.serialize(serializer),
        }
    }
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The reply on the left is better.
    Left,
    /// The reply on the right is better.
    Right,
    /// Both are as good.
    Tie,
    /// Neither is any good. Counts as a tie, and is counted apart.
    BothBad,
}

impl Choice {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Tie, Self::BothBad];

    /// The name in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
            Self::Tie => "tie",
            Self::BothBad => "both_bad",
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    /// Also takes `both-bad`.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.replace('-', "_");
        let mut all = Self::ALL.into_iter();
        all.find(|choice| choice.as_str() == text)
            .ok_or_else(|| "a vote is left, right, tie or both_bad".to_owned())
    }
}

/// A side-by-side that was voted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who was on the left.
    pub left: Contestant,
    /// Who was on the right.
    pub right: Contestant,
    /// The vote.
    pub choice: Choice,
    /// Hash of the prompt: votes on one prompt are not independent.
    pub prompt_key: [u8; 32],
    /// Lengths of the replies on the left and on the right, tokens.
    pub tokens: [usize; 2],
}

/// Whether the first of two is shown on the left: a fair coin that falls the same way again under the same seed.
pub fn first_on_the_left(seed: u64) -> bool {
    Rng::for_name(seed, "arena sides").next_u64() >> 63 == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn contestants_and_votes_are_written_as_they_are_read() {
        for contestant in [Contestant::Base, Contestant::Adapter(AdapterId(7))] {
            assert_eq!(contestant.to_string().parse(), Ok(contestant));
            assert_eq!(Contestant::of(contestant.adapter()), contestant);
        }
        assert!("seven".parse::<Contestant>().is_err());
        for choice in Choice::ALL {
            assert_eq!(choice.as_str().parse(), Ok(choice));
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(json, format!("{:?}", choice.as_str()));
        }
        assert_eq!("both-bad".parse(), Ok(Choice::BothBad));
        assert!("middle".parse::<Choice>().is_err());
    }

    #[test]
    fn sides_are_drawn_fairly_and_repeat_with_their_seed() {
        let left = (0..10_000).filter(|seed| first_on_the_left(*seed)).count();
        // Five standard errors.
        assert!((4750..=5250).contains(&left), "{left}");
        assert_eq!(first_on_the_left(3), first_on_the_left(3));
    }
}
