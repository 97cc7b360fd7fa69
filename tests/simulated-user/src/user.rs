//! The person: a taste, a threshold, and a hand that is not quite steady.

use crate::edits::{Edit, rewrite};
use crate::population::{Prompt, User};
use crate::random::Random;
use crate::taste::{NEAR_TIE, Taste};

/// How often a person gives the same reply the same thumb twice, before flips.
pub const SELF_AGREEMENT: f64 = 0.85;

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

impl Choice {
    /// The noiseless choice, by the utility of the left reply minus that of the right one.
    pub fn by(difference: f64) -> Self {
        match difference {
            _ if difference.abs() < NEAR_TIE => Self::Tie,
            _ if difference > 0.0 => Self::Left,
            _ => Self::Right,
        }
    }
}

/// How likely a blind vote falls each way. They add up to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chances {
    /// For the left reply.
    pub left: f64,
    /// For neither.
    pub tie: f64,
    /// For the right reply.
    pub right: f64,
}

/// A person who judges replies, and perhaps rewrites them.
#[derive(Clone, Debug)]
pub struct SimulatedUser {
    taste: Taste,
    edits: Vec<Edit>,
    liked: f64,
    random: Random,
    flip: f64,
    threshold: f64,
    temperature: f64,
}

impl SimulatedUser {
    /// A person who has seen what is usual for the model: replies to training prompts. From them come the constants that the
    /// taste lacks ([`Taste::fitted`]), the threshold, which the best [`User::liked`] of them pass, and the temperature, at
    /// which the person agrees with itself on [`SELF_AGREEMENT`] of them ([`self_agreement`], solved by bisection). Where replies
    /// are so alike that no temperature gives 85 %, the nearest in [1e-3, 1e3] is taken.
    ///
    /// Without any usual replies the threshold is a utility of 0, and the temperature 0.223: 85 % self-agreement where
    /// utilities are normal with a standard deviation of 1.12, which independent features of the weights 1 and 0.5 have.
    ///
    /// Answers come from `seed` and are reversed with probability `flip`, in [0, 1].
    pub fn new(user: &User, usual: &[(&Prompt, &str)], seed: u64, flip: f64) -> Self {
        let taste = Taste::fitted(&user.utility, usual);
        let utilities: Vec<f64> = usual
            .iter()
            .map(|(prompt, reply)| taste.utility(prompt, reply))
            .collect();
        let mut person = Self {
            taste,
            edits: user.edits.clone(),
            liked: user.liked,
            random: Random::new(seed),
            flip,
            threshold: 0.0,
            temperature: 0.223,
        };
        person.calibrate(&utilities);
        person
    }

    fn calibrate(&mut self, utilities: &[f64]) {
        let mut sorted = utilities.to_vec();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return;
        };
        let at = (1.0 - self.liked) * last as f64;
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

    /// What this person likes.
    pub fn taste(&self) -> &Taste {
        &self.taste
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
        let liked = self.likes(self.taste.utility(prompt, reply) - self.threshold);
        if liked { Thumb::Up } else { Thumb::Down }
    }

    /// The reply as this person would have it; `None` for one who never rewrites, or who finds nothing to change.
    pub fn edited(&self, prompt: &Prompt, reply: &str) -> Option<String> {
        // The same words whenever the same question is asked.
        let choice = prompt.text.bytes().map(usize::from).sum();
        rewrite(reply, &self.edits, choice)
    }

    /// Chooses between two replies without knowing whose they are: left with probability
    /// `sigma((U_left - U_right) / temperature)`, then flipped with probability `flip`; a tie within
    /// [`NEAR_TIE`]. Whoever shows the replies randomises the sides.
    pub fn vote_blind(&mut self, prompt: &Prompt, left: &str, right: &str) -> Choice {
        let utility = |reply| self.taste.utility(prompt, reply);
        let difference = utility(left) - utility(right);
        if Choice::by(difference) == Choice::Tie {
            return Choice::Tie;
        }
        if self.likes(difference) {
            Choice::Left
        } else {
            Choice::Right
        }
    }

