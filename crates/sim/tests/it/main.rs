//! The fold in a world that fails.

mod crash;
mod disk;
mod golden;
mod panic;
