//! What a person makes of answers, prompt by prompt, without noise.

use serde::{Deserialize, Serialize};
use thumbprint::gate::stats::{Compared, LENGTH_RIDGE, length_controlled_win_rate};
use thumbprint::{Reply, StopReason};
use thumbprint_simulated_user::{Choice, Prompt, Taste, keyword_recall, opening};

use super::statistics::mean;

/// Words that a reader of the beginning reads.
pub const OPENING_WORDS: usize = 45;
/// No answer at all counts in mean utilities as much as the worst answers do: its own -10 would make a mean of how many there are.
pub const LEAST_WORTH: f64 = -5.0;

/// A reply to a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub text: String,
    pub tokens: u32,
    /// Whether the model ended it.
    pub finished: bool,
}

impl From<&Reply> for Answer {
    fn from(reply: &Reply) -> Self {
        Self {
            text: reply.text.clone(),
            tokens: reply.usage.completion_tokens,
            finished: reply.stop_reason == StopReason::EndOfTurn,
        }
    }
}

/// Numbers of the answers to each prompt, in the order of the prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    pub utility: Vec<f64>,
    /// Share of the prompt's keywords in the whole answer.
    pub recall: Vec<f64>,
    /// The same in its first [`OPENING_WORDS`] words.
    pub opening_recall: Vec<f64>,
    pub tokens: Vec<f64>,
    pub finished: f64,
}

impl Scores {
    /// Scores answers to prompts.
    pub fn of(taste: &Taste, prompts: &[Prompt], answers: &[Answer]) -> Self {
        let each = |number: &dyn Fn(&Prompt, &Answer) -> f64| {
            let pairs = prompts.iter().zip(answers);
            pairs
                .map(|(prompt, answer)| number(prompt, answer))
                .collect::<Vec<f64>>()
        };
        Self {
            utility: each(&|prompt, answer| taste.utility(prompt, &answer.text)),
            recall: each(&|prompt, answer| keyword_recall(prompt, &answer.text)),
            opening_recall: each(&|prompt, answer| {
                keyword_recall(prompt, opening(&answer.text, OPENING_WORDS))
            }),
            tokens: each(&|_, answer| f64::from(answer.tokens)),
            finished: mean(
                answers
                    .iter()
                    .map(|answer| f64::from(u8::from(answer.finished))),
            ),
        }
    }

    /// 1 where these are liked better than those, one half where they are as good, else 0.
    pub fn wins(&self, over: &Self) -> Vec<f64> {
        let pairs = self.utility.iter().zip(&over.utility);
        pairs
            .map(|(this, that)| match Choice::by(this - that) {
                Choice::Left => 1.0,
                Choice::Tie => 0.5,
                Choice::Right => 0.0,
            })
            .collect()
    }

    /// Utilities, none below [`LEAST_WORTH`].
    pub fn worth(&self) -> Vec<f64> {
        self.utility.iter().map(|u| u.max(LEAST_WORTH)).collect()
    }

    /// The win rate with the part removed that length alone explains.
    pub fn length_controlled(&self, over: &Self) -> Option<f64> {
        let lengths = self.tokens.iter().zip(&over.tokens);
        let compared: Vec<Compared> = self
            .wins(over)
            .into_iter()
            .zip(lengths)
            .map(|(outcome, (this, that))| Compared {
                outcome,
                length_difference: this - that,
            })
            .collect();
        length_controlled_win_rate(&compared, LENGTH_RIDGE).map(|fit| fit.win_rate)
    }
}

/// Number by number, this minus that.
pub fn difference(this: &[f64], that: &[f64]) -> Vec<f64> {
    this.iter()
        .zip(that)
        .map(|(this, that)| this - that)
        .collect()
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use thumbprint_simulated_user::{Population, demo};

    /// An answer of so many words, about nothing.
    pub fn words(count: usize) -> Answer {
        let text: Vec<String> = (0..count).map(|i| format!("zq{i}")).collect();
        Answer {
            text: text.join(" "),
            tokens: (count as f64 / 0.75) as u32,
            finished: count < 100,
        }
    }

    #[test]
    fn wins_ties_and_losses_follow_the_persons_taste() {
        let taste = Taste::fitted(&demo().utility, &[]);
        let prompts = &Population::development().held_out[..3];
        let base = Scores::of(&taste, prompts, &[words(90), words(30), words(120)]);
        let other = Scores::of(&taste, prompts, &[words(30), words(30), words(160)]);
        assert_eq!(other.wins(&base), [1.0, 0.5, 0.0]);
        assert_eq!(base.wins(&other), [0.0, 0.5, 1.0]);
        assert_eq!(other.tokens, [40.0, 40.0, 213.0]);
        assert!((base.finished - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(difference(&other.tokens, &base.tokens), [-80.0, 0.0, 53.0]);
        assert!(other.length_controlled(&base).unwrap() > 0.0);
    }

    #[test]
    fn no_answer_counts_as_the_worst_answer_in_means() {
        let taste = Taste::fitted(&demo().utility, &[]);
        let prompts = &Population::development().held_out[..1];
        let scores = Scores::of(&taste, prompts, &[words(0)]);
        assert_eq!((scores.utility[0], scores.worth()[0]), (-10.0, LEAST_WORTH));
    }
}
