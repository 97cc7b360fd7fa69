//! From what cells came to, to rows, averages, comparisons and what shuffled thumbs would have led to.

use serde::{Deserialize, Serialize};
use thumbprint::gate::{Fate, fate};
use thumbprint_simulated_user::taste::Term;
use thumbprint_simulated_user::{Choice, SimulatedUser};

use super::cells::{Bench, Record, Shared};
use super::learning::{NOTHING, Phases};
use super::plan::{Cell, DEFAULT, SHUFFLED, UNGATED};
use super::scores::{Answer, LEAST_WORTH, Scores, difference};
use super::statistics::{Estimate, Table, estimate, estimate_over, mean};
use super::verdicts::{HEADROOM, Verdict, verdicts};
use crate::error::Result;

/// Blind votes within which a shuffled adapter may be promoted.
pub const VOTES: usize = 100;

/// All that is reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub size: String,
    /// Description of the model, and the hash of its file.
    pub model: String,
    pub model_sha256: String,
    /// Where the users come from.
    pub users_file: String,
    pub flips: f64,
    pub held_out_prompts: usize,
    /// Cells that are done, and that there are.
    pub done: usize,
    pub cells: usize,
    /// Programs that ran cells: more than one means that figures of different code stand side by side.
    pub builds: Vec<String>,
    pub users: Vec<UserFacts>,
    pub rows: Vec<Row>,
    pub averages: Vec<Average>,
    pub comparisons: Vec<Comparison>,
    pub shuffled: Option<Shuffled>,
    pub verdicts: Vec<Verdict>,
}

/// One cell. Rates and shares in [0, 1]; divergences in nats per token; `ci` is the 95 % bootstrap interval over prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub user: String,
    pub arm: String,
    /// Events of feedback; 0 where nothing is taught, and so `seed`.
    pub n: usize,
    pub seed: u64,
    /// Share of held-out prompts whose answer the person likes better than the base's, near ties half, without noise.
    pub win_rate: f64,
    pub ci: (f64, f64),
    /// The same at equal length.
    pub lc_win_rate: Option<f64>,
    /// Mean share of a good answer's keywords, in the whole answer and in its first 45 words.
    pub keyword_recall: f64,
    pub opening_recall: f64,
    pub ppl_ratio: Option<f64>,
    /// KL(base || adapter) on prompts of the feedback.
    pub kl: Option<f64>,
    pub kl_own_samples: Option<f64>,
    pub mean_tokens: f64,
    /// Share of answers that the model ended.
    pub finished: f64,
    pub state: String,
    pub scale: Option<f32>,
    /// Mean utility over the base's.
    pub gain: f64,
    /// Win rate of a rejected candidate at full scale, which nobody is answered by.
    pub candidate_win_rate: Option<f64>,
    pub up: Option<usize>,
    pub down: Option<usize>,
    pub edits: Option<usize>,
    pub seconds: Option<f64>,
    /// Seconds of each phase of learning.
    pub phases: Option<Phases>,
    pub peak_rss_mib: Option<f64>,
}

/// An arm taught by one user with so many events, over its seeds. Intervals are over prompts and seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Average {
    pub user: String,
    pub arm: String,
    pub n: usize,
    pub seeds: usize,
    pub prompts: usize,
    pub win_rate: Estimate,
    pub lc_win_rate: Option<f64>,
    /// Mean utility over the base's.
    pub gain: Estimate,
    /// The same over what the best of sixteen gains.
    pub gain_over_oracle: Option<f64>,
    pub keyword_recall: f64,
    /// Keyword recall minus the base's.
    pub keyword_change: Estimate,
    pub opening_recall: f64,
    pub opening_change: Estimate,
    pub mean_tokens: f64,
    /// Interval of the mean length.
    pub tokens: Estimate,
    pub ppl_ratio: Option<f64>,
    pub kl: Option<f64>,
    /// Seeds whose adapter the gate let through.
    pub trials: usize,
    pub seconds: Option<f64>,
    pub peak_rss_mib: Option<f64>,
}

/// The default's utility minus another arm's, prompt by prompt and seed by seed where both have the seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// A user, or `all` together.
    pub user: String,
    pub arm: String,
    pub n: usize,
    pub users: usize,
    pub seeds: usize,
    pub difference: Estimate,
}

