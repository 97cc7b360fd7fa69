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

/// Out-of-fold pair accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairFold {
    /// Pairs whose chosen side gained more over the reference than the rejected one.
    pub correct: usize,
    /// Pairs scored.
    pub total: usize,
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
/// With 20 items or more it must reach the one-sided 5 % mark (15 of 20, 26 of 40, 32 of 50). Under 20 the mark would
/// throw away more good candidates than it keeps (9 of 10 is missed 62 % of the time at a true 80 %), so 10 to 19 items
/// reject only below one half, and fewer reject nothing: such a candidate goes on trial at a small scale, and the votes
/// decide.
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

fn judge_pairs(PairFold { correct, total }: PairFold) -> GuardResult {
    let fewest = match total {
        DECIDING_ITEMS.. => stats::pass_mark(total, ALPHA).unwrap_or(total),
        TELLING_ITEMS.. => total.div_ceil(2),
        _ => 0,
    };
    let ranked = format!("It ranked {correct} of {total} unseen pairs as the person did");
    let passed = correct >= fewest && correct <= total;
    GuardResult {
        name: Guard::HeldOutPairs,
        value: correct as f64 / total as f64,
        limit: Bounds::at_least(fewest as f64 / total as f64),
        passed,
        sentence: match (passed, total) {
            (true, DECIDING_ITEMS..) => {
                format!("{ranked}; {fewest} are needed to rule out chance.")
            }
            (true, _) => {
                format!("{ranked}; that is too few pairs to rule out chance, so the votes decide.")
            }
            (false, DECIDING_ITEMS..) => {
                format!("{ranked}; chance does as well too often, {fewest} are needed.")
            }
            (false, _) => format!("{ranked}, which is worse than chance."),
        },
    }
}

fn judge_thumbs(fold: ThumbFold) -> GuardResult {
    let ThumbFold {
        auc,
        p_value,
        up,
        down,
    } = fold;
    let items = up + down;
    let ranked = format!(
        "It scored unseen 👍 above unseen 👎 in {:.0} % of comparisons ({up} 👍, {down} 👎)",
        100.0 * auc
    );
    let mark = Bounds::at_most(ALPHA);
    let half = Bounds::at_least(0.5);
    let (value, limit, passed, rest) = match items {
        DECIDING_ITEMS.. if mark.contain(p_value) => (
            p_value,
            mark,
            true,
            format!(
                "; chance does as well {:.1} % of the time.",
                100.0 * p_value
            ),
        ),
        DECIDING_ITEMS.. => (
            p_value,
            mark,
            false,
            format!(
                "; chance does as well {:.0} % of the time, over the allowed 5 %.",
                100.0 * p_value
            ),
        ),
        TELLING_ITEMS.. if half.contain(auc) => (
            auc,
            half,
            true,
            "; too few to rule out chance, so the votes decide.".into(),
        ),
        TELLING_ITEMS.. => (auc, half, false, ", which is worse than chance.".into()),
        _ => (
            auc,
            Bounds::NONE,
            true,
            "; too few to tell, so the votes decide.".into(),
        ),
    };
    GuardResult {
        name: Guard::HeldOutThumbs,
        value,
        limit,
        passed,
        sentence: ranked + &rest,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pairs(correct: usize, total: usize) -> FoldResults {
        FoldResults {
            pairs: Some(PairFold { correct, total }),
            thumbs: None,
        }
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
            pairs: Some(PairFold {
                correct: 1,
                total: 6,
            }),
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
            pairs: Some(PairFold {
                correct: 14,
                total: 20,
            }),
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
