//! The implicit reward of an adapter.

use serde::Serialize;

/// The beta of an adapter whose manifest names none: the product's.
pub const DEFAULT_BETA: f64 = 0.1;

/// What a reply is worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Higher is better. Of an adapter: `beta * sum(log pi - log pi_ref)`, in the units of `rewards/chosen`; it is 0 for an adapter that
    /// changes nothing. Of a head: log-odds of a 👍.
    pub reward: f64,
    /// The reward of each token, of which `reward` is the sum. Of a head: nothing.
    pub per_token: Vec<f64>,
    /// The completion's tokens, the end token included if the reply was finished.
    pub tokens: Vec<i32>,
    /// Natural log-probability of the reply under the adapter, nats.
    pub logp: Option<f64>,
    /// The same under the base.
    pub reference_logp: Option<f64>,
    /// The adapter's beta.
    pub beta: Option<f64>,
}

impl Score {
    /// Rafailov et al. 2023 (2305.18290), the reward under equation 7 without the prompt's part, which is the same for all of a prompt's
    /// replies. `policy` and `reference` are log-probabilities of `tokens`, nats.
    pub fn implicit(tokens: Vec<i32>, policy: &[f64], reference: &[f64], beta: f64) -> Self {
        let per_token: Vec<f64> = policy
            .iter()
            .zip(reference)
            .map(|(policy, reference)| beta * (policy - reference))
            .collect();
        Self {
            reward: per_token.iter().sum(),
            per_token,
            tokens,
            logp: Some(policy.iter().sum()),
            reference_logp: Some(reference.iter().sum()),
            beta: Some(beta),
        }
    }

    /// Of a head.
    pub fn of_head(tokens: Vec<i32>, reward: f64) -> Self {
        Self {
            reward,
            per_token: Vec::new(),
            tokens,
            logp: None,
            reference_logp: None,
            beta: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reward_is_beta_times_what_the_log_probability_gained() {
        let score = Score::implicit(vec![5, 6], &[-1.0, -2.0], &[-1.5, -1.0], 0.5);
        assert_eq!(score.per_token, [0.25, -0.5]);
        assert_eq!(score.reward, -0.25);
        assert_eq!((score.logp, score.reference_logp), (Some(-3.0), Some(-2.5)));
        let same = Score::implicit(vec![5], &[-1.0], &[-1.0], 0.5);
        assert_eq!(same.reward, 0.0);
    }
}
