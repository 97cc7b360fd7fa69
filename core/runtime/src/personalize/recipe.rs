//! The product's way of learning, as settings of the trainer.

use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::objective::{LossType, PairObjective, UnpairedLossType, UnpairedObjective};
use thumbprint_tune::schedule::Shape;

/// Examples of one optimizer step.
pub const BATCH: usize = 4;
/// Curated pairs of one prompt: with several 👍 and 👎 on answers to the same question, one pair alone leaves most of what was said unused.
pub const PAIRS_PER_PROMPT: usize = 2;
/// Weight of the likelihood term of a pair whose chosen reply is good in itself: without it, what is learned is to avoid, not what to say.
/// Measured in docs/adr/012.
const PAIR_NLL: f64 = 2.0;

/// Weight of an anchor's divergence (nats per token) beside the loss of a pair. Measured in docs/adr/010.
pub const ANCHOR_WEIGHT: f64 = 20.0;

/// Settings for a run on `n_all` examples, for a model of `n_params` parameters.
pub fn train_config(n_all: usize, classes: Classes, n_params: u64, seed: u64) -> TrainConfig {
    let learning_rate = if n_params < 700_000_000 { 6e-4 } else { 8e-5 };
    let mut config = TrainConfig {
        pair: PairObjective {
            loss_type: vec![LossType::Cdpo, LossType::Sft],
            loss_weights: vec![1.0, PAIR_NLL],
            beta: 0.1,
            label_smoothing: 0.1,
        },
        unpaired: UnpairedObjective {
            loss_type: UnpairedLossType::Bco,
            beta: 0.1,
        },
        learning_rate,
        lr_scheduler_type: Shape::Cosine,
        warmup_ratio: 0.1,
        max_grad_norm: 1.0,
        batch_size: BATCH,
        max_steps: steps(n_all),
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

/// Base answers to be imitated beside the feedback: a quarter of all where nothing was ever liked, else none. Imitating the base
/// with the weight of feedback cost the demo's user most of what was taught (see docs/adr/008).
pub fn replay_examples(n_feedback: usize, classes: Classes) -> usize {
    if classes.only_dislikes {
        n_feedback.div_ceil(3)
    } else {
        0
    }
}

/// Two passes over the examples, at least 24 steps and never over 10 passes.
fn steps(n_all: usize) -> u64 {
    let wanted = (2 * n_all).div_ceil(BATCH).max(24);
    let most = (10 * n_all).div_ceil(BATCH);
    wanted.min(most).max(1) as u64
}

/// Steps of a training on some of the examples: as many passes as on all of them.
pub fn fold_steps(max_steps: u64, n_some: usize, n_all: usize) -> u64 {
    (max_steps * n_some as u64)
        .div_ceil(n_all.max(1) as u64)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_two_passes_and_at_most_ten() {
        assert_eq!([3, 10, 40, 60, 200].map(steps), [8, 24, 24, 30, 100]);
        assert_eq!(fold_steps(30, 30, 60), 15);
    }

    #[test]
    fn a_class_under_three_changes_the_loss_and_only_dislikes_halve_the_rate() {
        let few = Classes {
            desirable: 2,
            undesirable: 9,
            only_dislikes: false,
        };
        let config = train_config(14, few, 135_000_000, 0);
        assert_eq!(config.unpaired.loss_type, UnpairedLossType::ApoZeroUnpaired);
        let never = Classes {
            desirable: 0,
            undesirable: 9,
            only_dislikes: true,
        };
        assert_eq!(
            train_config(12, never, 135_000_000, 0).learning_rate,
            config.learning_rate / 2.0
        );
    }
}
