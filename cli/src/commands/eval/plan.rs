//! What is run: arms and sizes, from `plan.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thumbprint::Recipe;
use thumbprint_simulated_user::Population;

use crate::error::{CliError, Result};

const BUILT_IN: &str = include_str!("plan.json");
/// The arm that others are compared with.
pub const DEFAULT: &str = "default";
/// The arm that learns about nothing.
pub const SHUFFLED: &str = "shuffled";
/// The arm of the same control where the gate does not ask whether feedback tells anything.
pub const UNGATED: &str = "shuffled_ungated";

/// Arms, and sizes of a benchmark by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plans {
    pub arms: Vec<Arm>,
    pub sizes: BTreeMap<String, Size>,
}

/// A way to please a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    pub name: String,
    /// For readers of the report.
    pub about: String,
    pub how: How,
}

/// What an arm does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum How {
    /// Answers with the base model, by another draw.
    Base,
    /// Answers with the base model, told the taste.
    SystemPrompt,
    /// Answers with the base model, cut at the median length of what was liked.
    StopEarly,
    /// Answers with the best of several replies of the base model, by the implicit reward of another arm's adapter.
    BestOf { n: usize, of: String },
    /// Learns.
    Trained(Box<Training>),
    /// Answers with another arm's adapter at full scale, whatever the gate said.
    FullScale { of: String },
    /// Answers with another arm's adapter at this share of the scale that it is served at.
    Scaled { of: String, by: f32 },
}

/// How an arm learns.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    pub recipe: Recipe,
    /// Whether thumbs are shuffled among the replies.
    pub shuffled: bool,
}

/// How much is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// For readers of the report.
    pub about: String,
    /// Whose: `development` or `locked`.
    pub users: String,
    /// Share of thumbs that go the wrong way.
    pub flips: f64,
    /// Training prompts that replies are drawn for, at most.
    pub training: usize,
    /// Replies of the base drawn for each.
    pub rounds: usize,
    /// Training prompts for which the best of sixteen is compared with one, at most.
    pub headroom: usize,
    /// Held-out prompts, at most.
    pub held_out: usize,
    /// What is run, each with each.
    pub cells: Vec<Block>,
}

/// Cells: every user with every arm, n and seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Places in the file of users, from 1. Places that the file does not have are passed over.
    pub users: Vec<usize>,
    pub arms: Vec<String>,
    pub n: Vec<usize>,
    pub seeds: Vec<u64>,
}

/// One arm, taught by one user with so many events, under one seed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    pub user: String,
    pub arm: String,
    /// Events of feedback; 0 where nothing is taught.
    pub n: usize,
    /// 0 where nothing is taught.
    pub seed: u64,
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.user, self.arm)?;
        match self.n {
            0 => Ok(()),
            n => write!(f, ", n = {n}, seed {}", self.seed),
        }
    }
}

impl Cell {
    /// Names its files.
    pub fn file_stem(&self) -> String {
        match self.n {
            0 => format!("{}-{}", self.user, self.arm),
            n => format!("{}-{}-n{n}-s{}", self.user, self.arm, self.seed),
        }
    }

    /// The cell of another arm with the same teaching.
    pub fn of(&self, arm: &str) -> Self {
        Self {
            arm: arm.to_owned(),
            ..self.clone()
        }
    }
}

impl Plans {
    /// Those of the command.
    pub fn built_in() -> Result<Self> {
        Self::parse(BUILT_IN, "plan.json")
    }

