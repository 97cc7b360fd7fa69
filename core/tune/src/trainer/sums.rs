//! What a step adds up over its ubatches.

use crate::objective::{ClassRewards, MetricsSum, PairLogps, RankingLogps, UnpairedLogps};

/// Losses, metrics, and what decides on the run's course.
#[derive(Default)]
pub(super) struct StepSums {
    pub(super) loss: f64,
    pub(super) metrics: MetricsSum,
    pub(super) classes: ClassRewards,
    chosen_logratio: f64,
    pairs: usize,
    logratio: f64,
    tokens: usize,
    pub(super) anchor_kl: f64,
}

impl StepSums {
    pub(super) fn add_pair(&mut self, logps: &PairLogps, beta: f64, loss: f64) {
        self.loss += loss;
        self.metrics.add_pair(logps, beta);
        self.chosen_logratio += logps.rho_chosen();
        self.pairs += 1;
        self.logratio += logps.rho_chosen() + logps.rho_rejected();
        self.tokens += logps.n_chosen + logps.n_rejected;
    }

    pub(super) fn add_ranking(&mut self, logps: &RankingLogps, beta: f64, loss: f64) {
        self.loss += loss;
        self.metrics.add_ranking(logps, beta);
        self.chosen_logratio += logps.rho().next().unwrap_or(0.0);
        self.pairs += 1;
        self.logratio += logps.rho().sum::<f64>();
        self.tokens += logps.n_tokens.iter().sum::<usize>();
    }

    pub(super) fn add_unpaired(
        &mut self,
        logps: &UnpairedLogps,
        beta: f64,
        reward: f64,
        loss: f64,
    ) {
        self.loss += loss;
        self.metrics.add_unpaired(logps, beta);
        self.classes.add(reward, logps.desirable);
        self.logratio += logps.logp - logps.reference;
        self.tokens += logps.n_tokens;
    }

    pub(super) fn kl(&self) -> f64 {
        if self.tokens == 0 {
            0.0
        } else {
            -self.logratio / self.tokens as f64
        }
    }

    pub(super) fn displacement_brake(&self, limit: Option<f64>) -> f64 {
        let mean = self.chosen_logratio / self.pairs.max(1) as f64;
        if limit.is_some_and(|limit| self.pairs > 0 && mean < limit) {
            0.5
        } else {
            1.0
        }
    }
}
