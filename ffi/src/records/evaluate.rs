//! What files of questions come to.

use std::collections::HashMap;

use thumbprint::evaluate::{self, choices};

use super::Interval;
use crate::translate::{choice, record};

choice! {
    /// How the rows of a file of multiple-choice questions are to be understood.
    ChoiceFormat of evaluate::ChoiceFormat {
        /// AI2's Reasoning Challenge.
        Arc,
        /// HellaSwag.
        HellaSwag,
        /// Massive Multitask Language Understanding.
        Mmlu,
    }
}

record! {
    /// A share of questions, with how sure it is.
    Accuracy of evaluate::Accuracy {
        /// Questions answered right; where ties are possible they count half.
        right: f64,
        /// Questions asked.
        n: u64,
        /// `right / n`; 0 of none.
        share: f64,
        /// Its 95 % Wilson interval; from 0 to 1 of none.
        interval: Interval,
    }
}

record! {
    /// What a model knows of a file of multiple-choice questions.
    ChoiceReport of evaluate::ChoiceReport {
        /// Share of questions whose likeliest choice is right.
        acc: Accuracy,
        /// Share of questions whose likeliest choice for its length is right.
        acc_norm: Accuracy,
        /// `acc_norm` by subject, where the file names any.
        subjects: HashMap<String, Accuracy>,
        /// The answer to each question, in their order.
        answers: Vec<Answer>,
    }
}

record! {
    /// What a model answered. Choices are counted from 0.
    Answer of choices::Answer {
        /// The likeliest choice.
        pick: u64,
        /// The likeliest for its length.
        pick_norm: u64,
        /// The right one.
        gold: u64,
    }
}

/// How often a model refuses harmless prompts.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct RefusalReport {
    /// Share of harmless prompts that it refused.
    pub refused: Accuracy,
    /// The same by type, where the file has types.
    pub types: HashMap<String, Accuracy>,
    /// Whether each prompt was refused, in their order.
    pub refusals: Vec<bool>,
    /// Rows that should be refused, and were not asked.
    pub left_out: u64,
}

record! {
    /// How often a judge scored the better reply higher, ties counted half.
    RewardReport of evaluate::RewardReport {
        /// Over all comparisons.
        all: Accuracy,
        /// By category, where the file has any.
        subsets: HashMap<String, Accuracy>,
        /// By RewardBench's sections, where the categories are its own.
        sections: HashMap<String, Accuracy>,
        /// Comparisons whose prompt has feedback in the log: to a judge that learned from it they are not held out.
        seen: u64,
    }
}
