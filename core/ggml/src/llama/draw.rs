//! A token from the model's own distribution, at some temperature: llama.cpp's `temp` and `dist`, draw for draw, without
//! copying the vocabulary and in vector code.

use rand_mt::Mt;

use super::{LlamaError, Result, Token};
use crate::math::{exp, max, sum};

/// Tokens whose probabilities are summed together.
const BLOCK: usize = 512;

/// Where the draws come from.
#[derive(Debug)]
pub struct Draw {
    temperature: f32,
    seed: u32,
    rng: Mt,
    /// Sums of unnormalised probabilities, block by block; kept from token to token.
    sums: Vec<f64>,
}

impl Draw {
    /// `temperature` is above 0.
    pub fn new(temperature: f32, seed: u32) -> Self {
        Self {
            temperature,
            seed,
            rng: Mt::new(seed),
            sums: Vec::new(),
        }
    }

    /// Restarts from the seed.
    pub fn reset(&mut self) {
        self.rng = Mt::new(self.seed);
    }

    /// The next token.
    ///
    /// # Errors
    /// [`LlamaError::NothingToChoose`] when the logits are not finite.
    pub fn choose(&mut self, logits: &[f32]) -> Result<Token> {
        let temperature = self.temperature;
        let largest = max(logits) / temperature;
        let weight = |x: f32| exp(x / temperature - largest);
        self.sums.clear();
        self.sums
            .extend(logits.chunks(BLOCK).map(|block| sum(block, weight)));
        let total: f64 = self.sums.iter().sum();
        let target = self.uniform() * total;
        if !target.is_finite() {
            return Err(LlamaError::NothingToChoose);
        }
        let mut before = 0.0;
        for (i, (block, sum)) in logits.chunks(BLOCK).zip(&self.sums).enumerate() {
            if before + sum > target {
                let mut chosen = 0;
                for (j, &x) in block.iter().enumerate() {
                    let weight = f64::from(weight(x));
                    if weight > 0.0 {
                        chosen = j;
                        before += weight;
                        if before > target {
                            break;
                        }
                    }
                }
                return Ok((i * BLOCK + chosen) as Token);
            }
            before += sum;
        }
        // Rounding alone kept the target out of reach: the last token that can be said.
        let last = logits.iter().rposition(|&x| weight(x) > 0.0);
        Ok(last.unwrap_or(0) as Token)
    }

    /// In [0, 1), as `std::uniform_real_distribution<double>` draws it.
    fn uniform(&mut self) -> f64 {
        let (low, high) = (self.rng.next_u32(), self.rng.next_u32());
        let scaled = (f64::from(low) + f64::from(high) * 2f64.powi(32)) * 2f64.powi(-64);
        scaled.min(1.0f64.next_down())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let probabilities = [0.5f32, 0.0, 0.3, 0.2];
        // In different blocks.
        let mut logits = vec![f32::NEG_INFINITY; 3 * BLOCK + 7];
        let places = [0, 1, BLOCK + 3, 3 * BLOCK + 6];
        for (place, p) in places.iter().zip(probabilities) {
            logits[*place] = p.ln() * 0.7 + 5.0;
        }
        let mut draw = Draw::new(0.7, 1);
        let n = 20_000;
        let mut counts = vec![0u32; logits.len()];
        for _ in 0..n {
            counts[draw.choose(&logits).unwrap() as usize] += 1;
        }
        assert_eq!(places.iter().map(|&p| counts[p]).sum::<u32>(), n);
        for (place, p) in places.iter().zip(probabilities) {
            let share = f64::from(counts[*place]) / f64::from(n);
            // Four standard errors of the likeliest.
            assert!((share - f64::from(p)).abs() < 0.015, "{place}: {share}");
        }
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut logits = vec![0.0; BLOCK + 1];
            logits[BLOCK] = bad;
            let error = Draw::new(1.0, 1).choose(&logits).unwrap_err();
            assert!(matches!(error, LlamaError::NothingToChoose));
        }
        let nothing = [f32::NEG_INFINITY; 4];
        assert!(Draw::new(1.0, 1).choose(&nothing).is_err());
    }
}
