//! Recipes by name: the product's own, and published ones.
//!
//! | Name | Losses | beta | Learning rate | Schedule, warm-up | Batch, passes | Longest, tokens | Source |
//! |---|---|---|---|---|---|---|---|
//! | `thumbprint` | cdpo (0.1) + 2 sft; bco; plackett_luce + 2 sft | 0.1 | 6e-4 under 0.7 B parameters, else 8e-5 | cosine, 10 % | 4; each text 1.5 times, 24 steps at least, 10 passes at most; stops at a KL of 0.3 nats a token | | measured, docs/adr/008 and 012 |
//! | `zephyr` | sigmoid | 0.1 | 10 x 5e-7 | linear, 10 % | 32, 3 | 1024 | Zephyr, arXiv 2310.16944 (alignment-handbook's recipes/zephyr-7b-beta now has beta 0.01, cosine and one pass) |
//! | `tulu2` | sigmoid | 0.1 | 10 x 5e-7 | linear, 10 % | 32, 3 | 2048 | Tulu 2, arXiv 2311.10702, which follows Zephyr |
//! | `smollm2` | sigmoid | 0.5 | 10 x 1e-6 | cosine, 10 % | 128, 2 (3 from 1 B parameters on) | 1024 | alignment-handbook's recipes/smollm2 |
//!
//! The published ones changed all weights. Of an adapter there is less to change, and it wants about ten times their rate, which the
//! factor is for; ranks and matrices are our defaults.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::config::TrainConfig;
use crate::example::Example;
use crate::objective::{
    LossType, PairObjective, RankingObjective, UnpairedLossType, UnpairedObjective,
};
use crate::schedule::Shape;

/// Parameters below which a model takes the larger learning rate of the product's recipe.
const SMALL: u64 = 700_000_000;
/// How often the product's recipe shows each text on average.
const VISITS: f64 = 1.5;
/// What the product's recipe adds of the likelihood of replies that are good in themselves: without it, what is learned is to avoid, not
/// what to say. Measured in docs/adr/012.
const LIKELIHOOD: f64 = 2.0;
/// An adapter's learning rate over that of a whole model.
const OF_AN_ADAPTER: f64 = 10.0;

/// A recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The product's own.
    Thumbprint,
    /// That of Zephyr 7B beta.
    Zephyr,
    /// That of Tulu 2.
    Tulu2,
    /// That of SmolLM2.
    SmolLm2,
}

/// What a run learns from, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Examples.
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

    /// With so many pairs beside them, whose texts are in no other.
    pub fn and_pairs(self, n: usize) -> Self {
        Self {
            examples: self.examples + n,
            sides: self.sides + 2 * n,
            texts: self.texts + 2 * n,
        }
    }
}

impl Preset {
    /// Every preset, in the order in which messages list them.
    pub const ALL: [Preset; 4] = [
        Preset::Thumbprint,
        Preset::Zephyr,
        Preset::Tulu2,
        Preset::SmolLm2,
    ];

