//! Sessions and budgets of the real binary, over kill -9.

use serde_json::{Value, json};

use crate::process::Server;

const DECIDE: &str = "/v1/models/m/decide";

fn create(server: &Server, extra: &str) {
    let spec = format!(
        "schema = 1\nname = \"m\"\nkind = \"policy\"\nactions = [\"a\", \"b\", \"c\"]\n[features]\n\
         tenant = {{ type = \"category\" }}\n[metrics]\nquality = {{ bounds = [0, 1] }}\n\
         cost = {{ goal = \"min\", explore = false }}\n[objective]\nincumbent = \"a\"\n\
         weights = {{ quality = 1.0, cost = -0.001 }}\n[learner]\nalgorithm = \"uniform\"\n{extra}\n"
    );
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), spec).unwrap();
    let output = server.command(&["model", "create", file.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn decide(server: &Server, session: &str) -> Value {
    let body = json!({"context": {"tenant": "acme"}, "session_id": session});
    server.ok(DECIDE, &body.to_string())
}

fn lever(server: &Server, body: &Value) {
    server.ok("/v1/models/m/levers", &body.to_string());
}

#[test]
fn a_session_repeats_what_was_drawn_while_it_is_eligible() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    create(&server, "[session]\nsticky = \"1h\"");
    let first = decide(&server, "s");
    assert_eq!(first["outcome"], "ok");
    for _ in 0..20 {
        let again = decide(&server, "s");
        assert_eq!(
            (&again["action"], &again["outcome"], &again["reason"]),
            (&first["action"], &json!("sticky"), &json!("session"))
        );
        assert_eq!(again["probability"], first["probability"]);
    }
    let others: std::collections::BTreeSet<String> =
        (0..60).map(|i| decide(&server, &format!("t{i}"))["action"].to_string()).collect();
    assert_eq!(others.len(), 3, "other sessions draw their own");

    // Without one of the others: it is drawn anew where that one had been drawn, 1/3 + 1/3 · 1/2.
    let drawn = first["action"].as_str().unwrap();
    let other = ["a", "b", "c"].into_iter().find(|a| *a != drawn).unwrap();
    lever(&server, &json!({"lever": "disable", "action": other}));
    let again = decide(&server, "s");
    assert_eq!((&again["action"], &again["outcome"]), (&first["action"], &json!("sticky")));
    assert!((again["probability"].as_f64().unwrap() - 0.5).abs() < 1e-12, "{again}");

    // Without itself: drawn anew, and that is repeated from then on, also after kill -9 and when the first may come back.
    lever(&server, &json!({"lever": "enable", "action": other}));
    lever(&server, &json!({"lever": "disable", "action": drawn}));
    let second = decide(&server, "s");
    assert_eq!(second["outcome"], "ok");
    assert_ne!(second["action"], first["action"]);
    lever(&server, &json!({"lever": "enable", "action": drawn}));
    server.kill();
    let server = Server::start(dir.path(), &[]);
    let again = decide(&server, "s");
    assert_eq!((&again["action"], &again["outcome"]), (&second["action"], &json!("sticky")));

    // What an operator orders goes before, and is not what is repeated.
    lever(&server, &json!({"lever": "pin", "action": drawn}));
    let pinned = decide(&server, "s");
    assert_eq!((&pinned["action"], &pinned["reason"]), (&first["action"], &json!("pinned")));
    lever(&server, &json!({"lever": "unpin"}));
    assert_eq!(decide(&server, "s")["action"], second["action"]);
    // A policy that decides nothing keeps no session.
    lever(&server, &json!({"lever": "ramp", "share": 0.0}));
    assert_eq!(decide(&server, "s")["action"], "a");

    let id = again["decision_id"].as_str().unwrap();
    let explained = server.command(&["decision", "explain", id]);
    assert!(explained.status.success(), "{}", String::from_utf8_lossy(&explained.stderr));
}

#[test]
fn a_session_ends_when_nothing_was_decided_in_it_for_so_long() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    create(&server, "[session]\nsticky = \"1ms\"");
    decide(&server, "s");
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(decide(&server, "s")["outcome"], "ok");
}

