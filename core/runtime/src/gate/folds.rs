//! Held-out ranking: does an adapter trained on one half of the feedback rank the other half right?

use serde::{Deserialize, Serialize};

use super::guards::{Bounds, Guard, GuardResult};
use super::measurements::null_is_nan;
use super::stats;

/// From this many held-out comparisons on, a ranking may reject.
pub const TELLING_ITEMS: usize = 10;
/// The strictest and the most lenient level of the pass mark.
const LEVELS: (f64, f64) = (0.05, 0.95);
/// How much likelier a candidate is worth a trial than not, before it is asked about anything unseen (docs/adr/019).
const PRIOR_ODDS: f64 = 9.0;
/// By how many standard errors an adapter that is worth a trial beats chance, for each square root of a comparison (docs/adr/017).
const WORTH: f64 = 0.135;

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

/// How often chance may pass the held-out ranking of so many comparisons.
///
/// The mark lies where a candidate is as likely worth a trial as not, given that most are: so few mistakes of either kind are made
/// as such comparisons allow. 95 % at 36 comparisons, where a ranking rejects only when it speaks against the candidate, 69 % at
/// 150, 36 % at 330, 16 % at 600, and from 1030 on 5 %, below which it does not go. A mark of 5 % at every size would turn away four of five good
/// candidates of 50 thumbs; what passes without being good harms nothing that a guard sees, and the votes decide.
pub fn level(comparisons: usize) -> f64 {
    let expected = WORTH * (comparisons as f64).sqrt();
    let mark = expected / 2.0 - PRIOR_ODDS.ln() / expected;
    stats::normal_upper_tail(mark).clamp(LEVELS.0, LEVELS.1)
}

/// Judges the held-out ranking: chance must do as well at most at the [`level`] of so many comparisons. That is an exact test over all ways
/// in which the person could have judged the same replies, group by group. Under [`TELLING_ITEMS`] nothing is rejected.
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
    let (value, limit, passed, rest) = if comparisons >= TELLING_ITEMS {
        let level = level(comparisons);
        let mark = Bounds::at_most(level);
        let passed = mark.contain(p_value);
        let rest = format!(
            "; chance does as well {:.1} % of the time, where {:.0} % are allowed.",
            100.0 * p_value,
            100.0 * level
        );
        (p_value, mark, passed, rest)
    } else {
        let rest = "; too few to tell, so the votes decide.".to_owned();
        (share, Bounds::NONE, true, rest)
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
        let by_count = FoldResults::of_equal_pairs(16, 30).unwrap();
        assert!(by_count.p_value > 0.4, "{}", by_count.p_value);
    }

    #[test]
    fn the_level_falls_with_the_comparisons_down_to_five_percent() {
        let near = |comparisons: usize, expected: f64| {
            let level = level(comparisons);
            assert!((level - expected).abs() < 0.005, "{comparisons}: {level}");
        };
        near(10, 0.95);
        near(36, 0.95);
        near(100, 0.83);
        near(150, 0.692);
        near(330, 0.371);
        near(600, 0.161);
        near(1030, 0.05);
        near(10_000, 0.05);
    }

    #[test]
    fn pair_accuracy_passes_at_the_mark_and_fails_one_below() {
        for (mark, total) in [(3, 10), (7, 20), (16, 40), (20, 50), (46, 100)] {
            assert!(pairs_pass(mark, total), "{mark} of {total}");
            assert!(!pairs_pass(mark - 1, total), "{} of {total}", mark - 1);
        }
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
