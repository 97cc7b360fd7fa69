//! AdamW over the flat f32 parameters of an adapter, and clipping of the global gradient norm.

use serde::{Deserialize, Serialize};

/// Settings of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101). Defaults are PyTorch's, without decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment. Above 0.
    pub epsilon: f64,
    /// Decoupled decay: parameters shrink by `lr * weight_decay` per step. At least 0.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// Why an update was refused. Parameters and state are then unchanged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OptimizerError {
    /// A setting out of range.
    #[error("{setting} must be {range}, got {value}")]
    Invalid {
        /// Which setting.
        setting: &'static str,
        /// What it may be.
        range: &'static str,
        /// What it is.
        value: f64,
    },
    /// Slices that do not belong together.
    #[error("the optimizer holds {expected} parameters, but {what} has {got}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// The optimizer's own length.
        expected: usize,
        /// The slice's length.
        got: usize,
    },
    /// A gradient, or what the update would make of a parameter or a moment, that is NaN or infinite.
    #[error("{what} {index} is {value}, not a finite number; no update was made")]
    NotFinite {
        /// What it is.
        what: &'static str,
        /// Index into the flat parameters.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
}

/// AdamW with its moments. `m`, `v` and `step` are all its state; checkpoints store them.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    m: Vec<f32>,
    v: Vec<f32>,
}

impl AdamW {
    /// A fresh optimizer for `n` parameters.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(config: AdamWConfig, n: usize) -> Result<Self, OptimizerError> {
        AdamW::restore(config, 0, vec![0.0; n], vec![0.0; n])
    }

    /// An optimizer that has made `step` updates and holds the moments `m` and `v`.
    ///
    /// # Errors
    /// A setting out of range, or moments of different lengths.
    pub fn restore(
        config: AdamWConfig,
        step: u64,
        m: Vec<f32>,
        v: Vec<f32>,
    ) -> Result<Self, OptimizerError> {
        let check = |setting, range, value: f64, ok: bool| {
            if ok {
                Ok(())
            } else {
                Err(OptimizerError::Invalid {
                    setting,
                    range,
                    value,
                })
            }
        };
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = config;
        check(
            "adam_beta1",
            "in [0, 1)",
            beta1,
            (0.0..1.0).contains(&beta1),
        )?;
        check(
            "adam_beta2",
            "in [0, 1)",
            beta2,
            (0.0..1.0).contains(&beta2),
        )?;
        check(
            "adam_epsilon",
            "finite and above 0",
            epsilon,
            epsilon.is_finite() && epsilon > 0.0,
        )?;
        check(
            "weight_decay",
            "finite and at least 0",
            weight_decay,
            weight_decay.is_finite() && weight_decay >= 0.0,
        )?;
        same_length("the second moment", m.len(), v.len())?;
        Ok(AdamW { config, step, m, v })
    }

    /// One update. `lr` is this step's learning rate, the schedule's factor included.
    ///
    /// With `t` the number of this update, as PyTorch's `AdamW`:
    /// `p -= lr wd p`; `m = b1 m + (1-b1) g`; `v = b2 v + (1-b2) g^2`;
    /// `p -= lr / (1-b1^t) * m / (sqrt(v) / sqrt(1-b2^t) + eps)`. Bias corrections in f64, all else in f32, so that a value
    /// does not depend on its neighbours, on the number of threads or on the platform.
    ///
    /// # Errors
    /// Slices of another length, a learning rate that is negative or not finite, or parameters or moments that would not be finite
    /// afterwards; nothing has changed then.
    pub fn update(
        &mut self,
        params: &mut [f32],
        grads: &[f32],
        lr: f64,
    ) -> Result<(), OptimizerError> {
        same_length("the parameter slice", self.m.len(), params.len())?;
        same_length("the gradient slice", self.m.len(), grads.len())?;
        let f = Factors::new(&self.next(lr)?);
        // Looked at before anything is written, so that there is nothing to be taken back.
        let now = || params.iter().zip(grads).zip(&self.m).zip(&self.v);
        let is_finite = |(((p, g), m), v): (((&f32, &f32), &f32), &f32)| {
            let [p, m, v] = f.updated([*p, *m, *v], *g);
            p.is_finite() & m.is_finite() & v.is_finite()
        };
        if !now().fold(true, |all, one| all & is_finite(one)) {
            let index = now().position(|one| !is_finite(one)).unwrap_or(0);
            let new = f.updated([params[index], self.m[index], self.v[index]], grads[index]);
            return Err(locate_not_finite(index, new));
        }
        self.step += 1;
        for (((p, g), m), v) in params
            .iter_mut()
            .zip(grads)
            .zip(&mut self.m)
            .zip(&mut self.v)
        {
            [*p, *m, *v] = f.updated([*p, *m, *v], *g);
        }
        Ok(())
    }

    /// What the next update computes with.
    ///
    /// # Errors
    /// A learning rate that is negative or not finite.
    pub fn next(&self, lr: f64) -> Result<AdamWStep, OptimizerError> {
        if !(lr.is_finite() && lr >= 0.0) {
            return Err(OptimizerError::Invalid {
                setting: "learning_rate",
                range: "finite and at least 0",
                value: lr,
            });
        }
        let correction = |beta: f64| 1.0 - libm::pow(beta, (self.step + 1) as f64);
        Ok(AdamWStep {
            config: self.config,
            lr,
            correction1: correction(self.config.beta1),
            correction2: correction(self.config.beta2),
        })
    }

    /// Counts an update that was made where the moments are kept; those here are then of an earlier one.
    pub(crate) fn count(&mut self) {
        self.step += 1;
    }

    /// To be filled from where the moments are kept.
    pub(crate) fn moments_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.m, &mut self.v)
    }

    /// Updates made so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The settings.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// First and second moments, one value per parameter.
    pub fn moments(&self) -> (&[f32], &[f32]) {
        (&self.m, &self.v)
    }
}

