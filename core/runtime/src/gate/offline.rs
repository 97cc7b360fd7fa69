//! The offline tier: rejects a candidate, or sends it on trial at the largest scale that harms nothing.

use serde::{Deserialize, Serialize};

use super::folds::held_out;
use super::guards::{Guard, GuardResult, Limits, guards};
use super::measurements::Measurements;

/// Scales of a candidate that are measured at most.
pub const TRIES: usize = 4;
/// Under this share of its strength a candidate is not worth a trial.
const LEAST_SHARE: f64 = 0.2;
/// Under this many feedback events a trial runs at a reduced scale.
pub const FEW_THUMBS: usize = 20;
/// The largest scale of a trial under [`FEW_THUMBS`].
pub const FEW_THUMBS_SCALE: f64 = 0.5;

/// What the offline tier decides. There is no "confirmed": only votes confirm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offline {
    /// Not to be used.
    Rejected {
        /// One sentence for each check that failed: the held-out ranking, or the guards at the smallest scale measured.
        reasons: Vec<String>,
    },
    /// Active and unconfirmed.
    Trial {
        /// Factor on the adapter's delta.
        scale: f64,
    },
}

/// The decision and every number it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfflineReport {
    /// The decision.
    pub outcome: Offline,
    /// Feedback events that the candidate was trained on.
    pub thumbs: usize,
    /// The held-out ranking.
    pub held_out: GuardResult,
    /// Guards at each scale measured, largest first.
    pub scales: Vec<ScaleReport>,
}

/// The guards at one scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleReport {
    /// Factor on the adapter's delta.
    pub scale: f64,
    /// Whether a trial may use it: false over [`FEW_THUMBS_SCALE`] under [`FEW_THUMBS`].
    pub allowed: bool,
    /// One result a guard.
    pub guards: Vec<GuardResult>,
}

impl ScaleReport {
    /// Whether every guard passed.
    pub fn passed(&self) -> bool {
        self.guards.iter().all(|guard| guard.passed)
    }
}

/// Judges a candidate: rejected if the held-out ranking or every allowed scale fails, else on trial at the largest
/// allowed scale that passes.
pub fn offline(measured: &Measurements, limits: &Limits) -> OfflineReport {
    let held_out = unseen(measured, limits);
    let scales = scale_reports(measured, limits);
    let usable = scales
        .iter()
        .find(|report| report.allowed && report.passed());
    let outcome = match (held_out.passed, usable) {
        (true, Some(report)) => Offline::Trial {
            scale: report.scale,
        },
        _ => Offline::Rejected {
            reasons: reasons(&held_out, &scales, usable.is_some()),
        },
    };
    OfflineReport {
        outcome,
        thumbs: measured.thumbs,
        held_out,
        scales,
    }
}

/// What feedback that was left out says: of what the rest taught a head, and of adapters that were trained on the rest.
fn unseen(measured: &Measurements, limits: &Limits) -> GuardResult {
    let of_folds = held_out(measured.folds.as_ref());
    let of_feedback = measured.evidence.map(|found| found.judge(limits.chance));
    match of_feedback {
        Some(of_feedback) if !of_feedback.passed || measured.folds.is_none() => of_feedback,
        _ => of_folds,
    }
}

/// The scale to measure next, or `None` when [`offline`] has what it needs: first the candidate's strength, then less, by as much as what
/// failed is expected to need. The first that passes settles it; so does a failed held-out ranking, which spares all of it.
pub fn next_scale(measured: &Measurements, limits: &Limits) -> Option<f64> {
    let reports = scale_reports(measured, limits);
    let settled = !unseen(measured, limits).passed
        || reports
            .iter()
            .any(|report| report.allowed && report.passed());
    if settled || reports.len() >= TRIES {
        return None;
    }
    let most = match measured.thumbs < FEW_THUMBS {
        true => measured.strength.min(FEW_THUMBS_SCALE),
        false => measured.strength,
    };
    let next = match reports.last() {
        None => most,
        Some(smallest) => {
            let scale = (smallest.scale * share_that_passes(&smallest.guards)).min(most);
            // Single precision holds these exactly.
            (scale * 32.0).floor() / 32.0
        }
    };
    (next >= LEAST_SHARE * measured.strength).then_some(next)
}

