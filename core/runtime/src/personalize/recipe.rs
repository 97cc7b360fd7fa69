//! The product's way of learning, as settings of the trainer, and what can be changed about it.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::objective::UnpairedLossType;
pub use thumbprint_tune::preset::Amount;
use thumbprint_tune::preset::Preset;

use crate::curation::{self, LearnFrom};
use crate::error::{Error, Result};
use crate::evaluate::{choices, refusals};
use crate::gate::{Limits, TARGET_KL, WITH_EDITS};

/// Examples of one optimizer step.
pub const BATCH: usize = 4;
/// Curated pairs of one prompt: with several 👍 and 👎 on answers to the same question, one pair alone leaves most of what was said unused.
/// Four replies give all their combinations.
pub const PAIRS_PER_PROMPT: usize = 4;
/// Weight of an anchor's divergence (nats per token) beside the loss of a pair. Measured in docs/adr/010.
pub const ANCHOR_WEIGHT: f64 = 20.0;
/// Weight of an edit. At 1 the many pairs of the base's own replies drown it (docs/adr/025).
pub const EDIT_WEIGHT: f64 = 8.0;

/// Folds of the held-out ranking.
pub const FOLDS: u32 = 2;
/// Comparisons of a held-out ranking that is worth two trainings: chance may pass 94 % of these, and 5 % of a thousand
/// ([`level`](crate::gate::level)).
pub const FOLDS_FROM: usize = 60;
/// The most folds that a recipe may ask for.
const MOST_FOLDS: u32 = 10;

/// A way of learning. The default is the product's; anything else is for comparing with it, see
/// [`personalize_with`](crate::Thumbprint::personalize_with).
///
/// In JSON, what is left out is the product's: `{"learn_from": "thumbs", "train": {"unpaired": {"loss_type": "kto"}}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// What of the log becomes examples.
    pub learn_from: LearnFrom,
    /// Pairs made from one prompt.
    pub pairs_per_prompt: usize,
    /// Also a pair (edit over original) beside each edit.
    pub edit_pairs: bool,
    /// Weight of an edit, above 0.
    pub edit_weight: f64,
    /// Similarity, in [0, 1], above which a pair is weighed down; 1 weighs none down.
    pub similar_from: f64,
    /// Also pairs of the base's own replies, ordered by a reward head that is fitted on the feedback; `null` for none.
    pub west_of_n: Option<WestOfN>,
    /// Settings of the trainer ([`TrainConfig`]) that replace those that would be chosen: a JSON merge patch (RFC 7386).
    pub train: Value,
    /// Whether the base's predictions are kept on plain prose (ADR 10).
    pub anchors: bool,
    /// The distance from the base that a candidate is brought to where nothing was edited (ADR 12): KL(base || adapter) on the prompts of the feedback, nats
    /// per token. `None` leaves it where training brought it.
    pub distance: Option<f64>,
    /// How many times as far a candidate goes where half of what was said or more are edits, at least 1; in proportion where fewer are.
    pub distance_with_edits: f64,
    /// Folds of the held-out ranking, each of which is one more training; 0 for no such check.
    pub folds: u32,
    /// Held-out comparisons from which on they are trained. Of fewer the ranking could tell little more than that a candidate is the
    /// opposite of what was wanted (docs/adr/021). Online rounds always have them.
    pub folds_from: usize,
    /// Limits of the gate ([`gate::Limits`](crate::gate::Limits)) that replace the product's: a merge patch too.
    pub limits: Value,
    /// Multiple-choice questions ([`evaluate::choices`](crate::evaluate::choices)) of which a candidate must not get many fewer right than
    /// the base.
    pub choices: Option<GuardFile>,
    /// Harmless prompts ([`evaluate::refusals`](crate::evaluate::refusals)) of which a candidate must not refuse many more than the base.
    pub refusals: Option<GuardFile>,
}

/// Pairs of the base's own replies, best over worst of several by a reward head (West-of-N, arXiv 2401.12086).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WestOfN {
    /// Prompts that are answered again, at most: half of them the feedback's own, where it has as many, the others neutral.
    pub prompts: usize,
    /// Replies to each, at least 2.
    pub replies: usize,
    /// As many more that the base gives when it is told how to answer, each time in another general way; they are compared, and learned from,
    /// as if it had not been told. 0 for none.
    pub told: usize,
    /// Tokens of a reply, at most.
    pub max_tokens: u32,
    /// Temperature that they are drawn at, above 0. At 1 a small model's short replies are its strangest ones, too.
    pub temperature: f32,
    /// Ridge of the head ([`HeadOptions::l2`](crate::reward::HeadOptions)), above 0.
    pub l2: f64,
    /// Share of the prompts whose pair is learned from, those of the largest margins, in (0, 1].
    pub keep: f64,
    /// Weight of a pair, at least 0.
    pub weight: f64,
    /// Weight of the likelihood of its better side, at least 0.
    pub nll: f64,
    /// The probability that its order is wrong, in [0, 0.5).
    pub label_smoothing: f64,
}

