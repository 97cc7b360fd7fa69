//! Charts of the results, as SVG.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::plan::DEFAULT;
use super::results::{Average, Results};
use super::statistics::Estimate;
use crate::error::{CliError, Result};

/// A chart by its file name.
pub struct Plot {
    pub file: &'static str,
    pub caption: &'static str,
    pub svg: String,
}

type Drawing<T = ()> = std::result::Result<T, Box<dyn Error>>;
/// Draws a chart, if there are figures for it.
type Draw = fn(&Results) -> Drawing<Option<String>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);
const MIDDLE: RGBColor = RGBColor(130, 130, 130);
/// Okabe and Ito's, which the colour-blind tell apart, and darker and lighter ones after them.
const COLOURS: [RGBColor; 16] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 60, 150),
    RGBColor(120, 94, 60),
    RGBColor(160, 20, 60),
    RGBColor(60, 130, 60),
    RGBColor(30, 60, 110),
    RGBColor(150, 150, 40),
    RGBColor(110, 110, 110),
    RGBColor(240, 120, 110),
    RGBColor(70, 200, 180),
    RGBColor(180, 150, 220),
];
const PANEL: (u32, u32) = (430, 320);
const LEGEND: u32 = 150;
const ROW: u32 = 19;
/// The gate's limit on the divergence from the base, nats per token.
const KL_LIMIT: f64 = 0.3;

/// Every chart that there are figures for.
///
/// # Errors
/// A chart cannot be drawn.
pub fn plots(results: &Results) -> Result<Vec<Plot>> {
    let all: [(&str, &str, Draw); 4] = [
        (
            "win_rate.svg",
            "Win rate over the base by the number of events, with 95 % intervals over prompts and seeds. Dashed: arms that are not taught.",
            win_rates,
        ),
        (
            "length.svg",
            "Mean length of an answer, tokens, with 95 % intervals. Dashed: the base.",
            lengths,
        ),
        (
            "kl.svg",
            "Divergence from the base on prompts of the feedback, nats per token, and what it bought: a point for each training. Dashed: the gate's limit, and chance.",
            divergences,
        ),
        (
            "cost.svg",
            "What a training with its gate takes: seconds, and peak memory of the process.",
            costs,
        ),
    ];
    let mut plots = Vec::new();
    for (file, caption, draw) in all {
        let drawn = draw(results)
            .map_err(|error| CliError::Failed(format!("{file} cannot be drawn: {error}")))?;
        plots.extend(drawn.map(|svg| Plot { file, caption, svg }));
    }
    Ok(plots)
}

/// Names of arms in the order of the plan's rows, each with its colour: the default first, in the strongest.
fn colours(results: &Results) -> Vec<(&str, RGBColor)> {
    let mut arms: Vec<&str> = vec![DEFAULT];
    for row in &results.rows {
        if !arms.contains(&row.arm.as_str()) {
            arms.push(&row.arm);
        }
    }
    arms.into_iter().zip(COLOURS.into_iter().cycle()).collect()
}

fn colour(colours: &[(&str, RGBColor)], arm: &str) -> RGBColor {
    let found = colours.iter().find(|(name, _)| *name == arm);
    found.map_or(INK, |(_, colour)| *colour)
}

/// Draws panels in a grid, two in a row, with a legend beside it.
fn panels<T>(
    items: &[T],
    legend: &[(&str, RGBColor)],
    panel_height: u32,
    mut draw: impl FnMut(&Area<'_>, &T) -> Drawing,
) -> Drawing<Option<String>> {
    if items.is_empty() {
        return Ok(None);
    }
    let columns = items.len().min(2);
    let rows = items.len().div_ceil(columns);
    let aside = if legend.is_empty() { 0 } else { LEGEND };
    let width = PANEL.0 * columns as u32 + aside;
    let height = (panel_height * rows as u32).max(ROW * (legend.len() as u32 + 2));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (charts, beside) = root.split_horizontally(PANEL.0 * columns as u32);
        let grid = charts.split_evenly((rows, columns));
        for (area, item) in grid.iter().zip(items) {
            draw(area, item)?;
        }
        for (at, (name, colour)) in legend.iter().enumerate() {
            let y = (ROW * (at as u32 + 1)) as i32;
            beside.draw(&Circle::new((12, y), 5, colour.filled()))?;
            let style = (FONT, 13).into_font().color(&INK);
            beside.draw(&Text::new((*name).to_owned(), (24, y - 6), style))?;
        }
        root.present()?;
    }
    Ok(Some(svg))
}

