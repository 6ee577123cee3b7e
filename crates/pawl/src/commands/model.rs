//! `pawl model` and `pawl version`: models and their versions on a server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use pawl_domain::CheckedSpec;
use pawl_learn::Artifact;
use serde_json::{Value, json};

use super::read_spec;
use crate::client::{Server, segment};

/// Commands on models.
#[derive(Subcommand, Debug)]
pub enum Model {
    /// Create a model: version 1.0.0, in production
    Create {
        /// The spec, TOML; or an artifact (.safetensors), from which its learner begins
        file: PathBuf,
    },
    /// List the models
    List,
    /// Let a model answer no more; feedback for its decisions still teaches it
    Archive {
        /// Its name
        model: String,
    },
    /// Let an archived model answer again
    Unarchive {
        /// Its name
        model: String,
    },
    /// Delete an archived model and what it learned, for good; its name stays taken
    Delete {
        /// Its name
        model: String,
    },
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
            Self::Create { file } => {
                let reply = match New::read(file)? {
                    New::Spec(spec) => server.post("/v1/models", spec.to_json())?,
                    New::Artifact(_, bytes) => server.upload("/v1/models", bytes)?,
                };
                show(server, &reply, created);
            }
            Self::List => {
                let reply = server.get("/v1/models")?;
                show(server, &reply, |v| {
                    let line = |m: &Value| {
                        format!(
                            "{:32} {:8} {}{}",
                            text(m, "name"),
                            text(m, "kind"),
                            text(m, "production"),
                            if m["archived"] == true { " archived" } else { "" }
                        )
                    };
                    list(&v["models"]).map(line).collect::<Vec<_>>().join("\n")
                });
            }
            Self::Archive { model } => {
                let path = format!("/v1/models/{}/archive", segment(model));
                let reply = server.post(&path, String::new())?;
                show(server, &reply, |v| format!("`{}` answers no more", text(v, "name")));
            }
            Self::Unarchive { model } => {
                let reply = server.delete(&format!("/v1/models/{}/archive", segment(model)))?;
                show(server, &reply, |v| format!("`{}` answers again", text(v, "name")));
            }
            Self::Delete { model } => {
                let reply = server.delete(&format!("/v1/models/{}", segment(model)))?;
                show(server, &reply, |v| format!("`{}` is gone", text(v, "name")));
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
        /// The spec, TOML; or an artifact (.safetensors), from which its learner begins
        file: PathBuf,
    },
    /// Freeze what the production learner knows as a new version, which is not served; the learner learns on
    Cut {
        /// The model
        model: String,
        /// Write its artifact to this file too
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// List a model's versions
    List {
        /// The model
        model: String,
    },
    /// Write the artifact of a version to a file
    Download {
        /// MODEL@VERSION
        reference: String,
        /// The file
        #[arg(long)]
        out: PathBuf,
    },
}

/// What a model or version is made from.
enum New {
    Spec(Box<CheckedSpec>),
    Artifact(Box<CheckedSpec>, Vec<u8>),
}

impl New {
    fn read(path: &Path) -> Result<Self> {
        if path.extension().is_none_or(|e| e != "safetensors") {
            return Ok(Self::Spec(Box::new(read_spec(path)?)));
        }
        let named = || format!("`{}`", path.display());
        let bytes = std::fs::read(path).with_context(named)?;
        let spec = Artifact::read(&bytes).with_context(named)?.spec;
        Ok(Self::Artifact(Box::new(spec), bytes))
    }
}

/// How a reply is said.
type Say = fn(&Value) -> String;

/// Leaves an artifact on a server: a new model, or a new version of the one of that name. Returns the reply, and how to
/// say it.
pub fn leave(server: &Server, spec: &CheckedSpec, bytes: Vec<u8>) -> Result<(Value, Say)> {
    let models = server.get("/v1/models")?;
    let known = list(&models["models"]).any(|m| m["name"] == spec.name().as_str());
    if known {
        let path = format!("/v1/models/{}/versions", segment(spec.name().as_str()));
        Ok((server.upload(&path, bytes)?, added))
    } else {
        Ok((server.upload("/v1/models", bytes)?, created))
    }
}

fn created(v: &Value) -> String {
    format!("created `{}` {}, in production", text(v, "name"), text(v, "version"))
}

fn added(v: &Value) -> String {
    let why = list(&v["differences"]);
    let why =
        why.map(|d| format!("  {} {}: {}", text(d, "bump"), text(d, "field"), text(d, "change")));
    let why: Vec<String> = why.collect();
    format!("`{}` is at {} in production\n{}", text(v, "name"), text(v, "version"), why.join("\n"))
}

impl Version {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        match self {
            Self::Create { file } => {
                let new = New::read(file)?;
                let (New::Spec(spec) | New::Artifact(spec, _)) = &new;
                let path = format!("/v1/models/{}/versions", segment(spec.name().as_str()));
                let reply = match new {
                    New::Spec(spec) => server.post(&path, spec.to_json())?,
                    New::Artifact(_, bytes) => server.upload(&path, bytes)?,
                };
                show(server, &reply, added);
            }
            Self::Cut { model, out } => {
                let path = format!("/v1/models/{}/versions/cut", segment(model));
                let reply = server.post(&path, String::new())?;
                if let Some(out) = out {
                    download(server, model, &text(&reply, "version"), out)?;
                }
                show(server, &reply, |v| {
                    format!(
                        "cut `{}` {} at {}, artifact {}",
                        text(v, "name"),
                        text(v, "version"),
                        text(v, "position"),
                        text(v, "artifact_sha256")
                    )
                });
            }
            Self::List { model } => {
                let reply = server.get(&format!("/v1/models/{}/versions", segment(model)))?;
                show(server, &reply, |v| {
                    let line = |v: &Value| {
                        format!(
                            "{:10} {:12} {}",
                            text(v, "version"),
                            text(v, "stage"),
                            text(v, "artifact_sha256")
                        )
                    };
                    list(&v["versions"]).map(line).collect::<Vec<_>>().join("\n")
                });
            }
            Self::Download { reference, out } => {
                let Some((model, version)) = reference.split_once('@') else {
                    bail!("`{reference}` must be MODEL@VERSION, such as churn@1.0.1");
                };
                let bytes = download(server, model, version, out)?;
                let reply = json!({"file": out.display().to_string(), "bytes": bytes});
                show(server, &reply, |v| format!("{} bytes in `{}`", v["bytes"], text(v, "file")));
            }
        }
        Ok(())
    }
}

/// Writes the artifact of a version to a file. Returns its size.
fn download(server: &Server, model: &str, version: &str, out: &Path) -> Result<usize> {
    let path = format!("/v1/models/{}/versions/{}/artifact", segment(model), segment(version));
    let bytes = server.download(&path)?;
    write_artifact(out, &bytes)?;
    Ok(bytes.len())
}

/// Writes an artifact whole or not at all.
pub fn write_artifact(out: &Path, bytes: &[u8]) -> Result<()> {
    let named = || format!("`{}` cannot be written", out.display());
    let mut beside = out.as_os_str().to_owned();
    beside.push(".part");
    std::fs::write(&beside, bytes).with_context(named)?;
    std::fs::rename(&beside, out).with_context(named)
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