impl Default for WestOfN {
    fn default() -> Self {
        Self {
            prompts: 160,
            replies: 4,
            told: 4,
            max_tokens: 192,
            temperature: 0.7,
            l2: 1.0,
            keep: 0.8,
            weight: 1.0,
            nll: 1.0,
            label_smoothing: 0.1,
        }
    }
}

impl WestOfN {
    fn check(&self) -> Result<()> {
        for (is_good, must) in [
            (self.prompts > 0, "prompts must be at least 1"),
            (self.replies >= 2, "replies must be at least 2"),
            (self.max_tokens > 0, "max_tokens must be at least 1"),
            (
                self.temperature > 0.0 && self.temperature.is_finite(),
                "temperature must be over 0",
            ),
            (self.l2 > 0.0 && self.l2.is_finite(), "l2 must be over 0"),
            (
                self.keep > 0.0 && self.keep <= 1.0,
                "keep must be in (0, 1]",
            ),
            (
                self.weight >= 0.0 && self.weight.is_finite(),
                "weight must be at least 0",
            ),
            (
                self.nll >= 0.0 && self.nll.is_finite(),
                "nll must be at least 0",
            ),
            (
                (0.0..0.5).contains(&self.label_smoothing),
                "label_smoothing must be in [0, 0.5)",
            ),
        ] {
            if !is_good {
                return Err(Error::Recipe(format!("west_of_n.{must}")));
            }
        }
        Ok(())
    }
}

/// A file that the app brings, as a guard of the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardFile {
    /// The file. It is read before anything is learned, and again when a candidate is judged.
    pub path: PathBuf,
    /// By how much the share may worsen, in [0, 1]: 0.02 is two points.
    pub tolerated: f64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            learn_from: LearnFrom::Everything,
            pairs_per_prompt: PAIRS_PER_PROMPT,
            edit_pairs: false,
            edit_weight: EDIT_WEIGHT,
            similar_from: curation::Options::default().similar_from,
            west_of_n: Some(WestOfN::default()),
            train: Value::Object(serde_json::Map::new()),
            anchors: true,
            distance: Some(TARGET_KL),
            distance_with_edits: WITH_EDITS,
            folds: FOLDS,
            folds_from: FOLDS_FROM,
            limits: Value::Object(serde_json::Map::new()),
            choices: None,
            refusals: None,
        }
    }
}

impl Recipe {
    /// Checks it before anything is read or trained.
    ///
    /// # Errors
    /// [`Error::Recipe`] names what is wrong.
    pub fn validate(&self) -> Result<()> {
        self.trained_with(TrainConfig::default())?
            .validate()
            .map_err(|error| Error::Recipe(format!("train: {error}")))?;
        self.limits()?;
        if self.pairs_per_prompt == 0 {
            return Err(Error::Recipe(
                "pairs_per_prompt must be at least 1".to_owned(),
            ));
        }
        if !(self.edit_weight > 0.0 && self.edit_weight.is_finite()) {
            return Err(Error::Recipe("edit_weight must be over 0".to_owned()));
        }
        if !(0.0..=1.0).contains(&self.similar_from) {
            return Err(Error::Recipe("similar_from must be in [0, 1]".to_owned()));
        }
        if let Some(west) = &self.west_of_n {
            west.check()?;
        }
        if self.folds == 1 || self.folds > MOST_FOLDS {
            return Err(Error::Recipe(format!(
                "folds must be 0, or 2 to {MOST_FOLDS}"
            )));
        }
        if self
            .distance
            .is_some_and(|kl| !(kl.is_finite() && kl > 0.0))
        {
            return Err(Error::Recipe("distance must be over 0, or null".to_owned()));
        }
        if !(self.distance_with_edits >= 1.0 && self.distance_with_edits.is_finite()) {
            return Err(Error::Recipe(
                "distance_with_edits must be at least 1".to_owned(),
            ));
        }
        for (name, file) in [("choices", &self.choices), ("refusals", &self.refusals)] {
            if file
                .as_ref()
                .is_some_and(|file| !(0.0..=1.0).contains(&file.tolerated))
            {
                return Err(Error::Recipe(format!("{name}.tolerated must be in [0, 1]")));
            }
        }
        if let Some(file) = &self.choices {
            choices::read(&file.path, None)?;
        }
        if let Some(file) = &self.refusals {
            refusals::read(&file.path)?;
        }
        Ok(())
    }

