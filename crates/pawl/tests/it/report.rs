//! `pawl report` on a month of traffic whose saving is known.

use std::sync::Arc;

use pawl_domain::{
    DecisionId, Event, LearnerId, Position,
    event::{Caller, Decided, Feedback, Outcome, Target},
};
use pawl_stats::rng::uniform;
use pawl_store::{
    Log, RealDisk,
    log::{Batch, Config},
};
use serde_json::Value;

use crate::process::Server;

const SPEC: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["large", "small"]

[features]
tokens = { type = "number", scale = "log" }

[metrics]
quality  = { bounds = [0, 1] }
cost_usd = { goal = "min", explore = false, features = ["tokens:raw"] }

[objective]
incumbent = "large"
holdback = 0.05
weights = { quality = 1.0, cost_usd = -30.0 }

[learner]
algorithm = "linear_thompson"
"#;

const DAY_MS: u64 = 86_400_000;
const DECISIONS: u64 = 6000;

/// Writes a month of decisions and feedback behind what the log holds. Returns the parts of the incumbent's cost and quality
/// that were served.
fn write_month(data: &std::path::Path, from_ms: u64) -> [f64; 2] {
    let disk = Arc::new(RealDisk::open(data).unwrap());
    let config = Config { segment_bytes: 64 << 20, read_only: false };
    let (log, _) = Log::open(disk, config, 0, false).unwrap();
    let mut sums = [[0.0; 2]; 2];
    for t in 0..DECISIONS {
        let u = |k: u64| uniform(9, 8 * t + k);
        let at_ms = from_ms + t * 30 * DAY_MS / DECISIONS;
        let day = t as f64 / DECISIONS as f64;
        // The policy comes to give two thirds to the small one, and more of the long requests.
        let tokens = 50.0 - 400.0 * (1.0 - u(0)).ln();
        let small = day.min(0.4) * if tokens > 400.0 { 2.2 } else { 1.4 };
        let probabilities = vec![1.0 - small, small];
        let chosen = u16::from(u(1) < small);
        let cost = [tokens * 1e-5, tokens * 2e-6];
        let quality = [0.9, 0.87].map(|q| f64::from(u8::from(u(2) < q)));
        for (sum, values) in sums.iter_mut().zip([cost, quality]) {
            sum[0] += values[usize::from(chosen)];
            sum[1] += values[0];
        }
        let decided = Decided {
            epoch: log.epoch(),
            nonce: t,
            at_ms,
            model: "router".parse().unwrap(),
            version: semver::Version::new(1, 0, 0),
            learner: LearnerId(1),
            snapshot: 0,
            clock: t,
            context: format!("{{\"tokens\":{tokens:?}}}"),
            eligible: vec![0, 1],
            removed: Vec::new(),
            probabilities,
            chosen,
            outcome: Outcome::Ok,
            reason: None,
            caller: Caller::default(),
            metrics: Vec::new(),
        };
        let mut batch = Batch::default();
        batch.push(&Event::Decided(decided));
        let position = Position { partition: 0, offset: log.append(&mut batch).unwrap().first };
        let mut metrics = vec![("cost_usd".to_owned(), cost[usize::from(chosen)])];
        // Quality is known of a third.
        if u(3) < 0.33 {
            metrics.push(("quality".to_owned(), quality[usize::from(chosen)]));
        }
        let id = DecisionId { epoch: log.epoch(), position, nonce: t };
        log.append_event(&Event::Feedback(Feedback {
            target: Target::Decision(id),
            received_ms: at_ms,
            at_ms: None,
            metrics,
            action_taken: None,
            not_used: false,
            principal: None,
            metadata: None,
        }))
        .unwrap();
    }
    log.sync().unwrap();
    sums.map(|[served, incumbent]| served / incumbent)
}

fn report(server: &Server, arguments: &[&str]) -> Value {
    let output = server.command(&[&["report", "router", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_report_of_a_month_holds_what_is_true_and_is_one_page() {
    let dir = tempfile::tempdir().unwrap();
    let spec = dir.path().join("router.toml");
    std::fs::write(&spec, SPEC).unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let created = server.command(&["model", "create", spec.to_str().unwrap()]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let empty = report(&server, &[]);
    assert_eq!((&empty["decisions"], empty["pages"].as_array().unwrap().len()), (&0.into(), 0));
    let text = server.command(&["report", "router"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("not enough evidence yet: 0 values of the incumbent"), "{text}");
    assert_eq!(server.terminate(), Some(0));

    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let truth = write_month(&data, now_ms.as_millis() as u64 - 30 * DAY_MS);
    let server = Server::start(&data, &[]);
    let month = report(&server, &["--since", "31d"]);
    assert_eq!(month["decisions"], DECISIONS);
    for (metric, truth) in ["cost_usd", "quality"].iter().zip(truth) {
        let metric = &month["metrics"][metric];
        let relative = &metric["relative"]["interval"];
        let [low, high] = [0, 1].map(|i| relative[i].as_f64().unwrap());
        assert!((low..=high).contains(&truth), "{truth} {metric}");
        assert!(high - low < 0.06, "{metric}");
    }
    // Everything was measured of cost, a third of quality.
    assert_eq!(month["metrics"]["cost_usd"]["n"], DECISIONS as f64);
    let part = month["metrics"]["quality"]["n"].as_f64().unwrap() / DECISIONS as f64;
    assert!((part - 0.33).abs() < 0.02, "{part}");
    assert!((30..=31).contains(&month["pages"].as_array().unwrap().len()), "{}", month["pages"]);
    assert_eq!(month["changes"][0]["action"], "model.create");
    let week = report(&server, &["--since", "7d"]);
    let decisions = week["decisions"].as_f64().unwrap();
    assert!((1390.0..1620.0).contains(&decisions), "{decisions}");
    let refused = server.command(&["report", "router", "--since", "yesterday"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("`yesterday` is neither a duration such as `7d`"), "{told}");

    let page =
        std::env::var_os("PAWL_REPORT").map_or_else(|| dir.path().join("report.html"), Into::into);
    let path = page.to_str().unwrap();
    report(&server, &["--since", "31d", "-o", path]);
    let html = std::fs::read_to_string(&page).unwrap();
    for outside in ["<script", "http://", "https://", "@import", "url("] {
        assert!(!html.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
    }
    assert!(html.matches("<svg").count() == 5 && html.contains("cost_usd saved"));
    // After kill -9 the books are as they were.
    let mut server = server;
    server.kill();
    let server = Server::start(&data, &[]);
    assert_eq!(report(&server, &["--since", "31d"])["metrics"], month["metrics"]);
}