/// Axes with a title; `x_name` and `y_name` make labels of numbers.
fn axes<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
    labels: Labels<'_>,
) -> Drawing<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(18)
        .caption(title, (FONT, 16).into_font().color(&INK))
        .x_label_area_size(38)
        .y_label_area_size(labels.y_width)
        .build_cartesian_2d(x, y)?;
    let small = (FONT, 12).into_font().color(&INK);
    let mut mesh = chart.configure_mesh();
    if labels.x_is_names {
        mesh.disable_x_mesh();
    }
    if labels.y_is_names {
        mesh.disable_y_mesh();
    }
    mesh.light_line_style(WHITE)
        .bold_line_style(FAINT)
        .axis_style(MIDDLE)
        .label_style(small.clone())
        .axis_desc_style(small)
        .x_labels(labels.x_count)
        .y_labels(labels.y_count)
        .x_desc(labels.x_about)
        .y_desc(labels.y_about)
        .x_label_formatter(labels.x_name)
        .y_label_formatter(labels.y_name)
        .draw()?;
    Ok(chart)
}

struct Labels<'a> {
    x_about: &'a str,
    y_about: &'a str,
    x_count: usize,
    y_count: usize,
    y_width: u32,
    x_name: &'a dyn Fn(&f64) -> String,
    y_name: &'a dyn Fn(&f64) -> String,
    /// Places on the axis have names, and there is nothing between them.
    x_is_names: bool,
    y_is_names: bool,
}

fn percent(share: &f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn dashed(chart: &mut Chart<'_, '_>, ends: [(f64, f64); 2], colour: RGBColor) -> Drawing {
    chart.draw_series(DashedLineSeries::new(ends, 5, 4, colour.stroke_width(1)))?;
    Ok(())
}

/// A mean with its interval, upright or lying.
fn whisker(
    chart: &mut Chart<'_, '_>,
    at: f64,
    estimate: &Estimate,
    colour: RGBColor,
    upright: bool,
) -> Drawing {
    let point = |value: f64| if upright { (at, value) } else { (value, at) };
    let ends = vec![point(estimate.low), point(estimate.high)];
    chart.draw_series([PathElement::new(ends, colour.stroke_width(2))])?;
    chart.draw_series([Circle::new(point(estimate.mean), 5, colour.filled())])?;
    Ok(())
}

fn win_rates(results: &Results) -> Drawing<Option<String>> {
    let colours = colours(results);
    let mut ns: Vec<usize> = results
        .averages
        .iter()
        .map(|a| a.n)
        .filter(|n| *n > 0)
        .collect();
    ns.sort_unstable();
    ns.dedup();
    if ns.is_empty() {
        return Ok(None);
    }
    let users: Vec<&str> = results.users.iter().map(|u| u.name.as_str()).collect();
    panels(&users, &colours, PANEL.1, |area, user| {
        let of_user = || results.averages.iter().filter(|a| a.user == **user);
        let name = |x: &f64| {
            let whole = (x - x.round()).abs() < 1e-6;
            let n = whole.then(|| ns.get(x.round() as usize)).flatten();
            n.map_or_else(String::new, |n| format!("n = {n}"))
        };
        let x = -0.6..ns.len() as f64 - 0.4;
        let labels = Labels {
            x_about: "events of feedback",
            y_about: "win rate over the base",
            x_count: 2 * ns.len() + 1,
            y_count: 6,
            y_width: 52,
            x_name: &name,
            y_name: &percent,
            x_is_names: true,
            y_is_names: false,
        };
        let mut chart = axes(area, user, x.clone(), 0.0..1.0, labels)?;
        dashed(&mut chart, [(x.start, 0.5), (x.end, 0.5)], MIDDLE)?;
        for average in of_user().filter(|a| a.n == 0) {
            let rate = average.win_rate.mean;
            let colour = colour(&colours, &average.arm);
            dashed(&mut chart, [(x.start, rate), (x.end, rate)], colour)?;
        }
        let place = |n: usize| ns.iter().position(|other| *other == n).unwrap_or(0);
        for (arm, colour) in &colours {
            let of_arm: Vec<&Average> = of_user().filter(|a| a.n > 0 && a.arm == *arm).collect();
            let mut line = Vec::new();
            for average in of_arm {
                let beside: Vec<&str> = colours
                    .iter()
                    .map(|(name, _)| *name)
                    .filter(|name| of_user().any(|a| a.n == average.n && a.arm == *name))
                    .collect();
                let at = beside.iter().position(|name| name == arm).unwrap_or(0) as f64;
                let step = (0.8 / beside.len() as f64).min(0.12);
                let x = place(average.n) as f64 + step * (at - (beside.len() as f64 - 1.0) / 2.0);
                line.push((x, average.win_rate.mean));
                whisker(&mut chart, x, &average.win_rate, *colour, true)?;
            }
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(1)))?;
        }
        Ok(())
    })
}

