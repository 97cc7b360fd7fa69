//! BCO, unpaired: Jung et al. 2024 (arXiv 2404.04656): a classifier of desirable against undesirable completions.
//!
//! `L = -log sigma(r - d)` if desirable, `-log sigma(d - r)` if not, with `r = beta rho` and the shift `d` a constant.
//! `dL/dlogp = -beta sigma(d - r)` if desirable, `+beta sigma(r - d)` if not.
//!
//! The paper lets `d` follow the mean of all rewards, which sits on the majority class. Here it is the midpoint of one moving
//! average per class. It is read at the start of an optimizer step and moved at its end ([`BcoState::update`]), so that the
//! split of a step into micro-batches does not show. Both start at 0, the reward of every completion under a fresh adapter.

use serde::{Deserialize, Serialize};

use crate::objective::{Term, math};

/// Share of the old value that a moving average keeps per optimizer step.
const DECAY: f64 = 0.9;

/// The moving averages of rewards per class. Part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct BcoState {
    /// Of desirable completions, in units of beta times nats.
    pub desirable_mean: f64,
    /// Of undesirable completions.
    pub undesirable_mean: f64,
}

impl BcoState {
    /// The shift `d`.
    pub fn midpoint(&self) -> f64 {
        0.5 * (self.desirable_mean + self.undesirable_mean)
    }

    /// Moves each average towards its class's mean of the step that ends; a class that was absent stays.
    pub fn update(&mut self, step: &ClassRewards) {
        for (mean, (sum, count)) in [
            (&mut self.desirable_mean, step.desirable),
            (&mut self.undesirable_mean, step.undesirable),
        ] {
            if count > 0 {
                *mean = DECAY * *mean + (1.0 - DECAY) * (sum / count as f64);
            }
        }
    }
}

/// Rewards of the unpaired examples of one optimizer step (pairs stay out), summed per class over its micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ClassRewards {
    desirable: (f64, usize),
    undesirable: (f64, usize),
}

impl ClassRewards {
    /// Counts one example's reward `beta rho`.
    pub fn add(&mut self, reward: f64, desirable: bool) {
        let class = if desirable {
            &mut self.desirable
        } else {
            &mut self.undesirable
        };
        class.0 += reward;
        class.1 += 1;
    }
}

/// The loss of one example, nats, and d loss / d logp.
pub(super) fn loss(reward: f64, desirable: bool, shift: f64, beta: f64) -> Term<f64> {
    let sign = if desirable { 1.0 } else { -1.0 };
    let margin = sign * (reward - shift);
    Term {
        loss: -math::log_sigmoid(margin),
        grad: -sign * beta * math::sigmoid(-margin),
    }
}
