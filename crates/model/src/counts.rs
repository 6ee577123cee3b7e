//! What a policy without context knows of an action: how often, how much, how varied.

use pawl_stats::argmax::Marginal;
use serde::{Deserialize, Serialize};

/// The sufficient statistics of one metric of one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Weight of the examples.
    pub n: f64,
    /// Σ weight × value.
    pub sum: f64,
    /// Σ weight × value².
    pub squares: f64,
}

impl Count {
    /// Whether examples could have led there.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let finite = [self.n, self.sum, self.squares].iter().all(|v| v.is_finite());
        finite && self.n >= 0.0 && self.squares >= 0.0
    }

    /// Takes one example.
    pub fn add(&mut self, value: f64, weight: f64) {
        self.n += weight;
        self.sum += weight * value;
        self.squares += weight * value * value;
    }

    /// Multiplies everything by `factor`.
    pub fn decay(&mut self, factor: f64) {
        self.n *= factor;
        self.sum *= factor;
        self.squares *= factor;
    }

    /// The mean, shrunk to `prior` with `weight` examples.
    #[must_use]
    pub fn mean(&self, prior: f64, weight: f64) -> f64 {
        (self.sum + prior * weight) / (self.n + weight)
    }

    /// The Beta posterior of a mean in [low, high]: shapes start at prior × weight and are at least 1.
    #[must_use]
    pub fn beta(&self, [low, high]: [f64; 2], prior: f64, weight: f64) -> Marginal {
        let unit = (prior - low) / (high - low);
        let successes = (self.sum - low * self.n) / (high - low);
        Marginal::Beta {
            a: (successes + unit * weight).max(1.0),
            b: (self.n - successes + (1.0 - unit) * weight).max(1.0),
            location: low,
            scale: high - low,
        }
    }

    /// The Student posterior of a normal's mean under a normal-inverse-gamma prior with mean `prior`, `weight`
    /// pseudo-observations of it, and shape and rate 1 (Murphy 2007, "Conjugate Bayesian analysis of the
    /// Gaussian distribution", section 6).
    #[must_use]
    pub fn student(&self, prior: f64, weight: f64) -> Marginal {
        let kappa = weight + self.n;
        let alpha = 1.0 + self.n / 2.0;
        let mean = self.sum / self.n.max(f64::MIN_POSITIVE);
        let spread = (self.squares - self.sum * mean).max(0.0);
        let shift = mean - prior;
        let beta = 1.0 + 0.5 * (spread + weight * self.n * shift * shift / kappa);
        let scale = libm::sqrt(beta / (alpha * kappa));
        Marginal::Student { dof: 2.0 * alpha, location: self.mean(prior, weight), scale }
    }
}
