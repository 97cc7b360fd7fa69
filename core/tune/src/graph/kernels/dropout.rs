//! Dropout by a counter: the mask of an element follows from its place, so that the backward pass draws the same one again.

/// Which elements of an operation's input are dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that an element is dropped, in (0, 1).
    pub probability: f32,
    /// Tells operations and steps apart.
    pub key: u64,
}

impl Dropout {
    /// The same dropout for another operation.
    pub fn derive(self, salt: u64) -> Self {
        Self {
            key: mix(self.key ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ..self
        }
    }

    /// Multiplies row `row` by its mask: 0 where dropped, `1 / (1 - probability)` elsewhere.
    pub fn apply(self, row: usize, values: &mut [f32]) {
        let threshold = (f64::from(self.probability) * f64::from(u32::MAX)) as u32;
        let kept = 1.0 / (1.0 - self.probability);
        let start = mix(self.key.wrapping_add(row as u64));
        for (column, value) in values.iter_mut().enumerate() {
            let draw = (mix(start.wrapping_add(column as u64)) >> 32) as u32;
            *value *= if draw < threshold { 0.0 } else { kept };
        }
    }
}

/// The finalizer of SplitMix64 (Steele et al. 2014).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_dropped_elements_is_the_probability_and_the_mean_is_kept() {
        let dropout = Dropout {
            probability: 0.3,
            key: 7,
        };
        let mut sum = 0.0;
        let mut dropped = 0;
        for row in 0..200 {
            let mut values = vec![1.0; 500];
            dropout.apply(row, &mut values);
            dropped += values.iter().filter(|v| **v == 0.0).count();
            sum += values.iter().map(|v| f64::from(*v)).sum::<f64>();
        }
        // 100,000 draws: a standard deviation of 0.0014 of the share.
        assert!((dropped as f64 / 1e5 - 0.3).abs() < 0.006, "{dropped}");
        assert!((sum / 1e5 - 1.0).abs() < 0.009, "{sum}");
    }

    #[test]
    fn the_same_place_draws_the_same_mask_and_another_operation_another() {
        let dropout = Dropout {
            probability: 0.5,
            key: 7,
        };
        let mask = |dropout: Dropout| {
            let mut values = vec![1.0; 64];
            dropout.apply(3, &mut values);
            values
        };
        assert_eq!(mask(dropout), mask(dropout));
        assert_ne!(mask(dropout), mask(dropout.derive(1)));
    }
}
