//! Whether judgements tell replies apart, or are such as chance hands out.
//!
//! Liked replies should resemble other liked ones, and disliked ones each other, *to other prompts*. With `y` a reply's judgement less the
//! mean of all, and `k` how alike two replies are (an inner product of features), `Q = sum y_i y_j k_ij` over replies to different prompts is the score
//! test of a ridge regression's weights (Goeman, van de Geer and van Houwelingen 2006; Wu et al. 2011), without what prompts say of
//! themselves. Judgements are then handed out anew among the same replies, and the p-value is how often those do as well. So judgements
//! that mean nothing are below 5 % in 5 % of cases, however few they are and whatever the features (docs/adr/023).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thumbprint_tune::rng::Rng;

use super::guards::{Bounds, Guard, GuardResult};
use super::logistic::dot;

/// Times that judgements are handed out anew. The least p-value is one over one more.
const PERMUTATIONS: usize = 1999;
/// The same judgements give the same p-value.
const SEED: u64 = 20_261_127;
/// Judgements at most; of more, the last are tested. Time grows with the square.
const MOST_OPINIONS: usize = 1000;

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
    let products: Vec<Vec<f64>> = opinions
        .iter()
        .map(|a| {
            let product = |b: &Opinion| match a.prompt == b.prompt {
                true => 0.0,
                false => alike(a.reply, b.reply),
            };
            opinions.iter().map(product).collect()
        })
        .collect();
    let mut y = centred(&opinions);
    let found = statistic(&y, &products);
    if !found.is_finite() {
        return None;
    }
    // What is the same but for rounding does as well.
    let mark = found - 1e-9 * found.abs();
    let mut rng = Rng::new(SEED);
    let as_well = (0..PERMUTATIONS).filter(|_| {
        rng.shuffle(&mut y);
        statistic(&y, &products) >= mark
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

fn statistic(y: &[f64], products: &[Vec<f64>]) -> f64 {
    let terms = y.iter().zip(products);
    terms.map(|(y_i, products)| y_i * dot(products, y)).sum()
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
    fn what_prompts_say_of_themselves_is_no_evidence() {
        // Replies to a prompt are alike, and judged alike: nothing is known of any other prompt.
        let mut rng = Rng::new(3);
        let prompts: Vec<Vec<f64>> = (0..12)
            .map(|_| (0..40).map(|_| rng.normal()).collect())
            .collect();
        let replies: Vec<Vec<f64>> = (0..48).map(|i| prompts[i / 4].clone()).collect();
        let opinions: Vec<Opinion> = (0..48)
            .map(|reply| Opinion {
                prompt: [(reply / 4) as u8; 32],
                reply,
                liked: (reply / 4) % 2 == 0,
                weight: 1.0,
            })
            .collect();
        let found = by_features(&replies, &opinions).unwrap();
        assert!(found.p_value > 0.05, "{found:?}");
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
