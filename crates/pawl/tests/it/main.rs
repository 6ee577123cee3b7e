//! The real binary: its commands, its API, and what is left when it is killed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which may")]

mod api;
mod archive;
mod backup;
mod bounds;
mod cli;
mod decisions;
mod erase;
mod gateway;
mod hashed;
mod import;
mod keys;
mod kill;
mod learning;
mod levers;
mod logging;
mod metrics;
mod process;
mod real;
mod report;
mod sessions;
mod simulate;
mod tls;
mod upgrade;
