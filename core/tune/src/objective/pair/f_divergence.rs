//! The divergence that holds the model near the reference: what links a log-ratio to a score (Wang et al. 2023, f-DPO, arXiv 2309.16240).
//!
//! `s = f'(exp rho)`, up to a constant: `rho` for the reverse KL divergence, which is DPO.

use serde::{Deserialize, Serialize};

use crate::objective::math;

/// Which divergence; names as TRL's `f_divergence_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FDivergence {
    /// `s = rho`.
    #[default]
    ReverseKl,
    /// `s = 1 - exp(-rho)`.
    ForwardKl,
    /// `s = log 2 + log sigma(rho)`.
    JsDivergence,
    /// `s = (exp((a-1) rho) - 1) / (a-1)`, `a` the objective's `f_alpha_divergence_coef`; `rho` where `a` is 1.
    AlphaDivergence,
}

/// Exponents are cut here, as TRL cuts them.
const MAX_EXPONENT: f64 = 80.0;

impl FDivergence {
    /// Every divergence, in the order in which messages list them.
    pub const ALL: [FDivergence; 4] = [
        FDivergence::ReverseKl,
        FDivergence::ForwardKl,
        FDivergence::JsDivergence,
        FDivergence::AlphaDivergence,
    ];

    /// The name in settings and messages.
    pub fn name(self) -> &'static str {
        match self {
            FDivergence::ReverseKl => "reverse_kl",
            FDivergence::ForwardKl => "forward_kl",
            FDivergence::JsDivergence => "js_divergence",
            FDivergence::AlphaDivergence => "alpha_divergence",
        }
    }

    /// The score of a log-ratio, and its slope.
    pub(super) fn score(self, rho: f64, alpha: f64) -> (f64, f64) {
        let a = alpha - 1.0;
        match self {
            FDivergence::ReverseKl => (rho, 1.0),
            FDivergence::AlphaDivergence if a.abs() < 1e-6 => (rho, 1.0),
            FDivergence::ForwardKl => (-(-rho).exp_m1(), (-rho).exp()),
            FDivergence::JsDivergence => (
                std::f64::consts::LN_2 + math::log_sigmoid(rho),
                math::sigmoid(-rho),
            ),
            FDivergence::AlphaDivergence if a * rho > MAX_EXPONENT => {
                (MAX_EXPONENT.exp_m1() / a, 0.0)
            }
            FDivergence::AlphaDivergence => ((a * rho).exp_m1() / a, (a * rho).exp()),
        }
    }
}

impl std::str::FromStr for FDivergence {
    type Err = crate::objective::ObjectiveError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        FDivergence::ALL
            .into_iter()
            .find(|f| f.name() == s)
            .ok_or_else(|| crate::objective::ObjectiveError::Invalid {
                setting: "f_divergence_type",
                reason: format!(
                    "there is no `{s}`; use one of {}",
                    FDivergence::ALL.map(FDivergence::name).join(", ")
                ),
            })
    }
}

impl std::fmt::Display for FDivergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
