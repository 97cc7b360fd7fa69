use super::super::head::{SHRINK, STATS, SUM, accumulate, begin, exponentials, log_prob};
use super::numbers;

/// Log-softmax in double precision.
fn naive(logits: &[f32], label: usize) -> f64 {
    let max = logits
        .iter()
        .map(|x| f64::from(*x))
        .fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    f64::from(logits[label]) - max - sum.ln()
}

/// Statistics of a row worked on in blocks of the given length.
fn stats(logits: &[f32], label: usize, block: usize) -> [f32; STATS] {
    let mut stats = begin();
    for (i, block_logits) in logits.chunks(block).enumerate() {
        accumulate(block_logits, i * block, label, &mut stats);
    }
    stats
}

/// Rows of different kinds: of the usual spread, one-sided, wide, rising and falling over blocks, far from zero, and flat.
fn rows(n: usize) -> Vec<Vec<f32>> {
    let base = numbers(7, n);
    let ramp = |slope: f32| (0..n).map(|i| slope * i as f32).collect();
    let scaled = |scale: f32, offset: f32| base.iter().map(|x| scale * x + offset).collect();
    vec![
        scaled(4.0, 0.0),
        scaled(300.0, 0.0),
        scaled(10.0, 10_000.0),
        scaled(10.0, -10_000.0),
        scaled(1e6, 0.0),
        ramp(0.2),
        ramp(-0.2),
        vec![3.0; n],
    ]
}

#[test]
fn log_probabilities_equal_naive_ones_however_the_vocabulary_is_cut() {
    let n = 1003;
    for (kind, logits) in rows(n).iter().enumerate() {
        for label in [0, 15, 500, n - 1] {
            let exact = naive(logits, label);
            for block in [n, 512, 100, 17, 1] {
                let ours = log_prob(&stats(logits, label, block));
                let error = (ours - exact).abs();
                // Observed at most 6e-8 plus the rounding of logits.
                assert!(
                    error < 2e-6 + 1e-7 * exact.abs(),
                    "row {kind}, {label}, {block}: {error:.1e}"
                );
            }
        }
    }
}

#[test]
fn exponentials_over_their_sum_are_probabilities() {
    for (kind, logits) in rows(1003).into_iter().enumerate() {
        let stats = stats(&logits, 0, 100);
        let mut p = logits.clone();
        p.chunks_mut(100)
            .for_each(|block| exponentials(block, &stats));
        p.iter_mut().for_each(|p| *p /= stats[SUM]);
        let sum: f64 = p.iter().map(|p| f64::from(*p)).sum();
        assert!((sum - 1.0).abs() < 1e-6, "row {kind}: {sum}");
        for (i, p) in p.iter().enumerate() {
            let exact = naive(&logits, i).exp();
            // Observed at most 3.4e-7.
            assert!(
                (f64::from(*p) - exact).abs() < 2e-6 * exact + 1e-30,
                "row {kind}, {i}: {p} {exact}"
            );
        }
    }
}

/// As the head takes the mean of embeddings: block by block, each relative to what is largest by then.
#[test]
fn a_mean_taken_block_by_block_is_that_of_the_whole() {
    let n = 1003;
    let values = numbers(8, n);
    for (kind, logits) in rows(n).into_iter().enumerate() {
        for block in [n, 100, 17] {
            let mut stats = begin();
            let mut sum = 0.0;
            for (i, part) in logits.chunks(block).enumerate() {
                accumulate(part, i * block, 0, &mut stats);
                let mut p = part.to_vec();
                exponentials(&mut p, &stats);
                let of_block: f32 = p.iter().zip(&values[i * block..]).map(|(p, v)| p * v).sum();
                sum = sum * stats[SHRINK] + of_block;
            }
            let ours = f64::from(sum / stats[SUM]);
            let exact: f64 = (0..n)
                .map(|i| naive(&logits, i).exp() * f64::from(values[i]))
                .sum();
            assert!(
                (ours - exact).abs() < 1e-5,
                "row {kind}, {block}: {ours} {exact}"
            );
        }
    }
}

/// A few million equal logits, as many as no vocabulary has.
#[test]
fn sums_over_large_blocks_do_not_stall() {
    let logits = vec![0.0; 1 << 22];
    let exact = -f64::from(1u32 << 22).ln();
    let ours = log_prob(&stats(&logits, 9, 1 << 22));
    assert!((ours - exact).abs() < 1e-6, "{ours} {exact}");
}

#[test]
fn a_logit_that_is_not_a_number_shows_in_the_log_probability() {
    for bad in [f32::NAN, f32::INFINITY] {
        for at in [0, 40, 99] {
            let mut logits = numbers(7, 100);
            logits[at] = bad;
            assert!(log_prob(&stats(&logits, 3, 100)).is_nan(), "{bad} at {at}");
        }
    }
}
