//! A floor: the policy keeps a share of the incumbent's quality, at any time, with a stated probability.
//!
//! Statement, assumptions and proof stand in `docs/floor.md`. In short: with D the sum over decisions of the true mean
//! quality less `keep` times the incumbent's, S its doubly robust estimate and V the sum of squared surprises, the mean
//! over rates λ of exp(λ(S − D) − ψ(λ)V) is a supermartingale (Fan, Grama & Liu 2015; Howard et al. 2021). Where it
//! would be above 1/α for D = 0, D is above 0, but for a probability of α over all time (Ville 1939). Only then does the
//! policy decide; everything else here chooses how much, and cannot break that.

use serde::{Deserialize, Serialize};

/// The probability with which the floor may be broken, ever.
const ALPHA: f64 = 0.01;
/// Rates of the mixture, each a fixed part of the one before.
const RATES: usize = 12;
const RATIO: f64 = 0.6;
/// No surprise is further below than this, in widths of the metric's bounds: what the estimate of the incumbent's
/// quality is held by.
pub const REACH: f64 = 1.5;
/// The largest rate, in units of 1/REACH.
const LARGEST: f64 = 0.9;
/// Shares of traffic that are tried.
const STEPS: u32 = 20;
/// The incumbent's share is never less.
pub const LEAST: f64 = 1.0 / STEPS as f64;
/// The running variance of the noise forgets with this factor a value.
const NOISE: f64 = 0.005;
/// Nothing is taken for more certain than this variance.
const NOISE_MIN: f64 = 0.01;
/// How fast the weight of quality moves, and how far S is to stand above what is needed.
const ETA: f64 = 0.005;
const TIGHT: f64 = 1.1;
/// Values between two moves of the weight.
const MOVE_EVERY: u64 = 16;
/// The weight of a whole width of quality against the incumbent's cost: at first, least and largest.
const WEIGHT: f64 = 10.0;
const WEIGHTS: [f64; 2] = [0.05, 300.0];

/// What is to be kept of which metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// The part of the incumbent's mean, below 1.
    pub keep: f64,
    /// The least and largest possible value, the least 0 or more.
    pub bounds: [f64; 2],
}

/// One value of the metric, and how its decision was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// The value.
    pub value: f64,
    /// What the incumbent was expected to give, before this value was learned.
    pub expected: f64,
    /// Whether the incumbent was drawn.
    pub incumbent: bool,
    /// The probability with which it would be.
    pub probability: f64,
}

/// What is known of a floor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Values taken.
    pub values: u64,
    /// S and V, in widths of the bounds.
    pub sum: f64,
    pub(crate) squares: f64,
    /// Variance of the incumbent's values around what was expected.
    noise: f64,
    /// The weight of a whole width of quality against the incumbent's cost.
    pub weight: f64,
    /// Whether the policy may decide; else the incumbent does.
    pub released: bool,
    /// Log time of the last change between the two.
    pub changed_ms: u64,
}

impl Default for Floor {
    fn default() -> Self {
        Self {
            values: 0,
            sum: 0.0,
            squares: 0.0,
            noise: 0.1,
            weight: WEIGHT,
            released: false,
            changed_ms: 0,
        }
    }
}

/// λ, and ψ(λ) = (−ln(1 − λc) − λc)/c² for surprises not below −c.
fn rates() -> [(f64, f64); RATES] {
    let mut part = LARGEST / RATIO;
    [(); RATES].map(|()| {
        part *= RATIO;
        (part / REACH, (-libm::log(1.0 - part) - part) / (REACH * REACH))
    })
}

/// Whether S and V leave no doubt that D is above `least`.
fn certain(sum: f64, squares: f64, least: f64, rates: &[(f64, f64); RATES]) -> bool {
    log_wealth(sum - least, squares, rates) >= -libm::log(ALPHA)
}

