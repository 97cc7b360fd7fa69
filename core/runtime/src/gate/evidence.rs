//! Whether judgements tell replies apart, or are such as chance hands out.
//!
//! What is said of one prompt's replies should tell what is said of *other* prompts' replies. With `y` a reply's judgement less the mean of
//! all, and `f` what a ridge regression on all other prompts predicts of it, `Q = sum y_i f_i` says how far it does. Judgements are then
//! handed out anew among the same replies, and the p-value is how often those do as well. So judgements that mean nothing are below 5 % in
//! 5 % of cases, however few they are and whatever the features (docs/adr/023, docs/adr/024).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thumbprint_tune::rng::Rng;

use super::cholesky::{cholesky, solve};
use super::guards::{Bounds, Guard, GuardResult};
use super::logistic::dot;

/// Times that judgements are handed out anew. The least p-value is one over one more.
const PERMUTATIONS: usize = 1999;
/// The same judgements give the same p-value.
const SEED: u64 = 20_261_127;
/// Judgements at most; of more, the last are tested. Time grows with the cube.
const MOST_OPINIONS: usize = 1000;
/// Ridge of the regression, in means of how alike a reply is to itself. Between a quarter and one it makes no difference (docs/adr/024).
const RIDGE: f64 = 0.5;

/// What the person said of one reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Opinion {
    /// Key of the prompt that it answers.
    pub prompt: [u8; 32],
    /// Which reply.
    pub reply: usize,
    /// Which of the two.
    pub liked: bool,
    /// How much it counts.
    pub weight: f64,
}

/// How far judgements tell replies apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Replies that were liked.
    pub liked: usize,
    /// Replies that were not.
    pub disliked: usize,
    /// How often judgements that mean nothing do as well, in (0, 1].
    pub p_value: f64,
}

impl Evidence {
    /// Judges it: chance may do as well at most so often.
    pub fn judge(&self, chance: f64) -> GuardResult {
        let limit = Bounds::at_most(chance);
        let passed = limit.contain(self.p_value);
        let (does, advice) = match passed {
            true => ("tells", ""),
            false => ("does not tell", " More of it will tell."),
        };
        GuardResult {
            name: Guard::HeldOut,
            value: self.p_value,
            limit,
            passed,
            sentence: format!(
                "The feedback ({} 👍, {} 👎, with both sides of edits and picks) {does} unseen replies apart: chance does as well {:.1} % of the time, where {:.0} % are allowed.{advice}",
                self.liked,
                self.disliked,
                100.0 * self.p_value,
                100.0 * chance
            ),
        }
    }
}

/// Tests opinions, in the order they were given, by how alike two replies are: any inner product. `None` where everything was liked, or
/// nothing, or all was said about one prompt, or a likeness is no number.
pub fn evidence(opinions: &[Opinion], alike: impl Fn(usize, usize) -> f64) -> Option<Evidence> {
    let opinions = of_one_mind(opinions);
    let liked = opinions.iter().filter(|opinion| opinion.liked).count();
    let disliked = opinions.len() - liked;
    let prompts: BTreeSet<_> = opinions.iter().map(|opinion| opinion.prompt).collect();
    if liked == 0 || disliked == 0 || prompts.len() < 2 {
        return None;
    }
    let predictor = Predictor::new(&opinions, alike)?;
    let mut y = centred(&opinions);
    let found = predictor.agreement(&y);
    if !found.is_finite() {
        return None;
    }
    // What is the same but for rounding does as well.
    let mark = found - 1e-9 * found.abs();
    let mut rng = Rng::new(SEED);
    let as_well = (0..PERMUTATIONS).filter(|_| {
        rng.shuffle(&mut y);
        predictor.agreement(&y) >= mark
    });
    Some(Evidence {
        liked,
        disliked,
        p_value: (as_well.count() + 1) as f64 / (PERMUTATIONS + 1) as f64,
    })
}

/// The last ones, without replies of which both was said.
fn of_one_mind(opinions: &[Opinion]) -> Vec<Opinion> {
    let mut said: BTreeMap<usize, [bool; 2]> = BTreeMap::new();
    for opinion in opinions {
        said.entry(opinion.reply).or_default()[usize::from(opinion.liked)] = true;
    }
    let mut kept = opinions.to_vec();
    kept.retain(|opinion| said[&opinion.reply] != [true; 2]);
    kept.split_off(kept.len().saturating_sub(MOST_OPINIONS))
}

