//! From evidence to verdicts, with error rates that hold at any time. Nothing here learns.

mod floor;

pub use floor::{Evidence, Floor, REACH, Rules, shows_below};
