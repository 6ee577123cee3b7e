//! A probability of what was chosen: in (0, 1].

use serde::{Deserialize, Serialize};

/// The probability with which a decision's action was drawn.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

/// A number outside (0, 1].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("`{0}` is not a probability of a chosen action: it must be above 0 and at most 1")]
pub struct InvalidProbability(f64);

impl Probability {
    /// Certainty.
    pub const ONE: Self = Self(1.0);

    /// The value, in (0, 1].
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Probability {
    type Error = InvalidProbability;
    fn try_from(value: f64) -> Result<Self, InvalidProbability> {
        if value > 0.0 && value <= 1.0 { Ok(Self(value)) } else { Err(InvalidProbability(value)) }
    }
}

impl From<Probability> for f64 {
    fn from(p: Probability) -> Self {
        p.0
    }
}
