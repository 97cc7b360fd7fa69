//! Multiple choice by log-likelihood, as EleutherAI's lm-evaluation-harness defines it: the choice that the model finds likeliest after
//! the question is its answer; `acc_norm` divides each log-likelihood by the choice's length in characters first.
//!
//! | Format | A line | Before the choice | The choice |
//! |---|---|---|---|
//! | [`ChoiceFormat::Arc`] | `question`, `choices` (`text`, `label`), `answerKey`; or the original release's, with `question.stem` | `Question: ...\nAnswer:` | its text |
//! | [`ChoiceFormat::HellaSwag`] | `activity_label`, `ctx_a`, `ctx_b`, `endings`, `label` | `activity_label: ctx_a ctx_b` | the ending |
//! | [`ChoiceFormat::Mmlu`] | `question`, `choices`, `answer`, `subject`; or CSV: question, four choices, letter | what MMLU's authors wrote: the choices by letter, `Answer:` | its letter |
//!
//! No chat template and no examples before the question, as in the harness's tasks `arc_easy`, `arc_challenge`, `hellaswag` and `mmlu`
//! at zero shots.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;
use thumbprint_tune::data::{DataError, Problem};

use super::Accuracy;
use super::table::{self, Fields, text, texts, wrong_kind};

/// How the rows of a file are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChoiceFormat {
    /// AI2's Reasoning Challenge.
    Arc,
    /// HellaSwag.
    HellaSwag,
    /// Massive Multitask Language Understanding.
    Mmlu,
}

impl ChoiceFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Arc, Self::HellaSwag, Self::Mmlu];

    /// The name in commands and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arc => "arc",
            Self::HellaSwag => "hellaswag",
            Self::Mmlu => "mmlu",
        }
    }

    /// The format of a row, by the fields that it has.
    fn of_row(fields: &Fields) -> Option<Self> {
        let has = |name: &str| fields.contains_key(name);
        if has("endings") {
            Some(Self::HellaSwag)
        } else if has("answerKey") {
            Some(Self::Arc)
        } else if has("question") && has("answer") {
            Some(Self::Mmlu)
        } else {
            None
        }
    }
}

impl FromStr for ChoiceFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut formats = Self::ALL.into_iter();
        formats.find(|format| format.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no format {name}: use one of {names}")
        })
    }
}

/// A question, ready to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The line of the file that it stands on, from 1.
    pub line: usize,
    /// What it is about, where the file says so.
    pub subject: Option<String>,
    /// What comes before the choice.
    pub context: String,
    /// The choices; each follows the context after a space. At least two, none empty.
    pub choices: Vec<String>,
    /// The index of the right one.
    pub gold: usize,
}

/// Columns of MMLU's CSV files, which have no header.
const MMLU_COLUMNS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

/// Reads a file. Its format is found in its first row, if it is not given.
///
/// # Errors
/// The first line that cannot be used.
pub fn read(path: &Path, format: Option<ChoiceFormat>) -> Result<Vec<Question>, DataError> {
    let mut format = format;
    let rows = table::read(path, &MMLU_COLUMNS)?;
    rows.iter()
        .map(|(line, fields)| {
            let parsed = match format.or_else(|| ChoiceFormat::of_row(fields)) {
                Some(known) => parse(*format.insert(known), fields),
                None => {
                    let names = ChoiceFormat::ALL.map(ChoiceFormat::name).join(", ");
                    Err(Problem::Other(format!(
                        "has the fields of no known format: name one of {names}"
                    )))
                }
            };
            let question = parsed.and_then(|(subject, context, choices, gold)| {
                check(*line, subject, context, choices, gold)
            });
            question.map_err(|problem| table::error(path, *line, problem))
        })
        .collect()
}

type Parsed = (Option<String>, String, Vec<String>, usize);

fn parse(format: ChoiceFormat, fields: &Fields) -> Result<Parsed, Problem> {
    match format {
        ChoiceFormat::Arc => arc(fields),
        ChoiceFormat::HellaSwag => hella_swag(fields),
        ChoiceFormat::Mmlu => mmlu(fields),
    }
}

fn check(
    line: usize,
    subject: Option<String>,
    context: String,
    choices: Vec<String>,
    gold: usize,
) -> Result<Question, Problem> {
    if choices.len() < 2 {
        return Err(Problem::Other("has fewer than two choices".to_owned()));
    }
    if let Some(empty) = choices.iter().position(|choice| choice.is_empty()) {
        return Err(Problem::Other(format!("choice {} is empty", empty + 1)));
    }
    if gold >= choices.len() {
        let n = choices.len();
        return Err(Problem::Other(format!(
            "its answer is number {gold} from 0, where there are {n} choices"
        )));
    }
    Ok(Question {
        line,
        subject,
        context,
        choices,
        gold,
    })
}

