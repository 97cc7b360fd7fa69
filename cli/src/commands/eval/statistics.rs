//! Averages over prompts and training seeds, with intervals.

use serde::{Deserialize, Serialize};
use thumbprint_simulated_user::Random;

/// Resamplings behind an interval.
const RESAMPLINGS: usize = 4000;
/// Two-sided.
const LEVEL: f64 = 0.95;

/// A value for each training seed and prompt: `[seeds][prompts]`.
pub type Table = Vec<Vec<f64>>;

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// The mean of a table, with the percentile interval of a two-way bootstrap: seeds and prompts are drawn with replacement, each by
/// itself, so that what a prompt has in common under all seeds and a seed for all prompts is drawn whole (Owen 2007, the
/// "pigeonhole" bootstrap). Of one seed it is the bootstrap over prompts. `None` for a table without values.
pub fn estimate(table: &Table) -> Option<Estimate> {
    estimate_over(std::slice::from_ref(table))
}

/// The mean over several tables' means. The tables are of the same prompts, which are drawn once for all; seeds are drawn table by
/// table. Tables themselves are not drawn: they are the users there are.
pub fn estimate_over(tables: &[Table]) -> Option<Estimate> {
    let n_prompts = tables.first()?.first()?.len();
    let whole = |table: &Table| !table.is_empty() && table.iter().all(|row| row.len() == n_prompts);
    if n_prompts == 0 || !tables.iter().all(whole) {
        return None;
    }
    let mut random = Random::new(0x7075_6d62);
    let mut means: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let prompts: Vec<usize> = (0..n_prompts).map(|_| random.below(n_prompts)).collect();
            let of_table = |table: &Table| {
                let rows = (0..table.len()).map(|_| &table[random.below(table.len())]);
                let rows = rows.map(|row| mean(prompts.iter().map(|p| row[*p])));
                mean(rows)
            };
            mean(tables.iter().map(of_table))
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - LEVEL) / 2.0;
    Some(Estimate {
        mean: mean(
            tables
                .iter()
                .map(|table| mean(table.iter().flatten().copied())),
        ),
        low: quantile(&means, tail),
        high: quantile(&means, 1.0 - tail),
    })
}

/// The mean; NaN over nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, n) = values
        .into_iter()
        .fold((0.0, 0_usize), |(sum, n), value| (sum + value, n + 1));
    sum / n as f64
}

/// Between two values in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (lower, upper) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    lower + at.fract() * (upper - lower)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Every way to draw rows and columns of a small table, each as likely: the distribution that resampling estimates.
    fn every_drawing(table: &Table) -> Vec<f64> {
        let (n, m) = (table.len(), table[0].len());
        let draws = |k: usize| -> Vec<Vec<usize>> {
            (0..k.pow(k as u32))
                .map(|code| (0..k).map(|place| code / k.pow(place as u32) % k).collect())
                .collect()
        };
        let mut means = Vec::new();
        for rows in draws(n) {
            for columns in draws(m) {
                let values = rows
                    .iter()
                    .flat_map(|r| columns.iter().map(|c| table[*r][*c]));
                means.push(mean(values));
            }
        }
        means.sort_by(f64::total_cmp);
        means
    }

    #[test]
    fn intervals_agree_with_drawing_rows_and_columns_in_every_way() {
        let table: Table = vec![
            vec![0.9, 0.1, 0.4, 0.75, 0.3],
            vec![0.7, 0.0, 0.9, 0.35, 0.6],
            vec![0.2, 0.5, 0.1, 0.05, 0.8],
        ];
        let found = estimate(&table).unwrap();
        let all = every_drawing(&table);
        assert_eq!(all.len(), 27 * 3125);
        let naive = (quantile(&all, 0.025), quantile(&all, 0.975));
        // Observed 0.004 and 0.001.
        assert!((found.low - naive.0).abs() < 0.012, "{found:?} {naive:?}");
        assert!((found.high - naive.1).abs() < 0.012, "{found:?} {naive:?}");
        assert!((found.mean - mean(table.into_iter().flatten())).abs() < 1e-12);
    }

    #[test]
    fn of_one_seed_it_is_the_bootstrap_over_prompts_and_near_the_normal_interval() {
        let row: Vec<f64> = (0..180).map(|i| f64::from(u8::from(i % 10 < 7))).collect();
        let found = estimate(&vec![row]).unwrap();
        let half = 1.96 * (0.7_f64 * 0.3 / 180.0).sqrt();
        assert!((found.mean - 0.7).abs() < 1e-12);
        // What about 180 prompts are said to show: a lower bound over 60 % at 70 %.
        assert!(found.low > 0.6, "{found:?}");
        assert!((found.mean - found.low - half).abs() < 0.012, "{found:?}");
        assert!((found.high - found.mean - half).abs() < 0.012, "{found:?}");
    }

    #[test]
    fn what_differs_from_seed_to_seed_widens_the_interval_however_many_prompts_there_are() {
        let narrow: Table = vec![vec![0.5; 200]; 5];
        let wide: Table = (0..5)
            .map(|s| vec![0.3 + 0.1 * f64::from(s); 200])
            .collect();
        let narrow = estimate(&narrow).unwrap();
        assert!(narrow.high - narrow.low < 1e-12);
        let wide = estimate(&wide).unwrap();
        // The standard error of a mean of five with a standard deviation of 0.141 is 0.063.
        assert!(
            (wide.high - wide.low - 2.0 * 1.96 * 0.0632).abs() < 0.03,
            "{wide:?}"
        );
    }

    #[test]
    fn over_users_prompts_are_drawn_together() {
        // What one user gains on a prompt the other loses: no doubt about the mean of the two.
        let one: Table = vec![(0..50).map(|i| f64::from(i % 2)).collect()];
        let other: Table = vec![one[0].iter().map(|v| 1.0 - v).collect()];
        let both = estimate_over(&[one, other]).unwrap();
        assert!((both.low - 0.5).abs() < 1e-12 && (both.high - 0.5).abs() < 1e-12);
    }

    #[test]
    fn nothing_has_no_estimate() {
        assert_eq!(estimate(&vec![]), None);
        assert_eq!(estimate(&vec![vec![]]), None);
        assert_eq!(estimate(&vec![vec![1.0], vec![]]), None);
        assert_eq!(estimate_over(&[]), None);
    }
}
