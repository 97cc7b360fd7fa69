//! How good a model is on files of questions that an app brings, for finding out whether an adapter took something away, and whether a
//! reward knows better from worse.
//!
//! | File | Read by | Asked of |
//! |---|---|---|
//! | ARC, HellaSwag, MMLU: multiple choice | [`choices`] | the model, by log-likelihood ([`ChoiceReport`]) |
//! | XSTest: harmless prompts that look harmful | [`refusals`] | the model, by its replies ([`RefusalReport`]) |
//! | RewardBench: a better and a worse reply, by category | [`comparisons`] | a judge, by its scores ([`RewardReport`]) |
//!
//! Here are the files' forms and the arithmetic; [`Thumbprint`](crate::Thumbprint) asks. Must not know the engine.

pub mod choices;
pub mod comparisons;
pub mod refusals;
mod table;

use serde::Serialize;

pub use choices::{ChoiceFormat, ChoiceReport, Question};
pub use comparisons::{Comparison, RewardReport};
pub use refusals::{HarmlessPrompt, RefusalReport};

use crate::gate::stats::wilson;

/// A share of questions, with how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// Questions answered right; where ties are possible they count half.
    pub right: f64,
    /// Questions asked.
    pub n: usize,
    /// `right / n`; 0 of none.
    pub share: f64,
    /// Its 95 % Wilson interval; (0, 1) of none.
    pub interval: (f64, f64),
}

impl Accuracy {
    /// From counts.
    pub fn new(right: f64, n: usize) -> Self {
        Self {
            right,
            n,
            share: if n == 0 { 0.0 } else { right / n as f64 },
            interval: wilson(right, n),
        }
    }
}
