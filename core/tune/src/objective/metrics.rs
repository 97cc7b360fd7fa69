//! What is reported per step, under TRL's names.

use serde::Serialize;

use super::{PairLogps, RankingLogps, UnpairedLogps};

/// Means over the examples of a step. A value that no example of the step defines is absent. The best of a ranking is its chosen
/// side, and the mean of the others its rejected one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Metrics {
    /// Mean `beta rho` of chosen and of desirable completions.
    #[serde(rename = "rewards/chosen", skip_serializing_if = "Option::is_none")]
    pub rewards_chosen: Option<f64>,
    /// Mean `beta rho` of rejected and of undesirable completions.
    #[serde(rename = "rewards/rejected", skip_serializing_if = "Option::is_none")]
    pub rewards_rejected: Option<f64>,
    /// `rewards/chosen - rewards/rejected`.
    #[serde(rename = "rewards/margins", skip_serializing_if = "Option::is_none")]
    pub rewards_margins: Option<f64>,
    /// Share of pairs whose chosen reward is above the rejected one (a tie is not), 0 to 1. Of a ranking: of all its pairs.
    #[serde(rename = "rewards/accuracies", skip_serializing_if = "Option::is_none")]
    pub rewards_accuracies: Option<f64>,
    /// Mean summed log-probability of chosen and desirable completions, nats.
    #[serde(rename = "logps/chosen", skip_serializing_if = "Option::is_none")]
    pub logps_chosen: Option<f64>,
    /// Mean summed log-probability of rejected and undesirable completions, nats.
    #[serde(rename = "logps/rejected", skip_serializing_if = "Option::is_none")]
    pub logps_rejected: Option<f64>,
}

/// Sums over the micro-batches of a step. beta is constant within it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MetricsSum {
    chosen: Side,
    rejected: Side,
    pairs: usize,
    right: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Side {
    reward: f64,
    logp: f64,
    count: usize,
}

impl MetricsSum {
    /// Counts a pair.
    pub fn add_pair(&mut self, p: &PairLogps, beta: f64) {
        let (chosen, rejected) = (beta * p.rho_chosen(), beta * p.rho_rejected());
        self.chosen.add(chosen, p.chosen);
        self.rejected.add(rejected, p.rejected);
        self.pairs += 1;
        self.right += f64::from(u8::from(chosen > rejected));
    }

    /// Counts a ranking of two answers or more.
    pub fn add_ranking(&mut self, r: &RankingLogps, beta: f64) {
        let rewards: Vec<f64> = r.rho().map(|rho| beta * rho).collect();
        let (Some((best, others)), Some((best_logp, other_logps))) =
            (rewards.split_first(), r.policy.split_first())
        else {
            return;
        };
        let n = others.len().max(1) as f64;
        self.chosen.add(*best, *best_logp);
        self.rejected.add(
            others.iter().sum::<f64>() / n,
            other_logps.iter().sum::<f64>() / n,
        );
        let (mut right, mut all) = (0, 0);
        for (at, better) in rewards.iter().enumerate() {
            for worse in &rewards[at + 1..] {
                right += usize::from(better > worse);
                all += 1;
            }
        }
        self.pairs += 1;
        self.right += right as f64 / f64::from(all.max(1));
    }

    /// Counts an unpaired example on its side.
    pub fn add_unpaired(&mut self, u: &UnpairedLogps, beta: f64) {
        let side = if u.desirable {
            &mut self.chosen
        } else {
            &mut self.rejected
        };
        side.add(beta * (u.logp - u.reference), u.logp);
    }

    /// The means.
    pub fn mean(&self) -> Metrics {
        let (rewards_chosen, logps_chosen) = self.chosen.mean();
        let (rewards_rejected, logps_rejected) = self.rejected.mean();
        Metrics {
            rewards_chosen,
            rewards_rejected,
            rewards_margins: rewards_chosen.zip(rewards_rejected).map(|(c, r)| c - r),
            rewards_accuracies: (self.pairs > 0).then(|| self.right / self.pairs as f64),
            logps_chosen,
            logps_rejected,
        }
    }
}

impl Side {
    fn add(&mut self, reward: f64, logp: f64) {
        self.reward += reward;
        self.logp += logp;
        self.count += 1;
    }

    fn mean(&self) -> (Option<f64>, Option<f64>) {
        let of = |sum: f64| (self.count > 0).then(|| sum / self.count as f64);
        (of(self.reward), of(self.logp))
    }
}
