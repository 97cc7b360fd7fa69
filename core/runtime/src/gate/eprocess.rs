//! The online tier: blind votes of adapter against base, through an e-process.
//!
//! A fixed test repeated every night on a growing log promotes falsely 15 to 19 % of the time in 30 nights. An e-process
//! may be looked at after every vote: under "the adapter is no better than a coin" its expected value never exceeds 1, so
//! by Ville's inequality it ever reaches t with probability at most 1/t.

use serde::{Deserialize, Serialize};

use super::measurements::null_is_nan;
use super::state::AdapterState;

/// Probability, over every candidate ever tested, that one no better than the base is ever promoted: at most this.
pub const FAMILY_ALPHA: f64 = 0.05;
/// No promotion before this many votes, ties included.
pub const MIN_VOTES_TO_PROMOTE: usize = 20;
/// The mirrored process rolls an adapter back here: a good one falls to it with probability at most 1/10.
pub const ROLL_BACK_AT: f64 = 10.0;
/// Votes after which an undecided trial may be replaced by a newer candidate.
pub const TRIAL_VOTES: usize = 20;
/// Days after which an undecided trial may be replaced by a newer candidate.
pub const TRIAL_DAYS: f64 = 14.0;
/// Share of prompts that are answered twice for a blind vote, by default.
pub const BLIND_SHARE: f64 = 0.1;

/// The bets that the process averages over: small ones find small effects, large ones find large effects fast.
const LAMBDAS: [f64; 4] = [0.1, 0.2, 0.4, 0.6];

/// One blind comparison, from the adapter's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// The adapter's reply was preferred: s = +1.
    Win,
    /// The base's reply was preferred: s = -1.
    Loss,
    /// Neither: s = 0.
    Tie,
}

/// The e-process `E = mean over lambda of prod(1 + lambda s)`. The order of votes does not matter to its value, so it is
/// held as counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EProcess {
    /// Votes for the adapter.
    pub wins: usize,
    /// Votes for the base.
    pub losses: usize,
    /// Votes for neither.
    pub ties: usize,
}

impl EProcess {
    /// Takes one more vote.
    pub fn push(&mut self, vote: Vote) {
        match vote {
            Vote::Win => self.wins += 1,
            Vote::Loss => self.losses += 1,
            Vote::Tie => self.ties += 1,
        }
    }

    /// Votes so far, ties included.
    pub fn votes(&self) -> usize {
        self.wins + self.losses + self.ties
    }

    /// Evidence that the adapter is better than a coin; 1 at the start.
    pub fn value(&self) -> f64 {
        evidence(self.wins, self.losses)
    }

    /// The same with every vote negated: evidence that the adapter is worse than a coin.
    pub fn mirror(&self) -> f64 {
        evidence(self.losses, self.wins)
    }
}

/// The value of [`EProcess`] at which the `k`-th candidate ever tested (from 1) is promoted: `20 k (k + 1)`.
///
/// The reciprocals sum to 1/20 over all k, so that the chance of ever promoting an adapter that is no better than the
/// base is at most 5 % over the whole life of the app, not per candidate.
///
/// | exact, at most 100 votes | false promotion | power at a true 0.7, by 20 / 50 / 100 votes |
/// |---|---|---|
/// | threshold 20, no minimum of votes | 2.46 % | 27.0 / 67.4 / 93.9 % |
/// | threshold 20, at least 20 votes | 2.12 % | 23.8 / 66.8 / 93.8 % |
/// | **threshold 40 (k = 1), at least 20 votes: what this code does** | 1.01 % | 10.7 / 56.2 / 89.9 % |
///
/// The first row is what the plain test of one candidate at 5 % costs, often quoted for it; the product pays for its
/// family-wise guarantee with about ten more votes. False rollback by the mirror alone at 10 is 4.74 % by 50 votes for an
/// adapter that is exactly a coin, 0.5 % for one that wins 60 %.
pub fn promotion_threshold(k: usize) -> f64 {
    let k = k.max(1) as f64;
    k * (k + 1.0) / FAMILY_ALPHA
}

/// Whether a newer candidate may take the place of an undecided trial. Until then the trial is frozen: its weights and
/// scale do not change, because the votes are about *it*. Afterwards it stays on trial, and votes still decide, until a
/// newer candidate passes the offline tier or the person rolls it back.
pub fn trial_may_be_replaced(votes: usize, days: f64) -> bool {
    votes >= TRIAL_VOTES || days >= TRIAL_DAYS
}

