//! The product's way of learning, as settings of the trainer.

use serde::{Deserialize, Serialize};
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

/// Rounds at most: what labels itself drifts.
pub const MAX_ONLINE_ROUNDS: u32 = 3;

/// How online rounds are held. A prior, like the gate's limits: nothing here was tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Online {
    /// Rounds, at most [`MAX_ONLINE_ROUNDS`].
    pub rounds: u32,
    /// Prompts of the feedback that are answered again, at most.
    pub prompts: usize,
    /// Replies to each.
    pub samples: usize,
    /// Tokens of a reply at most.
    pub max_tokens: u32,
    /// Labels count if unseen feedback was ranked right with at most this chance of that being luck, ...
    pub max_p_value: f64,
    /// ... in at least this share of comparisons.
    pub min_share: f64,
    /// No round whose samples are farther from the base, nats per token.
    pub max_kl: f64,
    /// Least margin of a pair, in units of beta times nats.
    pub min_margin: f64,
    /// No round on fewer pairs.
    pub min_pairs: usize,
    /// Weight and smoothing of a labelled pair: those of a retry, which nobody judged either.
    pub weight: f64,
    /// See above.
    pub label_smoothing: f64,
    /// A round has this part of the steps of the training before it.
    pub part_of_steps: u64,
    /// And this factor on its learning rate.
    pub learning_rate_factor: f64,
    /// A round that costs liked replies more nats is taken back.
    pub max_displacement: f64,
}

impl Online {
    /// So many rounds of the product's.
    pub fn rounds(rounds: u32) -> Self {
        Self {
            rounds,
            prompts: 24,
            samples: 4,
            max_tokens: 128,
            max_p_value: 0.05,
            min_share: 0.6,
            max_kl: 0.3,
            min_margin: 0.5,
            min_pairs: 4,
            weight: 0.5,
            label_smoothing: 0.25,
            part_of_steps: 3,
            learning_rate_factor: 0.5,
            max_displacement: 2.0,
        }
    }
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
