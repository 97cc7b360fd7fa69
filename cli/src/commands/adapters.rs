//! `adapters`: what was learned, which of it is in use, and where else it may go.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use thumbprint::gate::{GuardResult, OfflineReport};
use thumbprint::{AdapterDetails, AdapterFormat, AdapterId, Error, Part};
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::Gguf;
use thumbprint_tune::adapter::{AdapterError, matrix_type, merge};

use crate::base_model::Base;
use crate::error::{CliError, Result};
use crate::files;
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
    /// Write one as a GGUF LoRA that llama.cpp loads, or as a folder that PEFT loads
    Export {
        /// The adapter
        id: AdapterId,
        /// Where to
        path: PathBuf,
        /// What it is written as
        #[arg(long, value_enum, default_value_t = Format::Gguf, value_name = "NAME")]
        format: Format,
        #[command(flatten)]
        model: ModelOption,
    },
    /// Take one in: a GGUF LoRA, or a folder of PEFT's. It can then be activated, which begins a trial
    Import {
        /// The file or folder
        path: PathBuf,
        /// What it is [default: gguf for a file, peft for a folder]
        #[arg(long, value_enum, value_name = "NAME")]
        format: Option<Format>,
        #[command(flatten)]
        unnamed: UnnamedBase,
        #[command(flatten)]
        model: ModelOption,
    },
    /// Make a new one that is the weighted sum of others: `combine 3 4:0.5`; a difference is `combine 4 3:-1`
    Combine {
        /// Adapters, each with its weight, 1 if none is given
        #[arg(
            required = true,
            value_name = "ID[:WEIGHT]",
            allow_negative_numbers = true
        )]
        parts: Vec<Weighed>,
        /// Rank of the result; less than the sum of the parts' ranks loses the smallest changes [default: that sum]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rank: Option<u32>,
    },
    /// Write a model that needs no adapter: the base with one in its weights
    Merge {
        /// The adapter, or the file of one that is not in the data folder
        #[arg(value_name = "ID|GGUF")]
        adapter: Source,
        /// Where to: a GGUF model
        #[arg(long, value_name = "GGUF")]
        out: PathBuf,
        /// Type of the matrices, such as f32, q8_0 or q4_1 [default: each its own]. Few bits drown small changes
        #[arg(long = "type", value_name = "TYPE", value_parser = matrix_type)]
        ty: Option<GgmlType>,
        /// How strongly a file's change is put in [default: 1]; an adapter of the data folder has its own scale
        #[arg(long, value_name = "X", allow_negative_numbers = true)]
        scale: Option<f32>,
        #[command(flatten)]
        unnamed: UnnamedBase,
        #[command(flatten)]
        model: ModelOption,
    },
}

/// What an adapter is written as.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// A GGUF LoRA
    Gguf,
    /// A folder as PEFT saves it
    Peft,
}

#[derive(Args, Debug, Clone, Copy)]
struct UnnamedBase {
    /// Take an adapter that does not say which base model it was made for
    #[arg(long)]
    accept_unnamed_base: bool,
}

/// An adapter and its weight in a sum.
#[derive(Debug, Clone, Copy)]
struct Weighed(Part);

impl FromStr for Weighed {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (id, weight) = text.split_once(':').unwrap_or((text, "1"));
        let adapter = id
            .parse()
            .map_err(|_| format!("`{id}` is no adapter's id"))?;
        let weight = weight
            .parse::<f32>()
            .ok()
            .filter(|weight| weight.is_finite());
        let weight = weight.ok_or("the weight after `:` must be a finite number")?;
        Ok(Self(Part { adapter, weight }))
    }
}

/// An adapter of the data folder, or one that lies elsewhere.
#[derive(Debug, Clone)]
enum Source {
    Id(AdapterId),
    File(PathBuf),
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(id) => Self::Id(id),
            Err(_) => Self::File(text.into()),
        })
    }
}

