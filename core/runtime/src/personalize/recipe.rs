//! The product's way of learning, as settings of the trainer.

use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::objective::UnpairedLossType;
pub use thumbprint_tune::preset::Amount;
use thumbprint_tune::preset::Preset;

/// Examples of one optimizer step.
pub const BATCH: usize = 4;
/// Curated pairs of one prompt: with several 👍 and 👎 on answers to the same question, one pair alone leaves most of what was said unused.
/// Four replies give all their combinations.
pub const PAIRS_PER_PROMPT: usize = 4;
/// Weight of an anchor's divergence (nats per token) beside the loss of a pair. Measured in docs/adr/010.
pub const ANCHOR_WEIGHT: f64 = 20.0;

/// Settings for a run, for a model of `n_params` parameters.
pub fn train_config(amount: Amount, classes: Classes, n_params: u64, seed: u64) -> TrainConfig {
    let preset = Preset::Thumbprint;
    let mut config = TrainConfig {
        batch_size: BATCH,
        max_steps: preset.steps(n_params, amount, BATCH),
        shuffle: true,
        seed,
        ..preset.config(n_params)
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
    fn a_fold_takes_as_many_passes_as_the_whole() {
        assert_eq!(fold_steps(30, 30, 60), 15);
    }

    #[test]
    fn a_class_under_three_changes_the_loss_and_only_dislikes_halve_the_rate() {
        let few = Classes {
            desirable: 2,
            undesirable: 9,
            only_dislikes: false,
        };
        let amount = Amount::of(&[]).and(14);
        let config = train_config(amount, few, 135_000_000, 0);
        assert_eq!(config.unpaired.loss_type, UnpairedLossType::ApoZeroUnpaired);
        let never = Classes {
            desirable: 0,
            undesirable: 9,
            only_dislikes: true,
        };
        assert_eq!(
            train_config(amount, never, 135_000_000, 0).learning_rate,
            config.learning_rate / 2.0
        );
    }
}
