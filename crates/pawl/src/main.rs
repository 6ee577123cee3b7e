//! `pawl`: one binary that keeps models moving forward.

/// Prints a line. A reader that has gone away is no failure: `pawl … | head` ends well, and a server goes on.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _reader_gone = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod client;
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
    #[command(flatten)]
    server: client::Server,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Watch the whole loop work: a server and a minute of traffic
    Demo(commands::demo::Demo),
    /// Run the server
    Serve(commands::serve::Serve),
    /// Tell what disk, memory and recovery time a rate of decisions takes
    Capacity(commands::capacity::Capacity),
    /// Ask a server whether it is ready; fails where it is not
    Health(commands::health::Health),
    /// Models on a server
    #[command(subcommand)]
    Model(commands::model::Model),
    /// Versions of a model on a server
    #[command(subcommand)]
    Version(commands::model::Version),
    /// Decisions on a server
    #[command(subcommand)]
    Decision(commands::decision::Decision),
    /// Keys of a server
    #[command(subcommand)]
    Key(commands::key::Key),
    /// The log of a server or a data directory
    #[command(subcommand)]
    Log(commands::log::Log),
    /// Write a checkpoint on a server now
    Checkpoint,
    /// Backups of a running server
    #[command(subcommand)]
    Backup(commands::backup::Backup),
    /// Make a data directory of a backup
    Restore(commands::backup::Restore),
    /// Write a spec from the columns of one's own data
    Init(commands::init::Init),
    /// Run a policy over a table of what every action would have given, or judge it by a log
    Simulate(commands::simulate::Simulate),
    /// Teach a model what another system decided
    Import(commands::import::Import),
    /// Bring a server to what spec files say: new models, new versions, or no change
    Apply(commands::apply::Apply),
    /// Actions of a policy on a server
    #[command(subcommand)]
    Action(commands::lever::Action),
    /// Choose one action always, where it is eligible
    Pin(commands::lever::Pin),
    /// Let the policy choose again
    Unpin(commands::lever::Unpin),
    /// Let a policy explore, or not
    Explore(commands::lever::Explore),
    /// Give a policy a share of traffic; the rest is the incumbent's
    Ramp(commands::lever::Ramp),
    /// Take what decisions say of a person out of the log, for good
    Erase(commands::erase::Erase),
    /// Show how a policy stands: its actions, levers, feedback, alerts
    Status(commands::status::Status),
    /// Budgets of a policy on a server
    #[command(subcommand)]
    Budget(commands::budget::Budget),
    /// Tell what a policy spent, saved and kept
    Report(commands::report::Report),
    /// Learners on a server
    #[command(subcommand)]
    Learner(commands::learner::Learner),
    /// Learn a regressor or classifier from a file of labelled examples
    Learn(commands::learn::Learn),
    /// Spec files
    #[command(subcommand)]
    Spec(commands::spec::Spec),
    /// The configuration of `pawl serve`
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Print every key with its default and meaning, as a configuration file
    Explain,
}

/// Exit codes: 0 done, 1 failed, 2 wrong usage (clap's own).
fn main() -> std::process::ExitCode {
    let Cli { command, server } = Cli::parse();
    let done = match command {
        Command::Demo(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Capacity(command) => command.run(server.json),
        Command::Health(command) => command.run(&server),
        Command::Model(command) => command.run(&server),
        Command::Version(command) => command.run(&server),
        Command::Decision(command) => command.run(&server),
        Command::Key(command) => command.run(&server),
        Command::Log(command) => command.run(&server),
        Command::Checkpoint => server.post("/v1/checkpoints", String::new()).map(|reply| {
            commands::model::show(&server, &reply, |v| {
                format!("checkpoint at {}", commands::model::text(v, "position"))
            });
        }),
        Command::Backup(command) => command.run(&server),
        Command::Restore(command) => command.run(&server),
        Command::Init(command) => command.run(),
        Command::Import(command) => command.run(&server),
        Command::Simulate(command) => command.run(server.json),
        Command::Report(command) => command.run(&server),
        Command::Budget(command) => command.run(&server),
        Command::Learner(command) => command.run(&server),
        Command::Apply(command) => command.run(&server),
        Command::Action(command) => command.run(&server),
        Command::Pin(command) => command.run(&server),
        Command::Unpin(command) => command.run(&server),
        Command::Explore(command) => command.run(&server),
        Command::Ramp(command) => command.run(&server),
        Command::Erase(command) => command.run(&server),
        Command::Status(command) => command.run(&server),
        Command::Learn(command) => command.run(&server),
        Command::Spec(command) => command.run(server.json),
        Command::Config(ConfigCommand::Explain) => {
            say!("{}", pawl_server::Config::explain().trim_end());
            Ok(())
        }
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
