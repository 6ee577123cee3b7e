//! Regressors and classifiers as a client meets them, and from files.

use std::{fmt::Write as _, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::process::Server;

const CHURN: &str = r#"
schema = 1
name = "churn"
kind = "classifier"
[label]
classes = ["stay", "leave"]
[features]
calls = { type = "number" }
plan = { type = "category" }
[learner]
algorithm = "sgd"
"#;

fn spec_json(toml: &str) -> String {
    let spec: toml::Value = toml::from_str(toml).unwrap();
    serde_json::to_string(&spec).unwrap()
}

fn offset(reply: &Value) -> u64 {
    reply["position"].as_str().unwrap().strip_prefix("0.").unwrap().parse().unwrap()
}

/// Waits until predictions have learned everything up to a reply's position.
fn learned(server: &Server, reply: &Value) {
    let fresh = (0..400).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        let body = r#"{"instances": [{}], "log": false}"#;
        offset(&server.ok("/v1/models/churn/predict", body)) >= offset(reply)
    });
    assert!(fresh, "never learned up to {reply}");
}

#[test]
fn a_classifier_predicts_learns_and_is_explained_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.ok("/v1/models", &spec_json(CHURN));
    let body =
        r#"{"instances": [{"calls": 3, "plan": "pro"}, 5, {}], "request_ids": ["a", "b", "c"]}"#;
    let first = server.ok("/v1/models/churn/predict", body);
    assert_eq!(first["predictions"][0]["probabilities"], json!({"stay": 0.5, "leave": 0.5}));
    assert_eq!(first["predictions"][1]["kind"], "error");
    assert_eq!(first["decision_ids"][1], Value::Null);
    let again = server.ok("/v1/models/churn/predict", body);
    assert_eq!(again["decision_ids"], first["decision_ids"], "an id again is the same prediction");
    // Labels by decision id and by the caller's own.
    let id = first["decision_ids"][0].as_str().unwrap();
    server.ok("/v1/feedback", &json!({"decision_id": id, "label": "leave"}).to_string());
    let by_request = json!({"model": "churn", "request_id": "c", "label": "stay"});
    server.ok("/v1/feedback", &by_request.to_string());
    // Labelled examples: two plans that differ.
    let example = |i: u32| {
        let leaves = i.is_multiple_of(2);
        let plan = if leaves { "free" } else { "pro" };
        json!({"context": {"calls": i % 7, "plan": plan}, "label": if leaves { "leave" } else { "stay" }})
    };
    let examples: Vec<Value> = (0..500).map(example).collect();
    let reply = server.ok("/v1/models/churn/examples", &json!({"examples": examples}).to_string());
    assert_eq!((&reply["accepted"], &reply["rejected"]), (&json!(500), &json!([])));
    learned(&server, &reply);
    let body = r#"{"instances": [{"calls": 3, "plan": "free"}, {"calls": 3, "plan": "pro"}]}"#;
    let after = server.ok("/v1/models/churn/predict", body);
    assert_eq!(after["predictions"][0]["class"], "leave");
    assert_eq!(after["predictions"][1]["class"], "stay");
    assert!(after["predictions"][0]["probability"].as_f64().unwrap() > 0.9);
    let folded = (0..400).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        let log = server.json("/v1/log");
        log["folded"] == log["head"]
    });
    assert!(folded);
    let model = server.json("/v1/models/churn");
    assert_eq!(
        (&model["kind"], &model["learners"][0]["examples"]),
        (&json!("classifier"), &json!(502))
    );
    assert!(model["learners"][0]["progress"]["recent_loss"].as_f64().unwrap() < 0.2);
    let id = after["decision_ids"][0].as_str().unwrap().to_owned();
    let digest = model["learners"][0]["state_sha256"].clone();
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(dir.path(), &[]);
    let model = server.json("/v1/models/churn");
    assert_eq!(model["learners"][0]["state_sha256"], digest);
    let shown = server.json(&format!("/v1/decisions/{id}/explain"));
    assert_eq!(shown["explanation"]["recomputed_equal"], true, "{shown}");
    assert_eq!(shown["prediction"]["class"], "leave");
    assert!(shown["explanation"]["contributions"][0]["value"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.create_router();
    server.ok("/v1/models", &spec_json(CHURN));
    for (path, body, status, code, detail) in [
        ("/v1/models/churn/decide", r#"{"context": {}}"#, 422, "wrong_kind", "/predict"),
        ("/v1/models/router/predict", r#"{"instances": []}"#, 422, "wrong_kind", "/decide"),
        (
            "/v1/models/churn/predict",
            r#"{"instance": []}"#,
            422,
            "invalid_request",
            "did you mean `instances`?",
        ),
        (
            "/v1/models/churn/predict",
            r#"{"instances": [{}], "request_ids": []}"#,
            422,
            "invalid_request",
            "one an instance",
        ),
        (
            "/v1/models/churn/predict",
            r#"{"instances": [{}], "log": false, "request_ids": ["a"]}"#,
            422,
            "invalid_request",
            "log = false",
        ),
    ] {
        let (found, name, text) = server.refused(path, body);
        assert_eq!((found, name.as_str()), (status, code), "{body}");
        assert!(text.contains(detail), "{body}: {text}");
    }
    let body = json!({"examples": [
        {"context": {}, "label": "gone"}, {"context": {}, "label": [1]}, {"context": 1, "label": "stay"},
        {"context": {}, "label": "stay", "weight": -1}, {"context": {}, "label": "stay", "at": "noon"},
        {"context": {}, "label": "stay", "id": ""}, {"context": {}, "label": "stay"},
    ]});
    let reply = server.ok("/v1/models/churn/examples", &body.to_string());
    assert_eq!(reply["accepted"], 1);
    let rejected = reply["rejected"].as_array().unwrap();
    for (i, part) in
        ["stay, leave", "neither a number nor a class", "JSON object", "`-1`", "not a time", "`id`"]
            .iter()
            .enumerate()
    {
        assert!(rejected[i].to_string().contains(part), "{}", rejected[i]);
    }
    let id =
        server.ok("/v1/models/churn/predict", r#"{"instances": [{}]}"#)["decision_ids"][0].clone();
    for (body, detail) in [
        (json!({"decision_id": id, "metrics": {"quality": 1}}), "learns from a `label`"),
        (json!({"decision_id": id, "label": "gone"}), "stay, leave"),
        (json!({"decision_id": id, "label": "stay", "not_used": true}), "teaches nothing"),
    ] {
        let (status, _, text) = server.refused("/v1/feedback", &body.to_string());
        assert!(status == 422 && text.contains(detail), "{body}: {text}");
    }
    let (_, code, text) =
        server.refused("/v1/models", &spec_json(&CHURN.replace("\"stay\", ", "")));
    assert!(code == "invalid_spec" && text.contains("label.classes"), "{text}");
}

/// An example twice by id teaches once; one labelled twice by feedback too.
#[test]
fn an_example_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.ok("/v1/models", &spec_json(CHURN));
    let body = json!({"examples": [
        {"context": {"calls": 1}, "label": "stay", "id": "x"}, {"context": {"calls": 1}, "label": "stay", "id": "x"},
    ]});
    server.ok("/v1/models/churn/examples", &body.to_string());
    server.ok("/v1/models/churn/examples", &body.to_string());
    let id =
        server.ok("/v1/models/churn/predict", r#"{"instances": [{}]}"#)["decision_ids"][0].clone();
    let label = json!({"decision_id": id, "label": "leave"}).to_string();
    server.ok("/v1/feedback", &label);
    let reply = server.ok("/v1/feedback", &label);
    learned(&server, &reply);
    let model = server.json("/v1/models/churn");
    assert_eq!(model["learners"][0]["examples"], 2);
    assert_eq!(model["feedback"]["duplicate"], 4);
}

/// A logistic stream with known coefficients, as a file: the same through `pawl learn` from CSV and JSON lines, and a
/// loss within a hundredth of that of the true probabilities.
#[test]
fn learning_a_file_reaches_the_loss_of_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let (mut csv, mut lines) = ("b,calls,label\n".to_owned(), String::new());
    let (mut truth, n) = (0.0, 20_000);
    let u = |s: u64, k: u64| pawl_stats::rng::uniform(s, k);
    for k in 0..n {
        let calls = (2.0 * u(1, k) - 1.0) * 100.0;
        let calls = (calls * 10.0).round() / 10.0;
        let plan = ["free", "pro", "max"][(3.0 * u(2, k)) as usize];
        let score = 0.03 * calls + if plan == "pro" { 1.0 } else { -0.5 };
        let p = 1.0 / (1.0 + (-score).exp());
        let y = u(3, k) < p;
        truth -= if y { p.ln() } else { (1.0 - p).ln() } / n as f64;
        let label = if y { "leave" } else { "stay" };
        writeln!(csv, "{plan},{calls},{label}").unwrap();
        writeln!(lines, r#"{{"plan":"{plan}","calls":{calls},"label":"{label}"}}"#).unwrap();
    }
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("churn.toml"), CHURN).unwrap();
    std::fs::write(path("a.csv"), csv.replacen("b,", "plan,", 1)).unwrap();
    std::fs::write(path("a.jsonl"), lines).unwrap();
    let learn = |data: &str| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_pawl"))
            .arg("learn")
            .arg(path("churn.toml"))
            .arg("--data")
            .arg(path(data))
            .arg("--json")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (a, b) = (learn("a.csv"), learn("a.jsonl"));
    assert_eq!(a["examples"], n);
    assert_eq!(a["state_sha256"], b["state_sha256"]);
    let loss = a["loss"].as_f64().unwrap();
    assert!(loss > truth - 0.01 && loss < truth + 0.01, "{loss} {truth}");
    assert!(a["calibration_error"].as_f64().unwrap() < 0.03);
    // A column that is not there is named.
    let output = Command::new(env!("CARGO_BIN_EXE_pawl"))
        .args(["learn", "--target", "lable", "--data"])
        .arg(path("a.csv"))
        .arg(path("churn.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("did you mean `label`?"), "{text}");
}

fn pawl(server: &Server, arguments: &[&str]) -> String {
    let output = server.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn digest(server: &Server) -> String {
    let folded = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        let log = server.json("/v1/log");
        let model = server.json("/v1/models/churn");
        log["folded"] == log["head"] && model["rewinding"] == false
    });
    assert!(folded);
    // A batch that gathers is learned with the next tick.
    std::thread::sleep(Duration::from_millis(100));
    server.json("/v1/models/churn")["learners"][0]["state_sha256"].as_str().unwrap().to_owned()
}

/// Ends a thread also where something fails: its scope waits for it.
struct Stop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Two servers take the same examples, one of them poisoned ones too; rewound without those, it has the weights of the
/// other, byte for byte, predicts all the while, and learns what comes meanwhile.
#[test]
fn a_rewind_under_load_leaves_the_weights_of_one_that_never_saw_it() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let servers = dirs.each_ref().map(|dir| Server::start(dir.path(), &[]));
    servers.iter().for_each(|s| drop(s.ok("/v1/models", &spec_json(CHURN))));
    let batch = |k: u64, flip: bool| -> Vec<Value> {
        let one = |i: u64| {
            let calls = pawl_stats::rng::uniform(k, i) * 10.0;
            let leaves = (calls > 5.0) != flip;
            let label = if leaves { "leave" } else { "stay" };
            // The time is part of what is learned: the same for both.
            json!({"context": {"calls": calls}, "label": label, "at": 1_700_000_000_000_u64 + k % 1000})
        };
        // Whole batches: where a batch ends does not depend on what came between.
        (0..64).map(one).collect()
    };
    let examples = "/v1/models/churn/examples";
    let mut to = String::new();
    for k in 0..60 {
        if k == 20 {
            to = servers[1].json("/v1/log")["head"].as_str().unwrap().to_owned();
        }
        let body = json!({"examples": batch(k, false), "metadata": {"source": "good"}}).to_string();
        servers.iter().for_each(|s| drop(s.ok(examples, &body)));
        if (20..40).contains(&k) {
            let body = json!({"examples": batch(1000 + k, true), "metadata": {"source": "bad"}});
            servers[1].ok(examples, &body.to_string());
        }
    }
    assert_ne!(digest(&servers[0]), digest(&servers[1]));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (server, stop) = (&servers[1], &stop);
        // Both go on learning while one is rewound.
        let (both, batch) = (&servers, &batch);
        let learning = scope.spawn(move || {
            for k in 60..100 {
                let body = json!({"examples": batch(k, false)}).to_string();
                both.iter().for_each(|s| drop(s.ok(examples, &body)));
            }
        });
        let ended = Stop(stop);
        let asking = scope.spawn(move || {
            let mut asked = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let body = r#"{"instances": [{"calls": 1}], "log": false}"#;
                let reply = server.ok("/v1/models/churn/predict", body);
                assert_eq!(reply["predictions"][0]["kind"], "class");
                asked += 1;
            }
            asked
        });
        let said = pawl(
            server,
            &["learner", "rewind", "churn", "--to", &to, "--without", "metadata.source = \"bad\""],
        );
        assert!(said.starts_with("learner.rewind of `churn` to 0."), "{said}");
        learning.join().unwrap();
        assert_eq!(digest(&servers[0]), digest(server));
        drop(ended);
        assert!(asking.join().unwrap() > 0);
    });
    let [clean, mut rewound] = servers;
    let expected = digest(&clean);
    rewound.kill();
    let server = Server::start(dirs[1].path(), &[]);
    assert_eq!(digest(&server), expected);
    let changes = server.json("/v1/changes");
    assert_eq!(changes["changes"][1]["action"], "learner.rewind");
}

