//! What the job measured, as plain numbers.

use serde::{Deserialize, Serialize};

use super::evidence::Evidence;
use super::folds::FoldResults;
use super::stats;

/// Everything the offline tier looks at, for one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurements {
    /// Feedback events that the candidate was trained on.
    pub thumbs: usize,
    /// The base with the adapter off.
    pub base: BaseMeasurements,
    /// The scale that the candidate should have, if it harms nothing (see [`strength`](super::strength())).
    #[serde(default = "full")]
    pub strength: f64,
    /// The candidate at each scale measured so far, in any order. Scales that were not needed are absent.
    pub scales: Vec<ScaleMeasurements>,
    /// How two half-trained adapters ranked the half they had not seen.
    #[serde(default)]
    pub folds: Option<FoldResults>,
    /// Whether what was said tells replies apart at all.
    #[serde(default)]
    pub evidence: Option<Evidence>,
}

fn full() -> f64 {
    1.0
}

/// The base model on the guard texts and prompts of [`super::neutral`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseMeasurements {
    /// Perplexity of the neutral texts.
    #[serde(with = "null_is_nan")]
    pub neutral_perplexity: f64,
    /// Mean of -log p_base over the tokens of the base's own samples, nats per token.
    #[serde(with = "null_is_nan")]
    pub own_nats: f64,
    /// The same place by place, from the first token of a reply on: beginnings are less certain than what follows from them.
    #[serde(default)]
    pub own_nats_at: Vec<f64>,
    /// Replies in which some run of words repeats ([`super::text::repeats`]).
    pub repetition: Rate,
    /// Replies that ended by themselves, before the cap on new tokens.
    pub finished: Rate,
    /// Replies that only give the question back ([`super::text::echoes`]).
    pub echo: Rate,
    /// Median length of the replies, tokens. A reply cut at the cap counts with the cap.
    #[serde(with = "null_is_nan")]
    pub median_tokens: f64,
    /// What a head that was fitted on the feedback ([`reward`](crate::reward)) gives each reply; empty where there is none.
    #[serde(default)]
    pub rewards: Vec<f64>,
}

/// The candidate at one scale, on the same texts and prompts as the base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleMeasurements {
    /// Factor on the adapter's delta, in (0, 1].
    pub scale: f64,
    /// Perplexity of the neutral texts.
    #[serde(with = "null_is_nan")]
    pub neutral_perplexity: f64,
    /// KL(base || adapter) on the base's replies to neutral prompts, nats per token.
    #[serde(with = "null_is_nan")]
    pub kl_neutral: f64,
    /// KL(base || adapter) on the prompts of the feedback, nats per token.
    #[serde(with = "null_is_nan")]
    pub kl_feedback: f64,
    /// KL(adapter || base): mean of log p_adapter - log p_base over the adapter's own samples, nats per token.
    #[serde(with = "null_is_nan")]
    pub kl_own_samples: f64,
    /// Mean of -log p_base over the tokens of the adapter's own samples, nats per token.
    #[serde(with = "null_is_nan")]
    pub own_nats_under_base: f64,
    /// Tokens of each of these samples.
    #[serde(default)]
    pub own_lengths: Vec<usize>,
    /// As in [`BaseMeasurements`].
    pub repetition: Rate,
    /// As in [`BaseMeasurements`].
    pub finished: Rate,
    /// As in [`BaseMeasurements`].
    pub echo: Rate,
    /// As in [`BaseMeasurements`].
    #[serde(with = "null_is_nan")]
    pub median_tokens: f64,
    /// As in [`BaseMeasurements`], in the same order.
    #[serde(default)]
    pub rewards: Vec<f64>,
    /// Multiple-choice questions of the app, if it brought any: how many are answered right.
    #[serde(default)]
    pub choices: Option<AppFile>,
    /// Harmless prompts of the app, if it brought any: how many are refused.
    #[serde(default)]
    pub refusals: Option<AppFile>,
}

/// What base and candidate did with each row of a file that the app brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppFile {
    /// SHA-256 of the file.
    pub sha256: String,
    /// By how much the share may worsen: 0.02 is two points.
    pub tolerated: f64,
    /// The base's rows: answered right, or refused.
    pub base: Rate,
    /// The candidate's.
    pub adapter: Rate,
    /// Rows that the candidate does worse than the base.
    pub worse: usize,
    /// Rows that it does better.
    pub better: usize,
}