/// Scales `grads` so that their 2-norm is at most `max_norm`, as PyTorch's `clip_grad_norm_` (factor
/// `max_norm / (norm + 1e-6)` where that is under 1), and returns the norm before clipping. The norm is summed in f64.
/// `max_norm` may be infinite: nothing is scaled then.
///
/// # Errors
/// A gradient that is NaN or infinite (nothing is scaled then), or `max_norm` not above 0.
pub fn clip_grad_norm(grads: &mut [f32], max_norm: f64) -> Result<f64, OptimizerError> {
    if max_norm.is_nan() || max_norm <= 0.0 {
        return Err(OptimizerError::Invalid {
            setting: "max_grad_norm",
            range: "above 0",
            value: max_norm,
        });
    }
    // The squares of finite f32 cannot overflow a f64, so only a value that is not finite makes the norm so.
    let norm = sum_of_squares(grads).sqrt();
    if !norm.is_finite() {
        check_finite("gradient", grads)?;
    }
    let factor = clip_factor(norm, max_norm);
    if factor < 1.0 {
        grads.iter_mut().for_each(|g| *g *= factor as f32);
    }
    Ok(norm)
}

/// What gradients of this norm are multiplied with.
pub(crate) fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// What an update computes with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// The settings.
    pub config: AdamWConfig,
    /// The learning rate, the schedule's factor included.
    pub lr: f64,
    /// `1 - beta1^t`, t being the number of the update.
    pub correction1: f64,
    /// `1 - beta2^t`.
    pub correction2: f64,
}

struct Factors {
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    inv_sqrt_correction2: f32,
    epsilon: f32,
    keep: f32,
    step_size: f32,
}

impl Factors {
    fn new(step: &AdamWStep) -> Self {
        let c = &step.config;
        Factors {
            one_minus_beta1: (1.0 - c.beta1) as f32,
            beta2: c.beta2 as f32,
            one_minus_beta2: (1.0 - c.beta2) as f32,
            inv_sqrt_correction2: (1.0 / step.correction2.sqrt()) as f32,
            epsilon: c.epsilon as f32,
            keep: (1.0 - step.lr * c.weight_decay) as f32,
            step_size: (step.lr / step.correction1) as f32,
        }
    }

    /// What an update makes of a parameter and its moments.
    #[inline(always)]
    fn updated(&self, [p, m, v]: [f32; 3], g: f32) -> [f32; 3] {
        let m = m + self.one_minus_beta1 * (g - m);
        let v = self.beta2 * v + self.one_minus_beta2 * (g * g);
        let denominator = v.sqrt() * self.inv_sqrt_correction2 + self.epsilon;
        [self.keep * p - self.step_size * (m / denominator), m, v]
    }
}

/// In sixteen independent sums, which vectorise, added up in a fixed order.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0f64; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            let x = f64::from(*x);
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        let x = f64::from(*x);
        *sum += x * x;
    }
    sums.iter().sum()
}

