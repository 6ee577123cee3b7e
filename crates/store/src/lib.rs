//! Where things are kept: the disk, the log, checkpoints, artifacts, the registry.

pub mod artifacts;
pub mod backup;
pub mod checkpoints;
pub mod disk;
pub mod log;
pub mod registry;

pub use disk::{Disk, DiskFile, MemoryDisk, RealDisk};
pub use log::{Log, LogError};
