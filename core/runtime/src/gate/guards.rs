//! The guards: what a candidate must not have broken, whatever the person's taste.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::measurements::{AppFile, BaseMeasurements, Rate, ScaleMeasurements, null_is_nan};
use super::stats;

/// What is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Guard {
    /// Perplexity of neutral texts, over the base's.
    NeutralPerplexity,
    /// KL(base || adapter) on neutral prompts.
    KlNeutral,
    /// KL(base || adapter) on the prompts of the feedback.
    KlFeedback,
    /// KL(adapter || base) on the adapter's own samples.
    KlOwnSamples,
    /// Nats per token of the adapter's own samples under the base, over the base's own.
    OwnNatsUnderBase,
    /// Share of replies that repeat themselves.
    Repetition,
    /// Share of replies that end by themselves.
    Finished,
    /// Share of replies that only give the question back.
    Echo,
    /// Median length of a reply, over the base's.
    MedianLength,
    /// How much less of the app's multiple-choice questions is answered right, as a share.
    Choices,
    /// How much more of the app's harmless prompts is refused, as a share.
    Refusals,
    /// Held-out 👍 scored above 👎.
    #[serde(alias = "held_out_pairs", alias = "held_out_thumbs")]
    HeldOut,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeutralPerplexity => "neutral perplexity",
            Self::KlNeutral => "KL on neutral prompts",
            Self::KlFeedback => "KL on feedback prompts",
            Self::KlOwnSamples => "KL on its own samples",
            Self::OwnNatsUnderBase => "own samples under the base",
            Self::Repetition => "repetition",
            Self::Finished => "finished replies",
            Self::Echo => "echo of the question",
            Self::MedianLength => "median length",
            Self::Choices => "multiple-choice questions",
            Self::Refusals => "refusals of harmless prompts",
            Self::HeldOut => "held-out feedback",
        })
    }
}

/// One check with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardResult {
    /// What was checked.
    pub name: Guard,
    /// What was measured, in the unit of `limit`.
    #[serde(with = "null_is_nan")]
    pub value: f64,
    /// Where it had to lie.
    pub limit: Bounds,
    /// Whether it did. A value that is not finite never does.
    pub passed: bool,
    /// The same for people.
    pub sentence: String,
}

/// A closed interval; a missing end is open.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Lowest allowed value.
    pub at_least: Option<f64>,
    /// Highest allowed value.
    pub at_most: Option<f64>,
}

impl Bounds {
    pub(super) const NONE: Self = Self {
        at_least: None,
        at_most: None,
    };

    pub(super) fn at_least(limit: f64) -> Self {
        Self {
            at_least: Some(limit),
            at_most: None,
        }
    }

    pub(super) fn at_most(limit: f64) -> Self {
        Self {
            at_least: None,
            at_most: Some(limit),
        }
    }

    /// Whether a finite `value` lies inside.
    pub fn contain(&self, value: f64) -> bool {
        value.is_finite()
            && self.at_least.is_none_or(|limit| value >= limit)
            && self.at_most.is_none_or(|limit| value <= limit)
    }
}

/// The limits; [`Limits::default`] holds the product's. All are priors that the benchmark calibrates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Neutral perplexity over the base's, at most.
    pub perplexity_ratio: f64,
    /// KL(base || adapter) on neutral prompts, nats per token, at most.
    pub kl_neutral: f64,
    /// KL(base || adapter) on feedback prompts, nats per token, at most.
    pub kl_feedback: f64,
    /// KL(adapter || base) on the adapter's own samples, nats per token, at most.
    pub kl_own_samples: f64,
    /// Nats per token of the adapter's own samples under the base, over the base's own, at most.
    pub own_nats_ratio: f64,
    /// How much a rate (repetition, unfinished, echo) may worsen, as a share: 0.02 is two points.
    pub rate_slack: f64,
    /// Standard errors of the difference of two rates that `rate_slack` is widened by. Zero makes the slack literal,
    /// which over 60 replies a side turns away an unchanged model about one time in three.
    pub rate_errors: f64,
    /// Median length over the base's, at least and at most.
    pub length_ratio: (f64, f64),
    /// The same where the person is surely served by it: what was learned from their feedback finds the candidate's replies better.
    pub liked_length_ratio: (f64, f64),
    /// p-value under which that is sure (one-sided sign test, reply by reply against the base's).
    pub liked_alpha: f64,
    /// How often judgements that mean nothing may look as telling as the person's ([`Evidence`](super::Evidence)), at most.
    pub chance: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            perplexity_ratio: 1.02,
            kl_neutral: 0.05,
            kl_feedback: 0.3,
            kl_own_samples: 0.3,
            own_nats_ratio: 1.3,
            rate_slack: 0.02,
            // One-sided 5 %.
            rate_errors: 1.645,
            length_ratio: (0.5, 2.0),
            liked_length_ratio: (0.2, 5.0),
            liked_alpha: 0.05,
            chance: 0.05,
        }
    }
}

