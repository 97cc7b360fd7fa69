//! Bradley-Terry strengths: one number a contestant, of which the differences are log-odds of a win.

use std::collections::BTreeMap;

use serde::Serialize;
use thumbprint_tune::rng::Rng;

use super::{Contestant, Seen};
use crate::gate::logistic::{Gram, Row, logistic};
use crate::gate::stats::quantile;

/// Ridge on the strengths: weak, so that it only keeps those of a contestant that always won finite.
pub const STRENGTH_RIDGE: f64 = 0.1;
/// Resamples of the bootstrap.
pub const RESAMPLES: usize = 1000;

/// How strong a contestant is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Strength {
    /// Who.
    pub contestant: Contestant,
    /// Votes that it took part in.
    pub votes: usize,
    /// Log-odds of beating a contestant of strength 0; the strengths of all sum up to 0 (Bradley and Terry 1952; ties are half a win).
    pub strength: f64,
    /// 95 % of resamples lie in here: of prompts with all their votes, with replacement.
    pub interval: (f64, f64),
}

/// Strengths of the contestants, the strongest first.
pub(super) fn strengths(contestants: &[Contestant], seen: &[Seen], seed: u64) -> Vec<Strength> {
    let estimate = fit(contestants, seen.iter(), STRENGTH_RIDGE);
    let mut prompts: BTreeMap<[u8; 32], Vec<&Seen>> = BTreeMap::new();
    for vote in seen {
        prompts.entry(vote.prompt_key).or_default().push(vote);
    }
    let prompts: Vec<Vec<&Seen>> = prompts.into_values().collect();
    let mut rng = Rng::for_name(seed, "arena bootstrap");
    let resamples: Vec<Vec<f64>> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<&Seen> = (0..prompts.len())
                .flat_map(|_| prompts[rng.below(prompts.len() as u64) as usize].iter())
                .copied()
                .collect();
            fit(contestants, drawn.into_iter(), STRENGTH_RIDGE)
        })
        .collect();
    let mut strengths: Vec<Strength> = contestants
        .iter()
        .enumerate()
        .map(|(at, contestant)| {
            let drawn: Vec<f64> = resamples.iter().map(|fit| fit[at]).collect();
            let end = |share| quantile(&drawn, share).unwrap_or(f64::NAN);
            let took_part = |vote: &&Seen| [vote.left, vote.right].contains(contestant);
            Strength {
                contestant: *contestant,
                votes: seen.iter().filter(took_part).count(),
                strength: estimate[at],
                interval: (end(0.025), end(0.975)),
            }
        })
        .collect();
    strengths
        .sort_by(|a, b| (b.strength.total_cmp(&a.strength)).then(a.contestant.cmp(&b.contestant)));
    strengths
}

