//! Several replies drawn side by side, of which the best is kept.

use std::sync::Arc;

use serde::Serialize;

use crate::engine::{
    Batch, Canceller, Completed, EngineError, MAX_PARALLEL, Priority, ScoreText, With,
};
use crate::error::Result;
use crate::facade::{Loaded, Scorer};
use crate::generation::Request;
use crate::types::{Judge, Sampling, StopReason};

/// How a reply was chosen among several.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestOf {
    /// Who chose.
    pub judge: Judge,
    /// Which one it is; its seed is the request's plus this.
    pub chosen: usize,
    /// The score of each, higher is better ([`Score::reward`](crate::reward::Score::reward)). Empty if the generation was cancelled
    /// before they were scored: then the first that is complete was taken.
    pub scores: Vec<f64>,
}

/// Replies in the making.
#[derive(Debug)]
pub(crate) struct Candidates {
    batch: Batch,
    n: usize,
    loaded: Arc<Loaded>,
    scorer: Scorer,
    judge: Judge,
}

impl Candidates {
    /// Starts to draw.
    pub fn start(
        loaded: &Arc<Loaded>,
        request: &Request,
        with: With,
        scorer: Scorer,
    ) -> Result<Self> {
        let options = &request.options;
        let requests: Vec<_> = (0..u64::from(options.best_of))
            .map(|i| {
                let mut request = request.engine_request(with.clone());
                request.options.best_of = 1;
                request.options.sampling = Sampling {
                    seed: options.sampling.seed.wrapping_add(i),
                    ..options.sampling
                };
                request
            })
            .collect();
        let batch =
            loaded
                .engine
                .generate_batch_at(Priority::Foreground, &requests, requests.len())?;
        Ok(Self {
            batch,
            n: requests.len(),
            loaded: Arc::clone(loaded),
            scorer,
            judge: options.judge,
        })
    }

    /// Checks a request for several replies.
    pub fn check(request: &Request) -> Result<()> {
        let options = &request.options;
        let refuse = |reason: String| {
            let name = "best_of";
            Err(EngineError::InvalidOption { name, reason }.into())
        };
        match options.best_of {
            n if n == 0 || n as usize > MAX_PARALLEL => {
                refuse(format!("{n}, where 1 to {MAX_PARALLEL} are allowed"))
            }
            2.. if options.sampling.temperature == 0.0 => {
                refuse("at temperature 0 all candidates are the same".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub fn canceller(&self) -> Canceller {
        self.batch.canceller()
    }

    /// Waits for all of them, and chooses.
    pub fn best(&mut self) -> Result<(Completed, BestOf)> {
        let mut candidates: Vec<Option<Completed>> = (0..self.n).map(|_| None).collect();
        while let Some((at, candidate)) = self.batch.next()? {
            candidates[at] = Some(candidate);
        }
        let mut candidates: Vec<Completed> = candidates.into_iter().flatten().collect();
        let scores = self.scores(&candidates)?;
        let chosen = match &scores {
            Some(scores) => highest(scores),
            None => candidates
                .iter()
                .position(|candidate| candidate.stop_reason != StopReason::Cancelled)
                .unwrap_or(0),
        };
        if chosen >= candidates.len() {
            return Err(EngineError::Stopped.into());
        }
        let best = BestOf {
            judge: self.judge,
            chosen,
            scores: scores.unwrap_or_default(),
        };
        Ok((candidates.swap_remove(chosen), best))
    }

    /// `None` if it was cancelled.
    fn scores(&self, candidates: &[Completed]) -> Result<Option<Vec<f64>>> {
        let canceller = self.canceller();
        if canceller.is_cancelled() {
            return Ok(None);
        }
        let texts = candidates.iter().map(|candidate| ScoreText {
            prompt: candidate.prompt_tokens.clone(),
            completion: candidate.tokens.clone(),
        });
        let scored = self.scorer.score(
            &self.loaded.engine,
            Priority::Foreground,
            texts.collect(),
            &canceller,
        );
        match scored {
            Ok(scores) => Ok(Some(scores.iter().map(|score| score.reward).collect())),
            Err(crate::Error::Engine(EngineError::Cancelled)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The first of the highest; what is not a number is the lowest.
fn highest(scores: &[f64]) -> usize {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] || (scores[best].is_nan() && !score.is_nan()) {
            best = at;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_highest_is_best_and_nothing_is_worse_than_no_number() {
        assert_eq!(highest(&[0.1, 0.3, 0.3, -1.0]), 1);
        assert_eq!(highest(&[f64::NAN, -5.0, f64::NAN]), 1);
        assert_eq!(highest(&[f64::NAN, f64::NAN]), 0);
        assert_eq!(highest(&[-2.0]), 0);
    }
}