#[test]
fn a_learner_does_as_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.ok("/v1/models", &spec_json(CHURN));
    let example = json!({"context": {"calls": 1}, "label": "stay"});
    let body = json!({"examples": vec![example; 64]}).to_string();
    server.ok("/v1/models/churn/examples", &body);
    let before = digest(&server);
    pawl(&server, &["learner", "freeze", "churn"]);
    assert!(pawl(&server, &["learner", "status", "churn"]).contains("frozen, 64 examples"));
    server.ok("/v1/models/churn/examples", &body);
    assert_eq!(digest(&server), before);
    pawl(&server, &["learner", "resume", "churn"]);
    server.ok("/v1/models/churn/examples", &body);
    assert_ne!(digest(&server), before);
    pawl(&server, &["learner", "reset", "churn"]);
    assert!(pawl(&server, &["learner", "status", "churn"]).contains("learning, 0 examples"));
    for (body, detail) in [
        (r#"{"action": "rewind", "to": "0.0", "without": "source is bad"}"#, "is not a condition"),
        (r#"{"action": "rewind"}"#, "position or a time"),
        (r#"{"action": "rewind", "to": "0.99999999"}"#, "beyond the head"),
        (r#"{"action": "freeze", "to": "0.0"}"#, "only a rewind"),
        (r#"{"action": "melt"}"#, "melt"),
    ] {
        let (status, _, text) = server.refused("/v1/models/churn/learner", body);
        assert!(status == 422 && text.contains(detail), "{body}: {text}");
    }
}

/// A batch that does not fit is undone before anybody sees it, and that is an event: told once, also over a restart.
#[test]
fn a_divergence_is_undone_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    let spec =
        CHURN.replace("classifier", "regressor").replace("classes = [\"stay\", \"leave\"]", "");
    server.ok("/v1/models", &spec_json(&spec));
    let send = |server: &Server, label: f64| {
        let one = |i: u64| {
            let calls = pawl_stats::rng::uniform(9, i) * 10.0;
            json!({"context": {"calls": calls}, "label": label * calls})
        };
        let examples: Vec<Value> = (0..64).map(one).collect();
        let body = json!({"examples": examples}).to_string();
        learned(server, &server.ok("/v1/models/churn/examples", &body));
    };
    (0..40).for_each(|_| send(&server, 2.0));
    let predict = |server: &Server| {
        let body = r#"{"instances": [{"calls": 5}], "log": false}"#;
        let reply = server.ok("/v1/models/churn/predict", body);
        reply["predictions"][0]["value"].as_f64().unwrap()
    };
    let before = predict(&server);
    assert!((before - 10.0).abs() < 0.5, "{before}");
    send(&server, 1e9);
    let after = predict(&server);
    assert!((after - before).abs() < 0.2, "{before} {after}");
    let alerts = |server: &Server| server.json("/v1/models/churn")["alerts"].clone();
    let told = alerts(&server);
    assert_eq!(told.as_array().unwrap().len(), 1, "{told}");
    assert_eq!(told[0]["what"], "went_back");
    let status = pawl(&server, &["learner", "status", "churn"]);
    assert!(status.contains("holding") && status.contains("`label` diverged"), "{status}");
    server.kill();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(alerts(&server), told);
    assert!((predict(&server) - before).abs() < 0.2);
    drop(server);
    let log = std::fs::read_dir(dir.path().join("log")).unwrap();
    let bytes: Vec<u8> = log.flat_map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect();
    let why = told[0]["text"].as_str().unwrap();
    assert!(why.contains("exploding_loss"), "{why}");
    assert_eq!(bytes.windows(14).filter(|w| *w == b"exploding_loss").count(), 1);
}

/// What a file taught goes to a server; what the server learned on goes to a file, and to another server: each predicts
/// the same, and goes on over a crash.
#[test]
fn what_was_learned_moves_between_files_and_servers() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut server = Server::start(dirs[0].path(), &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("churn.toml"), CHURN).unwrap();
    let mut csv = "calls,plan,label\n".to_owned();
    for i in 0..3000 {
        let calls = pawl_stats::rng::uniform(5, i) * 10.0;
        let label = if calls > 5.0 { "leave" } else { "stay" };
        writeln!(csv, "{calls},pro,{label}").unwrap();
    }
    std::fs::write(path("churn.csv"), csv).unwrap();
    let (spec, data, out) = (path("churn.toml"), path("churn.csv"), path("churn.safetensors"));
    let said = pawl(&server, &["learn", &spec, "--data", &data, "--out", &out, "--leave"]);
    assert!(said.contains("created `churn` 1.0.0, in production"), "{said}");
    let predict = |server: &Server| {
        let body = r#"{"instances": [{"calls": 9, "plan": "pro"}, {"calls": 1}], "log": false}"#;
        server.ok("/v1/models/churn/predict", body)["predictions"].clone()
    };
    let begun = predict(&server);
    assert!(begun[0]["probabilities"]["leave"].as_f64().unwrap() > 0.9, "{begun}");
    assert_eq!(server.json("/v1/models/churn")["learners"][0]["examples"], 3000);
    let example = json!({"context": {"calls": 9.0, "plan": "pro"}, "label": "leave"});
    let body = json!({"examples": vec![example; 64]}).to_string();
    learned(&server, &server.ok("/v1/models/churn/examples", &body));
    let then = predict(&server);
    assert_ne!(then, begun, "it learns on");
    let cut = path("cut.safetensors");
    let said = pawl(&server, &["version", "cut", "churn", "--out", &cut]);
    assert!(said.starts_with("cut `churn` 1.0.1 at 0."), "{said}");
    assert_eq!(server.json("/v1/models/churn")["production"], "1.0.0");
    let said = pawl(&server, &["version", "list", "churn"]);
    assert!(said.contains("1.0.1      staging"), "{said}");
    let again = path("again.safetensors");
    pawl(&server, &["version", "download", "churn@1.0.1", "--out", &again]);
    assert_eq!(std::fs::read(&cut).unwrap(), std::fs::read(&again).unwrap());
    let other = Server::start(dirs[1].path(), &[]);
    pawl(&other, &["model", "create", &cut]);
    assert_eq!(predict(&other), then);
    // Back to what the file taught, as a version of its own; also after a crash, which folds the change again.
    let said = pawl(&server, &["version", "create", &out]);
    assert!(said.contains("`churn` is at 1.0.2 in production"), "{said}");
    assert_eq!(predict(&server), begun);
    server.kill();
    let server = Server::start(dirs[0].path(), &[]);
    assert_eq!(predict(&server), begun);
    refuses_what_is_no_artifact(&server, &out);
    assert_eq!(server.terminate(), Some(0));
    let replay = Command::new(env!("CARGO_BIN_EXE_pawl"))
        .args(["log", "replay", "--json", "--data"])
        .arg(dirs[0].path())
        .output()
        .unwrap();
    let said = String::from_utf8(replay.stdout).unwrap();
    assert!(said.contains("\"equal\":true"), "{said}");
}

fn refuses_what_is_no_artifact(server: &Server, good: &str) {
    let mut bytes = std::fs::read(good).unwrap();
    bytes.truncate(bytes.len() - 9);
    let cut_off = good.replace("churn.safetensors", "cut off.safetensors");
    std::fs::write(&cut_off, bytes).unwrap();
    let output = server.command(&["model", "create", &cut_off]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("cut off.safetensors"), "{said}");
    let output = server.command(&["version", "download", "churn@9.9.9", "--out", &cut_off]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not exist"));
}