fn arc(fields: &Fields) -> Result<Parsed, Problem> {
    let (stem, choices, labels) = match fields.get("question") {
        Some(Value::Object(question)) => {
            let stem = text(question, "stem")?;
            let items = question
                .get("choices")
                .and_then(Value::as_array)
                .ok_or_else(|| wrong_kind("question.choices", "a list"))?;
            let part = |name: &str| -> Result<Vec<String>, Problem> {
                let of = |item: &Value| item.get(name).and_then(Value::as_str).map(str::to_owned);
                let parts: Option<Vec<String>> = items.iter().map(of).collect();
                let expected = "a list of objects with `text` and `label`";
                parts.ok_or_else(|| wrong_kind("question.choices", expected))
            };
            (stem, part("text")?, part("label")?)
        }
        _ => {
            let stem = text(fields, "question")?;
            let choices = fields
                .get("choices")
                .and_then(Value::as_object)
                .ok_or_else(|| wrong_kind("choices", "an object with `text` and `label`"))?;
            (
                stem,
                texts(choices.get("text"), "choices.text")?,
                texts(choices.get("label"), "choices.label")?,
            )
        }
    };
    let key = text(fields, "answerKey")?;
    let gold = labels.iter().position(|label| *label == key);
    let gold = gold.ok_or_else(|| wrong_kind("answerKey", "one of the choices' labels"))?;
    Ok((None, format!("Question: {stem}\nAnswer:"), choices, gold))
}

fn hella_swag(fields: &Fields) -> Result<Parsed, Problem> {
    let part = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        None => Err(Problem::Missing(name.to_owned())),
        Some(_) => Err(wrong_kind(name, "a string")),
    };
    let (activity, a, b) = (part("activity_label")?, part("ctx_a")?, part("ctx_b")?);
    let context = without_artifacts(&format!("{activity}: {a} {}", capitalized(b)));
    let endings = texts(fields.get("endings"), "endings")?;
    let endings = endings.iter().map(|ending| without_artifacts(ending));
    let label = match fields.get("label") {
        None => return Err(Problem::Missing("label".to_owned())),
        Some(Value::String(label)) if label.is_empty() => {
            return Err(Problem::Other(
                "has no label: this is the test split, whose answers are not published".to_owned(),
            ));
        }
        Some(label) => number(label).ok_or_else(|| wrong_kind("label", "a number from 0"))?,
    };
    Ok((None, context, endings.collect(), label))
}

fn mmlu(fields: &Fields) -> Result<Parsed, Problem> {
    let question = text(fields, "question")?;
    let choices = match fields.get("choices") {
        Some(_) => texts(fields.get("choices"), "choices")?,
        None => ["A", "B", "C", "D"]
            .iter()
            .map(|letter| text(fields, letter))
            .collect::<Result<Vec<_>, _>>()?,
    };
    if choices.len() > 26 {
        return Err(Problem::Other("has more choices than letters".to_owned()));
    }
    let letters: Vec<String> = ('A'..='Z').take(choices.len()).map(String::from).collect();
    let answer = fields.get("answer");
    let answer = answer.ok_or_else(|| Problem::Missing("answer".to_owned()))?;
    let by_letter = answer
        .as_str()
        .and_then(|answer| letters.iter().position(|letter| *letter == answer.trim()));
    let gold = by_letter.or_else(|| number(answer));
    let gold =
        gold.ok_or_else(|| wrong_kind("answer", "a choice's letter or its number from 0"))?;
    let subject = match fields.get("subject") {
        Some(Value::String(subject)) if !subject.is_empty() => Some(subject.clone()),
        _ => None,
    };
    let mut context = subject.as_ref().map_or(String::new(), |subject| {
        let subject = subject.replace('_', " ");
        format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
    });
    context.push_str(question.trim());
    for (letter, choice) in letters.iter().zip(&choices) {
        context.push_str(&format!("\n{letter}. {choice}"));
    }
    context.push_str("\nAnswer:");
    Ok((subject, context, letters, gold))
}

fn number(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_u64().map(|number| number as usize),
    }
}

/// Without what WikiHow's layout left in HellaSwag: headings in brackets.
fn without_artifacts(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        let (before, bracket) = rest.split_at(open);
        clean.push_str(before);
        match bracket.find([']', '\n']) {
            Some(end) if bracket[end..].starts_with(']') => rest = &bracket[end + 1..],
            _ => {
                clean.push('[');
                rest = &bracket[1..];
            }
        }
    }
    clean.push_str(rest);
    clean.replace("  ", " ")
}

