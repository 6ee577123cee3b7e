//! What is bounded, and what an odd request cannot do.

use serde_json::json;

use crate::process::{ROUTER, Server, pawl};

const DECIDE: &str = "/v1/models/router/decide";

#[test]
fn the_log_is_trimmed_and_everything_after_it_still_folds() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pawl.toml");
    let text =
        "checkpoint_interval = \"100ms\"\n[log]\nsegment_bytes = 65536\nmax_bytes = 262144\n";
    std::fs::write(&config, text).unwrap();
    let data = dir.path().join("data");
    let arguments = ["--config", config.to_str().unwrap()];
    let mut server = Server::start(&data, &arguments);
    server.create_router();
    let requests: Vec<_> =
        (0..100).map(|i| json!({"context": {"task": "code", "prompt_tokens": i}})).collect();
    let batch = json!({"requests": requests}).to_string();
    let first = server.ok(DECIDE, r#"{"context": {}}"#)["decision_id"].as_str().unwrap().to_owned();
    let trimmed = (0..200).any(|_| {
        let reply = server.ok("/v1/models/router/decide/batch", &batch);
        let id = reply["decisions"][99]["decision_id"].as_str().unwrap().to_owned();
        let feedback = json!({"decision_id": id, "metrics": {"quality": 1, "cost_usd": 0.1}});
        server.ok("/v1/feedback", &feedback.to_string());
        std::thread::sleep(std::time::Duration::from_millis(20));
        server.json("/v1/log")["first"] != "0.0"
    });
    assert!(trimmed);
    let late = json!({"decision_id": first, "metrics": {"quality": 1}}).to_string();
    assert_eq!(server.refused("/v1/feedback", &late).1, "decision_not_found");
    let examples = server.json("/v1/models/router")["learners"][0]["examples"].clone();
    server.kill();
    let server = Server::start(&data, &arguments);
    assert_eq!(server.json("/v1/models/router")["learners"][0]["examples"], examples);
    let id = server.ok(DECIDE, r#"{"context": {"task": "chat"}}"#)["decision_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let explained = server.json(&format!("/v1/decisions/{id}/explain"));
    assert_eq!(explained["explanation"]["recomputed_equal"], true);
    assert_eq!(server.terminate(), Some(0));
    let replay = pawl().args(["log", "replay", "--json", "--data"]).arg(&data).output().unwrap();
    let said = String::from_utf8(replay.stdout).unwrap();
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(value["equal"], true, "{said}");
    assert_ne!(value["from"], "0.0");
}

#[test]
fn old_contexts_are_taken_out_of_the_log_and_the_records_stay() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pawl.toml");
    let text = "checkpoint_interval = \"100ms\"\n[log]\nsegment_bytes = 65536\ncontext_retention = \"200ms\"\n";
    std::fs::write(&config, text).unwrap();
    let data = dir.path().join("data");
    let arguments = ["--config", config.to_str().unwrap()];
    let mut server = Server::start(&data, &arguments);
    let spec = ROUTER.replace("[learner]", "[feedback]\ndeadline = \"100ms\"\n[learner]");
    let spec = spec.replace("task = {", "secret = { type = \"category\", bits = 4 }\ntask = {");
    let spec = pawl_domain::ModelSpec::from_toml(&spec).unwrap().check().unwrap();
    server.ok("/v1/models", &spec.to_json());
    let requests: Vec<_> = (0..100)
        .map(|i| json!({"context": {"secret": "watermelon", "prompt_tokens": i}}))
        .collect();
    let batch = json!({"requests": requests}).to_string();
    let first = server.ok("/v1/models/router/decide/batch", &batch);
    let id = first["decisions"][0]["decision_id"].as_str().unwrap().to_owned();
    let gone = (0..200).any(|_| {
        server.ok("/v1/models/router/decide/batch", &batch.replace("watermelon", "apple"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        server.json(&format!("/v1/decisions/{id}"))["context"] == json!({})
    });
    assert!(gone);
    assert_eq!(
        server.json(&format!("/v1/decisions/{id}"))["action"],
        first["decisions"][0]["action"]
    );
    server.kill();
    let found = std::process::Command::new("grep")
        .args(["-r", "-l", "-a", "watermelon"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    let server = Server::start(&data, &arguments);
    assert_eq!(server.json(&format!("/v1/decisions/{id}"))["outcome"], "ok");
    assert_eq!(server.terminate(), Some(0));
    let replay = pawl().args(["log", "replay", "--json", "--data"]).arg(&data).output().unwrap();
    let said = String::from_utf8(replay.stdout).unwrap();
    assert!(said.contains("\"equal\":true"), "{said} {}", String::from_utf8_lossy(&replay.stderr));
}

#[test]
fn a_repeated_request_is_answered_in_the_version_it_was_made_under() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.create_router();
    let bodies: Vec<String> =
        (0..8).map(|i| json!({"context": {}, "request_id": format!("r{i}")}).to_string()).collect();
    let first: Vec<_> = bodies.iter().map(|b| server.ok(DECIDE, b)).collect();
    let changed = ROUTER.replace("[actions.big]", "[actions.aardvark]\n[actions.big]");
    let spec = pawl_domain::ModelSpec::from_toml(&changed).unwrap().check().unwrap();
    server.ok("/v1/models/router/versions", &spec.to_json());
    for (body, first) in bodies.iter().zip(&first) {
        assert_eq!(&server.ok(DECIDE, body), first);
    }
}

#[test]
fn a_number_that_drowns_all_others_is_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.create_router();
    let decision =
        server.ok(DECIDE, r#"{"context": {"prompt_tokens": 1e200}, "actions": ["big", "small"]}"#);
    assert!(decision["probability"].as_f64().unwrap() > 0.0);
    let body = json!({"decision_id": decision["decision_id"], "metrics": {"cost_usd": 1e200}});
    assert!(server.refused("/v1/feedback", &body.to_string()).2.contains("check its unit"));
    let body = json!({"decision_id": decision["decision_id"], "metrics": {"quality": 1}, "action_taken": "bigg"});
    assert!(server.refused("/v1/feedback", &body.to_string()).2.contains("did you mean `big`?"));
}

#[test]
fn a_key_of_one_model_rules_only_it_and_nobody_locks_everybody_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    server.create_router();
    let short = r#"{"name": "root", "scopes": ["admin"], "expires": 99999999999999}"#;
    assert_eq!(server.refused("/v1/keys", short).1, "invalid_request");
    let secret = |reply: serde_json::Value| Some(reply["secret"].as_str().unwrap().to_owned());
    server.key = secret(server.ok("/v1/keys", r#"{"name": "root", "scopes": ["admin"]}"#));
    let root = server.key.clone();
    let limited = r#"{"name": "team", "scopes": ["admin"], "model": "router"}"#;
    server.key = secret(server.ok("/v1/keys", limited));
    let grab = r#"{"name": "grab", "scopes": ["admin"]}"#;
    assert_eq!(server.refused("/v1/keys", grab).1, "forbidden");
    for path in ["/v1/keys", "/v1/changes", "/metrics"] {
        assert_eq!(server.get(path).status().as_u16(), 403, "{path}");
    }
    assert_eq!(server.get("/v1/models/router").status().as_u16(), 200);
    server.key = root;
    let said = server.command(&["key", "revoke", "root"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("the last admin key"));
    assert!(server.command(&["key", "revoke", "team"]).status.success());
}

#[test]
fn a_lost_registry_does_not_open_the_doors() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.create_router();
    assert_eq!(server.terminate(), Some(0));
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("registry") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let output = pawl()
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the registry has 0 changes, the log knows of 1"), "{said}");
}

/// One namespace at its quota gets 429 with its name; others, and what is not a decision, go on.
#[test]
fn a_namespace_at_its_quota_is_refused_by_name_and_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pawl.toml");
    std::fs::write(&config, "[quotas.search]\nrequests = 5\nmodels = 1\n").unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--config", config.to_str().unwrap()]);
    let create = |name: &str| {
        let spec = dir.path().join("m.toml");
        let text = crate::process::ROUTER.replace("\"router\"", &format!("\"{name}\""));
        std::fs::write(&spec, text).unwrap();
        server.command(&["model", "create", spec.to_str().unwrap()])
    };
    assert!(create("search.router").status.success() && create("router").status.success());
    let refused = create("search.other");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("`search` has 1 models, its quota is 1"),
        "{told}"
    );
    let ask = |model: &str| {
        let path = format!("/v1/models/{model}/decide");
        server.post(&path, r#"{"context": {"prompt_tokens": 5}}"#).status().as_u16()
    };
    let answers: Vec<u16> = (0..20).map(|_| ask("search.router")).collect();
    let let_in = answers.iter().filter(|s| **s == 200).count();
    assert!(
        answers.iter().all(|s| [200, 429].contains(s)) && (5..20).contains(&let_in),
        "{answers:?}"
    );
    assert!((0..20).all(|_| ask("router") == 200));
    assert!((0..20).map(|_| ask("search.router")).any(|s| s == 429));
    let (status, code, detail) =
        server.refused("/v1/models/search.router/decide", r#"{"context": {}}"#);
    assert_eq!((status, code.as_str()), (429, "quota_exceeded"));
    assert!(detail.contains("`search`") && detail.contains("5 requests a second"), "{detail}");
}
