//! What another policy would have got, from a log of one that drew its actions with known probabilities.
//!
//! With w = π(a|x) ÷ p the weight of a logged decision:
//!
//! - inverse propensity (Horvitz & Thompson 1952; Dudík, Langford & Li 2011, section 3.1): mean of w·r;
//! - self-normalised (Swaminathan & Joachims 2015, equation 8): Σ w·r ÷ Σ w;
//! - doubly robust (Dudík, Langford & Li 2011, equation 2): mean of q̂(x, π) + w·(r − q̂(x, a)).
//!
//! A policy that learns along the log from what stood before each decision is judged in the same way: each term is the
//! mean of what the policy of that moment would have got, whatever came before, so that the errors are a martingale's and
//! the intervals hold by its central limit theorem.

use crate::joint::{Estimate, Joint};

/// One logged decision and what the policy that is judged would have done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logged {
    /// What came of it.
    pub value: f64,
    /// The probability with which the logged action was drawn, above 0.
    pub probability: f64,
    /// The probability with which the judged policy draws that action.
    pub target: f64,
    /// What was expected of the logged action, before its value was learned.
    pub expected_logged: f64,
    /// What was expected of the judged policy, over its actions.
    pub expected: f64,
}

/// What a log says of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OffPolicy {
    /// (w, w·r, doubly robust).
    joint: Joint,
}

impl OffPolicy {
    /// Takes a logged decision.
    pub fn take(&mut self, l: &Logged) {
        let w = l.target / l.probability;
        self.joint.take([w, w * l.value, l.expected + w * (l.value - l.expected_logged)]);
    }

    /// Decisions taken.
    #[must_use]
    pub const fn n(&self) -> u64 {
        self.joint.n()
    }

    /// Inverse propensity.
    #[must_use]
    pub fn ips(&self) -> Estimate {
        self.joint.estimate(self.joint.mean[1], [0.0, 1.0, 0.0])
    }

    /// Self-normalised inverse propensity: a ratio, so with a bias of order 1 ÷ n.
    #[must_use]
    pub fn snips(&self) -> Estimate {
        let [w, wr, _] = self.joint.mean;
        let value = wr / w;
        self.joint.estimate(value, [-value / w, 1.0 / w, 0.0])
    }

    /// Doubly robust.
    #[must_use]
    pub fn dr(&self) -> Estimate {
        self.joint.estimate(self.joint.mean[2], [0.0, 0.0, 1.0])
    }

    /// The number of decisions of its own that would say as much: (Σ w)² ÷ Σ w² (Kish 1965).
    #[must_use]
    pub fn effective(&self) -> f64 {
        let squares = self.joint.square(0);
        let w = self.joint.mean[0];
        if squares > 0.0 { self.joint.n() as f64 * w * w / squares } else { 0.0 }
    }
}

#[cfg(test)]
mod tests;
