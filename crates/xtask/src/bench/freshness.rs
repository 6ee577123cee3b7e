//! Freshness: acknowledged feedback until a reply's position shows that the weights have learned from it.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use pawl_stats::rng::uniform;
use serde_json::json;

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
    /// Measure a classifier of text in 2^18 buckets instead, labelled 5,000 times a second, while the other models take
    /// 500 feedbacks a second
    #[arg(long)]
    text: bool,
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

/// Texts that are predicted, and labelled, in one request.
const TEXTS: usize = 10;

const REVIEWS: &str = r#"{"schema": 1, "name": "reviews", "kind": "classifier", "label": {"classes": ["bad", "good"]},
    "features": {"text": {"type": "text", "bits": 18}}, "learner": {"algorithm": "sgd", "checkpoint_interval": "2s"}}"#;

/// Thirty words of fifty thousand, the small ones frequent, and whether it is good.
fn review(i: u64) -> (String, bool) {
    let mut text = String::new();
    let mut score = 0.0;
    for k in 0..30 {
        let u = uniform(7, 32 * i + k);
        let word = (50_000.0_f64.powf(u)) as u64;
        score += uniform(8, word) - 0.5;
        let _infallible = write!(text, "word{word} ");
    }
    (text, score > 0.0)
}

/// Predicts texts, labels them, and after each acknowledgement asks until the labels are learned.
async fn reader(
    address: String,
    key: String,
    rate: f64,
    next: Arc<AtomicU64>,
    begun: Instant,
    until: Duration,
) -> Result<Vec<f64>> {
    let mut connection = Connection::open(&address).await?;
    let path = "/v1/models/reviews/predict";
    let dry = post(path, Some(&key), r#"{"instances":[{}],"log":false}"#);
    let mut times = Vec::new();
    loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        let at = Duration::from_secs_f64(i as f64 * TEXTS as f64 / rate);
        if at >= until {
            return Ok(times);
        }
        tokio::time::sleep_until((begun + at).into()).await;
        let reviews: Vec<(String, bool)> =
            (0..TEXTS as u64).map(|k| review(TEXTS as u64 * i + k)).collect();
        let instances: Vec<_> = reviews.iter().map(|(text, _)| json!({"text": text})).collect();
        let body = json!({"instances": instances}).to_string();
        let reply = connection.send(&post(path, Some(&key), &body)).await?;
        let reply: serde_json::Value = serde_json::from_slice(reply)?;
        let ids = reply["decision_ids"].as_array().context("decision_ids")?;
        let label = |(id, (_, good)): (&serde_json::Value, &(String, bool))| json!({"decision_id": id, "label": if *good { "good" } else { "bad" }});
        let events: Vec<_> = ids.iter().zip(&reviews).map(label).collect();
        let body = json!({"events": events}).to_string();
        let needed = offset(connection.send(&post("/v1/feedback", Some(&key), &body)).await?)?;
        let acknowledged = Instant::now();
        while offset(connection.send(&dry).await?)? < needed {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.push(acknowledged.elapsed().as_secs_f64() * 1e3);
    }
}

fn print(what: &str, mut times: Vec<f64>, made: usize, seconds: f64) {
    times.sort_by(f64::total_cmp);
    let at = |q: f64| {
        let place = (times.len().saturating_sub(1) as f64 * q) as usize;
        times.get(place).copied().unwrap_or(f64::NAN)
    };
    println!(
        "{what}, {:6.0} feedbacks/s made: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms  (goal p99 < 50)",
        made as f64 / seconds,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Text in 2^18 buckets, beside the other models.
async fn text(options: &Options, address: &str, key: &str) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    connection.send(&post("/v1/models", Some(key), REVIEWS)).await?;
    let (begun, until) = (Instant::now(), Duration::from_secs(options.seconds));
    let (texts, others) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, key) = (address.to_owned(), key.to_owned());
            tokio::spawn(reader(address, key, 5000.0, texts.clone(), begun, until))
        })
        .collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, key) = (address.to_owned(), key.to_owned());
            tokio::spawn(client(address, key, options.models, 500.0, others.clone(), begun, until))
        })
        .collect();
    let (mut times, mut beside) = (Vec::new(), Vec::new());
    for task in readers {
        times.extend(task.await??);
    }
    for task in clients {
        beside.extend(task.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (made, others) = (TEXTS * times.len(), beside.len());
    print("text in 2^18 buckets", times, made, seconds);
    print(&format!("{} models beside", options.models + 1), beside, others, seconds);
    Ok(())
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
        if options.text {
            return text(options, &pawl.address, &key).await;
        }
        for rate in [10.0, 1000.0, 5000.0] {
            let next = Arc::new(AtomicU64::new(0));
            let begun = Instant::now();
            let until = Duration::from_secs(options.seconds);
            let tasks: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let (address, key) = (pawl.address.clone(), key.clone());
                    tokio::spawn(client(
                        address,
                        key,
                        options.models,
                        rate,
                        next.clone(),
                        begun,
                        until,
                    ))
                })
                .collect();
            // A checkpoint in the middle of it.
            tokio::time::sleep(until / 2).await;
            connection.send(&post("/v1/checkpoints", Some(&key), "")).await?;
            let mut times = Vec::new();
            for task in tasks {
                times.extend(task.await??);
            }
            let what = format!("{rate:6} wanted of {} models", options.models + 1);
            let made = times.len();
            print(&what, times, made, begun.elapsed().as_secs_f64());
        }
        Ok(())
    })
}