/// Maximises `sum log P(votes) - ridge / 2 * sum strength^2`: a logistic regression on who was on which side.
fn fit<'a>(
    contestants: &[Contestant],
    votes: impl Iterator<Item = &'a Seen>,
    ridge: f64,
) -> Vec<f64> {
    // Votes on the same two make one row, since the loss is linear in the target.
    let mut met: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
    let place = |who: Contestant| contestants.iter().position(|c| *c == who);
    for vote in votes {
        let (Some(left), Some(right)) = (place(vote.left), place(vote.right)) else {
            continue;
        };
        let (key, points) = match left < right {
            true => ((left, right), vote.outcome()),
            false => ((right, left), 1.0 - vote.outcome()),
        };
        let (won, n) = met.entry(key).or_default();
        *won += points;
        *n += 1.0;
    }
    let rows: Vec<Row> = met
        .into_iter()
        .map(|((a, b), (won, n))| {
            let mut features = vec![0.0; contestants.len()];
            (features[a], features[b]) = (1.0, -1.0);
            Row {
                features,
                target: won / n,
                weight: n,
            }
        })
        .collect();
    if rows.is_empty() {
        return vec![0.0; contestants.len()];
    }
    let all: Vec<usize> = (0..rows.len()).collect();
    logistic(&rows, &Gram::new(&rows), &all, ridge)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::results::tests::{adapter, seen};
    use super::super::{Choice, results};
    use super::*;

    /// Wins of the first over the second, and the other way round.
    fn record(a: Contestant, b: Contestant, wins: usize, losses: usize) -> Vec<Seen> {
        let votes = (0..wins + losses).map(|i| {
            let choice = if i < wins {
                Choice::Left
            } else {
                Choice::Right
            };
            let prompt = (i * 37 % 200) as u8;
            match i % 2 == 0 {
                true => seen(a, b, choice, prompt),
                false => {
                    let mirrored = if choice == Choice::Left {
                        Choice::Right
                    } else {
                        Choice::Left
                    };
                    seen(b, a, mirrored, prompt)
                }
            }
        });
        votes.collect()
    }

    /// Hunter 2004 (The Annals of Statistics 32, 1), equation 3: the plain iteration, without a ridge.
    fn naive(wins: &[Vec<f64>]) -> Vec<f64> {
        let n = wins.len();
        let mut p = vec![1.0; n];
        for _ in 0..20_000 {
            let next: Vec<f64> = (0..n)
                .map(|i| {
                    let won: f64 = wins[i].iter().sum();
                    let met: f64 = (0..n)
                        .filter(|j| *j != i)
                        .map(|j| (wins[i][j] + wins[j][i]) / (p[i] + p[j]))
                        .sum();
                    won / met
                })
                .collect();
            let log_mean = next.iter().map(|p| p.ln()).sum::<f64>() / n as f64;
            p = next.iter().map(|p| p / log_mean.exp()).collect();
        }
        p.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn strengths_are_those_of_the_plain_iteration() {
        let contestants = [Contestant::Base, adapter(1), adapter(2), adapter(3)];
        let wins = [
            vec![0.0, 3.0, 4.0, 1.0],
            vec![7.0, 0.0, 5.0, 2.0],
            vec![6.0, 5.0, 0.0, 4.0],
            vec![9.0, 8.0, 6.0, 0.0],
        ];
        let mut votes = Vec::new();
        for i in 0..4 {
            for j in 0..i {
                let (won, lost) = (wins[i][j] as usize, wins[j][i] as usize);
                votes.extend(record(contestants[i], contestants[j], won, lost));
            }
        }
        let fitted = fit(&contestants, votes.iter(), 1e-9);
        for (fitted, naive) in fitted.iter().zip(naive(&wins)) {
            assert!((fitted - naive).abs() < 1e-6, "{fitted} {naive}");
        }
        assert!(fitted.iter().sum::<f64>().abs() < 1e-6);
    }

    #[test]
    fn the_strongest_is_first_and_intervals_hold_the_estimate_and_repeat() {
        let votes = [
            record(adapter(1), Contestant::Base, 30, 10),
            record(adapter(2), Contestant::Base, 20, 20),
            record(adapter(2), adapter(1), 12, 28),
        ]
        .concat();
        let found = results(&votes, 4);
        let order: Vec<Contestant> = found.strengths.iter().map(|s| s.contestant).collect();
        assert_eq!(order[0], adapter(1));
        for strength in &found.strengths {
            let (low, high) = strength.interval;
            assert!(
                low < strength.strength && strength.strength < high,
                "{strength:?}"
            );
            assert_eq!(strength.votes, 80);
        }
        // 75 % of votes over the base: log-odds of 1.1 between them, give or take.
        let of = |who| {
            found
                .strengths
                .iter()
                .find(|s| s.contestant == who)
                .unwrap()
                .strength
        };
        let between = of(adapter(1)) - of(Contestant::Base);
        assert!((between - 3f64.ln()).abs() < 0.25, "{between}");
        assert_eq!(results(&votes, 4), found);
        assert_ne!(
            results(&votes, 5).strengths[0].interval,
            found.strengths[0].interval
        );
    }

    #[test]
    fn a_contestant_that_never_lost_has_a_finite_strength() {
        let votes = [
            record(adapter(1), Contestant::Base, 6, 0),
            record(adapter(1), adapter(2), 6, 0),
        ]
        .concat();
        let found = results(&votes, 0);
        assert!(found.strengths.iter().all(|s| s.strength.is_finite()));
        assert_eq!(found.strengths[0].contestant, adapter(1));
        let beaten = found.strengths[1].strength - found.strengths[2].strength;
        assert!(beaten.abs() < 1e-9, "{beaten}");
    }

    #[test]
    fn votes_on_few_prompts_leave_wide_intervals() {
        let wide = |prompts: u8| {
            let mut votes = [
                record(adapter(1), Contestant::Base, 26, 14),
                record(adapter(2), adapter(1), 20, 20),
            ]
            .concat();
            for (i, vote) in votes.iter_mut().enumerate() {
                vote.prompt_key = [(i * 7 % 40) as u8 % prompts; 32];
            }
            let (low, high) = results(&votes, 1).strengths[0].interval;
            high - low
        };
        assert!(wide(2) != wide(40));
        assert!(wide(40) > 0.2);
    }
}
