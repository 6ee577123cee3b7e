//! `log = "encoded"`: what the log keeps of words is under a key of the data directory, and what is learned goes with it.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::{Value, json};

use crate::process::{Server, pawl};

const CHURN: &str = r#"
schema = 1
name = "churn"
kind = "classifier"
[label]
classes = ["stay", "leave"]
[features]
calls = { type = "number" }
plan = { type = "category", bits = 16, log = "encoded" }
note = { type = "text", log = "encoded" }
[learner]
algorithm = "sgd"
"#;

const ROUTER: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["big", "small"]
[features]
user = { type = "category", bits = 16, log = "encoded" }
prompt = { type = "text", bits = 16, log = "encoded" }
[metrics]
quality = { bounds = [0, 1] }
[[rules]]
name = "no_small"
when = { user = "sensitive-user" }
deny = ["small"]
[learner]
algorithm = "uniform"
"#;

fn create(server: &Server, spec: &str) {
    let spec = pawl_domain::ModelSpec::from_toml(spec).unwrap().check().unwrap();
    server.ok("/v1/models", &spec.to_json());
}

/// Decides for five users. Returns what the log keeps of each context.
fn kept(server: &Server) -> Vec<Value> {
    let of = |k: u32| {
        let context = json!({"user": 4711 + k, "prompt": format!("my secretword {k}")});
        let decided =
            server.ok("/v1/models/router/decide", &json!({"context": context}).to_string());
        let id = decided["decision_id"].as_str().unwrap();
        server.json(&format!("/v1/decisions/{id}"))["context"].clone()
    };
    (0..5).map(of).collect()
}

fn slots(context: &Value, feature: &str) -> Vec<u64> {
    let slots = context[feature]["pawl:slots"].as_array().unwrap();
    slots.iter().map(|s| s[0].as_u64().unwrap()).collect()
}

fn holds(directory: &Path, text: &str) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, text);
        }
        std::fs::read(&path).unwrap().windows(text.len()).any(|w| w == text.as_bytes())
    })
}

