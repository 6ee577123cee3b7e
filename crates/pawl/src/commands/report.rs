//! `pawl report`: what a policy spent, saved and kept over a time, as text or as one page.

mod page;
mod plot;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use super::model::{list, show, text};
use crate::client::{Server, segment};

/// Options of `pawl report`.
#[derive(Args, Debug)]
pub struct Report {
    /// The model
    model: String,
    /// From when: a duration before now such as 7d, milliseconds since 1970, or RFC 3339
    #[arg(long, default_value = "7d")]
    since: String,
    /// Write it as one HTML page that needs nothing else and prints
    #[arg(long, short)]
    output: Option<PathBuf>,
}

impl Report {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let (model, since) = (segment(&self.model), segment(&self.since));
        let reply = server.get(&format!("/v1/models/{model}/report?since={since}"))?;
        if let Some(path) = &self.output {
            let shown = path.display();
            std::fs::write(path, page::html(&reply))
                .with_context(|| format!("cannot write `{shown}`"))?;
            if !server.json {
                say!("{}\nwritten to {shown}", words(&reply));
                return Ok(());
            }
        }
        show(server, &reply, words);
        Ok(())
    }
}

/// A time in UTC.
pub fn time(ms: &Value) -> String {
    let ms = ms.as_i64().unwrap_or_default();
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| ms.to_string(), |t| t.strftime("%Y-%m-%d %H:%M").to_string())
}

/// A number with four significant digits.
fn short(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return format!("{x}");
    }
    let digits = (3 - x.abs().log10().floor() as i32).clamp(0, 12) as usize;
    format!("{x:.digits$}")
}

/// A part of one as percent.
fn percent(x: f64) -> String {
    format!("{:.1} %", 100.0 * x)
}

/// Value and interval of an estimate of the server.
fn estimate(v: &Value) -> Option<(f64, [f64; 2])> {
    let [low, high] = [&v["interval"][0], &v["interval"][1]].map(Value::as_f64);
    Some((v["value"].as_f64()?, [low?, high?]))
}

/// What a metric says of saving, where it is a cost, or of what was kept: a name, the value and its interval.
fn verdict(goal: &Value, metric: &Value) -> Option<(&'static str, f64, [f64; 2])> {
    let (value, [low, high]) = estimate(&metric["relative"])?;
    Some(match goal["goal"].as_str() {
        Some("min") => ("saved", 1.0 - value, [1.0 - high, 1.0 - low]),
        _ => ("kept", value, [low, high]),
    })
}

/// The metrics of a report with their goals; those that nothing was measured of have no fields.
fn metrics(v: &Value) -> impl Iterator<Item = (&String, &Value, &Value)> {
    let goals = v["goals"].as_object().into_iter().flatten();
    goals.map(|(name, goal)| (name, goal, &v["metrics"][name.as_str()]))
}

/// The share of decisions whose value of a metric has not come.
fn without(v: &Value, metric: &Value) -> f64 {
    let decisions = v["decisions"].as_f64().unwrap_or_default().max(1.0);
    (1.0 - metric["n"].as_f64().unwrap_or_default() / decisions).max(0.0)
}

/// Why there is no comparison.
fn no_evidence(v: &Value, metric: &Value) -> String {
    if v["incumbent"].is_null() {
        return "no comparison: the spec names no incumbent".to_owned();
    }
    if metric["enough"] == true {
        return "no ratio: the incumbent's mean is not above 0".to_owned();
    }
    let n = metric["incumbents"].as_u64().unwrap_or_default();
    format!("not enough evidence yet: {n} values of the incumbent; holdback and traffic bring more")
}

fn words(v: &Value) -> String {
    let mut lines = vec![
        format!(
            "`{}` {} from {} to {} UTC",
            text(v, "name"),
            text(v, "production"),
            time(&v["from_ms"]),
            time(&v["to_ms"])
        ),
        format!("  {} decisions, against `{}`", v["decisions"], text(v, "incumbent")),
    ];
    for (action, n) in v["by_action"].as_object().into_iter().flatten() {
        let share = n.as_f64().unwrap_or_default() / v["decisions"].as_f64().unwrap_or(1.0);
        lines.push(format!("  {action:32} {}", percent(share)));
    }
    for (name, goal, metric) in metrics(v) {
        let (n, sum) = (metric["n"].as_f64().unwrap_or(0.0), metric["sum"].as_f64().unwrap_or(0.0));
        let missing = percent(without(v, metric));
        lines.push(format!("{name}: sum {}, {n} values, {missing} without", short(sum)));
        if let (Some(served), Some(incumbent)) =
            (estimate(&metric["served"]), estimate(&metric["incumbent"]))
        {
            lines.push(format!(
                "  of the {} compared: {} a decision; the incumbent would have given {} ({} to {}, of {} values)",
                metric["compared"],
                short(served.0),
                short(incumbent.0),
                short(incumbent.1[0]),
                short(incumbent.1[1]),
                metric["incumbents"]
            ));
        }
        lines.push(match verdict(goal, metric) {
            Some((what, value, [low, high])) => {
                format!("  {what} {} ({} to {})", percent(value), percent(low), percent(high))
            }
            None => format!("  {}", no_evidence(v, metric)),
        });
    }
    for change in list(&v["changes"]) {
        let who = change["principal"].as_str().unwrap_or("nobody in particular");
        let why = change["why"].as_str().map(|w| format!(": {w}")).unwrap_or_default();
        lines.push(format!("{} {} by {who}{why}", time(&change["at_ms"]), text(change, "action")));
    }
    lines.join("\n")
}
