//! The person: a taste, a threshold, and a hand that is not quite steady.

use crate::prompts::Prompt;
use crate::random::Random;
use crate::taste::{NEAR_TIE, utility};

/// How often this person gives the same reply the same thumb twice, before flips.
pub const SELF_AGREEMENT: f64 = 0.85;

/// Share of what is usual that this person likes: a 👍 is for the clearly good. The model's length limit is the reason not to
/// take the half: most of its replies end there, so a threshold in their midst would tell keywords apart, not lengths.
pub const LIKED: f64 = 0.25;

/// A thumb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thumb {
    /// 👍
    Up,
    /// 👎
    Down,
}

/// A choice between two replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The left one.
    Left,
    /// The right one.
    Right,
    /// Neither.
    Tie,
}

/// A person who likes short, direct answers.
#[derive(Clone, Debug)]
pub struct SimulatedUser {
    random: Random,
    flip: f64,
    threshold: f64,
    temperature: f64,
}

impl SimulatedUser {
    /// A person whose answers come from `seed` and are reversed with probability `flip`, in [0, 1].
    ///
    /// Until [`Self::calibrate`], what is usual is a utility of 0, and the temperature 0.223: 85 % self-agreement where
    /// utilities are normal with a standard deviation of 1.12, which independent features of the weights 1 and 0.5 have.
    pub fn new(seed: u64, flip: f64) -> Self {
        Self {
            random: Random::new(seed),
            flip,
            threshold: 0.0,
            temperature: 0.223,
        }
    }

    /// Learns what is usual from a first round of replies, by their [`utility`]: the threshold becomes the one that the best
    /// [`LIKED`] of them pass, and the temperature the one at which this person agrees with itself on [`SELF_AGREEMENT`] of these replies
    /// ([`self_agreement`], solved by bisection). Changes nothing over an empty slice; where the replies are so alike
    /// that no temperature gives 85 %, the nearest in [1e-3, 1e3] is taken.
    pub fn calibrate(&mut self, utilities: &[f64]) {
        let mut sorted = utilities.to_vec();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return;
        };
        let at = (1.0 - LIKED) * last as f64;
        let (lower, upper) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        self.threshold = lower + at.fract() * (upper - lower);
        let (mut low, mut high) = (1e-3_f64, 1e3_f64);
        for _ in 0..60 {
            let middle = (low * high).sqrt();
            match self_agreement(utilities, self.threshold, middle) > SELF_AGREEMENT {
                true => low = middle,
                false => high = middle,
            }
        }
        self.temperature = (low * high).sqrt();
    }

    /// The utility above which a reply more likely gets a 👍.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The scale of the noise, in units of utility.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// Judges one reply: 👍 with probability `sigma((U - threshold) / temperature)`, then flipped with probability
    /// `flip`.
    pub fn thumb(&mut self, prompt: &Prompt, reply: &str) -> Thumb {
        let liked = self.likes(utility(prompt, reply) - self.threshold);
        if liked { Thumb::Up } else { Thumb::Down }
    }

    /// Chooses between two replies without knowing whose they are: left with probability
    /// `sigma((U_left - U_right) / temperature)`, then flipped with probability `flip`; a tie within
    /// [`NEAR_TIE`]. Whoever shows the replies randomises the sides.
    pub fn vote_blind(&mut self, prompt: &Prompt, left: &str, right: &str) -> Choice {
        let difference = utility(prompt, left) - utility(prompt, right);
        if difference.abs() < NEAR_TIE {
            return Choice::Tie;
        }
        if self.likes(difference) {
            Choice::Left
        } else {
            Choice::Right
        }
    }

    fn likes(&mut self, margin: f64) -> bool {
        let liked = self.random.chance(like(margin, self.temperature));
        liked != self.random.chance(self.flip)
    }
}

