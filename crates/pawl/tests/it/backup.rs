//! Backups of a server that goes on deciding, and what is made of them.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use pawl_stats::rng::Stream;
use pawl_store::backup;
use serde_json::{Value, json};

use crate::process::{Server, pawl};

const DECIDE: &str = "/v1/models/router/decide";

fn run(server: &Server, arguments: &[&str]) -> Value {
    let output = server.command(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two backups into one directory while decisions, feedback and changes go on; the second copies only what is new.
fn back_up_under_load(server: &Server, to: &str) -> [Value; 2] {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = Stop(&stop);
        for thread in 0..3 {
            let stop = &stop;
            scope.spawn(move || {
                for k in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let requests: Vec<Value> =
                        (0..50).map(|i| json!({"context": {"prompt_tokens": i + k}})).collect();
                    let body = json!({"requests": requests}).to_string();
                    let reply = server.ok("/v1/models/router/decide/batch", &body);
                    let events: Vec<Value> = reply["decisions"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|d| json!({"decision_id": d["decision_id"], "metrics": {"quality": k % 2}}))
                        .collect();
                    server.ok("/v1/feedback", &json!({"events": events}).to_string());
                    if thread == 0 && k % 5 == 0 {
                        let lever = json!({"lever": "explore", "on": k % 10 == 0}).to_string();
                        server.ok("/v1/models/router/levers", &lever);
                    }
                }
            });
        }
        let first = run(server, &["backup", "create", "--to", to]);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let second = run(server, &["backup", "create", "--to", to]);
        drop(ended);
        [first, second]
    })
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Each single flipped byte of 200 is found.
fn flip(directory: &Path) {
    let files = files(directory);
    let mut stream = Stream::new(31);
    for _ in 0..200 {
        let path = &files[stream.below(files.len() as u64) as usize];
        let mut bytes = std::fs::read(path).unwrap();
        let at = stream.below(bytes.len() as u64) as usize;
        let bit = 1 << stream.below(8);
        bytes[at] ^= bit;
        std::fs::write(path, &bytes).unwrap();
        assert!(backup::verify(directory).is_err(), "byte {at} of {}", path.display());
        bytes[at] ^= bit;
        std::fs::write(path, &bytes).unwrap();
    }
    backup::verify(directory).unwrap();
}

#[test]
fn a_backup_under_load_restores_to_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pawl.toml");
    std::fs::write(&config, "[log]\nsegment_bytes = 65536\n").unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let server = Server::start(&dir.path().join("data"), &config);
    server.create_router();
    let directory = dir.path().join("backup");
    let to = directory.to_str().unwrap();
    let [first, second] = back_up_under_load(&server, to);
    assert!(second["copied"].as_u64() < second["files"].as_u64(), "{first} {second}");
    // Decided after the backup: the restored server knows nothing of it.
    let late = server.ok(DECIDE, r#"{"context": {}}"#)["decision_id"].clone();
    assert_eq!(run(&server, &["backup", "verify", to])["state_sha256"], second["state_sha256"]);
    flip(&directory);
    let restored = dir.path().join("restored");
    let data = restored.to_str().unwrap();
    run(&server, &["restore", "--from", to, "--data", data]);
    let again = server.command(&["restore", "--from", to, "--data", data]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));
    let at = second["position"].as_str().unwrap();
    let replay =
        pawl().args(["log", "replay", "--json", "--at", at, "--data", data]).output().unwrap();
    let said = String::from_utf8(replay.stdout).unwrap();
    assert!(said.contains(second["state_sha256"].as_str().unwrap()), "{said} {second}");
    let other = Server::start(&restored, &config);
    let feedback = json!({"decision_id": late, "metrics": {"quality": 1}}).to_string();
    let refused = other.refused("/v1/feedback", &feedback);
    assert_eq!((refused.0, refused.1.as_str()), (404, "decision_not_found"));
    let decision = other.ok(DECIDE, r#"{"context": {}}"#);
    let feedback = json!({"decision_id": decision["decision_id"], "metrics": {"quality": 1}});
    other.ok("/v1/feedback", &feedback.to_string());
    assert_eq!(other.json("/v1/models/router")["production"], "1.0.0");
    // Nothing but what belongs to a backup can be read, and only by who may do everything.
    for path in [
        "lock",
        "log/../lock",
        "artifacts/../registry.sqlite",
        "pawl.toml",
        "artifacts/..",
        "log/00000000000000000000.sex",
    ] {
        let status = other.get(&format!("/v1/backups/file?path={path}&bytes=10")).status();
        assert_eq!(status.as_u16(), 404, "{path}");
    }
}
