//! The report: what was run, how the goals stand, and every figure, for people.

use std::fmt::Write;

use super::plan::{Arm, DEFAULT, UNGATED};
use super::plots::Plot;
use super::results::{ALL, Average, Results, Row, UserFacts};
use super::statistics::Estimate;
use super::verdicts::Standing;

/// Characters of an answer that are shown.
const SHOWN: usize = 400;

/// The report in Markdown.
pub fn markdown(results: &Results, arms: &[Arm], plots: &[Plot]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_report(&mut text, results, arms, plots);
    text
}

fn write_report(
    out: &mut String,
    results: &Results,
    arms: &[Arm],
    plots: &[Plot],
) -> std::fmt::Result {
    writeln!(out, "# Does it learn what a person likes?\n")?;
    writeln!(
        out,
        "Benchmark `{}` on {} (SHA-256 {}), users from {}, {} held-out prompts, {:.0} % of thumbs flipped. {} of {} cells are done.\n",
        results.size,
        results.model,
        &results.model_sha256[..results.model_sha256.len().min(12)],
        results.users_file,
        results.held_out_prompts,
        100.0 * results.flips,
        results.done,
        results.cells
    )?;
    if results.builds.len() > 1 {
        writeln!(
            out,
            "**The cells were run by {} different builds of the program**: figures of different code stand side by side.\n",
            results.builds.len()
        )?;
    }
    writeln!(
        out,
        "A simulated user proves the mechanism, not a person's satisfaction: each is a formula over the text of a reply, gives feedback with \
         noise, and is asked without noise on prompts that nothing was learned from. Neither trainer nor gate knows any of them.\n"
    )?;
    verdicts(out, results)?;
    averages(out, results)?;
    comparisons(out, results)?;
    shuffled(out, results)?;
    if !plots.is_empty() {
        writeln!(out, "## Charts\n")?;
        for plot in plots {
            writeln!(
                out,
                "![{}]({})\n\n{}\n",
                plot.caption, plot.file, plot.caption
            )?;
        }
    }
    users(out, results)?;
    arms_run(out, results, arms)?;
    rows(out, results)?;
    samples(out, results)
}

fn verdicts(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "## The goals\n")?;
    writeln!(out, "| Goal | | Found |")?;
    writeln!(out, "|---|---|---|")?;
    for verdict in &results.verdicts {
        let standing = match verdict.standing {
            Standing::Met => "met",
            Standing::NotMet => "**not met**",
            Standing::NotMeasured => "not measured",
        };
        let caveat = verdict.caveat.as_ref().map(|c| format!(" ({c})"));
        writeln!(
            out,
            "| {} | {standing} | {}{} |",
            verdict.goal,
            verdict.found,
            caveat.unwrap_or_default()
        )?;
    }
    writeln!(out)
}

