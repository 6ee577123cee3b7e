//! `pawl`: one binary that keeps models moving forward.

mod commands;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keep models moving forward: serve decisions, learn from feedback, judge, roll out.
#[derive(Parser, Debug)]
#[command(name = "pawl", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a policy over a table of what every action would have given
    Simulate(commands::simulate::Simulate),
    /// Check spec files
    #[command(subcommand)]
    Spec(commands::spec::Spec),
}

/// Exit codes: 0 done, 1 failed, 2 wrong usage (clap's own).
fn main() -> std::process::ExitCode {
    let done = match Cli::parse().command {
        Command::Simulate(command) => command.run(),
        Command::Spec(command) => command.run(),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