/// The expected share of replies that get the same thumb when judged twice: the mean of `p^2 + (1 - p)^2` with
/// `p = sigma((U - threshold) / temperature)`. 1 as the temperature goes to 0, one half as it grows. NaN over nothing.
pub fn self_agreement(utilities: &[f64], threshold: f64, temperature: f64) -> f64 {
    let agreement = |utility: &f64| {
        let p = like(utility - threshold, temperature);
        p * p + (1.0 - p) * (1.0 - p)
    };
    utilities.iter().map(agreement).sum::<f64>() / utilities.len() as f64
}

fn like(margin: f64, temperature: f64) -> f64 {
    1.0 / (1.0 + (-margin / temperature).exp())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prompts;

    const SHORT: &str = "Cats purr when they are content, and a purr calms and soothes them too: the muscles of the \
        throat move fast, and the breath makes them sound.";

    /// A hundred and sixty words.
    fn long() -> String {
        (0..160)
            .map(|i| format!("word{i}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn purr() -> &'static Prompt {
        prompts::find("Why do cats purr?").unwrap()
    }

    #[test]
    fn the_same_seed_is_the_same_person() {
        let thumbs = |seed| {
            let mut user = SimulatedUser::new(seed, 0.3);
            (0..64)
                .map(|_| user.thumb(purr(), SHORT))
                .collect::<Vec<_>>()
        };
        assert_eq!(thumbs(5), thumbs(5));
        assert_ne!(thumbs(5), thumbs(6));
    }

    #[test]
    fn a_flip_of_zero_likes_short_and_a_flip_of_one_likes_long() {
        for (flip, short, left) in [
            (0.0, Thumb::Up, Choice::Left),
            (1.0, Thumb::Down, Choice::Right),
        ] {
            let mut user = SimulatedUser::new(1, flip);
            for _ in 0..50 {
                assert_eq!(user.thumb(purr(), SHORT), short);
                assert_eq!(user.vote_blind(purr(), SHORT, &long()), left);
                assert_eq!(user.vote_blind(purr(), SHORT, SHORT), Choice::Tie);
            }
        }
    }

    #[test]
    fn a_flip_of_a_fifth_reverses_a_fifth() {
        let mut user = SimulatedUser::new(9, 0.2);
        let down = (0..20_000)
            .filter(|_| user.thumb(purr(), SHORT) == Thumb::Down)
            .count();
        // Four standard errors are 0.011.
        assert!((down as f64 / 2e4 - 0.2).abs() < 0.011, "{down}");
    }

    #[test]
    fn calibration_takes_the_best_quarter_and_the_temperature_of_85_percent() {
        let utilities: Vec<f64> = (0..101).map(|i| 3.0 + f64::from(i) / 50.0).collect();
        let mut user = SimulatedUser::new(0, 0.0);
        user.calibrate(&utilities);
        assert_eq!(user.threshold(), 4.5);
        let agreement = self_agreement(&utilities, user.threshold(), user.temperature());
        assert!((agreement - SELF_AGREEMENT).abs() < 1e-9, "{agreement}");
    }

    #[test]
    fn the_temperature_before_calibration_is_that_of_normal_utilities() {
        // A grid over the normal distribution with standard deviation sqrt(1 + 0.25).
        let sd = 1.25_f64.sqrt();
        let grid = (-600..=600).map(|i| f64::from(i) / 100.0);
        let (mut weighted, mut total) = (0.0, 0.0);
        for z in grid {
            let weight = (-z * z / 2.0).exp();
            weighted +=
                weight * self_agreement(&[z * sd], 0.0, SimulatedUser::new(0, 0.0).temperature());
            total += weight;
        }
        // Observed 0.8500.
        assert!(
            (weighted / total - SELF_AGREEMENT).abs() < 1e-3,
            "{}",
            weighted / total
        );
    }

    #[test]
    fn calibrating_on_nothing_or_on_equals_leaves_a_usable_person() {
        let mut user = SimulatedUser::new(0, 0.0);
        user.calibrate(&[]);
        assert_eq!((user.threshold(), user.temperature()), (0.0, 0.223));
        user.calibrate(&[1.0; 5]);
        assert!(user.temperature().is_finite() && user.temperature() > 0.0);
        assert_eq!(user.thumb(purr(), ""), Thumb::Down);
    }
}