fn averages(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "## Averages\n")?;
    writeln!(
        out,
        "Win rate over the base's answer to the same prompt (near ties half), with 95 % intervals of a bootstrap over prompts and training seeds; \
         the same at equal length; gain in utility, and over what the best of sixteen replies of the base gains; keyword recall in whole answers and in \
         the first 45 words, with the change from the base in points. After a rejection the base answers.\n"
    )?;
    for user in &results.users {
        writeln!(out, "### {}\n\n{}\n", user.name, user.about)?;
        writeln!(
            out,
            "| Arm | n | seeds | win rate | at equal length | gain | of the oracle's | keywords | first 45 words | tokens | KL | perplexity | on trial |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for average in results.averages.iter().filter(|a| a.user == user.name) {
            average_row(out, average)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn average_row(out: &mut String, average: &Average) -> std::fmt::Result {
    let name = match average.arm == DEFAULT {
        true => format!("**{}**", average.arm),
        false => average.arm.clone(),
    };
    let trials = match average.ppl_ratio.is_some() || average.seconds.is_some() {
        true => format!("{} of {}", average.trials, average.seeds),
        false => "-".to_owned(),
    };
    writeln!(
        out,
        "| {name} | {} | {} | {} | {} | {} | {} | {} ({:+.1}) | {} ({:+.1}) | {:.0} | {} | {} | {trials} |",
        taught(average.n),
        average.seeds,
        rate(&average.win_rate),
        share(average.lc_win_rate),
        signed(&average.gain),
        share(average.gain_over_oracle),
        share(Some(average.keyword_recall)),
        100.0 * average.keyword_change.mean,
        share(Some(average.opening_recall)),
        100.0 * average.opening_change.mean,
        average.mean_tokens,
        number(average.kl, 3),
        number(average.ppl_ratio, 3),
    )
}

fn comparisons(out: &mut String, results: &Results) -> std::fmt::Result {
    if results.comparisons.is_empty() {
        return Ok(());
    }
    writeln!(out, "## The default against every other arm\n")?;
    writeln!(
        out,
        "The default's utility minus the other arm's on the same prompts and, where both were taught, the same lessons; 95 % intervals. What stands below 0 \
         is lost. Units are those of the user's utility; no answer at all counts as -5.\n"
    )?;
    writeln!(out, "| n | Against | User | seeds | difference | |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for comparison in &results.comparisons {
        let e = &comparison.difference;
        let reading = match (e.low > 0.0, e.high < 0.0) {
            (true, _) => "better",
            (_, true) => "**worse**",
            _ => "undecided",
        };
        let user = match comparison.user == ALL {
            true => format!("all {}", comparison.users),
            false => comparison.user.clone(),
        };
        writeln!(
            out,
            "| {} | {} | {user} | {} | {} | {reading} |",
            comparison.n,
            comparison.arm,
            comparison.seeds,
            signed(e)
        )?;
    }
    writeln!(out)
}

fn shuffled(out: &mut String, results: &Results) -> std::fmt::Result {
    let Some(shuffled) = &results.shuffled else {
        return Ok(());
    };
    writeln!(out, "## Teaching about nothing\n")?;
    writeln!(
        out,
        "Thumbs were shuffled among the replies in {} logs. Something was trained on {} of them, and the gate let {} through; chance may \
         pass it {:.0} % of the time. From each adapter's true chances in a blind vote, with the person's noise and flips, follows exactly \
         how likely it is to be promoted within {} votes: {:.2} % on average, counting 0 for what the gate turned away; {:.1} % would be \
         rolled back.\n",
        shuffled.logs,
        shuffled.trained,
        shuffled.trials,
        100.0 * shuffled.allowed,
        super::results::VOTES,
        100.0 * shuffled.promoted,
        100.0 * shuffled.rolled_back
    )?;
    let Some(ungated) = shuffled.ungated else {
        return Ok(());
    };
    writeln!(
        out,
        "`{UNGATED}` shows what is taught beside the feedback: {} adapters were trained on such logs whatever they tell. They win {:.0} % on \
         average and would be promoted in {:.1} % of cases.\n",
        ungated.adapters,
        100.0 * ungated.win_rate,
        100.0 * ungated.promoted
    )
}

fn users(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "## The users\n")?;
    writeln!(
        out,
        "Headroom: on how many training prompts the best of sixteen replies of the base beats one more, and by how much utility (the oracle). A user who \
         gives thumbs alone is admitted from 80 %.\n"
    )?;
    writeln!(
        out,
        "| User | utility | edits | headroom | oracle's gain | threshold | noise | base: keywords, first 45 words, tokens, finished |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for user in &results.users {
        let terms = user.utility.iter().map(|term| {
            let feature = serde_json::to_string(&term.feature).unwrap_or_default();
            format!(
                "{:+} {} ({:.2}, {:.2})",
                term.weight,
                feature.replace(['"', '{', '}'], ""),
                term.mean.unwrap_or(0.0),
                term.sd.unwrap_or(1.0)
            )
        });
        let terms: Vec<String> = terms.collect();
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {:.2} | {:.2} | {}, {}, {:.0}, {} |",
            user.name,
            terms.join(", "),
            if user.edits { "yes" } else { "no" },
            headroom(user),
            number(user.oracle_gain, 2),
            user.threshold,
            user.temperature,
            share(Some(user.base_keyword_recall)),
            share(Some(user.base_opening_recall)),
            user.base_mean_tokens,
            share(Some(user.base_finished)),
        )?;
    }
    writeln!(
        out,
        "\n(In brackets: what is usual of the feature, its mean and spread.)\n"
    )
}

