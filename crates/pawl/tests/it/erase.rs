//! What is erased is gone from every file, and what is left is exact.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{Server, pawl};

const SPEC: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["big", "small"]
[features]
word = { type = "category" }
note = { type = "text" }
n = { type = "number" }
[metrics]
quality = { bounds = [0, 1] }
[learner]
algorithm = "linear_thompson"
covariance = "block"
"#;

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The files that hold a text.
fn holding(data: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    };
    files(data).into_iter().filter(holds).collect()
}

fn decide(server: &Server, user: &str, k: u64) -> String {
    let body = json!({
        "context": {"word": format!("{user}-word-{}", k % 5), "note": format!("{user} wrote secret{k}"), "n": k % 7},
        "targeting_key": format!("{user}@example.org"), "session_id": format!("{user}-session"),
        "metadata": {"from": format!("{user}-metadata")},
    });
    let reply = server.ok("/v1/models/router/decide", &body.to_string());
    reply["decision_id"].as_str().unwrap().to_owned()
}

fn feedback(server: &Server, id: &str, quality: u64) {
    let body = json!({"decision_id": id, "metrics": {"quality": quality}});
    server.ok("/v1/feedback", &body.to_string());
}

/// The digest of the state as a fresh replay of the log finds it, at the newest checkpoint.
fn replayed(data: &Path) -> Value {
    let output = pawl().args(["log", "replay", "--json", "--data"]).arg(data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Erases one of three, and looks for him in every file.
fn erase_bob(server: &Server, data: &Path) {
    let none = server.command(&["erase", "--targeting-key", "nobody"]);
    assert!(String::from_utf8(none.stdout).unwrap().contains("no decision"));
    let erased = server.command(&["erase", "--targeting-key", "bob@example.org"]);
    let said = String::from_utf8(erased.stdout).unwrap();
    assert!(erased.status.success() && said.starts_with("600 decisions"), "{said}");
    for mark in ["bob-word", "bob wrote", "bob@example.org", "bob-session", "bob-metadata"] {
        assert_eq!(holding(data, mark), Vec::<PathBuf>::new(), "{mark}");
    }
    for other in ["alice wrote secret17", "carol-metadata"] {
        assert!(!holding(data, other).is_empty(), "{other}");
    }
    let changes = server.json("/v1/changes");
    let last = changes["changes"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["action"], "erase");
    assert!(last["subject"].as_str().unwrap().starts_with("sha256:"), "{last}");
}

/// Waits until so many values were learned and so many came late.
fn settled(server: &Server, (learned, late): (u64, u64)) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let f = server.json("/v1/models/router")["feedback"].clone();
        if (f["learned"].as_u64(), f["late"].as_u64()) == (Some(learned), Some(late)) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{f}, not {learned} and {late}");
        std::thread::yield_now();
    }
}

#[test]
fn an_erased_person_is_in_no_file_and_the_rest_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (spec, config) = (dir.path().join("router.toml"), dir.path().join("pawl.toml"));
    std::fs::write(&spec, SPEC).unwrap();
    std::fs::write(&config, "[log]\nsegment_bytes = 65536\n").unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let mut server = Server::start(&data, &config);
    assert!(server.command(&["model", "create", spec.to_str().unwrap()]).status.success());
    let mut ids = Vec::new();
    for k in 0..600 {
        for user in ["alice", "bob", "carol"] {
            let id = decide(&server, user, k);
            // Some have their feedback, some wait for it when the person goes.
            if k % 3 != 0 {
                feedback(&server, &id, k % 2);
            }
            ids.push((user, k, id));
        }
        if k == 300 {
            server.ok("/v1/checkpoints", "");
        }
    }
    let marks =
        ["bob-word", "bob wrote", "secret", "bob@example.org", "bob-session", "bob-metadata"];
    assert!(marks.iter().all(|m| !holding(&data, m).is_empty()));

    erase_bob(&server, &data);

    // What comes late for the person teaches nothing; for others it does.
    let before = server.json("/v1/models/router")["feedback"].clone();
    let mut expected = (before["learned"].as_u64().unwrap(), before["late"].as_u64().unwrap());
    for (user, k, id) in ids.iter().filter(|(_, k, _)| k % 3 == 0) {
        feedback(&server, id, k % 2);
        if *user == "bob" { expected.1 += 1 } else { expected.0 += 1 }
    }
    for k in 600..700 {
        let id = decide(&server, "alice", k);
        feedback(&server, &id, k % 2);
        expected.0 += 1;
    }
    settled(&server, expected);
    let learned = server.json("/v1/models/router")["learners"][0]["state_sha256"].clone();
    let shown = server.json(&format!("/v1/decisions/{}", ids[1].2));
    assert_eq!(
        (&shown["context"], shown["targeting_key"].as_str().unwrap().trim()),
        (&json!({}), "")
    );
    let explained = server.get(&format!("/v1/decisions/{}/explain", ids[0].2));
    assert_eq!(explained.status().as_u16(), 410);

    // Recovery after kill -9 comes to the same, and so does a replay from the new base.
    server.kill();
    let server = Server::start(&data, &config);
    settled(&server, expected);
    assert_eq!(server.json("/v1/models/router")["learners"][0]["state_sha256"], learned);
    server.ok("/v1/checkpoints", "");
    assert_eq!(server.terminate(), Some(0));
    let replay = replayed(&data);
    assert_ne!(replay["from"], "0.0", "it begins at the base");
    let compared = replay["checkpoints"].as_array().unwrap();
    assert!(!compared.is_empty() && compared.iter().all(|c| c["equal"] == true), "{replay}");

    // Twice does no harm, and finds nothing more.
    let server = Server::start(&data, &config);
    let again = server.command(&["erase", "--targeting-key", "bob@example.org"]);
    assert!(String::from_utf8(again.stdout).unwrap().contains("no decision"));
}
