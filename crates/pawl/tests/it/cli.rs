//! The command line: what it says and with which exit code it ends.

use std::process::Output;

use crate::process::{ROUTER, Server, pawl};

fn text(output: &Output) -> (Option<i32>, String) {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn exit_codes_are_zero_one_and_two() {
    let dir = tempfile::tempdir().unwrap();
    let spec = dir.path().join("router.toml");
    std::fs::write(&spec, ROUTER).unwrap();
    let (code, said) = text(&pawl().args(["spec", "check"]).arg(&spec).output().unwrap());
    assert!(code == Some(0) && said.contains("valid spec of the model `router`"), "{said}");
    std::fs::write(&spec, ROUTER.replace("goal = \"min\"", "goal = \"max\"")).unwrap();
    let (code, said) = text(&pawl().args(["spec", "check"]).arg(&spec).output().unwrap());
    assert!(
        code == Some(1) && said.contains("objective.weights.cost_usd: `-10` is negative"),
        "{said}"
    );
    let (code, said) = text(&pawl().args(["spec", "chek"]).output().unwrap());
    assert!(code == Some(2) && said.contains("check"), "{said}");
    let (code, said) =
        text(&pawl().args(["model", "list", "--server", "http://127.0.0.1:1"]).output().unwrap());
    assert!(code == Some(1) && said.contains("is `pawl serve` running there?"), "{said}");
    let (code, said) = text(&pawl().args(["config", "explain"]).output().unwrap());
    assert!(code == Some(0) && said.contains("durability = \"os\""), "{said}");
}

#[test]
fn a_model_from_file_to_explanation() {
    let dir = tempfile::tempdir().unwrap();
    let spec = dir.path().join("router.toml");
    std::fs::write(&spec, ROUTER).unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let path = spec.to_str().unwrap();
    let (code, said) = text(&server.command(&["model", "create", path]));
    assert!(code == Some(0) && said.contains("created `router` 1.0.0, in production"), "{said}");
    let (code, said) = text(&server.command(&["model", "create", path]));
    assert!(code == Some(1) && said.contains("already_exists"), "{said}");
    std::fs::write(&spec, ROUTER.replace("[actions.small]", "[actions.medium]\n[actions.small]"))
        .unwrap();
    let (code, said) = text(&server.command(&["version", "create", path]));
    assert!(
        code == Some(0) && said.contains("1.1.0") && said.contains("minor actions.medium: added"),
        "{said}"
    );
    let (_, said) = text(&server.command(&["model", "show", "router"]));
    assert!(said.contains("learner l2: learning"), "{said}");
    let decision = server.ok(
        "/v1/models/router/decide",
        r#"{"context": {"task": "code"}, "actions": ["big", "medium"]}"#,
    );
    let id = decision["decision_id"].as_str().unwrap();
    let (_, said) = text(&server.command(&["decision", "explain", id]));
    assert!(
        said.contains("equal to what was served: true")
            && said.contains("not eligible: not_requested"),
        "{said}"
    );
    let (_, said) = text(&server.command(&["decision", "show", id, "--json"]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&said).unwrap()["decision_id"], id);
    let (_, said) = text(&server.command(&["checkpoint"]));
    assert!(said.starts_with("checkpoint at 0."), "{said}");
    let reported = server.json("/v1/log?state")["state"].clone();
    let busy = pawl().args(["log", "replay", "--data"]).arg(&data).output().unwrap();
    assert!(text(&busy).1.contains("in use by another process"));
    assert_eq!(server.terminate(), Some(0));
    let at = reported["position"].as_str().unwrap();
    let replay =
        pawl().args(["log", "replay", "--json", "--at", at, "--data"]).arg(&data).output().unwrap();
    let (code, said) = text(&replay);
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &value["state_sha256"], &value["equal"]),
        (Some(0), &reported["sha256"], &true.into())
    );
    assert!(!value["checkpoints"].as_array().unwrap().is_empty());
}

