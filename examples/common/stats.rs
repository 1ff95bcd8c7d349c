//! Means and spreads over seeds.

/// The mean.
pub(crate) fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// The sample standard deviation; NaN for fewer than two.
pub(crate) fn spread(x: &[f64]) -> f64 {
    let m = mean(x);
    (x.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (x.len() as f64 - 1.0)).sqrt()
}

/// The mean difference of pairs, and its standard error: the spread of the differences over the root of their number.
pub(crate) fn paired(x: &[f64], to: &[f64]) -> (f64, f64) {
    let d: Vec<f64> = x.iter().zip(to).map(|(a, b)| a - b).collect();
    (mean(&d), spread(&d) / (d.len() as f64).sqrt())
}
