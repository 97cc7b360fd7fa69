//! The head: a linear function of what a reply is like to the base, and of how long it is.
//!
//! Features of a reply, `[2 n_embd + 1]`, are means of hidden states over its tokens, first of their embeddings and then of the middle
//! block's output, and the natural logarithm of their number. Taste in length has a best one more often than none, so the head also
//! reads the square of the last, standardised.

use serde::{Deserialize, Serialize};

use crate::gate::logistic::{Gram, Row, dot, logistic, mean_loss};
use crate::gate::stats;

/// Ridges that are tried where none is given, by the loss on what was left out; of equals, the last.
pub const L2_GRID: [f64; 4] = [0.01, 0.1, 1.0, 10.0];
/// The ridge where there is too little, or too much, to try.
const DEFAULT_L2: f64 = 1.0;
/// Judgements up to which ridges are tried.
const TRIED_UP_TO: usize = 500;
/// Judgements at most; of more, the last are fitted.
const MOST_JUDGEMENTS: usize = 2000;
/// Folds, by prompt, of the cross-validation.
pub const FOLDS: u32 = 5;
/// Ridge on the bias: only so that a person who likes everything has a finite one.
const BIAS_L2: f64 = 1e-3;
/// What features of length weigh beside all states of a kind: how long a reply is people mind more often than any one of a thousand other
/// numbers (docs/adr/024).
const LENGTH_WEIGHT: f64 = 3.0;
/// A feature that varies less than this is constant.
const CONSTANT: f64 = 1e-9;

/// How a head is fitted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HeadOptions {
    /// The ridge, above 0, on weights of features that have mean 0 and, all states of one kind together, variance 1, both of length
    /// together 9; none: one of [`L2_GRID`], by cross-validation.
    pub l2: Option<f64>,
}

/// What the person said about replies, of which the features are known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Judgement {
    /// One is better than another.
    Pair {
        /// Index of the better one's features.
        better: usize,
        /// Index of the other one's.
        worse: usize,
        /// Factor on its loss.
        weight: f64,
        /// The probability, in [0, 0.5), that the order is wrong.
        label_smoothing: f64,
    },
    /// One is good, or is bad.
    Single {
        /// Index of its features.
        reply: usize,
        /// Which of the two.
        liked: bool,
        /// Factor on its loss.
        weight: f64,
    },
}

/// A judgement with the fold that its prompt is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// What was said.
    pub judgement: Judgement,
    /// In `0..FOLDS`; a prompt is in one fold.
    pub fold: u32,
}

/// How well heads that had not seen a prompt's judgements agreed with them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CrossValidated {
    /// Judgements agreed with: the better one higher, a 👍 over even odds, a 👎 under them.
    pub right: usize,
    /// Judgements asked.
    pub of: usize,
    /// `right / of`.
    pub accuracy: f64,
    /// Its 95 % Wilson interval.
    pub interval: (f64, f64),
}

/// Why no head can be fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The ridge is not a number above 0.
    #[error("l2 must be a number above 0")]
    Ridge,
    /// Everything was liked, or nothing.
    #[error(
        "a head needs replies that were liked and replies that were not: there is only one kind so far"
    )]
    OneKind,
    /// A feature is not a number.
    #[error("the model gives no finite hidden states")]
    NotFinite,
}

/// A fitted head. Its score is `bias + sum weights * (feature - mean) / deviation`, over the features and the square of the last one,
/// standardised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// SHA-256 of the base whose states it reads.
    pub base_sha256: String,
    /// Hash of the chat template that prompts were rendered with.
    pub template_hash: String,
    /// Mean of each feature, `[2 n_embd + 2]`.
    pub mean: Vec<f64>,
    /// Standard deviation of each feature, `[2 n_embd + 2]`; 1 where it is constant.
    pub deviation: Vec<f64>,
    /// Weight of each standardised feature, `[2 n_embd + 2]`.
    pub weights: Vec<f64>,
    /// Log-odds of a 👍 at the mean.
    pub bias: f64,
    /// The ridge.
    pub l2: f64,
    /// Pairs that it was fitted on.
    pub pairs: usize,
    /// Single judgements that it was fitted on.
    pub singles: usize,
    /// How well it does on prompts that it has not seen; none with feedback on fewer than two folds' prompts.
    pub cross_validated: Option<CrossValidated>,
}

