//! Distances between vectors of numbers.

/// Root of the mean square.
pub fn rms(values: &[f32]) -> f64 {
    (values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

/// Root of the mean square of the difference.
pub fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    rms(&difference)
}

/// The largest absolute difference.
pub fn max_difference<'a>(
    a: impl IntoIterator<Item = &'a f64>,
    b: impl IntoIterator<Item = &'a f64>,
) -> f64 {
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut largest = 0.0f64;
    loop {
        match (a.next(), b.next()) {
            // NaN must not pass for a small number.
            (Some(a), Some(b)) if (a - b).is_nan() => return f64::INFINITY,
            (Some(a), Some(b)) => largest = largest.max((a - b).abs()),
            (None, None) => return largest,
            _ => panic!("different lengths"),
        }
    }
}

/// The same for single precision.
pub fn max_difference_f32(a: &[f32], b: &[f32]) -> f64 {
    let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    max_difference(&wide(a), &wide(b))
}

/// `|a - b| / |b|`, 2-norms.
pub fn relative_error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum::<f64>();
    (difference / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// The cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
