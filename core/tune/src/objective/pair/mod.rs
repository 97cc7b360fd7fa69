//! Objectives over pairs: a weighted list of losses, as TRL's `loss_type` and `loss_weights`.

mod aot;
mod apo_down;
mod apo_zero;
mod bco_pair;
mod cdpo;
mod cpo;
mod discopop;
mod dpop;
mod exo_pair;
mod f_divergence;
mod hinge;
mod ipo;
mod loss_type;
mod nca_pair;
mod orpo;
mod robust;
mod scores;
mod sigmoid;
mod sigmoid_norm;
mod simpo;
mod smoothed;
mod sppo_hard;

use serde::{Deserialize, Serialize};

use super::{
    ObjectiveError, Term, Totals, check_beta, check_label_smoothing, counted, finite, sft, weight,
};
use aot::Ranked;
pub use f_divergence::FDivergence;
use loss_type::Compares;
pub use loss_type::LossType;
use scores::Scores;

/// What the head says of one pair: summed log-probabilities over completion tokens, nats, and the completions' lengths.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
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
    /// What of these sums lies beyond the shorter completion's length. Asked for by `ld_alpha` alone.
    pub tails: Tails,
    /// Log of the pair's weight in WPO: over both sides, the mean over tokens of `log p(token) - log sum_v p(v)^2`. Asked for by
    /// `use_weighting` alone.
    pub log_confidence: f64,
}

/// Sums of log-probabilities over the tokens of a completion that are beyond the length of the pair's shorter one, nats.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tails {
    /// Chosen completion under the policy.
    pub chosen: f64,
    /// Rejected completion under the policy.
    pub rejected: f64,
    /// Chosen completion under the reference.
    pub ref_chosen: f64,
    /// Rejected completion under the reference.
    pub ref_rejected: f64,
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

/// d loss / d log-probability of each side.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairGrad {
    /// Of each token of the chosen completion; with `ld_alpha`, of those that are not in its tail.
    pub chosen: f64,
    /// Of each token of the rejected completion, likewise.
    pub rejected: f64,
}

/// The share of one pair in a step's loss, and the gradient of both parts of its sides.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairTerm {
    /// The loss.
    pub loss: f64,
    /// Of tokens within the shorter completion's length.
    pub grad: PairGrad,
    /// Of tokens beyond it: the same as `grad` without `ld_alpha`.
    pub tail: PairGrad,
}

/// What one pair asks for beside the objective's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PairWeights {
    /// Multiplies the losses that compare the two sides. At least 0.
    pub pair: f64,
    /// Multiplies the `sft` term: 0 where the chosen side is merely the less bad one. At least 0.
    pub nll: f64,
    /// Takes the place of the objective's label smoothing, in losses that smooth. In [0, 0.5).
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

/// A pair of a step: its index, as errors name it, what the head says of it, and what it asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairItem {
    /// The example's index, as the caller counts.
    pub index: usize,
    /// What the head says.
    pub logps: PairLogps,
    /// What the pair asks for.
    pub weights: PairWeights,
}

