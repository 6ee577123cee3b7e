//! Decisions with what came of them, a row each: a log as `pawl simulate` and `pawl import` read it. Decisions that nobody acted on,
//! or after which another action was taken, say nothing of the one that was drawn: they are left out, and counted.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use super::list::{Of, feedback};
use crate::{
    client::{Server, segment},
    commands::{
        model::show,
        rows::{Cells, Format, Writer},
    },
};

/// Columns that a decision has beside its features and metrics.
const OWN: [&str; 10] = [
    "decision_id",
    "at_ms",
    "version",
    "action",
    "probability",
    "outcome",
    "reason",
    "request_id",
    "targeting_key",
    "session_id",
];
/// Decisions of a page.
const PAGE: usize = 1000;

/// What came of one decision: the first value of each metric counts, as it does in learning.
#[derive(Clone, Default)]
struct Came {
    metrics: BTreeMap<String, Value>,
    taken: Option<String>,
    not_used: bool,
}

impl Came {
    /// What came for a decision, by its own id and by the caller's.
    fn of(all: &BTreeMap<String, Self>, decision: &Value) -> Self {
        let found = |key: &str| all.get(decision[key].as_str()?);
        let mut came = found("decision_id").cloned().unwrap_or_default();
        if let Some(more) = found("request_id") {
            came.not_used |= more.not_used;
            came.taken = came.taken.or_else(|| more.taken.clone());
            for (name, value) in &more.metrics {
                came.metrics.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        came
    }
}

/// Writes the file. It takes its name only when it is whole.
pub fn run(server: &Server, of: &Of, out: &Path) -> Result<()> {
    let format = Format::of(out)?;
    let model = server.get(&format!("/v1/models/{}", segment(&of.model)))?;
    if model["kind"] != "policy" {
        bail!("`{}` does not choose: only a policy's decisions are exported", of.model);
    }
    let names = |key: &str| -> Vec<String> {
        model["spec"][key].as_object().into_iter().flat_map(|m| m.keys().cloned()).collect()
    };
    let own = |name: &String| OWN.contains(&name.as_str());
    let (features, metrics) = (names("features"), names("metrics"));
    if let Some(name) = features.iter().chain(&metrics).find(|n| own(n)) {
        bail!(
            "`{name}` is a column of its own in an export: rename that feature or metric in the spec"
        );
    }
    let came = gather(server, of)?;
    let columns = columns(&model["spec"], &features, metrics);
    let half = out.with_extension("half");
    let file =
        File::create(&half).with_context(|| format!("cannot create `{}`", half.display()))?;
    let mut writer = Writer::new(format, BufWriter::new(file), columns)?;
    let (mut rows, mut unused, mut overridden, mut erased) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut cursor = None::<String>;
    loop {
        let page = of.page(server, cursor.as_deref(), PAGE, true)?;
        for decision in &page.decisions {
            let came = Came::of(&came, decision);
            if came.not_used {
                unused += 1;
                continue;
            }
            if came.taken.as_ref().is_some_and(|taken| decision["action"] != taken.as_str()) {
                overridden += 1;
                continue;
            }
            // Of an erased one nothing is left to learn from.
            if decision["erased"] == true {
                erased += 1;
                continue;
            }
            writer.row(row(decision, came))?;
            rows += 1;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    writer.finish()?.flush()?;
    std::fs::rename(&half, out)?;
    let left_out = serde_json::json!({
        "rows": rows, "not_used": unused, "overridden": overridden, "without_context": erased,
    });
    show(server, &left_out, |v| {
        format!(
            "{} decisions; left out are {} nobody acted on, {} overridden, {} without a context",
            v["rows"], v["not_used"], v["overridden"], v["without_context"]
        )
    });
    Ok(())
}

/// The columns of a table, with what they hold.
fn columns(spec: &Value, features: &[String], metrics: Vec<String>) -> Vec<(String, Cells)> {
    let own = OWN.into_iter().map(|name| {
        let cells = match name {
            "at_ms" => Cells::Integer,
            "probability" => Cells::Number,
            _ => Cells::Text,
        };
        (name.to_owned(), cells)
    });
    let of_context = features.iter().map(|name| {
        let cells = match spec["features"][name.as_str()]["type"].as_str() {
            Some("number") => Cells::Number,
            Some("boolean") => Cells::Boolean,
            _ => Cells::Text,
        };
        (name.clone(), cells)
    });
    own.chain(of_context).chain(metrics.into_iter().map(|name| (name, Cells::Number))).collect()
}

/// What came, by decision id or the caller's own.
fn gather(server: &Server, of: &Of) -> Result<BTreeMap<String, Came>> {
    let mut all: BTreeMap<String, Came> = BTreeMap::new();
    feedback(server, of, |f| {
        let Some(id) = f["decision_id"].as_str().or_else(|| f["request_id"].as_str()) else {
            return;
        };
        let came = all.entry(id.to_owned()).or_default();
        came.not_used |= f["not_used"] == true;
        if let Some(taken) = f["action_taken"].as_str() {
            came.taken.get_or_insert_with(|| taken.to_owned());
        }
        for (name, value) in f["metrics"].as_object().into_iter().flatten() {
            came.metrics.entry(name.clone()).or_insert_with(|| value.clone());
        }
    })?;
    Ok(all)
}

/// A row: what was decided, and what came of it. What the log keeps as slots only is no value: it is left out.
fn row(decision: &Value, came: Came) -> Map<String, Value> {
    let mut row = Map::new();
    for key in OWN.into_iter().filter(|key| !decision[*key].is_null()) {
        row.insert(key.to_owned(), decision[key].clone());
    }
    let context = decision["context"].as_object().cloned().unwrap_or_default();
    row.extend(context.into_iter().filter(|(_, value)| !value.is_object()));
    row.extend(came.metrics);
    // What was told with the decision came first.
    row.extend(decision["reported_metrics"].as_object().cloned().unwrap_or_default());
    row
}