fn headroom(user: &UserFacts) -> String {
    match user.headroom {
        None => "-".to_owned(),
        Some(share) => {
            let warning = if user.thin_headroom().is_some() {
                ", too little for thumbs alone"
            } else {
                ""
            };
            format!(
                "{:.0} % of {}{warning}",
                100.0 * share,
                user.headroom_prompts
            )
        }
    }
}

fn arms_run(out: &mut String, results: &Results, arms: &[Arm]) -> std::fmt::Result {
    writeln!(out, "## The arms\n")?;
    for arm in arms {
        if results.rows.iter().any(|row| row.arm == arm.name) {
            writeln!(out, "- `{}`: {}", arm.name, arm.about)?;
        }
    }
    writeln!(out)
}

fn rows(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "## Every cell\n")?;
    writeln!(
        out,
        "Intervals over prompts. Of a rejected adapter, the win rate that its candidate would have had at full scale stands in brackets.\n"
    )?;
    writeln!(
        out,
        "| User | Arm | n | seed | win rate | at equal length | keywords | tokens | finished | KL | KL of its own | perplexity | state, scale | 👍 👎 edits | seconds | MiB |"
    )?;
    writeln!(
        out,
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for row in &results.rows {
        cell_row(out, row)?;
    }
    writeln!(out)
}

fn cell_row(out: &mut String, row: &Row) -> std::fmt::Result {
    let interval = Estimate {
        mean: row.win_rate,
        low: row.ci.0,
        high: row.ci.1,
    };
    let candidate = row.candidate_win_rate;
    let candidate = candidate.map_or_else(String::new, |r| format!(" ({:.0} %)", 100.0 * r));
    let state = match row.scale {
        Some(scale) if row.state != "nothing_to_learn" => {
            format!("{}, {scale:.2}", row.state.replace('_', " "))
        }
        _ => row.state.replace('_', " "),
    };
    let said = match (row.up, row.down, row.edits) {
        (Some(up), Some(down), Some(edits)) => format!("{up} {down} {edits}"),
        _ => "-".to_owned(),
    };
    writeln!(
        out,
        "| {} | {} | {} | {} | {}{candidate} | {} | {} | {:.0} | {} | {} | {} | {} | {state} | {said} | {} | {} |",
        row.user,
        row.arm,
        taught(row.n),
        if row.n == 0 {
            "-".to_owned()
        } else {
            row.seed.to_string()
        },
        rate(&interval),
        share(row.lc_win_rate),
        share(Some(row.keyword_recall)),
        row.mean_tokens,
        share(Some(row.finished)),
        number(row.kl, 3),
        number(row.kl_own_samples, 3),
        number(row.ppl_ratio, 3),
        number(row.seconds, 0),
        number(row.peak_rss_mib, 0),
    )
}

fn samples(out: &mut String, results: &Results) -> std::fmt::Result {
    if results.users.iter().all(|user| user.samples.is_empty()) {
        return Ok(());
    }
    writeln!(out, "## What the answers read like\n")?;
    writeln!(
        out,
        "The last cell of the default for each user; prompts evenly spread.\n"
    )?;
    for user in results.users.iter().filter(|user| !user.samples.is_empty()) {
        writeln!(out, "### {}\n", user.name)?;
        for sample in &user.samples {
            writeln!(out, "**{}**\n", sample.question)?;
            writeln!(out, "- base: {}", quoted(&sample.base))?;
            writeln!(out, "- default: {}\n", quoted(&sample.default))?;
        }
    }
    Ok(())
}

