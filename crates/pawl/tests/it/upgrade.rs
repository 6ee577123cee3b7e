//! A data directory that an older binary left behind, killed under way: it opens, what was learned is learned again from its
//! log, and things go on as they stood.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::process::{Server, pawl};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// `tests/data/fold-3` was made by the binary whose fold was version 3: a policy with a floor (130 decisions, 90 of them with
/// quality and cost), a classifier (200 examples), a ramp of a half, one action disabled. That binary said: 180 values
/// learned, 90 values of the floor.
#[test]
fn data_of_the_fold_before_opens_and_folds_on() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    copy(&fixture.join("fold-3"), dir.path());
    let server = Server::start(dir.path(), &[]);
    let router = server.json("/v1/models/router");
    assert_eq!(
        (&router["feedback"]["decisions"], &router["feedback"]["learned"]),
        (&json!(130), &json!(180))
    );
    assert_eq!(router["floors"]["quality"]["values"], 90);
    assert_eq!(router["levers"]["ramp"], 0.5);
    assert_eq!(router["levers"]["disabled"]["small"]["reason"], "old binary");
    let churn = server.json("/v1/models/churn");
    assert_eq!(churn["learners"][0]["examples"], 200);

    let id = fs::read_to_string(fixture.join("fold-3.decision")).unwrap();
    let shown = server.json(&format!("/v1/decisions/{}", id.trim()));
    assert_eq!(shown["context"], json!({"task": "chat", "tokens": 50}));
    // The books of what was served before are kept from the log, though that binary kept none.
    let report = server.json("/v1/models/router/report?since=2026-01-01T00:00:00Z");
    assert_eq!(
        (&report["decisions"], &report["metrics"]["cost_usd"]["n"]),
        (&json!(130), &json!(90.0))
    );

    let decided =
        server.ok("/v1/models/router/decide", r#"{"context": {"task": "code", "tokens": 9}}"#);
    assert_eq!(decided["action"], "big", "the other one is disabled");
    let feedback =
        json!({"decision_id": decided["decision_id"], "metrics": {"quality": 1, "cost_usd": 0.02}});
    let needed = server.ok("/v1/feedback", &feedback.to_string())["position"].clone();
    let predicted =
        server.ok("/v1/models/churn/predict", r#"{"instances": [{"calls": 39}, {"calls": 1}]}"#);
    let leaves = |i: usize| predicted["predictions"][i]["probabilities"]["leave"].as_f64().unwrap();
    assert!(leaves(0) > leaves(1), "{predicted}");
    assert_eq!(server.terminate(), Some(0));

    let replay =
        pawl().args(["log", "replay", "--json", "--data"]).arg(dir.path()).output().unwrap();
    assert!(replay.status.success(), "{needed} {}", String::from_utf8_lossy(&replay.stderr));
    let server = Server::start(dir.path(), &[]);
    let learned: Value = server.json("/v1/models/router")["feedback"]["learned"].clone();
    assert_eq!(learned, 182);
}

/// `fold-3-redacted` was made by the same binary with `context_retention = "1s"`, `fold-4-redacted` by the one whose fold was version
/// 4: contexts are gone from its first segment, so what it learned cannot be learned again. Its newest checkpoint is taken
/// over. Both said: 800 values learned, 400 values of the floor.
#[test]
fn what_a_fold_before_learned_is_taken_over_where_contexts_are_gone() {
    for fixture in ["fold-3-redacted", "fold-4-redacted"] {
        take_over(fixture);
    }
}

fn take_over(fixture: &str) {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(fixture);
    copy(&fixture, dir.path());
    let server = Server::start(dir.path(), &[]);
    let router = server.json("/v1/models/router");
    assert_eq!(router["feedback"]["learned"], 800);
    assert_eq!(
        (&router["learners"][0]["examples"], &router["floors"]["quality"]["values"]),
        (&json!(800), &json!(400))
    );
    let id = server.ok("/v1/models/router/decide", r#"{"context": {"tokens": 9}}"#)["decision_id"]
        .clone();
    let body = json!({"decision_id": id, "metrics": {"quality": 1, "cost_usd": 0.02}});
    server.ok("/v1/feedback", &body.to_string());
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.json("/v1/models/router")["feedback"]["learned"], 802);

    // Without any checkpoint there is nothing to begin from, and nothing is written that would shut an older binary out.
    assert_eq!(server.terminate(), Some(0));
    fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
    let newest =
        fs::read_dir(dir.path().join("log")).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let size = fs::metadata(&newest).unwrap().len();
    let refused = pawl()
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("no checkpoint can be read"), "{told}");
    assert_eq!(fs::metadata(&newest).unwrap().len(), size);
}