/// The logarithm of the mixture for a sum that is `above` what it is tested against.
fn log_wealth(above: f64, squares: f64, rates: &[(f64, f64); RATES]) -> f64 {
    if above <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let exponents = rates.map(|(rate, psi)| rate * above - psi * squares);
    let largest = exponents.iter().fold(f64::NEG_INFINITY, |m, e| m.max(*e));
    let mean = exponents.iter().map(|e| libm::exp(e - largest)).sum::<f64>() / RATES as f64;
    largest + libm::log(mean)
}

/// Whether values, each at least −[`REACH`], with this sum and this sum of squares show that the sum of their means is below
/// 0: at any time, in error with a probability of at most `alpha`. For a check from outside, where everything is known.
#[must_use]
pub fn shows_below(sum: f64, squares: f64, alpha: f64) -> bool {
    log_wealth(-sum, squares, &rates()) >= -libm::log(alpha)
}

impl Floor {
    /// How far D may be below S, with certainty.
    fn radius(&self, rates: &[(f64, f64); RATES]) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        while !certain(high, self.squares, 0.0, rates) && high < 1e12 {
            high *= 2.0;
        }
        for _ in 0..40 {
            let middle = 0.5 * (low + high);
            if certain(middle, self.squares, 0.0, rates) { high = middle } else { low = middle }
        }
        high
    }

    /// How far the incumbent's values lie from what is expected of them, in widths of the bounds.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        libm::sqrt(self.noise.max(NOISE_MIN))
    }

    /// The lower end of what D may be, in values of the metric.
    #[must_use]
    pub fn certain_sum(&self, rules: Rules) -> f64 {
        (self.sum - self.radius(&rates())) * width(rules)
    }

    /// The share of traffic that the policy may decide now: 0 where one more decision could break the floor. As large as
    /// leaves certainty when as many values again have come at the present pace.
    #[must_use]
    pub fn share(&self, rules: Rules) -> f64 {
        let rates = rates();
        // What one decision can cost.
        let least = rules.keep * rules.bounds[1] / width(rules);
        if !certain(self.sum, self.squares, least, &rates) {
            return 0.0;
        }
        let more = self.values.max(1) as f64;
        let sustained = |share: &f64| {
            let squares = self.squares + more * self.noise * share / (1.0 - share);
            certain(2.0 * self.sum, squares, least, &rates)
        };
        let mut shares = (1..STEPS).rev().map(|i| f64::from(i) / f64::from(STEPS));
        shares.find(sustained).unwrap_or(0.0)
    }

    /// Takes a value.
    pub fn take(&mut self, rules: Rules, e: &Evidence, now_ms: u64) {
        let width = width(rules);
        let [low, high] = rules.bounds;
        let p = e.probability.clamp(f64::MIN_POSITIVE, 1.0);
        // Whatever the model says: no surprise is further below than it may be.
        let expected = e.expected.clamp(low, high).max(high - REACH * width * p / rules.keep);
        let residual = if e.incumbent { (e.value - expected) / p } else { 0.0 };
        let x = (e.value - rules.keep * (expected + residual)) / width;
        let surprise = x - (1.0 - rules.keep) * expected / width;
        self.values += 1;
        self.sum += x;
        self.squares += surprise * surprise;
        if e.incumbent {
            let residual = (e.value - expected) / width;
            self.noise += NOISE * (residual * residual - self.noise);
        }
        let share = self.share(rules);
        if (share > 0.0) != self.released {
            self.released = share > 0.0;
            self.changed_ms = now_ms;
        }
        if share > 0.0 && self.values.is_multiple_of(MOVE_EVERY) {
            let needed = TIGHT * self.radius(&rates()) / self.sum.max(f64::MIN_POSITIVE);
            let by = MOVE_EVERY as f64 * ETA * (needed.min(4.0) - 1.0);
            let [least, most] = WEIGHTS;
            self.weight = (self.weight * libm::exp(by)).clamp(least, most);
        }
    }
}

fn width(rules: Rules) -> f64 {
    rules.bounds[1] - rules.bounds[0]
}

#[cfg(test)]
mod tests;