    /// How [`vote_blind`](Self::vote_blind) falls, by the utility of the left reply minus that of the right one.
    pub fn vote_chances(&self, difference: f64) -> Chances {
        if Choice::by(difference) == Choice::Tie {
            return Chances {
                left: 0.0,
                tie: 1.0,
                right: 0.0,
            };
        }
        let steady = like(difference, self.temperature);
        let left = steady * (1.0 - self.flip) + (1.0 - steady) * self.flip;
        Chances {
            left,
            tie: 0.0,
            right: 1.0 - left,
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
    use crate::population::{Population, demo};

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
        Population::development().find("Why do cats purr?").unwrap()
    }

    fn person(seed: u64, flip: f64) -> SimulatedUser {
        SimulatedUser::new(demo(), &[], seed, flip)
    }

    #[test]
    fn the_same_seed_is_the_same_person() {
        let thumbs = |seed| {
            let mut user = person(seed, 0.3);
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
            let mut user = person(1, flip);
            for _ in 0..50 {
                assert_eq!(user.thumb(purr(), SHORT), short);
                assert_eq!(user.vote_blind(purr(), SHORT, &long()), left);
                assert_eq!(user.vote_blind(purr(), SHORT, SHORT), Choice::Tie);
            }
        }
    }

    #[test]
    fn a_flip_of_a_fifth_reverses_a_fifth() {
        let mut user = person(9, 0.2);
        let down = (0..20_000)
            .filter(|_| user.thumb(purr(), SHORT) == Thumb::Down)
            .count();
        // Four standard errors are 0.011.
        assert!((down as f64 / 2e4 - 0.2).abs() < 0.011, "{down}");
    }

    #[test]
    fn votes_fall_as_often_as_their_chances_say() {
        let mut user = person(2, 0.1);
        let replies = [SHORT, "Cats purr when they are content, it seems."];
        let taste = user.taste().clone();
        let difference = taste.utility(purr(), replies[0]) - taste.utility(purr(), replies[1]);
        let chances = user.vote_chances(difference);
        let left = (0..20_000)
            .filter(|_| user.vote_blind(purr(), replies[0], replies[1]) == Choice::Left)
            .count() as f64;
        // Four standard errors are at most 0.015.
        assert!(
            (left / 2e4 - chances.left).abs() < 0.015,
            "{left} {chances:?}"
        );
        let sum = chances.left + chances.tie + chances.right;
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!(user.vote_chances(0.05).tie, 1.0);
    }

    #[test]
    fn calibration_takes_the_best_share_and_the_temperature_of_85_percent() {
        let utilities: Vec<f64> = (0..101).map(|i| 3.0 + f64::from(i) / 50.0).collect();
        for (liked, threshold) in [(0.25, 4.5), (0.5, 4.0)] {
            let mut user = person(0, 0.0);
            user.liked = liked;
            user.calibrate(&utilities);
            assert_eq!(user.threshold(), threshold);
            let agreement = self_agreement(&utilities, user.threshold(), user.temperature());
            assert!((agreement - SELF_AGREEMENT).abs() < 1e-9, "{agreement}");
        }
    }

    #[test]
    fn the_temperature_before_calibration_is_that_of_normal_utilities() {
        // A grid over the normal distribution with standard deviation sqrt(1 + 0.25).
        let sd = 1.25_f64.sqrt();
        let grid = (-600..=600).map(|i| f64::from(i) / 100.0);
        let (mut weighted, mut total) = (0.0, 0.0);
        for z in grid {
            let weight = (-z * z / 2.0).exp();
            weighted += weight * self_agreement(&[z * sd], 0.0, person(0, 0.0).temperature());
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
    fn calibrating_on_equals_leaves_a_usable_person() {
        let mut user = person(0, 0.0);
        assert_eq!((user.threshold(), user.temperature()), (0.0, 0.223));
        user.calibrate(&[1.0; 5]);
        assert!(user.temperature().is_finite() && user.temperature() > 0.0);
        assert_eq!(user.thumb(purr(), ""), Thumb::Down);
    }
}