/// The first letter large and all others small, as Python's `str.capitalize`.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase());
    first
        .into_iter()
        .flatten()
        .chain(letters.flat_map(char::to_lowercase))
        .collect()
}

/// What a model answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The likeliest choice.
    pub pick: usize,
    /// The likeliest for its length.
    pub pick_norm: usize,
    /// The right one.
    pub gold: usize,
}

impl Answer {
    /// From the log-likelihood of each choice, nats. Of equals, the first counts.
    pub fn new(question: &Question, logps: &[f64]) -> Self {
        let per_character = logps.iter().zip(&question.choices);
        let per_character =
            per_character.map(|(logp, choice)| logp / choice.chars().count() as f64);
        Self {
            pick: likeliest(logps.iter().copied()),
            pick_norm: likeliest(per_character),
            gold: question.gold,
        }
    }

    /// Whether `acc_norm` counts it.
    pub fn is_right(&self) -> bool {
        self.pick_norm == self.gold
    }
}

fn likeliest(logps: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (at, logp) in logps.enumerate() {
        if logp > best.1 {
            best = (at, logp);
        }
    }
    best.0
}

/// What a model knows of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChoiceReport {
    /// Share of questions whose likeliest choice is right.
    pub acc: Accuracy,
    /// Share of questions whose likeliest choice for its length, log-likelihood by character, is right. For MMLU it is `acc`.
    pub acc_norm: Accuracy,
    /// `acc_norm` by subject, where the file names any.
    pub subjects: BTreeMap<String, Accuracy>,
    /// The answer to each question, in their order.
    #[serde(skip)]
    pub answers: Vec<Answer>,
}

