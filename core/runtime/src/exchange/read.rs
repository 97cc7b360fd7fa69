//! Lines of a file, in order, as what they say.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};
use thumbprint_tune::data::{DataError, JsonLines, Problem};

use super::filter::Sieve;
use super::parse::parse;
use super::{Filters, Format, Imported, Passed, Said};

/// What the rows of a file say, in order; what is passed over is counted. Stops after the first error.
pub struct Reader<R> {
    lines: JsonLines<R>,
    /// What all lines have; if not given, that of the first line.
    format: Option<Format>,
    sieve: Sieve,
    counts: Imported,
    waiting: VecDeque<Said>,
}

impl Reader<BufReader<File>> {
    /// Opens a file; its format is found in its first line, if it is not given.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(
        path: impl AsRef<Path>,
        format: Option<Format>,
        filters: Filters,
    ) -> Result<Self, DataError> {
        Ok(Self::of_lines(JsonLines::open(path)?, format, filters))
    }
}

impl<R: BufRead> Reader<R> {
    /// The same from lines that are being read.
    pub fn of_lines(lines: JsonLines<R>, format: Option<Format>, filters: Filters) -> Self {
        Self {
            lines,
            format,
            sieve: Sieve::new(filters),
            counts: Imported::default(),
            waiting: VecDeque::new(),
        }
    }

    /// Lines read and rows passed over so far.
    pub fn counts(&self) -> &Imported {
        &self.counts
    }

    /// The 1-based number of the line that was said last.
    pub fn line(&self) -> usize {
        self.lines.line()
    }

    fn take_line(&mut self, fields: &Map<String, Value>) -> Result<(), DataError> {
        self.counts.rows += 1;
        let format = match self.format.or_else(|| Format::of_line(fields)) {
            Some(format) => *self.format.insert(format),
            None => {
                let names = Format::ALL.map(Format::name).join(", ");
                return Err(self.lines.error(Problem::Other(format!(
                    "has the fields of no known format: name one of {names}"
                ))));
            }
        };
        let rows = match parse(format, fields) {
            Ok(rows) => rows,
            // In a file of many rows, one without a difference is no mistake.
            Err(Problem::Identical | Problem::Repeated(_)) => vec![Err(Passed::Tie)],
            Err(problem) => return Err(self.lines.error(problem)),
        };
        for row in rows {
            match row.and_then(|said| self.sieve.passes(&said).map(|()| said)) {
                Ok(said) => self.waiting.push_back(said),
                Err(passed) => *self.counts.passed.entry(passed).or_default() += 1,
            }
        }
        Ok(())
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Said, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(said) = self.waiting.pop_front() {
                return Some(Ok(said));
            }
            let taken = match self.lines.next()? {
                Ok(fields) => self.take_line(&fields),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                return Some(Err(error));
            }
        }
    }
}
