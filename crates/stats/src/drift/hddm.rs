//! HDDM-W: a weighted mean against its best value so far, with McDiarmid's bound.
//!
//! Source: Frías-Blanco et al., "Online and non-parametric drift detection methods based on Hoeffding's bounds"
//! (IEEE TKDE 2015), section 3.2. Values lie in [0, 1].

use serde::{Deserialize, Serialize};

/// An exponentially weighted mean and the sum of the squares of its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sample {
    mean: f64,
    squares: f64,
    any: bool,
}

impl Sample {
    fn add(&mut self, x: f64, lambda: f64) {
        if self.any {
            let keep = 1.0 - lambda;
            self.mean = lambda * x + keep * self.mean;
            self.squares = lambda * lambda + keep * keep * self.squares;
        } else {
            *self = Self { mean: x, squares: 1.0, any: true };
        }
    }
}

/// One direction: the sample up to the best cut, its bound, and what came after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Side {
    /// The least upper bound of the mean so far (of the negated mean, for falls).
    cut: f64,
    before: Sample,
    after: Sample,
}

impl Side {
    const NEW: Self = Self {
        cut: f64::INFINITY,
        before: Sample { mean: 0.0, squares: 0.0, any: false },
        after: Sample { mean: 0.0, squares: 0.0, any: false },
    };

    fn update(&mut self, x: f64, total: Sample, lambda: f64, log: f64) -> bool {
        let upper = total.mean + libm::sqrt(total.squares * log / 2.0);
        if upper < self.cut {
            *self = Self { cut: upper, before: total, after: Sample::default() };
        } else {
            self.after.add(x, lambda);
        }
        if !self.before.any || !self.after.any {
            return false;
        }
        let bound = libm::sqrt((self.before.squares + self.after.squares) * log / 2.0);
        self.after.mean - self.before.mean > bound
    }
}

/// The detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HddmW {
    lambda: f64,
    confidence: f64,
    two_sided: bool,
    total: Sample,
    rise: Side,
    fall: Side,
}

impl HddmW {
    /// `lambda` weighs the newest value (.05 in the paper), `confidence` is the error probability of a look (.001).
    /// One-sided, it sees rises only: of an error rate, what is worse.
    #[must_use]
    pub fn new(lambda: f64, confidence: f64, two_sided: bool) -> Self {
        let total = Sample::default();
        Self { lambda, confidence, two_sided, total, rise: Side::NEW, fall: Side::NEW }
    }

    /// Takes one value in [0, 1]. True if the mean has risen, or fallen where both sides are watched.
    pub fn update(&mut self, x: f64) -> bool {
        let log = libm::log(1.0 / self.confidence);
        self.total.add(x, self.lambda);
        let rise = self.rise.update(x, self.total, self.lambda, log);
        let negated = Sample { mean: -self.total.mean, ..self.total };
        let fall = self.two_sided && self.fall.update(-x, negated, self.lambda, log);
        if rise || fall {
            *self = Self::new(self.lambda, self.confidence, self.two_sided);
        }
        rise || fall
    }
}

impl Default for HddmW {
    fn default() -> Self {
        Self::new(0.05, 0.001, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// McDiarmid by hand on 0, …, 0, 1, 1, …: after the first zero cut = √(ln 1000 / 2) = 1.858 and the bound shrinks
    /// with n; after 200 zeros the squared weights have settled at λ/(2 − λ) = .02564, so before any one cut ≈
    /// √(.02564 · 6.908 / 2) = .2976. Ones then enter a fresh sample: the first has mean 1 and weight 1: bound
    /// √(1.02564 · 6.908/2) = 1.882 > 1; after j ones Σw² = λ/(2 − λ) + (1 − λ)^(2(j−1)) (1 − λ/(2 − λ)), and the
    /// alarm is the first j with (.02564 + Σw²) · 3.454 < 1: Σw² < .2639, (.9025)^(j−1) < .2445, j − 1 > 13.73: j = 15.
    #[test]
    fn alarms_where_the_bound_says() {
        let mut detector = HddmW::default();
        let alarm = (0..1000).position(|k| detector.update(f64::from(u8::from(k >= 200))));
        assert_eq!(alarm, Some(214));
    }

    #[test]
    fn sees_a_fall_only_when_asked() {
        for two_sided in [false, true] {
            let mut detector = HddmW::new(0.05, 0.001, two_sided);
            let alarm = (0..1000).position(|k| detector.update(f64::from(u8::from(k < 500))));
            assert_eq!(alarm.is_some(), two_sided);
        }
    }
}
