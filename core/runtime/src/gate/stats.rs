//! The statistics of gate and report: exact where exact is cheap.

/// Two-sided 95 % of a standard normal.
const Z_95: f64 = 1.959_963_984_540_054;
/// Ridge on the length coefficient of [`length_controlled_win_rate`]: weak, so that it only keeps the estimate finite.
pub const LENGTH_RIDGE: f64 = 0.1;
/// Observations up to which the aligned-rank test is exact.
const EXACT_ALIGNED_RANK: usize = 160;
/// Ridge on the intercept, only so that a record without a single loss has a finite estimate.
const INTERCEPT_RIDGE: f64 = 1e-3;

/// The 95 % Wilson score interval of a share; `successes` may hold halves (ties). (0, 1) over nothing.
pub fn wilson(successes: f64, total: usize) -> (f64, f64) {
    if total == 0 {
        return (0.0, 1.0);
    }
    let n = total as f64;
    let share = successes / n;
    let z2 = Z_95 * Z_95;
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z_95 / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// P(X >= `successes`) for X ~ Binomial(`total`, `p`), by summing the terms.
pub fn binomial_upper_tail(successes: usize, total: usize, p: f64) -> f64 {
    if successes == 0 {
        return 1.0;
    }
    (successes..=total)
        .map(|k| binomial_term(k, total, p))
        .sum::<f64>()
        .min(1.0)
}

/// The fewest successes out of `total` that a fair coin reaches with probability at most `alpha`; `None` if even all of
/// them are not enough.
pub fn pass_mark(total: usize, alpha: f64) -> Option<usize> {
    (0..=total).find(|k| binomial_upper_tail(*k, total, 0.5) <= alpha)
}

/// P(a positive scores above a negative), ties counted half. `None` if either side is empty or a score is NaN.
pub fn auc(positive: &[f64], negative: &[f64]) -> Option<f64> {
    let ranks = ranks_of_classes(positive, negative)?;
    let (m, n) = (positive.len() as f64, negative.len() as f64);
    let rank_sum = ranks[..positive.len()].iter().sum::<usize>() as f64 / 2.0;
    Some((rank_sum - m * (m + 1.0) / 2.0) / (m * n))
}

/// One-sided p-value of the aligned-rank test (Hodges and Lehmann 1962) that positives do not score above negatives within groups: scores less
/// their group's mean are ranked all together, and the sum of the positives' ranks is compared with that of all relabellings within
/// groups. For groups of one positive and one negative it is Wilcoxon's signed-rank test, and for differences of one size the sign test;
/// for a single group it is the rank-sum test. Exact, with ties, up to 160 observations; beyond, normal with continuity correction. 1 where no group has
/// both, `None` if a score is NaN.
pub fn aligned_rank_p(groups: &[(&[f64], &[f64])]) -> Option<f64> {
    let groups = groups
        .iter()
        .filter(|(positive, negative)| !positive.is_empty() && !negative.is_empty());
    let mut aligned = Vec::new();
    let mut sizes = Vec::new();
    for (positive, negative) in groups {
        let n = positive.len() + negative.len();
        let mean = positive.iter().chain(*negative).sum::<f64>() / n as f64;
        aligned.extend(positive.iter().chain(*negative).map(|score| score - mean));
        sizes.push((positive.len(), n));
    }
    if aligned.iter().any(|score| score.is_nan()) {
        return None;
    }
    let ranks = doubled_ranks(&aligned);
    let mut rest = ranks.as_slice();
    let groups: Vec<(usize, &[usize])> = sizes
        .into_iter()
        .map(|(n_positive, n)| {
            let (group, after) = rest.split_at(n);
            rest = after;
            (n_positive, group)
        })
        .collect();
    let observed = groups
        .iter()
        .map(|(n, ranks)| ranks[..*n].iter().sum::<usize>())
        .sum();
    Some(match ranks.len() <= EXACT_ALIGNED_RANK {
        true => exact_aligned_rank(&groups, observed),
        false => normal_aligned_rank(&groups, observed),
    })
}

/// The median; the mean of the middle two for an even count. `None` over nothing or if a value is NaN.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value under which a `share` of the values lies, in [0, 1], between two values in proportion. `None` as [`median`].
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = share * sorted.len().checked_sub(1)? as f64;
    let (lower, upper) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(lower + at.fract() * (upper - lower))
}

/// P(Z > `z`) for a standard normal Z, to 1e-7 (Abramowitz and Stegun, 7.1.26).
pub fn normal_upper_tail(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = 0.5 * poly * (-x * x).exp();
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// One comparison between two models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// 1 for a win, 0 for a loss, 0.5 for a tie.
    pub outcome: f64,
    /// Own length minus the other's, tokens.
    pub length_difference: f64,
}