/// A user, and what there is to gain for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserFacts {
    pub name: String,
    pub about: String,
    pub edits: bool,
    /// Share of training prompts on which the best of sixteen replies of the base beats one more.
    pub headroom: Option<f64>,
    /// What that best one gains, in utility.
    pub oracle_gain: Option<f64>,
    pub headroom_prompts: usize,
    /// The person's threshold and noise, in utility.
    pub threshold: f64,
    pub temperature: f64,
    /// The utility with its constants.
    pub utility: Vec<Term>,
    pub base_keyword_recall: f64,
    pub base_opening_recall: f64,
    pub base_mean_tokens: f64,
    pub base_finished: f64,
    /// Questions with the base's answer, and the default's.
    pub samples: Vec<Sample>,
}

impl UserFacts {
    /// The headroom of somebody who gives thumbs alone, where that is too little.
    pub fn thin_headroom(&self) -> Option<f64> {
        self.headroom
            .filter(|share| *share < HEADROOM && !self.edits)
    }
}

/// Answers side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub question: String,
    pub base: String,
    pub default: String,
}

/// What teaching about nothing led to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shuffled {
    /// Logs that were taught.
    pub logs: usize,
    /// Those that anything was trained on.
    pub trained: usize,
    /// Let through by the gate.
    pub trials: usize,
    /// How often chance may pass the gate, on average over them.
    pub allowed: f64,
    /// Of being promoted within [`VOTES`] blind votes with the person's noise and flips, computed exactly from each adapter's true
    /// chances, 0 for one that the gate turned away.
    pub promoted: f64,
    pub rolled_back: f64,
    /// What is taught where the gate does not ask what the log tells.
    pub ungated: Option<Ungated>,
}

/// Adapters of shuffled thumbs that were trained whatever the log tells.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ungated {
    pub adapters: usize,
    /// Mean of their true win rates, ties half; a rejected one's is its candidate's.
    pub win_rate: f64,
    /// As in [`Shuffled`].
    pub promoted: f64,
}

/// What the computation starts from.
pub struct Source<'a, 'b> {
    pub bench: &'a Bench<'b>,
    pub shared: &'a Shared,
    pub size: String,
    pub model: String,
    pub model_sha256: String,
    pub users_file: String,
    pub cells: &'a [Cell],
    pub records: &'a [&'a Record],
}

/// A record with the scores of its answers.
struct Scored<'a> {
    record: &'a Record,
    scores: Scores,
    candidate: Option<Scores>,
}

/// One user's records, and what they are compared with.
struct Judged<'a> {
    person: SimulatedUser,
    base: Scores,
    facts: UserFacts,
    scored: Vec<Scored<'a>>,
}

/// Computes everything from the records.
///
/// # Errors
/// A record names a user that there is not.
pub fn results(source: &Source<'_, '_>) -> Result<Results> {
    let mut names: Vec<&str> = source.cells.iter().map(|c| c.user.as_str()).collect();
    names.dedup();
    let mut judged: Vec<Judged<'_>> = Vec::new();
    for name in names {
        if judged.iter().all(|j| j.facts.name != name) {
            judged.push(judge(source, name)?);
        }
    }
    let rows: Vec<Row> = judged.iter().flat_map(Judged::rows).collect();
    let averages: Vec<Average> = judged.iter().flat_map(Judged::averages).collect();
    let comparisons = comparisons(&judged);
    let shuffled = shuffled(&judged);
    let mut builds: Vec<String> = source.records.iter().map(|r| r.build.clone()).collect();
    builds.sort();
    builds.dedup();
    let mut results = Results {
        size: source.size.clone(),
        model: source.model.clone(),
        model_sha256: source.model_sha256.clone(),
        users_file: source.users_file.clone(),
        flips: source.bench.size.flips,
        held_out_prompts: source.bench.held_out().len(),
        done: source.records.len(),
        cells: source.cells.len(),
        builds,
        users: judged.into_iter().map(|judged| judged.facts).collect(),
        rows,
        averages,
        comparisons,
        shuffled,
        verdicts: Vec::new(),
    };
    results.verdicts = verdicts(&results);
    Ok(results)
}

