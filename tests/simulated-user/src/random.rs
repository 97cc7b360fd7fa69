//! SplitMix64 (Steele, Lea and Flood 2014): the same seed gives the same person on every machine.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// One of `0..n`; 0 for an `n` of 0.
    pub fn below(&mut self, n: usize) -> usize {
        // Less than one part in 2^50 from even for any n that fits memory.
        (self.uniform() * n as f64) as usize
    }

    /// Puts items in an order of its own (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_that_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let first = [random.next(), random.next(), random.next()];
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!(first, published);
    }

    #[test]
    fn chances_come_out_as_asked() {
        let mut random = Random::new(3);
        let hits = (0..100_000).filter(|_| random.chance(0.2)).count();
        // Four standard errors are 0.005.
        assert!((hits as f64 / 1e5 - 0.2).abs() < 0.005, "{hits}");
    }

    #[test]
    fn every_order_of_three_comes_up_about_as_often() {
        let mut random = Random::new(4);
        let mut times = std::collections::BTreeMap::new();
        for _ in 0..60_000 {
            let mut items = [0, 1, 2];
            random.shuffle(&mut items);
            *times.entry(items).or_insert(0_i32) += 1;
        }
        assert_eq!(times.len(), 6);
        // Four standard errors are 365.
        assert!(
            times.values().all(|n| (n - 10_000).abs() < 400),
            "{times:?}"
        );
    }
}