/// A win rate with the part removed that length alone explains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthControlled {
    /// sigma(theta): the win rate at equal length.
    pub win_rate: f64,
    /// Log-odds of a win at equal length.
    pub theta: f64,
    /// Log-odds that length adds, per unit of tanh(difference / sd).
    pub gamma: f64,
}

/// Fits P(win) = sigma(theta + gamma tanh(difference / sd)) with a ridge on gamma, by Newton's method (length-controlled
/// AlpacaEval, 2404.04475, without its per-instruction term). `ridge` multiplies gamma^2 / 2 against the summed
/// log-likelihood; [`LENGTH_RIDGE`] is the default. `None` over nothing or if a number is not finite.
///
/// Where every difference has the same sign (an adapter that is always shorter), theta and gamma are told apart only by
/// the curve of tanh and the ridge: read it beside the raw win rate, never instead of it.
pub fn length_controlled_win_rate(compared: &[Compared], ridge: f64) -> Option<LengthControlled> {
    let finite = |c: &Compared| c.outcome.is_finite() && c.length_difference.is_finite();
    if compared.is_empty() || !compared.iter().all(finite) {
        return None;
    }
    let sd = standard_deviation(compared.iter().map(|c| c.length_difference));
    let feature = |c: &Compared| {
        if sd > 0.0 {
            (c.length_difference / sd).tanh()
        } else {
            0.0
        }
    };
    let (mut theta, mut gamma) = (0.0_f64, 0.0_f64);
    for _ in 0..100 {
        let (mut g0, mut g1) = (-INTERCEPT_RIDGE * theta, -ridge * gamma);
        let (mut h00, mut h01, mut h11) = (INTERCEPT_RIDGE, 0.0, ridge.max(1e-9));
        for c in compared {
            let x = feature(c);
            let p = sigmoid(theta + gamma * x);
            let weight = p * (1.0 - p);
            g0 += c.outcome - p;
            g1 += (c.outcome - p) * x;
            h00 += weight;
            h01 += weight * x;
            h11 += weight * x * x;
        }
        let determinant = h00 * h11 - h01 * h01;
        // The objective is concave but flat far out; a step of at most 1 cannot overshoot it.
        let step0 = ((h11 * g0 - h01 * g1) / determinant).clamp(-1.0, 1.0);
        let step1 = ((h00 * g1 - h01 * g0) / determinant).clamp(-1.0, 1.0);
        theta += step0;
        gamma += step1;
        if step0.abs() + step1.abs() < 1e-10 {
            break;
        }
    }
    Some(LengthControlled {
        win_rate: sigmoid(theta),
        theta,
        gamma,
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn standard_deviation(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (values.map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt()
}

fn binomial_term(k: usize, n: usize, p: f64) -> f64 {
    let log_choose: f64 = (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum();
    let power = |base: f64, exponent: usize| match exponent {
        0 => 0.0,
        _ => exponent as f64 * base.ln(),
    };
    (log_choose + power(p, k) + power(1.0 - p, n - k)).exp()
}

/// [`doubled_ranks`] of two classes together, positives first.
fn ranks_of_classes(positive: &[f64], negative: &[f64]) -> Option<Vec<usize>> {
    let all: Vec<f64> = positive.iter().chain(negative).copied().collect();
    if positive.is_empty() || negative.is_empty() || all.iter().any(|score| score.is_nan()) {
        return None;
    }
    Some(doubled_ranks(&all))
}

/// Twice the mid-rank of each observation: whole numbers even with ties.
fn doubled_ranks(all: &[f64]) -> Vec<usize> {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let doubled = |score: &f64| {
        let below = sorted.partition_point(|other| other < score);
        let not_above = sorted.partition_point(|other| other <= score);
        below + not_above + 1
    };
    all.iter().map(doubled).collect()
}

/// The distribution of the sum over all relabellings within groups: group after group is added to what the ones before make.
fn exact_aligned_rank(groups: &[(usize, &[usize])], observed: usize) -> f64 {
    let mut shares = vec![1.0_f64];
    for (size, ranks) in groups {
        let sums = subset_sums(ranks, *size);
        let ways: f64 = sums.iter().sum();
        let mut with = vec![0.0; shares.len() + sums.len() - 1];
        for (sum, ways_to_sum) in sums.iter().enumerate().filter(|(_, ways)| **ways > 0.0) {
            for (before, share) in shares.iter().enumerate() {
                with[before + sum] += share * (ways_to_sum / ways);
            }
        }
        shares = with;
    }
    shares.iter().skip(observed).sum::<f64>().min(1.0)
}

fn normal_aligned_rank(groups: &[(usize, &[usize])], observed: usize) -> f64 {
    let (mut mean, mut variance) = (0.0, 0.0);
    for (size, ranks) in groups {
        let (of_group, of_group_squared) = moments_of_rank_sum(ranks, *size);
        mean += of_group;
        variance += of_group_squared;
    }
    rank_sum_tail(observed, mean, variance)
}

/// How many subsets of `size` ranks have each sum, by dynamic programming.
fn subset_sums(ranks: &[usize], size: usize) -> Vec<f64> {
    let highest: usize = ranks.iter().sum();
    let mut subsets = vec![vec![0.0_f64; highest + 1]; size + 1];
    subsets[0][0] = 1.0;
    for (seen, rank) in ranks.iter().enumerate() {
        for taken in (0..size.min(seen + 1)).rev() {
            let (lower, upper) = subsets.split_at_mut(taken + 1);
            for (sum, ways) in lower[taken][..=highest - rank].iter().enumerate() {
                upper[0][sum + rank] += ways;
            }
        }
    }
    subsets.swap_remove(size)
}

/// Mean and variance of the sum of `size` ranks drawn without replacement.
fn moments_of_rank_sum(ranks: &[usize], size: usize) -> (f64, f64) {
    let (n, m) = (ranks.len() as f64, size as f64);
    let mean = ranks.iter().sum::<usize>() as f64 / n;
    let squares = ranks.iter().map(|rank| (*rank as f64 - mean).powi(2));
    let variance = squares.sum::<f64>() / n;
    (m * mean, m * variance * (n - m) / (n - 1.0))
}

fn rank_sum_tail(observed: usize, mean: f64, variance: f64) -> f64 {
    if variance == 0.0 {
        return 1.0;
    }
    // One doubled rank is half a unit of the continuity correction.
    normal_upper_tail((observed as f64 - mean - 1.0) / variance.sqrt())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn close(value: f64, expected: f64, tolerance: f64) {
        assert!(
            (value - expected).abs() <= tolerance,
            "{value} is not {expected}"
        );
    }

    #[test]
    fn wilson_agrees_with_published_values() {
        // Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29.
        for (k, n, lower, upper) in [
            (81.0, 263, 0.2553, 0.3662),
            (15.0, 148, 0.0624, 0.1605),
            (0.0, 20, 0.0, 0.1611),
            (1.0, 29, 0.0061, 0.1718),
        ] {
            let (low, high) = wilson(k, n);
            close(low, lower, 5e-5);
            close(high, upper, 5e-5);
        }
        assert_eq!(wilson(0.0, 0), (0.0, 1.0));
    }

    #[test]
    fn binomial_tail_equals_counting() {
        close(
            binomial_upper_tail(15, 20, 0.5),
            21_700.0 / 1_048_576.0,
            1e-14,
        );
        close(binomial_upper_tail(3, 3, 0.2), 0.008, 1e-15);
        close(
            binomial_upper_tail(1, 4, 0.25),
            1.0 - 0.75_f64.powi(4),
            1e-14,
        );
        assert_eq!(binomial_upper_tail(0, 4, 0.5), 1.0);
        assert_eq!(binomial_upper_tail(5, 4, 0.5), 0.0);
        assert_eq!(binomial_upper_tail(4, 4, 1.0), 1.0);
    }

    #[test]
    fn pass_marks_are_those_of_a_one_sided_five_percent_test() {
        let table = [
            (5, 5),
            (10, 9),
            (20, 15),
            (26, 18),
            (40, 26),
            (50, 32),
            (100, 59),
        ];
        for (total, mark) in table {
            assert_eq!(pass_mark(total, 0.05), Some(mark), "of {total}");
            assert!(binomial_upper_tail(mark - 1, total, 0.5) > 0.05);
        }
        for total in 0..5 {
            assert_eq!(pass_mark(total, 0.05), None);
        }
    }

    #[test]
    fn auc_equals_counting_every_pair_with_ties_half() {
        let positive = [3.0, 1.0, 2.0, 2.0];
        let negative = [2.0, 0.0, 1.0];
        let mut counted = 0.0;
        for p in positive {
            for n in negative {
                counted += if p > n { 1.0 } else { 0.5 * f64::from(p == n) };
            }
        }
        close(auc(&positive, &negative).unwrap(), counted / 12.0, 1e-15);
        assert_eq!(auc(&[1.0; 5], &[1.0; 3]), Some(0.5));
        assert_eq!(auc(&[], &[1.0]), None);
        assert_eq!(auc(&[f64::NAN], &[1.0]), None);
    }

    /// By enumeration: the share of relabellings within groups whose positives have as high a sum of aligned ranks.
    fn naive_aligned_rank_p(groups: &[(&[f64], &[f64])]) -> f64 {
        let all: Vec<Vec<f64>> = groups
            .iter()
            .map(|(positive, negative)| {
                let scores: Vec<f64> = positive.iter().chain(*negative).copied().collect();
                let mean = scores.iter().sum::<f64>() / scores.len() as f64;
                scores.iter().map(|score| score - mean).collect()
            })
            .collect();
        let rank = |x: f64| {
            let others = all.iter().flatten();
            others
                .map(|y| f64::from(*y < x) + 0.5 * f64::from(*y == x))
                .sum::<f64>()
        };
        let n: usize = all.iter().map(Vec::len).sum();
        let (mut as_high, mut ways) = (0, 0);
        let sum_of = |labels: u32| {
            let (mut at, mut sum) = (0, 0.0);
            for (scores, (positive, _)) in all.iter().zip(groups) {
                let taken = (0..scores.len()).filter(|i| labels >> (at + i) & 1 == 1);
                if taken.clone().count() != positive.len() {
                    return None;
                }
                sum += taken.map(|i| rank(scores[i])).sum::<f64>();
                at += scores.len();
            }
            Some(sum)
        };
        let (mut at, mut actual) = (0, 0_u32);
        for (scores, (positive, _)) in all.iter().zip(groups) {
            actual |= ((1 << positive.len()) - 1) << at;
            at += scores.len();
        }
        let observed = sum_of(actual).unwrap();
        for labels in 0..1_u32 << n {
            if let Some(sum) = sum_of(labels) {
                ways += 1;
                as_high += usize::from(sum >= observed - 1e-9);
            }
        }
        as_high as f64 / ways as f64
    }

    #[test]
    fn aligned_rank_p_equals_enumerating_every_relabelling_within_groups() {
        let groups: [(&[f64], &[f64]); 4] = [
            (&[3.0], &[1.0, 2.5]),
            (&[-1.0, 4.0], &[0.0, -2.0]),
            (&[0.5], &[0.75]),
            (&[10.0, 11.0, 9.0], &[10.0, 7.5]),
        ];
        for n in 1..=groups.len() {
            let p = aligned_rank_p(&groups[..n]).unwrap();
            close(p, naive_aligned_rank_p(&groups[..n]), 1e-12);
        }
        // A group that was judged one way alone has nothing to compare.
        let with_more = [groups[0], (&[5.0, 6.0], &[])];
        assert_eq!(aligned_rank_p(&with_more), aligned_rank_p(&groups[..1]));
        assert_eq!(aligned_rank_p(&[]), Some(1.0));
        assert_eq!(aligned_rank_p(&[(&[f64::NAN], &[1.0])]), None);
    }

    #[test]
    fn aligned_rank_p_of_many_is_nearly_exact() {
        let group = |i: usize| -> Vec<f64> {
            let score = |j: usize| ((i * 37 + j * 11) % 101) as f64 * 0.7 + ((i + j) % 13) as f64;
            (0..4).map(score).collect()
        };
        let scores: Vec<Vec<f64>> = (0..40).map(group).collect();
        let groups: Vec<(&[f64], &[f64])> = scores.iter().map(|s| s.split_at(1)).collect();
        assert_eq!(scores.len() * 4, EXACT_ALIGNED_RANK);
        let exact = aligned_rank_p(&groups).unwrap();
        let aligned = scores.iter().flat_map(|s| {
            let mean = s.iter().sum::<f64>() / 4.0;
            s.iter().map(move |x| x - mean)
        });
        let ranks = doubled_ranks(&aligned.collect::<Vec<_>>());
        let ranked: Vec<(usize, &[usize])> = ranks.chunks(4).map(|ranks| (1, ranks)).collect();
        let observed = ranked.iter().map(|(_, ranks)| ranks[0]).sum();
        close(normal_aligned_rank(&ranked, observed), exact, 2e-3);
    }

    #[test]
    fn aligned_rank_p_is_the_sign_test_for_equal_pairs() {
        let (one, minus) = ([1.0], [-1.0]);
        let pairs = |right: usize, total: usize| -> Vec<(&[f64], &[f64])> {
            let pair = |i| match i < right {
                true => (one.as_slice(), minus.as_slice()),
                false => (minus.as_slice(), one.as_slice()),
            };
            (0..total).map(pair).collect()
        };
        let p = aligned_rank_p(&pairs(26, 40)).unwrap();
        close(p, binomial_upper_tail(26, 40, 0.5), 1e-12);
    }

    #[test]
    fn aligned_rank_p_of_one_group_is_the_rank_sum_test_by_enumeration() {
        let scores = [0.3, 1.2, 1.2, 0.7, 2.0, 0.7, -0.4, 0.9];
        let observed = auc(&scores[..3], &scores[3..]).unwrap();
        let (mut as_high, mut all) = (0, 0);
        for mask in 0u32..256 {
            if mask.count_ones() != 3 {
                continue;
            }
            let side = |bit: u32| -> Vec<f64> {
                (0..8)
                    .filter(|i| (mask >> i & 1) == bit)
                    .map(|i| scores[i])
                    .collect()
            };
            all += 1;
            as_high += usize::from(auc(&side(1), &side(0)).unwrap() >= observed - 1e-12);
        }
        let p = aligned_rank_p(&[scores.split_at(3)]).unwrap();
        close(p, as_high as f64 / f64::from(all), 1e-12);
    }

    #[test]
    fn median_takes_the_middle_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn normal_tail_agrees_with_tables() {
        close(normal_upper_tail(1.644_853_626_951), 0.05, 2e-7);
        close(normal_upper_tail(-1.959_963_984_540), 0.975, 2e-7);
        close(normal_upper_tail(0.0), 0.5, 2e-7);
    }

    #[test]
    fn a_preference_for_short_alone_is_removed_by_length_control() {
        // The shorter reply wins nine times out of ten, on either side; the adapter's is shorter three times out of four.
        let compared: Vec<Compared> = (0..200)
            .map(|i| {
                let shorter = i % 4 != 0;
                let length_difference = if shorter { -60.0 } else { 60.0 };
                let win = if (i / 4) % 10 == 0 { !shorter } else { shorter };
                Compared {
                    outcome: f64::from(win),
                    length_difference,
                }
            })
            .collect();
        let raw = compared.iter().map(|c| c.outcome).sum::<f64>() / 200.0;
        let controlled = length_controlled_win_rate(&compared, LENGTH_RIDGE).unwrap();
        close(raw, 0.7, 1e-12);
        // 0.5 without the ridge; observed 0.5026.
        close(controlled.win_rate, 0.5, 0.01);
        assert!(controlled.gamma < -2.0, "{controlled:?}");
    }

    #[test]
    fn length_control_leaves_a_win_rate_alone_that_length_does_not_explain() {
        let compared: Vec<Compared> = (0..100)
            .map(|i| Compared {
                outcome: f64::from(i % 10 < 7),
                length_difference: if (i / 10) % 2 == 0 { 30.0 } else { -30.0 },
            })
            .collect();
        let controlled = length_controlled_win_rate(&compared, LENGTH_RIDGE).unwrap();
        close(controlled.win_rate, 0.7, 1e-4);
        close(controlled.gamma, 0.0, 1e-6);
    }

    #[test]
    fn length_control_meets_its_first_order_conditions() {
        let compared: Vec<Compared> = (0..60)
            .map(|i| Compared {
                outcome: [1.0, 0.0, 1.0, 0.5, 1.0][i % 5],
                length_difference: (i as f64 * 37.0) % 113.0 - 70.0,
            })
            .collect();
        let fit = length_controlled_win_rate(&compared, 0.5).unwrap();
        let sd = standard_deviation(compared.iter().map(|c| c.length_difference));
        let (mut g0, mut g1) = (-INTERCEPT_RIDGE * fit.theta, -0.5 * fit.gamma);
        for c in &compared {
            let x = (c.length_difference / sd).tanh();
            let residual = c.outcome - sigmoid(fit.theta + fit.gamma * x);
            g0 += residual;
            g1 += residual * x;
        }
        close(g0, 0.0, 1e-8);
        close(g1, 0.0, 1e-8);
    }

    #[test]
    fn a_record_of_wins_only_has_a_finite_length_controlled_rate() {
        let wins = [Compared {
            outcome: 1.0,
            length_difference: -50.0,
        }; 30];
        let controlled = length_controlled_win_rate(&wins, LENGTH_RIDGE).unwrap();
        assert!(
            controlled.win_rate > 0.99 && controlled.theta.is_finite(),
            "{controlled:?}"
        );
        assert_eq!(length_controlled_win_rate(&[], LENGTH_RIDGE), None);
    }
}
