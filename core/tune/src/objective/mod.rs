//! One loss a file: pure f64 arithmetic over log-probabilities.