/// `sum over k of loss_weights[k] * loss_type[k]`. DPO + NLL is `["sigmoid", "sft"]`.
///
/// Fields have TRL's names, where it has them; missing ones take the defaults of [`PairObjective::new`] with `sigmoid` and 0.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairObjective {
    /// The losses, each at most once.
    pub loss_type: Vec<LossType>,
    /// One weight per loss, finite and above 0. Empty: 1 for each.
    pub loss_weights: Vec<f64>,
    /// Strength of the pull towards the reference, 1/nats. Above 0.
    pub beta: f64,
    /// Probability that a label is wrong, in [0, 0.5). TRL's `sigmoid` ignores it: here that is `cdpo`.
    pub label_smoothing: f64,
    /// The divergence that holds the model near the reference.
    pub f_divergence_type: FDivergence,
    /// `a` of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
    /// LD-DPO (arXiv 2409.06411): the share, in [0, 1], of the log-probabilities of tokens beyond the length of the pair's shorter
    /// completion, under model and reference.
    pub ld_alpha: Option<f64>,
    /// WPO (arXiv 2406.11827): weighs a pair by how likely the model itself would write it. Not on `sft`.
    pub use_weighting: bool,
    /// Temperature of `discopop`'s blend. Above 0.
    pub discopop_tau: f64,
    /// What `dpop` adds for each nat that the chosen side lost. At least 0.
    pub dpop_lambda: f64,
    /// Margin that `simpo` aims at. At least 0.
    pub simpo_gamma: f64,
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
            f_divergence_type: FDivergence::ReverseKl,
            f_alpha_divergence_coef: 0.5,
            ld_alpha: None,
            use_weighting: false,
            discopop_tau: 0.05,
            dpop_lambda: 5.0,
            simpo_gamma: 0.5,
        }
    }

    /// Checks every setting and combination; to be called once, before the first pair.
    ///
    /// # Errors
    /// [`ObjectiveError::Invalid`] names the setting and says what to do.
    pub fn validate(&self) -> Result<(), ObjectiveError> {
        self.validate_losses()?;
        check_beta(self.beta)?;
        check_label_smoothing(self.label_smoothing)?;
        at_least("dpop_lambda", self.dpop_lambda, 0.0)?;
        at_least("simpo_gamma", self.simpo_gamma, 0.0)?;
        at_least("discopop_tau", self.discopop_tau, f64::MIN_POSITIVE)?;
        if !self.f_alpha_divergence_coef.is_finite() {
            let a = self.f_alpha_divergence_coef;
            return invalid(
                "f_alpha_divergence_coef",
                format!("must be finite, got {a}"),
            );
        }
        if let Some(alpha) = self.ld_alpha.filter(|alpha| !(0.0..=1.0).contains(alpha)) {
            return invalid("ld_alpha", format!("must be within 0 and 1, got {alpha}"));
        }
        self.validate_combination()
    }

    fn validate_losses(&self) -> Result<(), ObjectiveError> {
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
        let (n, m) = (self.loss_weights.len(), self.loss_type.len());
        if n != 0 && n != m {
            return invalid(
                "loss_weights",
                format!("has {n} entries for {m} losses; give one for each"),
            );
        }
        let bad = |w: &&f64| !(w.is_finite() && **w > 0.0);
        if let Some(w) = self.loss_weights.iter().find(bad) {
            return invalid(
                "loss_weights",
                format!("must be finite and above 0, got {w}; leave out a loss not wanted"),
            );
        }
        if self.has(LossType::Sigmoid) && self.has(LossType::Cdpo) {
            let reason = "`sigmoid` and `cdpo` score the same margin; `cdpo` with a smaller label_smoothing is their sum";
            return invalid("loss_type", reason.to_owned());
        }
        let free = self.first(|c| c == Compares::LogProbabilities);
        let bound = self.first(|c| !matches!(c, Compares::LogProbabilities | Compares::Nothing));
        if let (Some(free), Some(bound)) = (free, bound) {
            let reason = format!(
                "`{free}` has no reference and `{bound}` has one: their margins and betas do not compare"
            );
            return invalid("loss_type", reason);
        }
        Ok(())
    }

    fn validate_combination(&self) -> Result<(), ObjectiveError> {
        let smooths = self.loss_type.iter().any(|t| t.smooths());
        if self.label_smoothing > 0.0 && !smooths {
            return invalid(
                "label_smoothing",
                format!("has no effect on {}; use `cdpo`", self.names()),
            );
        }
        if self.has(LossType::ExoPair) && self.label_smoothing == 0.0 {
            let reason =
                "must be above 0 for `exo_pair`, whose loss is infinite at 0; 0.001 is usual";
            return invalid("label_smoothing", reason.to_owned());
        }
        let name = self.f_divergence_type.name();
        let other = self.first(|c| !matches!(c, Compares::Scores | Compares::Nothing));
        if let Some(t) = other.filter(|_| self.f_divergence_type != FDivergence::ReverseKl) {
            return invalid(
                "f_divergence_type",
                format!("`{t}` is defined for reverse_kl alone, not for {name}"),
            );
        }
        let free = self.first(|c| c == Compares::LogProbabilities);
        if let Some(t) = free.filter(|_| self.ld_alpha.is_some()) {
            return invalid(
                "ld_alpha",
                format!("is not for `{t}`, which has no reference"),
            );
        }
        if self.use_weighting {
            let other = self.first(|c| matches!(c, Compares::LogProbabilities | Compares::Ranks));
            if let Some(t) = other {
                return invalid("use_weighting", format!("is not for `{t}`"));
            }
            if !self.compares() {
                let reason = "weighs pairs, and `sft` looks at one side alone";
                return invalid("use_weighting", reason.to_owned());
            }
        }
        Ok(())
    }

    /// Whether reference log-probabilities enter the loss.
    pub fn needs_reference(&self) -> bool {
        self.first(|c| !matches!(c, Compares::LogProbabilities | Compares::Nothing))
            .is_some()
    }

    /// Whether any loss looks at the rejected side.
    pub fn compares(&self) -> bool {
        self.first(|c| c != Compares::Nothing).is_some()
    }

    /// Whether a pair's loss depends on the step's other pairs, so that [`pairs`](Self::pairs) needs all of them at once.
    pub fn couples(&self) -> bool {
        self.first(|c| c == Compares::Ranks).is_some()
    }

    /// The share of one pair in the step's loss, and its gradient; of the only one in the step, where losses couple pairs.
    ///
    /// # Errors
    /// As [`pairs`](Self::pairs).
    pub fn pair(&self, item: &PairItem, totals: &Totals) -> Result<PairTerm, ObjectiveError> {
        let terms = self.pairs(std::slice::from_ref(item), totals)?;
        Ok(terms.first().copied().unwrap_or_default())
    }

    /// The shares of pairs in the step's loss, and their gradients, in the order given.
    ///
    /// # Errors
    /// A value that is not finite, an empty completion, or totals that do not count it; each names the example by its index.
    pub fn pairs(
        &self,
        items: &[PairItem],
        totals: &Totals,
    ) -> Result<Vec<PairTerm>, ObjectiveError> {
        let sides: Vec<Sides> = items
            .iter()
            .map(|item| self.sides(item))
            .collect::<Result<_, _>>()?;
        let mut terms = vec![PairTerm::default(); items.len()];
        for (k, loss_type) in self.loss_type.iter().enumerate() {
            let loss_weight = self.loss_weights.get(k).copied().unwrap_or(1.0);
            if *loss_type == LossType::Sft {
                for (term, item) in terms.iter_mut().zip(items) {
                    term.add_likelihood(item, loss_weight, totals)?;
                }
                continue;
            }
            let losses = self.losses(*loss_type, &sides);
            for (((term, item), sides), loss) in terms.iter_mut().zip(items).zip(&sides).zip(losses)
            {
                let n_pairs = counted(item.index, "pairs", totals.pairs)?;
                // A loss of ranks has weighed them.
                let weight = match loss_type.compares() {
                    Compares::Ranks => 1.0,
                    _ => sides.weight,
                };
                let scale = loss_weight * weight / n_pairs;
                term.add(&loss, scale, self.ld_alpha.unwrap_or(1.0));
            }
        }
        for (term, item) in terms.iter().zip(items) {
            finite(item.index, "loss", term.loss)?;
            finite(item.index, "gradient of the chosen side", term.grad.chosen)?;
            finite(
                item.index,
                "gradient of the rejected side",
                term.grad.rejected,
            )?;
        }
        Ok(terms)
    }

    /// Losses of all pairs by one kind, and d loss / d log-probability of each side.
    fn losses(&self, loss_type: LossType, all: &[Sides]) -> Vec<Term<PairGrad>> {
        let beta = self.beta;
        match loss_type {
            LossType::Aot => return aot::paired(&ranked(all, |s| s.policy), beta),
            LossType::AotUnpaired => return aot::unpaired(&ranked(all, |s| s.ratios), beta),
            _ => {}
        }
        let one = |sides: &Sides| {
            let Sides {
                policy,
                ratios,
                scores,
                slopes,
                smoothing: e,
                ..
            } = sides;
            let e = *e;
            match loss_type {
                LossType::Sigmoid => slopes.chain(sigmoid::loss(scores, beta)),
                LossType::Cdpo => slopes.chain(cdpo::loss(scores, beta, e)),
                LossType::Robust => slopes.chain(robust::loss(scores, beta, e)),
                LossType::Hinge => slopes.chain(hinge::loss(scores, beta)),
                LossType::Ipo => slopes.chain(ipo::loss(scores, beta)),
                LossType::ExoPair => slopes.chain(exo_pair::loss(scores, beta, e)),
                LossType::Discopop => slopes.chain(discopop::loss(scores, beta, self.discopop_tau)),
                LossType::SigmoidNorm => slopes.chain(sigmoid_norm::loss(scores, beta)),
                LossType::NcaPair => nca_pair::loss(ratios, beta),
                LossType::BcoPair => bco_pair::loss(ratios, beta),
                LossType::SppoHard => sppo_hard::loss(ratios, beta),
                LossType::ApoZero => apo_zero::loss(ratios, beta),
                LossType::ApoDown => apo_down::loss(ratios, beta),
                LossType::Dpop => dpop::loss(ratios, beta, self.dpop_lambda),
                LossType::Cpo => cpo::loss(policy, beta, e),
                LossType::Simpo => simpo::loss(policy, beta, self.simpo_gamma, e),
                LossType::Orpo => orpo::loss(policy, beta),
                LossType::Aot | LossType::AotUnpaired | LossType::Sft => Term::default(),
            }
        };
        all.iter().map(one).collect()
    }

    fn sides(&self, item: &PairItem) -> Result<Sides, ObjectiveError> {
        let PairItem {
            index,
            logps: p,
            weights,
        } = item;
        check_pair(*index, p)?;
        weight(*index, "weight", weights.pair)?;
        weight(*index, "weight of the likelihood", weights.nll)?;
        let smoothing = weights.label_smoothing.unwrap_or(self.label_smoothing);
        check_label_smoothing(smoothing)?;
        let p = self.discounted(p);
        let of = |chosen: f64, rejected: f64| Scores {
            chosen,
            rejected,
            n_chosen: p.n_chosen as f64,
            n_rejected: p.n_rejected as f64,
        };
        let ratios = of(p.rho_chosen(), p.rho_rejected());
        let score = |rho| {
            self.f_divergence_type
                .score(rho, self.f_alpha_divergence_coef)
        };
        let ((chosen, chosen_slope), (rejected, rejected_slope)) =
            (score(ratios.chosen), score(ratios.rejected));
        let confidence = if self.use_weighting {
            p.log_confidence.exp()
        } else {
            1.0
        };
        Ok(Sides {
            policy: of(p.chosen, p.rejected),
            reference: of(p.ref_chosen, p.ref_rejected),
            ratios,
            scores: of(chosen, rejected),
            slopes: Slopes {
                chosen: chosen_slope,
                rejected: rejected_slope,
            },
            smoothing,
            weight: weights.pair * finite(*index, "confidence of the model", confidence)?,
        })
    }

    /// The pair as losses that compare see it: tails count by their share alone.
    pub fn discounted(&self, p: &PairLogps) -> PairLogps {
        let without = 1.0 - self.ld_alpha.unwrap_or(1.0);
        PairLogps {
            chosen: p.chosen - without * p.tails.chosen,
            rejected: p.rejected - without * p.tails.rejected,
            ref_chosen: p.ref_chosen - without * p.tails.ref_chosen,
            ref_rejected: p.ref_rejected - without * p.tails.ref_rejected,
            ..*p
        }
    }

    fn has(&self, t: LossType) -> bool {
        self.loss_type.contains(&t)
    }

    /// The first loss that compares such things.
    fn first(&self, what: impl Fn(Compares) -> bool) -> Option<LossType> {
        self.loss_type.iter().copied().find(|t| what(t.compares()))
    }

    fn names(&self) -> String {
        self.loss_type
            .iter()
            .map(|t| format!("`{t}`"))
            .collect::<Vec<_>>()
            .join(" + ")
    }
}

