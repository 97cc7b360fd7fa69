//! From a file to lines, and from lines to rows.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::row::{object, parse};
use super::{DataError, PreferenceRow, Problem};

/// A line beyond this is not an example but a mistake (a binary file, say), and must not fill the memory.
const MAX_LINE: usize = 64 << 20;

/// JSON objects of a JSONL file, in order; empty lines are passed over. Stops after the first error: what follows a broken line is not to be
/// trusted.
#[derive(Debug)]
pub struct JsonLines<R> {
    path: PathBuf,
    input: R,
    line: usize,
    buffer: Vec<u8>,
    failed: bool,
}

impl JsonLines<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        match File::open(path) {
            Ok(file) => Ok(JsonLines::new(path, BufReader::new(file))),
            Err(e) => Err(DataError {
                path: path.to_owned(),
                line: 0,
                problem: e.into(),
            }),
        }
    }
}

impl<R: BufRead> JsonLines<R> {
    /// Reads from `input`; `path` is what errors call it.
    pub fn new(path: impl Into<PathBuf>, input: R) -> Self {
        JsonLines {
            path: path.into(),
            input,
            line: 0,
            buffer: Vec::new(),
            failed: false,
        }
    }

    /// The 1-based number of the line that was read last.
    pub fn line(&self) -> usize {
        self.line
    }

    /// An error about the line that was read last. Nothing is read after it.
    pub fn error(&mut self, problem: Problem) -> DataError {
        self.failed = true;
        DataError {
            path: self.path.clone(),
            line: self.line,
            problem,
        }
    }

    fn next_line(&mut self) -> Result<Option<Map<String, Value>>, Problem> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let limit = MAX_LINE as u64 + 1;
            if (&mut self.input)
                .take(limit)
                .read_until(b'\n', &mut self.buffer)?
                == 0
            {
                return Ok(None);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Problem::TooLong { limit: MAX_LINE });
            }
            let mut line = self.buffer.as_slice();
            if self.line == 1 {
                line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            }
            if !line.trim_ascii().is_empty() {
                return object(line).map(Some);
            }
        }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<Map<String, Value>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let fields = self.next_line().transpose()?;
        Some(fields.map_err(|problem| self.error(problem)))
    }
}

/// Rows of TRL's preference format, in order. Stops after the first error, as [`JsonLines`].
#[derive(Debug)]
pub struct PreferenceReader<R>(JsonLines<R>);

impl PreferenceReader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Ok(Self(JsonLines::open(path)?))
    }

    /// All rows of a file.
    ///
    /// # Errors
    /// The first line that cannot be used, or a file without rows.
    pub fn read_all(path: impl AsRef<Path>) -> Result<Vec<PreferenceRow>, DataError> {
        let path = path.as_ref();
        let rows = PreferenceReader::open(path)?.collect::<Result<Vec<_>, _>>()?;
        if rows.is_empty() {
            return Err(DataError {
                path: path.to_owned(),
                line: 0,
                problem: Problem::NoRows,
            });
        }
        Ok(rows)
    }
}

impl<R: BufRead> PreferenceReader<R> {
    /// Reads from `input`; `path` is what errors call it.
    pub fn new(path: impl Into<PathBuf>, input: R) -> Self {
        Self(JsonLines::new(path, input))
    }

    /// The 1-based number of the line that the last row came from.
    pub fn line(&self) -> usize {
        self.0.line()
    }
}

impl<R: BufRead> Iterator for PreferenceReader<R> {
    type Item = Result<PreferenceRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self.0.next()? {
            Ok(fields) => parse(&fields).map_err(|problem| self.0.error(problem)),
            Err(error) => Err(error),
        };
        Some(row)
    }
}