#[test]
fn feedback_on_a_session_is_for_its_decisions() {
    let feedback =
        |session: &str| json!({"model": "m", "session_id": session, "metrics": {"quality": 0.5}});
    for (credit, first, second) in [("all", 3, 5), ("last", 1, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(dir.path(), &[]);
        create(&server, &format!("[session]\ncredit = \"{credit}\""));
        (0..3).for_each(|_| drop(decide(&server, "s")));
        assert_eq!(
            decide(&server, "other")["outcome"],
            "ok",
            "without `sticky` nothing is repeated"
        );
        let reply = server.ok("/v1/feedback", &feedback("s").to_string());
        assert_eq!(reply["accepted"], 1);
        server.kill();
        let server = Server::start(dir.path(), &[]);
        assert_eq!(server.json("/v1/models/m")["feedback"]["learned"], first, "{credit}");
        (0..2).for_each(|_| drop(decide(&server, "s")));
        server.ok("/v1/feedback", &feedback("s").to_string());
        let wait = || server.json("/v1/models/m")["feedback"]["learned"] == second;
        assert!(
            (0..500).any(|_| wait() || {
                std::thread::sleep(std::time::Duration::from_millis(10));
                false
            }),
            "{credit}"
        );
        let (status, code, detail) =
            server.refused("/v1/feedback", &feedback("unknown").to_string());
        assert_eq!((status, code.as_str()), (404, "decision_not_found"), "{detail}");
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    create(&server, "");
    let (status, _, detail) = server.refused("/v1/feedback", &feedback("s").to_string());
    assert!(status == 422 && detail.contains("has no `[session]`"), "{status} {detail}");
}

/// What one tenant has spent is told by name, holds it back and nobody else, and stays over kill -9.
#[test]
fn a_spent_budget_answers_the_cheapest_for_that_tenant_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    create(
        &server,
        "[[budget]]\nmetric = \"cost\"\nper = \"week\"\nby = \"tenant\"\nmax = 20\non_exceed = \"cheapest_eligible\"",
    );
    let ask = |server: &Server, tenant: &str| {
        server.ok(DECIDE, &json!({"context": {"tenant": tenant}}).to_string())
    };
    let mut spent = 0.0;
    while spent < 20.0 {
        let decision = ask(&server, "acme");
        assert_eq!(decision["reason"], Value::Null, "{spent} of 20 are spent");
        let cost = match decision["action"].as_str().unwrap() {
            "a" => 3.0,
            "b" => 2.0,
            _ => 1.0,
        };
        spent += cost;
        let body = json!({"decision_id": decision["decision_id"], "metrics": {"cost": cost}});
        let position = server.ok("/v1/feedback", &body.to_string())["position"].clone();
        let reached = || {
            let dry = server.ok(DECIDE, &json!({"context": {}, "dry_run": true}).to_string());
            let place =
                |v: &Value| v.as_str().unwrap().strip_prefix("0.").unwrap().parse::<u64>().unwrap();
            place(&dry["position"]) >= place(&position)
        };
        while !reached() {
            std::thread::yield_now();
        }
    }
    for _ in 0..2 {
        let decision = ask(&server, "acme");
        assert_eq!(
            (&decision["reason"], &decision["probability"]),
            (&json!("budget"), &json!(1.0))
        );
        assert_eq!(ask(&server, "other")["reason"], Value::Null);
        server.kill();
        server = Server::start(dir.path(), &[]);
    }
    let shown = server.json("/v1/models/m/budgets");
    let budget = &shown["budgets"][0];
    assert_eq!((&budget["over"], &budget["spenders"]), (&json!(1), &json!(2)));
    let top = &budget["top"][0];
    assert_eq!(
        (&top["value"], &top["over"], &top["open"]),
        (&json!("acme"), &json!(true), &json!(2))
    );
    let seen = top["spent"].as_f64().unwrap() - top["of_which_expected"].as_f64().unwrap();
    assert!((seen - spent).abs() < 1e-9, "{top} of {spent}");
    let output = server.command(&["budget", "show", "m"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("20.0 of cost a week and tenant, then cheapest_eligible"), "{text}");
    assert!(text.contains("acme") && text.contains("over"), "{text}");
    let status = server.command(&["status", "m"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("one value of `tenant` has spent its 20 of `cost` this week"), "{text}");
}
