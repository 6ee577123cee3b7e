//! Online updates: what a learner knows, and how one example changes it.

pub mod artifact;
mod inherit;
mod learner;
pub mod linear;
mod metric;
mod monitor;
pub mod online;
mod progress;
pub mod schedule;

pub use artifact::{Artifact, ArtifactError};
pub use inherit::goes_over;
pub use learner::{Example, Learner};
pub use metric::MetricState;
pub use monitor::{Divergence, Monitor};
pub use progress::Progress;
