//! How online rounds are held (see `run/online.rs`).

use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::error::Result;

/// Rounds in which the new adapter answers the feedback's prompts again, its own implicit reward labels the answers, and training goes
/// on with them; and the brakes on that.
///
/// What a model thinks of its own words is no feedback, and it can talk itself into anything: rounds are off unless asked for, few, and
/// each ends them as soon as a brake holds. The numbers of [`Online::rounds`] are a prior, like the gate's limits: none was tuned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Online {
    /// Rounds, in 1..=[`Online::MAX_ROUNDS`].
    pub rounds: u32,
    /// Prompts that are answered again, at most.
    pub prompts: usize,
    /// Replies to each, at least 2.
    pub samples: usize,
    /// Tokens of a reply, at most.
    pub max_tokens: u32,
    /// Labels count if unseen feedback was ranked right with at most this chance of that being luck, in [0, 1], ...
    pub max_p_value: f64,
    /// ... in at least this share of comparisons, in [0, 1].
    pub min_share: f64,
    /// No round whose samples are farther from the base, nats per token.
    pub max_kl: f64,
    /// Least margin of a pair: beta times nats.
    pub min_margin: f64,
    /// No round on fewer pairs.
    pub min_pairs: usize,
    /// Weight of a labelled pair, at least 0.
    pub weight: f64,
    /// Its smoothing, in [0, 0.5).
    pub label_smoothing: f64,
    /// A round has this part of the steps of the training before it, at least 1.
    pub part_of_steps: u64,
    /// And this factor on its learning rate, above 0.
    pub learning_rate_factor: f64,
    /// A round that costs liked replies more nats is taken back.
    pub max_displacement: f64,
}

impl Online {
    /// Rounds at most: what labels itself drifts.
    pub const MAX_ROUNDS: u32 = 3;

    /// So many rounds with the product's brakes; none for 0.
    pub fn rounds(rounds: u32) -> Option<Self> {
        (rounds > 0).then_some(Self {
            rounds,
            prompts: 24,
            samples: 4,
            max_tokens: 128,
            max_p_value: 0.05,
            min_share: 0.6,
            max_kl: 0.3,
            min_margin: 0.5,
            min_pairs: 4,
            // Those of a retry, which nobody judged either.
            weight: 0.5,
            label_smoothing: 0.25,
            part_of_steps: 3,
            learning_rate_factor: 0.5,
            max_displacement: 2.0,
        })
    }

    /// The first number that is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let within = |low: f64, value: f64, high: f64| (low..=high).contains(&value);
        let (most, max) = (Self::MAX_ROUNDS, f64::MAX);
        for (is_good, must) in [
            (
                (1..=most).contains(&self.rounds),
                format!("rounds must be 1 to {most}, not {}", self.rounds),
            ),
            (
                self.prompts > 0 && self.samples > 1 && self.max_tokens > 0 && self.min_pairs > 0,
                "prompts, max_tokens and min_pairs must be at least 1, and samples at least 2"
                    .to_owned(),
            ),
            (
                within(0.0, self.max_p_value, 1.0) && within(0.0, self.min_share, 1.0),
                "max_p_value and min_share must be in [0, 1]".to_owned(),
            ),
            (
                [
                    self.max_kl,
                    self.min_margin,
                    self.weight,
                    self.max_displacement,
                ]
                .iter()
                .all(|x| within(0.0, *x, max)),
                "max_kl, min_margin, weight and max_displacement must be at least 0".to_owned(),
            ),
            (
                within(0.0, self.label_smoothing, 0.49),
                "label_smoothing must be in [0, 0.5)".to_owned(),
            ),
            (
                self.part_of_steps > 0 && within(f64::MIN_POSITIVE, self.learning_rate_factor, max),
                "part_of_steps must be at least 1, and learning_rate_factor above 0".to_owned(),
            ),
        ] {
            if !is_good {
                return Err(EngineError::InvalidOption {
                    name: "online",
                    reason: must,
                }
                .into());
            }
        }
        Ok(())
    }
}
