//! Objectives over pairs: a weighted list of losses, as TRL's `loss_type` and `loss_weights`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{
    ObjectiveError, Term, Totals, cdpo, check_beta, check_label_smoothing, counted, finite, ipo,
    sft, sigmoid, weight,
};

/// What the head says of one pair: summed log-probabilities over completion tokens, nats, and the completions' lengths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLogps {
    /// Chosen completion under the policy.
    pub chosen: f64,
    /// Rejected completion under the policy.
    pub rejected: f64,
    /// Chosen completion under the reference (the base with the adapter off).
    pub ref_chosen: f64,
    /// Rejected completion under the reference.
    pub ref_rejected: f64,
    /// Tokens of the chosen completion.
    pub n_chosen: usize,
    /// Tokens of the rejected completion.
    pub n_rejected: usize,
}

impl PairLogps {
    /// `rho_w`, nats.
    pub fn rho_chosen(&self) -> f64 {
        self.chosen - self.ref_chosen
    }

    /// `rho_l`, nats.
    pub fn rho_rejected(&self) -> f64 {
        self.rejected - self.ref_rejected
    }

    /// `D = rho_w - rho_l`, nats.
    pub fn difference(&self) -> f64 {
        self.rho_chosen() - self.rho_rejected()
    }
}

/// d loss / d sequence log-probability of each side.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairGrad {
    /// With respect to [`PairLogps::chosen`].
    pub chosen: f64,
    /// With respect to [`PairLogps::rejected`].
    pub rejected: f64,
}

/// What one pair asks for beside the objective's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PairWeights {
    /// Multiplies the losses that compare the two sides. At least 0.
    pub pair: f64,
    /// Multiplies the `sft` term: 0 where the chosen side is merely the less bad one. At least 0.
    pub nll: f64,
    /// Takes the place of the objective's label smoothing (`cdpo` only). In [0, 0.5).
    pub label_smoothing: Option<f64>,
}

impl Default for PairWeights {
    fn default() -> Self {
        PairWeights {
            pair: 1.0,
            nll: 1.0,
            label_smoothing: None,
        }
    }
}

/// A loss over pairs. Names as in TRL's `loss_type`, except `cdpo`, which TRL lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossType {
    /// DPO.
    Sigmoid,
    /// DPO with label smoothing.
    Cdpo,
    /// IPO, normalised by length.
    Ipo,
    /// Mean negative log-likelihood per token of the chosen side.
    Sft,
}

impl LossType {
    /// Every loss, in the order in which messages list them.
    pub const ALL: [LossType; 4] = [
        LossType::Sigmoid,
        LossType::Cdpo,
        LossType::Ipo,
        LossType::Sft,
    ];

    /// The name in settings and messages.
    pub fn name(self) -> &'static str {
        match self {
            LossType::Sigmoid => "sigmoid",
            LossType::Cdpo => "cdpo",
            LossType::Ipo => "ipo",
            LossType::Sft => "sft",
        }
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

/// `sum over k of loss_weights[k] * loss_type[k]`. DPO + NLL is `["sigmoid", "sft"]`.
///
/// Every field has a TRL name; missing ones take the defaults of [`PairObjective::new`] with `sigmoid` and 0.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairObjective {
    /// The losses, each at most once.
    pub loss_type: Vec<LossType>,
    /// One weight per loss, finite and above 0. Empty: 1 for each.
    pub loss_weights: Vec<f64>,
    /// Strength of the pull towards the reference, 1/nats. Above 0.
    pub beta: f64,
    /// Probability that a label is wrong, in [0, 0.5); `cdpo` only.
    pub label_smoothing: f64,
}

impl Default for PairObjective {
    fn default() -> Self {
        PairObjective::new(LossType::Sigmoid, 0.1)
    }
}

impl PairObjective {
    /// One loss of weight 1, without label smoothing.
    pub fn new(loss_type: LossType, beta: f64) -> Self {
        PairObjective {
            loss_type: vec![loss_type],
            loss_weights: Vec::new(),
            beta,
            label_smoothing: 0.0,
        }
    }

