//! The real binary: its commands, its API, and what is left when it is killed.

mod api;
mod cli;
mod keys;
mod kill;
mod process;
mod simulate;