fn judge<'a>(source: &Source<'a, '_>, name: &str) -> Result<Judged<'a>> {
    let bench = source.bench;
    let prompts = bench.held_out();
    let person = bench.person(name, source.shared, 0)?;
    let taste = person.taste();
    let of = |answers: &[Answer]| Scores::of(taste, prompts, answers);
    let base = of(&source.shared.base);
    let records = source.records.iter().filter(|r| r.cell.user == name);
    let scored: Vec<Scored<'a>> = records
        .map(|record| Scored {
            record,
            scores: of(&record.answers),
            candidate: record.candidate.as_deref().map(of),
        })
        .collect();
    let headroom: Vec<(bool, f64)> = source
        .shared
        .headroom(bench.training())
        .map(|(prompt, one, others)| {
            let utility = |text: &str| taste.utility(prompt, text);
            let best = others
                .iter()
                .map(|text| utility(text))
                .fold(f64::MIN, f64::max);
            let one = utility(one);
            let gain = best.max(LEAST_WORTH) - one.max(LEAST_WORTH);
            (Choice::by(best - one) == Choice::Left, gain)
        })
        .collect();
    let share = mean(
        headroom
            .iter()
            .map(|(beats, _)| f64::from(u8::from(*beats))),
    );
    let gain = mean(headroom.iter().map(|(_, gain)| *gain));
    let user = bench.population.user(name);
    let default = scored.iter().rfind(|s| s.record.cell.arm == DEFAULT);
    let samples = default.map_or_else(Vec::new, |default| {
        let step = prompts.len().div_ceil(3).max(1);
        let picked = (0..prompts.len()).skip(step / 2).step_by(step);
        picked
            .map(|at| Sample {
                question: prompts[at].text.clone(),
                base: source.shared.base[at].text.clone(),
                default: default.record.answers[at].text.clone(),
            })
            .collect()
    });
    let facts = UserFacts {
        name: name.to_owned(),
        about: user.map_or_else(String::new, |user| user.about.clone()),
        edits: user.is_some_and(|user| !user.edits.is_empty()),
        headroom: share.is_finite().then_some(share),
        oracle_gain: gain.is_finite().then_some(gain),
        headroom_prompts: headroom.len(),
        threshold: person.threshold(),
        temperature: person.temperature(),
        utility: taste.terms().to_vec(),
        base_keyword_recall: mean(base.recall.iter().copied()),
        base_opening_recall: mean(base.opening_recall.iter().copied()),
        base_mean_tokens: mean(base.tokens.iter().copied()),
        base_finished: base.finished,
        samples,
    };
    Ok(Judged {
        base,
        facts,
        scored,
        person,
    })
}