/// What the votes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Nothing changes.
    Stay,
    /// The adapter on trial is confirmed.
    Promote,
    /// Back to what was active before.
    RollBack,
}

/// A decision with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The decision.
    pub decision: Decision,
    /// The votes it rests on: all that were given, or those up to the deciding one.
    pub votes: EProcess,
    /// Evidence for the adapter.
    #[serde(with = "null_is_nan")]
    pub evidence: f64,
    /// Evidence against it.
    #[serde(with = "null_is_nan")]
    pub evidence_against: f64,
    /// `evidence` at which it is promoted.
    pub promote_at: f64,
    /// `evidence_against` at which it is rolled back.
    pub roll_back_at: f64,
    /// Whether a newer candidate may take its place now ([`trial_may_be_replaced`]).
    pub replaceable: bool,
}

/// Decides over the votes on an adapter, in the order they were cast.
///
/// - On trial: `votes` are those since the trial began. It is promoted or rolled back at the first vote at which its mark
///   is met; later votes cannot undo that, so the decision does not depend on how often this is called.
/// - Promoted: `votes` are those since the promotion, and only the mirror is watched, from a fresh start.
/// - Any other state has nothing to decide: `Stay`.
///
/// `k` counts the candidates ever put to a vote, this one included, from 1. `days` is the time since the trial began.
pub fn decide(state: AdapterState, votes: &[Vote], k: usize, days: f64) -> Verdict {
    let promote_at = promotion_threshold(k);
    let mut process = EProcess::default();
    let mut decision = Decision::Stay;
    for vote in votes {
        process.push(*vote);
        decision = step(state, &process, promote_at);
        if decision != Decision::Stay {
            break;
        }
    }
    let undecided_trial = state == AdapterState::Trial && decision == Decision::Stay;
    Verdict {
        decision,
        votes: process,
        evidence: process.value(),
        evidence_against: process.mirror(),
        promote_at,
        roll_back_at: ROLL_BACK_AT,
        replaceable: undecided_trial && trial_may_be_replaced(process.votes(), days),
    }
}

/// How likely a trial has ended each way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fate {
    /// Promoted.
    pub promoted: f64,
    /// Rolled back.
    pub rolled_back: f64,
}

/// The fate of the `k`-th candidate ever tested within its first `votes` votes, each won with probability `win`, lost with `loss`
/// and else a tie: exact, by following the distribution of wins and losses among the undecided.
pub fn fate(win: f64, loss: f64, votes: usize, k: usize) -> Fate {
    let promote_at = promotion_threshold(k);
    let tie = (1.0 - win - loss).max(0.0);
    let mut fate = Fate {
        promoted: 0.0,
        rolled_back: 0.0,
    };
    // Indexed by wins, then by losses.
    let mut undecided = vec![vec![1.0_f64]];
    for cast in 1..=votes {
        let mut next = vec![vec![0.0_f64; cast + 1]; cast + 1];
        for (wins, row) in undecided.iter().enumerate() {
            for (losses, probability) in row.iter().enumerate().filter(|(_, p)| **p > 0.0) {
                next[wins + 1][losses] += probability * win;
                next[wins][losses + 1] += probability * loss;
                next[wins][losses] += probability * tie;
            }
        }
        for (wins, row) in next.iter_mut().enumerate() {
            for (losses, probability) in row.iter_mut().enumerate().filter(|(_, p)| **p > 0.0) {
                let process = EProcess {
                    wins,
                    losses,
                    ties: cast - wins - losses,
                };
                match step(AdapterState::Trial, &process, promote_at) {
                    Decision::Stay => continue,
                    Decision::Promote => fate.promoted += *probability,
                    Decision::RollBack => fate.rolled_back += *probability,
                }
                *probability = 0.0;
            }
        }
        undecided = next;
    }
    fate
}

