//! What the figures say about the goals that were set before any of them was measured.

use serde::{Deserialize, Serialize};
use thumbprint::gate::stats::binomial_upper_tail;

use super::learning::NOTHING;
use super::plan::{DEFAULT, SHUFFLED};
use super::results::{ALL, Average, Results, Row, UserFacts, VOTES};

/// Seeds and prompts that goals are stated for.
const SEEDS: usize = 5;
const PROMPTS: usize = 200;
/// How often the best of sixteen replies must please somebody who gives thumbs alone.
pub const HEADROOM: f64 = 0.8;
/// Arms that the default has to beat.
pub const RIVALS: [&str; 3] = ["sft", "stop_early", "system_prompt"];

/// How a goal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Met,
    NotMet,
    NotMeasured,
}

/// A goal with what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub goal: String,
    pub standing: Standing,
    /// The figures that it rests on.
    pub found: String,
    /// What makes it less than the goal asks for, if anything does.
    pub caveat: Option<String>,
}

/// Judges every goal.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let mut verdicts = vec![
        win_rates(results, 50, 0.75, 0.65),
        win_rates(results, 20, 0.65, 0.55),
        best_user(results, 200, 0.85),
    ];
    verdicts.extend(RIVALS.map(|arm| rival(results, arm, 50)));
    verdicts.extend([guards(results), keywords(results), shuffled_trials(results)]);
    verdicts.push(shuffled_promotions(results));
    verdicts
}

fn of(results: &Results, n: usize) -> Vec<&Average> {
    let averages = results.averages.iter();
    averages.filter(|a| a.arm == DEFAULT && a.n == n).collect()
}

fn caveat(results: &Results, averages: &[&Average]) -> Option<String> {
    let seeds = averages.iter().map(|a| a.seeds).min()?;
    let prompts = averages.iter().map(|a| a.prompts).min()?;
    let mut less = Vec::new();
    if seeds < SEEDS {
        less.push(format!("{seeds} of {SEEDS} seeds"));
    }
    if prompts < PROMPTS {
        less.push(format!("{prompts} of {PROMPTS} prompts"));
    }
    if averages.len() < 4 {
        less.push(format!("{} of 4 users", averages.len()));
    }
    let among = |user: &&UserFacts| averages.iter().any(|a| a.user == user.name);
    let thin = results.users.iter().filter(among).filter_map(|user| {
        let share = user.thin_headroom()?;
        Some(format!(
            "the base shows the taste of {} too rarely for thumbs alone ({} where {} are asked for)",
            user.name,
            percent(share),
            percent(HEADROOM)
        ))
    });
    let less = (!less.is_empty()).then(|| format!("on {}", less.join(", ")));
    let caveats: Vec<String> = less.into_iter().chain(thin).collect();
    (!caveats.is_empty()).then(|| caveats.join("; "))
}

fn win_rates(results: &Results, n: usize, least: f64, least_low: f64) -> Verdict {
    let averages = of(results, n);
    let meets = |a: &&&Average| a.win_rate.mean >= least && a.win_rate.low > least_low;
    let met = averages.iter().filter(meets).count();
    // Three of four, or as large a share of those that there are.
    let wanted = (3 * averages.len()).div_ceil(4).max(1);
    let figures = averages.iter().map(|a| {
        let e = a.win_rate;
        format!(
            "{} {} [{}, {}]",
            a.user,
            percent(e.mean),
            number(e.low),
            number(e.high)
        )
    });
    Verdict {
        goal: format!(
            "n = {n}: a win rate over the base of at least {}, lower bound above {}, for three of four users",
            percent(least),
            percent(least_low)
        ),
        standing: standing(!averages.is_empty(), met >= wanted),
        found: format!("{met} of {}: {}", averages.len(), list(figures)),
        caveat: caveat(results, &averages),
    }
}

fn best_user(results: &Results, n: usize, least: f64) -> Verdict {
    let averages = of(results, n);
    let best = averages
        .iter()
        .max_by(|a, b| a.win_rate.mean.total_cmp(&b.win_rate.mean));
    Verdict {
        goal: format!(
            "n = {n}: a win rate of at least {} for the best user",
            percent(least)
        ),
        standing: standing(
            best.is_some(),
            best.is_some_and(|a| a.win_rate.mean >= least),
        ),
        found: best.map_or_else(nothing, |a| {
            let e = a.win_rate;
            format!(
                "{} {} [{}, {}]",
                a.user,
                percent(e.mean),
                number(e.low),
                number(e.high)
            )
        }),
        caveat: caveat(results, &averages),
    }
}