/// The n at which most arms were run.
fn main_n(results: &Results) -> usize {
    let ns = results.averages.iter().map(|a| a.n).filter(|n| *n > 0);
    let arms = |n: &usize| results.averages.iter().filter(|a| a.n == *n).count();
    ns.max_by_key(arms).unwrap_or(0)
}

/// A line for each label, with a mean and its interval, and perhaps a mark that all are read against.
fn lying(
    area: &Area<'_>,
    title: &str,
    about: &str,
    items: &[(String, Estimate, RGBColor)],
    mark: Option<f64>,
) -> Drawing {
    let most = items.iter().map(|(_, e, _)| e.high).chain(mark);
    let most = most.fold(0.0, f64::max).max(1e-9);
    let name = |y: &f64| {
        let whole = (y - y.round()).abs() < 1e-6 && *y > -0.5;
        let at = whole
            .then(|| items.len().checked_sub(1 + y.round() as usize))
            .flatten();
        at.map_or_else(String::new, |at| items[at].0.clone())
    };
    let number = |x: &f64| format!("{x:.0}");
    let labels = Labels {
        x_about: about,
        y_about: "",
        x_count: 6,
        y_count: 2 * items.len() + 1,
        y_width: 110,
        x_name: &number,
        y_name: &name,
        x_is_names: false,
        y_is_names: true,
    };
    let y = -0.5..items.len() as f64 - 0.5;
    let mut chart = axes(area, title, 0.0..1.08 * most, y.clone(), labels)?;
    if let Some(mark) = mark {
        dashed(&mut chart, [(mark, y.start), (mark, y.end)], MIDDLE)?;
    }
    for (at, (_, estimate, colour)) in items.iter().enumerate() {
        let y = (items.len() - 1 - at) as f64;
        whisker(&mut chart, y, estimate, *colour, false)?;
    }
    Ok(())
}

fn lengths(results: &Results) -> Drawing<Option<String>> {
    let colours = colours(results);
    let n = main_n(results);
    let height = ROW * (colours.len() as u32 + 5);
    panels(&results.users, &[], height, |area, user| {
        let items: Vec<_> = colours
            .iter()
            .filter_map(|(arm, colour)| {
                let of_arm =
                    |a: &&Average| a.user == user.name && a.arm == *arm && (a.n == n || a.n == 0);
                let average = results.averages.iter().find(of_arm)?;
                Some(((*arm).to_owned(), average.tokens, *colour))
            })
            .collect();
        let title = format!("{}, n = {n}", user.name);
        lying(
            area,
            &title,
            "mean tokens of an answer",
            &items,
            Some(user.base_mean_tokens),
        )
    })
}

