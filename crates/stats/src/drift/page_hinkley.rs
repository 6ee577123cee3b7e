//! The Page-Hinkley test, two-sided, on standardised values.
//!
//! Source: Page, "Continuous inspection schemes" (Biometrika 1954); Hinkley, "Inference about the change-point from
//! cumulative sum tests" (Biometrika 1971). Values are standardised by the mean and deviation since the last
//! alarm, so that tolerance and threshold are in standard deviations whatever the unit.

use serde::{Deserialize, Serialize};

use super::Moments;

/// Values before the first look: mean and deviation mean little until then.
const WARM_UP: u64 = 30;

/// The detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    delta: f64,
    lambda: f64,
    moments: Moments,
    /// Σ(z − δ) and its least value.
    up: (f64, f64),
    /// Σ(z + δ) and its largest value.
    down: (f64, f64),
}

impl PageHinkley {
    /// A detector that tolerates a drift of `delta` standard deviations a value and alarms at a sum of `lambda`.
    #[must_use]
    pub fn new(delta: f64, lambda: f64) -> Self {
        Self { delta, lambda, moments: Moments::default(), up: (0.0, 0.0), down: (0.0, 0.0) }
    }

    /// Takes one value. True if the mean has risen or fallen.
    pub fn update(&mut self, x: f64) -> bool {
        let Moments { n, mean, squares } = self.moments;
        self.moments.add(x);
        if n < WARM_UP || squares <= 0.0 {
            return false;
        }
        let z = (x - mean) / libm::sqrt(squares / (n - 1) as f64);
        self.up.0 += z - self.delta;
        self.up.1 = self.up.1.min(self.up.0);
        self.down.0 += z + self.delta;
        self.down.1 = self.down.1.max(self.down.0);
        let alarm = self.up.0 - self.up.1 > self.lambda || self.down.1 - self.down.0 > self.lambda;
        if alarm {
            *self = Self::new(self.delta, self.lambda);
        }
        alarm
    }
}

impl Default for PageHinkley {
    /// δ = 0.1 and λ = 60 standard deviations.
    fn default() -> Self {
        Self::new(0.1, 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn sees_rise_and_fall_whatever_the_unit() {
        for unit in [1e-6, 1.0, 1e9] {
            for shift in [-2.0, 2.0] {
                let mut stream = Stream::new(4);
                let mut detector = PageHinkley::default();
                let alarm = (0..3000).position(|k| {
                    let mean = if k < 1000 { 5.0 } else { 5.0 + shift };
                    detector.update(unit * (mean + stream.normal()))
                });
                // A sum of 60 at about 1.9 a value, less while the running mean follows.
                assert!(alarm.is_some_and(|a| (1020..1060).contains(&a)), "{alarm:?}");
            }
        }
    }

    /// The sums by hand, after a warm-up of −1, 1, −1, … (mean 0, deviation √(30/29)).
    #[test]
    fn the_sum_is_the_published_one() {
        let mut detector = PageHinkley::new(0.5, 3.0);
        for k in 0..30 {
            assert!(!detector.update(if k % 2 == 0 { -1.0 } else { 1.0 }));
        }
        let sd = (30.0_f64 / 29.0).sqrt();
        assert!(!detector.update(2.0));
        assert!((detector.up.0 - (2.0 / sd - 0.5)).abs() < 1e-12);
        assert!((detector.down.0 - (2.0 / sd + 0.5)).abs() < 1e-12);
    }
}
