//! Decisions listed, followed and exported, and an export judged as a log.

use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};

use crate::process::{Server, pawl};

const SPEC: &str = "schema = 1\nname = \"m\"\nkind = \"policy\"\nactions = [\"a\", \"b\"]\n[features]\n\
                    region = { type = \"category\" }\nsize = { type = \"number\" }\nnew = { type = \"boolean\" }\n\
                    [metrics]\nquality = { bounds = [0, 1] }\n[learner]\nalgorithm = \"uniform\"\n";

fn run(server: &Server, arguments: &[&str]) -> String {
    let output = server.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A hundred decisions: of `a` comes quality 1, of `b` 0; every tenth is taken back, every seventh was overridden by `b`.
fn traffic(server: &Server) -> Vec<Value> {
    let mut made = Vec::new();
    for i in 0..100 {
        let mut body = json!({
            "context": {"region": if i % 2 == 0 { "eu" } else { "us, \"east\"" }, "size": i, "new": i % 3 == 0},
            "targeting_key": format!("user-{}", i % 5), "session_id": format!("s{}", i % 20),
        });
        if i % 4 == 0 {
            body["request_id"] = json!(format!("r{i}"));
        }
        let decision = server.ok("/v1/models/m/decide", &body.to_string());
        let mut feedback = json!({"decision_id": decision["decision_id"]});
        if i % 10 == 9 {
            feedback["not_used"] = json!(true);
        } else {
            let taken = if i % 7 == 0 { "b" } else { decision["action"].as_str().unwrap() };
            feedback["metrics"] = json!({"quality": u8::from(taken == "a")});
            feedback["action_taken"] = json!(taken);
        }
        if i % 4 == 0 {
            feedback = json!({"model": "m", "request_id": body["request_id"], "metrics": feedback["metrics"],
                "action_taken": feedback["action_taken"]});
        }
        server.ok("/v1/feedback", &feedback.to_string());
        made.push(decision);
    }
    made
}

#[test]
fn an_export_is_a_log_that_simulate_judges() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let spec = dir.path().join("m.toml");
    std::fs::write(&spec, SPEC).unwrap();
    run(&server, &["model", "create", spec.to_str().unwrap()]);
    let made = traffic(&server);
    let overridden = made.iter().enumerate();
    let overridden =
        overridden.filter(|(i, d)| i % 7 == 0 && i % 10 != 9 && d["action"] == "a").count();
    let mut judged = Vec::new();
    for name in ["log.jsonl", "log.csv.gz", "log.parquet"] {
        let file = dir.path().join(name);
        if name.ends_with("parquet") && !cfg!(feature = "parquet") {
            continue;
        }
        let said = run(&server, &["decision", "export", "m", "--out", file.to_str().unwrap()]);
        let expected = format!(
            "{} decisions; left out are 10 nobody acted on, {overridden} overridden",
            90 - overridden
        );
        assert!(said.contains(&expected), "{said}");
        let output = pawl()
            .args(["simulate", spec.to_str().unwrap(), "--data", file.to_str().unwrap(), "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        judged.push(String::from_utf8(output.stdout).unwrap());
    }
    assert!(judged.iter().all(|j| *j == judged[0]), "{judged:?}");
    let text = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let fits = |r: &Value| r["quality"].as_f64() == Some(f64::from(u8::from(r["action"] == "a")));
    assert!(rows.iter().all(fits), "{text}");
    assert!(rows.iter().all(|r| r["probability"] == json!(0.5)));
}

#[test]
fn decisions_are_listed_by_what_they_say_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let spec = dir.path().join("m.toml");
    std::fs::write(&spec, SPEC).unwrap();
    run(&server, &["model", "create", spec.to_str().unwrap()]);
    let mut tail = server.follow(&["decision", "tail", "m", "--action", "a"]);
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // It follows from when it asked where the log ends; until then nothing is decided.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let made = traffic(&server);
    let of_a: Vec<&str> = made
        .iter()
        .filter(|d| d["action"] == "a")
        .map(|d| d["decision_id"].as_str().unwrap())
        .collect();
    for id in &of_a {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains(id) && line.contains("a 0.5000"), "{line}");
    }
    tail.kill().unwrap();
    tail.wait().unwrap();

    let count = |more: &[&str]| {
        let arguments = [&["decision", "list", "m", "--limit", "1000"], more].concat();
        run(&server, &arguments).lines().count()
    };
    assert_eq!(count(&[]), 100);
    assert_eq!(count(&["--action", "a"]), of_a.len());
    assert_eq!(count(&["--targeting-key", "user-3"]), 20);
    assert_eq!(count(&["--session", "s7"]), 5);
    assert_eq!(count(&["--outcome", "sticky"]), 0);
    assert_eq!((count(&["--since", "1h"]), count(&["--until", "1h"])), (100, 0));
    assert_eq!(run(&server, &["decision", "list", "m", "--limit", "7"]).lines().count(), 7);
    for (option, value, expected) in [
        ("--since", "soon", "RFC 3339"),
        ("--action", "aa", "did you mean `a`?"),
        ("--outcome", "okay", "ok, fallback, sticky or elsewhere"),
    ] {
        let refused = server.command(&["decision", "list", "m", option, value]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(expected), "{told}");
    }
}
