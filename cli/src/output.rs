//! Standard output and standard error: text or JSON, colour on a terminal, no panic when a pipe closes.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::{CliError, Result};

/// Where a command writes to.
pub struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    /// Text, or with `json` objects.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            colour: !json && colour(io::stdout().is_terminal()),
        }
    }

    /// Whether objects are wanted instead of text.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A line of text.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.as_ref())
            .and_then(|()| out.flush())
            .map_err(CliError::Output)
    }

    /// A piece of text, without an end of line.
    pub fn text(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        write!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(CliError::Output)
    }

    /// An object on a line of its own.
    pub fn object(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|e| CliError::Failed(e.to_string()))?;
        self.line(text)
    }

    /// A remark for whoever watches, on standard error: it is not part of the result.
    pub fn note(&self, text: &str) {
        // Without standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Emphasised on a terminal.
    pub fn bold<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.paint("1", text)
    }

    /// Good news.
    pub fn green<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.paint("32", text)
    }

    /// Bad news.
    pub fn red<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.paint("31", text)
    }

    /// A bar on standard error, invisible where that is not a terminal.
    pub fn progress(&self, length: u64, what: &'static str) -> ProgressBar {
        let bar = ProgressBar::new(length);
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}");
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        bar.with_message(what)
    }

    /// Says what went wrong, in one line, and gives the exit code.
    pub fn fail(&self, error: &CliError) -> ExitCode {
        if !error.is_broken_pipe() {
            let message = one_line(&error.to_string());
            if self.json && !matches!(error, CliError::Told(_)) {
                self.error_object(&message);
            }
            let word = if colour(io::stderr().is_terminal()) {
                "\x1b[1;31merror\x1b[0m"
            } else {
                "error"
            };
            self.note(&format!("{word}: {message}"));
        }
        error.exit_code()
    }

    /// The object that stands for a failure.
    pub fn error_object(&self, message: &str) {
        // The failure is being reported already.
        let _ = self.object(&serde_json::json!({ "error": message }));
    }

    fn paint<'a>(&self, code: &str, text: &'a str) -> Cow<'a, str> {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m").into()
        } else {
            text.into()
        }
    }
}

/// Rows of text with columns of equal width, all but the first aligned to the right.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let n = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|r| r.get(column))
            .map(|s| s.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..n).map(|column| width(column).unwrap_or(0)).collect();
    let cell = |(column, text): (usize, &String)| match column {
        0 => format!("{text:<0$}", widths[0]),
        _ => format!("{text:>0$}", widths[column]),
    };
    let line = |row: &Vec<String>| {
        row.iter()
            .enumerate()
            .map(cell)
            .collect::<Vec<_>>()
            .join("  ")
    };
    rows.iter()
        .map(|row| line(row).trim_end().to_owned())
        .collect()
}

/// no-color.org, and terminals that cannot.
fn colour(is_terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(one_line("a\n\n  b\r\nc\n"), "a; b; c");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["bcd".to_owned(), "23".to_owned()],
        ];
        assert_eq!(columns(&rows), ["a     1", "bcd  23"]);
    }
}
