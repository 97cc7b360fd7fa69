//! How strongly a candidate is applied before anything else is asked of it.
//!
//! The same recipe moves the model three times as far on one log as on another, by chance of what was said. Too short a way leaves the
//! taste half learned, too long a way loses the subject; so the way is measured, and the candidate brought to the usual one, or further for
//! a person who edits.

use super::offline::FEW_THUMBS;

/// KL(base || adapter) on the prompts of the feedback that the product brings a candidate to, nats per token (see docs/adr/012, 019 and 027).
pub const TARGET_KL: f64 = 0.04;
/// How many times as far the product goes where half of what was said or more are edits (docs/adr/025, 027).
pub const WITH_EDITS: f64 = 2.5;
/// The least and the most that a candidate is scaled by for it.
pub const STRENGTHS: (f64, f64) = (0.5, 2.0);

/// The scale at which a candidate moves the model about as far as `target_kl`, given that it moves it by `kl` at `scale`: a divergence
/// grows with the square of a small change, and less than that of a large one, so that it is asked again at the scale found. In
/// sixteenths, which single precision holds exactly. Few thumbs are no reason to go further than they went.
pub fn strength(scale: f64, kl: f64, target_kl: f64, thumbs: usize) -> f64 {
    if !kl.is_finite() || kl <= 0.0 {
        return scale;
    }
    let (least, most) = STRENGTHS;
    let most = if thumbs < FEW_THUMBS { 1.0 } else { most };
    let scale = scale * (target_kl / kl).sqrt();
    (scale.clamp(least, most) * 16.0).round() / 16.0
}

/// How far a candidate is brought: `target_kl` where nothing was edited, `with_edits` times as far where half of what was said or more are
/// edits, and in proportion between. Who writes answers anew asks for what the base hardly ever says, and that lies further away.
pub fn distance(target_kl: f64, with_edits: f64, edits: usize, events: usize) -> f64 {
    let share = (2.0 * edits as f64 / events.max(1) as f64).min(1.0);
    target_kl * (1.0 + (with_edits - 1.0) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_edits_is_followed_further() {
        assert_eq!(distance(0.05, 2.0, 0, 50), 0.05);
        assert_eq!(distance(0.05, 2.0, 10, 40), 0.05 * 1.5);
        assert_eq!(distance(0.05, 2.0, 25, 50), 0.1);
        assert_eq!(distance(0.05, 2.0, 50, 50), 0.1);
        assert_eq!(distance(0.05, 1.0, 50, 50), 0.05);
        assert_eq!(distance(0.05, 2.0, 0, 0), 0.05);
    }

    #[test]
    fn a_candidate_that_went_far_is_held_back_and_one_that_did_not_is_helped_on() {
        assert_eq!(strength(1.0, 0.07, 0.07, 100), 1.0);
        assert_eq!(strength(1.0, 0.106, 0.07, 100), 0.8125);
        assert_eq!(strength(1.0, 0.037, 0.07, 100), 1.375);
        assert_eq!(strength(1.0, 0.001, 0.07, 100), 2.0);
        assert_eq!(strength(1.0, 3.0, 0.07, 100), 0.5);
    }

    #[test]
    fn a_scale_that_fell_short_is_corrected() {
        assert_eq!(strength(1.375, 0.055, 0.07, 100), 1.5625);
        assert_eq!(strength(1.375, 0.07, 0.07, 100), 1.375);
    }

    #[test]
    fn few_thumbs_are_not_exaggerated_and_nonsense_changes_nothing() {
        assert_eq!(strength(1.0, 0.01, 0.07, FEW_THUMBS - 1), 1.0);
        assert_eq!(strength(1.0, 0.2, 0.07, FEW_THUMBS - 1), 0.5625);
        for kl in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(strength(1.0, kl, 0.07, 100), 1.0);
        }
    }
}