/// One line, without what Markdown would make something else of.
fn quoted(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" / ");
    let shown: String = line.chars().take(SHOWN).collect();
    let cut = if shown.len() < line.len() { " ..." } else { "" };
    format!("{}{cut}", shown.replace('|', "\\|").replace('<', "&lt;"))
}

fn taught(n: usize) -> String {
    if n == 0 {
        "-".to_owned()
    } else {
        n.to_string()
    }
}

fn rate(estimate: &Estimate) -> String {
    format!(
        "{:.0} % [{:.0}, {:.0}]",
        100.0 * estimate.mean,
        100.0 * estimate.low,
        100.0 * estimate.high
    )
}

fn signed(estimate: &Estimate) -> String {
    format!(
        "{:+.2} [{:+.2}, {:+.2}]",
        estimate.mean, estimate.low, estimate.high
    )
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::plan::Plans;
    use super::super::plots::plots;
    use super::super::synthetic::results;
    use super::*;

    fn report(results: &Results) -> String {
        markdown(
            results,
            &Plans::built_in().unwrap().arms,
            &plots(results).unwrap(),
        )
    }

    #[test]
    fn a_report_says_how_every_goal_stands_and_names_what_was_lost() {
        let text = report(&results());
        for expected in [
            "not a person's satisfaction",
            "20 of 22 cells are done",
            "| n = 20: a win rate over the base of at least 65 %, lower bound above 55 %, for three of four users | **not met** |",
            "| n = 50: better than `sft` by paired utility difference, its interval above 0 | met |",
            "| n = 50: better than `stop_early` by paired utility difference, its interval above 0 | not measured |",
            "It loses to it for lister (on 2 of 4 users and 2 of 5 seeds)",
            "| 50 | sft | lister | 2 | -0.50 [-0.80, -0.20] | **worse** |",
            "| 50 | sft | all 2 | 2 | +0.20 [+0.10, +0.30] | better |",
            "| 50 | system_prompt | all 2 | 2 | +0.10 [-0.20, +0.40] | undecided |",
            "70 % of 40, too little for thumbs alone",
            "rejected, 1.06",
            "(41 %)",
            "- `sft`: Imitates",
            "- base: Because \\| &lt;b> / so",
            "](win_rate.svg)",
        ] {
            assert!(text.contains(expected), "lacks {expected}:\n{text}");
        }
        assert!(!text.contains("different builds"));
        let mut mixed = results();
        mixed.builds.push("two".to_owned());
        assert!(report(&mixed).contains("2 different builds"));
    }

    #[test]
    fn a_report_can_be_made_again_from_its_results_file() {
        let results = results();
        let file = serde_json::to_string_pretty(&results).unwrap();
        let read: Results = serde_json::from_str(&file).unwrap();
        assert_eq!(read, results);
        assert_eq!(report(&read), report(&results));
    }

    #[test]
    fn every_table_has_as_many_cells_in_a_row_as_in_its_head() {
        let text = report(&results());
        let mut columns = None;
        for line in text.lines() {
            let cells = line.replace("\\|", "").matches('|').count();
            match (line.starts_with('|'), columns) {
                (true, None) => columns = Some(cells),
                (true, Some(expected)) => assert_eq!(cells, expected, "{line}"),
                (false, _) => columns = None,
            }
        }
    }

    #[test]
    fn every_row_is_reported() {
        let results = results();
        let text = report(&results);
        let after = text.split("## Every cell").nth(1).unwrap();
        let rows = after.lines().filter(|line| line.starts_with("| ")).count();
        assert_eq!(rows, results.rows.len() + 1);
    }
}