impl Judged<'_> {
    fn rows(&self) -> Vec<Row> {
        let rows = self.scored.iter().map(
            |Scored {
                 record,
                 scores,
                 candidate,
             }| {
                let wins = scores.wins(&self.base);
                let win_rate = mean(wins.iter().copied());
                let ci = estimate(&vec![wins]).map_or((0.0, 1.0), |e| (e.low, e.high));
                let learned = record.learned.as_ref();
                Row {
                    user: record.cell.user.clone(),
                    arm: record.cell.arm.clone(),
                    n: record.cell.n,
                    seed: record.cell.seed,
                    win_rate,
                    ci,
                    lc_win_rate: scores.length_controlled(&self.base),
                    keyword_recall: mean(scores.recall.iter().copied()),
                    opening_recall: mean(scores.opening_recall.iter().copied()),
                    ppl_ratio: learned.and_then(|l| l.ppl_ratio),
                    kl: learned.and_then(|l| l.kl),
                    kl_own_samples: learned.and_then(|l| l.kl_own_samples),
                    mean_tokens: mean(scores.tokens.iter().copied()),
                    finished: scores.finished,
                    state: record.state.clone(),
                    scale: learned.map(|l| l.scale),
                    gain: mean(difference(&scores.worth(), &self.base.worth())),
                    candidate_win_rate: candidate.as_ref().map(|c| mean(c.wins(&self.base))),
                    up: learned.map(|l| l.up),
                    down: learned.map(|l| l.down),
                    edits: learned.map(|l| l.edits),
                    seconds: learned.map(|l| l.seconds),
                    phases: learned.map(|l| l.phases.clone()),
                    peak_rss_mib: learned.and_then(|l| l.peak_rss_mib),
                }
            },
        );
        rows.collect()
    }

    /// Records of an arm at an n, by seed.
    fn of(&self, arm: &str, n: usize) -> Vec<&Scored<'_>> {
        let of_arm = |s: &&Scored<'_>| s.record.cell.arm == arm && s.record.cell.n == n;
        let mut found: Vec<&Scored<'_>> = self.scored.iter().filter(of_arm).collect();
        found.sort_by_key(|s| s.record.cell.seed);
        found
    }

    fn averages(&self) -> Vec<Average> {
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        for scored in &self.scored {
            let kind = (scored.record.cell.arm.as_str(), scored.record.cell.n);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        let average = |(arm, n): &(&str, usize)| self.average(arm, *n);
        kinds.iter().filter_map(average).collect()
    }

    fn average(&self, arm: &str, n: usize) -> Option<Average> {
        let scored = self.of(arm, n);
        let table = |number: &dyn Fn(&Scores) -> Vec<f64>| -> Table {
            scored.iter().map(|s| number(&s.scores)).collect()
        };
        let base = &self.base;
        let learned = || scored.iter().filter_map(|s| s.record.learned.as_ref());
        let some = |values: Vec<f64>| (!values.is_empty()).then(|| mean(values));
        let gain = estimate(&table(&|s| difference(&s.worth(), &base.worth())))?;
        let controlled: Option<Vec<f64>> = scored
            .iter()
            .map(|s| s.scores.length_controlled(base))
            .collect();
        let tokens = estimate(&table(&|s| s.tokens.clone()))?;
        Some(Average {
            user: self.facts.name.clone(),
            arm: arm.to_owned(),
            n,
            seeds: scored.len(),
            prompts: base.utility.len(),
            win_rate: estimate(&table(&|s| s.wins(base)))?,
            lc_win_rate: controlled.map(mean),
            gain,
            gain_over_oracle: self
                .facts
                .oracle_gain
                .filter(|o| *o > 0.0)
                .map(|o| gain.mean / o),
            keyword_recall: mean(table(&|s| s.recall.clone()).concat()),
            keyword_change: estimate(&table(&|s| difference(&s.recall, &base.recall)))?,
            opening_recall: mean(table(&|s| s.opening_recall.clone()).concat()),
            opening_change: estimate(&table(&|s| {
                difference(&s.opening_recall, &base.opening_recall)
            }))?,
            mean_tokens: tokens.mean,
            tokens,
            ppl_ratio: some(learned().filter_map(|l| l.ppl_ratio).collect()),
            kl: some(learned().filter_map(|l| l.kl).collect()),
            trials: scored.iter().filter(|s| is_trial(s.record)).count(),
            seconds: some(learned().map(|l| l.seconds).collect()),
            peak_rss_mib: some(learned().filter_map(|l| l.peak_rss_mib).collect()),
        })
    }

    /// The default's utilities minus another arm's: a row for each seed that both have, or where the other arm is not taught, for
    /// each seed of the default.
    fn against(&self, arm: &str, n: usize) -> Table {
        let default = self.of(DEFAULT, n);
        let taught = self.of(arm, n);
        let untaught = self.of(arm, 0);
        let pairs = default.iter().filter_map(|this| {
            let seed = this.record.cell.seed;
            let same = taught.iter().find(|other| other.record.cell.seed == seed);
            Some((this, *same.or(untaught.first())?))
        });
        let rows = pairs.map(|(this, that)| difference(&this.scores.worth(), &that.scores.worth()));
        rows.collect()
    }
}

fn is_trial(record: &Record) -> bool {
    record.state == "trial" || record.state == "promoted"
}

