//! Objectives over single thumbs.

mod apo_zero_unpaired;
mod bco;
mod kto;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ObjectiveError, Term, Totals, check_beta, counted, finite, weight};
pub use bco::{BcoState, ClassRewards};

/// What the head says of one completion that was liked or disliked on its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnpairedLogps {
    /// Summed log-probability over completion tokens under the policy, nats.
    pub logp: f64,
    /// The same under the reference.
    pub reference: f64,
    /// Tokens of the completion.
    pub n_tokens: usize,
    /// Liked, or disliked.
    pub desirable: bool,
    /// Multiplies the loss. At least 0.
    pub weight: f64,
}

/// A loss over unpaired examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnpairedLossType {
    /// Binary classifier optimisation, with moving averages per class.
    Bco,
    /// APO-zero; for when a class has under three examples.
    ApoZeroUnpaired,
    /// KTO, whose shift is a divergence that is estimated within the step.
    Kto,
}

impl UnpairedLossType {
    /// Every loss, in the order in which messages list them.
    pub const ALL: [UnpairedLossType; 3] = [
        UnpairedLossType::Bco,
        UnpairedLossType::ApoZeroUnpaired,
        UnpairedLossType::Kto,
    ];

    /// The name in settings and messages.
    pub fn name(self) -> &'static str {
        match self {
            UnpairedLossType::Bco => "bco",
            UnpairedLossType::ApoZeroUnpaired => "apo_zero_unpaired",
            UnpairedLossType::Kto => "kto",
        }
    }
}

impl fmt::Display for UnpairedLossType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for UnpairedLossType {
    type Err = ObjectiveError;

    fn from_str(s: &str) -> Result<Self, ObjectiveError> {
        UnpairedLossType::ALL
            .into_iter()
            .find(|t| t.name() == s)
            .ok_or_else(|| ObjectiveError::UnknownLoss {
                given: s.to_owned(),
                valid: UnpairedLossType::ALL.map(UnpairedLossType::name).join(", "),
            })
    }
}

/// The loss of likes and dislikes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnpairedObjective {
    /// Which loss.
    pub loss_type: UnpairedLossType,
    /// Strength of the pull towards the reference, 1/nats. Above 0.
    pub beta: f64,
}

impl Default for UnpairedObjective {
    fn default() -> Self {
        UnpairedObjective {
            loss_type: UnpairedLossType::Bco,
            beta: 0.1,
        }
    }
}

impl UnpairedObjective {
    /// Checks the settings; to be called once, before the first example.
    ///
    /// # Errors
    /// [`ObjectiveError::Invalid`] names the setting.
    pub fn validate(&self) -> Result<(), ObjectiveError> {
        check_beta(self.beta)
    }

    /// `beta rho`, what the moving averages of [`BcoState`] are made of.
    pub fn reward(&self, u: &UnpairedLogps) -> f64 {
        self.beta * (u.logp - u.reference)
    }

    /// What a reward is compared with, in units of beta times nats: `state` is that of the start of the optimizer step, `kl` the mean
    /// log-ratio, nats, of the step's completions under prompts that are not their own (see [`needs_kl`](Self::needs_kl)).
    pub fn shift(&self, state: &BcoState, kl: f64) -> f64 {
        match self.loss_type {
            UnpairedLossType::Bco => state.midpoint(),
            UnpairedLossType::ApoZeroUnpaired => 0.0,
            UnpairedLossType::Kto => self.beta * kl.max(0.0),
        }
    }

    /// Whether the step's divergence has to be estimated.
    pub fn needs_kl(&self) -> bool {
        self.loss_type == UnpairedLossType::Kto
    }

    /// The share of one example in the step's loss, and d loss / d logp. `shift` is a constant of the step: [`shift`](Self::shift).
    ///
    /// # Errors
    /// A value that is not finite, an empty completion, or totals that do not count it; each names the example by `index`.
    pub fn unpaired(
        &self,
        index: usize,
        u: &UnpairedLogps,
        shift: f64,
        totals: &Totals,
    ) -> Result<Term<f64>, ObjectiveError> {
        finite(index, "log-probability", u.logp)?;
        finite(index, "log-probability of the reference", u.reference)?;
        if u.n_tokens == 0 {
            return Err(ObjectiveError::EmptyCompletion {
                index,
                side: "rated",
            });
        }
        let scale = weight(index, "weight", u.weight)?
            / counted(index, "unpaired examples", totals.unpaired)?;
        let reward = self.reward(u);
        let term = match self.loss_type {
            UnpairedLossType::Bco => bco::loss(reward, u.desirable, shift, self.beta),
            UnpairedLossType::Kto => kto::loss(reward, u.desirable, shift, self.beta),
            UnpairedLossType::ApoZeroUnpaired => {
                apo_zero_unpaired::loss(reward, u.desirable, self.beta)
            }
        };
        let term = Term {
            loss: scale * term.loss,
            grad: scale * term.grad,
        };
        finite(index, "loss", term.loss)?;
        finite(index, "gradient", term.grad)?;
        Ok(term)
    }
}
