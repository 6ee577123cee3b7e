//! A linear model's posterior, and what it says of a vector.
//!
//! The target enters through two filters with the same gains: `u` for the metric's values and `v` for the
//! constant 1. With prior mean m the weights are θ = u − m·v, so m may move after the fact without relearning:
//! a prediction is m + θ·x = u·x + m(1 − v·x).

use pawl_stats::dense;
use serde::{Deserialize, Serialize};

use crate::encode::Encoded;

/// A posterior over the weights of one linear model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Posterior {
    /// Covariance in units of the noise variance, `[full, full]`, symmetric.
    pub covariance: Vec<f64>,
    /// Variances of the slots beyond `full`.
    pub variances: Vec<f64>,
    /// The filter of values, `[slots]`.
    pub u: Vec<f64>,
    /// The filter of ones, `[slots]`.
    pub v: Vec<f64>,
    /// Slots under the full covariance.
    pub full: usize,
}

impl Posterior {
    /// The prior N(0, I/λ).
    #[must_use]
    pub fn prior(full: usize, slots: usize, lambda: f64) -> Self {
        let mut covariance = vec![0.0; full * full];
        covariance.iter_mut().step_by(full + 1).for_each(|c| *c = 1.0 / lambda);
        let variances = vec![1.0 / lambda; slots - full];
        Self { covariance, variances, u: vec![0.0; slots], v: vec![0.0; slots], full }
    }

    /// The predicted value at `x` with prior mean `m`.
    #[must_use]
    pub fn mean(&self, x: &Encoded, m: f64) -> f64 {
        x.dot(&self.u) + m * (1.0 - x.dot(&self.v))
    }

    /// xᵀΣx: the variance of the prediction in units of the noise variance; never negative.
    #[must_use]
    pub fn variance(&self, x: &Encoded) -> f64 {
        let d = self.full;
        let dense = x.dense.len();
        let mut sum = 0.0;
        for (k, &(i, xi)) in x.sparse.iter().enumerate() {
            let row = &self.covariance[i as usize * d..][..d];
            let mut cross = dense::dot(&row[..dense], &x.dense);
            for &(j, xj) in &x.sparse[..k] {
                cross += row[j as usize] * xj;
            }
            sum += xi * (0.5 * xi * row[i as usize] + cross);
        }
        let diagonal: f64 =
            x.diagonal.iter().map(|&(i, xi)| self.variances[i as usize - d] * xi * xi).sum();
        (dense::quadratic(&self.covariance, d, &x.dense) + 2.0 * sum + diagonal).max(0.0)
    }

    /// Σx over the full part, `[full]`, into `out`.
    pub fn times(&self, x: &Encoded, out: &mut Vec<f64>) {
        out.clear();
        out.resize(self.full, 0.0);
        let dense = x.dense.iter().enumerate().map(|(i, &v)| (i, v));
        let sparse = x.sparse.iter().map(|&(i, v)| (i as usize, v));
        for (i, value) in dense.chain(sparse) {
            if value != 0.0 {
                dense::axpy(value, &self.covariance[i * self.full..][..self.full], out);
            }
        }
    }
}
