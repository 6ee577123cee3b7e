//! `pawl apply`: brings a server to what spec files say.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use pawl_domain::{
    CheckedSpec,
    bump::{self, Difference},
};
use pawl_learn::goes_over;
use pawl_model::Views;
use semver::Version;
use serde_json::{Value, json};

use super::{model::text, read_spec};
use crate::client::{Server, segment};

/// Options of `pawl apply`.
#[derive(Args, Debug)]
pub struct Apply {
    /// A spec file (.toml), or a directory of them
    #[arg(short = 'f', long = "file")]
    file: PathBuf,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What is to be done for one spec.
enum Plan {
    Create,
    Change { from: Version, differences: Vec<Difference>, keeps: Vec<String> },
    Nothing(Version),
}

impl Apply {
    /// Runs the command. Every file is read and every plan is made before anything is changed.
    pub fn run(&self, server: &Server) -> Result<()> {
        let specs: Vec<CheckedSpec> =
            files(&self.file)?.iter().map(|f| read_spec(f)).collect::<Result<_>>()?;
        let mut plans = Vec::new();
        for (i, spec) in specs.iter().enumerate() {
            let name = spec.name();
            if specs[..i].iter().any(|s| s.name() == name) {
                bail!("two files say what `{name}` is; leave one");
            }
            plans.push(plan(server, spec)?);
        }
        let mut done = Vec::new();
        for (spec, plan) in specs.iter().zip(&plans) {
            let version = match (plan, self.dry_run) {
                (Plan::Nothing(version), _) => version.to_string(),
                (Plan::Create, true) => Version::new(1, 0, 0).to_string(),
                (Plan::Change { from, differences, .. }, true) => {
                    bump::next(from, differences).map(|v| v.to_string()).unwrap_or_default()
                }
                (Plan::Create, false) => {
                    text(&server.post("/v1/models", spec.to_json())?, "version")
                }
                (Plan::Change { from, .. }, false) => {
                    let path = format!("/v1/models/{}/versions", segment(spec.name().as_str()));
                    text(
                        &server.post_if_match(&path, spec.to_json(), &from.to_string())?,
                        "version",
                    )
                }
            };
            if !server.json {
                say!("{}", words(spec, plan, &version).trim_end());
            }
            done.push(as_json(spec, plan, &version));
        }
        if server.json {
            say!("{}", json!({"applied": !self.dry_run, "models": done}));
        }
        Ok(())
    }
}

/// The spec files of a path, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("`{}`", path.display()))?;
    let mut files: Vec<PathBuf> =
        entries.map(|e| Ok(e?.path())).collect::<Result<_, std::io::Error>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    if files.is_empty() {
        bail!("there is no .toml file in `{}`", path.display());
    }
    Ok(files)
}

fn plan(server: &Server, spec: &CheckedSpec) -> Result<Plan> {
    let path = format!("/v1/models/{}", segment(spec.name().as_str()));
    let Some(reply) = server.download_if_there(&path)? else { return Ok(Plan::Create) };
    let reply: Value = serde_json::from_slice(&reply)?;
    let from: Version = text(&reply, "production").parse()?;
    let old = CheckedSpec::from_json(&reply["spec"].to_string()).map_err(anyhow::Error::msg)?;
    let differences = bump::differences(&old, spec);
    if differences.is_empty() {
        return Ok(Plan::Nothing(from));
    }
    Ok(Plan::Change { from, differences, keeps: keeps(&old, spec) })
}

/// What of the learning goes over, metric by metric.
fn keeps(old: &CheckedSpec, new: &CheckedSpec) -> Vec<String> {
    let (before, after) = (Views::of(old), Views::of(new));
    let mut lines = Vec::new();
    for (m, metric) in new.metrics().iter().enumerate() {
        let name = &metric.name;
        let Some(o) = old.metric(name) else {
            lines.push(format!("`{name}` is new and learns from nothing"));
            continue;
        };
        if !goes_over(old, new) {
            lines
                .push(format!("`{name}` learns anew: another family of learner, or other classes"));
            continue;
        }
        let known = &before.layout(o).blocks;
        let blocks = &after.layout(m).blocks;
        let lost = blocks.iter().filter(|b| !known.iter().any(|k| k.key == b.key));
        let lost: Vec<&str> = lost.map(|b| b.key.split('|').next().unwrap_or_default()).collect();
        lines.push(match lost[..] {
            [] => format!("`{name}` keeps what it learned"),
            _ => format!("`{name}` keeps what it learned, but for {}", lost.join(", ")),
        });
    }
    let added = new.actions().iter().filter(|a| old.action(a.name.as_str()).is_none());
    lines.extend(added.map(|a| format!("the action `{}` is new and learns from nothing", a.name)));
    lines
}

fn words(spec: &CheckedSpec, plan: &Plan, version: &str) -> String {
    let name = spec.name();
    match plan {
        Plan::Create => format!("`{name}`: created, {version}"),
        Plan::Nothing(_) => format!("`{name}`: no change, {version}"),
        Plan::Change { from, differences, keeps } => {
            let mut lines = vec![format!("`{name}`: {from} → {version}")];
            for d in differences {
                let bump = format!("{:?}", d.bump).to_uppercase();
                lines.push(format!("  {bump} {}: {}", d.field, d.change));
            }
            lines.extend(keeps.iter().map(|k| format!("  {k}")));
            lines.join("\n")
        }
    }
}

fn as_json(spec: &CheckedSpec, plan: &Plan, version: &str) -> Value {
    let (what, differences, keeps) = match plan {
        Plan::Create => ("create", json!([]), json!([])),
        Plan::Nothing(_) => ("nothing", json!([]), json!([])),
        Plan::Change { differences, keeps, .. } => ("change", json!(differences), json!(keeps)),
    };
    json!({
        "name": spec.name(), "plan": what, "version": version, "differences": differences, "keeps": keeps,
    })
}
