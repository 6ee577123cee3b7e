//! The fold in a world that fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which may")]

mod crash;
mod disk;
mod driven;
mod floor;
mod golden;
mod month;
mod panic;
mod rewind;
