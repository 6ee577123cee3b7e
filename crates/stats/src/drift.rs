//! Change detectors on a stream of numbers: each update costs O(1) or O(log n) and allocates nothing.
//!
//! Each `update` takes one value and tells whether a change shows in it; the detector then starts over. Values must be
//! finite.

mod adwin;
mod cusum;
mod hddm;
mod page_hinkley;

pub use adwin::Adwin;
pub use cusum::{Cusum, run_length, threshold_for};
pub use hddm::HddmW;
pub use page_hinkley::PageHinkley;

use serde::{Deserialize, Serialize};

/// Mean and variance of a stream so far (Welford 1962).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    n: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Takes one value.
    pub fn add(&mut self, x: f64) {
        self.n += 1;
        let from_old = x - self.mean;
        self.mean += from_old / self.n as f64;
        self.squares += from_old * (x - self.mean);
    }

    /// Values taken.
    #[must_use]
    pub const fn n(&self) -> u64 {
        self.n
    }

    /// Their mean; 0 of none.
    #[must_use]
    pub const fn mean(&self) -> f64 {
        self.mean
    }

    /// Their standard deviation, with n − 1 in the denominator; 0 of fewer than two.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        if self.n < 2 { 0.0 } else { libm::sqrt(self.squares / (self.n - 1) as f64) }
    }
}