/// Weighted judgements, of which the mean was taken away.
fn centred(opinions: &[Opinion]) -> Vec<f64> {
    let sum = |of: &dyn Fn(&Opinion) -> f64| opinions.iter().map(of).sum::<f64>();
    let weight = sum(&|opinion| opinion.weight);
    let mean = sum(&|opinion| opinion.weight * f64::from(opinion.liked)) / weight;
    opinions
        .iter()
        .map(|opinion| opinion.weight * (f64::from(opinion.liked) - mean))
        .collect()
}

/// What a ridge regression predicts of each reply from what was said of replies to other prompts: linear in the judgements.
struct Predictor {
    /// `[n, n]`: of each reply, the factors on all judgements; 0 for those to the same prompt.
    factors: Vec<f64>,
    n: usize,
}

impl Predictor {
    /// `None` where a likeness is no number.
    fn new(opinions: &[Opinion], alike: impl Fn(usize, usize) -> f64) -> Option<Self> {
        let n = opinions.len();
        let mut inverse: Vec<f64> = (0..n * n)
            .map(|at| alike(opinions[at / n].reply, opinions[at % n].reply))
            .collect();
        if inverse.iter().any(|alike| !alike.is_finite()) {
            return None;
        }
        let diagonal = (0..n).map(|i| inverse[i * n + i]);
        // All alike in nothing: a ridge of any size predicts nothing.
        let ridge = (RIDGE * diagonal.sum::<f64>() / n as f64).max(f64::MIN_POSITIVE.sqrt());
        for i in 0..n {
            inverse[i * n + i] += ridge;
        }
        invert(&mut inverse, n);
        // With C the inverse, a regression without the replies g is off by C_gg^-1 (C y)_g there (as for a single one left out,
        // Rasmussen and Williams 2006, 5.4.2).
        let mut factors = vec![0.0; n * n];
        let mut of_prompt: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
        for (at, opinion) in opinions.iter().enumerate() {
            of_prompt.entry(opinion.prompt).or_default().push(at);
        }
        for group in of_prompt.values() {
            let m = group.len();
            let mut block: Vec<f64> = (0..m * m)
                .map(|at| inverse[group[at / m] * n + group[at % m]])
                .collect();
            cholesky(&mut block, m);
            let others = (0..n).filter(|j| opinions[*j].prompt != opinions[group[0]].prompt);
            for j in others {
                let mut off: Vec<f64> = group.iter().map(|i| inverse[i * n + j]).collect();
                solve(&block, m, &mut off);
                for (i, off) in group.iter().zip(off) {
                    factors[i * n + j] = -off;
                }
            }
        }
        Some(Self { factors, n })
    }

    /// How far judgements are what those on other prompts predict.
    fn agreement(&self, y: &[f64]) -> f64 {
        let terms = y.iter().zip(self.factors.chunks_exact(self.n));
        terms.map(|(y_i, factors)| y_i * dot(factors, y)).sum()
    }
}

