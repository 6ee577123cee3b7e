//! Learners against laws that must hold and values from elsewhere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which may")]

mod actions;
mod artifact;
mod choose;
mod environment;
mod faults;
mod gradient;
mod laws;
mod reference;
mod rls;
mod text;
