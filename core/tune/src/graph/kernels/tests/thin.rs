use super::super::gemm::Mat;
use super::super::thin::{OUTER_COLUMNS, Span, expand, outer, project};
use super::{numbers, relative_error, wide};

/// Three projections fused: ranks that fill steps of four and do not, the middle one not adapted.
fn spans() -> (Vec<Span>, usize, usize, usize) {
    let span = |start, len, rank_start, rank, factor_start| Span {
        start,
        len,
        rank_start,
        rank,
        factor_start,
    };
    let spans = vec![span(0, 37, 0, 5, 0), span(60, 70, 5, 8, 5 * 37)];
    (spans, 130, 13, 5 * 37 + 8 * 70)
}

/// Tokens that fill groups of four, and that do not.
const COUNTS: [usize; 4] = [1, 4, 7, 8];

fn rows(data: &[f32], stride: usize) -> Mat<'_> {
    Mat { data, stride }
}

#[test]
fn projections_equal_naive_ones_on_several_spans() {
    let (spans, width, rank, n_factors) = spans();
    for n in COUNTS {
        let (x, factors) = (numbers(1, n * width), numbers(2, n_factors));
        let mut t = vec![f32::NAN; n * rank];
        let to = (&mut t[..], rank);
        project(n, rows(&x, width), &factors, &spans, 2.5, to);
        let mut naive = vec![0.0; n * rank];
        for token in 0..n {
            for span in &spans {
                for r in 0..span.rank {
                    let factor = &factors[span.factor_start + r * span.len..][..span.len];
                    let x = &x[token * width + span.start..][..span.len];
                    naive[token * rank + span.rank_start + r] =
                        2.5 * super::dot(&wide(x), &wide(factor));
                }
            }
        }
        let error = relative_error(&t, &naive);
        // Observed at most 1.1e-7.
        assert!(error < 1e-6, "{n}: {error:.1e}");
    }
}

#[test]
fn expansions_add_naive_ones_and_leave_columns_between_spans_alone() {
    let (spans, width, rank, n_factors) = spans();
    for n in COUNTS {
        let (t, factors) = (numbers(1, n * rank), numbers(2, n_factors));
        let before = numbers(3, n * width);
        let mut y = before.clone();
        expand(n, rows(&t, rank), &factors, &spans, (&mut y, width));
        let mut naive = wide(&before);
        for token in 0..n {
            for span in &spans {
                for r in 0..span.rank {
                    let t = f64::from(t[token * rank + span.rank_start + r]);
                    for column in 0..span.len {
                        let factor = factors[span.factor_start + r * span.len + column];
                        naive[token * width + span.start + column] += t * f64::from(factor);
                    }
                }
            }
        }
        let error = relative_error(&y, &naive);
        // Observed at most 5e-8.
        assert!(error < 1e-6, "{n}: {error:.1e}");
        for (y, before) in y.chunks(width).zip(before.chunks(width)) {
            assert_eq!(y[37..60], before[37..60]);
        }
    }
}

#[test]
fn outer_products_equal_naive_ones_for_every_rank_and_width_of_a_unit() {
    for rank in [1, 3, 4, 5, 8, 16] {
        for columns in [1, 17, OUTER_COLUMNS] {
            for n_tokens in [1, 2, 65] {
                let (t_stride, x_stride) = (rank + 2, columns + 7);
                let (t, x) = (
                    numbers(1, n_tokens * t_stride),
                    numbers(2, n_tokens * x_stride),
                );
                let mut sums = vec![f32::NAN; rank * columns];
                outer(
                    n_tokens,
                    rank,
                    (&t, t_stride),
                    (&x, x_stride),
                    columns,
                    |r, row| {
                        sums[r * columns..(r + 1) * columns].copy_from_slice(row);
                    },
                );
                let mut naive = vec![0.0; rank * columns];
                for token in 0..n_tokens {
                    for r in 0..rank {
                        for column in 0..columns {
                            naive[r * columns + column] += f64::from(t[token * t_stride + r])
                                * f64::from(x[token * x_stride + column]);
                        }
                    }
                }
                let error = relative_error(&sums, &naive);
                // Observed at most 4.9e-7, where a sum nearly cancels.
                assert!(error < 1e-5, "{rank} {columns} {n_tokens}: {error:.1e}");
            }
        }
    }
}
