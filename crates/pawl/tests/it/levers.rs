//! Levers of a running policy, pulled under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::process::Server;

const DECIDE: &str = "/v1/models/router/decide";

fn pawl(server: &Server, arguments: &[&str]) -> String {
    let output = server.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn pull(server: &Server, body: &Value) {
    server.ok("/v1/models/router/levers", &body.to_string());
}

/// What the next decision says of how things stand.
fn stands(server: &Server) -> (Vec<String>, Value) {
    let decision = server.ok(DECIDE, r#"{"context": {}}"#);
    let id = decision["decision_id"].as_str().unwrap();
    let shown = server.json(&format!("/v1/decisions/{id}"));
    let eligible = shown["probabilities"].as_object().unwrap().keys().cloned().collect();
    (eligible, decision["reason"].clone())
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Each change is in force for the first decision after its reply, no request is lost meanwhile, every change is in the
/// audit trail, and after kill -9 things stand as they stood.
#[test]
fn a_hundred_changes_under_load_are_in_force_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    server.create_router();
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (server, stop, answered) = (&server, &stop, &answered);
        let ended = Stop(stop);
        for _ in 0..2 {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let decision = server.ok(DECIDE, r#"{"context": {"prompt_tokens": 5}}"#);
                    let body =
                        json!({"decision_id": decision["decision_id"], "metrics": {"quality": 1}});
                    server.ok("/v1/feedback", &body.to_string());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for k in 0..25 {
            let action = if k % 2 == 0 { "big" } else { "small" };
            let other = if k % 2 == 0 { "small" } else { "big" };
            let before = answered.load(Ordering::Relaxed);
            pull(server, &json!({"lever": "disable", "action": action, "reason": "test"}));
            assert_eq!(stands(server).0, [other]);
            pull(server, &json!({"lever": "enable", "action": action}));
            assert_eq!(stands(server).0.len(), 2);
            pull(server, &json!({"lever": "pin", "action": other}));
            assert_eq!(stands(server).1, "pinned");
            pull(server, &json!({"lever": "unpin"}));
            assert_eq!(stands(server).1, Value::Null);
            // The load goes on beside the changes.
            while answered.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
        }
        drop(ended);
    });
    pull(&server, &json!({"lever": "disable", "action": "small", "for": "1h"}));
    pull(&server, &json!({"lever": "explore", "on": false}));
    let levers = server.json("/v1/models/router")["levers"].clone();
    let changes = server.json("/v1/changes")["changes"].as_array().unwrap().clone();
    // Looking at a decision is in the trail too, and is no change.
    let changes: Vec<_> = changes.iter().filter(|c| c["action"] != "context.read").collect();
    assert_eq!(changes.len(), 103);
    assert_eq!(changes[1]["why"], "test");
    server.kill();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.json("/v1/models/router")["levers"], levers);
    assert_eq!(stands(&server).0, ["big"]);
    assert_eq!(server.json("/v1/models/router")["production"], "1.0.0", "no version was made");
}

#[test]
fn an_operator_sees_and_says_it_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.create_router();
    let said = pawl(&server, &["action", "disable", "router", "small", "--reason", "it fails"]);
    assert!(said.contains("action.disable of `router`\n  `small` is disabled: it fails"), "{said}");
    let output = server.command(&["action", "disable", "router", "big"]);
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(refused.contains("`big` is the last one that can be chosen"), "{refused}");
    let refused = server.refused(DECIDE, r#"{"context": {}, "actions": ["small"]}"#);
    assert_eq!((refused.0, refused.1.as_str()), (422, "no_eligible_action"));
    assert!(refused.2.contains("`small` is disabled"), "{}", refused.2);
    pawl(&server, &["action", "enable", "router", "small"]);
    // What holds for a time ends by itself.
    pawl(&server, &["pin", "router", "--action", "small", "--for", "300ms"]);
    assert_eq!(stands(&server).1, "pinned");
    let ended = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        stands(&server).1 == Value::Null
    });
    assert!(ended, "the pin has no end");
    pawl(&server, &["explore", "off", "router"]);
    pawl(&server, &["pin", "router", "--action", "big"]);
    for k in 0..20 {
        let id = server.ok(DECIDE, r#"{"context": {}}"#)["decision_id"].clone();
        let body = json!({"decision_id": id, "metrics": {"quality": k % 2, "cost_usd": 0.5}});
        server.ok("/v1/feedback", &body.to_string());
    }
    let learned = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        server.json("/v1/models/router")["feedback"]["learned"] == 40
    });
    assert!(learned);
    let status = pawl(&server, &["status", "router"]);
    assert!(status.contains("`big` is pinned") && status.contains("does not explore"), "{status}");
    // 20 values of 0 and 1, half each: mean ½, sample variance 20/19 · ¼, half-width 1.96 · √(.2632/20) = .2248.
    assert!(status.contains("0.5000 ± 0.2248 (20") && status.contains("policy.pin"), "{status}");
    for (body, field) in [
        (json!({"lever": "ramp", "share": 0.5, "on": true}), "`on`"),
        (json!({"lever": "ramp", "share": 1.5}), "`share`"),
        (json!({"lever": "pin"}), "`action`"),
        (json!({"lever": "pin", "action": "bigg"}), "did you mean `big`?"),
        (json!({"lever": "explore"}), "`on`"),
    ] {
        let refused = server.refused("/v1/models/router/levers", &body.to_string());
        assert!(refused.0 == 422 && refused.2.contains(field), "{body}: {}", refused.2);
    }
}

