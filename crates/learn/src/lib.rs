//! Online updates: what a learner knows, and how one example changes it.

mod inherit;
mod learner;
pub mod linear;
pub mod online;
mod progress;
pub mod schedule;

pub use learner::{Example, Learner, MetricState};
pub use progress::Progress;
