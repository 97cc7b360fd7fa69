//! The losses by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::objective::ObjectiveError;

/// A loss over pairs. Names as in TRL's `loss_type`, except `cdpo` and `dpop`, which TRL lacks, and `cpo`, `simpo` and `orpo`, which have
/// trainers of their own there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossType {
    /// DPO.
    Sigmoid,
    /// DPO with label smoothing.
    Cdpo,
    /// DPO, unbiased under flipped labels.
    Robust,
    /// Hinge on the margin.
    Hinge,
    /// IPO, normalised by length.
    Ipo,
    /// EXO.
    ExoPair,
    /// NCA.
    NcaPair,
    /// BCO on both sides.
    BcoPair,
    /// SPPO with hard labels.
    SppoHard,
    /// AOT on pairs: margins are compared by rank.
    Aot,
    /// AOT on sides: they are compared by rank, whoever met whom.
    AotUnpaired,
    /// APO for chosen answers better than the model's.
    ApoZero,
    /// APO for chosen answers worse than the model's.
    ApoDown,
    /// DiscoPOP.
    Discopop,
    /// DPO on scores per token.
    SigmoidNorm,
    /// DPO-positive.
    Dpop,
    /// CPO's preference term, without a reference.
    Cpo,
    /// SimPO, without a reference.
    Simpo,
    /// ORPO's odds-ratio term, without a reference.
    Orpo,
    /// Mean negative log-likelihood per token of the chosen side.
    Sft,
}

/// What a loss compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compares {
    /// Scores of log-ratios, under any divergence.
    Scores,
    /// Log-ratios themselves.
    LogRatios,
    /// What has the same rank among all pairs of a step.
    Ranks,
    /// Log-probabilities, without a reference.
    LogProbabilities,
    /// Nothing: it looks at the chosen side alone.
    Nothing,
}

impl LossType {
    /// Every loss, in the order in which messages list them.
    pub const ALL: [LossType; 20] = [
        LossType::Sigmoid,
        LossType::Cdpo,
        LossType::Robust,
        LossType::Hinge,
        LossType::Ipo,
        LossType::ExoPair,
        LossType::NcaPair,
        LossType::BcoPair,
        LossType::SppoHard,
        LossType::Aot,
        LossType::AotUnpaired,
        LossType::ApoZero,
        LossType::ApoDown,
        LossType::Discopop,
        LossType::SigmoidNorm,
        LossType::Dpop,
        LossType::Cpo,
        LossType::Simpo,
        LossType::Orpo,
        LossType::Sft,
    ];

    /// The name in settings and messages.
    pub fn name(self) -> &'static str {
        match self {
            LossType::Sigmoid => "sigmoid",
            LossType::Cdpo => "cdpo",
            LossType::Robust => "robust",
            LossType::Hinge => "hinge",
            LossType::Ipo => "ipo",
            LossType::ExoPair => "exo_pair",
            LossType::NcaPair => "nca_pair",
            LossType::BcoPair => "bco_pair",
            LossType::SppoHard => "sppo_hard",
            LossType::Aot => "aot",
            LossType::AotUnpaired => "aot_unpaired",
            LossType::ApoZero => "apo_zero",
            LossType::ApoDown => "apo_down",
            LossType::Discopop => "discopop",
            LossType::SigmoidNorm => "sigmoid_norm",
            LossType::Dpop => "dpop",
            LossType::Cpo => "cpo",
            LossType::Simpo => "simpo",
            LossType::Orpo => "orpo",
            LossType::Sft => "sft",
        }
    }

    pub(super) fn compares(self) -> Compares {
        match self {
            LossType::Sigmoid
            | LossType::Cdpo
            | LossType::Robust
            | LossType::Hinge
            | LossType::Ipo
            | LossType::ExoPair
            | LossType::Discopop
            | LossType::SigmoidNorm => Compares::Scores,
            LossType::NcaPair
            | LossType::BcoPair
            | LossType::SppoHard
            | LossType::ApoZero
            | LossType::ApoDown
            | LossType::Dpop => Compares::LogRatios,
            LossType::Aot | LossType::AotUnpaired => Compares::Ranks,
            LossType::Cpo | LossType::Simpo | LossType::Orpo => Compares::LogProbabilities,
            LossType::Sft => Compares::Nothing,
        }
    }

    /// Whether `label_smoothing` means anything to it.
    pub(super) fn smooths(self) -> bool {
        matches!(
            self,
            LossType::Cdpo
                | LossType::Robust
                | LossType::ExoPair
                | LossType::Aot
                | LossType::AotUnpaired
                | LossType::Cpo
                | LossType::Simpo
        )
    }
}

impl fmt::Display for LossType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LossType {
    type Err = ObjectiveError;

    fn from_str(s: &str) -> Result<Self, ObjectiveError> {
        LossType::ALL
            .into_iter()
            .find(|t| t.name() == s)
            .ok_or_else(|| ObjectiveError::UnknownLoss {
                given: s.to_owned(),
                valid: LossType::ALL.map(LossType::name).join(", "),
            })
    }
}