fn rival(results: &Results, arm: &str, n: usize) -> Verdict {
    let comparisons: Vec<_> = results
        .comparisons
        .iter()
        .filter(|c| c.arm == arm && c.n == n)
        .collect();
    let together = comparisons.iter().find(|c| c.user == ALL);
    let decisive = together.or(comparisons.first());
    let losing: Vec<&str> = comparisons
        .iter()
        .filter(|c| c.user != ALL && c.difference.high < 0.0)
        .map(|c| c.user.as_str())
        .collect();
    let figures = comparisons.iter().map(|c| {
        let e = c.difference;
        format!("{} {:+.2} [{:+.2}, {:+.2}]", c.user, e.mean, e.low, e.high)
    });
    let mut found = list(figures);
    if !losing.is_empty() {
        found = format!("{found}. It loses to it for {}", losing.join(", "));
    }
    let users = comparisons.iter().filter(|c| c.user != ALL).count();
    let seeds = comparisons.iter().map(|c| c.seeds).min().unwrap_or(0);
    Verdict {
        goal: format!(
            "n = {n}: better than `{arm}` by paired utility difference, its interval above 0"
        ),
        standing: standing(
            decisive.is_some(),
            decisive.is_some_and(|c| c.difference.low > 0.0),
        ),
        found,
        caveat: (decisive.is_some() && (users < 4 || seeds < SEEDS))
            .then(|| format!("on {users} of 4 users and {seeds} of {SEEDS} seeds")),
    }
}

fn guards(results: &Results) -> Verdict {
    // Where nothing was trained there is no adapter.
    let trained = |r: &&Row| r.arm == DEFAULT && r.state != NOTHING;
    let rows: Vec<_> = results.rows.iter().filter(trained).collect();
    let green = rows
        .iter()
        .filter(|r| r.state == "trial" || r.state == "promoted");
    let green = green.count();
    let rejected = rows.iter().filter(|r| r.state == "rejected");
    let which = rejected.map(|r| format!("{} n = {} seed {}", r.user, r.n, r.seed));
    let which: Vec<String> = which.collect();
    let mut found = format!("{green} of {} adapters passed every guard", rows.len());
    if !which.is_empty() {
        found = format!("{found}; rejected: {}", which.join(", "));
    }
    Verdict {
        goal: "guards green for every adapter of the default".to_owned(),
        standing: standing(!rows.is_empty(), green == rows.len()),
        found,
        caveat: None,
    }
}

fn keywords(results: &Results) -> Verdict {
    let averages: Vec<&Average> = results
        .averages
        .iter()
        .filter(|a| a.arm == DEFAULT)
        .collect();
    let holds = |a: &&Average| a.keyword_change.mean >= -0.05;
    let figures = averages.iter().map(|a| {
        format!(
            "{} n = {}: {:+.1} points in whole answers, {:+.1} in the first 45 words",
            a.user,
            a.n,
            100.0 * a.keyword_change.mean,
            100.0 * a.opening_change.mean
        )
    });
    Verdict {
        goal: "keyword recall not below the base's less 5 points, in whole answers".to_owned(),
        standing: standing(!averages.is_empty(), averages.iter().all(holds)),
        found: list(figures),
        caveat: None,
    }
}

fn shuffled_trials(results: &Results) -> Verdict {
    let shuffled = results.shuffled.as_ref();
    // As many or more would be seen this often if the gate erred at its own rate.
    let chance = |s: &super::results::Shuffled| binomial_upper_tail(s.trials, s.logs, s.allowed);
    Verdict {
        goal: format!(
            "`{SHUFFLED}` labels reach a trial no more often than the gate's own error rate"
        ),
        standing: standing(
            shuffled.is_some(),
            shuffled.is_some_and(|s| chance(s) >= 0.05),
        ),
        found: shuffled.map_or_else(nothing, |s| {
            format!(
                "{} of {} logs, where {} were expected at most; as many or more are seen {} of the time",
                s.trials,
                s.logs,
                percent(s.allowed),
                percent(chance(s))
            )
        }),
        caveat: shuffled
            .and_then(|s| (s.logs < 20).then(|| format!("on {} of 20 logs", s.logs))),
    }
}

fn shuffled_promotions(results: &Results) -> Verdict {
    let shuffled = results.shuffled.as_ref();
    Verdict {
        goal: format!("`{SHUFFLED}` labels are promoted in at most 5 %"),
        standing: standing(shuffled.is_some(), shuffled.is_some_and(|s| s.promoted <= 0.05)),
        found: shuffled.map_or_else(nothing, |s| {
            let ungated = s.ungated.map(|ungated| {
                format!(
                    "; {} where the gate does not ask what a log tells, with a mean win rate of {} ({} adapters)",
                    percent(ungated.promoted),
                    percent(ungated.win_rate),
                    ungated.adapters
                )
            });
            format!(
                "{:.2} % within {VOTES} votes, computed exactly from true win rates{}",
                100.0 * s.promoted,
                ungated.unwrap_or_default()
            )
        }),
        caveat: shuffled.and_then(|s| {
            (s.logs < 20).then(|| format!("on {} of 20 logs", s.logs))
        }),
    }
}