impl Verdict {
    /// The decision in plain sentences.
    pub fn explain(&self) -> String {
        let EProcess { wins, losses, ties } = self.votes;
        let record = format!(
            "In {} blind comparisons the adapted model won {wins}, lost {losses} and tied {ties}",
            self.votes.votes()
        );
        match self.decision {
            Decision::Promote => format!(
                "{record}. The evidence for it ({:.1}) reached {:.0}, so it is promoted.",
                self.evidence, self.promote_at
            ),
            Decision::RollBack => format!(
                "{record}. The evidence against it ({:.1}) reached {:.0}, so it is rolled back.",
                self.evidence_against, self.roll_back_at
            ),
            Decision::Stay if self.replaceable => format!(
                "{record}: undecided (evidence {:.1} of {:.0}). It stays, and a newer adapter may take its place.",
                self.evidence, self.promote_at
            ),
            Decision::Stay => format!(
                "{record}: nothing changes (evidence for it {:.1} of {:.0}, against it {:.1} of {:.0}).",
                self.evidence, self.promote_at, self.evidence_against, self.roll_back_at
            ),
        }
    }
}

fn step(state: AdapterState, process: &EProcess, promote_at: f64) -> Decision {
    let watched = matches!(state, AdapterState::Trial | AdapterState::Promoted);
    if watched && process.mirror() >= ROLL_BACK_AT {
        return Decision::RollBack;
    }
    let enough = process.votes() >= MIN_VOTES_TO_PROMOTE;
    match state == AdapterState::Trial && enough && process.value() >= promote_at {
        true => Decision::Promote,
        false => Decision::Stay,
    }
}