/// The default against every other arm, user by user and over all users that have both.
fn comparisons(judged: &[Judged<'_>]) -> Vec<Comparison> {
    let mut kinds: Vec<(usize, String)> = Vec::new();
    let mut taught: Vec<usize> = Vec::new();
    for scored in judged.iter().flat_map(|j| &j.scored) {
        let cell = &scored.record.cell;
        if cell.arm == DEFAULT && !taught.contains(&cell.n) {
            taught.push(cell.n);
        }
    }
    taught.sort_unstable();
    for n in taught {
        for scored in judged.iter().flat_map(|j| &j.scored) {
            let cell = &scored.record.cell;
            let kind = (n, cell.arm.clone());
            if cell.arm != DEFAULT && (cell.n == 0 || cell.n == n) && !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    let mut comparisons = Vec::new();
    for (n, arm) in kinds {
        let tables = judged.iter().map(|j| (&j.facts.name, j.against(&arm, n)));
        let tables: Vec<(&String, Table)> = tables.filter(|(_, t)| !t.is_empty()).collect();
        let mut push = |user: &str, users: usize, seeds: usize, difference: Option<Estimate>| {
            comparisons.extend(difference.map(|difference| Comparison {
                user: user.to_owned(),
                arm: arm.clone(),
                n,
                users,
                seeds,
                difference,
            }));
        };
        for (user, table) in &tables {
            push(user, 1, table.len(), estimate(table));
        }
        if tables.len() > 1 {
            let seeds = tables.iter().map(|(_, t)| t.len()).min().unwrap_or(0);
            let tables: Vec<Table> = tables.into_iter().map(|(_, table)| table).collect();
            push(ALL, tables.len(), seeds, estimate_over(&tables));
        }
    }
    comparisons
}

/// Stands for all users together.
pub const ALL: &str = "all";

fn shuffled(judged: &[Judged<'_>]) -> Option<Shuffled> {
    let fates = fates(judged, SHUFFLED);
    if fates.is_empty() {
        return None;
    }
    let count = |wanted: &dyn Fn(&Shuffle) -> bool| fates.iter().filter(|f| wanted(f)).count();
    let of_trials = |of: &dyn Fn(&Fate) -> f64| {
        let probability = |f: &Shuffle| if f.is_trial { of(&f.fate) } else { 0.0 };
        mean(fates.iter().map(probability))
    };
    Some(Shuffled {
        logs: fates.len(),
        trained: count(&|f| f.is_trained),
        trials: count(&|f| f.is_trial),
        allowed: mean(fates.iter().map(|f| f.allowed)),
        promoted: of_trials(&|fate| fate.promoted),
        rolled_back: of_trials(&|fate| fate.rolled_back),
        ungated: ungated(judged),
    })
}

fn ungated(judged: &[Judged<'_>]) -> Option<Ungated> {
    let fates = fates(judged, UNGATED);
    (!fates.is_empty()).then(|| Ungated {
        adapters: fates.len(),
        win_rate: mean(fates.iter().map(|f| f.win_rate)),
        promoted: mean(fates.iter().map(|f| f.fate.promoted)),
    })
}

/// What became of a log of shuffled thumbs.
struct Shuffle {
    is_trained: bool,
    /// How often chance may pass the gate.
    allowed: f64,
    is_trial: bool,
    win_rate: f64,
    fate: Fate,
}

fn fates(judged: &[Judged<'_>], arm: &str) -> Vec<Shuffle> {
    let mut fates = Vec::new();
    for user in judged {
        for scored in user.scored.iter().filter(|s| s.record.cell.arm == arm) {
            let scores = scored.candidate.as_ref().unwrap_or(&scored.scores);
            let differences = difference(&scores.utility, &user.base.utility);
            let chances = differences.iter().map(|d| user.person.vote_chances(*d));
            let win = mean(chances.clone().map(|c| c.left));
            let loss = mean(chances.map(|c| c.right));
            let learned = scored.record.learned.as_ref();
            fates.push(Shuffle {
                // Without enough to compare, nothing is turned away.
                allowed: learned.and_then(|learned| learned.level).unwrap_or(1.0),
                is_trained: scored.record.state != NOTHING,
                is_trial: is_trial(scored.record),
                win_rate: mean(scores.wins(&user.base)),
                fate: fate(win, loss, VOTES, 1),
            });
        }
    }
    fates
}
