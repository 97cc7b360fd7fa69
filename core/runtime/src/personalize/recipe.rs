//! The product's way of learning, as settings of the trainer.

use std::collections::HashSet;

use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::Example;
use thumbprint_tune::objective::{
    LossType, PairObjective, RankingObjective, UnpairedLossType, UnpairedObjective,
};
use thumbprint_tune::schedule::Shape;

/// Examples of one optimizer step.
pub const BATCH: usize = 4;
/// Curated pairs of one prompt: with several 👍 and 👎 on answers to the same question, one pair alone leaves most of what was said unused.
/// Four replies give all their combinations.
pub const PAIRS_PER_PROMPT: usize = 4;
/// How often a run sees each text on average.
const VISITS: f64 = 1.5;
/// Weight of the likelihood term of a pair whose chosen reply is good in itself: without it, what is learned is to avoid, not what to say.
/// Measured in docs/adr/012.
const PAIR_NLL: f64 = 2.0;

/// Weight of an anchor's divergence (nats per token) beside the loss of a pair. Measured in docs/adr/010.
pub const ANCHOR_WEIGHT: f64 = 20.0;

/// What a run learns from, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Examples, those beside the feedback included.
    pub examples: usize,
    /// Their completions.
    pub sides: usize,
    /// Different ones among these.
    pub texts: usize,
}

impl Amount {
    /// Counts.
    pub fn of(examples: &[Example]) -> Self {
        let sides = || {
            examples
                .iter()
                .flat_map(|e| e.completions().into_iter().map(|c| (&e.prompt, c)))
        };
        Self {
            examples: examples.len(),
            sides: sides().count(),
            texts: sides().collect::<HashSet<_>>().len(),
        }
    }

    /// With so many examples of one completion each beside them.
    pub fn and(self, n: usize) -> Self {
        Self {
            examples: self.examples + n,
            sides: self.sides + n,
            texts: self.texts + n,
        }
    }
}

/// Settings for a run, for a model of `n_params` parameters.
pub fn train_config(amount: Amount, classes: Classes, n_params: u64, seed: u64) -> TrainConfig {
    let learning_rate = if n_params < 700_000_000 { 6e-4 } else { 8e-5 };
    let mut config = TrainConfig {
        pair: PairObjective {
            loss_type: vec![LossType::Cdpo, LossType::Sft],
            loss_weights: vec![1.0, PAIR_NLL],
            beta: 0.1,
            label_smoothing: 0.1,
            ..PairObjective::default()
        },
        unpaired: UnpairedObjective {
            loss_type: UnpairedLossType::Bco,
            beta: 0.1,
        },
        ranking: RankingObjective {
            beta: 0.1,
            sft_weight: PAIR_NLL,
            ..RankingObjective::default()
        },
        learning_rate,
        lr_scheduler_type: Shape::Cosine,
        warmup_ratio: 0.1,
        max_grad_norm: 1.0,
        batch_size: BATCH,
        max_steps: steps(amount),
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

/// As many passes as show each text [`VISITS`] times, at least 24 steps and never over 10 passes.
fn steps(amount: Amount) -> u64 {
    let passes = VISITS * amount.texts as f64 / amount.sides.max(1) as f64;
    let wanted = (passes * amount.examples as f64 / BATCH as f64).ceil() as usize;
    let most = (10 * amount.examples).div_ceil(BATCH);
    wanted.max(24).min(most).max(1) as u64
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
    use thumbprint_tune::example::Kind;
    use thumbprint_tune::objective::PairWeights;

    #[test]
    fn texts_are_seen_one_and_a_half_times_in_at_most_ten_passes() {
        let apart = |examples| Amount {
            examples,
            sides: 2 * examples,
            texts: 2 * examples,
        };
        let steps_of = |examples| steps(apart(examples));
        assert_eq!([3, 10, 40, 80, 200].map(steps_of), [8, 24, 24, 30, 75]);
        // Each text in three pairs: half a pass shows it as often.
        let combined = Amount {
            texts: 160,
            ..apart(240)
        };
        assert_eq!(steps(combined), 30);
        assert_eq!(fold_steps(30, 30, 60), 15);
    }

    #[test]
    fn a_text_in_two_pairs_counts_once() {
        let pair = |chosen: i32, rejected: i32| Example {
            prompt: vec![1],
            kind: Kind::Pair {
                chosen: vec![chosen],
                rejected: vec![rejected],
                weights: PairWeights::default(),
            },
        };
        let amount = Amount::of(&[pair(2, 3), pair(2, 4)]).and(5);
        assert_eq!((amount.examples, amount.sides, amount.texts), (7, 9, 8));
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
