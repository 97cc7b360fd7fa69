//! People and the questions that they ask, from a file.
//!
//! ```json
//! {
//!   "about": "Who they are and what they are for.",
//!   "max_tokens": 192,
//!   "users": [
//!     {
//!       "name": "lists",
//!       "about": "Likes a short bulleted list.",
//!       "system_prompt": "Answer with a short bulleted list.",
//!       "utility": [
//!         {"feature": "bullets", "weight": 1.0},
//!         {"feature": {"length": 80}, "weight": 0.6, "mean": -0.8, "sd": 0.4}
//!       ],
//!       "edits": [{"shorten": 90}, {"bullets": 4}]
//!     }
//!   ],
//!   "training": [{"text": "How do I poach an egg?", "keywords": ["simmer|boil", "minute|=3"]}],
//!   "held_out": [{"text": "Why do cats purr?", "keywords": ["content|happy", "calm"]}]
//! }
//! ```
//!
//! A keyword is a list of alternatives, `a|b|c`: any of them counts, once. `=word` matches a whole word, one with signs (`<!--`)
//! anywhere, any other the beginning of a word or of a few words; all in lower case. None may stand in its own question, so that
//! giving the question back recalls nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::edits::Edit;
use crate::features::keyword_recall;
use crate::taste::Term;

const DEVELOPMENT: &str = include_str!("../users/development.json");
const LOCKED: &str = include_str!("../users/locked.json");
/// Tokens of a reply at most, where the file does not say.
const MAX_TOKENS: u32 = 192;
/// Replies to one prompt that a person looks at, where the file does not say.
const REPLIES: usize = 4;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// What the person types.
    pub text: String,
    /// Points of a good answer, each with its alternatives; written down before any reply was seen.
    pub keywords: Vec<String>,
}

/// A person as the file has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// For readers of the report.
    pub about: String,
    /// The taste in words, as one would put it into a system prompt instead of teaching it.
    pub system_prompt: String,
    /// Share of the usual replies that get a 👍, in (0, 1): the threshold on the utility.
    #[serde(default = "half")]
    pub liked: f64,
    /// Replies to one prompt that the person looks at and judges.
    #[serde(default = "replies")]
    pub replies: usize,
    /// The hidden taste.
    pub utility: Vec<Term>,
    /// How the person rewrites a reply where none shows the taste; empty: only thumbs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
}

/// People with the questions that they teach on, and those that they are asked about afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Population {
    /// For readers of the file.
    #[serde(default)]
    pub about: String,
    /// Tokens of a reply at most.
    #[serde(default = "max_tokens")]
    pub max_tokens: u32,
    /// The people.
    pub users: Vec<User>,
    /// Questions asked while teaching.
    pub training: Vec<Prompt>,
    /// Questions that nothing is learned from.
    pub held_out: Vec<Prompt>,
}

fn half() -> f64 {
    0.5
}

fn replies() -> usize {
    REPLIES
}

fn max_tokens() -> u32 {
    MAX_TOKENS
}