/// Checks one scale of a candidate against the base.
///
/// KL on the base's replies alone does not see a ruined model (0.044 against a good one's 0.043), so the adapter's own
/// samples are judged too: by their KL to the base and by the nats that the base gives them.
pub fn guards(
    base: &BaseMeasurements,
    adapter: &ScaleMeasurements,
    limits: &Limits,
) -> Vec<GuardResult> {
    let perplexity = adapter.neutral_perplexity / base.neutral_perplexity;
    let own_nats = adapter.own_nats_under_base / base.own_nats_over(&adapter.own_lengths);
    let mut results = vec![
        check(
            Guard::NeutralPerplexity,
            perplexity,
            Bounds::at_most(limits.perplexity_ratio),
            format!("Neutral text is {} than to the base", harder(perplexity)),
        ),
        check(
            Guard::KlNeutral,
            adapter.kl_neutral,
            Bounds::at_most(limits.kl_neutral),
            format!(
                "On unrelated prompts it moved {:.3} nats per token from the base",
                adapter.kl_neutral
            ),
        ),
        check(
            Guard::KlFeedback,
            adapter.kl_feedback,
            Bounds::at_most(limits.kl_feedback),
            format!(
                "On the person's prompts it moved {:.3} nats per token from the base",
                adapter.kl_feedback
            ),
        ),
        check(
            Guard::KlOwnSamples,
            adapter.kl_own_samples,
            Bounds::at_most(limits.kl_own_samples),
            format!(
                "Its own replies lie {:.3} nats per token from the base",
                adapter.kl_own_samples
            ),
        ),
        check(
            Guard::OwnNatsUnderBase,
            own_nats,
            Bounds::at_most(limits.own_nats_ratio),
            format!(
                "The base finds its replies {own_nats:.2} times as surprising as its own of that length"
            ),
        ),
        check_rate(
            Guard::Repetition,
            base.repetition,
            adapter.repetition,
            limits,
            "repeat themselves",
        ),
        check_finished(base.finished, adapter.finished, limits),
        check_rate(
            Guard::Echo,
            base.echo,
            adapter.echo,
            limits,
            "only give the question back",
        ),
        check_length(base, adapter, limits),
    ];
    results.extend(adapter.choices.as_ref().map(check_choices));
    results.extend(adapter.refusals.as_ref().map(check_refusals));
    results
}

fn check(name: Guard, value: f64, limit: Bounds, finding: String) -> GuardResult {
    let passed = limit.contain(value);
    let sentence = match (passed, value.is_finite()) {
        (_, false) => format!("{name}: no finite number was measured, so it cannot pass."),
        (true, _) => format!("{finding}; allowed is {limit}."),
        (false, _) => format!("{finding}; allowed is only {limit}."),
    };
    GuardResult {
        name,
        value,
        limit,
        passed,
        sentence,
    }
}

/// A rate that must not rise by more than the slack, beyond what sampling explains.
fn check_rate(name: Guard, base: Rate, adapter: Rate, limits: &Limits, does: &str) -> GuardResult {
    let limit = base.share() + slack(base, adapter, limits);
    let finding = format!(
        "{:.0} % of its replies {does}, against {:.0} % of the base's",
        100.0 * adapter.share(),
        100.0 * base.share()
    );
    check(name, adapter.share(), Bounds::at_most(limit), finding)
}

