//! What was served against what the incumbent would have given on the same requests, from traffic in which the incumbent
//! is drawn with a known probability: the holdback is the least of it.
//!
//! With w = 1 ÷ p where the incumbent was drawn, else 0, and q̂ what was expected of it before the value was learned, the
//! incumbent's mean is that of q̂ + w·(x − q̂): doubly robust (Robins, Rotnitzky & Zhao 1994). Its errors are a
//! martingale's whatever q̂ is and however traffic, policy and probabilities change with time. Errors of functions of the
//! means by the delta method.

use serde::{Deserialize, Serialize};

use crate::{
    floor::Evidence,
    joint::{Estimate, Joint},
};

/// Fewer values of the incumbent than this, or weights that are worth as few, say nothing yet.
const ENOUGH: f64 = 30.0;

/// One metric of served decisions beside the incumbent's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// (x, q̂ + w·(x − q̂), w).
    joint: Joint,
    /// Values of the incumbent.
    incumbents: u64,
    /// Sums over them of residual² = (x − q̂)², of q̂², and of residual² · (1 − p) ÷ p².
    residuals: f64,
    expected: f64,
    weighted: f64,
    /// Σ (1 − p) ÷ p over all values, and the same of q̂² · (1 − p) ÷ p.
    odds: [f64; 2],
}

impl Compared {
    /// Takes the value of a decision.
    pub fn take(&mut self, e: &Evidence) {
        let (p, residual) = (e.probability, e.value - e.expected);
        let w = if e.incumbent { 1.0 / p } else { 0.0 };
        self.joint.take([e.value, e.expected + w * residual, w]);
        let odds = (1.0 - p) / p;
        self.odds[0] += odds;
        self.odds[1] += odds * e.expected * e.expected;
        if e.incumbent {
            self.incumbents += 1;
            self.residuals += residual * residual;
            self.expected += e.expected * e.expected;
            self.weighted += residual * residual * odds / p;
        }
    }

    /// Takes what another has taken.
    pub fn merge(&mut self, other: &Self) {
        self.joint.merge(&other.joint);
        self.incumbents += other.incumbents;
        self.residuals += other.residuals;
        self.expected += other.expected;
        self.weighted += other.weighted;
        (0..2).for_each(|i| self.odds[i] += other.odds[i]);
    }

    /// Count, sum and sum of squares of what was served.
    #[must_use]
    pub fn sums(&self) -> [f64; 3] {
        let n = self.joint.n() as f64;
        [n, n * self.joint.mean[0], n * self.joint.square(0)]
    }

    /// Values taken.
    #[must_use]
    pub const fn n(&self) -> u64 {
        self.joint.n()
    }

    /// Values of the incumbent.
    #[must_use]
    pub const fn incumbents(&self) -> u64 {
        self.incumbents
    }

    /// Whether the incumbent's values are enough to compare with.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        let squares = self.joint.square(2);
        let w = self.joint.mean[2];
        let effective = self.joint.n() as f64 * w * w / squares.max(f64::MIN_POSITIVE);
        self.incumbents as f64 >= ENOUGH && effective >= ENOUGH
    }

    /// The mean over `decisions` of what was served.
    #[must_use]
    pub fn served(&self, decisions: u64) -> Estimate {
        self.estimate(decisions, self.joint.mean[0], [1.0, 0.0])
    }

    /// The mean that the incumbent would have given on `decisions`.
    #[must_use]
    pub fn incumbent(&self, decisions: u64) -> Estimate {
        self.estimate(decisions, self.joint.mean[1], [0.0, 1.0])
    }

    /// What was served less what the incumbent would have given, a decision.
    #[must_use]
    pub fn difference(&self, decisions: u64) -> Estimate {
        let [x, incumbent, _] = self.joint.mean;
        self.estimate(decisions, x - incumbent, [1.0, -1.0])
    }

    /// What was served as a part of what the incumbent would have given.
    #[must_use]
    pub fn relative(&self, decisions: u64) -> Estimate {
        let [x, incumbent, _] = self.joint.mean;
        let part = x / incumbent;
        self.estimate(decisions, part, [1.0 / incumbent, -part / incumbent])
    }

    /// A function of the two means, of which the values are a random part of those of `decisions`. What was served is known
    /// where all have come; what the incumbent would have given is then uncertain by Σ (1 − p) ÷ p · residual². Of that
    /// the few with the smallest p decide most, and where they are few by chance the sum is too small as well: it is not
    /// taken to be less than with the mean residual² of all, nor with one in proportion to q̂².
    fn estimate(&self, decisions: u64, value: f64, [served, incumbent]: [f64; 2]) -> Estimate {
        let n = self.joint.n() as f64;
        let seen = (n / decisions.max(1) as f64).min(1.0);
        let sampled = self.joint.estimate(value, [served, incumbent, 0.0]).error;
        let level = self.odds[0] / self.incumbents.max(1) as f64;
        let scaled = self.odds[1] / self.expected.max(f64::MIN_POSITIVE);
        let pooled = self.residuals * level.max(scaled);
        let drawn =
            seen * self.weighted.max(pooled) + (1.0 - seen) * (pooled - self.weighted).max(0.0);
        let drawn = incumbent * incumbent * drawn / (n * n).max(1.0);
        Estimate { value, error: libm::sqrt((1.0 - seen) * sampled * sampled + drawn) }
    }
}