/// Inverts a positive definite matrix.
fn invert(matrix: &mut [f64], n: usize) {
    let mut factor = matrix.to_vec();
    cholesky(&mut factor, n);
    for (i, row) in matrix.chunks_exact_mut(n).enumerate() {
        row.fill(0.0);
        row[i] = 1.0;
        solve(&factor, n, row);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PER_PROMPT: usize = 4;

    fn by_features(replies: &[Vec<f64>], opinions: &[Opinion]) -> Option<Evidence> {
        evidence(opinions, |a, b| dot(&replies[a], &replies[b]))
    }

    /// Replies with noise for features, four to a prompt, of which the first feature is liked as far as `taste` says.
    fn judged(seed: u64, n: usize, taste: f64) -> (Vec<Vec<f64>>, Vec<Opinion>) {
        let mut rng = Rng::new(seed);
        let replies: Vec<Vec<f64>> = (0..n)
            .map(|_| (0..9).map(|_| rng.normal()).collect())
            .collect();
        let opinions = (0..n).map(|reply| Opinion {
            prompt: [(reply / PER_PROMPT) as u8; 32],
            reply,
            liked: taste * replies[reply][0] + rng.normal() > 0.3,
            weight: 1.0,
        });
        let opinions = opinions.collect();
        (replies, opinions)
    }

    fn share_below(mark: f64, taste: f64, n: usize) -> f64 {
        const DRAWS: u64 = 200;
        let below = (0..DRAWS).filter(|seed| {
            let (replies, opinions) = judged(*seed, n, taste);
            by_features(&replies, &opinions).is_some_and(|found| found.p_value <= mark)
        });
        below.count() as f64 / DRAWS as f64
    }

    #[test]
    fn judgements_that_mean_nothing_pass_as_often_as_the_mark_says() {
        for n in [12, 40] {
            for mark in [0.05, 0.2] {
                let share = share_below(mark, 0.0, n);
                let error = (mark * (1.0 - mark) / 200.0).sqrt();
                assert!((share - mark).abs() < 3.0 * error, "{n}, {mark}: {share}");
            }
        }
    }

    #[test]
    fn a_taste_is_found_and_more_judgements_find_it_more_often() {
        let (few, many) = (share_below(0.05, 1.5, 16), share_below(0.05, 1.5, 48));
        assert!(few > 0.2 && many > few + 0.2, "{few}, {many}");
        assert!(many > 0.8, "{many}");
    }

    #[test]
    fn what_prompts_say_of_themselves_is_hardly_evidence() {
        // Replies to a prompt are alike, and judged alike: nothing is known of any other prompt. Judgements that come in moods are not
        // exchangeable, so that more than 5 % may pass.
        let passed = (0..100).filter(|seed| {
            let mut rng = Rng::new(*seed);
            let mut replies = Vec::new();
            let mut opinions = Vec::new();
            for prompt in 0..12 {
                let topic: Vec<f64> = (0..40).map(|_| rng.normal()).collect();
                let mood = if rng.below(2) == 0 { 0.2 } else { 0.8 };
                for _ in 0..PER_PROMPT {
                    opinions.push(Opinion {
                        prompt: [prompt; 32],
                        reply: replies.len(),
                        liked: rng.uniform() < mood,
                        weight: 1.0,
                    });
                    replies.push(
                        topic
                            .iter()
                            .map(|of_topic| of_topic + rng.normal())
                            .collect(),
                    );
                }
            }
            by_features(&replies, &opinions).is_some_and(|found| found.p_value <= 0.05)
        });
        let passed = passed.count();
        assert!(passed < 20, "{passed} of 100");
    }

    #[test]
    fn what_is_predicted_is_what_a_regression_without_that_prompt_predicts() {
        let (replies, opinions) = judged(7, 10, 1.0);
        let alike = |a: usize, b: usize| dot(&replies[a], &replies[b]);
        let predictor = Predictor::new(&opinions, alike).unwrap();
        let y = centred(&opinions);
        let ridge = RIDGE * (0..10).map(|i| alike(i, i)).sum::<f64>() / 10.0;
        for i in 0..10 {
            let rest: Vec<usize> = (0..10)
                .filter(|j| opinions[*j].prompt != opinions[i].prompt)
                .collect();
            // By steepest descent on the dual problem.
            let mut a = vec![0.0; rest.len()];
            for _ in 0..20_000 {
                let off = |at: usize| {
                    let sum = rest.iter().zip(&a).map(|(j, a)| alike(rest[at], *j) * a);
                    y[rest[at]] - sum.sum::<f64>() - ridge * a[at]
                };
                let steps: Vec<f64> = (0..rest.len()).map(off).collect();
                a.iter_mut()
                    .zip(steps)
                    .for_each(|(a, step)| *a += 0.01 * step);
            }
            let naive: f64 = rest.iter().zip(&a).map(|(j, a)| alike(i, *j) * a).sum();
            let found = dot(&predictor.factors[i * 10..(i + 1) * 10], &y);
            assert!((found - naive).abs() < 1e-9, "{i}: {found} {naive}");
        }
    }

    #[test]
    fn it_is_a_function_of_its_input_and_of_nothing_where_there_is_nothing_to_compare() {
        let (replies, opinions) = judged(1, 24, 4.0);
        let found = by_features(&replies, &opinions).unwrap();
        assert_eq!(by_features(&replies, &opinions), Some(found));
        assert_eq!(found.liked + found.disliked, 24);
        let changed = |change: &dyn Fn(&mut Opinion)| {
            let mut opinions = opinions.clone();
            opinions.iter_mut().for_each(change);
            by_features(&replies, &opinions)
        };
        assert_eq!(changed(&|opinion| opinion.liked = true), None);
        assert_eq!(changed(&|opinion| opinion.liked = false), None);
        assert_eq!(changed(&|opinion| opinion.prompt = [0; 32]), None);
        assert_eq!(by_features(&replies, &[]), None);
        assert_eq!(evidence(&opinions, |_, _| f64::NAN), None);
        // Whichever way round: what matters is that it is the same way for all.
        let report = found.judge(0.05);
        assert!(
            report.passed && report.sentence.contains("tells"),
            "{report:?}"
        );
        let opposite = changed(&|opinion| opinion.liked = !opinion.liked).unwrap();
        assert!((opposite.p_value - found.p_value).abs() < 1e-3);
        // A reply of which both was said counts for nothing.
        let mut both = opinions.clone();
        both.push(Opinion {
            liked: !opinions[0].liked,
            ..opinions[0]
        });
        let without = by_features(&replies, &opinions[1..]).unwrap();
        assert_eq!(by_features(&replies, &both), Some(without));
    }
}
