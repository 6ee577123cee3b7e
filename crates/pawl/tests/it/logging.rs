//! What the process says on stderr.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::Value;

use crate::process::{ROUTER, pawl};

/// Every line is JSON, every answer carries an id, the caller's own or a new one, and the line about it has the same; no line has a
/// context, and none whom it is about.
#[test]
fn every_request_is_logged_by_its_id_and_no_context_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pawl.toml");
    std::fs::write(&config, "[logging]\nformat = \"json\"\nlevel = \"debug\"\n").unwrap();
    let log = dir.path().join("stderr");
    let mut child = pawl()
        .args(["serve", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap(), "--data"])
        .arg(dir.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let base = line.split_whitespace().find(|w| w.starts_with("http://")).unwrap().to_owned();
    let http = reqwest::blocking::Client::new();
    let spec = pawl_domain::ModelSpec::from_toml(ROUTER).unwrap().check().unwrap();
    let post = |path: &str, id: Option<&str>, body: &str| {
        let request = http.post(format!("{base}{path}")).header("content-type", "application/json");
        let request = id.iter().fold(request, |r, id| r.header("x-request-id", *id));
        let response = request.body(body.to_owned()).send().unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        (response.status().as_u16(), id)
    };
    assert_eq!(post("/v1/models", None, &spec.to_json()).0, 201);
    let body = r#"{"context": {"prompt_tokens": 4711471147114711}, "targeting_key": "user-4711"}"#;
    let own = post("/v1/models/router/decide", Some("gateway-77"), body);
    assert_eq!(own, (200, "gateway-77".to_owned()));
    let (_, made) = post("/v1/models/router/decide", None, body);
    let (_, other) = post("/v1/models/router/decide", Some("two words"), body);
    assert!(made != other && other != "two words", "{made} {other}");
    let listed = format!("{base}/v1/models/router/decisions?targeting_key=user-4711");
    assert_eq!(http.get(listed).send().unwrap().status(), 200);
    let (status, missing) = post("/v1/models/nobody/decide", None, body);
    assert_eq!(status, 404);
    child.kill().unwrap();
    child.wait().unwrap();

    let text = std::fs::read_to_string(&log).unwrap();
    let all: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for (id, status) in [("gateway-77", 200), (&made, 200), (&other, 200), (&missing, 404)] {
        let of: Vec<&Value> = all.iter().filter(|l| l["request_id"] == *id).collect();
        assert_eq!(
            (of.len(), &of[0]["status"], &of[0]["method"]),
            (1, &status.into(), &"POST".into()),
            "{text}"
        );
    }
    assert!(all.iter().all(|l| l["level"].is_string() && l["timestamp"].is_string()));
    // Four digits may stand in a time.
    assert!(!text.contains("47114711") && !text.contains("user-4711"), "{text}");
}
