//! The end of a model.

use serde_json::{Value, json};

use crate::process::Server;

const DECIDE: &str = "/v1/models/router/decide";

fn pawl(server: &Server, arguments: &[&str]) -> (bool, String) {
    let output = server.command(arguments);
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Archived it answers no more and still learns; deleted it is gone, over kill -9 too, and nothing of it is in another's way.
#[test]
fn an_archived_model_learns_on_and_a_deleted_one_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    server.create_router();
    let decided = |server: &Server| server.ok(DECIDE, r#"{"context": {"prompt_tokens": 5}}"#);
    let ids: Vec<Value> = (0..3).map(|_| decided(&server)["decision_id"].clone()).collect();
    let body = |id: &Value| json!({"decision_id": id, "metrics": {"quality": 1}}).to_string();
    server.ok("/v1/feedback", &body(&ids[0]));

    let (done, told) = pawl(&server, &["model", "delete", "router"]);
    assert!(!done && told.contains("not_archived") && told.contains("archive it first"), "{told}");
    assert!(pawl(&server, &["model", "archive", "router"]).0);
    for _ in 0..2 {
        let (status, code, detail) = server.refused(DECIDE, r#"{"context": {}}"#);
        assert_eq!((status, code.as_str()), (410, "model_archived"), "{detail}");
        assert!(pawl(&server, &["model", "list"]).1.contains("archived"));
        server.kill();
        server = Server::start(dir.path(), &[]);
    }
    server.ok("/v1/feedback", &body(&ids[1]));
    assert!(pawl(&server, &["model", "unarchive", "router"]).0);
    decided(&server);
    assert_eq!(server.json("/v1/models/router")["feedback"]["learned"], 2);

    assert!(pawl(&server, &["model", "archive", "router"]).0);
    assert!(pawl(&server, &["model", "delete", "router"]).0);
    for _ in 0..2 {
        let (status, code, _) = server.refused(DECIDE, r#"{"context": {}}"#);
        assert_eq!((status, code.as_str()), (404, "model_not_found"));
        assert_eq!(server.json("/v1/models")["models"], json!([]));
        let (status, _, _) = server.refused("/v1/feedback", &body(&ids[2]));
        assert_eq!(status, 404);
        server.kill();
        server = Server::start(dir.path(), &[]);
    }
    let spec = dir.path().join("router.toml");
    std::fs::write(&spec, crate::process::ROUTER).unwrap();
    for arguments in [&["model", "create"][..], &["apply", "-f"], &["apply", "--dry-run", "-f"]] {
        let (done, told) = pawl(&server, &[arguments, &[spec.to_str().unwrap()]].concat());
        assert!(!done && told.contains("was deleted") && told.contains("another name"), "{told}");
    }
    assert_eq!(server.get("/v1/models/router").status(), 410);
    // What it decided, and what came of that, can be read until it is trimmed.
    let decisions = server.json("/v1/models/router/decisions")["decisions"].clone();
    let feedback = server.json("/v1/models/router/feedback")["feedback"].clone();
    assert!(decisions.as_array().unwrap().len() >= 3 && !feedback.as_array().unwrap().is_empty());
    server.json(&format!("/v1/decisions/{}", decisions[0]["decision_id"].as_str().unwrap()));
    std::fs::write(&spec, crate::process::ROUTER.replace("\"router\"", "\"second\"")).unwrap();
    assert!(pawl(&server, &["model", "create", spec.to_str().unwrap()]).0);
    server.ok("/v1/models/second/decide", r#"{"context": {"prompt_tokens": 5}}"#);
    assert_eq!(server.terminate(), Some(0));
    let replay =
        crate::process::pawl().args(["log", "replay", "--data"]).arg(dir.path()).output().unwrap();
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
}
