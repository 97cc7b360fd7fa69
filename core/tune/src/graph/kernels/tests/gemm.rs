use super::super::gemm::{Mat, dot, gemm};
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
