//! `pawl status`: how a policy stands, on one screen.

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::Value;

use super::{
    lever,
    model::{list, show, text},
};
use crate::client::{Server, segment};

/// Options of `pawl status`.
#[derive(Args, Debug)]
pub struct Status {
    /// The model
    model: String,
}

impl Status {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let reply = server.get(&format!("/v1/models/{}", segment(&self.model)))?;
        if reply["kind"] != "policy" && !server.json {
            bail!("`{0}` does not choose: see `pawl learner status {0}`", self.model);
        }
        show(server, &reply, words);
        Ok(())
    }
}

fn words(v: &Value) -> String {
    let mut lines = vec![format!("`{}` {} in production", text(v, "name"), text(v, "production"))];
    lines.push(lever::stand(&v["levers"]));
    let feedback = &v["feedback"];
    lines.push(format!(
        "  {} decisions, {} values learned, {} missing at their deadline, {} late",
        feedback["decisions"], feedback["learned"], feedback["missing"], feedback["late"]
    ));
    if !v["supply"]["stopped_since_ms"].is_null() {
        lines.push(format!("  feedback has stopped; {} pieces wait", v["supply"]["held"]));
    }
    for (metric, f) in v["floors"].as_object().into_iter().flatten() {
        let share = 100.0 * f["share"].as_f64().unwrap_or_default();
        let certain = f["certain_sum"].as_f64().unwrap_or_default();
        let since = f["since_ms"].as_u64().filter(|ms| *ms > 0);
        let since = since.map(|ms| format!(" since {ms}")).unwrap_or_default();
        let how = if certain > 0.0 {
            format!("certainly {certain:.1} above it")
        } else {
            format!("{:.1} short of certain", -certain)
        };
        lines.push(format!(
            "  floor {} of {metric} of `{}`: {}{since}, {} values, {how}, {share:.0} % of traffic",
            f["part"],
            text(f, "incumbent"),
            text(f, "state"),
            f["values"]
        ));
    }
    lines.push(actions(v).to_string());
    for alert in list(&v["alerts"]) {
        lines.push(format!("{}: {}", text(alert, "position"), text(alert, "text")));
    }
    let last = &v["last_change"];
    if !last.is_null() {
        let who = last["principal"].as_str().unwrap_or("nobody in particular");
        let why = last["why"].as_str().map(|w| format!(": {w}")).unwrap_or_default();
        lines.push(format!("last change: {} by {who}{why}", text(last, "action")));
    }
    lines.join("\n")
}

/// A row an action; a metric is mean ± half-width of its 95 % interval, and how many values it is of.
fn actions(v: &Value) -> Table {
    let metrics: Vec<&String> =
        v["spec"]["metrics"].as_object().into_iter().flat_map(|m| m.keys()).collect();
    let total = v["feedback"]["decisions"].as_f64().unwrap_or(0.0).max(1.0);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let heads = ["action", "share", "decisions", "not by policy", "overridden", "missing"];
    let heads = heads.into_iter().map(str::to_owned);
    table.set_header(heads.chain(metrics.iter().map(|m| (*m).clone())));
    for (name, a) in v["actions"].as_object().into_iter().flatten() {
        let decisions = a["decisions"].as_f64().unwrap_or_default();
        let mut row = vec![name.clone(), format!("{:.1} %", 100.0 * decisions / total)];
        row.extend(["decisions", "not_by_policy", "overridden", "missing"].map(|k| text(a, k)));
        for metric in &metrics {
            let m = &a["metrics"][metric.as_str()];
            row.push(match (m["mean"].as_f64(), m["interval"].as_f64()) {
                (Some(mean), Some(half)) => format!("{mean:.4} ± {half:.4} ({})", m["n"]),
                (Some(mean), None) => format!("{mean:.4} (1)"),
                _ => "–".to_owned(),
            });
        }
        table.add_row(row);
    }
    table
}