/// One pair, as losses look at it; tails are discounted already.
#[derive(Debug, Clone, Copy)]
struct Sides {
    /// Log-probabilities.
    policy: Scores,
    reference: Scores,
    /// Log-ratios.
    ratios: Scores,
    /// What the divergence makes of the ratios, and how steeply.
    scores: Scores,
    slopes: Slopes,
    smoothing: f64,
    /// Factor on losses that compare, a constant for the gradient.
    weight: f64,
}

fn ranked(all: &[Sides], scores: fn(&Sides) -> Scores) -> Vec<Ranked> {
    let ranked = |sides: &Sides| Ranked {
        scores: scores(sides),
        reference: sides.reference,
        smoothing: sides.smoothing,
        weight: sides.weight,
    };
    all.iter().map(ranked).collect()
}

/// d score / d log-ratio of each side.
#[derive(Debug, Clone, Copy)]
struct Slopes {
    chosen: f64,
    rejected: f64,
}

impl Slopes {
    /// From the gradient by scores to that by log-probabilities.
    fn chain(&self, term: Term<PairGrad>) -> Term<PairGrad> {
        Term {
            loss: term.loss,
            grad: PairGrad {
                chosen: term.grad.chosen * self.chosen,
                rejected: term.grad.rejected * self.rejected,
            },
        }
    }
}

