use super::super::rows::{
    Gated, GeGlu, SwiGlu, cap_slope, capped, layer_norm, layer_norm_backward, rms_norm,
    rms_norm_backward, rotate_halves, rotate_interleaved,
};
use super::{dot, numbers, relative_error, wide};

const EPS: f32 = 1e-5;

fn naive_norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(EPS)).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

#[test]
fn the_norm_equals_a_naive_one_from_tiny_to_huge_rows() {
    for (n, size) in [(1, 1.0), (7, 1.0), (64, 1e-4), (576, 1.0), (577, 1e6)] {
        let x: Vec<f32> = numbers(1, n).iter().map(|x| x * size).collect();
        let weight = numbers(2, n);
        let mut out = vec![f32::NAN; n];
        rms_norm(&x, &weight, EPS, &mut out);
        let error = relative_error(&out, &naive_norm(&wide(&x), &wide(&weight)));
        // Observed at most 9e-8.
        assert!(error < 1e-6, "{n} of {size}: {error:.1e}");
    }
}

#[test]
fn the_norms_gradient_equals_differences_and_adds_to_what_is_there() {
    for n in [1, 5, 48, 577] {
        let (x, weight, dy, before) = (numbers(1, n), numbers(2, n), numbers(3, n), numbers(4, n));
        let mut dx = before.clone();
        rms_norm_backward(&x, &weight, EPS, &dy, &mut dx);
        let loss = |x: &[f64]| dot(&naive_norm(x, &wide(&weight)), &wide(&dy));
        let expected: Vec<f64> = (0..n)
            .map(|i| f64::from(before[i]) + difference(&wide(&x), i, &loss))
            .collect();
        let error = relative_error(&dx, &expected);
        // Observed at most 2.2e-7.
        assert!(error < 2e-6, "{n}: {error:.1e}");
    }
}

fn naive_layer_norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let centred: Vec<f64> = x.iter().map(|x| x - mean).collect();
    naive_norm(&centred, weight)
}

#[test]
fn the_layer_norm_equals_a_naive_one_even_far_from_zero() {
    for (n, shift) in [(2, 0.0), (7, 3.0), (64, 0.0), (577, 100.0)] {
        let x: Vec<f32> = numbers(1, n).iter().map(|x| x + shift).collect();
        let weight = numbers(2, n);
        let mut out = vec![f32::NAN; n];
        layer_norm(&x, &weight, EPS, &mut out);
        let exact = naive_layer_norm(&wide(&x), &wide(&weight));
        let error = relative_error(&out, &exact);
        // A mean of 100 is known to 3e-5 of a deviation of 1 in single precision.
        assert!(error < 1e-4, "{n} {shift}: {error:.1e}");
    }
}

#[test]
fn the_layer_norms_gradient_equals_differences_and_adds_to_what_is_there() {
    for n in [2, 5, 48, 577] {
        let (x, weight, dy, before) = (numbers(1, n), numbers(2, n), numbers(3, n), numbers(4, n));
        let mut dx = before.clone();
        layer_norm_backward(&x, &weight, EPS, &dy, &mut dx);
        let loss = |x: &[f64]| dot(&naive_layer_norm(x, &wide(&weight)), &wide(&dy));
        let expected: Vec<f64> = (0..n)
            .map(|i| f64::from(before[i]) + difference(&wide(&x), i, &loss))
            .collect();
        let error = relative_error(&dx, &expected);
        assert!(error < 2e-6, "{n}: {error:.1e}");
    }
}

fn naive_swiglu(v: &[f64]) -> f64 {
    v[0] / (1.0 + (-v[0]).exp()) * v[1]
}

fn naive_geglu(v: &[f64]) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (v[0] + 0.044715 * v[0].powi(3));
    0.5 * v[0] * (1.0 + inner.tanh()) * v[1]
}

const GATES: [f32; 9] = [-30.0, -8.0, -1.5, -1e-3, 0.0, 0.3, 2.0, 15.0, 80.0];

/// `slack` for what cancels: gelu's negative tail is a difference of numbers near 1.
fn check_gated<G: Gated>(naive: fn(&[f64]) -> f64, slack: f64) {
    for gate in GATES {
        for up in [-3.0, 0.0, 0.7, 100.0f32] {
            let at = [f64::from(gate), f64::from(up)];
            let exact = naive(&at);
            let error = (f64::from(G::value(gate, up)) - exact).abs();
            let allowed = 4e-7 * exact.abs() + 1e-12 + slack * (at[0] * at[1]).abs();
            assert!(error <= allowed, "{gate} {up}: {error:.1e}");
            let (d_gate, d_up) = G::gradient(gate, up, 1.7);
            for (ours, i) in [(d_gate, 0), (d_up, 1)] {
                let exact = 1.7 * difference(&at, i, &naive);
                let error = (f64::from(ours) - exact).abs();
                let allowed =
                    2e-6 * exact.abs() + 1e-6 + 10.0 * slack * at[0].abs().max(at[1].abs());
                assert!(error < allowed, "{gate} {up} {i}: {ours} {exact}");
            }
        }
    }
}

