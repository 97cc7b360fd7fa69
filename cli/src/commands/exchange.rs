//! `import` and `export`: feedback in files. Never loads a model.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use thumbprint::exchange::{Exported, Filters, Format, ImportError, Pattern, Reader};

use crate::error::{CliError, Result};
use crate::files;
use crate::options::DataDirOption;
use crate::output::Output;
use crate::session;

#[derive(Args, Debug)]
pub struct ImportOptions {
    /// Feedback, one JSON object a line
    #[arg(value_name = "JSONL")]
    file: PathBuf,
    /// How lines are to be understood: preference, unpaired, sharegpt, hh-rlhf, ultrafeedback, nectar, oasst, ranking [default: by the
    /// fields of the first line]
    #[arg(long, value_name = "NAME")]
    format: Option<Format>,
    /// Pass over rows whose prompt and longest answer have more characters
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_chars: Option<u32>,
    /// Pass over rows whose liked answer has fewer characters
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    min_chars: Option<u32>,
    /// Pass over rows whose liked answer refuses to answer (English phrases)
    #[arg(long)]
    skip_refusals: bool,
    /// Pass over rows whose liked answer has a phrase that assistants put into any answer (English phrases)
    #[arg(long)]
    skip_boilerplate: bool,
    /// Pass over rows whose liked answer matches a regular expression; may be several
    #[arg(long, value_name = "REGEX")]
    skip_matching: Vec<Pattern>,
    /// Pass over rows that differ from an earlier one in case, spaces and punctuation at most
    #[arg(long)]
    skip_duplicates: bool,
    /// Pass over rows that have this share of runs of four letters in common with an earlier one, such as 0.9
    #[arg(long, value_name = "SHARE", value_parser = share)]
    skip_near_duplicates: Option<f64>,
    #[command(flatten)]
    data_dir: DataDirOption,
}

/// Takes a file in, whole or not at all.
///
/// # Errors
/// The first line that cannot be used, by its number.
pub fn import(options: &ImportOptions, out: &Output) -> Result<()> {
    let filters = Filters {
        min_chars: options.min_chars.map(|n| n as usize),
        max_chars: options.max_chars.map(|n| n as usize),
        refusals: options.skip_refusals,
        boilerplate: options.skip_boilerplate,
        patterns: options.skip_matching.clone(),
        duplicates: options.skip_duplicates,
        near_duplicates: options.skip_near_duplicates,
    };
    let mut reader = Reader::open(&options.file, options.format, filters)?;
    let thumbprint = session::open(&options.data_dir, None, out)?;
    let imported = thumbprint
        .import(&mut reader)
        .map_err(|error| match error {
            ImportError::Data(error) => CliError::from(error),
            other => CliError::Failed(other.to_string()),
        })?;
    if out.is_json() {
        return out.object(&imported);
    }
    let passed: u64 = imported.passed.values().sum();
    out.line(format!(
        "recorded {} events of feedback from {} lines; {} were known, {passed} passed over",
        imported.recorded, imported.rows, imported.known
    ))?;
    for (why, n) in &imported.passed {
        let why = serde_json::to_value(why).unwrap_or_default();
        out.line(format!("  {n} {}", why.as_str().unwrap_or_default()))?;
    }
    Ok(())
}

#[derive(Args, Debug)]
pub struct ExportOptions {
    /// Where it goes: one JSON object a line. Replaced whole or not at all
    #[arg(value_name = "JSONL")]
    file: PathBuf,
    /// What lines are: preference (for TRL's DPOTrainer), unpaired (for its KTOTrainer), sharegpt, hh-rlhf, ultrafeedback, nectar, oasst,
    /// ranking
    #[arg(long, value_name = "NAME", default_value = Format::Preference.name())]
    format: Format,
    #[command(flatten)]
    data_dir: DataDirOption,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let share = text
        .parse()
        .ok()
        .filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "must be a number above 0, and 1 at most".to_owned())
}

/// Writes feedback in effect.
///
/// # Errors
/// The file cannot be written.
pub fn export(options: &ExportOptions, out: &Output) -> Result<()> {
    files::check_writable(&options.file)?;
    let thumbprint = session::open(&options.data_dir, None, out)?;
    let Exported { lines, left_out } =
        thumbprint.export_feedback_to(options.format, &options.file)?;
    if out.is_json() {
        let file = &options.file;
        return out.object(&json!({ "lines": lines, "left_out": left_out, "file": file }));
    }
    if left_out > 0 {
        let name = options.format.name();
        out.note(&format!(
            "left out {left_out}, which {name} has no line for"
        ));
    }
    out.line(format!("wrote {lines} lines to {}", options.file.display()))
}