/// A rule may look at what the log does not keep: the explanation takes what was eligible from the record.
#[test]
fn a_decision_under_a_rule_on_a_dropped_feature_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let spec = json!({
        "schema": 1, "name": "m", "kind": "policy", "actions": ["a", "b", "c"],
        "features": {"country": {"type": "category", "log": "drop"}},
        "rules": [{"when": {"country": "US"}, "deny": ["a"]}],
        "metrics": {"q": {"bounds": [0, 1]}}, "learner": {"algorithm": "linear_thompson"},
    });
    server.ok("/v1/models", &spec.to_string());
    for (country, eligible) in [("DE", 3), ("US", 2)] {
        let body = json!({"context": {"country": country}}).to_string();
        let id = server.ok("/v1/models/m/decide", &body)["decision_id"].clone();
        let explained = server.json(&format!("/v1/decisions/{}/explain", id.as_str().unwrap()));
        assert_eq!(explained["explanation"]["recomputed_equal"], true, "{explained}");
        assert_eq!(explained["probabilities"].as_object().unwrap().len(), eligible);
    }
}

/// However many operators disable at once, one action is left.
#[test]
fn the_last_action_stays_under_a_race() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.create_router();
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for action in ["big", "small"] {
            let (server, done) = (&server, &done);
            scope.spawn(move || {
                let body = json!({"lever": "disable", "action": action}).to_string();
                let ok = server.post("/v1/models/router/levers", &body).status().is_success();
                done.fetch_add(u64::from(ok), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(done.load(Ordering::Relaxed), 1);
    assert_eq!(stands(&server).0.len(), 1);
}

/// Until the floor is certain the incumbent decides, and the record and the status say so.
#[test]
fn a_floor_holds_until_it_is_certain() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let spec = json!({
        "schema": 1, "name": "m", "kind": "policy", "actions": ["big", "small"],
        "metrics": {"quality": {"bounds": [0, 1]}, "cost": {"goal": "min", "explore": false}},
        "objective": {"incumbent": "big", "minimize": "cost", "keep": {"quality": 0.5}},
        "learner": {"algorithm": "linear_thompson"},
    });
    server.ok("/v1/models", &spec.to_string());
    let requests = vec![json!({"context": {}}); 100];
    let (mut first, mut small) = (Value::Null, 0);
    for round in 0..8 {
        let body = json!({"requests": requests}).to_string();
        let reply = server.ok("/v1/models/m/decide/batch", &body);
        let decisions = reply["decisions"].as_array().unwrap();
        if round == 0 {
            first = decisions[0].clone();
            let floor = server.json("/v1/models/m")["floors"]["quality"].clone();
            assert_eq!((&floor["state"], &floor["incumbent"]), (&json!("holding"), &json!("big")));
        }
        small += decisions.iter().filter(|d| d["action"] == "small").count();
        let cost = |d: &Value| if d["action"] == "big" { 1.0 } else { 0.1 };
        let event = |d: &Value| json!({"decision_id": d["decision_id"], "metrics": {"quality": 0.9, "cost": cost(d)}});
        let events: Vec<Value> = decisions.iter().map(event).collect();
        server.ok("/v1/feedback", &json!({"events": events}).to_string());
        let folded = (0..400).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            server.json("/v1/models/m")["feedback"]["learned"] == 200 * (round + 1)
        });
        assert!(folded);
    }
    assert_eq!((&first["action"], &first["probability"]), (&json!("big"), &json!(1.0)));
    assert!(["floor", "holdback"].contains(&first["reason"].as_str().unwrap()), "{first}");
    assert!(small > 50, "both are as good, and half may be lost: {small}");
    let status = pawl(&server, &["status", "m"]);
    assert!(status.contains("floor 0.5 of quality of `big`: released since"), "{status}");
}