    /// Those of a file.
    ///
    /// # Errors
    /// Which file, and what is wrong where.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| CliError::File {
            doing: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, origin: &str) -> Result<Self> {
        let failed = |what: String| CliError::Failed(format!("{origin}: {what}"));
        let plans: Self = serde_json::from_str(text).map_err(|e| failed(e.to_string()))?;
        plans.check().map_err(failed)?;
        Ok(plans)
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (at, arm) in self.arms.iter().enumerate() {
            let wrong = |what: &str| Err(format!("arm `{}`: {what}", arm.name));
            if self.arms[..at].iter().any(|other| other.name == arm.name) {
                return wrong("there is another of this name");
            }
            match &arm.how {
                How::BestOf { n: 0, .. } => return wrong("the best of none is nothing"),
                How::Scaled { by, .. } if !by.is_finite() => return wrong("`by` must be a number"),
                How::BestOf { of, .. } | How::FullScale { of } | How::Scaled { of, .. } => {
                    let trained = |arm: &Arm| matches!(arm.how, How::Trained(_));
                    if !self.arm(of).is_some_and(trained) {
                        return wrong(&format!("`{of}` is no arm that learns"));
                    }
                }
                How::Trained(training) => {
                    if let Err(error) = training.recipe.validate() {
                        return wrong(&error.to_string());
                    }
                }
                How::Base | How::SystemPrompt | How::StopEarly => {}
            }
        }
        for (name, size) in &self.sizes {
            let wrong = |what: String| Err(format!("size `{name}`: {what}"));
            if size.training == 0 || size.rounds == 0 || size.held_out == 0 {
                return wrong("training, rounds and held_out must be at least 1".to_owned());
            }
            if !(0.0..=1.0).contains(&size.flips) {
                return wrong("flips must be in [0, 1]".to_owned());
            }
            for block in &size.cells {
                if let Some(arm) = block.arms.iter().find(|arm| self.arm(arm).is_none()) {
                    return wrong(format!("there is no arm `{arm}`"));
                }
                if block.n.contains(&0) || block.users.contains(&0) {
                    return wrong("n and places of users count from 1".to_owned());
                }
            }
        }
        Ok(())
    }

    /// Which group each cell belongs to, counted from 0: those that use an adapter are in one with the cell that learned it.
    pub fn groups(&self, cells: &[Cell]) -> Vec<usize> {
        let begins = |cell: &Cell| {
            self.arm(&cell.arm)
                .is_none_or(|arm| arm.how.uses().is_none())
        };
        let ends = cells.iter().scan(0, |begun, cell| {
            *begun += usize::from(begins(cell));
            Some(*begun)
        });
        ends.map(|begun: usize| begun.saturating_sub(1)).collect()
    }

    /// The arm of this name.
    pub fn arm(&self, name: &str) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// What is run at a size: what needs no teaching first, user by user, then each cell followed by those that use its adapter.
    ///
    /// # Errors
    /// An arm uses the adapter of one that is not run.
    pub fn cells(&self, size: &Size, population: &Population) -> Result<Vec<Cell>> {
        let mut wanted: Vec<Cell> = Vec::new();
        for block in &size.cells {
            let users = block.users.iter();
            let users = users.filter_map(|place| population.users.get(place - 1));
            for user in users {
                for arm in &block.arms {
                    for n in &block.n {
                        for seed in &block.seeds {
                            let cell = Cell {
                                user: user.name.clone(),
                                arm: arm.clone(),
                                n: *n,
                                seed: *seed,
                            };
                            if !wanted.contains(&cell) {
                                wanted.push(cell);
                            }
                        }
                    }
                }
            }
        }
        let mut cells: Vec<Cell> = Vec::new();
        for user in &population.users {
            if !wanted.iter().any(|cell| cell.user == user.name) {
                continue;
            }
            let untaught = self.arms.iter().filter(|arm| !arm.how.is_taught());
            cells.extend(untaught.map(|arm| Cell {
                user: user.name.clone(),
                arm: arm.name.clone(),
                n: 0,
                seed: 0,
            }));
        }
        let parent = |cell: &Cell| {
            let of = self.arm(&cell.arm).and_then(|arm| arm.how.uses());
            of.map(|of| cell.of(of))
        };
        for cell in &wanted {
            match parent(cell) {
                Some(of) if !wanted.contains(&of) => {
                    return Err(CliError::Failed(format!(
                        "{cell}: it uses the adapter of `{}`, which is not run with the same teaching",
                        of.arm
                    )));
                }
                Some(_) => {}
                None if self.arm(&cell.arm).is_some_and(|arm| arm.how.is_taught()) => {
                    cells.push(cell.clone());
                    let children = wanted.iter().filter(|c| parent(c).as_ref() == Some(cell));
                    cells.extend(children.cloned());
                }
                None => {}
            }
        }
        Ok(cells)
    }
}

/// A share of the work: the `at`-th of `of`, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    at: usize,
    of: usize,
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(at, of)| Some((at.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((at, of)) if (1..=of).contains(&at) => Ok(Self { at, of }),
            _ => Err(format!(
                "`{text}` is no part: write 1/4 for the first of four"
            )),
        }
    }
}

impl Part {
    /// Whether a group of cells belongs to this part.
    pub fn has(self, group: usize) -> bool {
        group % self.of == self.at - 1
    }
}

impl How {
    /// Whether what is answered depends on what was taught.
    pub fn is_taught(&self) -> bool {
        !matches!(self, Self::Base | Self::SystemPrompt)
    }