    /// How the log is curated for a model.
    pub(super) fn curation(&self, model: String) -> curation::Options {
        curation::Options {
            learn_from: self.learn_from,
            model: Some(model),
            pairs_per_prompt: self.pairs_per_prompt,
            edit_pairs: self.edit_pairs,
            edit_weight: self.edit_weight,
            similar_from: self.similar_from,
            ..curation::Options::default()
        }
    }

    /// The trainer's settings with what the recipe replaces.
    pub(super) fn trained_with(&self, chosen: TrainConfig) -> Result<TrainConfig> {
        patched("train", chosen, &self.train)
    }

    /// The gate's limits.
    pub(super) fn limits(&self) -> Result<Limits> {
        patched("limits", Limits::default(), &self.limits)
    }
}

fn patched<T: Serialize + DeserializeOwned>(what: &str, value: T, patch: &Value) -> Result<T> {
    if !patch.is_object() {
        return Err(Error::Recipe(format!(
            "{what} must be an object of settings to replace"
        )));
    }
    let failed = |error: serde_json::Error| Error::Recipe(format!("{what}: {error}"));
    let mut value = serde_json::to_value(value).map_err(failed)?;
    merge(what, &mut value, patch)?;
    serde_json::from_value(value).map_err(failed)
}

/// RFC 7386, but what is not there cannot be replaced: a misspelt name would change nothing.
fn merge(what: &str, value: &mut Value, patch: &Value) -> Result<()> {
    match (value, patch) {
        (Value::Object(value), Value::Object(patch)) => {
            for (name, replacement) in patch {
                let what = format!("{what}.{name}");
                let old = value.get_mut(name);
                let old =
                    old.ok_or_else(|| Error::Recipe(format!("there is no setting {what}")))?;
                merge(&what, old, replacement)?;
            }
        }
        (value, patch) => *value = patch.clone(),
    }
    Ok(())
}

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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

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

    fn recipe(json: Value) -> Recipe {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_recipe_replaces_what_it_names_and_nothing_else() {
        assert_eq!(recipe(json!({})), Recipe::default());
        let weighed = |recipe: Recipe| recipe.curation(String::new()).edit_weight;
        assert_eq!(weighed(Recipe::default()), EDIT_WEIGHT);
        assert_eq!(weighed(recipe(json!({"edit_weight": 2.0}))), 2.0);
        let amount = Amount::of(&[]).and(50);
        let chosen = || train_config(amount, Classes::default(), 135_000_000, 7);
        let kept = Recipe::default().trained_with(chosen()).unwrap();
        assert_eq!(kept, chosen());
        let kto = recipe(json!({
            "learn_from": "thumbs",
            "train": {"unpaired": {"loss_type": "kto"}, "max_kl": null},
            "limits": {"kl_neutral": 9.0}
        }));
        kto.validate().unwrap();
        let expected = {
            let mut config = chosen();
            config.unpaired.loss_type = UnpairedLossType::Kto;
            config.max_kl = None;
            config
        };
        assert_eq!(kto.trained_with(chosen()).unwrap(), expected);
        let limits = Limits {
            kl_neutral: 9.0,
            ..Limits::default()
        };
        assert_eq!(kto.limits().unwrap(), limits);
    }

    #[test]
    fn a_recipe_that_makes_no_sense_is_refused_by_name() {
        for (json, expected) in [
            (
                json!({"train": {"pair": {"betta": 1}}}),
                "there is no setting train.pair.betta",
            ),
            (json!({"train": {"pair": {"beta": -1.0}}}), "train: beta"),
            (json!({"train": {"learning_rate": "fast"}}), "train: "),
            (json!({"train": 3}), "train must be an object"),
            (
                json!({"limits": {"kl": 1}}),
                "there is no setting limits.kl",
            ),
            (json!({"pairs_per_prompt": 0}), "pairs_per_prompt must be"),
            (json!({"edit_weight": 0.0}), "edit_weight must be over 0"),
            (json!({"similar_from": 2.0}), "similar_from must be"),
            (
                json!({"west_of_n": {"replies": 1}}),
                "west_of_n.replies must be at least 2",
            ),
            (
                json!({"west_of_n": {"temperature": 0.0}}),
                "west_of_n.temperature must be over 0",
            ),
            (json!({"folds": 1}), "folds must be 0, or 2 to 10"),
            (json!({"distance": 0.0}), "distance must be over 0"),
            (
                json!({"distance_with_edits": 0.5}),
                "distance_with_edits must be at least 1",
            ),
            (
                json!({"choices": {"path": "q.jsonl", "tolerated": -0.1}}),
                "choices.tolerated must be",
            ),
            (
                json!({"refusals": {"path": "/nonexistent/x.csv", "tolerated": 0.05}}),
                "/nonexistent/x.csv",
            ),
        ] {
            let error = recipe(json).validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
        assert!(serde_json::from_value::<Recipe>(json!({"anchor": false})).is_err());
    }
}
