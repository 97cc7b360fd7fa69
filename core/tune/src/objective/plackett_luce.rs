//! Plackett-Luce over rankings: Plackett 1975 and Luce 1959, on rewards `beta rho` as in DPO (arXiv 2305.18290, appendix A.3).
//!
//! A ranking is a sequence of choices: the best of all, then the best of the rest. With answers in order, best first, and `r = beta rho`,
//! `L = sum over k of [log sum over j >= k of exp(r_j) - r_k]`. With `p_k(j)` the probability that choice `k` falls on `j`,
//! `dL/drho_j = beta [sum over k <= j of p_k(j) - 1]`; the last choice, among one, is certain and left out. Of two answers it is
//! `sigmoid`. By Luce's axiom a ranking without some of its answers is a ranking of the others. TRL has no such loss.

use serde::{Deserialize, Serialize};

use super::{ObjectiveError, Term, Totals, check_beta, counted, finite, sft, weight};

/// What the head says of a ranking: one entry an answer, the best first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RankingLogps {
    /// Summed log-probabilities over completion tokens under the policy, nats.
    pub policy: Vec<f64>,
    /// The same under the reference.
    pub reference: Vec<f64>,
    /// Tokens of each completion.
    pub n_tokens: Vec<usize>,
}

impl RankingLogps {
    /// `rho` of each answer, nats.
    pub fn rho(&self) -> impl ExactSizeIterator<Item = f64> + Clone {
        self.policy.iter().zip(&self.reference).map(|(p, r)| p - r)
    }
}

/// What one ranking asks for beside the objective's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RankingWeights {
    /// Multiplies the loss that compares the answers. At least 0.
    pub ranking: f64,
    /// Multiplies the likelihood of the best answer: 0 where it is merely the least bad one. At least 0.
    pub nll: f64,
}

impl Default for RankingWeights {
    fn default() -> Self {
        RankingWeights {
            ranking: 1.0,
            nll: 1.0,
        }
    }
}

/// The loss of rankings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankingObjective {
    /// Strength of the pull towards the reference, 1/nats. Above 0.
    pub beta: f64,
    /// Factor on the loss that compares. Above 0.
    pub loss_weight: f64,
    /// Factor on the mean negative log-likelihood per token of the best answers. At least 0.
    pub sft_weight: f64,
}

impl Default for RankingObjective {
    fn default() -> Self {
        RankingObjective {
            beta: 0.1,
            loss_weight: 1.0,
            sft_weight: 0.0,
        }
    }
}

impl RankingObjective {
    /// The loss's name in settings and messages.
    pub const NAME: &'static str = "plackett_luce";

    /// Checks the settings; to be called once, before the first example.
    ///
    /// # Errors
    /// [`ObjectiveError::Invalid`] names the setting.
    pub fn validate(&self) -> Result<(), ObjectiveError> {
        check_beta(self.beta)?;
        for (value, least) in [
            (self.loss_weight, f64::MIN_POSITIVE),
            (self.sft_weight, 0.0),
        ] {
            if !(value.is_finite() && value >= least) {
                let reason = format!(
                    "must be finite, above 0 for plackett_luce and at least 0 for sft, got {value}"
                );
                return Err(ObjectiveError::Invalid {
                    setting: "loss_weights",
                    reason,
                });
            }
        }
        Ok(())
    }

    /// The share of one ranking in the step's loss, and d loss / d log-probability of each answer.
    ///
    /// # Errors
    /// A value that is not finite, an empty completion, fewer than two answers, or totals that do not count it; each names the example
    /// by `index`.
    pub fn ranking(
        &self,
        index: usize,
        logps: &RankingLogps,
        weights: &RankingWeights,
        totals: &Totals,
    ) -> Result<Term<Vec<f64>>, ObjectiveError> {
        for (what, values) in [
            ("log-probability", &logps.policy),
            ("log-probability of the reference", &logps.reference),
        ] {
            values
                .iter()
                .try_for_each(|value| finite(index, what, *value).map(drop))?;
        }
        if logps.n_tokens.contains(&0) {
            return Err(ObjectiveError::EmptyCompletion {
                index,
                side: "ranked",
            });
        }
        if logps.policy.len() < 2 {
            return Err(ObjectiveError::TooFew { index });
        }
        let scale = self.loss_weight * weight(index, "weight", weights.ranking)?
            / counted(index, "rankings", totals.rankings)?;
        let rewards: Vec<f64> = logps.rho().map(|rho| self.beta * rho).collect();
        let Term { loss, grad } = loss(&rewards);
        let mut term = Term {
            loss: scale * loss,
            grad: grad
                .iter()
                .map(|g| scale * self.beta * g)
                .collect::<Vec<_>>(),
        };
        let nll = weight(index, "weight of the likelihood", weights.nll)?;
        if self.sft_weight > 0.0 && nll > 0.0 {
            let best = sft::demonstration(index, logps.policy[0], logps.n_tokens[0], nll, totals)?;
            term.loss += self.sft_weight * best.loss;
            term.grad[0] += self.sft_weight * best.grad;
        }
        finite(index, "loss", term.loss)?;
        for grad in &term.grad {
            finite(index, "gradient", *grad)?;
        }
        Ok(term)
    }
}

/// The loss of one ranking, nats, and d loss / d reward of each answer.
fn loss(rewards: &[f64]) -> Term<Vec<f64>> {
    let n = rewards.len();
    // log sum over j >= k of exp(r_j), from the last on, without overflow.
    let mut log_sums = rewards.to_vec();
    for k in (0..n - 1).rev() {
        let (a, b) = (rewards[k], log_sums[k + 1]);
        log_sums[k] = a.max(b) + (-(a - b).abs()).exp().ln_1p();
    }
    let mut term = Term {
        loss: 0.0,
        grad: vec![0.0; n],
    };
    for k in 0..n - 1 {
        // Of two rewards far apart the difference is kept, which a difference of large numbers would lose.
        term.loss += match log_sums[k + 1] - rewards[k] {
            behind if behind <= 0.0 => behind.exp().ln_1p(),
            ahead => ahead + (-ahead).exp().ln_1p(),
        };
        term.grad[k] -= 1.0;
        for (grad, reward) in term.grad[k..].iter_mut().zip(&rewards[k..]) {
            *grad += (reward - log_sums[k]).exp();
        }
    }
    term
}
