//! `adapters`: what was learned, and which of it is in use.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use thumbprint::gate::{GuardResult, OfflineReport};
use thumbprint::{AdapterDetails, AdapterId};

use crate::error::Result;
use crate::options::{DataDirOption, ModelOption};
use crate::output::{Output, columns};
use crate::session;

#[derive(Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    data_dir: DataDirOption,
}

#[derive(Subcommand, Debug)]
enum What {
    /// All of them, the first one first
    List,
    /// One, with every decision about it and the numbers behind each
    Show {
        /// The adapter
        id: AdapterId,
    },
    /// Use one; one that was rolled back begins a new trial
    Activate {
        /// The adapter
        id: AdapterId,
    },
    /// Use the base model alone, keeping the adapter as it is
    Deactivate(ModelOption),
    /// Take back the one in use, and use the one before it, or the base model alone
    Rollback(ModelOption),
    /// Write one as a GGUF LoRA that llama.cpp loads
    Export {
        /// The adapter
        id: AdapterId,
        /// Where to
        path: PathBuf,
    },
}

/// Does it.
///
/// # Errors
/// No such adapter, or none in use; its state or its file forbids it.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let model = match &options.what {
        What::Deactivate(model) | What::Rollback(model) => Some(model.path()?),
        _ => None,
    };
    let thumbprint = session::open(&options.data_dir, model, out)?;
    match &options.what {
        What::List => {
            let all = thumbprint.adapters()?;
            if out.is_json() {
                return all
                    .iter()
                    .try_for_each(|details| out.object(&summary(details)));
            }
            list(&all, out)
        }
        What::Show { id } => show(&thumbprint.adapter(*id)?, out),
        What::Activate { id } => {
            thumbprint.activate(*id)?;
            say(
                out,
                json!({ "active": id }),
                &format!("adapter {id} is in use"),
            )
        }
        What::Deactivate(_) => {
            thumbprint.deactivate()?;
            say(out, json!({ "active": null }), "the base model is in use")
        }
        What::Rollback(_) => {
            let now = thumbprint.rollback()?;
            let sentence = now.map_or("the base model is in use".to_owned(), |id| {
                format!("adapter {id} is in use again")
            });
            say(out, json!({ "active": now }), &sentence)
        }
        What::Export { id, path } => {
            thumbprint.export(*id, path)?;
            let sentence = format!("adapter {id} is written to {}", path.display());
            say(out, json!({ "adapter": id, "path": path }), &sentence)
        }
    }
}

fn say(out: &Output, object: Value, sentence: &str) -> Result<()> {
    if out.is_json() {
        out.object(&object)
    } else {
        out.line(sentence)
    }
}

fn list(all: &[AdapterDetails], out: &Output) -> Result<()> {
    if all.is_empty() {
        return out.line("nothing was learned yet");
    }
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut rows = vec![words(&["adapter", "state", "scale", "votes", "in use"])];
    rows.extend(all.iter().map(|details| {
        let row = &details.row;
        let votes = details
            .verdict
            .as_ref()
            .map_or("-".to_owned(), |v| v.votes.votes().to_string());
        let active = if details.active { "yes" } else { "" };
        vec![
            row.id.to_string(),
            row.state.to_string(),
            row.scale.to_string(),
            votes,
            active.to_owned(),
        ]
    }));
    columns(&rows).iter().try_for_each(|line| out.line(line))
}

fn summary(details: &AdapterDetails) -> Value {
    let row = &details.row;
    json!({
        "id": row.id,
        "state": row.state,
        "active": details.active,
        "scale": row.scale,
        "base_sha256": row.base_hash,
        "file": row.file,
        "file_sha256": row.file_hash,
        "seed": row.seed,
        "created_at": row.created_at,
        "votes": details.verdict,
    })
}

