//! One file a command.

pub mod apply;
pub mod backup;
pub mod budget;
pub mod capacity;
pub mod decision;
pub mod demo;
pub mod erase;
pub mod health;
mod history;
pub mod import;
pub mod init;
pub mod key;
pub mod learn;
pub mod learner;
pub mod lever;
pub mod log;
pub mod model;
pub mod report;
mod rows;
pub mod serve;
pub mod simulate;
pub mod spec;
pub mod status;

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use pawl_domain::{CheckedSpec, ModelSpec};

/// Reads and checks a spec file.
fn read_spec(path: &Path) -> Result<CheckedSpec> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
    let spec = ModelSpec::from_toml(&text).map_err(|e| anyhow!("`{shown}`: {e}"))?;
    spec.check().map_err(|e| {
        let lines: Vec<String> =
            e.0.iter().map(|e| format!("  {}: {}", e.field, e.message)).collect();
        anyhow!("`{shown}` is not a valid spec:\n{}", lines.join("\n"))
    })
}
