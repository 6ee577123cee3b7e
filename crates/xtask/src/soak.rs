//! `cargo xtask soak`: the same laws, for longer.

mod memory;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

/// What to soak.
#[derive(Subcommand, Debug)]
pub enum Soak {
    /// kill -9 under load, again and again; every acknowledged record and every reported digest is checked
    Kills {
        /// How often
        #[arg(long, default_value_t = 500)]
        count: u32,
    },
    /// The floor in worlds whose truth is known: broken in at most 1 % of them
    Floor {
        /// How many worlds
        #[arg(long, default_value_t = 1000)]
        worlds: u32,
    },
    /// What reports say of months whose truth is known: 95 % intervals hold it in as many
    Report {
        /// How many months
        #[arg(long, default_value_t = 200)]
        months: u32,
    },
    /// Millions of decisions with feedback up to an hour late: memory must stay flat, and a kill must not hurt
    Memory(memory::Options),
    /// The workload of `memory`, in a process of its own
    #[command(hide = true)]
    Workload {
        /// The data directory
        data: PathBuf,
        /// Decisions
        decisions: u64,
    },
}

impl Soak {
    /// Soaks.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Kills { count } => {
                let count = count.to_string();
                let test = ["test", "-p", "pawl", "--test", "it", "kill::", "--", "--nocapture"];
                crate::cargo(&test, &[("PAWL_KILLS", &count)])
            }
            Self::Floor { worlds } => simulated("floor::", ("PAWL_WORLDS", *worlds)),
            Self::Report { months } => simulated("month::", ("PAWL_MONTHS", *months)),
            Self::Memory(options) => memory::run(options),
            Self::Workload { data, decisions } => memory::workload(data, *decisions),
        }
    }
}

/// Runs a test of simulated worlds, so many of them.
fn simulated(test: &str, (variable, count): (&str, u32)) -> Result<()> {
    let run = ["test", "--release", "-p", "pawl-sim", "--test", "it", test, "--", "--nocapture"];
    crate::cargo(&run, &[(variable, &count.to_string())])
}