#[cfg(test)]
mod tests {
    use pawl_stats::rng::uniform;

    use super::*;

    fn evidence(value: f64, incumbent: bool, probability: f64, expected: f64) -> Evidence {
        Evidence { value, expected, incumbent, probability }
    }

    /// Four decisions by hand, of the incumbent 2 expected each time: it gave 3 with p = ½ and 2 with p = ¼, others gave 1 and
    /// 2. The incumbent's mean is (2 + 2 · 1 + 2 + 0 + 2 + 2) ÷ 4 = 2.5, what was served 2, that is .8 of it.
    #[test]
    fn worked_example() {
        let mut c = Compared::default();
        for (value, incumbent, p) in
            [(3.0, true, 0.5), (2.0, true, 0.25), (1.0, false, 0.5), (2.0, false, 0.9)]
        {
            c.take(&evidence(value, incumbent, p, 2.0));
        }
        assert!((c.served(4).value - 2.0).abs() < 1e-12);
        assert!((c.incumbent(4).value - 2.5).abs() < 1e-12);
        assert!((c.relative(4).value - 0.8).abs() < 1e-12);
        assert!((c.difference(4).value + 0.5).abs() < 1e-12);
        assert_eq!((c.n(), c.incumbents(), c.is_enough()), (4, 2, false));
        // Served is known. Residuals 1 and 0: Σ (1 − p) ÷ p² · r² = 2; by their mean ½ it is ½ · (1 + 3 + 1 + 1/9) = 2.556.
        assert!(c.served(4).error == 0.0);
        assert!((c.incumbent(4).error - (0.5 * (5.0 + 1.0 / 9.0_f64)).sqrt() / 4.0).abs() < 1e-12);
        // Always the incumbent: all of it, without error.
        let mut always = Compared::default();
        (0..40).for_each(|k| always.take(&evidence(f64::from(k), true, 1.0, 7.0)));
        let relative = always.relative(40);
        assert!(relative.error.abs() < 1e-9 && (relative.value - 1.0).abs() < 1e-12);
        assert!(always.is_enough());
    }

    /// A month of 12,000 requests: what requests cost has a tail and doubles over the month, the policy comes to take the
    /// cheap action for most of them, the incumbent is held back for 5 %, and the cost of `observed` of them is known.
    /// Returns the saving as measured and as it was.
    fn month(seed: u64, drift: bool, observed: f64) -> (Estimate, f64) {
        let mut compared = Compared::default();
        let (mut served, mut incumbents) = (0.0, 0.0);
        let n = 12_000;
        for t in 0..n {
            let u = |k: u64| uniform(seed, 8 * t + k);
            let day = t as f64 / n as f64;
            let size = -libm::log(1.0 - u(0)) * if drift { 1.0 + day } else { 1.0 };
            let cheap = 0.2 + 0.3 * u(1) + if drift { 0.3 * day } else { 0.0 };
            let decides = if drift { 0.9 * day } else { 0.8 };
            // Long requests stay with the incumbent more often: the two arms do not see the same ones.
            let p = 0.05 + 0.95 * (1.0 - decides * if size > 1.5 { 0.4 } else { 1.0 });
            let incumbent = u(2) < p;
            let value = if incumbent { size } else { cheap * size };
            served += value;
            incumbents += size;
            // What is expected is wrong by a third, or knows nothing of the request.
            let expected = if u(4) < 0.5 { 0.7 * size } else { 1.2 };
            if u(3) < observed {
                compared.take(&evidence(value, incumbent, p, expected));
            }
        }
        (compared.relative(n), served / incumbents)
    }

    /// The 95 % interval of the saving covers the true one at its rate over 200 months, 181 at three standard errors below;
    /// steady or drifting, with all values or a tenth of them. It is not twice as wide as it must be.
    #[test]
    fn the_saving_of_a_month_covers_the_true_one() {
        for (drift, observed) in [(false, 1.0), (true, 1.0), (false, 0.1), (true, 0.1)] {
            let (mut covered, mut squares) = (0, 0.0);
            for seed in 0..200 {
                let (estimate, truth) = month(1000 + seed, drift, observed);
                let [low, high] = estimate.interval();
                covered += u32::from((low..=high).contains(&truth));
                let z = (estimate.value - truth) / estimate.error;
                squares += z * z / 200.0;
            }
            assert!(covered >= 181 && squares > 0.25, "{drift} {observed}: {covered} {squares}");
        }
    }
}
