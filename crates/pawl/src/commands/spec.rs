//! `pawl spec check`: whether a spec holds together, without a server.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use pawl_model::Views;
use serde_json::json;

use super::read_spec;

/// Commands on spec files.
#[derive(Subcommand, Debug)]
pub enum Spec {
    /// Check a spec file; say every violation
    Check {
        /// The spec, TOML
        spec: PathBuf,
    },
}

impl Spec {
    /// Runs the command.
    pub fn run(&self, json: bool) -> Result<()> {
        let Self::Check { spec: path } = self;
        let spec = read_spec(path)?;
        let views = Views::of(&spec);
        let slots = |m: usize| views.layout(m).slots;
        if json {
            let metrics: serde_json::Map<String, serde_json::Value> = spec
                .metrics()
                .iter()
                .enumerate()
                .map(|(m, x)| (x.name.clone(), json!({"slots": slots(m)})))
                .collect();
            let object = json!({"name": spec.name(), "sha256": spec.sha256().to_string(), "metrics": metrics});
            say!("{object}");
        } else {
            say!("`{}` is a valid spec of the model `{}`", path.display(), spec.name());
            for (m, metric) in spec.metrics().iter().enumerate() {
                say!("  {}: predicted from {} slots", metric.name, slots(m));
            }
        }
        Ok(())
    }
}
