//! Learning-rate schedules, as `transformers.get_scheduler` defines them: a pure function from step to factor.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The shape of the learning rate over a run. Names as in TRL's `lr_scheduler_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// 1 throughout; has no warm-up.
    Constant,
    /// From 0 to 1, then 1.
    ConstantWithWarmup,
    /// From 0 to 1, then down to 0 in a line.
    Linear,
    /// From 0 to 1, then down to 0 along half a cosine.
    Cosine,
}

impl Shape {
    /// Every shape, in the order in which messages list them.
    pub const ALL: [Shape; 4] = [
        Shape::Constant,
        Shape::ConstantWithWarmup,
        Shape::Linear,
        Shape::Cosine,
    ];

    /// The name in settings and messages.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Constant => "constant",
            Shape::ConstantWithWarmup => "constant_with_warmup",
            Shape::Linear => "linear",
            Shape::Cosine => "cosine",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a schedule was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A name that does not exist.
    #[error(
        "unknown schedule `{given}`: use one of constant, constant_with_warmup, linear, cosine"
    )]
    Unknown {
        /// What was asked for.
        given: String,
    },
    /// `constant` with a warm-up that it would ignore.
    #[error(
        "schedule `constant` has no warm-up, but {warmup_steps} warm-up steps were asked for: use constant_with_warmup"
    )]
    NoWarmup {
        /// What was asked for.
        warmup_steps: u64,
    },
}

impl FromStr for Shape {
    type Err = ScheduleError;

    fn from_str(s: &str) -> Result<Self, ScheduleError> {
        Shape::ALL
            .into_iter()
            .find(|t| t.name() == s)
            .ok_or_else(|| ScheduleError::Unknown {
                given: s.to_owned(),
            })
    }
}

/// A shape with its lengths, in optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    shape: Shape,
    warmup_steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// A schedule over `total_steps`, of which the first `warmup_steps` rise.
    ///
    /// # Errors
    /// `constant` with a warm-up.
    pub fn new(shape: Shape, warmup_steps: u64, total_steps: u64) -> Result<Self, ScheduleError> {
        if shape == Shape::Constant && warmup_steps > 0 {
            return Err(ScheduleError::NoWarmup { warmup_steps });
        }
        Ok(Schedule {
            shape,
            warmup_steps,
            total_steps,
        })
    }

    /// The factor, 0 to 1, on the learning rate of the update number `step`, counted from 0.
    ///
    /// As in transformers, the first update of a warm-up has factor 0 and the update after the warm-up has 1. Steps beyond the
    /// last stay at 0 for `linear`; a `cosine` rises again, so do not ask.
    pub fn factor(&self, step: u64) -> f64 {
        let warmup = self.warmup_steps;
        if self.shape != Shape::Constant && step < warmup {
            return step as f64 / warmup.max(1) as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(warmup).max(1) as f64;
        match self.shape {
            Shape::Constant | Shape::ConstantWithWarmup => 1.0,
            Shape::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            Shape::Cosine => {
                let progress = (step - warmup) as f64 / decay_steps;
                // The platform's own `cos` may differ in the last bit.
                (0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress))).max(0.0)
            }
        }
    }
}

/// Warm-up steps for a share of the run, rounded up as transformers does.
pub fn warmup_steps(ratio: f64, total_steps: u64) -> u64 {
    (ratio * total_steps as f64).ceil() as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn factors(shape: Shape, warmup: u64, total: u64) -> Vec<f64> {
        let schedule = Schedule::new(shape, warmup, total).unwrap();
        (0..=total).map(|step| schedule.factor(step)).collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-12, "{got:?} instead of {want:?}");
        }
    }

    // Values of transformers' get_scheduler, LambdaLR factors of steps 0, 1, 2, ...
    #[test]
    fn factors_are_those_of_transformers() {
        close(&factors(Shape::Constant, 0, 3), &[1.0, 1.0, 1.0, 1.0]);
        close(
            &factors(Shape::ConstantWithWarmup, 2, 4),
            &[0.0, 0.5, 1.0, 1.0, 1.0],
        );
        close(
            &factors(Shape::Linear, 2, 6),
            &[0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0],
        );
        close(&factors(Shape::Linear, 0, 4), &[1.0, 0.75, 0.5, 0.25, 0.0]);
        let (a, b) = (0.8535533905932737, 0.14644660940672627);
        close(
            &factors(Shape::Cosine, 2, 6),
            &[0.0, 0.5, 1.0, a, 0.5, b, 0.0],
        );
        close(&factors(Shape::Cosine, 0, 4), &[1.0, a, 0.5, b, 0.0]);
    }

    #[test]
    fn every_factor_is_between_0_and_1() {
        for shape in Shape::ALL {
            for warmup in [0, 1, 5, 30] {
                let Ok(schedule) = Schedule::new(shape, warmup, 24) else {
                    continue;
                };
                assert!(
                    (0..=24).all(|s| (0.0..=1.0).contains(&schedule.factor(s))),
                    "{shape} {warmup}"
                );
            }
        }
    }

    #[test]
    fn warm_up_is_rounded_up() {
        assert_eq!(
            [
                warmup_steps(0.1, 24),
                warmup_steps(0.1, 20),
                warmup_steps(0.0, 24)
            ],
            [3, 2, 0]
        );
    }

    #[test]
    fn a_constant_schedule_refuses_a_warm_up_and_unknown_names_are_listed() {
        assert!(Schedule::new(Shape::Constant, 3, 24).is_err());
        let message = "polynomial".parse::<Shape>().unwrap_err().to_string();
        assert!(message.contains("cosine"), "{message}");
        for shape in Shape::ALL {
            assert_eq!(shape.name().parse::<Shape>().unwrap(), shape);
            assert_eq!(serde_json::to_value(shape).unwrap(), shape.name());
        }
    }
}