impl Head {
    /// Log-odds of a 👍 for a reply with these features, `[2 n_embd + 1]`. `None` if there are more or fewer.
    pub fn score(&self, features: &[f32]) -> Option<f64> {
        if features.len() + 1 != self.weights.len() {
            return None;
        }
        let standardised = standardised(features, &self.mean, &self.deviation);
        Some(self.bias + dot(&standardised, &self.weights))
    }
}

/// Fits a head on judgements, in the order they were made. The same input gives the same head.
pub(crate) fn fit(
    base_sha256: &str,
    template_hash: &str,
    features: &[Vec<f32>],
    judged: &[Judged],
    options: &HeadOptions,
) -> Result<Head, Unfit> {
    if options.l2.is_some_and(|l2| !(l2 > 0.0 && l2.is_finite())) {
        return Err(Unfit::Ridge);
    }
    let judged = latest(judged);
    if !both_kinds(judged) {
        return Err(Unfit::OneKind);
    }
    if features.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Unfit::NotFinite);
    }
    let features = Standardised::new(features);
    let tried = match options.l2 {
        Some(l2) => vec![l2],
        None if judged.len() <= TRIED_UP_TO => L2_GRID.to_vec(),
        None => vec![DEFAULT_L2],
    };
    let mut best: Option<(f64, f64, CrossValidated)> = None;
    for l2 in tried.iter().copied() {
        let rows = features.rows(judged, l2);
        if let Some((loss, right)) = cross_validate(&rows, judged, l2)
            && best.is_none_or(|(_, least, _)| loss <= least)
        {
            best = Some((l2, loss, right));
        }
    }
    let l2 = match (best, tried.as_slice()) {
        (Some((l2, ..)), _) => l2,
        (None, [l2]) => *l2,
        (None, _) => DEFAULT_L2,
    };
    let rows = features.rows(judged, l2);
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut weights = logistic(&rows, &Gram::new(&rows), &all, l2);
    let bias = weights.pop().unwrap_or_default() * bias_column(l2);
    let pairs = judged.iter().filter(|judged| judged.is_pair()).count();
    Ok(Head {
        base_sha256: base_sha256.to_owned(),
        template_hash: template_hash.to_owned(),
        weights: weights
            .iter()
            .zip(&features.scale)
            .map(|(w, scale)| w * scale)
            .collect(),
        mean: features.mean,
        deviation: features.deviation,
        bias,
        l2,
        pairs,
        singles: judged.len() - pairs,
        cross_validated: best.map(|(.., right)| right),
    })
}

impl Judged {
    fn is_pair(&self) -> bool {
        matches!(self.judgement, Judgement::Pair { .. })
    }
}

/// Of very many, the last: what a person wants changes, and time grows with the cube.
fn latest(judged: &[Judged]) -> &[Judged] {
    &judged[judged.len().saturating_sub(MOST_JUDGEMENTS)..]
}

fn both_kinds(judged: &[Judged]) -> bool {
    let says = |wanted: bool| {
        judged.iter().any(|judged| match judged.judgement {
            Judgement::Pair { .. } => true,
            Judgement::Single { liked, .. } => liked == wanted,
        })
    };
    says(true) && says(false)
}

/// `(feature - mean) / deviation` of each, and of the square of the last one that comes out.
fn standardised(features: &[f32], mean: &[f64], deviation: &[f64]) -> Vec<f64> {
    let of = mean.iter().zip(deviation);
    let terms = features.iter().zip(of.clone());
    let mut all: Vec<f64> = terms
        .map(|(value, (mean, deviation))| (f64::from(*value) - mean) / deviation)
        .collect();
    let square = all.last().map(|length| length * length);
    let rest = of.skip(features.len());
    all.extend(
        square
            .into_iter()
            .zip(rest)
            .map(|(square, (mean, deviation))| (square - mean) / deviation),
    );
    all
}