fn check_finished(base: Rate, adapter: Rate, limits: &Limits) -> GuardResult {
    let limit = base.share() - slack(base, adapter, limits);
    let finding = format!(
        "{:.0} % of its replies come to an end, against {:.0} % of the base's",
        100.0 * adapter.share(),
        100.0 * base.share()
    );
    check(
        Guard::Finished,
        adapter.share(),
        Bounds::at_least(limit),
        finding,
    )
}

/// A short reply may be damage or what the person asked for, and only their feedback can tell.
fn check_length(
    base: &BaseMeasurements,
    adapter: &ScaleMeasurements,
    limits: &Limits,
) -> GuardResult {
    let (better, worse) = adapter.liked_against(base);
    let is_liked = stats::binomial_upper_tail(better, better + worse, 0.5) < limits.liked_alpha;
    let (at_least, at_most) = match is_liked {
        true => limits.liked_length_ratio,
        false => limits.length_ratio,
    };
    let finding = format!(
        "Its typical reply has {:.0} tokens, the base's {:.0}; by what was liked so far {better} are better and {worse} worse",
        adapter.median_tokens, base.median_tokens
    );
    let bounds = Bounds {
        at_least: Some(at_least),
        at_most: Some(at_most),
    };
    let ratio = adapter.median_tokens / base.median_tokens;
    check(Guard::MedianLength, ratio, bounds, finding)
}

fn check_choices(file: &AppFile) -> GuardResult {
    let lost = file.base.share() - file.adapter.share();
    let does = "answered right";
    check_file(Guard::Choices, lost, file, does, "questions", "fewer")
}

fn check_refusals(file: &AppFile) -> GuardResult {
    let more = file.adapter.share() - file.base.share();
    check_file(
        Guard::Refusals,
        more,
        file,
        "refused",
        "harmless prompts",
        "more",
    )
}

/// By how much the share of rows worsened, in the app's own measure: no slack is added to what it tolerates.
fn check_file(
    name: Guard,
    worse_by: f64,
    file: &AppFile,
    does: &str,
    rows: &str,
    direction: &str,
) -> GuardResult {
    let limit = Bounds::at_most(file.tolerated);
    // 0.40 - 0.38 is a little over 0.02.
    let passed = limit.contain(worse_by - 1e-9);
    let percent = |rate: Rate| 100.0 * rate.share();
    let found = format!(
        "Of the app's {} {rows} {:.1} % are {does}, by the base {:.1} %",
        file.adapter.of,
        percent(file.adapter),
        percent(file.base)
    );
    let tolerated = 100.0 * file.tolerated;
    let sentence = match (passed, worse_by > 0.0) {
        (false, _) if !worse_by.is_finite() => {
            format!("{name}: no finite number was measured, so it cannot pass.")
        }
        (true, true) => format!("{found}; allowed is {tolerated:.1} points {direction}."),
        (true, false) => format!("{found}, which is no loss."),
        (false, _) => format!(
            "{found}; allowed is only {tolerated:.1} points {direction}. Chance alone takes as much away {:.1} % of the time.",
            100.0 * file.p_value()
        ),
    };
    GuardResult {
        name,
        value: worse_by,
        limit,
        passed,
        sentence,
    }
}

/// The slack, widened by the standard error of the difference under "nothing changed" (pooled, with one success and one
/// failure added so that a rate of zero still has an error).
fn slack(base: Rate, adapter: Rate, limits: &Limits) -> f64 {
    let pooled = (base.count + adapter.count + 1) as f64 / (base.of + adapter.of + 2) as f64;
    let inverse = 1.0 / base.of as f64 + 1.0 / adapter.of as f64;
    limits.rate_slack + limits.rate_errors * (pooled * (1.0 - pooled) * inverse).sqrt()
}

