//! The product's way of learning, as settings of the trainer.

use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::objective::{LossType, PairObjective, UnpairedLossType, UnpairedObjective};
use thumbprint_tune::schedule::Shape;

/// Examples of one optimizer step.
pub const BATCH: usize = 4;
/// Replay examples per example of feedback: a quarter of all.
pub const REPLAY_SHARE: f64 = 1.0 / 3.0;
/// Weight of the likelihood term of a pair whose chosen reply is good in itself. 1 per token drowns the pair term at 20 pairs.
const PAIR_NLL: f64 = 0.2;

/// Settings for a run on `n_feedback` examples of feedback and `n_all` with replay, `n_params` parameters of the model.
pub fn train_config(n_feedback: usize, n_all: usize, classes: Classes, n_params: u64, seed: u64) -> TrainConfig {
    let learning_rate = if n_params < 700_000_000 { 4e-4 } else { 8e-5 };
    let mut config = TrainConfig {
        pair: PairObjective {
            loss_type: vec![LossType::Cdpo, LossType::Sft],
            loss_weights: vec![1.0, PAIR_NLL],
            beta: 0.1,
            label_smoothing: 0.1,
        },
        unpaired: UnpairedObjective { loss_type: UnpairedLossType::Bco, beta: 0.1 },
        learning_rate,
        lr_scheduler_type: Shape::Cosine,
        warmup_ratio: 0.1,
        max_grad_norm: 1.0,
        batch_size: BATCH,
        max_steps: steps(n_feedback, n_all),
        shuffle: true,
        seed,
        max_kl: Some(0.3),
        min_chosen_logratio: None,
        ..TrainConfig::default()
    };
    config.lora.seed = seed;
    if classes.desirable.min(classes.undesirable) < 3 {
        config.unpaired.loss_type = UnpairedLossType::ApoZeroUnpaired;
    }
    if classes.only_dislikes {
        config.learning_rate /= 2.0;
    }
    config
}

/// What unpaired feedback there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Classes {
    /// Unpaired examples that were liked.
    pub desirable: usize,
    /// Unpaired examples that were disliked.
    pub undesirable: usize,
    /// Whether nothing was ever liked.
    pub only_dislikes: bool,
}

/// Steps, not epochs: 24 at 10 examples of feedback, 32 at 20, 48 at 50, and never over 10 passes over all examples.
fn steps(n_feedback: usize, n_all: usize) -> u64 {
    // A power law through the three points.
    let wanted = 24.0 * (n_feedback.max(1) as f64 / 10.0).powf(0.43);
    let most = (10 * n_all).div_ceil(BATCH);
    (wanted.round() as u64).clamp(1, most.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_slowly_with_feedback_and_stop_at_ten_passes() {
        assert_eq!([10, 20, 50].map(|n| steps(n, n + n / 3)), [24, 32, 48]);
        assert_eq!(steps(3, 3), 8);
    }

    #[test]
    fn a_class_under_three_changes_the_loss_and_only_dislikes_halve_the_rate() {
        let few = Classes { desirable: 2, undesirable: 9, only_dislikes: false };
        let config = train_config(11, 14, few, 135_000_000, 0);
        assert_eq!(config.unpaired.loss_type, UnpairedLossType::ApoZeroUnpaired);
        let never = Classes { desirable: 0, undesirable: 9, only_dislikes: true };
        assert_eq!(train_config(9, 12, never, 135_000_000, 0).learning_rate, config.learning_rate / 2.0);
    }
}