fn evidence(wins: usize, losses: usize) -> f64 {
    let bets = LAMBDAS
        .map(|lambda| (wins as f64 * lambda.ln_1p() + losses as f64 * (-lambda).ln_1p()).exp());
    (bets.iter().sum::<f64>() / bets.len() as f64).min(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    use AdapterState::{Promoted, Trial};
    use Vote::{Loss, Tie, Win};

    /// Probabilities of having been promoted and rolled back after 0, 1, .. `votes` votes without ties, each won with
    /// probability `p`: exact, by following the distribution of the number of wins among the undecided.
    fn exact(p: f64, votes: usize, stop: impl Fn(&EProcess) -> Decision) -> Vec<(f64, f64)> {
        let mut undecided = vec![1.0];
        let (mut promoted, mut rolled_back) = (0.0, 0.0);
        let mut history = vec![(0.0, 0.0)];
        for cast in 1..=votes {
            let mut next = vec![0.0; cast + 1];
            for (wins, probability) in undecided.iter().enumerate() {
                next[wins + 1] += probability * p;
                next[wins] += probability * (1.0 - p);
            }
            for (wins, probability) in next.iter_mut().enumerate() {
                match stop(&EProcess {
                    wins,
                    losses: cast - wins,
                    ties: 0,
                }) {
                    Decision::Stay => continue,
                    Decision::Promote => promoted += *probability,
                    Decision::RollBack => rolled_back += *probability,
                }
                *probability = 0.0;
            }
            undecided = next;
            history.push((promoted, rolled_back));
        }
        history
    }

    fn close(value: f64, expected: f64) {
        assert!(
            (value - expected).abs() < 5e-5,
            "{value:.5} is not {expected:.5}"
        );
    }

    fn at_twenty(process: &EProcess) -> Decision {
        if process.value() >= 20.0 {
            Decision::Promote
        } else {
            Decision::Stay
        }
    }

    fn mirror_alone(process: &EProcess) -> Decision {
        if process.mirror() >= ROLL_BACK_AT {
            Decision::RollBack
        } else {
            Decision::Stay
        }
    }

    #[test]
    fn a_plain_threshold_of_twenty_has_the_figures_quoted_for_one_candidate() {
        close(exact(0.5, 100, at_twenty)[100].0, 0.02465);
        let power = exact(0.7, 100, at_twenty);
        close(power[20].0, 0.27000);
        close(power[50].0, 0.67410);
        close(power[100].0, 0.93880);
        assert!(exact(0.5, 1000, at_twenty)[1000].0 < 0.05);
    }

    #[test]
    fn the_first_candidate_is_promoted_falsely_one_time_in_a_hundred() {
        let rule = |process: &EProcess| step(Trial, process, promotion_threshold(1));
        close(exact(0.5, 100, rule)[100].0, 0.01014);
        let power = exact(0.7, 100, rule);
        close(power[20].0, 0.10709);
        close(power[50].0, 0.56243);
        close(power[100].0, 0.89900);
        let at_least_twenty_votes = |process: &EProcess| step(Trial, process, 20.0);
        let power = exact(0.7, 100, at_least_twenty_votes);
        close(power[20].0, 0.23751);
        close(exact(0.5, 100, at_least_twenty_votes)[100].0, 0.02124);
    }

    #[test]
    fn a_coin_is_rolled_back_one_time_in_twenty_and_a_good_adapter_hardly_ever() {
        close(exact(0.5, 50, mirror_alone)[50].1, 0.04742);
        close(exact(0.6, 100, mirror_alone)[100].1, 0.00495);
        close(exact(0.7, 100, mirror_alone)[100].1, 0.00039);
        let bad = exact(0.3, 50, mirror_alone)[50].1;
        assert!(
            bad > 0.7,
            "an adapter that loses 70 % is rolled back: {bad}"
        );
    }

    #[test]
    fn the_dynamic_programme_equals_enumerating_every_sequence_through_decide() {
        const VOTES: usize = 22;
        let p: f64 = 0.8;
        let (mut promoted, mut rolled_back) = (0.0, 0.0);
        let mut frontier = vec![(Vec::with_capacity(VOTES), 1.0)];
        // Depth first, cut at a decision; runs of wins first would be 4 million leaves, so start from a common prefix.
        let prefix = [Win; 12];
        frontier[0].0.extend(prefix);
        while let Some((votes, probability)) = frontier.pop() {
            match decide(Trial, &votes, 1, 0.0).decision {
                Decision::Promote => promoted += probability,
                Decision::RollBack => rolled_back += probability,
                Decision::Stay if votes.len() < VOTES => {
                    for (vote, chance) in [(Win, p), (Loss, 1.0 - p)] {
                        let mut longer = votes.clone();
                        longer.push(vote);
                        frontier.push((longer, probability * chance));
                    }
                }
                Decision::Stay => {}
            }
        }
        let rule = |process: &EProcess| {
            let shifted = EProcess {
                wins: process.wins + prefix.len(),
                ..*process
            };
            step(Trial, &shifted, promotion_threshold(1))
        };
        let programme = exact(p, VOTES - prefix.len(), rule)[VOTES - prefix.len()];
        assert!(
            (promoted - programme.0).abs() < 1e-12,
            "{promoted} {programme:?}"
        );
        assert!((rolled_back - programme.1).abs() < 1e-12);
        assert!(promoted > 0.9);
    }

    #[test]
    fn a_fate_without_ties_is_that_of_the_one_dimensional_programme() {
        for (p, k) in [(0.5, 1), (0.7, 1), (0.6, 3)] {
            let rule = |process: &EProcess| step(Trial, process, promotion_threshold(k));
            let (promoted, rolled_back) = exact(p, 60, rule)[60];
            let fate = fate(p, 1.0 - p, 60, k);
            assert!((fate.promoted - promoted).abs() < 1e-12, "{fate:?}");
            assert!((fate.rolled_back - rolled_back).abs() < 1e-12, "{fate:?}");
        }
    }

    #[test]
    fn a_fate_with_ties_equals_enumerating_every_sequence_through_decide() {
        const VOTES: usize = 9;
        let chances = [(Win, 0.2), (Loss, 0.7), (Tie, 0.1)];
        let mut rolled_back = 0.0;
        let mut frontier = vec![(Vec::with_capacity(VOTES), 1.0)];
        while let Some((votes, probability)) = frontier.pop() {
            match decide(Trial, &votes, 1, 0.0).decision {
                Decision::RollBack => rolled_back += probability,
                _ if votes.len() < VOTES => {
                    for (vote, chance) in chances {
                        let mut longer = votes.clone();
                        longer.push(vote);
                        frontier.push((longer, probability * chance));
                    }
                }
                _ => {}
            }
        }
        let fate = fate(0.2, 0.7, VOTES, 1);
        assert!((fate.rolled_back - rolled_back).abs() < 1e-12);
        assert!(rolled_back > 0.05 && fate.promoted == 0.0);
        // Nothing but ties decides nothing; nothing but wins promotes at the twentieth.
        let none = super::fate(0.0, 0.0, 50, 1);
        assert_eq!((none.promoted, none.rolled_back), (0.0, 0.0));
        assert_eq!(super::fate(1.0, 0.0, 19, 1).promoted, 0.0);
        assert_eq!(super::fate(1.0, 0.0, 20, 1).promoted, 1.0);
    }

    #[test]
    fn evidence_is_a_martingale_under_a_coin() {
        for (wins, losses) in [(0, 0), (3, 1), (10, 30), (60, 20)] {
            let after = (evidence(wins + 1, losses) + evidence(wins, losses + 1)) / 2.0;
            let now = evidence(wins, losses);
            assert!(
                (after / now - 1.0).abs() < 1e-12,
                "{wins} wins, {losses} losses"
            );
        }
    }

    #[test]
    fn the_thresholds_of_all_candidates_together_spend_five_percent() {
        assert_eq!(promotion_threshold(1), 40.0);
        assert_eq!(promotion_threshold(2), 120.0);
        assert_eq!(promotion_threshold(3), 240.0);
        let spent: f64 = (1..100_000).map(|k| 1.0 / promotion_threshold(k)).sum();
        assert!(spent < FAMILY_ALPHA && spent > 0.0499, "{spent}");
    }

    #[test]
    fn nineteen_wins_are_not_enough_votes_and_twenty_are() {
        assert_eq!(decide(Trial, &[Win; 19], 1, 0.0).decision, Decision::Stay);
        let verdict = decide(Trial, &[Win; 20], 1, 0.0);
        assert_eq!(verdict.decision, Decision::Promote);
        assert!(verdict.explain().contains("won 20, lost 0 and tied 0"));
    }

    #[test]
    fn seven_straight_losses_roll_back_and_six_do_not() {
        assert_eq!(decide(Trial, &[Loss; 6], 1, 0.0).decision, Decision::Stay);
        assert_eq!(
            decide(Trial, &[Loss; 7], 1, 0.0).decision,
            Decision::RollBack
        );
    }

    #[test]
    fn a_decision_stands_whatever_is_cast_after_it() {
        let mut votes = vec![Win; 20];
        votes.extend([Loss; 80]);
        let verdict = decide(Trial, &votes, 1, 30.0);
        assert_eq!(verdict.decision, Decision::Promote);
        assert_eq!(verdict.votes.votes(), 20);
        assert!(!verdict.replaceable);
    }

    #[test]
    fn ties_count_as_votes_and_move_nothing() {
        let mut votes = vec![Win; 19];
        votes.push(Tie);
        let verdict = decide(Trial, &votes, 1, 0.0);
        assert_eq!(verdict.decision, Decision::Promote);
        assert_eq!(verdict.evidence, evidence(19, 0));
    }

    #[test]
    fn later_candidates_need_more_evidence() {
        let votes: Vec<Vote> = (0..40)
            .map(|i| if i % 4 == 0 { Loss } else { Win })
            .collect();
        assert_eq!(decide(Trial, &votes, 1, 0.0).decision, Decision::Promote);
        assert_eq!(decide(Trial, &votes, 12, 0.0).decision, Decision::Stay);
    }

    #[test]
    fn an_undecided_trial_is_frozen_for_twenty_votes_or_fourteen_days() {
        let mixed: Vec<Vote> = (0..19)
            .map(|i| if i % 2 == 0 { Loss } else { Win })
            .collect();
        assert!(!decide(Trial, &mixed, 1, 13.9).replaceable);
        assert!(decide(Trial, &mixed, 1, 14.0).replaceable);
        let twenty = [&mixed[..], &[Win]].concat();
        assert!(decide(Trial, &twenty, 1, 0.0).replaceable);
        assert_eq!(decide(Trial, &twenty, 1, 0.0).decision, Decision::Stay);
    }

    #[test]
    fn a_promoted_adapter_can_only_be_rolled_back() {
        assert_eq!(
            decide(Promoted, &[Win; 100], 1, 0.0).decision,
            Decision::Stay
        );
        assert_eq!(
            decide(Promoted, &[Loss; 7], 1, 0.0).decision,
            Decision::RollBack
        );
        for state in [
            AdapterState::Candidate,
            AdapterState::Rejected,
            AdapterState::RolledBack,
        ] {
            assert_eq!(decide(state, &[Loss; 50], 1, 0.0).decision, Decision::Stay);
        }
    }

    #[test]
    fn evidence_stays_finite_over_thousands_of_votes() {
        let process = EProcess {
            wins: 100_000,
            losses: 0,
            ties: 0,
        };
        assert!(process.value().is_finite() && process.mirror() >= 0.0);
    }
}