/// By how much a scale has to shrink for what failed to pass, with a little to spare: a divergence grows with the square of the scale, the
/// logarithms of length and perplexity and the surprise of its replies about in proportion. Rates say nothing of how far they are off.
fn share_that_passes(guards: &[GuardResult]) -> f64 {
    const TO_SPARE: f64 = 0.95;
    let share = |guard: &GuardResult| {
        let value = guard.value;
        let limit = match (guard.limit.at_least, guard.limit.at_most) {
            (Some(low), _) if value < low => low,
            (_, Some(high)) => high,
            _ => return f64::NAN,
        };
        match guard.name {
            Guard::NeutralPerplexity | Guard::MedianLength => limit.ln() / value.ln(),
            Guard::OwnNatsUnderBase => (limit - 1.0) / (value - 1.0),
            Guard::KlNeutral | Guard::KlFeedback | Guard::KlOwnSamples => (limit / value).sqrt(),
            Guard::Repetition
            | Guard::Finished
            | Guard::Echo
            | Guard::Choices
            | Guard::Refusals
            | Guard::HeldOut => 0.75,
        }
    };
    let failed = guards.iter().filter(|guard| !guard.passed).map(share);
    let least = failed
        .map(|share| if share.is_finite() { share } else { 0.5 })
        .fold(1.0, f64::min);
    (TO_SPARE * least).clamp(0.4, 0.95)
}

impl OfflineReport {
    /// The decision in plain sentences.
    pub fn explain(&self) -> String {
        match &self.outcome {
            Offline::Rejected { reasons } => {
                format!("The new adapter was rejected. {}", reasons.join(" "))
            }
            Offline::Trial { scale } => {
                let strength = format!("at {:.0} % of its strength", 100.0 * scale);
                let why = match self.scales.iter().find(|report| report.scale > *scale) {
                    _ if self.thumbs < FEW_THUMBS && *scale == FEW_THUMBS_SCALE => {
                        format!(" (there are only {} thumbs so far)", self.thumbs)
                    }
                    Some(report) => {
                        let failed = report.guards.iter().filter(|guard| !guard.passed);
                        let failed: Vec<String> =
                            failed.map(|guard| guard.name.to_string()).collect();
                        format!(
                            " (at {:.0} % it failed: {})",
                            100.0 * report.scale,
                            failed.join(", ")
                        )
                    }
                    None => String::new(),
                };
                format!(
                    "The new adapter is on trial {strength}{why}; blind votes will confirm it or roll it back. {}",
                    self.held_out.sentence
                )
            }
        }
    }
}

fn allowed(scale: f64, thumbs: usize) -> bool {
    thumbs >= FEW_THUMBS || scale <= FEW_THUMBS_SCALE
}

fn scale_reports(measured: &Measurements, limits: &Limits) -> Vec<ScaleReport> {
    let mut reports: Vec<ScaleReport> = measured
        .scales
        .iter()
        .map(|at| ScaleReport {
            scale: at.scale,
            allowed: allowed(at.scale, measured.thumbs),
            guards: guards(&measured.base, at, limits),
        })
        .collect();
    reports.sort_by(|a, b| b.scale.total_cmp(&a.scale));
    reports
}

