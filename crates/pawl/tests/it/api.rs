//! The API as a client meets it.

use serde_json::{Value, json};

use crate::process::Server;

const DECIDE: &str = "/v1/models/router/decide";
const FEEDBACK: &str = "/v1/feedback";

fn started() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.create_router();
    (dir, server)
}

fn offset(reply: &Value) -> u64 {
    reply["position"].as_str().unwrap().strip_prefix("0.").unwrap().parse().unwrap()
}

#[test]
fn a_decision_is_answered_learned_from_and_explained() {
    let (_dir, server) = started();
    let decision =
        server.ok(DECIDE, r#"{"context": {"task": "code", "prompt_tokens": 300, "other": [1]}}"#);
    let probability = decision["probability"].as_f64().unwrap();
    assert!(probability > 0.0 && probability <= 1.0);
    assert_eq!((&decision["version"], &decision["outcome"]), (&json!("1.0.0"), &json!("ok")));
    if decision["action"] == "big" {
        assert_eq!(decision["payload"], json!({"model": "azure/big"}));
    }
    let id = decision["decision_id"].as_str().unwrap();
    let body = json!({"decision_id": id, "metrics": {"quality": 1, "cost_usd": 0.01}});
    let reply = server.ok("/v1/feedback", &body.to_string());
    assert_eq!(reply["accepted"], 1);
    // The next decisions have learned from it: their position says so.
    let fresh = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        offset(&server.ok(DECIDE, r#"{"context": {}, "dry_run": true}"#)) >= offset(&reply)
    });
    assert!(fresh);
    let shown = server.json(&format!("/v1/decisions/{id}"));
    assert_eq!(shown["context"], json!({"task": "code", "prompt_tokens": 300}));
    assert_eq!(shown["feedback"][0]["metrics"], json!({"quality": 1.0, "cost_usd": 0.01}));
    let explained = server.json(&format!("/v1/decisions/{id}/explain"));
    assert_eq!(explained["explanation"]["recomputed_equal"], true);
    let listed = server.json("/v1/models/router/decisions?limit=10");
    assert_eq!(listed["decisions"][0]["decision_id"], id);
    let model = server.json("/v1/models/router");
    assert_eq!(model["learners"][0]["examples"], 2);
    assert_eq!(model["feedback"]["learned"], 2);
}

#[test]
fn explanations_are_exact_after_learning_a_restart_and_a_new_version() {
    let (dir, server) = started();
    let mut ids = Vec::new();
    for i in 0..200 {
        let context = json!({"context": {"task": if i % 2 == 0 { "code" } else { "chat" }, "prompt_tokens": i}});
        let id =
            server.ok(DECIDE, &context.to_string())["decision_id"].as_str().unwrap().to_owned();
        let body = json!({"decision_id": id, "metrics": {"quality": i % 3 / 2, "cost_usd": 0.001}});
        server.ok("/v1/feedback", &body.to_string());
        ids.push(id);
    }
    server.ok("/v1/checkpoints", "");
    let spec = server.json("/v1/models/router")["spec"].to_string();
    let changed = server.ok("/v1/models/router/versions", &spec.replace("-10.0", "-20.0"));
    assert_eq!(
        (&changed["version"], &changed["differences"][0]["bump"]),
        (&json!("1.0.1"), &json!("patch"))
    );
    let (status, code, _) =
        server.refused("/v1/models/router/versions", &spec.replace("-10.0", "-20.0"));
    assert_eq!((status, code.as_str()), (409, "unchanged"));
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.ok(DECIDE, r#"{"context": {}}"#)["version"], "1.0.1");
    for id in [&ids[0], &ids[120], &ids[199]] {
        let explained = server.json(&format!("/v1/decisions/{id}/explain"));
        assert_eq!(explained["explanation"]["recomputed_equal"], true, "{explained}");
        assert_eq!(explained["version"], "1.0.0");
    }
}

/// Path, body, status, code, and a part of the detail.
type Case<'a> = (&'a str, &'a str, u16, &'a str, &'a str);

const REFUSED: [Case<'static>; 12] = [
    (DECIDE, r#"{"contxt": {}}"#, 422, "invalid_request", "did you mean `context`?"),
    (DECIDE, r#"{"context": 5}"#, 422, "invalid_context", "must be a JSON object"),
    (DECIDE, "{", 400, "invalid_json", "EOF"),
    (
        DECIDE,
        r#"{"context": {}, "actions": ["bigg"]}"#,
        422,
        "invalid_request",
        "did you mean `big`?",
    ),
    (DECIDE, r#"{"context": {}, "actions": []}"#, 422, "no_eligible_action", "`actions`"),
    (
        DECIDE,
        r#"{"context": {"prompt_tokens": 5000}, "actions": ["small"]}"#,
        422,
        "no_eligible_action",
        "max",
    ),
    (DECIDE, r#"{"context": {}, "metadata": {"a": [1]}}"#, 422, "invalid_request", "flat"),
    ("/v1/models/ruter/decide", r#"{"context": {}}"#, 404, "model_not_found", "`ruter`"),
    ("/v1/models/router@2.0.0/decide", r#"{"context": {}}"#, 404, "reference_not_found", "1.0.0"),
    (
        FEEDBACK,
        r#"{"decision_id": "zz", "metrics": {"quality": 1}}"#,
        422,
        "invalid_request",
        "decision id",
    ),
    (
        FEEDBACK,
        r#"{"decision_id": "1-0-0-0", "metrics": {"quality": 1}}"#,
        404,
        "decision_not_found",
        "1-0-0-",
    ),
    ("/v1/nothing", "", 404, "not_found", "/v1/nothing"),
];

fn check_refused(server: &Server, (path, body, status, code, detail): Case<'_>) {
    let refused = server.refused(path, body);
    assert_eq!((refused.0, refused.1.as_str()), (status, code), "{path} {body}: {}", refused.2);
    assert!(refused.2.contains(detail), "{path} {body}: {}", refused.2);
}

#[test]
fn bad_input_names_the_field_the_value_and_the_remedy() {
    let (_dir, server) = started();
    REFUSED.into_iter().for_each(|case| check_refused(&server, case));
    let long = format!(r#"{{"context": {{}}, "request_id": "{}"}}"#, "x".repeat(300));
    check_refused(&server, (DECIDE, &long, 422, "invalid_request", "`request_id`"));
    let id = server.ok(DECIDE, r#"{"context": {}}"#)["decision_id"].clone();
    for (rest, detail) in [
        (json!({"metrics": {"qualty": 1}}), "did you mean `quality`?"),
        (json!({"metrics": {"quality": 1.5}}), "1.5 is outside its bounds, 0 to 1"),
        (json!({}), "at least one metric"),
        (json!({"label": 1}), "is a policy"),
        (json!({"model": "router", "request_id": "r", "metrics": {"quality": 1}}), "not both"),
        (json!({"metrics": {"quality": 1}, "at": "yesterday"}), "RFC 3339"),
    ] {
        let mut body = rest;
        body["decision_id"] = id.clone();
        check_refused(&server, (FEEDBACK, &body.to_string(), 422, "invalid_request", detail));
    }
    assert_eq!(server.refused("/v1/feedback?dry_run=true", "{}").0, 422);
    assert_eq!(server.get(DECIDE).status().as_u16(), 405);
    let big = format!(r#"{{"context": {{"task": "{}"}}}}"#, "x".repeat(2 << 20));
    assert_eq!(server.refused(DECIDE, &big).1, "body_too_large");
    assert_eq!(server.json("/v1/models/router")["feedback"]["learned"], 0);
}

#[test]
fn the_same_request_id_answers_the_same_decision() {
    let (dir, mut server) = started();
    let body = r#"{"context": {"task": "code"}, "request_id": "r1"}"#;
    let first = server.ok(DECIDE, body);
    assert_eq!(server.ok(DECIDE, body), first);
    let other = r#"{"context": {"task": "chat"}, "request_id": "r1"}"#;
    assert_eq!(server.refused(DECIDE, other).1, "request_id_reused");
    server.kill();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.ok(DECIDE, body), first, "also after a kill");
    let feedback = r#"{"model": "router", "request_id": "r1", "metrics": {"quality": 1}}"#;
    server.ok("/v1/feedback", feedback);
    server.ok("/v1/feedback", feedback);
    let id = first["decision_id"].as_str().unwrap();
    let shown = server.json(&format!("/v1/decisions/{id}"));
    assert_eq!(shown["feedback"].as_array().unwrap().len(), 2);
    let settled = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let tally = &server.json("/v1/models/router")["feedback"];
        tally["learned"] == 1 && tally["duplicate"] == 1
    });
    assert!(settled);
}

#[test]
fn batches_answer_item_by_item() {
    let (_dir, server) = started();
    let body =
        r#"{"requests": [{"context": {}}, {"context": 1}, {"context": {}, "actions": ["small"]}]}"#;
    let reply = server.ok("/v1/models/router/decide/batch", body);
    let decisions = reply["decisions"].as_array().unwrap();
    assert!(decisions[0]["decision_id"].is_string());
    assert_eq!(decisions[1]["error"]["code"], "invalid_context");
    assert_eq!(
        (&decisions[2]["action"], &decisions[2]["probability"]),
        (&json!("small"), &json!(1.0))
    );
    let ids = [&decisions[0]["decision_id"], &decisions[2]["decision_id"]];
    let events = json!({"events": [
        {"decision_id": ids[0], "metrics": {"quality": 1}},
        {"decision_id": ids[0], "metrics": {"quality": 7}},
        {"decision_id": ids[1], "not_used": true},
    ]});
    let reply = server.ok("/v1/feedback", &events.to_string());
    assert_eq!((&reply["accepted"], &reply["rejected"][0]["index"]), (&json!(2), &json!(1)));
    let reported = json!({"decisions": [
        {"context": {"task": "code"}, "action": "big", "probability": 0.9, "at": "2026-01-01T00:00:00Z", "metrics": {"quality": 1}},
        {"context": {}, "action": "huge", "at": 5},
    ]});
    let reply = server.ok("/v1/models/router/decisions", &reported.to_string());
    assert_eq!((&reply["accepted"], &reply["rejected"][0]["index"]), (&json!(1), &json!(1)));
    let id = reply["decision_ids"][0].as_str().unwrap();
    let shown = server.json(&format!("/v1/decisions/{id}"));
    assert_eq!((&shown["outcome"], &shown["probability"]), (&json!("elsewhere"), &json!(0.9)));
}

#[test]
fn limits_answer_instead_of_queueing() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pawl.toml");
    std::fs::write(&config, "[limits]\nbatch = 2\nbody_bytes = 2000\nin_flight = 1\n").unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--config", config.to_str().unwrap()]);
    server.create_router();
    let three = r#"{"requests": [{"context": {}}, {"context": {}}, {"context": {}}]}"#;
    let refused = server.refused("/v1/models/router/decide/batch", three);
    assert!(refused.0 == 422 && refused.2.contains("at most 2"), "{refused:?}");
    // One request that never ends holds the only place.
    let address = server.base.strip_prefix("http://").unwrap();
    let mut slow = std::net::TcpStream::connect(address).unwrap();
    let half = format!("POST {DECIDE} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
    std::io::Write::write_all(&mut slow, half.as_bytes()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let response = server.post(DECIDE, r#"{"context": {}}"#);
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    drop(slow);
    std::thread::sleep(std::time::Duration::from_millis(200));
    server.ok(DECIDE, r#"{"context": {}}"#);
}

#[test]
fn health_metrics_and_the_description_are_real() {
    let (_dir, server) = started();
    server.ok(DECIDE, r#"{"context": {}}"#);
    assert_eq!(server.json("/livez")["status"], "ok");
    let ready = server.json("/readyz?verbose");
    assert_eq!((&ready["status"], &ready["checks"]["log"]), (&json!("ready"), &json!("ok")));
    let wanted = [
        "pawl_decisions_total{model=\"router\"} 1",
        "pawl_decide_seconds_count 1",
        "pawl_log_bytes ",
    ];
    let shown = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let metrics = server.get("/metrics").text().unwrap();
        wanted.iter().all(|name| metrics.contains(name))
    });
    assert!(shown, "{}", server.get("/metrics").text().unwrap());
    let api = server.json("/openapi.json");
    assert!(api["paths"]["/v1/models/{model}/decide"]["post"].is_object());
    let log = server.json("/v1/log?state");
    assert_eq!(log["state"]["sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn actions_bring_features_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let spec = json!({
        "schema": 1, "name": "market", "kind": "policy",
        "actions": {"near": {"features": {"price": 3}}, "far": {}},
        "features": {"hour": {"type": "number"}, "price": {"type": "number", "of": "action"}},
        "metrics": {"reward": {"bounds": [0, 1]}},
        "learner": {"algorithm": "linear_thompson", "parameters": "shared"},
    });
    server.ok("/v1/models", &spec.to_string());
    let path = "/v1/models/market/decide";
    let body = json!({
        "context": {"hour": 7},
        "actions": ["near", {"name": "far", "features": {"price": 2, "other": true}}],
    });
    let mut last = String::new();
    for _ in 0..50 {
        let decision = server.ok(path, &body.to_string());
        last = decision["decision_id"].as_str().unwrap().to_owned();
        let reward = if decision["action"] == "far" { 1 } else { 0 };
        let feedback = json!({"decision_id": last, "metrics": {"reward": reward}});
        server.ok("/v1/feedback", &feedback.to_string());
    }
    let explained = server.json(&format!("/v1/decisions/{last}/explain"));
    assert_eq!(explained["explanation"]["recomputed_equal"], true, "{explained}");
    let actions = json!({"far": {"price": 2.0}, "near": {"price": 3.0}});
    assert_eq!(explained["context"], json!({"hour": 7, "pawl:actions": actions}));
    let reported = json!({"decisions": [{
        "context": {}, "action": "far", "at": 1, "metrics": {"reward": 1},
        "actions": ["near", {"name": "far", "features": {"price": 2}}],
    }]});
    let reply = server.ok("/v1/models/market/decisions", &reported.to_string());
    assert_eq!(reply["accepted"], 1, "{reply}");
    for (actions, code, detail) in [
        (json!([{"name": "farr", "features": {}}]), "invalid_request", "did you mean `far`?"),
        (json!([{"name": "far", "features": 3}]), "invalid_context", "`actions[0].features`"),
        (json!([{"name": "far", "featurs": {}}]), "invalid_request", "did you mean `features`?"),
        (json!(["far", {"name": "far", "features": {}}]), "invalid_request", "listed twice"),
        (json!([7]), "invalid_request", "`actions[0]`: must be a name"),
    ] {
        let body = json!({"context": {}, "actions": actions}).to_string();
        check_refused(&server, (path, &body, 422, code, detail));
    }
    server.create_router();
    let body = r#"{"context": {}, "actions": [{"name": "big", "features": {}}]}"#;
    check_refused(&server, (DECIDE, body, 422, "invalid_request", "declares no feature"));
}