    /// The name in settings and messages.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Thumbprint => "thumbprint",
            Preset::Zephyr => "zephyr",
            Preset::Tulu2 => "tulu2",
            Preset::SmolLm2 => "smollm2",
        }
    }

    /// Settings for a model of `n_params` parameters, all but the number of steps.
    pub fn config(self, n_params: u64) -> TrainConfig {
        let published = |beta, full_model_rate, lr_scheduler_type, batch_size| TrainConfig {
            pair: PairObjective::new(LossType::Sigmoid, beta),
            ranking: RankingObjective {
                beta,
                ..RankingObjective::default()
            },
            learning_rate: OF_AN_ADAPTER * full_model_rate,
            lr_scheduler_type,
            warmup_ratio: 0.1,
            batch_size,
            ..TrainConfig::default()
        };
        match self {
            Preset::Thumbprint => TrainConfig {
                pair: PairObjective {
                    loss_type: vec![LossType::Cdpo, LossType::Sft],
                    loss_weights: vec![1.0, LIKELIHOOD],
                    label_smoothing: 0.1,
                    ..PairObjective::new(LossType::Cdpo, 0.1)
                },
                unpaired: UnpairedObjective {
                    loss_type: UnpairedLossType::Bco,
                    beta: 0.1,
                },
                ranking: RankingObjective {
                    beta: 0.1,
                    loss_weight: 1.0,
                    sft_weight: LIKELIHOOD,
                },
                learning_rate: if n_params < SMALL { 6e-4 } else { 8e-5 },
                lr_scheduler_type: Shape::Cosine,
                warmup_ratio: 0.1,
                max_grad_norm: 1.0,
                batch_size: 4,
                max_kl: Some(0.3),
                ..TrainConfig::default()
            },
            Preset::Zephyr | Preset::Tulu2 => published(0.1, 5e-7, Shape::Linear, 32),
            Preset::SmolLm2 => published(0.5, 1e-6, Shape::Cosine, 128),
        }
    }

    /// Optimizer steps over so much, in batches of `batch_size`.
    pub fn steps(self, n_params: u64, amount: Amount, batch_size: usize) -> u64 {
        let steps_of = |passes: f64| (passes * amount.examples as f64 / batch_size as f64).ceil();
        match self {
            Preset::Thumbprint => {
                let passes = VISITS * amount.texts as f64 / amount.sides.max(1) as f64;
                let most = (10 * amount.examples).div_ceil(batch_size);
                (steps_of(passes) as usize).max(24).min(most).max(1) as u64
            }
            Preset::Zephyr | Preset::Tulu2 => (steps_of(3.0) as u64).max(1),
            Preset::SmolLm2 => {
                let passes = if n_params < 1_000_000_000 { 2.0 } else { 3.0 };
                (steps_of(passes) as u64).max(1)
            }
        }
    }

    /// Tokens of the longest prompt with completion that the recipe was used with, where it says so.
    pub fn max_length(self) -> Option<usize> {
        match self {
            Preset::Thumbprint => None,
            Preset::Zephyr | Preset::SmolLm2 => Some(1024),
            Preset::Tulu2 => Some(2048),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut all = Preset::ALL.into_iter();
        all.find(|preset| preset.name() == name).ok_or_else(|| {
            let names = Preset::ALL.map(Preset::name).join(", ");
            format!("there is no preset `{name}`: use one of {names}")
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::example::Kind;
    use crate::objective::PairWeights;

    #[test]
    fn texts_are_seen_one_and_a_half_times_in_at_most_ten_passes() {
        let apart = |examples| Amount {
            examples,
            sides: 2 * examples,
            texts: 2 * examples,
        };
        let steps = |amount| Preset::Thumbprint.steps(0, amount, 4);
        let steps_of = |examples| steps(apart(examples));
        assert_eq!([3, 10, 40, 80, 200].map(steps_of), [8, 24, 24, 30, 75]);
        // Each text in three pairs: half a pass shows it as often.
        let combined = Amount {
            texts: 160,
            ..apart(240)
        };
        assert_eq!(steps(combined), 30);
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
    fn every_preset_is_found_by_its_name_and_can_be_trained_with() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse(), Ok(preset));
            for n_params in [135_000_000, 7_000_000_000] {
                let config = preset.config(n_params);
                config.validate().unwrap();
                assert!(config.warmup_ratio == 0.1 && config.lora == TrainConfig::default().lora);
            }
        }
        let error = "zephir".parse::<Preset>().unwrap_err();
        assert!(
            error.ends_with("thumbprint, zephyr, tulu2, smollm2"),
            "{error}"
        );
    }

    #[test]
    fn published_presets_have_the_published_numbers_at_an_adapters_rate() {
        let numbers = |preset: Preset| {
            let config = preset.config(135_000_000);
            let losses: Vec<_> = config
                .pair
                .loss_type
                .iter()
                .map(|loss| loss.name())
                .collect();
            assert_eq!(losses, ["sigmoid"]);
            let rate = (config.learning_rate * 1e9).round();
            (
                config.pair.beta,
                rate,
                config.lr_scheduler_type,
                config.batch_size,
            )
        };
        assert_eq!(numbers(Preset::Zephyr), (0.1, 5000.0, Shape::Linear, 32));
        assert_eq!(numbers(Preset::Tulu2), (0.1, 5000.0, Shape::Linear, 32));
        assert_eq!(numbers(Preset::SmolLm2), (0.5, 10000.0, Shape::Cosine, 128));
        let amount = Amount {
            examples: 1000,
            sides: 2000,
            texts: 2000,
        };
        assert_eq!(Preset::Zephyr.steps(0, amount, 32), 94);
        assert_eq!(Preset::SmolLm2.steps(135_000_000, amount, 128), 16);
        assert_eq!(Preset::SmolLm2.steps(1_700_000_000, amount, 128), 24);
    }
}
