//! `pawl model` and `pawl version`: models and their versions on a server.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use super::read_spec;
use crate::client::{Server, segment};

/// Commands on models.
#[derive(Subcommand, Debug)]
pub enum Model {
    /// Create a model from its spec: version 1.0.0, in production
    Create {
        /// The spec, TOML
        spec: PathBuf,
    },
    /// List the models
    List,
    /// Show a model: versions, learners, feedback
    Show {
        /// Its name
        model: String,
    },
}

impl Model {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        match self {
            Self::Create { spec } => {
                let spec = read_spec(spec)?;
                let reply = server.post("/v1/models", spec.to_json())?;
                show(server, &reply, |v| {
                    format!("created `{}` {}, in production", text(v, "name"), text(v, "version"))
                });
            }
            Self::List => {
                let reply = server.get("/v1/models")?;
                show(server, &reply, |v| {
                    let line = |m: &Value| {
                        format!(
                            "{:32} {:8} {}",
                            text(m, "name"),
                            text(m, "kind"),
                            text(m, "production")
                        )
                    };
                    list(&v["models"]).map(line).collect::<Vec<_>>().join("\n")
                });
            }
            Self::Show { model } => {
                let reply = server.get(&format!("/v1/models/{}", segment(model)))?;
                show(server, &reply, describe);
            }
        }
        Ok(())
    }
}

/// Commands on versions.
#[derive(Subcommand, Debug)]
pub enum Version {
    /// Add the version that a changed spec makes, and put it into production
    Create {
        /// The spec, TOML
        spec: PathBuf,
    },
}

impl Version {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let Self::Create { spec } = self;
        let spec = read_spec(spec)?;
        let path = format!("/v1/models/{}/versions", segment(spec.name().as_str()));
        let reply = server.post(&path, spec.to_json())?;
        show(server, &reply, |v| {
            let why = list(&v["differences"]);
            let why = why.map(|d| {
                format!("  {} {}: {}", text(d, "bump"), text(d, "field"), text(d, "change"))
            });
            let why: Vec<String> = why.collect();
            format!(
                "`{}` is at {} in production\n{}",
                text(v, "name"),
                text(v, "version"),
                why.join("\n")
            )
        });
        Ok(())
    }
}

/// Prints a reply: as JSON where asked for, else as `words` says it.
pub fn show(server: &Server, reply: &Value, words: impl Fn(&Value) -> String) {
    if server.json {
        say!("{reply}");
    } else {
        say!("{}", words(reply).trim_end());
    }
}

/// A member as text.
pub fn text(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The items of an array.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn describe(v: &Value) -> String {
    let mut lines = vec![format!(
        "{} ({}), {} in production",
        text(v, "name"),
        text(v, "kind"),
        text(v, "production")
    )];
    for version in list(&v["versions"]) {
        lines.push(format!(
            "  version {:10} {:12} learner {}",
            text(version, "version"),
            text(version, "stage"),
            text(version, "learner")
        ));
    }
    for learner in list(&v["learners"]) {
        lines.push(format!(
            "  learner {}: {}, {} examples at position {}, state {}",
            text(learner, "id"),
            text(learner, "state"),
            text(learner, "examples"),
            text(learner, "position"),
            text(learner, "state_sha256").get(..12).unwrap_or_default()
        ));
    }
    let feedback = &v["feedback"];
    lines.push(format!(
        "  {} decisions, {} values learned, {} duplicate, {} late, {} missing at the deadline",
        text(feedback, "decisions"),
        text(feedback, "learned"),
        text(feedback, "duplicate"),
        text(feedback, "late"),
        text(feedback, "missing")
    ));
    lines.join("\n")
}
