//! Rows of a JSONL or CSV file, with their lines.

use std::path::Path;

use serde_json::{Map, Value};
use thumbprint_tune::data::{DataError, JsonLines, Problem};

pub type Fields = Map<String, Value>;

/// A file's rows with the lines that they begin on. What ends with `.csv` is read as CSV, anything else as JSON lines. A CSV file without
/// a header that has the first of `columns` is taken to have these.
pub fn read(path: &Path, columns: &[&str]) -> Result<Vec<(usize, Fields)>, DataError> {
    let rows = match path
        .extension()
        .is_some_and(|ext| ext.eq_ignore_ascii_case("csv"))
    {
        true => read_csv(path, columns)?,
        false => read_json_lines(path)?,
    };
    if rows.is_empty() {
        return Err(error(path, 0, Problem::Other("holds no rows".to_owned())));
    }
    Ok(rows)
}

/// What is wrong with a line of a file.
pub fn error(path: &Path, line: usize, problem: Problem) -> DataError {
    DataError {
        path: path.to_owned(),
        line,
        problem,
    }
}

/// The text of a field. Never empty.
pub fn text(fields: &Fields, name: &str) -> Result<String, Problem> {
    match fields.get(name) {
        Some(Value::String(text)) if text.trim().is_empty() => Err(Problem::Empty(name.to_owned())),
        Some(Value::String(text)) => Ok(text.clone()),
        None => Err(Problem::Missing(name.to_owned())),
        Some(_) => Err(wrong_kind(name, "a string")),
    }
}

/// Texts of a field that is a list of them.
pub fn texts(value: Option<&Value>, name: &str) -> Result<Vec<String>, Problem> {
    let Some(value) = value else {
        return Err(Problem::Missing(name.to_owned()));
    };
    let of = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let texts = value.as_array().map(|items| items.iter().map(of));
    let texts = texts.and_then(Iterator::collect::<Option<Vec<_>>>);
    texts.ok_or_else(|| wrong_kind(name, "a list of strings with some text"))
}

pub fn wrong_kind(field: impl Into<String>, expected: &'static str) -> Problem {
    Problem::WrongKind {
        field: field.into(),
        expected,
    }
}

fn read_json_lines(path: &Path) -> Result<Vec<(usize, Fields)>, DataError> {
    let mut lines = JsonLines::open(path)?;
    let mut rows = Vec::new();
    while let Some(fields) = lines.next() {
        rows.push((lines.line(), fields?));
    }
    Ok(rows)
}

fn read_csv(path: &Path, columns: &[&str]) -> Result<Vec<(usize, Fields)>, DataError> {
    let failed = |line, error: &csv::Error| match error.kind() {
        csv::ErrorKind::Io(source) => {
            let problem = std::io::Error::new(source.kind(), source.to_string());
            self::error(path, line, problem.into())
        }
        // Its own words would quote the field.
        _ => self::error(path, line, Problem::Other("is not CSV in UTF-8".to_owned())),
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_path(path)
        .map_err(|error| failed(0, &error))?;
    let mut names: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    let mut is_first = true;
    loop {
        let line = reader.position().line() as usize;
        if !reader
            .read_record(&mut record)
            .map_err(|error| failed(line, &error))?
        {
            return Ok(rows);
        }
        let line = record
            .position()
            .map_or(line, |position| position.line() as usize);
        if std::mem::take(&mut is_first) {
            let header: Vec<String> = record
                .iter()
                .map(|name| name.trim_start_matches('\u{feff}').trim().to_owned())
                .collect();
            if columns
                .first()
                .is_some_and(|name| header.iter().any(|h| h == name))
            {
                names = header;
                continue;
            }
        }
        if record.len() != names.len() {
            let problem = format!(
                "has {} fields, where {} are expected",
                record.len(),
                names.len()
            );
            return Err(error(path, line, Problem::Other(problem)));
        }
        let fields = names
            .iter()
            .zip(&record)
            .map(|(name, value)| (name.clone(), Value::String(value.to_owned())));
        rows.push((line, fields.collect()));
    }
}