/// One word is one slot in one directory, also after a kill and in a restored backup; in another directory it is another one. Rules
/// still see the word.
#[test]
fn a_word_is_a_slot_that_its_directory_alone_knows() {
    let dirs = [0, 1, 2, 3].map(|_| tempfile::tempdir().unwrap());
    let data = dirs[0].path().join("data");
    let mut server = Server::start(&data, &[]);
    create(&server, ROUTER);
    // The key in it is its owner's alone.
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let registry = data.join("registry.sqlite");
    assert_eq!((mode(&data), mode(&registry)), (0o700, 0o600));
    assert_eq!(mode(&registry.with_extension("sqlite-wal")), 0o600);
    assert_eq!(mode(&data.join("artifacts")), 0o700);
    let first = kept(&server);
    assert_eq!(kept(&server), first);
    assert!((0..5).all(|k| slots(&first[k], "prompt").len() == 3));
    let users: Vec<_> = (0..5).map(|k| slots(&first[k], "user")).collect();
    // Without a key, a number below 2^16 is its own slot.
    assert!(users.iter().zip(4711..).filter(|(s, n)| s[0] == *n).count() < 2, "{users:?}");

    for _ in 0..20 {
        let body = r#"{"context": {"user": "sensitive-user"}}"#;
        assert_eq!(server.ok("/v1/models/router/decide", body)["action"], "big");
    }
    let backup = dirs[1].path().join("backup");
    let (to, restored) = (backup.to_str().unwrap(), dirs[2].path().join("data"));
    let said = server.command(&["backup", "create", "--to", to]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(mode(&backup), 0o700);
    server.kill();
    // An older version left it to be read by all; a group that an administrator let in stays.
    std::fs::set_permissions(&registry, std::fs::Permissions::from_mode(0o664)).unwrap();
    let server = Server::start(&data, &[]);
    assert_eq!(mode(&registry), 0o660);
    assert_eq!(kept(&server), first);
    assert_eq!(server.terminate(), Some(0));
    assert!(!holds(&data, "secretword"));

    let said = pawl().args(["restore", "--from", to, "--data"]).arg(&restored).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    assert_eq!(kept(&Server::start(&restored, &[])), first);
    let other = Server::start(dirs[3].path(), &[]);
    create(&other, ROUTER);
    let elsewhere = kept(&other);
    let same = |f| (0..5).filter(|k| slots(&elsewhere[*k], f) == slots(&first[*k], f)).count();
    assert!(same("user") < 2 && same("prompt") == 0, "{elsewhere:?}");
}

/// The record of a request with an id tells a repetition from another request, and nobody who guesses its body whether he is
/// right: not by an unkeyed hash, and after an erasure by none.
#[test]
fn a_request_cannot_be_guessed_from_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    create(&server, ROUTER);
    let body = |user: &str| {
        let context = json!({"user": user, "prompt": "hello"});
        json!({"request_id": "r1", "targeting_key": "u42", "context": context}).to_string()
    };
    let first = server.ok("/v1/models/router/decide", &body("alice"));
    assert_eq!(server.ok("/v1/models/router/decide", &body("alice")), first);
    let (status, code, _) = server.refused("/v1/models/router/decide", &body("bob"));
    assert_eq!((status, code.as_str()), (409, "request_id_reused"));
    let record = || {
        let disk = std::sync::Arc::new(pawl_store::RealDisk::look_into(&data).unwrap());
        let config = pawl_store::log::Config { read_only: true, ..Default::default() };
        let (log, _) = pawl_store::Log::open(disk, config, 0, false).unwrap();
        let mut reader = std::sync::Arc::new(log).reader(0);
        loop {
            if let pawl_domain::Event::Decided(d) = reader.next_entry().unwrap().unwrap().event {
                return d;
            }
        }
    };
    let before = record();
    let hash = before.caller.body_hash.unwrap();
    assert_ne!(hash, xxhash_rust::xxh3::xxh3_64(body("alice").as_bytes()));
    let erased = server.command(&["erase", "--targeting-key", "u42"]);
    assert!(erased.status.success(), "{erased:?}");
    // Ten bytes in the log can be any of 2^63 numbers: one is left of them.
    let after = record().caller.body_hash.unwrap();
    assert!(after != hash && after.is_power_of_two(), "{after}");
    assert_eq!(
        server.ok("/v1/models/router/decide", &body("alice"))["decision_id"],
        first["decision_id"]
    );

    // Nor does one without a context refuse its own repetition then.
    let bare = r#"{"request_id": "r2", "targeting_key": "u43", "context": {}}"#;
    let first = server.ok("/v1/models/router/decide", bare)["decision_id"].clone();
    assert!(server.command(&["erase", "--targeting-key", "u43"]).status.success());
    assert_eq!(server.ok("/v1/models/router/decide", bare)["decision_id"], first);
    let shown = server.json(&format!("/v1/decisions/{}", first.as_str().unwrap()));
    assert_eq!(shown["erased"], true);
}

fn leaves(server: &Server, plan: &str) -> f64 {
    let body = json!({"instances": [{"calls": 5, "plan": plan, "note": "hello"}]}).to_string();
    let reply = server.ok("/v1/models/churn/predict", &body);
    reply["predictions"][0]["probabilities"]["leave"].as_f64().unwrap()
}

