//! What is passed over on request, and counted.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::{Passed, Said};
use crate::gate::text::refuses;

/// Filters of an import; by default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Most characters of a prompt with any of its answers.
    pub max_chars: Option<usize>,
    /// Pass over rows whose liked answer refuses ([`refuses`](crate::gate::text::refuses), English phrases).
    pub refusals: bool,
    /// Pass over rows that differ from an earlier one in case, spaces and punctuation at most.
    pub duplicates: bool,
}

/// Filters at work.
pub(super) struct Sieve {
    filters: Filters,
    seen: HashSet<[u8; 32]>,
}

impl Sieve {
    pub(super) fn new(filters: Filters) -> Self {
        Self {
            filters,
            seen: HashSet::new(),
        }
    }

    /// Why this is passed over, if it is.
    pub(super) fn passes(&mut self, said: &Said) -> Result<(), Passed> {
        let (prompt, answers, liked) = match said {
            Said::Judged {
                prompt,
                completion,
                liked,
            } => (prompt, vec![completion], *liked),
            Said::Preferred {
                prompt,
                better,
                worse,
            } => (prompt, vec![better, worse], true),
        };
        let blank = |text: &str| text.trim().is_empty();
        if prompt.iter().all(|message| blank(&message.content))
            || answers.iter().any(|answer| blank(answer))
        {
            return Err(Passed::Empty);
        }
        if let Said::Preferred { better, worse, .. } = said
            && better.trim() == worse.trim()
        {
            return Err(Passed::Tie);
        }
        let chars = |text: &str| text.chars().count();
        let of_prompt: usize = prompt.iter().map(|message| chars(&message.content)).sum();
        let longest = answers
            .iter()
            .map(|answer| chars(answer))
            .max()
            .unwrap_or(0);
        if self
            .filters
            .max_chars
            .is_some_and(|most| of_prompt + longest > most)
        {
            return Err(Passed::TooLong);
        }
        if self.filters.refusals && liked && refuses(answers[0]) {
            return Err(Passed::Refusal);
        }
        if self.filters.duplicates {
            let mut hash = Sha256::new();
            let texts = prompt.iter().map(|message| &message.content);
            for text in texts.chain(answers) {
                hash.update(normalized(text));
                hash.update([0xff]);
            }
            hash.update([u8::from(liked)]);
            if !self.seen.insert(hash.finalize().into()) {
                return Err(Passed::Duplicate);
            }
        }
        Ok(())
    }
}

fn normalized(text: &str) -> String {
    let kept = text.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}
