//! The words of Pawl: ids, events, specs, versions, probabilities.
//!
//! Plain data and its rules. Nothing here computes, stores or serves.

pub mod alert;
pub mod bump;
pub mod duration;
pub mod event;
pub mod examples;
pub mod id;
pub mod levers;
pub mod probability;
pub mod rewind;
pub mod spec;
pub mod suggest;
pub mod value;

pub use alert::{Alert, Happening};
pub use event::Event;
pub use examples::{Examples, Label};
pub use id::{ActionName, DecisionId, LearnerId, ModelName, Position, Sha256};
pub use levers::{LeverChange, Levers, Order};
pub use probability::Probability;
pub use spec::{CheckedSpec, ModelSpec};
pub use value::Value;