/// What `pawl learn` learns from a file is of use where it asked for the key, and is refused elsewhere; what is learned from a
/// directory's own log goes with that directory's key.
#[test]
fn what_was_learned_of_words_goes_with_the_key() {
    let dirs = [0, 1, 2].map(|_| tempfile::tempdir().unwrap());
    let path = |name: &str| dirs[2].path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("churn.toml"), CHURN).unwrap();
    let (mut csv, mut lines) = ("calls,plan,note,label\n".to_owned(), String::new());
    for k in 0..400 {
        let (plan, label) = if k % 2 == 0 { ("gold", "stay") } else { ("lead", "leave") };
        csv.push_str(&format!("{},{plan},hello there,{label}\n", k % 10));
        let row = json!({"calls": k % 10, "plan": plan, "note": "hello there", "label": label});
        lines.push_str(&format!("{row}\n"));
    }
    std::fs::write(path("churn.csv"), csv).unwrap();
    std::fs::write(path("churn.jsonl"), lines).unwrap();

    let server = Server::start(dirs[0].path(), &[]);
    let learn = |server: &Server, data: &str, more: &[&str]| {
        let (spec, data) = (path("churn.toml"), data.to_owned());
        let said = server.command(&[&["learn", &spec, "--data", &data], more].concat());
        (said.status.success(), String::from_utf8([said.stdout, said.stderr].concat()).unwrap())
    };
    let (from_csv, from_lines) = (path("csv.safetensors"), path("lines.safetensors"));
    for (data, out) in [("churn.csv", &from_csv), ("churn.jsonl", &from_lines)] {
        let (ok, said) = learn(&server, &path(data), &["--out", out]);
        assert!(ok, "{said}");
    }
    assert_eq!(std::fs::read(&from_csv).unwrap(), std::fs::read(&from_lines).unwrap());
    let said = server.command(&["model", "create", &from_csv]);
    assert!(said.status.success(), "{said:?}");
    let (gold, lead) = (leaves(&server, "gold"), leaves(&server, "lead"));
    assert!(gold < 0.3 && lead > 0.7, "{gold} {lead}");
    let unknown = leaves(&server, "tin");
    assert!(gold < unknown && unknown < lead, "{unknown}");
    let changes = server.json("/v1/changes").to_string();
    assert!(changes.contains("hash_key.read"), "{changes}");

    // Examples that came to the server are stored under the key, and learned again from its directory.
    let example =
        |plan: &str, label: &str| json!({"context": {"calls": 5, "plan": plan}, "label": label});
    let rows: Vec<_> =
        (0..60).flat_map(|_| [example("gold", "stay"), example("lead", "leave")]).collect();
    server.ok("/v1/models/churn/examples", &json!({"examples": rows}).to_string());
    let cut = path("cut.safetensors");
    let said = server.command(&["version", "cut", "churn", "--out", &cut]);
    assert!(said.status.success(), "{said:?}");
    let other = Server::start(dirs[1].path(), &[]);
    for file in [&from_csv, &cut] {
        let said = other.command(&["model", "create", file]);
        let told = String::from_utf8(said.stderr).unwrap();
        assert!(!said.status.success() && told.contains("hashed under the key"), "{told}");
    }
    assert_eq!(server.terminate(), Some(0));
    let data = dirs[0].path().to_str().unwrap().to_owned();
    let out = path("log.safetensors");
    let (ok, said) = learn(&other, &data, &["--out", &out]);
    assert!(ok && said.contains("120"), "{said}");
    assert!(!other.command(&["model", "create", &out]).status.success());
    let server = Server::start(dirs[0].path(), &[]);
    let said = server.command(&["version", "create", &out]);
    assert!(said.status.success(), "{said:?}");
    assert!(leaves(&server, "gold") < leaves(&server, "lead"));

    // Without a server to ask there is no key, and nothing to leave; without anything to leave, none is needed.
    let nowhere = ["--server", "http://127.0.0.1:9"];
    let (ok, said) = learn(&server, &path("churn.csv"), &[&nowhere[..], &["--out", &out]].concat());
    assert!(!ok && said.contains("hashed under the key of the server"), "{said}");
    let (ok, said) = learn(&server, &path("churn.csv"), &nowhere);
    assert!(ok, "{said}");
}

#[test]
fn only_an_admin_reads_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    let key = |server: &Server, name: &str, scopes: &[&str]| {
        let body = json!({"name": name, "scopes": scopes, "model": "*"}).to_string();
        server.ok("/v1/keys", &body)["secret"].as_str().unwrap().to_owned()
    };
    let root = key(&server, "root", &["admin"]);
    server.key = Some(root.clone());
    server.key = Some(key(&server, "reader", &["decide", "feedback", "read", "context"]));
    assert_eq!(server.get("/v1/models/churn/hash-key").status(), 403);
    server.key = Some(root);
    let shown = server.json("/v1/models/churn/hash-key");
    assert_eq!(shown["hash_key"].as_str().unwrap().len(), 64);
    assert_eq!(shown, server.json("/v1/models/churn/hash-key"));
    assert_ne!(shown["hash_key"], server.json("/v1/models/other/hash-key")["hash_key"]);
}