fn divergences(results: &Results) -> Drawing<Option<String>> {
    let colours = colours(results);
    let rows: Vec<_> = results
        .rows
        .iter()
        .filter_map(|row| Some((row, row.kl?)))
        .collect();
    let learned: Vec<(&str, RGBColor)> = colours
        .into_iter()
        .filter(|(arm, _)| rows.iter().any(|(row, _)| row.arm == *arm))
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    panels(&["all users"], &learned, PANEL.1, |area, title| {
        let most = rows.iter().map(|(_, kl)| *kl).fold(0.05, f64::max) * 1.15;
        let number = |x: &f64| format!("{x:.2}");
        let labels = Labels {
            x_about: "KL(base || adapter), nats per token",
            y_about: "win rate over the base",
            x_count: 6,
            y_count: 6,
            y_width: 52,
            x_name: &number,
            y_name: &percent,
            x_is_names: false,
            y_is_names: false,
        };
        let mut chart = axes(area, title, 0.0..most, 0.0..1.0, labels)?;
        dashed(&mut chart, [(0.0, 0.5), (most, 0.5)], MIDDLE)?;
        if KL_LIMIT < most {
            dashed(&mut chart, [(KL_LIMIT, 0.0), (KL_LIMIT, 1.0)], MIDDLE)?;
        }
        let points = rows.iter().map(|(row, kl)| {
            let rate = row.candidate_win_rate.unwrap_or(row.win_rate);
            Circle::new((*kl, rate), 5, colour(&learned, &row.arm).filled())
        });
        chart.draw_series(points)?;
        Ok(())
    })
}

fn costs(results: &Results) -> Drawing<Option<String>> {
    let colours = colours(results);
    let over = |number: &dyn Fn(&Average) -> Option<f64>| -> Vec<(String, Estimate, RGBColor)> {
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        for average in results.averages.iter().filter(|a| number(a).is_some()) {
            if !kinds.contains(&(&average.arm, average.n)) {
                kinds.push((&average.arm, average.n));
            }
        }
        kinds.sort_by_key(|(arm, n)| (colours.iter().position(|(name, _)| name == arm), *n));
        let spread = |(arm, n): (&str, usize)| {
            let same = results.averages.iter().filter(|a| a.arm == arm && a.n == n);
            let values: Vec<f64> = same.filter_map(number).collect();
            let estimate = Estimate {
                mean: super::statistics::mean(values.iter().copied()),
                low: values.iter().copied().fold(f64::MAX, f64::min),
                high: values.iter().copied().fold(f64::MIN, f64::max),
            };
            (format!("{arm}, n = {n}"), estimate, colour(&colours, arm))
        };
        kinds.into_iter().map(spread).collect()
    };
    let panels_of = [
        ("seconds, from user to user", over(&|a| a.seconds)),
        ("peak memory, MiB", over(&|a| a.peak_rss_mib)),
    ];
    let panels_of: Vec<_> = panels_of
        .into_iter()
        .filter(|(_, items)| !items.is_empty())
        .collect();
    let longest = panels_of
        .iter()
        .map(|(_, items)| items.len())
        .max()
        .unwrap_or(0);
    let height = ROW * (longest as u32 + 5);
    panels(&panels_of, &[], height, |area, (about, items)| {
        lying(area, "a training with its gate", about, items, None)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::synthetic::results;
    use super::*;

    #[test]
    fn there_is_a_chart_of_each_kind_and_it_names_what_it_shows() {
        let plots = plots(&results()).unwrap();
        let files: Vec<_> = plots.iter().map(|plot| plot.file).collect();
        assert_eq!(files, ["win_rate.svg", "length.svg", "kl.svg", "cost.svg"]);
        for (plot, words) in plots.iter().zip([
            ["terse", "n = 200", "100 %"],
            [
                "lister, n = 50",
                "system_prompt",
                "mean tokens of an answer",
            ],
            ["all users", "KL(base || adapter), nats per token", "sft"],
            ["default, n = 20", "peak memory, MiB", "sft, n = 50"],
        ]) {
            assert!(plot.svg.starts_with("<svg ") && plot.svg.trim_end().ends_with("</svg>"));
            for word in words {
                assert!(plot.svg.contains(word), "{} lacks {word}", plot.file);
            }
        }
    }

    #[test]
    fn where_nothing_was_taught_there_is_nothing_to_draw_but_lengths() {
        let mut results = results();
        results.averages.retain(|a| a.n == 0);
        results.rows.retain(|row| row.n == 0);
        let plots = plots(&results).unwrap();
        let files: Vec<_> = plots.iter().map(|plot| plot.file).collect();
        assert_eq!(files, ["length.svg"]);
    }
}
