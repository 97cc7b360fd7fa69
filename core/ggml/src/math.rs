//! Elementary functions over long rows of numbers, written so that compilers make vector code of them.

/// Numbers that are added side by side.
const LANES: usize = 16;

/// `a * b + c`, fused where the CPU does it in one instruction (elsewhere `mul_add` would call a library function).
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// `e^x` to about 1e-7 relative; below -87 it is 0.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, so that the reduction is exact to single precision (Cody and Waite).
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to the nearest integer, which the last bits then hold; taking it away leaves the integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let rounded = fma(clamped, LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma(-n, LN2_LO, fma(-n, LN2_HI, clamped));
    // Coefficients of Cephes' expf.
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_5e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = fma(p, r, c);
    }
    let y = fma(p, r * r, r) + 1.0;
    // From the bits: a conversion to an integer, which saturates, would be done one number at a time.
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { y * scale }
}

/// The largest of the numbers, NaN aside; negative infinity when there is none.
pub fn max(xs: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, larger)
}

/// The sum of `f(x)`, each computed in F32 and all added in F64: vocabularies have up to 262,144 entries.
#[inline(always)]
pub fn sum(xs: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(f(x));
        }
    }
    let rest: f64 = rest.iter().map(|&x| f64::from(f(x))).sum();
    lanes.iter().sum::<f64>() + rest
}

/// `log sum exp`.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = max(logits);
    f64::from(largest) + sum(logits, |x| exp(x - largest)).ln()
}

/// KL(p || q) in nats of the softmax of two rows of logits, whose [`log_sum_exp`] the caller has.
///
/// # Panics
/// If the rows differ in length.
pub fn kl_divergence(logits_p: &[f32], log_z_p: f64, logits_q: &[f32], log_z_q: f64) -> f64 {
    assert_eq!(
        logits_p.len(),
        logits_q.len(),
        "two distributions over one vocabulary"
    );
    // The error of rounding it is common to all weights, and goes when their sum is divided by.
    let shift = log_z_p as f32;
    let (mut weights, mut weighted) = ([0.0f64; LANES], [0.0f64; LANES]);
    let mut add = |lane: usize, p: f32, q: f32| {
        let weight = exp(p - shift);
        // What p cannot say adds nothing, whatever q thinks of it.
        let difference = if weight > 0.0 { p - q } else { 0.0 };
        weights[lane] += f64::from(weight);
        weighted[lane] += f64::from(weight) * f64::from(difference);
    };
    let (p_chunks, p_rest) = logits_p.as_chunks::<LANES>();
    let (q_chunks, q_rest) = logits_q.as_chunks::<LANES>();
    for (p, q) in p_chunks.iter().zip(q_chunks) {
        for lane in 0..LANES {
            add(lane, p[lane], q[lane]);
        }
    }
    for (lane, (&p, &q)) in p_rest.iter().zip(q_rest).enumerate() {
        add(lane, p, q);
    }
    let mean = weighted.iter().sum::<f64>() / weights.iter().sum::<f64>();
    mean - (log_z_p - log_z_q)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Numbers of both signs, up to `scale`.
    pub(crate) fn numbers(n: usize, seed: u64, scale: f32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
            })
            .collect()
    }

    /// Lengths around the lanes', and a vocabulary's.
    const LENGTHS: [usize; 6] = [1, 15, 16, 17, 40, 49_153];

    #[test]
    fn the_exponential_is_accurate_over_its_range() {
        let mut worst = 0.0f64;
        let n = 400_000;
        for i in 0..=n {
            let x = -87.0 + 175.0 * (i as f32 / n as f32);
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        // Observed 8e-8: less than a unit in the last place.
        assert!(worst < 2e-7, "{worst:.1e}");
    }

    #[test]
    fn the_exponential_does_what_softmax_needs_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-87.001), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0, "a masked score");
        assert!(exp(f32::NAN).is_nan(), "an error must not become a number");
        assert!(exp(1e30).is_finite() && exp(1e30) >= 1.6e38);
        let mut before = 0.0;
        for i in 0..100_000 {
            let y = exp(-90.0 + i as f32 * 0.00178);
            assert!(y >= before, "it must not fall, at step {i}");
            before = y;
        }
    }

    #[test]
    fn the_largest_is_found_wherever_it_is() {
        for n in [1, 15, 16, 17, 40] {
            for at in 0..n {
                let mut xs: Vec<f32> = (0..n).map(|i| -1.0 - i as f32).collect();
                xs[at] = 2.0;
                assert_eq!(max(&xs), 2.0);
            }
        }
        assert_eq!(max(&[f32::NAN, 1.0, f32::NAN]), 1.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn log_sum_exp_is_that_of_double_precision_and_survives_large_logits() {
        for n in LENGTHS {
            for offset in [-1000.0, 0.0, 1000.0] {
                let logits: Vec<f32> = numbers(n, 1, 12.0).iter().map(|x| x + offset).collect();
                let naive: f64 = logits
                    .iter()
                    .map(|&x| (f64::from(x) - f64::from(offset)).exp())
                    .sum();
                let expected = naive.ln() + f64::from(offset);
                // Observed at most 6e-8.
                assert!(
                    (log_sum_exp(&logits) - expected).abs() < 3e-7,
                    "{n} {offset}"
                );
            }
        }
        assert!(
            log_sum_exp(&[0.0, f32::NAN]).is_nan(),
            "an error must not become a number"
        );
    }

    #[test]
    fn the_divergence_is_that_of_double_precision() {
        for n in LENGTHS {
            for (seed, distance) in [(2, 0.0), (3, 1e-2), (4, 10.0)] {
                // Logits are log-probabilities plus any constant.
                let p: Vec<f32> = numbers(n, seed, 10.0).iter().map(|x| x + 30.0).collect();
                let noise = numbers(n, seed + 10, distance);
                let q: Vec<f32> = p
                    .iter()
                    .zip(noise)
                    .map(|(p, noise)| p + noise - 35.0)
                    .collect();
                let (z_p, z_q) = (log_sum_exp(&p), log_sum_exp(&q));
                let log_softmax = |x: &[f32]| -> Vec<f64> {
                    let z = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
                    x.iter().map(|&x| f64::from(x) - z).collect()
                };
                let pairs = log_softmax(&p).into_iter().zip(log_softmax(&q));
                let expected: f64 = pairs.map(|(p, q)| p.exp() * (p - q)).sum();
                let kl = kl_divergence(&p, z_p, &q, z_q);
                // Observed at most 9e-7.
                assert!(
                    (kl - expected).abs() < 3e-6,
                    "{n} {distance}: {kl} {expected}"
                );
            }
        }
        let same = numbers(1000, 5, 10.0);
        let z = log_sum_exp(&same);
        assert_eq!(kl_divergence(&same, z, &same, z), 0.0);
        // What neither can say does not count.
        let some = [0.0, f32::NEG_INFINITY];
        assert_eq!(kl_divergence(&some, 0.0, &some, 0.0), 0.0);
    }
}
