//! CUSUM, two-sided, with its threshold from the run length that is wanted between false alarms.
//!
//! Source: Page 1954; the run length by Siegmund, "Sequential analysis" (1985), as in Montgomery, "Introduction to
//! statistical quality control", section 9.1.

use serde::{Deserialize, Serialize};

use super::Moments;

/// The detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cusum {
    k: f64,
    h: f64,
    warm_up: u64,
    moments: Moments,
    /// Mean and deviation in control, where given.
    target: Option<(f64, f64)>,
    up: f64,
    down: f64,
}

impl Cusum {
    /// A detector around a known mean and standard deviation. `k` is half the shift to be seen quickly and `h`
    /// the threshold, both in standard deviations.
    #[must_use]
    pub fn around(mean: f64, deviation: f64, k: f64, h: f64) -> Self {
        let moments = Moments::default();
        let target = Some((mean, deviation));
        Self { k, h, warm_up: 0, moments, target, up: 0.0, down: 0.0 }
    }

    /// A detector that standardises each value by the mean and deviation of those before it since the last alarm, and
    /// looks after the first `warm_up` of them (the self-starting CUSUM: Hawkins 1987, "Self-starting cumulative sum charts
    /// for location and scale"). A mean that is off by ε shortens the run length as a shift of ε does: take some hundreds.
    #[must_use]
    pub fn learning(warm_up: u64, k: f64, h: f64) -> Self {
        let moments = Moments::default();
        Self { k, h, warm_up, moments, target: None, up: 0.0, down: 0.0 }
    }

    /// Takes one value. True if the mean has risen or fallen.
    pub fn update(&mut self, x: f64) -> bool {
        let (mean, deviation) = match self.target {
            Some(target) => target,
            None => {
                let before = self.moments;
                self.moments.add(x);
                if before.n() < self.warm_up || before.deviation() <= 0.0 {
                    return false;
                }
                (before.mean(), before.deviation())
            }
        };
        let z = (x - mean) / deviation;
        self.up = (self.up + z - self.k).max(0.0);
        self.down = (self.down - z - self.k).max(0.0);
        let alarm = self.up > self.h || self.down > self.h;
        if alarm {
            (self.up, self.down) = (0.0, 0.0);
            self.moments = Moments::default();
        }
        alarm
    }
}

/// Mean number of values between two false alarms of the two-sided CUSUM on independent normal values
/// (Siegmund's approximation: within 1 % at k = ½ and h ≥ 3).
///
/// ```
/// assert!((pawl_stats::drift::run_length(0.5, 5.0) - 465.0).abs() < 5.0);
/// ```
#[must_use]
pub fn run_length(k: f64, h: f64) -> f64 {
    let b = h + 1.166;
    let one_sided = if k.abs() < 1e-9 {
        b * b
    } else {
        (libm::exp(2.0 * k * b) - 2.0 * k * b - 1.0) / (2.0 * k * k)
    };
    one_sided / 2.0
}

/// The threshold at which false alarms are `wanted` values apart in the mean.
#[must_use]
pub fn threshold_for(k: f64, wanted: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while run_length(k, high) < wanted && high < 1e3 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if run_length(k, middle) < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    /// Montgomery, table 9.3: a two-sided CUSUM with k = ½, h = 5 has a mean run length of 465 in control, and of
    /// 38.0, 10.4 and 4.01 after shifts of .5, 1 and 2 standard deviations.
    #[test]
    fn mean_run_lengths_are_the_tabled_ones() {
        for (shift, expected, runs) in
            [(0.0, 465.0, 4000), (0.5, 38.0, 4000), (1.0, 10.4, 4000), (2.0, 4.01, 4000)]
        {
            let mut stream = Stream::new(77);
            let mut lengths = Moments::default();
            for _ in 0..runs {
                let mut cusum = Cusum::around(0.0, 1.0, 0.5, 5.0);
                let mut n = 1.0;
                while !cusum.update(shift + stream.normal()) {
                    n += 1.0;
                }
                lengths.add(n);
            }
            let error = lengths.deviation() / (lengths.n() as f64).sqrt();
            // The tabled values are rounded to three digits.
            let apart = (lengths.mean() - expected).abs();
            assert!(apart < 3.0 * error + 0.005 * expected, "{} ± {error}", lengths.mean());
        }
    }

    #[test]
    fn the_threshold_gives_the_wanted_run_length() {
        for wanted in [100.0, 465.0, 10_000.0, 1e6] {
            let h = threshold_for(0.5, wanted);
            assert!((run_length(0.5, h) / wanted - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_learning_detector_starts_over_after_an_alarm() {
        let mut stream = Stream::new(1);
        let mut cusum = Cusum::learning(500, 0.5, threshold_for(0.5, 1e5));
        let mut alarms = Vec::new();
        for k in 0..3000 {
            let mean = if k < 1500 { 10.0 } else { 13.0 };
            if cusum.update(mean + stream.normal()) {
                alarms.push(k);
            }
        }
        assert!(alarms.len() == 1 && (1500..1510).contains(&alarms[0]), "{alarms:?}");
    }
}
