//! The server: HTTP, keys, limits, and the loop that joins log, fold and registry.

mod actions;
mod app;
mod append;
mod archive;
mod auth;
mod backup;
mod budgets;
pub mod config;
mod decide;
mod decisions;
mod elsewhere;
mod erase;
pub mod error;
mod explain;
mod feedback;
mod hash_key;
mod health;
mod http;
mod learner;
mod levers;
mod metrics;
mod models;
pub mod openapi;
mod predict;
mod quotas;
mod report;
mod request_id;
mod requests;
mod sessions;
pub mod tls;
mod versions;

pub use app::{App, StartError};
pub use config::Config;
pub use http::{Running, serve};
