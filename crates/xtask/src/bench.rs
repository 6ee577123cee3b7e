//! `cargo xtask bench`: ratios against a reference in the same run.

mod bandit;
mod ceiling;
mod drift;
mod freshness;
mod learn;
mod load;
mod operate;
mod routing;
pub mod serve;
pub mod server;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Subcommand, Debug)]
pub enum Bench {
    /// Decisions over HTTP against a bare axum server that parses the same body and answers as many bytes
    Serve(serve::Options),
    /// Time from acknowledged feedback to a decision that has learned from it
    Freshness(freshness::Options),
    /// Decide and update without HTTP against numpy's LinUCB and Vowpal Wabbit
    Bandit,
    /// Policies on real routing tables against Vowpal Wabbit's
    Routing(routing::Options),
    /// Change detectors against River's: delays, misses, false alarms, updates a second
    Drift(drift::Options),
    /// Online learning of whole files against Vowpal Wabbit, River and scikit-learn
    Learn(learn::Options),
    /// Levers and backups while decisions go on
    Operate(operate::Options),
    /// The bare server itself, on a port that the system picks
    #[command(hide = true)]
    Ceiling,
}

impl Bench {
    /// Measures.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Serve(options) => serve::run(options),
            Self::Freshness(options) => freshness::run(options),
            Self::Bandit => bandit::run(),
            Self::Routing(options) => routing::run(options),
            Self::Drift(options) => drift::run(options),
            Self::Learn(options) => learn::run(options),
            Self::Operate(options) => operate::run(options),
            Self::Ceiling => ceiling::run(),
        }
    }
}

/// The middle of the values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
