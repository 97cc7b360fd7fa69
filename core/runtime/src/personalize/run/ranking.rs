//! What trainings on halves say: how unseen feedback was ranked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thumbprint_tune::example::{Example, Kind};

use super::cache_keys::hash_tokens;
use crate::gate::{self, FoldResults};

/// How a model that never saw some examples scores their completions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ranking {
    judged: Vec<Judged>,
}

/// A completion that the person judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Judged {
    /// Hash of its prompt, where others of the same prompt were judged the other way.
    prompt: Option<String>,
    /// Its own hash.
    completion: String,
    liked: bool,
    /// What it gained over the reference, nats.
    gained: f64,
}

impl Ranking {
    /// Adds an example by the log-ratios of its sides. A demonstration ranks nothing. Of a ranking the better half was liked and the
    /// worse half disliked; the one in the middle says nothing.
    pub fn push(&mut self, example: &Example, rho: &[f64]) {
        let n = example.completions().len();
        let prompt = Some(hash_tokens(&example.prompt));
        let (prompt, likes): (_, Vec<Option<bool>>) = match &example.kind {
            Kind::Pair { .. } | Kind::Ranking { .. } => {
                let liked = |at| match 2 * at + 1 {
                    twice if twice == n => None,
                    twice => Some(twice < n),
                };
                (prompt, (0..n).map(liked).collect())
            }
            Kind::Unpaired { desirable, .. } => (None, vec![Some(*desirable)]),
            Kind::Demonstration { .. } | Kind::Anchor { .. } => return,
        };
        for ((completion, liked), gained) in example.completions().into_iter().zip(likes).zip(rho) {
            let Some(liked) = liked else { continue };
            self.judged.push(Judged {
                prompt: prompt.clone(),
                completion: hash_tokens(completion),
                liked,
                gained: *gained,
            });
        }
    }
}

/// Replies of a group by what tells them apart: what each gained, and whether it was disliked, and liked.
type Replies<'a> = BTreeMap<(usize, &'a str), (f64, [bool; 2])>;

/// All folds together: replies to one prompt are compared with each other, and those that were judged alone with each other. A reply
/// that won one pair and lost another says nothing.
pub fn fold_results(rankings: &[Ranking]) -> Option<FoldResults> {
    let mut groups: BTreeMap<Option<&str>, Replies<'_>> = BTreeMap::new();
    for (at, judged) in rankings
        .iter()
        .flat_map(|ranking| &ranking.judged)
        .enumerate()
    {
        // The same words to different prompts are different replies.
        let alone = if judged.prompt.is_none() { at } else { 0 };
        let group = groups.entry(judged.prompt.as_deref()).or_default();
        let reply = group
            .entry((alone, &judged.completion))
            .or_insert((judged.gained, [false; 2]));
        reply.1[usize::from(judged.liked)] = true;
    }
    let groups: Vec<gate::Judged> = groups
        .values()
        .map(|replies| {
            let judged = |wanted: [bool; 2]| {
                let replies = replies
                    .values()
                    .filter(move |(_, judged)| *judged == wanted);
                replies.map(|(gained, _)| *gained).collect()
            };
            gate::Judged {
                liked: judged([false, true]),
                disliked: judged([true, false]),
            }
        })
        .collect();
    FoldResults::new(&groups)
}

/// How many independent comparisons a held-out ranking of all of them would make.
pub fn comparisons(examples: &[Example]) -> usize {
    let mut ranking = Ranking::default();
    for (at, example) in examples.iter().enumerate() {
        let any = vec![at as f64; example.completions().len()];
        ranking.push(example, &any);
    }
    fold_results(&[ranking]).map_or(0, |results| results.comparisons)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use thumbprint_tune::objective::{PairWeights, RankingWeights};

    use super::*;

    fn pair(prompt: i32, chosen: i32, rejected: i32) -> Example {
        Example {
            prompt: vec![prompt],
            kind: Kind::Pair {
                chosen: vec![chosen],
                rejected: vec![rejected],
                weights: PairWeights::default(),
            },
        }
    }

    fn thumb(prompt: i32, completion: i32, desirable: bool) -> Example {
        Example {
            prompt: vec![prompt],
            kind: Kind::Unpaired {
                completion: vec![completion],
                desirable,
                weight: 1.0,
            },
        }
    }

    #[test]
    fn a_reply_in_several_pairs_counts_once_and_one_of_two_minds_not_at_all() {
        let mut first = Ranking::default();
        first.push(&pair(1, 10, 11), &[2.0, -1.0]);
        first.push(&pair(1, 10, 12), &[2.0, -3.0]);
        first.push(&thumb(7, 10, true), &[0.5]);
        let mut second = Ranking::default();
        // 20 > 21 > 22.
        second.push(&pair(2, 20, 21), &[1.0, 4.0]);
        second.push(&pair(2, 21, 22), &[4.0, 0.0]);
        second.push(&thumb(8, 10, false), &[-0.5]);
        let results = fold_results(&[first, second]).unwrap();
        assert_eq!((results.liked, results.disliked), (3, 4));
        assert_eq!(results.share, 1.0);
    }

    #[test]
    fn of_a_ranking_the_better_half_is_compared_with_the_worse_half() {
        let ranking = |n: i32| Example {
            prompt: vec![n],
            kind: Kind::Ranking {
                completions: (0..n).map(|i| vec![i; 1 + i as usize]).collect(),
                weights: RankingWeights::default(),
            },
        };
        let mut five = Ranking::default();
        // The one in the middle would be wrong.
        five.push(&ranking(5), &[2.0, 1.0, -9.0, 0.0, -1.0]);
        let results = fold_results(&[five]).unwrap();
        assert_eq!(
            (results.liked, results.disliked, results.share),
            (2, 2, 1.0)
        );
        let mut four = Ranking::default();
        four.push(&ranking(4), &[0.0, 1.0, 2.0, -1.0]);
        let results = fold_results(&[four]).unwrap();
        assert_eq!(
            (results.liked, results.disliked, results.share),
            (2, 2, 0.5)
        );
    }
}