fn show(details: &AdapterDetails, out: &Output) -> Result<()> {
    let row = &details.row;
    if out.is_json() {
        let decisions = details.decisions.iter().map(|decision| {
            json!({
                "at": decision.at,
                "kind": decision.decision.kind,
                "explanation": decision.decision.numbers["explanation"],
                "numbers": decision.decision.numbers,
            })
        });
        let mut object = summary(details);
        object["manifest"] = row.manifest.clone();
        object["config"] = row.config.clone();
        object["decisions"] = decisions.collect();
        return out.object(&object);
    }
    let active = if details.active { ", in use" } else { "" };
    out.line(format!(
        "{} is {}{active}",
        out.bold(&format!("adapter {}", row.id)),
        row.state
    ))?;
    out.line(format!("  {}", row.state.explain()))?;
    out.line(format!(
        "  made for           the base with SHA-256 {}",
        row.base_hash
    ))?;
    out.line(format!(
        "  file               {} at scale {}",
        row.file.display(),
        row.scale
    ))?;
    if let Some(verdict) = &details.verdict {
        out.line(format!("  votes              {}", verdict.explain()))?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_millis() as i64);
    for decision in &details.decisions {
        let numbers = &decision.decision.numbers;
        let title = format!("{} ({})", decision.decision.kind, ago(decision.at, now));
        out.line(out.bold(&title))?;
        if let Some(explanation) = numbers["explanation"].as_str() {
            out.line(format!("  {explanation}"))?;
        }
        let report = serde_json::from_value::<OfflineReport>(numbers["report"].clone()).ok();
        if let Some(report) = &report {
            print_checks(out, report)?;
        }
        // What stands in a sentence already is not told again.
        let told = |key: &str| key == "explanation" || (key == "report" && report.is_some());
        let numbers = numbers
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| !told(key));
        for (key, value) in numbers {
            print_numbers(out, key, value, 1)?;
        }
    }
    Ok(())
}

/// How long ago a moment was.
fn ago(milliseconds: i64, now: i64) -> String {
    let minutes = (now - milliseconds).max(0) / 60_000;
    let (n, what) = match minutes {
        0 => return "just now".to_owned(),
        1..60 => (minutes, "minute"),
        60..1440 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural} ago")
}

/// What the offline tier checked: a line a check, scale by scale.
fn print_checks(out: &Output, report: &OfflineReport) -> Result<()> {
    let check = |guard: &GuardResult| {
        let mark = match guard.passed {
            true => out.green("passed"),
            false => out.red("failed"),
        };
        out.line(format!("    {mark}  {}", guard.sentence))
    };
    out.line("  unseen feedback")?;
    check(&report.held_out)?;
    for scale in &report.scales {
        let allowed = if scale.allowed {
            ""
        } else {
            ", more than so few thumbs allow"
        };
        out.line(format!(
            "  at {:.0} % of its strength{allowed}",
            100.0 * scale.scale
        ))?;
        scale.guards.iter().try_for_each(check)?;
    }
    Ok(())
}

/// A decision's numbers, one a line, nested as they are.
fn print_numbers(out: &Output, key: &str, value: &Value, depth: usize) -> Result<()> {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            out.line(format!("{indent}{key}"))?;
            fields
                .iter()
                .try_for_each(|(key, value)| print_numbers(out, key, value, depth + 1))
        }
        Value::Array(items) if items.iter().all(Value::is_number) => {
            const SHOWN: usize = 8;
            let shown: Vec<String> = items.iter().take(SHOWN).map(Value::to_string).collect();
            let more = match items.len() > SHOWN {
                true => format!(", ... ({} in all)", items.len()),
                false => String::new(),
            };
            out.line(format!("{indent}{key}: {}{more}", shown.join(", ")))
        }
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| print_numbers(out, key, item, depth)),
        Value::String(text) => out.line(format!("{indent}{key}: {text}")),
        value => out.line(format!("{indent}{key}: {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_in_the_largest_unit_that_fits() {
        const MINUTE: i64 = 60_000;
        for (minutes, told) in [
            (-5, "just now"),
            (0, "just now"),
            (1, "1 minute ago"),
            (59, "59 minutes ago"),
            (60, "1 hour ago"),
            (1439, "23 hours ago"),
            (1440, "1 day ago"),
            (14_400, "10 days ago"),
        ] {
            assert_eq!(ago(0, minutes * MINUTE), told);
        }
    }
}