/// Why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsersError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not JSON of the right shape; the source names line and column.
    #[error("{origin}: {source}")]
    Json {
        /// The file.
        origin: String,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// Something in it makes no sense.
    #[error("{origin}: {place}: {problem}")]
    Invalid {
        /// The file.
        origin: String,
        /// Which user or prompt.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl Population {
    /// The users and prompts that defaults may be tuned on.
    pub fn development() -> &'static Self {
        static PARSED: OnceLock<Population> = OnceLock::new();
        PARSED.get_or_init(|| built_in(DEVELOPMENT))
    }

    /// The users and prompts that are for the report only.
    pub fn locked() -> &'static Self {
        static PARSED: OnceLock<Population> = OnceLock::new();
        PARSED.get_or_init(|| built_in(LOCKED))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`UsersError`]: which file, where in it, and what is wrong.
    pub fn read(path: &Path) -> Result<Self, UsersError> {
        let text = std::fs::read_to_string(path).map_err(|source| UsersError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the contents of a file that errors call `origin`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, origin: &str) -> Result<Self, UsersError> {
        let parsed: Self = serde_json::from_str(text).map_err(|source| UsersError::Json {
            origin: origin.to_owned(),
            source,
        })?;
        match parsed.problem() {
            None => Ok(parsed),
            Some((place, problem)) => Err(UsersError::Invalid {
                origin: origin.to_owned(),
                place,
                problem,
            }),
        }
    }

    /// The prompt with this text, from either list.
    pub fn find(&self, text: &str) -> Option<&Prompt> {
        self.training
            .iter()
            .chain(&self.held_out)
            .find(|prompt| prompt.text == text)
    }

    /// The user of this name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    fn problem(&self) -> Option<(String, String)> {
        let whole = |problem: &str| Some(("the file".to_owned(), problem.to_owned()));
        if self.users.is_empty() {
            return whole("it has no users");
        }
        if self.training.is_empty() || self.held_out.is_empty() {
            return whole("it needs at least one training and one held_out prompt");
        }
        if !(8..=4096).contains(&self.max_tokens) {
            return whole("max_tokens must be in 8 to 4096");
        }
        let mut names = HashSet::new();
        for user in &self.users {
            let problem = user.problem().or_else(|| {
                (!names.insert(&user.name)).then(|| "another user has the same name".to_owned())
            });
            if let Some(problem) = problem {
                return Some((format!("user `{}`", user.name), problem));
            }
        }
        let mut asked = HashSet::new();
        for (list, prompts) in [("training", &self.training), ("held_out", &self.held_out)] {
            for (at, prompt) in prompts.iter().enumerate() {
                let problem = prompt.problem().or_else(|| {
                    (!asked.insert(prompt.text.trim()))
                        .then(|| "the same question stands in the file already".to_owned())
                });
                if let Some(problem) = problem {
                    return Some((format!("{list} prompt {}", at + 1), problem));
                }
            }
        }
        None
    }
}

impl User {
    fn problem(&self) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let owned = |problem: &str| Some(problem.to_owned());
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return owned("a name has letters, digits, - and _, since files are called by it");
        }
        if self.system_prompt.trim().is_empty() {
            return owned("system_prompt is empty: it is what teaching is compared with");
        }
        if !(self.liked > 0.0 && self.liked < 1.0) {
            return owned("liked must be above 0 and below 1");
        }
        if !(1..=16).contains(&self.replies) {
            return owned("replies must be in 1 to 16");
        }
        if self.utility.is_empty() {
            return owned("utility is empty: nobody could please this user");
        }
        let terms = self.utility.iter().map(Term::problem);
        let edits = self.edits.iter().map(Edit::problem);
        let numbered = |what: &'static str, problems: Vec<Option<&'static str>>| {
            let found = problems.into_iter().enumerate();
            found
                .filter_map(|(at, problem)| Some(format!("{what} {}: {}", at + 1, problem?)))
                .next()
        };
        numbered("utility term", terms.collect()).or_else(|| numbered("edit", edits.collect()))
    }
}

impl Prompt {
    fn problem(&self) -> Option<String> {
        if self.text.trim().is_empty() {
            return Some("its text is empty".to_owned());
        }
        if self.keywords.is_empty() {
            return Some("it has no keywords: what would a good answer mention?".to_owned());
        }
        for keyword in &self.keywords {
            let alternatives: Vec<&str> = keyword.split('|').collect();
            if alternatives.iter().any(|a| a.trim_matches('=').is_empty()) {
                return Some(format!("keyword `{keyword}` has an empty alternative"));
            }
            if *keyword != keyword.to_lowercase() {
                return Some(format!("keyword `{keyword}` must be in lower case"));
            }
        }
        (keyword_recall(self, &self.text) > 0.0).then(|| {
            "a keyword stands in the question itself, so that giving it back would recall something"
                .to_owned()
        })
    }
}

/// The demo's user.
pub fn demo() -> &'static User {
    &Population::development().users[0]
}