impl ChoiceReport {
    /// Counts.
    pub fn new(questions: &[Question], answers: Vec<Answer>) -> Self {
        let right = answers.iter().filter(|answer| answer.pick == answer.gold);
        let right_norm = answers.iter().filter(|answer| answer.is_right());
        let (right, right_norm) = (right.count() as f64, right_norm.count() as f64);
        let mut subjects: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (question, answer) in questions.iter().zip(&answers) {
            if let Some(subject) = &question.subject {
                let (right, n) = subjects.entry(subject.clone()).or_default();
                *right += usize::from(answer.is_right());
                *n += 1;
            }
        }
        let subjects = subjects
            .into_iter()
            .map(|(subject, (right, n))| (subject, Accuracy::new(right as f64, n)));
        Self {
            acc: Accuracy::new(right, answers.len()),
            acc_norm: Accuracy::new(right_norm, answers.len()),
            subjects: subjects.collect(),
            answers,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        (dir, path)
    }

    fn one(name: &str, text: &str) -> Question {
        let (_dir, path) = file(name, text);
        let mut questions = read(&path, None).unwrap();
        assert_eq!(questions.len(), 1);
        questions.remove(0)
    }

    fn problem(name: &str, text: &str) -> String {
        let (_dir, path) = file(name, text);
        let error = read(&path, None).unwrap_err();
        assert_eq!(error.path, path);
        format!("{}: {}", error.line, error.problem)
    }

    #[test]
    fn both_forms_of_arc_ask_the_same() {
        let hub = r#"{"id": "x", "question": "Which is hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}"#;
        let original = r#"{"id": "x", "question": {"stem": "Which is hot?", "choices": [{"text": "ice", "label": "1"}, {"text": "fire", "label": "2"}]}, "answerKey": "2"}"#;
        let question = one("a.jsonl", hub);
        assert_eq!(question.context, "Question: Which is hot?\nAnswer:");
        assert_eq!(
            (question.choices.as_slice(), question.gold),
            (["ice", "fire"].map(String::from).as_slice(), 1)
        );
        assert_eq!(one("a.jsonl", original), question);
    }

    #[test]
    fn hellaswag_is_cleaned_as_the_harness_does() {
        let line = r#"{"activity_label": "Making tea", "ctx_a": "A woman boils water. [header] How [title] Choose a cup", "ctx_b": "the WOMAN", "endings": ["pours  it.", " drinks [step] it. "], "label": "1"}"#;
        let question = one("h.jsonl", line);
        assert_eq!(
            question.context,
            "Making tea: A woman boils water. How. Choose a cup The woman"
        );
        assert_eq!(question.choices, ["pours it.", "drinks it."]);
        assert_eq!(question.gold, 1);
        assert_eq!(without_artifacts("a [b c"), "a [b c");
        assert_eq!(without_artifacts("a [b\nc] d"), "a [b\nc] d");
        assert_eq!(capitalized("éa B"), "Éa b");
        assert_eq!(capitalized(""), "");
    }

    #[test]
    fn mmlu_as_json_and_as_csv_ask_the_same() {
        let json =
            r#"{"question": " Two plus\ntwo? ", "choices": ["3", "4", "5", "6"], "answer": 1}"#;
        let csv = "\" Two plus\ntwo? \",3,4,5,6,B\n";
        let question = one("m.jsonl", json);
        assert_eq!(
            question.context,
            "Two plus\ntwo?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"
        );
        assert_eq!(
            (question.choices.join(""), question.gold),
            ("ABCD".to_owned(), 1)
        );
        assert_eq!(one("m.csv", csv), question);
        let header = format!("question,A,B,C,D,answer\n{csv}");
        let with_header = one("m.csv", &header);
        assert_eq!((with_header.line, with_header.gold), (2, 1));
        let with_subject = one(
            "m.jsonl",
            &json.replace("1}", "\"B\", \"subject\": \"abstract_algebra\"}"),
        );
        let told = "The following are multiple choice questions (with answers) about abstract algebra.\n\nTwo";
        assert!(
            with_subject.context.starts_with(told),
            "{}",
            with_subject.context
        );
        assert_eq!(with_subject.gold, 1);
    }

    #[test]
    fn what_cannot_be_used_is_named_by_file_and_line() {
        let good = r#"{"question": "q", "choices": ["a", "b"], "answer": 0}"#;
        for (name, second, expected) in [
            (
                "q.jsonl",
                r#"{"question": "q", "choices": ["a", "b"], "answer": 2}"#,
                "2: its answer is number 2",
            ),
            (
                "q.jsonl",
                r#"{"question": "q", "choices": ["a"], "answer": 0}"#,
                "2: has fewer than two choices",
            ),
            (
                "q.jsonl",
                r#"{"question": "q", "choices": "ab", "answer": 0}"#,
                "2: field `choices` must be a list",
            ),
            (
                "q.jsonl",
                r#"{"question": "q", "choices": ["a", ""], "answer": 0}"#,
                "2: field `choices` must be",
            ),
            (
                "q.jsonl",
                r#"{"question": " ", "choices": ["a", "b"], "answer": 0}"#,
                "2: field `question` is empty",
            ),
            (
                "q.jsonl",
                r#"{"choices": ["a", "b"], "answer": 0}"#,
                "2: has no field `question`",
            ),
            (
                "q.jsonl",
                r#"{"question": "q", "choices": ["a", "b"], "answer": "E"}"#,
                "2: field `answer` must be",
            ),
            ("q.jsonl", "nonsense", "2: is not JSON"),
        ] {
            let found = problem(name, &format!("{good}\n{second}\n"));
            assert!(found.starts_with(expected), "{found} is not {expected}");
        }
        assert!(problem("q.jsonl", r#"{"x": 1}"#).contains("no known format"));
        assert!(problem("q.jsonl", "").contains("holds no rows"));
        let arc = r#"{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}"#;
        assert!(problem("q.jsonl", arc).starts_with("1: field `answerKey`"));
        let test_split = r#"{"activity_label": "x", "ctx_a": "a", "ctx_b": "b", "endings": ["c", "d"], "label": ""}"#;
        assert!(problem("q.jsonl", test_split).contains("test split"));
        assert!(problem("m.csv", "q,a,b,c,d,A\nq,a,b\n").starts_with("2: has 3 fields"));
        let error = read(Path::new("/nonexistent/q.csv"), None).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/q.csv"));
    }

    #[test]
    fn accuracies_are_those_of_the_harness() {
        let question = Question {
            line: 1,
            subject: Some("s".to_owned()),
            context: "c".to_owned(),
            choices: ["no", "certainly", "né"].map(String::from).to_vec(),
            gold: 1,
        };
        // By sum the first is likeliest; by character (2, 9 and 2) the second.
        let answer = Answer::new(&question, &[-2.0, -4.5, -2.5]);
        assert_eq!((answer.pick, answer.pick_norm), (0, 1));
        let tied = Answer::new(&question, &[-1.0, -1.0, -1.0]);
        assert_eq!((tied.pick, tied.pick_norm), (0, 1));
        let questions = [
            question.clone(),
            Question {
                subject: None,
                ..question
            },
        ];
        let report = ChoiceReport::new(
            &questions,
            vec![
                answer,
                Answer {
                    pick_norm: 2,
                    ..answer
                },
            ],
        );
        assert_eq!((report.acc.share, report.acc_norm.share), (0.0, 0.5));
        assert_eq!(report.subjects["s"], Accuracy::new(1.0, 1));
    }
}