    /// The arm whose adapter is used.
    pub fn uses(&self) -> Option<&str> {
        match self {
            Self::BestOf { of, .. } | Self::FullScale { of } | Self::Scaled { of, .. } => Some(of),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    fn cells(size: &str) -> Vec<Cell> {
        let plans = Plans::built_in().unwrap();
        let size = &plans.sizes[size];
        let population = match size.users.as_str() {
            "locked" => Population::locked(),
            _ => Population::development(),
        };
        plans.cells(size, population).unwrap()
    }

    fn trained(size: &str) -> usize {
        let plans = Plans::built_in().unwrap();
        let learns = |cell: &&Cell| matches!(plans.arm(&cell.arm).unwrap().how, How::Trained(_));
        cells(size).iter().filter(learns).count()
    }

    /// Words that a question is about.
    fn subject(question: &str) -> BTreeSet<String> {
        const OF_ANY_QUESTION: &str = "how do does i a an the what is of to in my can and for it that on with are me between difference was \
             should when why you your or at be not by from who which word mean get make good best way";
        let asked: Vec<&str> = OF_ANY_QUESTION.split_whitespace().collect();
        let words = question.to_lowercase();
        let words = words.split(|c: char| !(c.is_alphabetic() || c == '\''));
        words
            .filter(|word| !word.is_empty() && !asked.contains(word))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn no_held_out_question_is_close_to_a_prompt_that_every_run_trains_on() {
        let held_out = [Population::development(), Population::locked()]
            .into_iter()
            .flat_map(|population| &population.held_out);
        for question in held_out {
            let asked = subject(&question.text);
            for prompt in thumbprint::gate::replay::PROMPTS {
                let trained = subject(prompt);
                let shared = asked.intersection(&trained).count();
                let least = asked.len().min(trained.len());
                // "Write a short ..." is not a subject; three words of five are.
                assert!(
                    (shared as f64) < 0.6 * least as f64 || shared + least == 0,
                    "{} is nearly {prompt}",
                    question.text
                );
            }
        }
    }

    #[test]
    fn sizes_have_as_many_trainings_as_the_documents_say() {
        assert_eq!(
            ["ci", "hour", "night", "second", "steady", "careless"].map(trained),
            [3, 13, 120, 10, 8, 8]
        );
    }

    #[test]
    fn only_what_is_for_the_report_looks_at_locked_users_and_asks_what_the_goals_are_stated_for() {
        let plans = Plans::built_in().unwrap();
        let locked = plans.sizes.iter().filter(|(_, s)| s.users == "locked");
        for (name, size) in locked.clone() {
            let flips = match name.as_str() {
                "steady" => 0.0,
                "careless" => 0.2,
                _ => 0.1,
            };
            assert_eq!((size.held_out, size.flips), (200, flips), "{name}");
        }
        assert_eq!(
            locked.map(|(name, _)| name).collect::<Vec<_>>(),
            ["careless", "night", "second", "steady"]
        );
        let cells = cells("night");
        for user in &Population::locked().users {
            for n in [20, 50] {
                let seeds = cells
                    .iter()
                    .filter(|c| c.user == user.name && c.arm == DEFAULT && c.n == n);
                assert_eq!(seeds.count(), 5);
            }
        }
    }

    #[test]
    fn every_arm_of_the_specification_is_there_and_run_at_night() {
        let cells = cells("night");
        for arm in Plans::built_in().unwrap().arms {
            assert!(cells.iter().any(|c| c.arm == arm.name), "{}", arm.name);
        }
    }

    #[test]
    fn what_uses_an_adapter_comes_right_after_it_was_made() {
        let plans = Plans::built_in().unwrap();
        let cells = cells("night");
        for (at, cell) in cells.iter().enumerate() {
            if let Some(of) = plans.arm(&cell.arm).unwrap().how.uses() {
                let learns = |c: &&Cell| plans.arm(&c.arm).unwrap().how.uses().is_none();
                let made = cells[..at].iter().rfind(learns).unwrap();
                assert_eq!(*made, cell.of(of));
            }
        }
        let once: std::collections::HashSet<_> = cells.iter().collect();
        assert_eq!(once.len(), cells.len());
    }

    #[test]
    fn parts_share_all_cells_and_keep_together_what_uses_one_adapter() {
        let plans = Plans::built_in().unwrap();
        let cells = cells("night");
        let groups = plans.groups(&cells);
        for (at, cell) in cells.iter().enumerate() {
            if let Some(of) = plans.arm(&cell.arm).unwrap().how.uses() {
                let made = cells.iter().position(|c| *c == cell.of(of)).unwrap();
                assert_eq!(groups[at], groups[made]);
            }
        }
        for group in groups {
            let having = ["1/3", "2/3", "3/3"].map(|part| part.parse::<Part>().unwrap().has(group));
            assert_eq!(having.iter().filter(|has| **has).count(), 1);
        }
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<Part>().unwrap_err().contains(wrong));
        }
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused_by_name() {
        for (from, to, expected) in [
            (
                r#""n": 4, "of": "default""#,
                r#""n": 4, "of": "base""#,
                "arm `best_of_4`: `base` is no arm that learns",
            ),
            (
                r#""loss_type": "kto""#,
                r#""loss_typo": "kto""#,
                "there is no setting train.unpaired.loss_typo",
            ),
            (
                r#"["default", "sft", "shuffled"]"#,
                r#"["defalt"]"#,
                "size `ci`: there is no arm `defalt`",
            ),
            (
                r#""name": "sft""#,
                r#""name": "kto""#,
                "arm `kto`: there is another",
            ),
            (
                r#""flips": 0.1"#,
                r#""flips": 2"#,
                "flips must be in [0, 1]",
            ),
            (r#""rounds": 4"#, r#""round": 4"#, "unknown field `round`"),
        ] {
            let error = Plans::parse(&BUILT_IN.replacen(from, to, 1), "p").unwrap_err();
            assert!(
                error.to_string().contains(expected),
                "{error} lacks {expected}"
            );
        }
        let mut plans = Plans::built_in().unwrap();
        let ci = plans.sizes.get_mut("ci").unwrap();
        ci.cells[0].arms.remove(0);
        let error = plans.cells(&plans.sizes["ci"], Population::development());
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("uses the adapter of `default`")
        );
    }
}