fn built_in(text: &str) -> Population {
    match Population::parse(text, "built in") {
        Ok(population) => population,
        // Tested: the files come with the crate.
        Err(error) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::text::content_stems;

    fn all() -> impl Iterator<Item = &'static Prompt> {
        [Population::development(), Population::locked()]
            .into_iter()
            .flat_map(|population| population.training.iter().chain(&population.held_out))
    }

    #[test]
    fn there_are_as_many_questions_as_the_documents_say() {
        let count = |population: &Population| {
            (
                population.users.len(),
                population.training.len(),
                population.held_out.len(),
            )
        };
        assert_eq!(count(Population::development()), (6, 75, 100));
        assert_eq!(count(Population::locked()), (4, 120, 200));
    }

    #[test]
    fn no_question_is_near_another_of_either_file() {
        let asked: Vec<(&str, HashSet<String>)> = all()
            .map(|prompt| (prompt.text.as_str(), content_stems(&prompt.text)))
            .collect();
        for (i, (one, stems)) in asked.iter().enumerate() {
            assert!(!stems.is_empty(), "{one}");
            for (other, others) in &asked[i + 1..] {
                let shared = stems.intersection(others).count() as f64;
                let jaccard = shared / stems.union(others).count() as f64;
                assert!(jaccard < 0.5, "{jaccard:.2}: {one} / {other}");
            }
        }
    }

    #[test]
    fn every_question_has_up_to_six_keywords_of_more_than_a_letter() {
        for prompt in all() {
            assert!((1..=6).contains(&prompt.keywords.len()), "{prompt:?}");
            for keyword in &prompt.keywords {
                assert!(
                    keyword
                        .split('|')
                        .all(|stem| stem.trim_matches('=').len() > 1 || stem.starts_with('='))
                );
            }
        }
    }

    #[test]
    fn every_keyword_can_be_found_through_each_of_its_alternatives() {
        for prompt in all() {
            for keyword in &prompt.keywords {
                for stem in keyword.split('|') {
                    let reply = format!("Well, {} then.", stem.trim_start_matches('='));
                    assert!(keyword_recall(prompt, &reply) > 0.0, "{stem} of {prompt:?}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_says_where_and_why() {
        let whole = r#"{
            "users": [{"name": "u", "about": "", "system_prompt": "Be brief.",
                "utility": [{"feature": {"length": 40}, "weight": 1}], "edits": [{"shorten": 50}]}],
            "training": [{"text": "Why?", "keywords": ["because"]}],
            "held_out": [{"text": "How?", "keywords": ["so"]}]
        }"#;
        assert!(Population::parse(whole, "mine.json").is_ok());
        for (from, to, expected) in [
            (
                "\"length\"",
                "\"lenght\"",
                "mine.json: unknown variant `lenght`",
            ),
            (
                "\"weight\": 1}",
                "\"weight\": 1, \"sd\": 2}",
                "user `u`: utility term 1: give both mean and sd",
            ),
            (
                "\"weight\": 1}",
                "\"weight\": 0}",
                "user `u`: utility term 1: its weight",
            ),
            (
                "{\"length\": 40}",
                "{\"length\": 0}",
                "user `u`: utility term 1: its number must be at least 1",
            ),
            (
                "{\"shorten\": 50}",
                "{\"shorten\": 0}",
                "user `u`: edit 1: its number",
            ),
            ("\"u\"", "\"../u\"", "user `../u`: a name has letters"),
            ("\"Be brief.\"", "\" \"", "user `u`: system_prompt is empty"),
            (
                "\"How?\"",
                "\"Why?\"",
                "held_out prompt 1: the same question",
            ),
            ("[\"so\"]", "[]", "held_out prompt 1: it has no keywords"),
            (
                "[\"so\"]",
                "[\"=how\"]",
                "held_out prompt 1: a keyword stands in the question",
            ),
            (
                "[\"so\"]",
                "[\"So\"]",
                "held_out prompt 1: keyword `So` must be in lower case",
            ),
            (
                "[\"so\"]",
                "[\"so|\"]",
                "held_out prompt 1: keyword `so|` has an empty",
            ),
            (
                "\"about\": \"\",",
                "\"about\": \"\", \"liked\": 1,",
                "user `u`: liked must be",
            ),
            (
                "\"about\": \"\",",
                "\"about\": \"\", \"likes\": 1,",
                "unknown field `likes`",
            ),
        ] {
            let broken = whole.replace(from, to);
            let error = Population::parse(&broken, "mine.json")
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
        let error = Population::parse("{", "mine.json").unwrap_err().to_string();
        assert!(error.contains("line 1 column 1"), "{error}");
        let missing = Population::read(Path::new("/nonexistent.json")).unwrap_err();
        assert!(missing.to_string().starts_with("/nonexistent.json: "));
    }
}
