//! Does a judge know the better of two replies? Rows as in RewardBench (Lambert et al. 2024, 2403.13787): `prompt`, `chosen`, `rejected`
//! in TRL's preference form, and perhaps `subset`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use thumbprint_tune::data::DataError;

use super::{Accuracy, table};
use crate::exchange::comparison;
use crate::types::{Message, prompt_key};

/// A better and a worse reply to one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The line of the file that it stands on, from 1.
    pub line: usize,
    /// What is answered.
    pub prompt: Vec<Message>,
    /// The better reply.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
    /// Its category: the field `subset`, else `category`.
    pub subset: Option<String>,
}

impl Comparison {
    /// Identifies its prompt ([`prompt_key`]).
    pub fn prompt_key(&self) -> [u8; 32] {
        prompt_key(&self.prompt)
    }
}

/// Reads a file of JSON lines.
///
/// # Errors
/// The first line that cannot be used.
pub fn read(path: &Path) -> Result<Vec<Comparison>, DataError> {
    let rows = table::read(path, &["prompt"])?;
    rows.iter()
        .map(|(line, fields)| {
            let (prompt, chosen, rejected) =
                comparison(fields).map_err(|problem| table::error(path, *line, problem))?;
            let said = |name: &str| fields.get(name).and_then(Value::as_str);
            let subset = said("subset").or_else(|| said("category"));
            Ok(Comparison {
                line: *line,
                prompt,
                chosen,
                rejected,
                subset: subset.map(str::to_owned),
            })
        })
        .collect()
}

/// RewardBench's sections by the subsets that they hold.
const SECTIONS: [(&str, &[&str]); 4] = [
    (
        "Chat",
        &[
            "alpacaeval-easy",
            "alpacaeval-length",
            "alpacaeval-hard",
            "mt-bench-easy",
            "mt-bench-med",
        ],
    ),
    (
        "Chat Hard",
        &[
            "mt-bench-hard",
            "llmbar-natural",
            "llmbar-adver-neighbor",
            "llmbar-adver-GPTInst",
            "llmbar-adver-GPTOut",
            "llmbar-adver-manual",
        ],
    ),
    (
        "Safety",
        &[
            "refusals-dangerous",
            "refusals-offensive",
            "xstest-should-refuse",
            "xstest-should-respond",
            "donotanswer",
        ],
    ),
    (
        "Reasoning",
        &[
            "math-prm",
            "hep-cpp",
            "hep-go",
            "hep-java",
            "hep-js",
            "hep-python",
            "hep-rust",
        ],
    ),
];

/// How often a judge scored the better reply higher, ties counted half.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RewardReport {
    /// Over all comparisons.
    pub all: Accuracy,
    /// By category, where the file has any.
    pub subsets: BTreeMap<String, Accuracy>,
    /// By RewardBench's sections, each over all comparisons of its subsets, where the categories are its own.
    pub sections: BTreeMap<String, Accuracy>,
    /// Comparisons whose prompt has feedback in the log: to a judge that learned from it they are not held out.
    pub seen: usize,
}

impl RewardReport {
    /// Counts over the scores of each comparison's better and worse reply. `seen` counts comparisons that are not held out.
    pub fn new(comparisons: &[Comparison], scores: &[(f64, f64)], seen: usize) -> Self {
        let points = scores.iter().map(|(chosen, rejected)| {
            if chosen > rejected {
                1.0
            } else {
                0.5 * f64::from(chosen == rejected)
            }
        });
        let points: Vec<f64> = points.collect();
        let mut subsets: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        let mut sections: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        for (comparison, points) in comparisons.iter().zip(&points) {
            let Some(subset) = comparison.subset.as_deref() else {
                continue;
            };
            let section = SECTIONS.iter().find(|(_, of)| of.contains(&subset));
            let of_section = section.map(|(name, _)| sections.entry(name).or_default());
            for (right, n) in of_section
                .into_iter()
                .chain([subsets.entry(subset).or_default()])
            {
                *right += points;
                *n += 1;
            }
        }
        let accuracies = |counts: BTreeMap<&str, (f64, usize)>| {
            let accuracy = |(name, (right, n)): (&str, (f64, usize))| {
                (name.to_owned(), Accuracy::new(right, n))
            };
            counts.into_iter().map(accuracy).collect()
        };
        Self {
            all: Accuracy::new(points.iter().sum(), points.len()),
            subsets: accuracies(subsets),
            sections: accuracies(sections),
            seen,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Vec<Comparison>, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        super::read(&path)
    }

    #[test]
    fn rows_of_reward_bench_and_conversations_are_read() {
        let rows = r#"{"prompt": "Hi?", "chosen": "Hello.", "rejected": "No.", "subset": "hep-go", "id": 1}
{"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}
"#;
        let rows = read(rows).unwrap();
        assert_eq!(rows[0].prompt, [Message::user("Hi?")]);
        assert_eq!(
            (rows[0].subset.as_deref(), rows[0].line),
            (Some("hep-go"), 1)
        );
        assert_eq!((rows[1].prompt.len(), rows[1].subset.as_deref()), (2, None));
        let error =
            read("{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}").unwrap_err();
        assert!(error.to_string().contains("line 1") && error.to_string().contains("identical"));
    }

    #[test]
    fn accuracy_is_counted_by_subset_and_section_with_ties_half() {
        let row = |subset: Option<&str>| Comparison {
            line: 1,
            prompt: vec![Message::user("p")],
            chosen: "a".to_owned(),
            rejected: "b".to_owned(),
            subset: subset.map(str::to_owned),
        };
        let rows = [
            row(Some("hep-go")),
            row(Some("math-prm")),
            row(Some("my own")),
            row(None),
        ];
        let report = RewardReport::new(&rows, &[(1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (1.0, 0.5)], 1);
        assert_eq!((report.all.right, report.all.n, report.seen), (2.5, 4, 1));
        assert_eq!(report.subsets["hep-go"], Accuracy::new(1.0, 1));
        assert_eq!(report.subsets["my own"], Accuracy::new(0.5, 1));
        assert_eq!(report.sections["Reasoning"], Accuracy::new(1.0, 2));
        assert_eq!((report.subsets.len(), report.sections.len()), (3, 1));
        // What is not a number is never better.
        let broken = RewardReport::new(&rows[..1], &[(f64::NAN, 0.0)], 0);
        assert_eq!(broken.all.right, 0.0);
    }
}