/// How alike replies are to a head: what is like a liked one, it likes.
pub(crate) struct Alike(Standardised);

impl Alike {
    pub fn new(features: &[Vec<f32>]) -> Self {
        Self(Standardised::new(features))
    }

    /// The inner product of two replies' standardised features.
    pub fn of(&self, a: usize, b: usize) -> f64 {
        dot(&self.0.rows[a], &self.0.rows[b])
    }
}

/// Features with mean 0, and one variance for all of a kind together, so that a ridge means the same for every width: 1 for states of a
/// kind, [`LENGTH_WEIGHT`] squared for length.
struct Standardised {
    mean: Vec<f64>,
    deviation: Vec<f64>,
    /// What standardised features are multiplied with: one over the square root of how many there are of the kind.
    scale: Vec<f64>,
    rows: Vec<Vec<f64>>,
}

impl Standardised {
    fn new(features: &[Vec<f32>]) -> Self {
        let n = features.len() as f64;
        let n_raw = features.first().map_or(0, Vec::len);
        let usual = |values: Vec<f64>| {
            let mean = values.iter().sum::<f64>() / n;
            let squares = values.iter().map(|value| (value - mean).powi(2));
            let deviation = (squares.sum::<f64>() / n).sqrt();
            (mean, if deviation > CONSTANT { deviation } else { 1.0 })
        };
        let column = |at: usize| features.iter().map(move |row| f64::from(row[at]));
        let (mut mean, mut deviation): (Vec<f64>, Vec<f64>) =
            (0..n_raw).map(|at| usual(column(at).collect())).unzip();
        let mut rows: Vec<Vec<f64>> = (features.iter())
            .map(|features| standardised(features, &mean, &deviation))
            .collect();
        let squares = rows
            .iter()
            .filter_map(|row| row.last().map(|length| length * length));
        let of_square = usual(squares.collect());
        mean.push(of_square.0);
        deviation.push(of_square.1);
        let of_states = (n_raw.saturating_sub(1) as f64 / 2.0).sqrt().recip();
        let mut scale = vec![of_states; n_raw.saturating_sub(1)];
        scale.extend([LENGTH_WEIGHT * 0.5_f64.sqrt(); 2]);
        for (row, features) in rows.iter_mut().zip(features) {
            *row = standardised(features, &mean, &deviation);
            row.iter_mut()
                .zip(&scale)
                .for_each(|(value, scale)| *value *= scale);
        }
        Self {
            mean,
            deviation,
            scale,
            rows,
        }
    }

    /// Differences for pairs, features for single judgements; last, the column of the bias.
    fn rows(&self, judged: &[Judged], l2: f64) -> Vec<Row> {
        judged
            .iter()
            .map(|judged| match judged.judgement {
                Judgement::Pair {
                    better,
                    worse,
                    weight,
                    label_smoothing,
                } => {
                    let sides = self.rows[better].iter().zip(&self.rows[worse]);
                    Row {
                        features: sides.map(|(b, w)| b - w).chain([0.0]).collect(),
                        target: 1.0 - label_smoothing,
                        weight,
                    }
                }
                Judgement::Single {
                    reply,
                    liked,
                    weight,
                } => Row {
                    features: self.rows[reply]
                        .iter()
                        .copied()
                        .chain([bias_column(l2)])
                        .collect(),
                    target: f64::from(liked),
                    weight,
                },
            })
            .collect()
    }
}

/// What stands in the bias's column, so that one ridge on all weights is [`BIAS_L2`] on the bias.
fn bias_column(l2: f64) -> f64 {
    (l2 / BIAS_L2).sqrt()
}

