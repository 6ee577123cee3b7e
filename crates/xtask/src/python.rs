//! Python with other people's packages, in virtual environments under `target/`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::root;

/// The interpreter of the environment `target/NAME` with `packages` in it.
pub fn python(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let venv = root().join("target").join(name);
    let python = venv.join("bin/python");
    let stamp = venv.join("packages.txt");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    if !python.exists() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
        if !made.context("python3 cannot be run")?.success() {
            bail!("python3 cannot make a virtual environment: install python3-venv");
        }
    }
    let installed =
        Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages).status()?;
    if !installed.success() {
        bail!("pip could not install {packages:?}");
    }
    std::fs::write(stamp, wanted)?;
    Ok(python)
}
