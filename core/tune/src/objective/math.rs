//! The logistic function where naive formulas lose their digits.

/// `sigma(x) = 1 / (1 + exp(-x))`, without overflow for any finite `x`.
pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// The slope of [`sigmoid`], `sigma(x) sigma(-x)`.
pub(super) fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// `log sigma(x)`: `-exp(-x)` to full relative precision for large `x`, `x` for very negative `x`.
pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sigmoid_keeps_its_digits_at_both_ends() {
        assert_eq!(log_sigmoid(0.0), -std::f64::consts::LN_2);
        assert_eq!(log_sigmoid(-1e6), -1e6);
        let tail = log_sigmoid(40.0);
        assert!((tail / -(-40f64).exp() - 1.0).abs() < 1e-15, "{tail}");
        assert_eq!(log_sigmoid(1e6), 0.0);
    }

    #[test]
    fn sigmoid_is_symmetric_and_never_nan() {
        for x in [0.0, 1e-9, 0.3, 5.0, 40.0, 800.0, 1e300] {
            assert!((sigmoid(x) + sigmoid(-x) - 1.0).abs() < 1e-15, "{x}");
            assert!(sigmoid(-x) >= 0.0);
        }
        assert!((sigmoid(-40.0) / (-40f64).exp() - 1.0).abs() < 1e-15);
    }
}
