//! What operators do to a server that goes on deciding: levers, and a backup that is restored.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use super::{
    load::{self, Connection, Plan, member, post},
    serve::{bodies, prepare},
    server::{Process, Scratch, binary, build},
};

/// How much.
#[derive(Args, Debug)]
pub struct Options {
    /// Decisions a second meanwhile; every second one gets feedback
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    /// Lever changes
    #[arg(long, default_value_t = 100)]
    changes: u32,
}

/// How long the load goes on: longer than the work beside it.
const LOAD: Duration = Duration::from_secs(20);

fn pawl(pawl: &Process, key: &str, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(binary("pawl"));
    command.args(arguments).args(["--json", "--server", &format!("http://{}", pawl.address)]);
    let output = command.env("PAWL_KEY", key).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Pulls levers. Milliseconds from each request until a decision shows the change.
fn levers(address: &str, key: &str, changes: u32) -> Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = Connection::open(address).await?;
        let body = bodies().into_iter().next().context("a request")?;
        let dry = post(
            "/v1/models/router/decide",
            Some(key),
            &body.replacen('{', "{\"dry_run\":true,", 1),
        );
        // The actions of the benchmark's model.
        let model = load::get("/v1/models/router", key);
        let model: Value = serde_json::from_slice(connection.send(&model).await?)?;
        let actions = model["spec"]["actions"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = actions.iter().filter_map(Value::as_str).collect();
        ensure!(names.len() > 1, "the model has no two actions: {}", model["spec"]["actions"]);
        let mut times = Vec::new();
        for k in 0..changes {
            let name = names[k as usize % names.len()];
            let pull = format!(r#"{{"lever":"pin","action":"{name}","reason":"bench {k}"}}"#);
            let begun = Instant::now();
            connection.send(&post("/v1/models/router/levers", Some(key), &pull)).await?;
            while member(connection.send(&dry).await?, "action")? != name {
                ensure!(
                    begun.elapsed() < Duration::from_secs(5),
                    "`{name}` is not in force after 5 s"
                );
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    })
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    build()?;
    let scratch = Scratch::new("operate")?;
    let (data, to, restored) =
        (scratch.0.join("data"), scratch.0.join("backup"), scratch.0.join("restored"));
    let server = Process::pawl(&data)?;
    let key = prepare(&server)?;
    let requests =
        bodies().iter().map(|b| post("/v1/models/router/decide", Some(&key), b)).collect();
    let plan = Plan {
        address: server.address.clone(),
        requests: std::sync::Arc::new(requests),
        feedback: Some(Some(key.clone())),
        connections: 32,
        duration: LOAD,
        rate: Some(options.rate),
    };
    let load = thread::spawn(move || load::run(&plan));
    thread::sleep(Duration::from_secs(1));
    let times = levers(&server.address, &key, options.changes)?;
    let to_text = to.to_string_lossy().into_owned();
    let begun = Instant::now();
    let first = pawl(&server, &key, &["backup", "create", "--to", &to_text])?;
    let full = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let second = pawl(&server, &key, &["backup", "create", "--to", &to_text])?;
    let more = begun.elapsed().as_secs_f64();
    ensure!(!load.is_finished(), "the load ended before the backup did: nothing was shown");
    // A request that failed ends it with an error.
    let outcome = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
    println!(
        "{:.0} decisions/s and {} feedbacks, none failed; decisions p50 {:.2} ms, p99 {:.2} ms",
        outcome.rate,
        outcome.feedbacks,
        outcome.quantile_ms(0.5),
        outcome.quantile_ms(0.99)
    );
    println!(
        "{} levers: in force after p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms  (goal max < 100)",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    println!(
        "backup in {full:.2} s ({} files), again in {more:.2} s ({} of {} copied)",
        first["files"], second["copied"], second["files"]
    );
    let restored_text = restored.to_string_lossy().into_owned();
    pawl(&server, &key, &["backup", "verify", &to_text])?;
    pawl(&server, &key, &["restore", "--from", &to_text, "--data", &restored_text])?;
    let position = second["position"].as_str().context("a position")?;
    let replayed =
        pawl(&server, &key, &["log", "replay", "--at", position, "--data", &restored_text])?;
    let (made, wanted) = (replayed["state_sha256"].as_str(), second["state_sha256"].as_str());
    if made != wanted || made.is_none() {
        bail!("restored: {replayed}, but the backup says {second}");
    }
    println!("restored: the state at {position} has the digest of the server's");
    Ok(())
}
