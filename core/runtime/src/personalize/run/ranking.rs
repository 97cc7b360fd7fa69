//! What trainings on halves say: how unseen feedback was ranked, and which lengths the person likes.

use serde::{Deserialize, Serialize};
use thumbprint_tune::example::{Example, Kind};

use crate::gate::{FoldResults, LengthTaste, PairFold, ThumbFold};

/// How a model that never saw some examples ranks them. All in nats over the reference.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ranking {
    /// By how much the chosen side of each pair gained more.
    margins: Vec<f64>,
    /// What liked replies gained.
    up: Vec<f64>,
    /// What disliked ones gained.
    down: Vec<f64>,
}

impl Ranking {
    /// Adds an example by the log-ratios of its sides. A demonstration ranks nothing.
    pub fn push(&mut self, example: &Example, rho: &[f64]) {
        match &example.kind {
            Kind::Pair { .. } => self.margins.push(rho[0] - rho[1]),
            Kind::Unpaired {
                desirable: true, ..
            } => self.up.push(rho[0]),
            Kind::Unpaired {
                desirable: false, ..
            } => self.down.push(rho[0]),
            Kind::Demonstration { .. } | Kind::Anchor { .. } => {}
        }
    }
}

/// All folds together.
pub fn fold_results(rankings: &[Ranking]) -> FoldResults {
    let all = |of: fn(&Ranking) -> &Vec<f64>| -> Vec<f64> {
        rankings
            .iter()
            .flat_map(|r| of(r).iter().copied())
            .collect()
    };
    FoldResults {
        pairs: PairFold::from_margins(&all(|r| &r.margins)),
        thumbs: ThumbFold::from_scores(&all(|r| &r.up), &all(|r| &r.down)),
    }
}

/// Whether liked replies are shorter or longer than disliked ones.
pub fn length_taste(examples: &[Example]) -> Option<LengthTaste> {
    let (mut pairs, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
    for example in examples {
        match &example.kind {
            Kind::Pair {
                chosen, rejected, ..
            } => pairs.push((chosen.len(), rejected.len())),
            Kind::Unpaired {
                completion,
                desirable: true,
                ..
            } => up.push(completion.len()),
            Kind::Unpaired {
                completion,
                desirable: false,
                ..
            } => down.push(completion.len()),
            Kind::Demonstration { .. } | Kind::Anchor { .. } => {}
        }
    }
    if pairs.len() >= up.len().min(down.len()) {
        LengthTaste::from_pairs(&pairs)
    } else {
        LengthTaste::from_thumbs(&up, &down)
    }
}