impl AppFile {
    /// From what each did with each row, in the same order. `good` says whether that is as it should be.
    pub fn new(
        sha256: String,
        tolerated: f64,
        base: &[bool],
        adapter: &[bool],
        good: bool,
    ) -> Self {
        let both = || base.iter().zip(adapter);
        let fell = |from: bool| both().filter(|(b, a)| **b == from && **a != from).count();
        Self {
            sha256,
            tolerated,
            base: Rate::count(base, |did| *did),
            adapter: Rate::count(adapter, |did| *did),
            worse: fell(good),
            better: fell(!good),
        }
    }

    /// The chance that a candidate that changes as many rows either way would do as much worse, by an exact sign test.
    pub fn p_value(&self) -> f64 {
        stats::binomial_upper_tail(self.worse, self.worse + self.better, 0.5)
    }
}

impl BaseMeasurements {
    /// What the base's own replies would be worth if they were as long as these: nats per token, place by place, so that short replies
    /// are compared with beginnings.
    pub fn own_nats_over(&self, lengths: &[usize]) -> f64 {
        let places = || {
            let places = lengths.iter().flat_map(|n| 0..*n);
            places.filter_map(|place| self.own_nats_at.get(place))
        };
        match places().count() {
            0 => self.own_nats,
            n => places().sum::<f64>() / n as f64,
        }
    }
}

impl ScaleMeasurements {
    /// How many replies the head finds better than the base's to the same prompt, and how many worse.
    pub fn liked_against(&self, base: &BaseMeasurements) -> (usize, usize) {
        let both = || self.rewards.iter().zip(&base.rewards);
        let better = both().filter(|(adapter, base)| adapter > base).count();
        let worse = both().filter(|(adapter, base)| adapter < base).count();
        (better, worse)
    }
}

/// A share that keeps its counts, so that sampling error can be told from change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Replies that have the property.
    pub count: usize,
    /// Replies looked at.
    pub of: usize,
}

impl Rate {
    /// Counts the items for which `property` holds.
    pub fn count<T>(items: &[T], property: impl Fn(&T) -> bool) -> Self {
        let count = items.iter().filter(|item| property(item)).count();
        Self {
            count,
            of: items.len(),
        }
    }

    /// The share in [0, 1]; NaN over nothing, which every guard refuses.
    pub fn share(self) -> f64 {
        self.count as f64 / self.of as f64
    }
}

/// JSON has no NaN and no infinity: both are written as `null` and read back as NaN, which fails every guard.
pub(super) mod null_is_nan {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match value.is_finite() {
            true => serializer.serialize_f64(*value),
            false => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_are_compared_one_by_one() {
        let (base, adapter) = ([true, true, true, false], [true, false, false, true]);
        let right = AppFile::new("f".into(), 0.1, &base, &adapter, true);
        assert_eq!((right.worse, right.better), (2, 1));
        assert_eq!(
            (right.base.count, right.adapter.count, right.base.of),
            (3, 2, 4)
        );
        assert_eq!(right.p_value(), 0.5);
        let refused = AppFile::new("f".into(), 0.1, &base, &adapter, false);
        assert_eq!((refused.worse, refused.better), (1, 2));
        let same = AppFile::new("f".into(), 0.1, &base, &base, true);
        assert_eq!((same.worse, same.better, same.p_value()), (0, 0, 1.0));
    }

    #[test]
    fn short_replies_are_compared_with_the_beginnings_of_the_bases() {
        let mut base = super::super::guards::tests::base();
        base.own_nats = 1.2;
        assert_eq!(
            base.own_nats_over(&[3, 1]),
            1.2,
            "nothing is known of places"
        );
        base.own_nats_at = vec![3.0, 2.0, 1.0, 1.0];
        assert_eq!(base.own_nats_over(&[1]), 3.0);
        assert_eq!(base.own_nats_over(&[3, 1]), (3.0 + 2.0 + 1.0 + 3.0) / 4.0);
        // What lies beyond the base's longest reply says nothing.
        assert_eq!(base.own_nats_over(&[9]), 7.0 / 4.0);
        assert_eq!(base.own_nats_over(&[]), 1.2);
    }

    #[test]
    fn a_number_that_is_not_finite_survives_json_as_nan() {
        let base = BaseMeasurements {
            median_tokens: f64::INFINITY,
            ..super::super::guards::tests::base()
        };
        let json = serde_json::to_value(&base).unwrap();
        assert!(json["median_tokens"].is_null());
        let back: BaseMeasurements = serde_json::from_value(json).unwrap();
        assert!(back.median_tokens.is_nan());
        assert_eq!(back.neutral_perplexity, base.neutral_perplexity);
    }
}
