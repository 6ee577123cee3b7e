//! Bayesian linear regression, one example at a time.
//!
//! Under a full covariance the statistics A = Σwxxᵀ, b = Σwyx, s = Σwx are the state and the posterior follows
//! from them: by Sherman-Morrison after each example, rebuilt from a Cholesky factor of A + λI every
//! [`rebuild_every`] (what rounding did is then gone). λI never enters A, so forgetting cannot eat it. With variances
//! only (text) the posterior is the state: assumed-density filtering, one Kalman step an example whose
//! covariance is projected onto its block-diagonal form.

use std::sync::Arc;

use pawl_model::{encode::Encoded, linear::Posterior};
use pawl_stats::dense;
use serde::{Deserialize, Serialize};

/// Examples between two rebuilds of `d` slots: often enough for rounding, seldom enough that the d³ of a rebuild
/// stays below the d² of the updates. Part of the fold: a change needs a new fold version.
#[must_use]
pub const fn rebuild_every(d: usize) -> u32 {
    let by_cost = 8 * d as u32;
    if by_cost < 256 { 256 } else { by_cost }
}

/// The sufficient statistics of a full covariance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Σ w x xᵀ, `[full, full]`, data only.
    pub a: Vec<f64>,
    /// Σ w y x, `[full]`.
    pub b: Vec<f64>,
    /// Σ w x, `[full]`.
    pub s: Vec<f64>,
}

/// One linear model as a learner keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// What decisions are scored with.
    pub posterior: Arc<Posterior>,
    /// Where every slot is under the full covariance.
    pub statistics: Option<Arc<Statistics>>,
    /// Examples since the last rebuild.
    pub since_rebuild: u32,
    /// Examples taken.
    pub examples: u64,
    /// The ridge.
    pub lambda: f64,
}

/// No ridge makes the matrix definite: some value is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degenerate;

impl Linear {
    /// A model that has seen nothing.
    #[must_use]
    pub fn new(full: usize, slots: usize, lambda: f64) -> Self {
        let statistics = (full == slots).then(|| {
            Arc::new(Statistics {
                a: vec![0.0; full * full],
                b: vec![0.0; full],
                s: vec![0.0; full],
            })
        });
        let posterior = Arc::new(Posterior::prior(full, slots, lambda));
        Self { posterior, statistics, since_rebuild: 0, examples: 0, lambda }
    }

    /// Takes one example of weight `weight` and moves the posterior by it.
    ///
    /// # Errors
    /// If the statistics have become degenerate; the state is then not to be used.
    pub fn learn(&mut self, x: &Encoded, y: f64, weight: f64) -> Result<(), Degenerate> {
        self.examples += 1;
        if self.statistics.is_some() {
            self.accumulate(x, y, weight);
            self.since_rebuild += 1;
            if self.since_rebuild >= rebuild_every(self.posterior.full) {
                return self.rebuild();
            }
        }
        filter(Arc::make_mut(&mut self.posterior), x, y, weight);
        Ok(())
    }

    /// Adds one example to the statistics without moving the posterior.
    pub fn accumulate(&mut self, x: &Encoded, y: f64, weight: f64) {
        let Some(statistics) = &mut self.statistics else { return };
        let Statistics { a, b, s } = Arc::make_mut(statistics);
        let d = b.len();
        for (i, xi) in x.iter() {
            if xi == 0.0 {
                continue;
            }
            let wx = weight * xi;
            b[i] += wx * y;
            s[i] += wx;
            let row = &mut a[i * d..i * d + d];
            dense::axpy(wx, &x.dense, row);
            for &(j, xj) in &x.sparse {
                row[j as usize] += wx * xj;
            }
        }
    }

    /// Multiplies the statistics by `factor`; the posterior follows at the next [`Linear::rebuild`].
    pub fn decay(&mut self, factor: f64) {
        if let Some(statistics) = &mut self.statistics {
            let Statistics { a, b, s } = Arc::make_mut(statistics);
            a.iter_mut().chain(b).chain(s).for_each(|v| *v *= factor);
        }
    }

    /// Derives the posterior from the statistics and the ridge.
    ///
    /// # Errors
    /// As [`Linear::learn`].
    pub fn rebuild(&mut self) -> Result<(), Degenerate> {
        let Some(statistics) = &self.statistics else { return Ok(()) };
        let d = statistics.b.len();
        let posterior = Arc::make_mut(&mut self.posterior);
        // Collinear slots of a large scale may leave rounding larger than λ: the ridge then follows the scale.
        let largest = statistics.a.iter().step_by(d + 1).fold(0.0_f64, |m, v| m.max(*v));
        let mut ridge = self.lambda;
        let mut tries = 0;
        loop {
            posterior.covariance.copy_from_slice(&statistics.a);
            posterior.covariance.iter_mut().step_by(d + 1).for_each(|c| *c += ridge);
            if dense::invert(&mut posterior.covariance, d).is_ok() {
                break;
            }
            tries += 1;
            if tries > 5 || !largest.is_finite() {
                return Err(Degenerate);
            }
            ridge = (ridge * 100.0).max(largest * 1e-12);
        }
        dense::multiply(&posterior.covariance, &statistics.b, &mut posterior.u);
        dense::multiply(&posterior.covariance, &statistics.s, &mut posterior.v);
        self.since_rebuild = 0;
        Ok(())
    }
}

/// One step of the filter: gain g = wΣx / (1 + w·xᵀΣx).
fn filter(p: &mut Posterior, x: &Encoded, y: f64, weight: f64) {
    let mut direction = Vec::new();
    p.times(x, &mut direction);
    let full: f64 = dense::dot(&direction, &x.dense)
        + x.sparse.iter().map(|&(i, v)| direction[i as usize] * v).sum::<f64>();
    let d = p.full;
    let diagonal: f64 = x.diagonal.iter().map(|&(i, v)| p.variances[i as usize - d] * v * v).sum();
    let gain = weight / (1.0 + weight * (full + diagonal).max(0.0));
    let (value, one) = (y - x.dot(&p.u), 1.0 - x.dot(&p.v));
    dense::axpy(gain * value, &direction, &mut p.u[..d]);
    dense::axpy(gain * one, &direction, &mut p.v[..d]);
    for &(i, xi) in &x.diagonal {
        let i = i as usize;
        let variance = &mut p.variances[i - d];
        let step = gain * *variance * xi;
        p.u[i] += step * value;
        p.v[i] += step * one;
        // 0 < 1 − gain·σ²x² < 1, so the variance stays positive.
        *variance *= 1.0 - step * xi;
    }
    if d > 0 {
        let root = libm::sqrt(gain);
        direction.iter_mut().for_each(|v| *v *= root);
        dense::downdate(&mut p.covariance, &direction);
    }
}

#[cfg(test)]
mod tests;
