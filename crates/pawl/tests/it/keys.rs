//! Keys: from open to closed, scopes, revocation at once.

use std::process::Command;

use crate::process::{Server, pawl};

fn create(server: &Server, arguments: &[&str]) -> String {
    let output = server.command(&[&["key", "create"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().next().unwrap().to_owned()
}

#[test]
fn a_key_opens_what_its_scope_says_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    server.create_router();
    let first = server.command(&["key", "create", "gateway", "--scope", "decide"]);
    assert!(
        String::from_utf8_lossy(&first.stderr)
            .contains("the first key must have the scope `admin`")
    );
    let admin = create(&server, &["root", "--scope", "admin"]);
    assert!(admin.starts_with("pawl_") && admin.len() == 69);
    let decide = r#"{"context": {}}"#;
    assert_eq!(server.refused("/v1/models/router/decide", decide).1, "unauthenticated");
    server.key = Some(admin.clone());
    server.ok("/v1/models/router/decide", decide);
    let gateway = create(
        &server,
        &["gateway", "--scope", "decide", "--scope", "feedback", "--model", "rout*"],
    );
    let other = create(&server, &["other", "--scope", "decide", "--model", "team-b.*"]);
    server.key = Some(other);
    assert_eq!(server.refused("/v1/models/router/decide", decide).1, "forbidden");
    server.key = Some(gateway.clone());
    let id =
        server.ok("/v1/models/router/decide", decide)["decision_id"].as_str().unwrap().to_owned();
    assert_eq!(server.get("/v1/models/router").status().as_u16(), 403);
    assert_eq!(server.refused("/v1/keys", r#"{"name": "x", "scopes": ["admin"]}"#).1, "forbidden");
    server.key = Some(admin);
    assert_eq!(server.json(&format!("/v1/decisions/{id}"))["principal"], "gateway");
    let revoked = server.command(&["key", "revoke", "gateway"]);
    assert!(revoked.status.success());
    let changes = server.json("/v1/changes");
    let last = changes["changes"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (last["action"].as_str(), last["principal"].as_str()),
        (Some("key.revoke"), Some("root"))
    );
    server.key = Some(gateway.clone());
    assert_eq!(server.refused("/v1/models/router/decide", decide).1, "unauthenticated");
    // The secret is nowhere in the data directory.
    let found =
        Command::new("grep").args(["-r", "-l", "-a", &gateway]).arg(dir.path()).output().unwrap();
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
}

#[test]
fn an_open_address_needs_a_key_or_the_word() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        pawl().args(["serve", "--listen", "0.0.0.0:0", "--data"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("not a loopback address") && said.contains("--insecure"), "{said}");
}

/// `read` is not enough for what decisions say of a person; with `context` it is shown, and who read it is in the audit trail.
#[test]
fn contexts_need_their_own_scope_and_reading_them_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    server.create_router();
    server.key = Some(create(&server, &["root", "--scope", "admin"]));
    let body = r#"{"context": {"prompt_tokens": 41}, "targeting_key": "user-42", "session_id": "s", "metadata": {"ip": "x"}}"#;
    let decided = server.ok("/v1/models/router/decide", body);
    let id = decided["decision_id"].as_str().unwrap().to_owned();
    let reader = create(&server, &["reader", "--scope", "read"]);
    let doctor = create(&server, &["doctor", "--scope", "read", "--scope", "context"]);
    let readings = |server: &Server| {
        let changes = server.json("/v1/changes?after=0");
        let all = changes["changes"].as_array().unwrap().clone();
        let read = all.into_iter().filter(|c| c["action"] == "context.read");
        read.map(|c| {
            format!("{} {}", c["principal"].as_str().unwrap(), c["after"].as_str().unwrap())
        })
        .collect::<Vec<_>>()
    };
    let root = server.key.replace(reader);
    let shown = server.json(&format!("/v1/decisions/{id}"));
    let listed = server.json("/v1/models/router/decisions")["decisions"][0].clone();
    for hidden in [shown, listed] {
        for field in ["context", "targeting_key", "session_id", "metadata"] {
            assert!(hidden[field].is_null(), "{hidden}");
        }
        assert_eq!(
            (&hidden["action"], hidden["hidden"].as_array().unwrap().len()),
            (&decided["action"], 4)
        );
    }
    assert_eq!(server.get(&format!("/v1/decisions/{id}/explain")).status().as_u16(), 403);
    for query in ["context=true", "targeting_key=user-42", "session_id=s"] {
        let asked = server.get(&format!("/v1/models/router/decisions?{query}")).status();
        assert_eq!(asked.as_u16(), 403, "{query}");
    }
    let told = server.command(&["decision", "show", &id]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("lacks the scope `context`"));
    server.key = root.clone();
    assert_eq!(readings(&server), Vec::<String>::new());

    server.key = Some(doctor);
    assert_eq!(server.json(&format!("/v1/decisions/{id}"))["targeting_key"], "user-42");
    assert_eq!(server.json(&format!("/v1/decisions/{id}/explain"))["context"]["prompt_tokens"], 41);
    let listed = server.json("/v1/models/router/decisions");
    assert_eq!(listed["decisions"][0]["metadata"]["ip"], "x");
    server.json("/v1/models/router/decisions?context=false");
    server.key = root;
    let by = |request: &str| format!("doctor {{\"decisions\":1,\"request\":\"{request}\"}}");
    assert_eq!(readings(&server), ["show", "explain", "list"].map(by));
    // It changed nothing of the model.
    assert_eq!(server.json("/v1/models/router")["last_change"]["action"], "model.create");
}
