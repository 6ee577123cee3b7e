//! `cargo xtask`: what developers and CI run.

mod bench;
mod python;
mod soak;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

/// The allocator of the binary, so that the bare server of the benchmarks has no other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser, Debug)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    /// Show that everything works on this machine: every test, the binary killed under load included
    Test,
    /// What must pass before a commit: format, clippy, tests, tidy, docs
    Check,
    /// The rules that no compiler knows
    Tidy,
    /// Measure against a reference in the same run
    #[command(subcommand)]
    Bench(bench::Bench),
    /// The same laws, for longer
    #[command(subcommand)]
    Soak(soak::Soak),
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs cargo in the workspace.
fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let shown = arguments.join(" ");
    eprintln!("── cargo {shown}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root()).envs(environment.iter().copied());
    let status = command.status().context("cargo cannot be run")?;
    if !status.success() {
        bail!("`cargo {shown}` failed");
    }
    Ok(())
}

fn test() -> Result<()> {
    // With every optional part: a release carries them.
    let arguments = ["test", "--workspace", "--all-features", "--no-fail-fast"];
    let gateway =
        std::fs::read_to_string(root().join("examples/gateways/litellm/requirements.txt"))?;
    let gateway: Vec<&str> = gateway.lines().filter(|l| !l.starts_with('#')).collect();
    let (built, pythons) = std::thread::scope(|scope| {
        let pythons = scope.spawn(|| {
            let reader = python::python("python", &["safetensors", "numpy"]);
            [("PAWL_PYTHON", reader), ("PAWL_LITELLM", python::python("litellm", &gateway))]
        });
        let built = cargo(&[&arguments[..], &["--no-run"]].concat(), &[]);
        (built, pythons.join())
    });
    built?;
    let mut environment = Vec::new();
    for (variable, python) in pythons.map_err(|_| anyhow::anyhow!("preparing Python panicked"))? {
        match python {
            Ok(python) => environment.push((variable, python.to_string_lossy().into_owned())),
            Err(why) => eprintln!("── without {variable} ({why:#}): what needs it is not tested"),
        }
    }
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    cargo(&arguments, &environment)
}

fn check() -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(
        &["clippy", "--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"],
        &[],
    )?;
    test()?;
    cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "--deny warnings")])
}

fn tidy() -> Result<()> {
    let found = tidy::violations(&root())?;
    if found.is_empty() {
        return Ok(());
    }
    bail!("not tidy:\n  {}", found.join("\n  "));
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Test => test(),
        Task::Check => check(),
        Task::Tidy => tidy(),
        Task::Bench(bench) => bench.run(),
        Task::Soak(soak) => soak.run(),
    }
}
