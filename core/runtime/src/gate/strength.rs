//! How strongly a candidate is applied before anything else is asked of it.
//!
//! The same recipe moves the model three times as far on one log as on another, by chance of what was said. Too short a way leaves the
//! taste half learned, too long a way loses the subject; so the way is measured, and the candidate brought to the usual one.

use super::offline::FEW_THUMBS;

/// KL(base || adapter) on the prompts of the feedback that the product brings a candidate to, nats per token (see docs/adr/012).
pub const TARGET_KL: f64 = 0.07;
/// The least and the most that a candidate is scaled by for it.
pub const STRENGTHS: (f64, f64) = (0.5, 2.0);

/// The scale at which a candidate moves the model about as far as `target_kl`, given how far it does at full scale: a divergence grows
/// with the square of a small change. In sixteenths, which single precision holds exactly. Few thumbs are no reason to go further than
/// they went.
pub fn strength(kl_at_full_scale: f64, target_kl: f64, thumbs: usize) -> f64 {
    if !kl_at_full_scale.is_finite() || kl_at_full_scale <= 0.0 {
        return 1.0;
    }
    let (least, most) = STRENGTHS;
    let most = if thumbs < FEW_THUMBS { 1.0 } else { most };
    let scale = (target_kl / kl_at_full_scale).sqrt();
    (scale.clamp(least, most) * 16.0).round() / 16.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_that_went_far_is_held_back_and_one_that_did_not_is_helped_on() {
        assert_eq!(strength(TARGET_KL, TARGET_KL, 100), 1.0);
        assert_eq!(strength(0.106, TARGET_KL, 100), 0.8125);
        assert_eq!(strength(0.037, TARGET_KL, 100), 1.375);
        assert_eq!(strength(0.001, TARGET_KL, 100), 2.0);
        assert_eq!(strength(3.0, TARGET_KL, 100), 0.5);
    }

    #[test]
    fn few_thumbs_are_not_exaggerated_and_nonsense_changes_nothing() {
        assert_eq!(strength(0.01, TARGET_KL, FEW_THUMBS - 1), 1.0);
        assert_eq!(strength(0.2, TARGET_KL, FEW_THUMBS - 1), 0.5625);
        for kl in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(strength(kl, TARGET_KL, 100), 1.0);
        }
    }
}
