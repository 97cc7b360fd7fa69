//! What this person likes, fixed before any training.
//!
//! `U = z(length) + 0.5 z(opening recall)`, where
//!
//! - length is `-|ln(tokens / 40)|`, tokens estimated from the words: best at about 30 words, never monotone;
//! - opening recall is the share of the prompt's keywords found in the first 45 words, because someone who likes direct
//!   answers does not look for the point further down (and so that a rambling reply is not rewarded for meeting a keyword
//!   by chance at its end).
//!
//! `z` subtracts a mean and divides by a standard deviation that were set once, from 92 recorded replies of
//! SmolLM2-135M-Instruct (112 words on average, cut at 160 tokens): z is about 0 for that model as it comes. They are
//! constants, not refitted to the model at hand, so that utilities of different runs compare.
//!
//! A reply that is empty, under three words, an echo of the question that holds no keyword, or a loop, is worth [`LOSES`]:
//! less than any other.
//!
//! [`keyword_recall`] over the whole reply is for the report. U sees only the opening of it, so the two agree on replies of
//! at most 45 words and part on longer ones.

use crate::prompts::Prompt;
use crate::text::{self, Searchable};
use crate::user::Choice;

/// The length this person likes best, tokens.
pub const TARGET_TOKENS: f64 = 40.0;
/// Words in which the point should be made.
pub const OPENING_WORDS: usize = 45;
/// The utility of no answer at all.
pub const LOSES: f64 = -10.0;
/// Utilities closer than this are the same to this person.
pub const NEAR_TIE: f64 = 0.1;

const FEWEST_WORDS: usize = 3;
const LENGTH: Feature = Feature {
    weight: 1.0,
    mean: -1.3,
    sd: 0.35,
};
const RECALL: Feature = Feature {
    weight: 0.5,
    mean: 0.33,
    sd: 0.31,
};
/// However long a reply is, it stays above [`LOSES`].
const WORST_LENGTH: f64 = -3.0;

struct Feature {
    weight: f64,
    mean: f64,
    sd: f64,
}

impl Feature {
    fn score(&self, value: f64) -> f64 {
        self.weight * (value - self.mean) / self.sd
    }
}

/// How much this person likes the reply, without noise; about 0 for a typical reply of the model that the constants were
/// set on, at most about 4.8.
pub fn utility(prompt: &Prompt, reply: &str) -> f64 {
    if is_no_answer(prompt, reply) {
        return LOSES;
    }
    let opening = text::opening(reply, OPENING_WORDS);
    LENGTH.score(length(reply)) + RECALL.score(keyword_recall(prompt, opening))
}

/// The share of the prompt's keywords that the text holds, in [0, 1].
pub fn keyword_recall(prompt: &Prompt, text: &str) -> f64 {
    let text = Searchable::new(text);
    let found = prompt
        .keywords
        .iter()
        .filter(|keyword| text.holds(keyword))
        .count();
    found as f64 / prompt.keywords.len() as f64
}

/// The noiseless choice between two replies; a tie within [`NEAR_TIE`].
pub fn preference(prompt: &Prompt, left: &str, right: &str) -> Choice {
    let difference = utility(prompt, left) - utility(prompt, right);
    match difference {
        _ if difference.abs() < NEAR_TIE => Choice::Tie,
        _ if difference > 0.0 => Choice::Left,
        _ => Choice::Right,
    }
}

fn length(reply: &str) -> f64 {
    let ratio = text::estimated_tokens(reply) / TARGET_TOKENS;
    (-ratio.ln().abs()).max(WORST_LENGTH)
}

fn is_no_answer(prompt: &Prompt, reply: &str) -> bool {
    text::words(reply).len() < FEWEST_WORDS
        || text::is_degenerate(reply)
        || (text::is_echo(prompt.text, reply) && keyword_recall(prompt, reply) == 0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prompts;

    fn purr() -> &'static Prompt {
        prompts::find("Why do cats purr?").unwrap()
    }

    /// `count` different words, none of them a keyword of anything.
    fn filler(count: usize) -> String {
        (0..count)
            .map(|i| format!("zq{i}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn utility_falls_with_distance_from_thirty_words_on_either_side() {
        let at = |count| utility(purr(), &filler(count));
        for (nearer, further) in [(30, 24), (24, 12), (12, 5), (30, 37), (37, 75), (75, 140)] {
            assert!(
                at(nearer) > at(further) + NEAR_TIE,
                "{nearer} against {further} words"
            );
        }
        assert!((at(30) - at(60) - 2f64.ln() / 0.35).abs() < 1e-12);
        assert!(
            (at(15) - at(60)).abs() < 1e-12,
            "half and twice the target are alike"
        );
    }

    #[test]
    fn each_keyword_in_the_opening_adds_to_utility_and_one_after_it_does_not() {
        let rest = filler(28);
        let one = utility(purr(), &format!("content {rest} zz"));
        let two = utility(purr(), &format!("content calm {rest}"));
        let none = utility(purr(), &format!("zy zz {rest}"));
        assert!(none + NEAR_TIE < one && one + NEAR_TIE < two);
        let late = format!("{} content calm", filler(60));
        assert_eq!(utility(purr(), &late), utility(purr(), &filler(62)));
        assert_eq!(keyword_recall(purr(), &late), 0.5);
    }

    #[test]
    fn what_is_no_answer_loses_to_the_worst_answer() {
        let loop_ = "Cats purr to communicate. ".repeat(9);
        let empty = [
            "",
            "  \n",
            "Happy.",
            "Happy, content",
            "\u{1F600} \u{1F600} \u{1F600}",
        ];
        let echo = [
            "Why do cats purr?",
            "Cats purr! Why do cats purr? Do cats purr?",
        ];
        let worst = filler(5000);
        for nothing in empty.iter().chain(&echo).chain([&loop_.as_str()]) {
            assert_eq!(utility(purr(), nothing), LOSES, "{nothing}");
            assert_eq!(
                preference(purr(), &worst, nothing),
                Choice::Left,
                "{nothing}"
            );
        }
    }

    #[test]
    fn a_short_true_answer_that_repeats_the_question_is_not_an_echo() {
        let wall = prompts::find("When was the Berlin Wall taken down?").unwrap();
        assert_ne!(
            utility(wall, "The Berlin Wall was taken down in 1989."),
            LOSES
        );
    }

    #[test]
    fn near_ties_are_ties_and_sides_are_symmetric() {
        let (short, long) = (filler(30), filler(90));
        assert_eq!(preference(purr(), &short, &short), Choice::Tie);
        assert_eq!(preference(purr(), &short, &filler(31)), Choice::Tie);
        assert_eq!(preference(purr(), &short, &long), Choice::Left);
        assert_eq!(preference(purr(), &long, &short), Choice::Right);
    }
}
