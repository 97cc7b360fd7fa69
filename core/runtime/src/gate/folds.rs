//! Held-out ranking: does an adapter trained on one half of the feedback rank the other half right?

use serde::{Deserialize, Serialize};

use super::guards::{Bounds, Guard, GuardResult};
use super::measurements::null_is_nan;
use super::stats;

/// From this many held-out items on, the one-sided 5 % mark decides.
pub const DECIDING_ITEMS: usize = 20;
/// From this many held-out items on, a ranking worse than chance rejects.
pub const TELLING_ITEMS: usize = 10;
/// Level of the pass marks.
const ALPHA: f64 = 0.05;
/// Fewest 👍 and fewest 👎 for an AUC to say anything.
const FEWEST_OF_A_CLASS: usize = 3;

/// Results over all folds together: every item was scored by an adapter that had not seen its prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FoldResults {
    /// Held-out pairs ranked right.
    pub pairs: Option<PairFold>,
    /// Held-out 👍 against 👎.
    pub thumbs: Option<ThumbFold>,
}

/// Out-of-fold ranking of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairFold {
    /// Pairs whose chosen side gained more over the reference than the rejected one.
    pub correct: usize,
    /// Pairs scored.
    pub total: usize,
    /// One-sided p-value of the signed-rank test on the margins.
    #[serde(with = "null_is_nan")]
    pub p_value: f64,
}

impl PairFold {
    /// From how much more each chosen side gained over the reference than its rejected one, nats. `None` over nothing or
    /// if a margin is NaN.
    pub fn from_margins(margins: &[f64]) -> Option<Self> {
        let p_value = stats::signed_rank_p(margins).filter(|_| !margins.is_empty())?;
        Some(Self {
            correct: margins.iter().filter(|margin| **margin > 0.0).count(),
            total: margins.len(),
            p_value,
        })
    }
}

/// Out-of-fold separation of 👍 from 👎.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThumbFold {
    /// P(a 👍 scores above a 👎), ties half.
    #[serde(with = "null_is_nan")]
    pub auc: f64,
    /// One-sided p-value of the rank-sum test.
    #[serde(with = "null_is_nan")]
    pub p_value: f64,
    /// 👍 scored.
    pub up: usize,
    /// 👎 scored.
    pub down: usize,
}

impl ThumbFold {
    /// From the held-out scores (beta x rho, or any number that grows with preference). `None` if either side is empty
    /// or a score is NaN.
    pub fn from_scores(up: &[f64], down: &[f64]) -> Option<Self> {
        let auc = stats::auc(up, down)?;
        let p_value = stats::rank_sum_p(up, down)?;
        Some(Self {
            auc,
            p_value,
            up: up.len(),
            down: down.len(),
        })
    }
}

/// Judges the held-out ranking; one result, from the stronger kind of evidence at hand: pairs where there are
/// [`DECIDING_ITEMS`] of them, else whichever kind has more items.
///
/// With 20 items or more, chance must do as well at most 5 % of the time. For pairs that is a signed-rank test on the
/// margins, which for equal margins has the marks of the sign test (15 of 20, 26 of 40, 32 of 50) and else listens to those
/// pairs most on which the candidate has most to say. Under 20 items such a test would throw away more good candidates than it
/// keeps (9 of 10 is missed 62 % of the time at a true 80 %), so 10 to 19 items reject only below one half, and fewer
/// reject nothing: such a candidate goes on trial at a small scale, and the votes decide.
pub fn held_out(folds: &FoldResults) -> GuardResult {
    let pairs = folds.pairs.filter(|pairs| pairs.total > 0);
    let thumbs = folds
        .thumbs
        .filter(|t| t.up.min(t.down) >= FEWEST_OF_A_CLASS);
    match (pairs, thumbs) {
        (Some(pairs), None) => judge_pairs(pairs),
        (Some(pairs), Some(thumbs))
            if pairs.total >= DECIDING_ITEMS || pairs.total >= thumbs.up + thumbs.down =>
        {
            judge_pairs(pairs)
        }
        (_, Some(thumbs)) => judge_thumbs(thumbs),
        (None, None) => GuardResult {
            name: Guard::HeldOutPairs,
            value: f64::NAN,
            limit: Bounds::NONE,
            passed: true,
            sentence: "There is not enough feedback to check the ranking of unseen replies; the votes will tell."
                .into(),
        },
    }
}

fn judge_pairs(fold: PairFold) -> GuardResult {
    let PairFold { correct, total, .. } = fold;
    judge(Evidence {
        name: Guard::HeldOutPairs,
        items: total,
        share: correct as f64 / total as f64,
        p_value: fold.p_value,
        found: format!("It ranked {correct} of {total} unseen pairs as the person did"),
    })
}

fn judge_thumbs(fold: ThumbFold) -> GuardResult {
    let ThumbFold { auc, up, down, .. } = fold;
    let percent = 100.0 * auc;
    judge(Evidence {
        name: Guard::HeldOutThumbs,
        items: up + down,
        share: auc,
        p_value: fold.p_value,
        found: format!(
            "It scored unseen 👍 above unseen 👎 in {percent:.0} % of comparisons ({up} 👍, {down} 👎)"
        ),
    })
}