/// Mean loss and agreement on judgements of prompts that were left out, fold by fold. `None` where all are in one fold.
fn cross_validate(rows: &[Row], judged: &[Judged], l2: f64) -> Option<(f64, CrossValidated)> {
    let gram = Gram::new(rows);
    let (mut right, mut of, mut loss, mut weight) = (0, 0, 0.0, 0.0);
    for fold in 0..FOLDS {
        let (out, rest): (Vec<usize>, Vec<usize>) =
            (0..rows.len()).partition(|at| judged[*at].fold == fold);
        if out.is_empty() || rest.is_empty() {
            continue;
        }
        let weights = logistic(rows, &gram, &rest, l2);
        let left_out = || out.iter().map(|at| &rows[*at]);
        let of_fold: f64 = left_out().map(|row| row.weight).sum();
        loss += of_fold * mean_loss(left_out(), &weights).unwrap_or_default();
        weight += of_fold;
        of += out.len();
        right += left_out()
            .filter(|row| (dot(&row.features, &weights) > 0.0) == (row.target > 0.5))
            .count();
    }
    if of == 0 || weight <= 0.0 {
        return None;
    }
    let validated = CrossValidated {
        right,
        of,
        accuracy: right as f64 / of as f64,
        interval: stats::wilson(right as f64, of),
    };
    Some((loss / weight, validated))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use thumbprint_tune::rng::Rng;

    use super::*;

    /// Replies of which the first feature says whether they are liked.
    fn replies(n: usize, n_features: usize) -> Vec<Vec<f32>> {
        let mut rng = Rng::new(5);
        (0..n)
            .map(|i| {
                let mut features: Vec<f32> = (0..n_features)
                    .map(|_| 10.0 + 3.0 * rng.normal() as f32)
                    .collect();
                features[0] = if i % 2 == 0 { 12.0 } else { 8.0 } + rng.normal() as f32;
                features[1] = 7.0;
                features
            })
            .collect()
    }

    fn pair(better: usize, worse: usize, fold: u32) -> Judged {
        Judged {
            judgement: Judgement::Pair {
                better,
                worse,
                weight: 1.0,
                label_smoothing: 0.1,
            },
            fold,
        }
    }

    fn single(reply: usize, liked: bool, fold: u32) -> Judged {
        Judged {
            judgement: Judgement::Single {
                reply,
                liked,
                weight: 1.0,
            },
            fold,
        }
    }

    fn fitted(replies: &[Vec<f32>], judged: &[Judged]) -> Head {
        fit("base", "template", replies, judged, &HeadOptions::default()).unwrap()
    }

    #[test]
    fn what_decides_is_found_by_pairs_by_thumbs_and_by_both() {
        let replies = replies(80, 25);
        let pairs: Vec<Judged> = (0..30)
            .map(|i| pair(2 * i, 2 * i + 1, i as u32 % 5))
            .collect();
        let thumbs: Vec<Judged> = (0..60)
            .map(|i| single(i, i % 2 == 0, i as u32 % 5))
            .collect();
        let both = [&pairs[..15], &thumbs[30..]].concat();
        for (judged, n_pairs) in [(&pairs, 30), (&thumbs, 0), (&both, 15)] {
            let head = fitted(&replies, judged);
            assert_eq!(
                (head.pairs, head.pairs + head.singles),
                (n_pairs, judged.len())
            );
            let unseen = (60..80).step_by(2).filter(|i| {
                head.score(&replies[*i]).unwrap() > head.score(&replies[i + 1]).unwrap()
            });
            assert!(unseen.count() >= 9, "{n_pairs}");
            let validated = head.cross_validated.unwrap();
            assert_eq!(validated.of, judged.len());
            assert!(validated.accuracy > 0.8, "{validated:?}");
            assert_eq!(
                fitted(&replies, judged),
                head,
                "it is a function of its input"
            );
        }
    }

    #[test]
    fn a_score_is_the_log_odds_that_the_ridge_regression_gives() {
        let replies = replies(12, 5);
        let judged: Vec<Judged> = (0..12).map(|i| single(i, i % 3 == 0, 0)).collect();
        let options = HeadOptions { l2: Some(0.7) };
        let head = fit("b", "t", &replies, &judged, &options).unwrap();
        assert_eq!((head.l2, head.cross_validated), (0.7, None));
        // First-order conditions in the features as they are defined; the second one is constant.
        assert_eq!((head.deviation[1], head.weights[1]), (1.0, 0.0));
        let residual = |i: usize| {
            let p = 1.0 / (1.0 + (-head.score(&replies[i]).unwrap()).exp());
            f64::from(i.is_multiple_of(3)) - p
        };
        let length = |i: usize| (f64::from(replies[i][4]) - head.mean[4]) / head.deviation[4];
        assert!((0..12).map(length).sum::<f64>().abs() < 1e-9);
        assert!(
            (head.mean[5] - 1.0).abs() < 1e-9,
            "a square of what has variance 1"
        );
        // Two states of each kind and two features of length: each over the square root of two, length times its weight.
        for (at, weight) in [(0, 1.0), (2, 1.0), (3, 1.0), (4, 9.0), (5, 9.0)] {
            let feature = |i: usize| match at {
                5 => length(i).powi(2),
                at => f64::from(replies[i][at]),
            };
            let standardised = |i: usize| (feature(i) - head.mean[at]) / head.deviation[at];
            let data: f64 = (0..12).map(|i| residual(i) * standardised(i)).sum();
            let ridge = 0.7 * 2.0 / weight;
            assert!((data - ridge * head.weights[at]).abs() < 1e-7, "{at}");
        }
        let of_bias: f64 = (0..12).map(residual).sum();
        assert!((of_bias - BIAS_L2 * head.bias).abs() < 1e-7);
    }

    #[test]
    fn pairs_alone_have_no_bias_and_smoothing_makes_them_less_sure() {
        let replies = replies(20, 9);
        let pairs = |label_smoothing: f64| -> Vec<Judged> {
            (0..10)
                .map(|i| Judged {
                    judgement: Judgement::Pair {
                        better: 2 * i,
                        worse: 2 * i + 1,
                        weight: 1.0,
                        label_smoothing,
                    },
                    fold: i as u32 % 5,
                })
                .collect()
        };
        let options = HeadOptions { l2: Some(0.01) };
        let margin = |label_smoothing| {
            let head = fit("b", "t", &replies, &pairs(label_smoothing), &options).unwrap();
            assert_eq!(head.bias, 0.0);
            head.score(&replies[0]).unwrap() - head.score(&replies[1]).unwrap()
        };
        assert!(margin(0.0) > margin(0.25) && margin(0.25) > 0.0);
    }

    #[test]
    fn what_cannot_be_fitted_is_said() {
        let replies = replies(6, 5);
        let fit = |judged: &[Judged], l2| fit("b", "t", &replies, judged, &HeadOptions { l2 });
        let liked: Vec<Judged> = (0..6).map(|i| single(i, true, i as u32 % 5)).collect();
        assert_eq!(fit(&liked, None), Err(Unfit::OneKind));
        assert_eq!(fit(&[], None), Err(Unfit::OneKind));
        assert_eq!(fit(&[pair(0, 1, 0)], Some(0.0)), Err(Unfit::Ridge));
        assert_eq!(fit(&[pair(0, 1, 0)], Some(f64::NAN)), Err(Unfit::Ridge));
        assert!(fit(&[pair(0, 1, 0)], None).is_ok());
        let head = fit(&[pair(0, 1, 0)], None).unwrap();
        assert_eq!(head.score(&[0.0; 6]), None);
        let mut broken = replies.clone();
        broken[2][0] = f32::NAN;
        let error = super::fit("b", "t", &broken, &[pair(0, 1, 0)], &HeadOptions::default());
        assert_eq!(error, Err(Unfit::NotFinite));
    }

    #[test]
    fn of_very_many_judgements_the_last_are_fitted() {
        let judged: Vec<Judged> = (0..MOST_JUDGEMENTS + 3)
            .map(|i| single(i, true, 0))
            .collect();
        assert_eq!(latest(&judged).len(), MOST_JUDGEMENTS);
        assert_eq!(latest(&judged)[0], judged[3]);
        assert_eq!(latest(&judged[..5]), &judged[..5]);
    }

    #[test]
    fn a_head_survives_json() {
        let replies = replies(10, 5);
        let judged: Vec<Judged> = (0..10)
            .map(|i| single(i, i % 2 == 0, i as u32 % 5))
            .collect();
        let head = fitted(&replies, &judged);
        let json = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<Head>(&json).unwrap(), head);
    }
}
