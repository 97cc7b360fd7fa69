//! Held-out ranking: does an adapter trained on one half of the feedback rank the other half right?

use serde::{Deserialize, Serialize};

use super::guards::{Bounds, Guard, GuardResult};
use super::measurements::null_is_nan;
use super::stats;

/// From this many held-out comparisons on, the one-sided 5 % mark decides.
pub const DECIDING_ITEMS: usize = 20;
/// From this many held-out comparisons on, a ranking worse than chance rejects.
pub const TELLING_ITEMS: usize = 10;
/// Level of the pass mark.
const ALPHA: f64 = 0.05;

/// Held-out replies that are compared with each other, by how much each gained over the reference, nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judged {
    /// What liked ones gained.
    pub liked: Vec<f64>,
    /// What disliked ones gained.
    pub disliked: Vec<f64>,
}

/// Results over all folds together: every reply was scored by an adapter that had not seen its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoldResults {
    /// Liked replies that had disliked ones to be compared with.
    pub liked: usize,
    /// Disliked replies that had liked ones to be compared with.
    pub disliked: usize,
    /// How many independent comparisons that makes: of a group of `u` liked and `d` disliked replies the smaller of `u + d - 1` and twice
    /// the rarer class. A pair makes one.
    pub comparisons: usize,
    /// P(a liked reply gained more than a disliked one of its group), ties half.
    #[serde(with = "null_is_nan")]
    pub share: f64,
    /// One-sided p-value of the aligned-rank test.
    #[serde(with = "null_is_nan")]
    pub p_value: f64,
}

impl FoldResults {
    /// From groups of replies. `None` where no group has both kinds, or if a number is NaN.
    pub fn new(groups: &[Judged]) -> Option<Self> {
        let both = groups
            .iter()
            .filter(|group| !group.liked.is_empty() && !group.disliked.is_empty());
        let (mut liked, mut disliked, mut comparisons) = (0, 0, 0);
        let (mut right, mut all) = (0.0, 0.0);
        for group in both {
            let (up, down) = (group.liked.len(), group.disliked.len());
            liked += up;
            disliked += down;
            comparisons += (up + down - 1).min(2 * up.min(down));
            right += stats::auc(&group.liked, &group.disliked)? * (up * down) as f64;
            all += (up * down) as f64;
        }
        if comparisons == 0 {
            return None;
        }
        let groups: Vec<(&[f64], &[f64])> = groups
            .iter()
            .map(|group| (group.liked.as_slice(), group.disliked.as_slice()))
            .collect();
        Some(Self {
            liked,
            disliked,
            comparisons,
            share: right / all,
            p_value: stats::aligned_rank_p(&groups)?,
        })
    }
}

