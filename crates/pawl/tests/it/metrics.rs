//! The names, types and labels of metrics are a contract.

use std::{collections::BTreeMap, path::Path};

use serde_json::json;

use crate::process::Server;

const SPEC: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["big", "small"]
[features]
n = { type = "number" }
[metrics]
quality = { bounds = [0, 1] }
cost = { goal = "min", explore = false }
[objective]
incumbent = "big"
minimize = "cost"
keep = { quality = 0.9 }
[learner]
algorithm = "linear_thompson"
"#;

/// Name to type and labels, as `docs/metrics.md` says.
fn documented() -> BTreeMap<String, (String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let rows = text.lines().filter(|l| l.starts_with("| `pawl_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), cells[3].to_owned()))
    })
    .collect()
}

#[test]
fn what_is_scraped_is_what_is_documented_and_what_alerts_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let spec = dir.path().join("router.toml");
    std::fs::write(&spec, SPEC).unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    assert!(server.command(&["model", "create", spec.to_str().unwrap()]).status.success());
    let churn = r#"{"schema":1,"name":"churn","kind":"classifier","label":{"classes":["a","b"]},
        "features":{"n":{"type":"number"}},"learner":{"algorithm":"sgd"}}"#;
    server.ok("/v1/models", churn);
    for k in 0..50 {
        let body = json!({"context": {"n": k}}).to_string();
        let id = server.ok("/v1/models/router/decide", &body)["decision_id"].clone();
        let body = json!({"decision_id": id, "metrics": {"quality": k % 2, "cost": 0.1}});
        server.ok("/v1/feedback", &body.to_string());
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let text = loop {
        let text = server.get("/metrics").text().unwrap();
        if text.contains("pawl_decisions_total{model=\"router\"} 50") {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
    };
    let documented = documented();
    let mut scraped = BTreeMap::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        let sample = text.lines().find(|l| {
            l.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        let labels = sample.and_then(|s| s.split_once('{')?.1.split_once('}')).map_or("", |l| l.0);
        let mut names: Vec<&str> =
            labels.split("\",").filter_map(|l| Some(l.split_once('=')?.0)).collect();
        names.sort_unstable();
        scraped.insert(name, (kind.to_owned(), names.join(", ")));
    }
    let sorted = |labels: &str| {
        let mut names: Vec<&str> = labels.split(", ").filter(|l| !l.is_empty()).collect();
        names.sort_unstable();
        names.join(", ")
    };
    let expected: BTreeMap<String, (String, String)> =
        documented.iter().map(|(n, (k, l))| (n.clone(), (k.clone(), sorted(l)))).collect();
    assert_eq!(scraped, expected);

    // Alerts and dashboard name nothing that does not exist.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops");
    for file in ["alerts.yml", "grafana.json"] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let mut found = 0;
        for (at, _) in text.match_indices("pawl_") {
            let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &text[at..at + end.unwrap_or(text.len() - at)];
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let known = documented.contains_key(base.unwrap_or(name));
            assert!(known || name == "pawl_", "{file} asks for `{name}`");
            found += 1;
        }
        assert!(found > 5, "{file}");
    }
}
