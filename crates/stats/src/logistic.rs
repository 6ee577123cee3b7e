//! The logistic function and its kin.

/// 1/(1 + e⁻ˣ).
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// ln(1 + eˣ).
#[must_use]
pub fn softplus(x: f64) -> f64 {
    if x > 0.0 { x + libm::log1p(libm::exp(-x)) } else { libm::log1p(libm::exp(x)) }
}

/// Replaces scores by their softmax.
pub fn softmax(scores: &mut [f64]) {
    let highest = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    scores.iter_mut().for_each(|s| *s = libm::exp(*s - highest));
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// ln Σ e^score.
#[must_use]
pub fn log_sum_exp(scores: impl Iterator<Item = f64> + Clone) -> f64 {
    let highest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    highest + libm::log(scores.map(|s| libm::exp(s - highest)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overflows_and_the_tails_are_exact() {
        assert!((softplus(-40.0) / 4.248_354_255_291_589e-18 - 1.0).abs() < 1e-12); // e⁻⁴⁰ to first order
        assert!((softplus(800.0) - 800.0).abs() < 1e-12);
        assert_eq!(sigmoid(-800.0), 0.0);
        let mut p = [1000.0, 1000.0, -1000.0];
        softmax(&mut p);
        assert_eq!(p, [0.5, 0.5, 0.0]);
        assert!(
            (log_sum_exp([1000.0, 1000.0].into_iter()) - 1000.0 - libm::log(2.0)).abs() < 1e-12
        );
    }
}