/// Judges the held-out ranking.
///
/// With 20 comparisons or more, chance must do as well at most 5 % of the time. That is an exact test over all ways in which the person
/// could have judged the same replies, group by group; for pairs of equal margins it has the marks of the sign test (15 of 20, 26 of 40, 32
/// of 50). Under 20 comparisons such a test would throw away more good candidates than it keeps (9 of 10 is missed 62 % of the time
/// at a true 80 %), so 10 to 19 reject only below one half, and fewer reject nothing: such a candidate goes on trial at a small
/// scale, and the votes decide.
pub fn held_out(folds: Option<&FoldResults>) -> GuardResult {
    let Some(folds) = folds else {
        return GuardResult {
            name: Guard::HeldOut,
            value: f64::NAN,
            limit: Bounds::NONE,
            passed: true,
            sentence: "There is not enough feedback to check the ranking of unseen replies; the votes will tell."
                .into(),
        };
    };
    let FoldResults {
        liked,
        disliked,
        comparisons,
        share,
        p_value,
    } = *folds;
    let found = format!(
        "It scored unseen 👍 above unseen 👎 in {:.0} % of comparisons ({liked} 👍, {disliked} 👎)",
        100.0 * share
    );
    let (value, limit, passed, rest) = match comparisons {
        DECIDING_ITEMS.. => {
            let mark = Bounds::at_most(ALPHA);
            let passed = mark.contain(p_value);
            let over = if passed { "" } else { ", over the allowed 5 %" };
            let chance = 100.0 * p_value;
            let rest = format!("; chance does as well {chance:.1} % of the time{over}.");
            (p_value, mark, passed, rest)
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
        name: Guard::HeldOut,
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

    impl FoldResults {
        /// Pairs that each say as much: the sign test.
        pub fn of_equal_pairs(right: usize, total: usize) -> Option<Self> {
            Self::from_margins((0..total).map(|i| if i < right { 1.0 } else { -1.0 }))
        }

        fn from_margins(margins: impl Iterator<Item = f64>) -> Option<Self> {
            let pair = |margin| Judged {
                liked: vec![margin],
                disliked: vec![-margin],
            };
            Self::new(&margins.map(pair).collect::<Vec<_>>())
        }
    }

    fn passes(folds: Option<FoldResults>) -> bool {
        held_out(folds.as_ref()).passed
    }

    fn pairs_pass(right: usize, total: usize) -> bool {
        passes(FoldResults::of_equal_pairs(right, total))
    }

    #[test]
    fn few_large_margins_outweigh_many_small_ones_against_them() {
        let margins = (0..30).map(|i| {
            let size = if i < 16 { 30.0 } else { -0.1 };
            size + f64::from(i) * 1e-3
        });
        assert!(passes(FoldResults::from_margins(margins.clone())));
        assert!(!passes(FoldResults::from_margins(margins.map(|m| -m))));
        assert!(!pairs_pass(16, 30));
    }

    #[test]
    fn pair_accuracy_passes_at_the_mark_and_fails_one_below() {
        for (mark, total) in [(15, 20), (26, 40), (32, 50)] {
            assert!(pairs_pass(mark, total), "{mark} of {total}");
            assert!(!pairs_pass(mark - 1, total), "{} of {total}", mark - 1);
        }
    }

    #[test]
    fn ten_to_nineteen_pairs_reject_only_below_one_half() {
        assert!(pairs_pass(5, 10));
        assert!(!pairs_pass(4, 10));
        assert!(pairs_pass(10, 19));
        assert!(!pairs_pass(9, 19));
    }

    #[test]
    fn fewer_pairs_reject_nothing_and_say_so() {
        let result = held_out(FoldResults::of_equal_pairs(0, 3).as_ref());
        assert!(result.passed);
        assert!(result.sentence.contains("too few"), "{}", result.sentence);
        assert!(passes(None));
    }

    #[test]
    fn thumbs_on_different_prompts_are_compared_with_each_other() {
        let high: Vec<f64> = (0..12).map(|i| 1.0 + f64::from(i)).collect();
        let low: Vec<f64> = (0..12).map(|i| f64::from(i) - 6.0).collect();
        let of = |liked: &[f64], disliked: &[f64]| {
            FoldResults::new(&[Judged {
                liked: liked.to_vec(),
                disliked: disliked.to_vec(),
            }])
        };
        let good = of(&high, &low).unwrap();
        assert_eq!((good.liked, good.disliked, good.comparisons), (12, 12, 23));
        assert!(passes(Some(good)));
        assert!(!passes(of(&low, &high)));
        // Two of a class make four comparisons with however many others.
        assert!(passes(of(&[0.0, 0.1], &[1.0; 30])));
    }

    #[test]
    fn replies_to_a_prompt_are_compared_with_each_other_alone() {
        // The second prompt's replies all gained more than the first one's.
        let groups: Vec<Judged> = (0..10)
            .map(|i| Judged {
                liked: vec![100.0 * f64::from(i) + 2.0],
                disliked: vec![100.0 * f64::from(i), 100.0 * f64::from(i) + 1.0],
            })
            .collect();
        let results = FoldResults::new(&groups).unwrap();
        assert_eq!((results.share, results.comparisons), (1.0, 20));
        assert!((results.p_value - 3f64.powi(-10)).abs() < 1e-12);
        let one_sided = Judged {
            liked: vec![5.0],
            disliked: vec![],
        };
        assert_eq!(FoldResults::new(&[one_sided]), None);
        let broken = Judged {
            liked: vec![f64::NAN],
            disliked: vec![1.0],
        };
        assert_eq!(FoldResults::new(&[broken]), None);
    }
}