/// `fold-5` and `fold-5-redacted` were made by the binary whose fold was version 5: it hashed words of `log = "encoded"` without a
/// key. A policy with a text (130 and 400 decisions with feedback), a classifier with a category (300 examples, the last 100 on
/// top of an artifact that it had cut itself); in the second contexts are gone. What was learned of those words is let go, the rest
/// stays: words are alike at first, numbers are not, and words are learned anew.
#[test]
fn what_was_learned_of_words_without_a_key_is_let_go() {
    for (fixture, decisions) in [("fold-5", 130), ("fold-5-redacted", 400)] {
        let dir = tempfile::tempdir().unwrap();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(fixture), dir.path());
        let server = Server::start(dir.path(), &[]);
        let router = server.json("/v1/models/router");
        assert_eq!(router["feedback"]["learned"], 2 * decisions, "{fixture}");
        assert_eq!(router["learners"][0]["examples"], 2 * decisions, "{fixture}");
        assert_eq!(server.json("/v1/models/churn")["production"], "1.0.2");
        let leaves = |server: &Server, calls: u32, plan: &str| {
            let body = json!({"instances": [{"calls": calls, "plan": plan}]}).to_string();
            let reply = server.ok("/v1/models/churn/predict", &body);
            reply["predictions"][0]["probabilities"]["leave"].as_f64().unwrap()
        };
        // Some of eight words have slots of their own, whatever the key.
        let plans = ["gold", "lead", "iron", "zinc", "tin", "silver", "copper", "chrome"];
        let spread = |server: &Server| {
            let all = plans.map(|plan| leaves(server, 9, plan));
            all.iter().fold(0.0, |m: f64, x| m.max(x - all[0]).max(all[0] - x))
        };
        assert_eq!(spread(&server), 0.0, "{fixture}");
        assert!(leaves(&server, 39, "gold") > leaves(&server, 5, "gold") + 0.1, "{fixture}");
        let example = |k: usize| {
            let label = if k.is_multiple_of(2) { "stay" } else { "leave" };
            json!({"context": {"calls": 9, "plan": plans[k % plans.len()]}, "label": label})
        };
        let rows: Vec<Value> = (0..400).map(example).collect();
        server.ok("/v1/models/churn/examples", &json!({"examples": rows}).to_string());
        let body = r#"{"context": {"tokens": 9, "prompt": "please code"}}"#;
        let id = server.ok("/v1/models/router/decide", body)["decision_id"].clone();
        let body = json!({"decision_id": id, "metrics": {"quality": 1, "cost_usd": 0.02}});
        server.ok("/v1/feedback", &body.to_string());
        assert_eq!(server.terminate(), Some(0));
        let replay = pawl().args(["log", "replay", "--json", "--data"]).arg(dir.path()).output();
        let replay = replay.unwrap();
        assert!(replay.status.success(), "{fixture}: {replay:?}");
        let server = Server::start(dir.path(), &[]);
        assert!(spread(&server) > 0.1, "{fixture}");
    }
}

/// A stop leaves no record behind its checkpoint; neither does a backup. What is decided after the next start is counted on
/// from there, and its feedback is its own.
#[test]
fn feedback_after_a_clean_stop_teaches() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::start(&data, &[]);
    server.create_router();
    let mut learned = 0;
    for round in 0..3 {
        for k in 0..5 {
            let body = r#"{"context": {"prompt_tokens": 5}}"#;
            let id = server.ok("/v1/models/router/decide", body)["decision_id"].clone();
            let body = json!({"decision_id": id, "metrics": {"quality": k % 2}});
            server.ok("/v1/feedback", &body.to_string());
        }
        learned += 5;
        assert_eq!(server.terminate(), Some(0));
        server = Server::start(&data, &[]);
        let feedback = server.json("/v1/models/router")["feedback"].clone();
        assert_eq!(
            (&feedback["learned"], &feedback["duplicate"]),
            (&json!(learned), &json!(0)),
            "{round}"
        );
    }
    let backup = dir.path().join("backup");
    assert!(
        server.command(&["backup", "create", "--to", backup.to_str().unwrap()]).status.success()
    );
    let restored = dir.path().join("restored");
    let (from, to) = (backup.to_str().unwrap(), restored.to_str().unwrap());
    assert!(server.command(&["restore", "--from", from, "--data", to]).status.success());
    let other = Server::start(&restored, &[]);
    let id = other.ok("/v1/models/router/decide", r#"{"context": {}}"#)["decision_id"].clone();
    other.ok("/v1/feedback", &json!({"decision_id": id, "metrics": {"quality": 1}}).to_string());
    assert_eq!(other.terminate(), Some(0));
    let other = Server::start(&restored, &[]);
    assert_eq!(other.json("/v1/models/router")["feedback"]["learned"], learned + 1);
}

/// `serve --check` tells what a start will do, changes no byte, and a started directory has nothing to upgrade.
#[test]
fn a_check_tells_what_a_start_would_do() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for (fixture, told) in [
        ("fold-3", "the log is whole: a start folds all of it again"),
        ("fold-3-redacted", "a start takes over the checkpoint at 0.101472"),
        ("fold-4-redacted", "a start takes over the checkpoint at 0.94608"),
        ("fold-5-redacted", "a start takes over the checkpoint at 0.147200"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy(&fixtures.join(fixture), dir.path());
        let check = || {
            let output =
                pawl().args(["serve", "--check", "--data"]).arg(dir.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let files = |of: &Path| {
            let there = |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
            let all = there(of).chain(there(&of.join("log"))).filter(|p| p.is_file());
            let all: std::collections::BTreeSet<_> = all.collect();
            all.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
        };
        let before = files(dir.path());
        let said = check();
        assert!(said.contains(told) && said.contains("the registry gets 0004_secret"), "{said}");
        assert!(said.contains("`pawl backup create` first"), "{said}");
        assert_eq!(files(dir.path()), before, "{fixture}");
        let server = Server::start(dir.path(), &[]);
        server.ok("/v1/checkpoints", "");
        // Beside the running server.
        let said = check();
        assert!(
            said.contains("was written by this fold")
                && said.contains("goes on from the checkpoint"),
            "{said}"
        );
        assert!(!said.contains("backup"), "{said}");
    }
}

#[test]
fn an_empty_directory_is_nothing_to_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    for data in [dir.path().to_owned(), dir.path().join("absent")] {
        let output = pawl().args(["serve", "--check", "--data"]).arg(data).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
