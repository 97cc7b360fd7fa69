//! What is passed over on request, and counted.

use std::collections::HashSet;
use std::str::FromStr;

use regex_lite::Regex;
use sha2::{Digest, Sha256};

use super::near::Seen;
use super::{Passed, Said};
use crate::gate::text::refuses;

/// Phrases of assistants that say nothing about the matter, likewise.
const BOILERPLATE: [&str; 12] = [
    "as an ai language model",
    "as a large language model",
    "as an artificial intelligence",
    "i don't have personal opinions",
    "i do not have personal opinions",
    "my knowledge cutoff",
    "my training data",
    "i hope this helps",
    "let me know if you have any other questions",
    "let me know if you need anything else",
    "feel free to ask if you have",
    "is there anything else i can help you with",
];

/// A regular expression, as the crate regex-lite has them: `(?i)` at its beginning for any case of ASCII letters.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(pattern: &str) -> Result<Self, String> {
        let compiled = Regex::new(pattern);
        compiled.map(Self).map_err(|error| error.to_string())
    }
}

/// Filters of an import; by default there are none. Those on an answer look at the liked one, or the best.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Fewest characters of an answer.
    pub min_chars: Option<usize>,
    /// Most characters of a prompt with any of its answers.
    pub max_chars: Option<usize>,
    /// Pass over rows whose answer refuses ([`refuses`](crate::gate::text::refuses), English phrases).
    pub refusals: bool,
    /// Pass over rows whose answer has a phrase that assistants put into any answer (English phrases).
    pub boilerplate: bool,
    /// Pass over rows whose answer matches one of these.
    pub patterns: Vec<Pattern>,
    /// Pass over rows that differ from an earlier one in case, spaces and punctuation at most.
    pub duplicates: bool,
    /// Pass over rows that have this share, in (0, 1], of runs of four letters in common with an earlier one: 0.9 for texts that differ
    /// in a word or two. It is estimated, within 0.04.
    pub near_duplicates: Option<f64>,
}

/// Filters at work.
pub(super) struct Sieve {
    filters: Filters,
    seen: HashSet<[u8; 32]>,
    /// What was disliked, and what was not: the same words may be both.
    nearly: Option<[Seen; 2]>,
}

impl Sieve {
    pub(super) fn new(filters: Filters) -> Self {
        let seen = |similarity| [Seen::new(similarity), Seen::new(similarity)];
        Self {
            nearly: filters.near_duplicates.map(seen),
            filters,
            seen: HashSet::new(),
        }
    }

    /// Why this is passed over, if it is.
    pub(super) fn passes(&mut self, said: &Said) -> Result<(), Passed> {
        let (prompt, answers) = (said.prompt(), said.answers());
        let liked = !matches!(said, Said::Judged { liked: false, .. });
        let blank = |text: &str| text.trim().is_empty();
        if prompt.iter().all(|message| blank(&message.content))
            || answers.iter().any(|answer| blank(answer))
        {
            return Err(Passed::Empty);
        }
        let mut different = HashSet::new();
        if !answers.iter().all(|answer| different.insert(answer.trim())) {
            return Err(Passed::Tie);
        }
        let chars = |text: &str| text.chars().count();
        let of_prompt: usize = prompt.iter().map(|message| chars(&message.content)).sum();
        let longest = answers.iter().map(|answer| chars(answer)).max();
        let filters = &self.filters;
        let beyond = |most| of_prompt + longest.unwrap_or(0) > most;
        if filters.max_chars.is_some_and(beyond) {
            return Err(Passed::TooLong);
        }
        if filters
            .min_chars
            .is_some_and(|least| chars(answers[0]) < least)
        {
            return Err(Passed::TooShort);
        }
        if liked && filters.refusals && refuses(answers[0]) {
            return Err(Passed::Refusal);
        }
        if liked && filters.boilerplate && has_boilerplate(answers[0]) {
            return Err(Passed::Boilerplate);
        }
        if liked && filters.patterns.iter().any(|p| p.0.is_match(answers[0])) {
            return Err(Passed::Pattern);
        }
        let texts = prompt.iter().map(|message| message.content.as_str());
        let texts: Vec<String> = texts.chain(answers).map(normalized).collect();
        if self.filters.duplicates {
            let mut hash = Sha256::new();
            for text in &texts {
                hash.update(text);
                hash.update([0xff]);
            }
            hash.update([u8::from(liked)]);
            if !self.seen.insert(hash.finalize().into()) {
                return Err(Passed::Duplicate);
            }
        }
        if let Some(nearly) = &mut self.nearly
            && nearly[usize::from(liked)].repeats(&texts.join("\u{1f}"))
        {
            return Err(Passed::NearDuplicate);
        }
        Ok(())
    }
}

fn has_boilerplate(answer: &str) -> bool {
    let answer = plain(answer);
    BOILERPLATE.iter().any(|phrase| answer.contains(phrase))
}

/// In lower case and with plain apostrophes.
fn plain(text: &str) -> String {
    text.to_lowercase().replace('\u{2019}', "'")
}

fn normalized(text: &str) -> String {
    let kept = text.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}
