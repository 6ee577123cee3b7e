//! From evidence to verdicts: a floor whose error rate holds at any time, a comparison with the incumbent, the value of a
//! policy that never ran. Nothing here learns.

mod compare;
mod floor;
mod joint;
mod off_policy;

pub use compare::Compared;
pub use floor::{Evidence, Floor, LEAST, REACH, Rules, shows_below};
pub use joint::Estimate;
pub use off_policy::{Logged, OffPolicy};
