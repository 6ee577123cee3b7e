//! `pawl import`: teach a model what another system decided, and what came of it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pawl_domain::CheckedSpec;
use serde_json::{Map, Value, json};

use super::{
    history::{Entry, read_entry},
    model::{list, show, text},
    rows::Rows,
};
use crate::client::{Server, segment};

/// Most decisions and bytes of a request.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 256 << 10;
/// Refused rows that are told.
const TOLD: usize = 5;

/// Options of `pawl import`.
#[derive(Args, Debug)]
pub struct Import {
    /// The model
    model: String,
    /// The log: `action`, `probability` where known, the metrics and features; `at`, `request_id`, `targeting_key` and
    /// `session_id` where there are such columns (.csv or .jsonl, with .gz or not)
    #[arg(long)]
    data: PathBuf,
}

/// What became of the rows.
#[derive(Default)]
struct Done {
    accepted: u64,
    rejected: Vec<String>,
    position: Value,
}

impl Import {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let path = format!("/v1/models/{}", segment(&self.model));
        let spec = CheckedSpec::from_json(&server.get(&path)?["spec"].to_string());
        let spec = spec.map_err(|e| anyhow::anyhow!("the spec of `{}`: {e}", self.model))?;
        let path = format!("{path}/decisions");
        let name = self.data.display();
        let now = jiff::Timestamp::now().as_millisecond();
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{human_pos} decisions, {per_sec}")?);
        let (mut done, mut batch, mut bytes) = (Done::default(), Vec::new(), 0);
        let mut from = 1;
        for (i, row) in Rows::open(&self.data)?.enumerate() {
            let entry = row.and_then(|row| read_entry(&spec, row));
            let item = entry.and_then(|e| decision(&spec, &e, now));
            let item = item.with_context(|| {
                format!("in `{name}`, in row {}; rows before {from} are imported", i + 1)
            })?;
            bytes += item.len();
            batch.push(item);
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                send(server, &path, &mut batch, from, &mut done)?;
                bar.inc((i + 2 - from) as u64);
                (from, bytes) = (i + 2, 0);
            }
        }
        send(server, &path, &mut batch, from, &mut done)?;
        bar.finish_and_clear();
        if done.accepted == 0 && done.rejected.is_empty() {
            bail!("`{name}` has no rows");
        }
        let (count, told) = (done.rejected.len(), &done.rejected[..done.rejected.len().min(TOLD)]);
        let reply = json!({"accepted": done.accepted, "rejected": count, "errors": told, "position": done.position});
        show(server, &reply, |v| {
            let mut lines = vec![format!(
                "{} decisions imported, up to position {}",
                v["accepted"],
                text(v, "position")
            )];
            lines.extend(
                list(&v["errors"]).map(|e| format!("refused {}", e.as_str().unwrap_or_default())),
            );
            lines.join("\n")
        });
        if count > 0 {
            bail!("{count} rows were refused");
        }
        Ok(())
    }
}

/// A row as the API takes it.
fn decision(spec: &CheckedSpec, entry: &Entry, now: i64) -> Result<String> {
    let metrics: Map<String, Value> = spec
        .metrics()
        .iter()
        .zip(&entry.values)
        .filter_map(|(m, v)| Some((m.name.clone(), json!((*v)?))))
        .collect();
    let fields = &entry.fields;
    let mut object = json!({
        "context": serde_json::from_str::<Value>(&entry.context)?,
        "action": spec.actions()[entry.action].name,
        "metrics": metrics,
        "at": now,
    });
    if let Some(p) = entry.probability {
        object["probability"] = p.into();
    }
    if let Some(at) = fields.text("at").or_else(|| fields.text("timestamp")) {
        let at = at.trim();
        object["at"] = at.parse::<u64>().map_or_else(|_| json!(at), |ms| json!(ms));
    }
    for id in ["request_id", "targeting_key", "session_id"] {
        if let Some(text) = fields.text(id) {
            object[id] = text.into();
        }
    }
    Ok(object.to_string())
}

/// Sends what has gathered; `from` is the first row of it.
fn send(
    server: &Server,
    path: &str,
    batch: &mut Vec<String>,
    from: usize,
    done: &mut Done,
) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let body = format!("{{\"decisions\":[{}]}}", batch.join(","));
    batch.clear();
    let reply = server
        .post(path, body)
        .with_context(|| format!("rows before {from} are imported, those after it are not"))?;
    done.accepted += reply["accepted"].as_u64().unwrap_or(0);
    done.position = reply["position"].clone();
    for refused in list(&reply["rejected"]) {
        let row = from as u64 + refused["index"].as_u64().unwrap_or(0);
        done.rejected.push(format!("row {row}: {}", text(&refused["error"], "message")));
    }
    Ok(())
}
