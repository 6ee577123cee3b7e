//! Log → engine → snapshots: the one caller of [`pawl_engine::Engine::apply`].
//!
//! [`Fold`] is a log and the engine that follows it, in one thread: simulations, replay and explanations use it as it
//! is. [`Live`] runs one on a thread of its own, publishes snapshots, writes checkpoints and trims.

mod clock;
mod fold;
mod live;
mod plan;
mod published;
mod retention;
mod syncer;

pub use clock::{Clock, SlewedClock};
pub use fold::{Fold, RecoverError, Recovered, Unlogged};

pub use live::{Erased, Inspection, Known, Live, Settings, Stopped};
pub use plan::{Begins, Plan};
pub use published::Published;
pub use retention::Retention;
pub use syncer::{SyncError, Syncer};
