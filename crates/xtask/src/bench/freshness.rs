//! Freshness: acknowledged feedback until a reply's position shows that the weights have learned from it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{
    load::{Connection, member, post},
    serve::{bodies, prepare, spec},
    server::{Process, Scratch, build},
};

/// How much.
#[derive(Args, Debug)]
pub struct Options {
    /// Seconds of each rate
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Models beside the one that is measured
    #[arg(long, default_value_t = 100)]
    models: usize,
}

const CLIENTS: usize = 64;

fn offset(body: &[u8]) -> Result<u64> {
    let position = member(body, "position")?;
    Ok(position.split_once('.').context("a position has two parts")?.1.parse()?)
}

/// Decides, gives feedback at its share of `rate`, and after each acknowledgement asks until it is learned.
async fn client(
    address: String,
    key: String,
    models: usize,
    rate: f64,
    next: Arc<AtomicU64>,
    begun: Instant,
    until: Duration,
) -> Result<Vec<f64>> {
    let mut connection = Connection::open(&address).await?;
    let bodies = bodies();
    let mut times = Vec::new();
    loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        let at = Duration::from_secs_f64(i as f64 / rate);
        if at >= until {
            return Ok(times);
        }
        tokio::time::sleep_until((begun + at).into()).await;
        let name = match i as usize % (models + 1) {
            0 => "router".to_owned(),
            m => format!("model-{m}"),
        };
        let path = format!("/v1/models/{name}/decide");
        let body = &bodies[i as usize % bodies.len()];
        let reply = connection.send(&post(&path, Some(&key), body)).await?;
        let feedback = format!(
            r#"{{"decision_id":"{}","metrics":{{"quality":{},"cost_usd":0.001}}}}"#,
            member(reply, "decision_id")?,
            i % 2
        );
        let needed = offset(connection.send(&post("/v1/feedback", Some(&key), &feedback)).await?)?;
        let acknowledged = Instant::now();
        // A dry run is answered from the same weights and writes nothing.
        let dry = post(&path, Some(&key), &body.replacen('{', "{\"dry_run\":true,", 1));
        loop {
            let seen = offset(connection.send(&dry).await?)?;
            if seen >= needed {
                break;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.push(acknowledged.elapsed().as_secs_f64() * 1e3);
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    build()?;
    let scratch = Scratch::new("freshness")?;
    let pawl = Process::pawl(&scratch.0)?;
    let key = prepare(&pawl)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut connection = Connection::open(&pawl.address).await?;
        for m in 1..=options.models {
            let model = spec(&format!("model-{m}"));
            connection.send(&post("/v1/models", Some(&key), &model)).await?;
        }
        for rate in [10.0, 1000.0, 5000.0] {
            let next = Arc::new(AtomicU64::new(0));
            let begun = Instant::now();
            let until = Duration::from_secs(options.seconds);
            let tasks: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let (address, key) = (pawl.address.clone(), key.clone());
                    tokio::spawn(client(address, key, options.models, rate, next.clone(), begun, until))
                })
                .collect();
            // A checkpoint in the middle of it.
            tokio::time::sleep(until / 2).await;
            connection.send(&post("/v1/checkpoints", Some(&key), "")).await?;
            let mut times = Vec::new();
            for task in tasks {
                times.extend(task.await??);
            }
            times.sort_by(f64::total_cmp);
            let at = |q: f64| times.get((times.len().saturating_sub(1) as f64 * q) as usize).copied().unwrap_or(f64::NAN);
            println!(
                "{rate:6} feedbacks/s wanted, {:6.0} made, {} models: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms  (goal p99 < 50)",
                times.len() as f64 / begun.elapsed().as_secs_f64(),
                options.models + 1,
                at(0.5),
                at(0.99),
                at(1.0)
            );
        }
        Ok(())
    })
}
