//! `import` and `export`: feedback in files. Never loads a model.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use thumbprint::exchange::{ExportFormat, Filters, Format, ImportError, Reader};

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
    /// How lines are to be understood: preference, unpaired, sharegpt, hh-rlhf, ultrafeedback, nectar, oasst [default: by the
    /// fields of the first line]
    #[arg(long, value_name = "NAME")]
    format: Option<Format>,
    /// Pass over rows whose prompt and longest answer have more characters
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_chars: Option<u32>,
    /// Pass over rows whose liked answer refuses to answer
    #[arg(long)]
    skip_refusals: bool,
    /// Pass over rows that differ from an earlier one in case, spaces and punctuation at most
    #[arg(long)]
    skip_duplicates: bool,
    #[command(flatten)]
    data_dir: DataDirOption,
}

/// Takes a file in, whole or not at all.
///
/// # Errors
/// The first line that cannot be used, by its number.
pub fn import(options: &ImportOptions, out: &Output) -> Result<()> {
    let filters = Filters {
        max_chars: options.max_chars.map(|n| n as usize),
        refusals: options.skip_refusals,
        duplicates: options.skip_duplicates,
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
    /// What a line holds
    #[arg(long, value_enum, default_value_t = LineOf::Preference, value_name = "NAME")]
    format: LineOf,
    #[command(flatten)]
    data_dir: DataDirOption,
}

/// What a line holds.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum LineOf {
    /// Prompt, chosen and rejected, for TRL's DPOTrainer
    Preference,
    /// Prompt, completion and label, for TRL's KTOTrainer
    Unpaired,
}

/// Writes feedback in effect.
///
/// # Errors
/// The file cannot be written.
pub fn export(options: &ExportOptions, out: &Output) -> Result<()> {
    files::check_writable(&options.file)?;
    let thumbprint = session::open(&options.data_dir, None, out)?;
    let format = match options.format {
        LineOf::Preference => ExportFormat::Preference,
        LineOf::Unpaired => ExportFormat::Unpaired,
    };
    let n = thumbprint.export_feedback_to(format, &options.file)?;
    if out.is_json() {
        return out.object(&json!({ "lines": n, "file": options.file }));
    }
    out.line(format!("wrote {n} lines to {}", options.file.display()))
}
