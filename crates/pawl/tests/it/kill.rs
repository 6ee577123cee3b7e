//! kill -9 under load: nothing acknowledged is lost, and the state is the one that was reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pawl_domain::{DecisionId, Event, Position, event::Target};
use pawl_driver::Fold;
use pawl_store::{Disk, RealDisk};
use serde_json::{Value, json};

use crate::process::Server;

/// What the clients were promised, outside of the process.
#[derive(Default)]
struct Promises {
    decisions: BTreeSet<String>,
    feedback: BTreeSet<(String, String)>,
    digests: BTreeMap<Position, String>,
}

fn number(seed: &mut u64, below: u64) -> u64 {
    *seed = pawl_stats::rng::mix(seed.wrapping_add(0x9E37_79B9));
    *seed % below
}

/// Decides and gives feedback until the server is gone.
fn client(server: &Server, promises: &Mutex<Promises>, done: &AtomicBool, mut seed: u64) {
    let send = |path: &str, body: &Value| -> Option<Value> {
        let response = server
            .http
            .post(format!("{}{path}", server.base))
            .body(body.to_string())
            .send()
            .ok()?;
        let ok = response.status().is_success();
        let text = response.text().ok()?;
        assert!(ok, "{path}: {text}");
        serde_json::from_str(&text).ok()
    };
    while !done.load(Ordering::Acquire) {
        let context = json!({"task": "code", "prompt_tokens": number(&mut seed, 2000)});
        let Some(decision) = send("/v1/models/router/decide", &json!({"context": context})) else {
            return;
        };
        let id = decision["decision_id"].as_str().unwrap().to_owned();
        promises.lock().unwrap().decisions.insert(id.clone());
        for metric in ["quality", "cost_usd"] {
            if number(&mut seed, 3) == 0 {
                continue;
            }
            let body = json!({"decision_id": id, "metrics": {metric: number(&mut seed, 2)}});
            if send("/v1/feedback", &body).is_none() {
                return;
            }
            promises.lock().unwrap().feedback.insert((id.clone(), metric.to_owned()));
        }
    }
}

fn watch(server: &Server, promises: &Mutex<Promises>, done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        let response = server.http.get(format!("{}/v1/log?state", server.base)).send();
        let Some(text) = response.ok().and_then(|r| r.text().ok()) else { return };
        let Ok(value) = serde_json::from_str::<Value>(&text) else { return };
        let position = value["state"]["position"].as_str().unwrap().parse().unwrap();
        let digest = value["state"]["sha256"].as_str().unwrap().to_owned();
        promises.lock().unwrap().digests.insert(position, digest);
        std::thread::sleep(Duration::from_millis(7));
    }
}

/// Folds the log of a dead server from its first record and checks every promise.
fn check(data: &Path, promises: &Promises) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(data).unwrap());
    let (mut fold, from) = Fold::replay(&disk).unwrap();
    assert_eq!(from, 0);
    let log = fold.log().clone();
    let (mut decisions, mut feedback) = (BTreeSet::new(), BTreeSet::new());
    let mut reader = log.reader(0);
    while let Some(entry) = reader.next_entry().unwrap() {
        match entry.event {
            Event::Decided(d) => {
                let position = Position { partition: 0, offset: entry.offset };
                decisions.insert(d.id(position).to_string());
            }
            Event::Feedback(f) => {
                if let Target::Decision(id @ DecisionId { .. }) = f.target {
                    feedback.extend(f.metrics.into_iter().map(|(name, _)| (id.to_string(), name)));
                }
            }
            _ => {}
        }
    }
    assert!(promises.decisions.is_subset(&decisions), "a decision that was answered is lost");
    assert!(promises.feedback.is_subset(&feedback), "feedback that was acknowledged is lost");
    for (position, digest) in &promises.digests {
        while fold.position() < position.offset && fold.step().unwrap() {}
        assert_eq!(fold.position(), position.offset);
        assert_eq!(fold.engine().state_sha256().to_string(), *digest, "the state at {position}");
    }
}

/// How often the process is killed: 20 times in the suite, more in a soak.
fn rounds() -> u64 {
    std::env::var("PAWL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

#[test]
fn killed_under_load_nothing_acknowledged_is_lost() {
    let mut dir = tempfile::tempdir().unwrap();
    let mut promises = Mutex::new(Promises::default());
    let mut seed = 1;
    for round in 0..rounds() {
        if round > 0 && round % 20 == 0 {
            // Each check folds the whole log: begin anew before that becomes slow.
            dir = tempfile::tempdir().unwrap();
            promises = Mutex::default();
        }
        let mut server = Server::start(dir.path(), &[]);
        if round % 20 == 0 {
            server.create_router();
        }
        let done = AtomicBool::new(false);
        let run = Duration::from_millis(100 + number(&mut seed, 250));
        // The process dies while the clients speak: they see it by themselves.
        std::thread::scope(|scope| {
            for i in 0..3 {
                let (server, promises, done) = (&server, &promises, &done);
                scope.spawn(move || client(server, promises, done, round * 10 + i));
            }
            scope.spawn(|| watch(&server, &promises, &done));
            std::thread::sleep(run);
            if number(&mut seed, 3) == 0 {
                server.ok("/v1/checkpoints", "");
            }
            server.kill_now();
            done.store(true, Ordering::Release);
        });
        server.kill();
        check(dir.path(), &promises.lock().unwrap());
    }
    let promises = promises.into_inner().unwrap();
    assert!(promises.feedback.len() > 100 && promises.digests.len() > 10);
}