fn reasons(held_out: &GuardResult, scales: &[ScaleReport], some_scale_passed: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if !held_out.passed {
        reasons.push(held_out.sentence.clone());
    }
    if some_scale_passed {
        return reasons;
    }
    match scales.iter().rfind(|report| report.allowed) {
        Some(report) => {
            let failed = report.guards.iter().filter(|guard| !guard.passed);
            reasons.extend(failed.map(|guard| {
                format!(
                    "Even at {:.0} % of its strength: {}",
                    100.0 * report.scale,
                    guard.sentence
                )
            }));
        }
        // A failed ranking settles it before any scale is measured.
        None if reasons.is_empty() => reasons.push("No allowed scale was measured.".into()),
        None => {}
    }
    reasons
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::evidence::Evidence;
    use super::super::folds::FoldResults;
    use super::super::guards::tests::{base, harmless};
    use super::super::measurements::ScaleMeasurements;
    use super::*;

    const SCALES: [f64; 4] = [1.0, 0.75, 0.5, 0.25];

    fn measured(thumbs: usize, scales: Vec<ScaleMeasurements>) -> Measurements {
        Measurements {
            thumbs,
            base: base(),
            scales,
            strength: 1.0,
            folds: FoldResults::of_equal_pairs(30, 40),
            evidence: None,
        }
    }

    fn harmful(scale: f64) -> ScaleMeasurements {
        ScaleMeasurements {
            kl_own_samples: 0.9,
            ..harmless(scale)
        }
    }

    fn outcome(measured: &Measurements) -> Offline {
        offline(measured, &Limits::default()).outcome
    }

    #[test]
    fn the_largest_scale_that_passes_goes_on_trial() {
        let scales = vec![harmless(0.25), harmless(0.5), harmful(1.0), harmful(0.75)];
        assert_eq!(
            outcome(&measured(40, scales)),
            Offline::Trial { scale: 0.5 }
        );
        let scales = SCALES.map(harmless).to_vec();
        assert_eq!(
            outcome(&measured(40, scales)),
            Offline::Trial { scale: 1.0 }
        );
    }

    #[test]
    fn under_twenty_thumbs_a_trial_is_held_at_half() {
        let scales = SCALES.map(harmless).to_vec();
        assert_eq!(
            outcome(&measured(19, scales.clone())),
            Offline::Trial { scale: 0.5 }
        );
        assert_eq!(
            outcome(&measured(20, scales)),
            Offline::Trial { scale: 1.0 }
        );
        let only_full = vec![harmless(1.0)];
        assert!(matches!(
            outcome(&measured(19, only_full)),
            Offline::Rejected { .. }
        ));
    }

    #[test]
    fn a_candidate_that_fails_at_every_scale_is_rejected_with_its_reasons() {
        let report = offline(
            &measured(40, SCALES.map(harmful).to_vec()),
            &Limits::default(),
        );
        let Offline::Rejected { reasons } = &report.outcome else {
            panic!("{report:?}")
        };
        assert_eq!(reasons.len(), 1);
        assert!(
            reasons[0].contains("25 %") && reasons[0].contains("0.900"),
            "{}",
            reasons[0]
        );
        assert!(report.explain().contains("rejected"));
    }

    #[test]
    fn a_failed_ranking_rejects_however_harmless_the_candidate_is() {
        let mut measured = measured(40, SCALES.map(harmless).to_vec());
        measured.folds = FoldResults::of_equal_pairs(14, 40);
        let Offline::Rejected { reasons } = outcome(&measured) else {
            panic!("not rejected")
        };
        assert_eq!(reasons.len(), 1);
        assert!(reasons[0].contains("35 % of comparisons"), "{}", reasons[0]);
    }

    #[test]
    fn feedback_that_chance_could_have_given_rejects_whatever_else_was_measured() {
        let mut measured = measured(40, SCALES.map(harmless).to_vec());
        let mut reasons = |p_value: f64, folds: Option<FoldResults>| {
            measured.folds = folds;
            measured.evidence = Some(Evidence {
                liked: 18,
                disliked: 22,
                p_value,
            });
            match outcome(&measured) {
                Offline::Rejected { reasons } => reasons,
                Offline::Trial { .. } => Vec::new(),
            }
        };
        for folds in [None, FoldResults::of_equal_pairs(40, 40)] {
            assert!(reasons(0.05, folds).is_empty());
            let said = reasons(0.06, folds);
            assert_eq!(said.len(), 1);
            assert!(
                said[0].contains("18 👍, 22 👎") && said[0].contains("6.0 %"),
                "{said:?}"
            );
        }
        assert_eq!(reasons(0.01, FoldResults::of_equal_pairs(14, 40)).len(), 1);
    }

    #[test]
    fn scales_are_asked_for_from_the_largest_down_until_one_passes() {
        let limits = Limits::default();
        let mut now = measured(40, vec![]);
        assert_eq!(next_scale(&now, &limits), Some(1.0));
        // Three times the divergence that is allowed: 0.95 over the root of three.
        now.scales.push(harmful(1.0));
        assert_eq!(next_scale(&now, &limits), Some(0.53125));
        now.scales.push(harmless(0.53125));
        assert_eq!(next_scale(&now, &limits), None);
        assert_eq!(outcome(&now), Offline::Trial { scale: 0.53125 });
        assert_eq!(next_scale(&measured(12, vec![]), &limits), Some(0.5));
        assert_eq!(
            next_scale(&measured(40, SCALES.map(harmful).to_vec()), &limits),
            None
        );
        now = measured(40, vec![]);
        now.strength = 1.5;
        assert_eq!(next_scale(&now, &limits), Some(1.5));
        now.scales.push(harmful(0.3));
        assert_eq!(next_scale(&now, &limits), None, "too little is left of it");
        now = measured(40, vec![]);
        now.folds = FoldResults::of_equal_pairs(2, 40);
        assert_eq!(next_scale(&now, &limits), None);
        let Offline::Rejected { reasons } = outcome(&now) else {
            panic!("not rejected")
        };
        assert_eq!(reasons.len(), 1);
    }

    #[test]
    fn the_next_scale_is_where_what_failed_is_expected_to_pass() {
        let limits = Limits::default();
        let next = |change: &dyn Fn(&mut ScaleMeasurements)| {
            let mut at = harmless(1.0);
            change(&mut at);
            next_scale(&measured(40, vec![at]), &limits).unwrap()
        };
        let rounded = |scale: f64| (scale * 0.95 * 32.0).floor() / 32.0;
        let median = base().median_tokens;
        assert_eq!(
            next(&|at| at.median_tokens = 0.3 * median),
            rounded(0.5f64.ln() / 0.3f64.ln())
        );
        assert_eq!(
            next(&|at| at.median_tokens = 2.2 * median),
            rounded(2f64.ln() / 2.2f64.ln())
        );
        assert_eq!(next(&|at| at.kl_neutral = 0.1), rounded(0.5f64.sqrt()));
        assert_eq!(
            next(&|at| at.own_nats_under_base = 1.6 * base().own_nats),
            rounded(0.5)
        );
        // Whatever fails by most decides; what was not measured says to go far back.
        assert_eq!(
            next(&|at| (at.kl_neutral, at.kl_feedback) = (0.1, 1.2)),
            rounded(0.5)
        );
        assert_eq!(next(&|at| at.kl_neutral = f64::NAN), rounded(0.5));
        assert_eq!(next(&|at| at.kl_neutral = 0.05001), 0.9375);
        assert_eq!(next(&|at| at.kl_neutral = 50.0), 0.375);
    }

    #[test]
    fn a_report_survives_json() {
        let mut with_nan = measured(40, vec![harmful(1.0), harmless(0.75)]);
        let report = offline(&with_nan, &Limits::default());
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            serde_json::from_str::<OfflineReport>(&json).unwrap(),
            report
        );
        with_nan.scales[0].kl_neutral = f64::NAN;
        let json = serde_json::to_string(&with_nan).unwrap();
        let back: Measurements = serde_json::from_str(&json).unwrap();
        assert!(back.scales[0].kl_neutral.is_nan());
        assert_eq!(outcome(&back), Offline::Trial { scale: 0.75 });
    }

    #[test]
    fn an_explanation_says_why_the_scale_is_reduced() {
        let limits = Limits::default();
        let few = offline(&measured(12, vec![harmless(0.5)]), &limits).explain();
        assert!(
            few.contains("50 %") && few.contains("only 12 thumbs"),
            "{few}"
        );
        let guarded = offline(&measured(40, vec![harmful(1.0), harmless(0.75)]), &limits).explain();
        assert!(
            guarded.contains("75 %")
                && guarded.contains("at 100 % it failed: KL on its own samples"),
            "{guarded}"
        );
    }
}
