//! Means and covariances of three values that come together, in one pass, and what follows from them.

use serde::{Deserialize, Serialize};

/// Half the width of an interval of 95 %, in standard errors.
const WIDTH: f64 = 1.959_963_984_540_054;

/// A value with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// The interval that holds the true value with a confidence of 95 %, where the error is normal.
    #[must_use]
    pub fn interval(&self) -> [f64; 2] {
        [self.value - WIDTH * self.error, self.value + WIDTH * self.error]
    }
}

/// Count, means and Σ (v − mean)(v − mean)ᵀ, by row of the upper triangle (Welford 1962; merged as Chan, Golub & LeVeque 1979).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Joint {
    n: u64,
    pub(crate) mean: [f64; 3],
    products: [f64; 6],
}

/// The places of the upper triangle.
const PAIRS: [(usize, usize); 6] = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)];

impl Joint {
    pub(crate) const fn n(&self) -> u64 {
        self.n
    }

    pub(crate) fn take(&mut self, values: [f64; 3]) {
        self.n += 1;
        let n = self.n as f64;
        let before: [f64; 3] = core::array::from_fn(|i| values[i] - self.mean[i]);
        for (mean, apart) in self.mean.iter_mut().zip(before) {
            *mean += apart / n;
        }
        for (product, (i, j)) in self.products.iter_mut().zip(PAIRS) {
            *product += before[i] * (values[j] - self.mean[j]);
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        let (n, m) = (self.n as f64, other.n as f64);
        let apart: [f64; 3] = core::array::from_fn(|i| other.mean[i] - self.mean[i]);
        for (k, (i, j)) in PAIRS.into_iter().enumerate() {
            self.products[k] += other.products[k] + apart[i] * apart[j] * n * m / (n + m);
        }
        for (mean, apart) in self.mean.iter_mut().zip(apart) {
            *mean += apart * m / (n + m);
        }
        self.n += other.n;
    }

    /// Mean of the squares of value `i`.
    pub(crate) fn square(&self, i: usize) -> f64 {
        let place = PAIRS.iter().position(|p| *p == (i, i)).unwrap_or(0);
        self.products[place] / (self.n.max(1)) as f64 + self.mean[i] * self.mean[i]
    }

    /// A function of the means that is `value` and has this `gradient` there (the delta method).
    pub(crate) fn estimate(&self, value: f64, gradient: [f64; 3]) -> Estimate {
        let sum: f64 = self
            .products
            .iter()
            .zip(PAIRS)
            .map(|(product, (i, j))| {
                let twice = if i == j { 1.0 } else { 2.0 };
                twice * product * gradient[i] * gradient[j]
            })
            .sum();
        let n = self.n as f64;
        Estimate { value, error: libm::sqrt(sum.max(0.0) / (n * (n - 1.0)).max(1.0)) }
    }
}

#[cfg(test)]
mod tests {
    use pawl_stats::rng::uniform;

    use super::*;

    /// The definitions, in two passes; merging in any parts gives the same.
    #[test]
    fn moments_are_those_of_two_passes() {
        let values: Vec<[f64; 3]> = (0..1000)
            .map(|k| {
                let u = uniform(3, k);
                [1e6 + u, u * uniform(4, k), uniform(5, k)]
            })
            .collect();
        let mut whole = Joint::default();
        values.iter().for_each(|v| whole.take(*v));
        let mut merged = Joint::default();
        for part in values.chunks(137) {
            let mut one = Joint::default();
            part.iter().for_each(|v| one.take(*v));
            merged.merge(&one);
        }
        let mean: [f64; 3] =
            core::array::from_fn(|i| values.iter().map(|v| v[i]).sum::<f64>() / 1000.0);
        for joint in [whole, merged] {
            assert_eq!(joint.n(), 1000);
            for (i, m) in mean.iter().enumerate() {
                assert!((joint.mean[i] - m).abs() < 1e-9 * m.abs());
            }
            for (k, (i, j)) in PAIRS.into_iter().enumerate() {
                let expected: f64 =
                    values.iter().map(|v| (v[i] - mean[i]) * (v[j] - mean[j])).sum();
                assert!((joint.products[k] - expected).abs() < 1e-6, "{i} {j}");
            }
        }
    }
}