#[test]
fn the_demo_runs_without_a_terminal() {
    let (code, said) = text(&pawl().args(["demo", "--seconds", "3"]).output().unwrap());
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "requests  quality",
        "saving",
        "recomputed from the log, equal to what was served: true",
        "pawl serve --data",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

/// The first time creates, the second changes nothing, a changed file is a version; `--dry-run` says so before.
#[test]
fn apply_brings_a_server_to_what_files_say() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let specs = dir.path().join("specs");
    std::fs::create_dir(&specs).unwrap();
    let spec = |actions: &str, extra: &str| {
        format!(
            "schema = 1\nname = \"m\"\nkind = \"policy\"\nactions = [{actions}]\n[features]\n\
             x = {{ type = \"number\" }}\n{extra}[metrics]\nq = {{ bounds = [0, 1] }}\n[learner]\nalgorithm = \"linucb\"\n"
        )
    };
    std::fs::write(specs.join("m.toml"), spec("\"a\", \"b\"", "")).unwrap();
    let path = specs.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = server.command(&[&["apply", "-f", path], arguments].concat());
        let (_, said) = text(&output);
        assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
        said
    };
    assert!(run(&["--dry-run"]).contains("`m`: created, 1.0.0"));
    assert_eq!(server.json("/v1/models")["models"], serde_json::json!([]));
    assert!(run(&[]).contains("`m`: created, 1.0.0"));
    assert!(run(&[]).contains("`m`: no change, 1.0.0"));
    let changed = spec("\"a\", \"b\", \"c\"", "y = { type = \"category\" }\n");
    std::fs::write(specs.join("m.toml"), changed).unwrap();
    let said = run(&["--dry-run"]);
    for line in [
        "`m`: 1.0.0 → 1.1.0",
        "MINOR actions.c: added",
        "`q` keeps what it learned, but for y",
        "the action `c` is new",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(server.json("/v1/models/m")["production"], "1.0.0");
    assert!(run(&[]).contains("1.0.0 → 1.1.0"));
    assert_eq!(server.json("/v1/models/m")["production"], "1.1.0");
    std::fs::write(specs.join("n.toml"), spec("\"a\"", "")).unwrap();
    let refused = server.command(&["apply", "-f", path]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("2 to"), "a policy has two actions");
}

/// What is told of a decision's size is what a real server's log grows by, and all else follows from the rate.
#[test]
fn capacity_tells_what_a_real_log_takes() {
    let capacity = |rate: &str| -> serde_json::Value {
        let arguments =
            ["capacity", "--json", "--rate", rate, "--context-bytes", "300", "--feedback", "0"];
        let output = crate::process::pawl().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let told = capacity("50");
    let twice = capacity("100");
    let number = |v: &serde_json::Value, key: &str| v[key].as_f64().unwrap();
    assert_eq!(2.0 * number(&told, "bytes_a_day"), number(&twice, "bytes_a_day"));
    assert!(number(&twice, "kept_days") <= number(&told, "kept_days"));

    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let spec = dir.path().join("usual.toml");
    let text = "schema = 1\nname = \"usual\"\nkind = \"policy\"\nactions = [\"a\", \"b\", \"c\", \"d\", \"e\"]\n[features]\n\
                task = { type = \"category\" }\n[metrics]\nquality = { bounds = [0, 1] }\n[learner]\nalgorithm = \"linear_thompson\"\n";
    std::fs::write(&spec, text).unwrap();
    assert!(server.command(&["model", "create", spec.to_str().unwrap()]).status.success());
    let head = || {
        let text = server.json("/v1/log")["head"].as_str().unwrap().to_owned();
        text.strip_prefix("0.").unwrap().parse::<f64>().unwrap()
    };
    let before = head();
    // {"task":"…"} of 300 bytes.
    let body = serde_json::json!({"context": {"task": "x".repeat(300 - 11)}}).to_string();
    (0..200).for_each(|_| drop(server.ok("/v1/models/usual/decide", &body)));
    let real = (head() - before) / 200.0;
    let ratio = number(&told, "decision_bytes") / real;
    assert!((0.9..1.1).contains(&ratio), "{told} {real}");
}
