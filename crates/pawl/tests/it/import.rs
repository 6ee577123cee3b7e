//! From one's own log to a model that has learned from it: `pawl init`, `pawl import`.

use pawl_stats::rng::uniform;

use crate::process::{Server, pawl};

fn run(dir: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let output = pawl().current_dir(dir).args(arguments).output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// `small` fails at code, and costs a tenth.
fn log() -> String {
    let mut text = String::new();
    for i in 0..3000_u64 {
        let code = uniform(1, i) < 0.4;
        let small = uniform(2, i) < 0.3;
        let good = u8::from(!(small && code) || uniform(3, i) < 0.2);
        let (task, action, cost) = (
            if code { "code" } else { "chat" },
            if small { "small" } else { "large" },
            if small { 0.001 } else { 0.01 },
        );
        let p = if small { 0.3 } else { 0.7 };
        let n = 100 + i % 900;
        text.push_str(&format!(
            "{{\"at\":{},\"user_id\":\"u{}\",\"task\":\"{task}\",\"n_chars\":{n},\"action\":\"{action}\",\
             \"probability\":{p},\"quality\":{good},\"cost_usd\":{cost}}}\n",
            1_700_000_000_000 + i,
            i % 17
        ));
    }
    text
}

#[test]
fn a_log_becomes_a_spec_and_warms_a_model() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log.jsonl"), log()).unwrap();
    let (ok, said) = run(dir.path(), &["init", "--data", "log.jsonl", "-o", "router.toml"]);
    assert!(ok, "{said}");
    let spec = std::fs::read_to_string(dir.path().join("router.toml")).unwrap();
    for line in [
        "actions = [\"large\", \"small\"]",
        "task = { type = \"category\", vocabulary = [\"chat\", \"code\"] }",
        "quality = { bounds = [0, 1] }",
        "cost_usd = { goal = \"min\", explore = false }",
        "incumbent = \"large\"",
        "# user_id: says whose",
    ] {
        assert!(spec.contains(line), "{line}: {spec}");
    }
    let (ok, said) = run(dir.path(), &["spec", "check", "router.toml"]);
    assert!(ok, "{said}");

    // Weights instead of the floor, so that what was learned shows at once.
    let weighted = spec
        .lines()
        .filter(|l| !["minimize", "keep", "holdback", "ramp"].iter().any(|k| l.starts_with(k)))
        .map(|l| {
            if l.starts_with("[objective]") {
                "[objective]\nweights = { quality = 1.0, cost_usd = -10.0 }"
            } else {
                l
            }
        })
        .collect::<Vec<_>>()
        .join("\n");
    std::fs::write(dir.path().join("w.toml"), weighted).unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    assert!(server.command(&["model", "create", &at("w.toml")]).status.success());
    let imported = server.command(&["import", "router", "--data", &at("log.jsonl")]);
    let said = String::from_utf8_lossy(&imported.stdout).into_owned();
    assert!(imported.status.success() && said.contains("3000 decisions imported"), "{said}");
    let position = said.rsplit(' ').next().unwrap().trim().to_owned();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while server.json("/v1/models/router")["feedback"]["learned"] != 6000 {
        assert!(std::time::Instant::now() < deadline, "not folded up to {position}");
        std::thread::yield_now();
    }
    let model = server.json("/v1/models/router");
    let expected = log().lines().filter(|l| l.contains("\"small\"")).count();
    let small = &model["actions"]["small"];
    assert_eq!(
        (&small["decisions"], &small["not_by_policy"]),
        (&expected.into(), &expected.into())
    );
    let chooses = |task: &str| {
        let body = format!("{{\"context\":{{\"task\":\"{task}\",\"n_chars\":500}}}}");
        server.ok("/v1/models/router/decide", &body)["action"].as_str().unwrap().to_owned()
    };
    let count = |task: &str, action: &str| (0..20).filter(|_| chooses(task) == action).count();
    assert!(count("chat", "small") >= 18 && count("code", "large") >= 18);

    // A row that does not fit is told with its number, and what was sent before it stays.
    let bad = log().replacen("\"action\":\"small\"", "\"action\":\"tiny\"", 1);
    std::fs::write(dir.path().join("bad.jsonl"), bad).unwrap();
    let refused = server.command(&["import", "router", "--data", &at("bad.jsonl")]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("`tiny`, which is none of the spec's"),
        "{told}"
    );
}
