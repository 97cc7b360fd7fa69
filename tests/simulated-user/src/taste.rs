//! What a person likes: a utility `U = sum of weight * (feature - mean) / sd`, fixed before any training.
//!
//! `mean` and `sd` say what is usual. Where a file gives them they are constants, so that utilities of different models and
//! runs compare; where it does not, they are read off the replies of the model at hand ([`Taste::fitted`]).
//!
//! A reply that is empty, under three words, an echo of the question that holds no keyword, or a loop, is worth [`LOSES`]:
//! less than any other.

use serde::{Deserialize, Serialize};

use crate::features::{Feature, keyword_recall};
use crate::population::Prompt;
use crate::text;
use crate::user::Choice;

/// The utility of no answer at all.
pub const LOSES: f64 = -10.0;
/// Utilities closer than this are the same to a person.
pub const NEAR_TIE: f64 = 0.1;

const FEWEST_WORDS: usize = 3;
/// A spread that is read off replies is at least this: a feature that they never show would decide everything.
const LEAST_SD: f64 = 0.1;
/// However bad an answer is, it stays this far above [`LOSES`].
const ABOVE_LOSES: f64 = 1.0;

/// One thing that is liked, or with a negative weight disliked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// What of a text.
    pub feature: Feature,
    /// How much a standard deviation of it matters.
    pub weight: f64,
    /// Its usual value; read off the model's replies where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Its usual spread; missing where `mean` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sd: Option<f64>,
}

impl Term {
    /// What is wrong with it, if anything is.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let positive = |sd: f64| sd.is_finite() && sd > 0.0;
        if let Some(problem) = self.feature.problem() {
            return Some(problem);
        }
        if !self.weight.is_finite() || self.weight == 0.0 {
            return Some("its weight must be a number other than 0");
        }
        match (self.mean, self.sd) {
            (None, None) => None,
            (Some(mean), Some(sd)) if mean.is_finite() && positive(sd) => None,
            (Some(_), Some(_)) => Some("its sd must be above 0"),
            _ => Some("give both mean and sd, or neither"),
        }
    }
}

/// A weighted sum of z-scored features.
#[derive(Clone, Debug, PartialEq)]
pub struct Taste {
    terms: Vec<Term>,
}

impl Taste {
    /// With the constants that the terms lack read off what is usual: the population mean and standard deviation over the
    /// replies, the latter at least 0.1.
    pub fn fitted(terms: &[Term], usual: &[(&Prompt, &str)]) -> Self {
        let fit = |term: &Term| {
            if term.mean.is_some() && term.sd.is_some() {
                return term.clone();
            }
            let values = usual.iter().map(|(p, reply)| term.feature.value(p, reply));
            let n = usual.len().max(1) as f64;
            let mean = values.clone().sum::<f64>() / n;
            let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / n;
            Term {
                mean: Some(mean),
                sd: Some(variance.sqrt().max(LEAST_SD)),
                ..term.clone()
            }
        };
        Self {
            terms: terms.iter().map(fit).collect(),
        }
    }

    /// Its terms, none without constants.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// How much the reply is liked, without noise.
    pub fn utility(&self, prompt: &Prompt, reply: &str) -> f64 {
        if is_no_answer(prompt, reply) {
            return LOSES;
        }
        let score = |term: &Term| {
            let value = term.feature.value(prompt, reply);
            term.weight * (value - term.mean.unwrap_or(0.0)) / term.sd.unwrap_or(1.0)
        };
        let sum: f64 = self.terms.iter().map(score).sum();
        sum.max(LOSES + ABOVE_LOSES)
    }

    /// The noiseless choice between two replies; a tie within [`NEAR_TIE`].
    pub fn preference(&self, prompt: &Prompt, left: &str, right: &str) -> Choice {
        Choice::by(self.utility(prompt, left) - self.utility(prompt, right))
    }
}

fn is_no_answer(prompt: &Prompt, reply: &str) -> bool {
    text::words(reply).len() < FEWEST_WORDS
        || text::is_degenerate(reply)
        || (text::is_echo(&prompt.text, reply) && keyword_recall(prompt, reply) == 0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::population::{Population, demo};

    fn purr() -> &'static Prompt {
        Population::development().find("Why do cats purr?").unwrap()
    }

    fn direct() -> Taste {
        Taste::fitted(&demo().utility, &[])
    }

    fn utility(prompt: &Prompt, reply: &str) -> f64 {
        direct().utility(prompt, reply)
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
                direct().preference(purr(), &worst, nothing),
                Choice::Left,
                "{nothing}"
            );
        }
    }

    #[test]
    fn a_short_true_answer_that_repeats_the_question_is_not_an_echo() {
        let wall = Population::development()
            .find("When was the Berlin Wall taken down?")
            .unwrap();
        assert_ne!(
            utility(wall, "The Berlin Wall was taken down in 1989."),
            LOSES
        );
    }

    #[test]
    fn near_ties_are_ties_and_sides_are_symmetric() {
        let (short, long) = (filler(30), filler(90));
        let preference = |left: &str, right: &str| direct().preference(purr(), left, right);
        assert_eq!(preference(&short, &short), Choice::Tie);
        assert_eq!(preference(&short, &filler(31)), Choice::Tie);
        assert_eq!(preference(&short, &long), Choice::Left);
        assert_eq!(preference(&long, &short), Choice::Right);
    }

    #[test]
    fn a_utility_is_the_weighted_sum_of_z_scores() {
        let term = |feature, weight, mean, sd| Term {
            feature,
            weight,
            mean: Some(mean),
            sd: Some(sd),
        };
        let taste = Taste::fitted(
            &[
                term(Feature::Bullets, 2.0, 0.25, 0.5),
                term(Feature::ClosingQuestion, -1.0, 0.0, 0.5),
            ],
            &[],
        );
        let text = "- They are content\n- They are hungry\nIs that so?";
        // 2 (0.5 - 0.25) / 0.5 - (1 - 0) / 0.5
        assert!((taste.utility(purr(), text) + 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_usual_is_read_off_the_replies_where_no_constants_are_given() {
        let replies = ["one two three?", "one two three four five six"];
        let usual: Vec<(&Prompt, &str)> = replies.iter().map(|reply| (purr(), *reply)).collect();
        let term = |feature| Term {
            feature,
            weight: 1.0,
            mean: None,
            sd: None,
        };
        let terms = [term(Feature::ClosingQuestion), term(Feature::Bullets)];
        let taste = Taste::fitted(&terms, &usual);
        let constants: Vec<_> = taste.terms().iter().map(|t| (t.mean, t.sd)).collect();
        assert_eq!(
            constants,
            [(Some(0.5), Some(0.5)), (Some(0.0), Some(LEAST_SD))]
        );
    }
}