impl PairTerm {
    fn add(&mut self, loss: &Term<PairGrad>, scale: f64, of_tail: f64) {
        self.loss += scale * loss.loss;
        self.grad.chosen += scale * loss.grad.chosen;
        self.grad.rejected += scale * loss.grad.rejected;
        self.tail.chosen += scale * of_tail * loss.grad.chosen;
        self.tail.rejected += scale * of_tail * loss.grad.rejected;
    }

    fn add_likelihood(
        &mut self,
        item: &PairItem,
        loss_weight: f64,
        totals: &Totals,
    ) -> Result<(), ObjectiveError> {
        let PairItem {
            index,
            logps: p,
            weights,
        } = item;
        if weights.nll == 0.0 {
            return Ok(());
        }
        let nll = sft::demonstration(*index, p.chosen, p.n_chosen, weights.nll, totals)?;
        self.loss += loss_weight * nll.loss;
        self.grad.chosen += loss_weight * nll.grad;
        self.tail.chosen += loss_weight * nll.grad;
        Ok(())
    }
}

fn invalid<T>(setting: &'static str, reason: String) -> Result<T, ObjectiveError> {
    Err(ObjectiveError::Invalid { setting, reason })
}

fn at_least(setting: &'static str, value: f64, least: f64) -> Result<(), ObjectiveError> {
    if value.is_finite() && value >= least {
        return Ok(());
    }
    let reason = if least == 0.0 {
        format!("must be finite and at least 0, got {value}")
    } else {
        format!("must be finite and above 0, got {value}")
    };
    invalid(setting, reason)
}

fn check_pair(index: usize, p: &PairLogps) -> Result<(), ObjectiveError> {
    for (what, value) in [
        ("chosen log-probability", p.chosen),
        ("rejected log-probability", p.rejected),
        ("chosen log-probability of the reference", p.ref_chosen),
        ("rejected log-probability of the reference", p.ref_rejected),
    ] {
        finite(index, what, value)?;
    }
    for (side, n) in [("chosen", p.n_chosen), ("rejected", p.n_rejected)] {
        if n == 0 {
            return Err(ObjectiveError::EmptyCompletion { index, side });
        }
    }
    Ok(())
}