fn harder(ratio: f64) -> String {
    let percent = 100.0 * (ratio - 1.0);
    match percent >= 0.0 {
        true => format!("{percent:.1} % harder to predict"),
        false => format!("{:.1} % easier to predict", -percent),
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at_least, self.at_most) {
            (Some(low), Some(high)) => write!(f, "{low:.2} to {high:.2}"),
            (Some(low), None) => write!(f, "{low:.2} or more"),
            (None, Some(high)) => write!(f, "{high:.2} or less"),
            (None, None) => f.write_str("anything"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(in crate::gate) fn base() -> BaseMeasurements {
        BaseMeasurements {
            neutral_perplexity: 20.0,
            own_nats: 1.2,
            own_nats_at: Vec::new(),
            repetition: Rate { count: 6, of: 60 },
            finished: Rate { count: 24, of: 60 },
            echo: Rate { count: 0, of: 60 },
            median_tokens: 160.0,
            rewards: Vec::new(),
        }
    }

    pub(in crate::gate) fn harmless(scale: f64) -> ScaleMeasurements {
        ScaleMeasurements {
            scale,
            neutral_perplexity: 20.1,
            kl_neutral: 0.01,
            kl_feedback: 0.05,
            kl_own_samples: 0.06,
            own_nats_under_base: 1.3,
            own_lengths: Vec::new(),
            repetition: Rate { count: 5, of: 60 },
            finished: Rate { count: 30, of: 60 },
            echo: Rate { count: 0, of: 60 },
            median_tokens: 150.0,
            rewards: Vec::new(),
            choices: None,
            refusals: None,
        }
    }

    fn failed(adapter: &ScaleMeasurements) -> Vec<Guard> {
        guards(&base(), adapter, &Limits::default())
            .into_iter()
            .filter(|result| !result.passed)
            .map(|result| result.name)
            .collect()
    }

    #[test]
    fn a_harmless_adapter_passes_every_guard() {
        assert_eq!(failed(&harmless(1.0)), []);
        let results = guards(&base(), &harmless(1.0), &Limits::default());
        assert_eq!(results.len(), 9);
    }

    #[test]
    fn each_limit_is_exact_and_trips_its_own_guard_alone() {
        type Set = fn(&mut ScaleMeasurements, f64);
        let table: [(Guard, Set, f64, f64); 6] = [
            (
                Guard::NeutralPerplexity,
                |m, v| m.neutral_perplexity = v,
                20.39,
                20.41,
            ),
            (Guard::KlNeutral, |m, v| m.kl_neutral = v, 0.05, 0.0501),
            (Guard::KlFeedback, |m, v| m.kl_feedback = v, 0.3, 0.301),
            (Guard::KlOwnSamples, |m, v| m.kl_own_samples = v, 0.3, 0.301),
            (
                Guard::OwnNatsUnderBase,
                |m, v| m.own_nats_under_base = v,
                1.559,
                1.561,
            ),
            (Guard::MedianLength, |m, v| m.median_tokens = v, 81.0, 79.0),
        ];
        for (guard, set, inside, outside) in table {
            let mut adapter = harmless(1.0);
            set(&mut adapter, inside);
            assert_eq!(failed(&adapter), [], "{guard} at {inside}");
            set(&mut adapter, outside);
            assert_eq!(failed(&adapter), [guard], "{guard} at {outside}");
            set(&mut adapter, f64::NAN);
            assert_eq!(failed(&adapter), [guard], "{guard} at NaN");
        }
    }

    #[test]
    fn the_ruined_adapter_that_was_measured_is_caught_by_its_nats_under_the_base() {
        // Two epochs of DPO on people's answers at 2e-4: accuracy 100 %, 20 tokens, 2.41 nats against 1.19.
        let base = BaseMeasurements {
            own_nats: 1.19,
            ..base()
        };
        let ruined = ScaleMeasurements {
            own_nats_under_base: 2.41,
            ..harmless(1.0)
        };
        let results = guards(&base, &ruined, &Limits::default());
        let caught: Vec<Guard> = results
            .iter()
            .filter(|r| !r.passed)
            .map(|r| r.name)
            .collect();
        assert_eq!(caught, [Guard::OwnNatsUnderBase]);
    }

    #[test]
    fn rates_worse_by_more_than_chance_and_two_points_fail() {
        let mut adapter = harmless(1.0);
        adapter.repetition.count = 12;
        assert_eq!(
            failed(&adapter),
            [],
            "20 % against 10 % of sixty is within chance"
        );
        adapter.repetition.count = 16;
        assert_eq!(failed(&adapter), [Guard::Repetition]);
        adapter = harmless(1.0);
        adapter.finished.count = 13;
        assert_eq!(failed(&adapter), [Guard::Finished]);
        adapter = harmless(1.0);
        adapter.echo.count = 6;
        assert_eq!(failed(&adapter), [Guard::Echo]);
    }

    #[test]
    fn over_many_replies_the_slack_is_two_points() {
        let limits = Limits::default();
        let base = Rate {
            count: 100_000,
            of: 1_000_000,
        };
        assert!((slack(base, base, &limits) - 0.02).abs() < 1e-3);
        let literal = Limits {
            rate_errors: 0.0,
            ..limits
        };
        let few = Rate { count: 1, of: 10 };
        assert_eq!(slack(few, few, &literal), 0.02);
    }

    #[test]
    fn a_rate_over_no_replies_fails() {
        let mut adapter = harmless(1.0);
        adapter.repetition = Rate { count: 0, of: 0 };
        assert_eq!(failed(&adapter), [Guard::Repetition]);
    }

    #[test]
    fn replies_that_are_surely_liked_better_may_be_short_and_need_not() {
        let base = BaseMeasurements {
            rewards: vec![0.0; 20],
            ..base()
        };
        let passes = |n_better: usize, tokens| {
            let reward = |i| if i < n_better { 1.0 } else { -1.0 };
            let adapter = ScaleMeasurements {
                median_tokens: tokens,
                rewards: (0..20).map(reward).collect(),
                ..harmless(1.0)
            };
            let results = guards(&base, &adapter, &Limits::default());
            results.iter().all(|result| result.passed)
        };
        // Of twenty, 15 or more are better by chance in 2.1 % of cases, 14 in 5.8 %.
        for (n_better, tokens, expected) in [
            (15, 33.0, true),
            (15, 31.0, false),
            (15, 160.0, true),
            (15, 790.0, true),
            (15, 810.0, false),
            (14, 81.0, true),
            (14, 79.0, false),
            (0, 160.0, true),
        ] {
            assert_eq!(passes(n_better, tokens), expected, "{n_better} {tokens}");
        }
    }

    #[test]
    fn what_the_app_brings_is_guarded_by_what_it_tolerates() {
        let file = |base: usize, adapter: usize, good: bool| {
            let did = |n: usize| (0..100).map(|i| i < n).collect::<Vec<bool>>();
            AppFile::new("hash".into(), 0.02, &did(base), &did(adapter), good)
        };
        let mut adapter = harmless(1.0);
        for (right, refused, expected) in [
            (38, 5, vec![]),
            (45, 1, vec![]),
            (37, 5, vec![Guard::Choices]),
            (40, 8, vec![Guard::Refusals]),
            (37, 8, vec![Guard::Choices, Guard::Refusals]),
        ] {
            adapter.choices = Some(file(40, right, true));
            adapter.refusals = Some(file(5, refused, false));
            assert_eq!(failed(&adapter), expected, "{right} {refused}");
        }
        let sentences: Vec<String> = guards(&base(), &adapter, &Limits::default())
            .into_iter()
            .filter(|result| !result.passed)
            .map(|result| result.sentence)
            .collect();
        assert_eq!(
            sentences,
            [
                "Of the app's 100 questions 37.0 % are answered right, by the base 40.0 %; allowed is only 2.0 points fewer. \
                 Chance alone takes as much away 12.5 % of the time.",
                "Of the app's 100 harmless prompts 8.0 % are refused, by the base 5.0 %; allowed is only 2.0 points more. \
                 Chance alone takes as much away 12.5 % of the time.",
            ]
        );
        adapter.choices = Some(file(40, 40, true));
        adapter.choices.as_mut().unwrap().base.of = 0;
        assert_eq!(failed(&adapter), [Guard::Choices, Guard::Refusals]);
    }
}
