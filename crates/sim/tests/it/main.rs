//! The fold in a world that fails.

mod crash;
mod disk;
mod panic;