/// Refuses values of which one is NaN or infinite.
///
/// # Errors
/// [`OptimizerError::NotFinite`] for the first such, as `what`.
pub fn check_finite(what: &'static str, values: &[f32]) -> Result<(), OptimizerError> {
    if values.iter().fold(true, |all, x| all & x.is_finite()) {
        return Ok(());
    }
    let index = values.iter().position(|x| !x.is_finite()).unwrap_or(0);
    Err(OptimizerError::NotFinite {
        what,
        index,
        value: values[index],
    })
}

#[cold]
fn locate_not_finite(index: usize, [p, m, v]: [f32; 3]) -> OptimizerError {
    // A moment that overflows is where it began.
    let (what, value) = match () {
        () if !m.is_finite() => ("first moment", m),
        () if !v.is_finite() => ("second moment", v),
        () => ("parameter", p),
    };
    OptimizerError::NotFinite { what, index, value }
}

fn same_length(what: &'static str, expected: usize, got: usize) -> Result<(), OptimizerError> {
    if expected == got {
        Ok(())
    } else {
        Err(OptimizerError::Length {
            what,
            expected,
            got,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// PyTorch's documented algorithm, one parameter at a time, in f64.
    struct Naive {
        p: f64,
        m: f64,
        v: f64,
        t: i32,
    }

    impl Naive {
        fn update(&mut self, g: f64, lr: f64, c: &AdamWConfig) {
            self.t += 1;
            self.p -= lr * c.weight_decay * self.p;
            self.m = c.beta1 * self.m + (1.0 - c.beta1) * g;
            self.v = c.beta2 * self.v + (1.0 - c.beta2) * g * g;
            let m_hat = self.m / (1.0 - c.beta1.powi(self.t));
            let v_hat = self.v / (1.0 - c.beta2.powi(self.t));
            self.p -= lr * m_hat / (v_hat.sqrt() + c.epsilon);
        }
    }

    #[test]
    fn updates_follow_the_naive_reference() {
        let mut rng = Rng::new(3);
        let n = 1003;
        for config in [
            AdamWConfig::default(),
            AdamWConfig {
                weight_decay: 0.1,
                beta2: 0.95,
                ..Default::default()
            },
        ] {
            let mut params: Vec<f32> = (0..n).map(|_| 0.05 * rng.normal() as f32).collect();
            let mut naive: Vec<Naive> = params
                .iter()
                .map(|p| Naive {
                    p: f64::from(*p),
                    m: 0.0,
                    v: 0.0,
                    t: 0,
                })
                .collect();
            let mut adam = AdamW::new(config, n).unwrap();
            for step in 0..50 {
                // Gradients over many magnitudes, some exactly 0 (A at the first step, where B is 0).
                let grads: Vec<f32> = (0..n)
                    .map(|i| {
                        if i % 7 == 0 {
                            0.0
                        } else {
                            (rng.normal() * 10f64.powi(i as i32 % 9 - 8)) as f32
                        }
                    })
                    .collect();
                let lr = 4e-4 * f64::from(50 - step) / 50.0;
                adam.update(&mut params, &grads, lr).unwrap();
                for (n, g) in naive.iter_mut().zip(&grads) {
                    n.update(f64::from(*g), lr, &config);
                }
            }
            let worst = params
                .iter()
                .zip(&naive)
                .map(|(p, n)| (f64::from(*p) - n.p).abs())
                .fold(0.0, f64::max);
            // Observed 9e-8: f32 rounding of parameters of size 0.05 over 50 steps.
            assert!(worst < 3e-7, "{worst}");
            assert!(adam.step() == 50);
        }
    }

    #[test]
    fn the_first_step_moves_every_parameter_by_the_learning_rate() {
        let mut adam = AdamW::new(AdamWConfig::default(), 3).unwrap();
        let mut params = [0.0f32; 3];
        adam.update(&mut params, &[0.5, -2.0, 0.0], 1e-3).unwrap();
        for (p, want) in params.iter().zip([-1e-3, 1e-3, 0.0]) {
            assert!((f64::from(*p) - want).abs() < 1e-9, "{params:?}");
        }
    }

    #[test]
    fn a_restored_optimizer_continues_bit_for_bit() {
        let mut rng = Rng::new(8);
        let mut draw = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
        let grads: Vec<Vec<f32>> = (0..6).map(|_| draw(100)).collect();
        let mut whole = AdamW::new(AdamWConfig::default(), 100).unwrap();
        let mut params = draw(100);
        let mut resumed_params = Vec::new();
        let mut resumed = None;
        for (i, g) in grads.iter().enumerate() {
            if i == 3 {
                let (m, v) = whole.moments();
                resumed = Some(
                    AdamW::restore(*whole.config(), whole.step(), m.to_vec(), v.to_vec()).unwrap(),
                );
                resumed_params = params.clone();
            }
            whole.update(&mut params, g, 1e-3).unwrap();
            if let Some(resumed) = &mut resumed {
                resumed.update(&mut resumed_params, g, 1e-3).unwrap();
            }
        }
        assert_eq!(resumed.unwrap(), whole);
        assert!(
            params
                .iter()
                .zip(&resumed_params)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
    }

    #[test]
    fn clipping_scales_to_the_limit_and_reports_the_norm_before() {
        let mut grads: Vec<f32> = vec![3.0; 16];
        grads.push(5.0);
        assert_eq!(clip_grad_norm(&mut grads, 100.0).unwrap(), 13.0);
        assert_eq!(grads[16], 5.0);
        assert_eq!(clip_grad_norm(&mut grads, 1.0).unwrap(), 13.0);
        // PyTorch: torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6.
        assert!(
            (f64::from(grads[16]) - 5.0 / 13.000001).abs() < 1e-7,
            "{}",
            grads[16]
        );
        assert_eq!(clip_grad_norm(&mut [0.0; 4], 1.0).unwrap(), 0.0);
        let mut huge = [f32::MAX; 3];
        assert!(
            clip_grad_norm(&mut huge, f64::INFINITY)
                .unwrap()
                .is_finite()
        );
        assert_eq!(huge, [f32::MAX; 3]);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named_and_nothing_moves() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 20, 33] {
                let mut grads = vec![1.0f32; 34];
                grads[at] = bad;
                let error = clip_grad_norm(&mut grads, 1.0).unwrap_err();
                let OptimizerError::NotFinite { what, index, .. } = &error else {
                    panic!("{error}")
                };
                assert_eq!((*what, *index), ("gradient", at));
                assert!(grads.iter().enumerate().all(|(i, g)| i == at || *g == 1.0));
            }
        }
    }

    #[test]
    fn an_update_that_would_not_be_finite_is_named_and_nothing_moves() {
        let huge = 1e25f32;
        for (what, param, grad, lr) in [
            ("parameter", 1.0f32, 1.0f32, 1e39),
            ("parameter", f32::NAN, 1.0, 1e-3),
            ("second moment", 1.0, huge, 1e-3),
            ("first moment", 1.0, f32::NAN, 1e-3),
        ] {
            for at in [0, 20, 33] {
                let mut params = vec![0.5f32; 34];
                let mut grads = vec![0.0f32; 34];
                (params[at], grads[at]) = (param, grad);
                let mut adam = AdamW::new(AdamWConfig::default(), 34).unwrap();
                let (before, bits) = (adam.clone(), params.clone());
                let error = adam.update(&mut params, &grads, lr).unwrap_err();
                let OptimizerError::NotFinite {
                    what: named, index, ..
                } = &error
                else {
                    panic!("{error}")
                };
                // Where the rate alone is too large, nothing times infinity is what breaks first.
                let first = if lr > 1e38 { 0 } else { at };
                assert_eq!((*named, *index), (what, first), "{error}");
                assert_eq!(adam, before);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                assert!(params.iter().zip(&bits).all(same));
            }
        }
    }

    #[test]
    fn wrong_lengths_and_settings_are_refused() {
        let mut adam = AdamW::new(AdamWConfig::default(), 3).unwrap();
        assert!(adam.update(&mut [0.0; 2], &[0.0; 3], 1e-3).is_err());
        assert!(adam.update(&mut [0.0; 3], &[0.0; 4], 1e-3).is_err());
        assert!(adam.update(&mut [0.0; 3], &[0.0; 3], f64::NAN).is_err());
        assert_eq!(adam.step(), 0);
        assert!(
            AdamW::new(
                AdamWConfig {
                    beta1: 1.0,
                    ..Default::default()
                },
                3
            )
            .is_err()
        );
        assert!(
            AdamW::new(
                AdamWConfig {
                    epsilon: 0.0,
                    ..Default::default()
                },
                3
            )
            .is_err()
        );
        assert!(
            AdamW::new(
                AdamWConfig {
                    weight_decay: -1.0,
                    ..Default::default()
                },
                3
            )
            .is_err()
        );
        assert!(AdamW::restore(AdamWConfig::default(), 1, vec![0.0; 3], vec![0.0; 2]).is_err());
        assert!(clip_grad_norm(&mut [1.0], 0.0).is_err());
        assert!(clip_grad_norm(&mut [1.0], f64::NAN).is_err());
    }
}