struct Evidence {
    name: Guard,
    items: usize,
    /// Of comparisons that came out as the person's did.
    share: f64,
    p_value: f64,
    found: String,
}

fn judge(evidence: Evidence) -> GuardResult {
    let Evidence {
        name,
        items,
        share,
        p_value,
        found,
    } = evidence;
    let chance = format!("chance does as well {:.1} % of the time", 100.0 * p_value);
    let (value, limit, passed, rest) = match items {
        DECIDING_ITEMS.. => {
            let mark = Bounds::at_most(ALPHA);
            let passed = mark.contain(p_value);
            let over = if passed { "" } else { ", over the allowed 5 %" };
            (p_value, mark, passed, format!("; {chance}{over}."))
        }
        TELLING_ITEMS.. => {
            let half = Bounds::at_least(0.5);
            let passed = half.contain(share);
            let rest = match passed {
                true => "; too few to rule out chance, so the votes decide.",
                false => ", which is worse than chance.",
            };
            (share, half, passed, rest.to_owned())
        }
        _ => (
            share,
            Bounds::NONE,
            true,
            "; too few to tell, so the votes decide.".to_owned(),
        ),
    };
    GuardResult {
        name,
        value,
        limit,
        passed,
        sentence: found + &rest,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    impl PairFold {
        /// As if each pair said as much: the sign test.
        pub fn of_equal_margins(correct: usize, total: usize) -> Option<Self> {
            let margins = (0..total).map(|i| if i < correct { 1.0 } else { -1.0 });
            Self::from_margins(&margins.collect::<Vec<_>>())
        }
    }

    fn pairs(correct: usize, total: usize) -> FoldResults {
        FoldResults {
            pairs: PairFold::of_equal_margins(correct, total),
            thumbs: None,
        }
    }

    #[test]
    fn few_large_margins_outweigh_many_small_ones_against_them() {
        let (large, small) = (30.0, 0.1);
        let margins: Vec<f64> = (0..30)
            .map(|i| if i < 16 { large } else { -small } + f64::from(i) * 1e-3)
            .collect();
        let results = |margins: &[f64]| FoldResults {
            pairs: PairFold::from_margins(margins),
            thumbs: None,
        };
        assert!(held_out(&results(&margins)).passed);
        let against: Vec<f64> = margins.iter().map(|margin| -margin).collect();
        assert!(!held_out(&results(&against)).passed);
        assert!(!held_out(&pairs(16, 30)).passed);
    }

    #[test]
    fn pair_accuracy_passes_at_the_mark_and_fails_one_below() {
        for (mark, total) in [(15, 20), (26, 40), (32, 50)] {
            assert!(held_out(&pairs(mark, total)).passed, "{mark} of {total}");
            assert!(
                !held_out(&pairs(mark - 1, total)).passed,
                "{} of {total}",
                mark - 1
            );
        }
    }

    #[test]
    fn ten_to_nineteen_pairs_reject_only_below_one_half() {
        assert!(held_out(&pairs(5, 10)).passed);
        assert!(!held_out(&pairs(4, 10)).passed);
        assert!(held_out(&pairs(10, 19)).passed);
        assert!(!held_out(&pairs(9, 19)).passed);
    }

    #[test]
    fn fewer_pairs_reject_nothing_and_say_so() {
        let result = held_out(&pairs(0, 3));
        assert!(result.passed);
        assert!(result.sentence.contains("too few"), "{}", result.sentence);
        assert!(held_out(&FoldResults::default()).passed);
    }

    #[test]
    fn thumbs_decide_where_pairs_are_few() {
        let up: Vec<f64> = (0..12).map(|i| 1.0 + f64::from(i)).collect();
        let down: Vec<f64> = (0..12).map(|i| f64::from(i) - 6.0).collect();
        let thumbs = ThumbFold::from_scores(&up, &down);
        let good = FoldResults {
            pairs: PairFold::of_equal_margins(1, 6),
            thumbs,
        };
        let result = held_out(&good);
        assert_eq!(result.name, Guard::HeldOutThumbs);
        assert!(result.passed, "{}", result.sentence);
        let shuffled = FoldResults {
            pairs: None,
            thumbs: ThumbFold::from_scores(&down, &up),
        };
        assert!(!held_out(&shuffled).passed);
        let enough = FoldResults {
            pairs: PairFold::of_equal_margins(14, 20),
            ..good
        };
        assert!(!held_out(&enough).passed, "twenty pairs decide alone");
    }

    #[test]
    fn two_of_a_class_are_not_an_auc() {
        let thumbs = ThumbFold::from_scores(&[0.0, 0.1], &[1.0; 30]);
        assert!(
            held_out(&FoldResults {
                pairs: None,
                thumbs
            })
            .passed
        );
    }
}
