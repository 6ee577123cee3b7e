//! What answers a request: the feature encoder, the parameters of each family, scoring, the snapshot.

pub mod context;
pub mod counts;
pub mod encode;
pub mod hash_key;
pub mod layout;
pub mod linear;
pub mod policy;
pub mod predict;
pub mod snapshot;
pub mod weights;

pub use encode::Encoded;
pub use hash_key::HashKey;
pub use layout::{Layout, Views};
pub use predict::Prediction;
pub use snapshot::{Refusal, Request, Scores, Snapshot};
