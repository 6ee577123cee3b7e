//! The serving rows: the fixed workload against the ceiling, alternating.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{
    load::{self, Outcome, Plan, post},
    median,
    server::{Process, Scratch, build},
};

/// How long and how often.
#[derive(Args, Debug)]
pub struct Options {
    /// Seconds of each run
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Alternations of server and ceiling
    #[arg(long, default_value_t = 5)]
    alternations: usize,
    /// Requests a second in open loop
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    /// Print private memory at the end
    #[arg(long)]
    report_memory: bool,
}

/// The spec of the fixed workload: 20 numbers, 2 categories, 5 actions.
pub fn spec(name: &str) -> String {
    let numbers: String =
        (0..20).map(|i| format!("\"feature_{i:02}\":{{\"type\":\"number\"}},")).collect();
    format!(
        r#"{{"schema":1,"name":"{name}","kind":"policy","actions":["action-0","action-1","action-2","action-3","action-4"],
        "features":{{{numbers}"region":{{"type":"category","vocabulary":["eu-west","us-east","ap-south"]}},
        "tier":{{"type":"category","vocabulary":["gold","silver"]}}}},
        "metrics":{{"quality":{{"bounds":[0,1]}},"cost_usd":{{"goal":"min","explore":false,"features":["region","tier"]}}}},
        "objective":{{"weights":{{"quality":1.0,"cost_usd":-10.0}}}},
        "feedback":{{"deadline":"1h"}},"learner":{{"algorithm":"linear_thompson"}}}}"#
    )
}

/// Decide bodies of about 600 bytes.
pub fn bodies() -> Vec<String> {
    let number =
        |i: usize, j: usize| ((i * 31 + j * 17) % 2000) as f64 / 1000.0 - 1.0 + 1.234_567e-4;
    let body = |i: usize| {
        let numbers: String =
            (0..20).map(|j| format!("\"feature_{j:02}\":{:.6},", number(i, j))).collect();
        let region = ["eu-west", "us-east", "ap-south"][i % 3];
        let tier = ["gold", "silver"][i % 2];
        format!("{{\"context\":{{{numbers}\"region\":\"{region}\",\"tier\":\"{tier}\"}}}}")
    };
    (0..256).map(body).collect()
}

/// Creates the key and the model of the fixed workload. Returns the key.
pub fn prepare(server: &Process) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = load::Connection::open(&server.address).await?;
        let key = r#"{"name":"bench","scopes":["admin"]}"#;
        let reply = connection.send(&post("/v1/keys", None, key)).await?;
        let key = load::member(reply, "secret")?.to_owned();
        connection
            .send(&post("/v1/models", Some(&key), &spec("router")))
            .await
            .context("no model")?;
        Ok(key)
    })
}

fn plan(address: &str, key: Option<&str>, options: &Options) -> Plan {
    let requests = bodies().iter().map(|b| post("/v1/models/router/decide", key, b)).collect();
    Plan {
        address: address.to_owned(),
        requests: Arc::new(requests),
        feedback: None,
        connections: 64,
        duration: Duration::from_secs(options.seconds),
        rate: None,
    }
}

/// One run: what it gave, and the server's CPU microseconds a request.
fn measure(server: &Process, plan: &Plan) -> Result<(Outcome, f64)> {
    let before = server.cpu_seconds()?;
    let outcome = load::run(plan)?;
    let cpu = (server.cpu_seconds()? - before) / outcome.requests.max(1) as f64 * 1e6;
    Ok((outcome, cpu))
}

/// Bytes in the log of `server`.
fn log_bytes(server: &Process, key: &str) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = load::Connection::open(&server.address).await?;
        let reply = connection.send(&load::get("/v1/log", key)).await?;
        let head = load::member(reply, "head")?;
        Ok(head.split_once('.').context("a position has two parts")?.1.parse()?)
    })
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    build()?;
    let scratch = Scratch::new("serve")?;
    let ceiling = Process::ceiling()?;
    let pawl = Process::pawl(&scratch.0)?;
    let key = prepare(&pawl)?;
    let bare = plan(&ceiling.address, None, options);
    let ours = plan(&pawl.address, Some(&key), options);
    let learning = Plan { feedback: Some(Some(key.clone())), ..ours.clone() };
    println!("body {} bytes, 64 connections, {} s a run", bodies()[0].len(), options.seconds);
    // Warm: weights that differ, pages that are there.
    measure(&pawl, &learning)?;
    let before = log_bytes(&pawl, &key)?;
    let (recorded, _) = measure(&pawl, &ours)?;
    let each = (log_bytes(&pawl, &key)? - before) as f64 / recorded.requests as f64;
    let context =
        bodies().iter().map(|b| b.len() - "{\"context\":}".len()).sum::<usize>() / bodies().len();
    let mut rows: [Vec<(Outcome, f64)>; 5] = Default::default();
    for _ in 0..options.alternations {
        rows[0].push(measure(&ceiling, &bare)?);
        rows[1].push(measure(&pawl, &ours)?);
        rows[2].push(measure(&pawl, &learning)?);
        rows[3].push(measure(&ceiling, &Plan { rate: Some(options.rate), ..bare.clone() })?);
        rows[4].push(measure(&pawl, &Plan { rate: Some(options.rate), ..learning.clone() })?);
    }
    let names = [
        "ceiling, saturated",
        "pawl, saturated",
        "pawl, saturated, feedback for half",
        "ceiling, open loop",
        "pawl, open loop, feedback for half",
    ];
    println!(
        "{:36} {:>10} {:>12} {:>9} {:>9} {:>9}",
        "", "requests/s", "CPU µs each", "p50 ms", "p99 ms", "p99.9 ms"
    );
    let middle =
        |i: usize, f: &dyn Fn(&(Outcome, f64)) -> f64| median(rows[i].iter().map(f).collect());
    for (i, name) in names.iter().enumerate() {
        println!(
            "{name:36} {:10.0} {:12.2} {:9.3} {:9.3} {:9.3}",
            middle(i, &|r| r.0.rate),
            middle(i, &|r| r.1),
            middle(i, &|r| r.0.quantile_ms(0.5)),
            middle(i, &|r| r.0.quantile_ms(0.99)),
            middle(i, &|r| r.0.quantile_ms(0.999)),
        );
    }
    println!(
        "throughput ÷ ceiling   {:.3}  (goal ≥ 0.95)",
        middle(1, &|r| r.0.rate) / middle(0, &|r| r.0.rate)
    );
    println!(
        "CPU ÷ ceiling          {:.3}  (goal ≤ 1.25); with feedback {:.3}",
        middle(1, &|r| r.1) / middle(0, &|r| r.1),
        middle(2, &|r| r.1) / middle(0, &|r| r.1)
    );
    let excess = middle(4, &|r| r.0.quantile_ms(0.99)) - middle(3, &|r| r.0.quantile_ms(0.99));
    println!("p99 − ceiling's        {excess:.3} ms at {} requests/s  (goal ≤ 0.5)", options.rate);
    println!("disk beside a context  {:.0} bytes a decision  (goal < 100)", each - context as f64);
    if options.report_memory {
        println!(
            "private memory         {:.1} MB  (goal < 200)",
            pawl.private_bytes()? as f64 / 1e6
        );
    }
    Ok(())
}