/// Does it.
///
/// # Errors
/// No such adapter, or none in use; its state or its file forbids it.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let model = match &options.what {
        What::Deactivate(model)
        | What::Rollback(model)
        | What::Import { model, .. }
        | What::Merge { model, .. }
        | What::Export {
            format: Format::Peft,
            model,
            ..
        } => Some(model.path()?),
        _ => None,
    };
    if let What::Merge { out: to, .. } = &options.what {
        files::check_writable(to)?;
    }
    if let What::Merge {
        adapter: Source::File(_),
        ..
    } = &options.what
    {
        return merge_file(&options.what, out);
    }
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
        What::Export {
            id, path, format, ..
        } => {
            let format = match format {
                Format::Gguf => AdapterFormat::Gguf,
                Format::Peft => AdapterFormat::Peft,
            };
            thumbprint.export(*id, path, format)?;
            let sentence = format!("adapter {id} is written to {}", path.display());
            say(out, json!({ "adapter": id, "path": path }), &sentence)
        }
        What::Import {
            path,
            format,
            unnamed,
            ..
        } => {
            check_format(*format, path)?;
            let id = thumbprint
                .import_adapter(path, unnamed.accept_unnamed_base)
                .map_err(name_the_option)?;
            let sentence = format!("it is adapter {id}; `adapters activate {id}` puts it on trial");
            say(out, json!({ "adapter": id, "path": path }), &sentence)
        }
        What::Combine { parts, rank } => {
            let parts: Vec<Part> = parts.iter().map(|part| part.0).collect();
            let id = thumbprint.combine(&parts, rank.map(|rank| rank as usize))?;
            let made = thumbprint.adapter(id)?.row.config["made"].clone();
            let lost = made["lost"].as_f64().unwrap_or(0.0);
            let mut sentence = format!("the sum is adapter {id}, of rank {}", made["rank"]);
            if lost > 0.0 {
                sentence += &format!("; {:.2} % of its squared norm is lost", 100.0 * lost);
            }
            say(out, json!({ "adapter": id, "made": made }), &sentence)
        }
        What::Merge {
            adapter: Source::Id(id),
            out: to,
            ty,
            scale,
            ..
        } => {
            if scale.is_some() {
                return Err(CliError::Usage(
                    "--scale is for files: an adapter of the data folder has its own".to_owned(),
                ));
            }
            let merged = thumbprint.merge(*id, *ty, to)?;
            say_merged(out, &merged, &format!("adapter {id}"), to)
        }
        // Done before the data folder was opened.
        What::Merge { .. } => Ok(()),
    }
}

/// A merge of an adapter that no data folder has.
fn merge_file(what: &What, out: &Output) -> Result<()> {
    let What::Merge {
        adapter: Source::File(file),
        out: to,
        ty,
        scale,
        unnamed,
        model,
    } = what
    else {
        return Ok(());
    };
    let path = model.path()?;
    let (base, gguf) = (Base::new(&path)?, Gguf::open(&path)?);
    let adapter = base.read_adapter(file, &gguf)?;
    if adapter.base_sha256.is_none() && !unnamed.accept_unnamed_base {
        let path = file.clone();
        return Err(name_the_option(Error::Adapter(AdapterError::UnnamedBase {
            path,
        })));
    }
    let merged = merge(&gguf, &adapter.lora, scale.unwrap_or(1.0), *ty, to)?;
    say_merged(out, &merged, &file.display().to_string(), to)
}

fn say_merged(
    out: &Output,
    merged: &thumbprint_tune::adapter::Merged,
    adapter: &str,
    to: &std::path::Path,
) -> Result<()> {
    if !merged.left.is_empty() {
        out.note(&format!(
            "left in their own type, as routers of experts are: {}",
            merged.left.join(", ")
        ));
    }
    let object = json!({ "path": to, "changed": merged.changed, "left": merged.left });
    let sentence = format!(
        "{adapter} is in {} matrices of {}",
        merged.changed,
        to.display()
    );
    say(out, object, &sentence)
}

fn check_format(format: Option<Format>, path: &std::path::Path) -> Result<()> {
    match format {
        Some(Format::Gguf) if path.is_dir() => Err(CliError::Usage(format!(
            "{} is a folder: --format gguf takes a file",
            path.display()
        ))),
        Some(Format::Peft) if path.is_file() => Err(CliError::Usage(format!(
            "{} is a file: --format peft takes the folder that holds it",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Says how to accept what was refused.
fn name_the_option(error: Error) -> CliError {
    match error {
        Error::Adapter(error @ AdapterError::UnnamedBase { .. }) => {
            CliError::Failed(format!("{error} (--accept-unnamed-base)"))
        }
        other => other.into(),
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
    if let Some(place) = trained_on(&row.config, &row.manifest) {
        out.line(format!("  trained on         {place}"))?;
    }
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

/// The device that a run computed on, if not on the CPU, and what that left to the CPU.
fn trained_on(config: &Value, manifest: &Value) -> Option<String> {
    let device = config["plan"]["device"]["name"].as_str()?;
    let fallbacks = manifest["fallbacks"].as_array().into_iter().flatten();
    let fallbacks: Vec<_> = fallbacks.filter_map(Value::as_str).collect();
    Some(match fallbacks.as_slice() {
        [] => device.to_owned(),
        names => format!(
            "{device}; the CPU computed what it has no kernel for: {}",
            names.join(", ")
        ),
    })
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_device_is_named_with_what_it_left_to_the_cpu() {
        let on = |device: Value, manifest: Value| {
            trained_on(&json!({ "plan": { "device": device } }), &manifest)
        };
        let gpu = || json!({ "name": "CUDA0", "strict": false });
        assert_eq!(on(Value::Null, json!({ "fallbacks": [] })), None);
        assert_eq!(trained_on(&Value::Null, &Value::Null), None);
        assert_eq!(on(gpu(), json!({ "fallbacks": [] })).unwrap(), "CUDA0");
        // Of a run before fallbacks were recorded.
        assert_eq!(on(gpu(), json!({})).unwrap(), "CUDA0");
        let told = on(gpu(), json!({ "fallbacks": ["ADD", "CUSTOM"] })).unwrap();
        assert!(
            told.contains("CUDA0;") && told.ends_with(": ADD, CUSTOM"),
            "{told}"
        );
    }

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
