//! A seeded world: a disk that tears, loses and fails, and a workload that remembers what was promised to it.

pub mod disk;
pub mod world;

pub use disk::FaultyDisk;
pub use world::World;
