//! Online updates: what a learner knows, and how one example changes it.

mod inherit;
mod learner;
pub mod linear;

pub use learner::{Example, Learner, MetricState};
