use super::super::gemm::{Mat, dot, exp, gemm};
use super::{numbers, relative_error, wide};

#[test]
fn products_equal_naive_ones_for_all_remainders_of_the_tiles() {
    for m in 1..=13 {
        for (n, k) in [(16, 1), (16, 7), (48, 33), (64, 16), (80, 5), (144, 64)] {
            let (a_stride, b_stride, c_stride) = (k + 3, n + 5, n + 2);
            let (a, b) = (numbers(1, m * a_stride), numbers(2, k * b_stride));
            let before = numbers(3, m * c_stride);
            let mut c = before.clone();
            let (left, right) = (
                Mat {
                    data: &a,
                    stride: a_stride,
                },
                Mat {
                    data: &b,
                    stride: b_stride,
                },
            );
            gemm(m, n, k, left, right, &mut c, c_stride);
            let mut naive = wide(&before);
            for row in 0..m {
                for column in 0..n {
                    for i in 0..k {
                        naive[row * c_stride + column] +=
                            f64::from(a[row * a_stride + i]) * f64::from(b[i * b_stride + column]);
                    }
                }
            }
            let error = relative_error(&c, &naive);
            // Observed at most 9.5e-7, where a sum nearly cancels.
            assert!(error < 4e-6, "{m} {n} {k}: {error:.1e}");
            for row in 0..m {
                let gap = row * c_stride + n..(row + 1) * c_stride;
                assert_eq!(
                    c[gap.clone()],
                    before[gap],
                    "between rows nothing is written"
                );
            }
        }
    }
}

#[test]
fn inner_products_equal_naive_ones_at_every_length() {
    for n in 0..100 {
        let (a, b) = (numbers(1, n), numbers(2, n));
        let naive = super::dot(&wide(&a), &wide(&b));
        // Observed at most 2.4e-6, of a sum of about 30.
        assert!((f64::from(dot(&a, &b)) - naive).abs() < 1e-5, "{n}");
    }
}

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
