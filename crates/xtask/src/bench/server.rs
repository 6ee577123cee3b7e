//! Servers under test, as processes of their own.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::root;

/// A running server; killed when dropped.
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Where it listens: host and port; empty if it does not.
    pub address: String,
}

/// A binary of the profile that a release has.
pub fn binary(name: &str) -> PathBuf {
    root().join("target/dist").join(name)
}

/// Builds what the benchmarks run.
pub fn build() -> Result<()> {
    crate::cargo(&["build", "--profile", "dist", "-p", "pawl", "-p", "xtask"], &[])
}

impl Process {
    /// A process whose output is read line by line.
    pub fn watch(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("a child has an output")?;
        Ok(Self { child, output: BufReader::new(stdout), address: String::new() })
    }

    /// The next line of its output; `None` when it has ended.
    pub fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let n = self.output.read_line(&mut line)?;
        Ok((n > 0).then(|| line.trim_end().to_owned()))
    }

    fn start(mut command: Command) -> Result<Self> {
        let mut process = Self::watch(command.stderr(Stdio::null()))?;
        let line = process.line()?.unwrap_or_default();
        let address = line.split_whitespace().find_map(|w| w.strip_prefix("http://"));
        let Some(address) = address else { bail!("the server did not start: {line}") };
        process.address = address.to_owned();
        Ok(process)
    }

    /// The bare server.
    pub fn ceiling() -> Result<Self> {
        let mut command = Command::new(binary("xtask"));
        command.args(["bench", "ceiling"]);
        Self::start(command)
    }

    /// Pawl on `data`.
    pub fn pawl(data: &std::path::Path) -> Result<Self> {
        let mut command = Command::new(binary("pawl"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        Self::start(command)
    }

    /// CPU seconds used so far, from /proc.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after = stat.rsplit_once(')').context("stat has a name")?.1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }

    /// Private bytes, from /proc.
    pub fn private_bytes(&self) -> Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let private = rollup.lines().filter(|l| l.starts_with("Private_"));
        let kib = private.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
        Ok(kib.sum::<u64>() * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A directory that is removed when dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A new directory under `target`.
    pub fn new(name: &str) -> Result<Self> {
        let path = root().join(format!("target/bench/{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}