fn standing(measured: bool, met: bool) -> Standing {
    match (measured, met) {
        (false, _) => Standing::NotMeasured,
        (true, true) => Standing::Met,
        (true, false) => Standing::NotMet,
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        nothing()
    } else {
        items.join("; ")
    }
}

fn nothing() -> String {
    "nothing was measured".to_owned()
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn number(share: f64) -> String {
    format!("{:.0}", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{around, results};
    use super::*;

    fn standing_of(results: &Results, words: &str) -> (Standing, String) {
        let found = verdicts(results)
            .into_iter()
            .find(|verdict| verdict.goal.contains(words));
        found.map_or((Standing::NotMeasured, String::new()), |verdict| {
            (verdict.standing, verdict.found)
        })
    }

    #[test]
    fn a_mean_below_its_mark_or_a_bound_below_its_own_is_not_met() {
        // One of two users: three of four are asked for.
        let mut results = results();
        let (standing, found) = standing_of(&results, "n = 20: a win rate");
        assert_eq!(standing, Standing::NotMet);
        assert!(found.starts_with("0 of 2: terse 6"), "{found}");
        for average in &mut results.averages {
            average.win_rate = around(0.8, 0.05);
        }
        assert_eq!(standing_of(&results, "n = 50: a win rate").0, Standing::Met);
        for average in &mut results.averages {
            average.win_rate = around(0.8, 0.16);
        }
        assert_eq!(
            standing_of(&results, "n = 50: a win rate").0,
            Standing::NotMet
        );
        results.averages.clear();
        let (standing, found) = standing_of(&results, "n = 50: a win rate");
        assert_eq!(standing, Standing::NotMeasured);
        assert!(found.ends_with("nothing was measured"), "{found}");
    }

    #[test]
    fn a_rival_is_beaten_when_the_interval_over_all_users_lies_above_zero_and_losses_are_named() {
        let results = results();
        let (standing, found) = standing_of(&results, "better than `sft`");
        assert_eq!(standing, Standing::Met);
        assert!(found.contains("It loses to it for lister"), "{found}");
        assert_eq!(
            standing_of(&results, "better than `system_prompt`").0,
            Standing::NotMet
        );
        assert_eq!(
            standing_of(&results, "better than `stop_early`").0,
            Standing::NotMeasured
        );
    }

    #[test]
    fn rejections_and_lost_keywords_are_told_by_name() {
        let results = results();
        let (standing, found) = standing_of(&results, "guards green");
        assert_eq!(standing, Standing::NotMet);
        assert!(found.starts_with("10 of 12 adapters"), "{found}");
        assert!(found.contains("lister n = 20 seed 2"), "{found}");
        let (standing, found) = standing_of(&results, "keyword recall");
        assert_eq!(standing, Standing::NotMet);
        assert!(found.contains("lister n = 50: -8.0 points"), "{found}");
    }

    #[test]
    fn shuffled_labels_may_pass_as_often_as_the_gate_errs() {
        let mut results = results();
        assert_eq!(standing_of(&results, "reach a trial").0, Standing::Met);
        assert_eq!(standing_of(&results, "are promoted in").0, Standing::Met);
        if let Some(shuffled) = &mut results.shuffled {
            // Four of twenty at 5 % is seen 1.6 % of the time.
            (shuffled.trials, shuffled.promoted) = (4, 0.06);
        }
        let (standing, found) = standing_of(&results, "reach a trial");
        assert_eq!(standing, Standing::NotMet);
        assert!(
            found.contains("4 of 20 logs") && found.contains("2 %"),
            "{found}"
        );
        assert_eq!(standing_of(&results, "are promoted in").0, Standing::NotMet);
    }

    #[test]
    fn less_evidence_than_a_goal_asks_for_is_a_caveat() {
        let verdicts = verdicts(&results());
        let caveats: Vec<_> = verdicts.iter().map(|v| v.caveat.as_deref()).collect();
        let thin = "the base shows the taste of terse too rarely for thumbs alone (70 % where 80 % are asked for)";
        assert_eq!(
            caveats[0],
            Some(format!("on 2 of 4 users; {thin}").as_str())
        );
        assert_eq!(caveats[3], Some("on 2 of 4 users and 2 of 5 seeds"));
    }
}