    /// Checks every setting and combination; to be called once, before the first pair.
    ///
    /// # Errors
    /// [`ObjectiveError::Invalid`] names the setting and says what to do.
    pub fn validate(&self) -> Result<(), ObjectiveError> {
        let invalid = |setting, reason: String| Err(ObjectiveError::Invalid { setting, reason });
        if self.loss_type.is_empty() {
            return invalid("loss_type", "names no loss".to_owned());
        }
        for (k, t) in self.loss_type.iter().enumerate() {
            if self.loss_type[..k].contains(t) {
                return invalid(
                    "loss_type",
                    format!("names `{t}` twice; use loss_weights to weigh it"),
                );
            }
        }
        if !self.loss_weights.is_empty() && self.loss_weights.len() != self.loss_type.len() {
            let (n, m) = (self.loss_weights.len(), self.loss_type.len());
            return invalid(
                "loss_weights",
                format!("has {n} entries for {m} losses; give one for each"),
            );
        }
        if let Some(w) = self
            .loss_weights
            .iter()
            .find(|w| !(w.is_finite() && **w > 0.0))
        {
            return invalid(
                "loss_weights",
                format!("must be finite and above 0, got {w}; leave out a loss not wanted"),
            );
        }
        check_beta(self.beta)?;
        check_label_smoothing(self.label_smoothing)?;
        if self.has(LossType::Sigmoid) && self.has(LossType::Cdpo) {
            let reason = "`sigmoid` and `cdpo` score the same margin; `cdpo` with a smaller label_smoothing is their sum";
            return invalid("loss_type", reason.to_owned());
        }
        if self.label_smoothing > 0.0 && !self.has(LossType::Cdpo) {
            return invalid(
                "label_smoothing",
                format!("has no effect on {}; use `cdpo`", self.names()),
            );
        }
        Ok(())
    }

    /// Whether reference log-probabilities enter the loss (they always enter the reported rewards).
    pub fn needs_reference(&self) -> bool {
        self.compares()
    }

    /// Whether any loss looks at the rejected side.
    pub fn compares(&self) -> bool {
        self.loss_type.iter().any(|t| *t != LossType::Sft)
    }

    /// The share of one pair in the step's loss, and its gradient.
    ///
    /// # Errors
    /// A value that is not finite, an empty completion, or totals that do not count it; each names the example by `index`.
    pub fn pair(
        &self,
        index: usize,
        p: &PairLogps,
        weights: &PairWeights,
        totals: &Totals,
    ) -> Result<Term<PairGrad>, ObjectiveError> {
        check_pair(index, p)?;
        let pair_weight = weight(index, "weight", weights.pair)?;
        let nll_weight = weight(index, "weight of the likelihood", weights.nll)?;
        let e = weights.label_smoothing.unwrap_or(self.label_smoothing);
        check_label_smoothing(e)?;

        let mut sum = Term {
            loss: 0.0,
            grad: PairGrad::default(),
        };
        for (k, loss_type) in self.loss_type.iter().enumerate() {
            let loss_weight = self.loss_weights.get(k).copied().unwrap_or(1.0);
            let (scale, term) = match loss_type {
                LossType::Sft if nll_weight == 0.0 => continue,
                LossType::Sft => {
                    let t = sft::demonstration(index, p.chosen, p.n_chosen, nll_weight, totals)?;
                    (
                        loss_weight,
                        Term {
                            loss: t.loss,
                            grad: PairGrad {
                                chosen: t.grad,
                                rejected: 0.0,
                            },
                        },
                    )
                }
                LossType::Sigmoid => (
                    self.scale(index, loss_weight * pair_weight, totals)?,
                    sigmoid::loss(p, self.beta),
                ),
                LossType::Cdpo => (
                    self.scale(index, loss_weight * pair_weight, totals)?,
                    cdpo::loss(p, self.beta, e),
                ),
                LossType::Ipo => (
                    self.scale(index, loss_weight * pair_weight, totals)?,
                    ipo::loss(p, self.beta),
                ),
            };
            sum.loss += scale * term.loss;
            sum.grad.chosen += scale * term.grad.chosen;
            sum.grad.rejected += scale * term.grad.rejected;
        }
        finite(index, "loss", sum.loss)?;
        finite(index, "gradient of the chosen side", sum.grad.chosen)?;
        finite(index, "gradient of the rejected side", sum.grad.rejected)?;
        Ok(sum)
    }

    fn scale(&self, index: usize, weight: f64, totals: &Totals) -> Result<f64, ObjectiveError> {
        Ok(weight / counted(index, "pairs", totals.pairs)?)
    }

    fn has(&self, t: LossType) -> bool {
        self.loss_type.contains(&t)
    }

    fn names(&self) -> String {
        self.loss_type
            .iter()
            .map(|t| format!("`{t}`"))
            .collect::<Vec<_>>()
            .join(" + ")
    }
}

fn check_pair(index: usize, p: &PairLogps) -> Result<(), ObjectiveError> {
    finite(index, "chosen log-probability", p.chosen)?;
    finite(index, "rejected log-probability", p.rejected)?;
    finite(
        index,
        "chosen log-probability of the reference",
        p.ref_chosen,
    )?;
    finite(
        index,
        "rejected log-probability of the reference",
        p.ref_rejected,
    )?;
    for (side, n) in [("chosen", p.n_chosen), ("rejected", p.n_rejected)] {
        if n == 0 {
            return Err(ObjectiveError::EmptyCompletion { index, side });
        }
    }
    Ok(())
}