#[test]
fn the_gated_activations_and_their_gradients_equal_naive_ones() {
    check_gated::<SwiGlu>(naive_swiglu, 0.0);
    check_gated::<GeGlu>(naive_geglu, 1e-7);
}

fn check_ends<G: Gated>(ends: &[f32]) {
    for gate in ends {
        let (d_gate, d_up) = G::gradient(*gate, 2.0, 3.0);
        assert!(
            G::value(*gate, 2.0).is_finite() && d_gate.is_finite() && d_up.is_finite(),
            "{gate}"
        );
    }
    assert!(G::value(f32::NAN, 1.0).is_nan());
}

#[test]
fn the_gated_activations_stay_finite_at_the_ends() {
    check_ends::<SwiGlu>(&[-1e30, -1e4, -100.0, 100.0, 1e4]);
    check_ends::<GeGlu>(&[-1e10, -1e4, -100.0, 100.0, 1e4]);
}

#[test]
fn a_cap_bends_values_and_knows_its_slope_by_them() {
    for x in [-1e30f32, -200.0, -3.0, -1e-3, 0.0, 0.5, 7.0, 90.0] {
        let y = capped(x, 5.0);
        let naive = |v: &[f64]| 5.0 * (v[0] / 5.0).tanh();
        let exact = naive(&[f64::from(x)]);
        assert!((f64::from(y) - exact).abs() < 1e-6, "{x}: {y} {exact}");
        let slope = difference(&[f64::from(x)], 0, &naive);
        assert!((f64::from(cap_slope(y, 5.0)) - slope).abs() < 1e-6, "{x}");
    }
    assert!(capped(f32::NAN, 5.0).is_nan());
}

#[test]
fn rotation_turns_pairs_by_their_angles_and_backwards_undoes_it() {
    type Rotate = fn(&mut [f32], &[f32], &[f32], f32);
    type Place = fn(usize, usize) -> (usize, usize);
    let kinds: [(Rotate, Place); 2] = [
        (rotate_interleaved, |i, _| (2 * i, 2 * i + 1)),
        (rotate_halves, |i, n| (i, i + n)),
    ];
    for (rotate, place) in kinds {
        for n in [1, 3, 8, 32] {
            let head = numbers(5, 2 * n);
            let angles: Vec<f64> = (0..n)
                .map(|i| 17.0 * f64::from(0.3f32).powi(i as i32))
                .collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
            let mut turned = head.clone();
            rotate(&mut turned, &cos, &sin, 1.0);
            for (i, angle) in angles.iter().enumerate() {
                let (a, b) = place(i, n);
                let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                let expected = [
                    x * angle.cos() - y * angle.sin(),
                    x * angle.sin() + y * angle.cos(),
                ];
                for (ours, exact) in [turned[a], turned[b]].into_iter().zip(expected) {
                    // Observed at most 1.2e-7.
                    assert!((f64::from(ours) - exact).abs() < 5e-7, "{n} {i}");
                }
            }
            // A rotation's gradient is the rotation back.
            rotate(&mut turned, &cos, &sin, -1.0);
            for (back, x) in turned.iter().zip(&head) {
                assert!((back - x).abs() < 5e-7);
            }
        }
    }
}

#[test]
fn dimensions_beyond_the_tables_are_left_alone() {
    let head = numbers(5, 10);
    let (cos, sin) = ([0.5f32; 3], [0.5f32; 3]);
    let mut turned = head.clone();
    rotate_halves(&mut turned, &cos, &sin, 1.0);
    assert_eq!(turned[6..], head[6..]);
    assert_ne!(turned[..6], head[..6]);
    let mut turned = head.clone();
    rotate_interleaved(&mut turned[..6], &cos, &sin, 1.0);
    assert_eq!(turned[6..], head[6..]);
}

/// The central difference of `f` by `x[i]`.
fn difference(x: &[f64], i: usize, f: &dyn Fn(&[f64]) -> f64) -> f64 {
    const STEP: f64 = 1e-5;
    let at = |step: f64| {
        let mut moved = x.to_vec();
        moved[i] += step;
        f(&moved)
    };
    (at(STEP) - at(-STEP)) / (2.0 * STEP)
}
