//! A load generator for HTTP/1.1 over keep-alive connections: closed loop for saturation, open loop for latency.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A whole POST request.
pub fn post(path: &str, key: Option<&str>, body: &str) -> Vec<u8> {
    let key = key.map_or_else(String::new, |k| format!("authorization: Bearer {k}\r\n"));
    format!(
        "POST {path} HTTP/1.1\r\nhost: pawl\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A whole GET request.
pub fn get(path: &str, key: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: pawl\r\nauthorization: Bearer {key}\r\n\r\n").into_bytes()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|w| w == wanted)
}

impl Connection {
    /// Connects.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends one request and gives the body of its reply, which must be a success.
    pub async fn send(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
            let Some(end) = find(&self.buffer, b"\r\n\r\n") else { continue };
            let head = core::str::from_utf8(&self.buffer[..end])?;
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
            let length: usize = length.context("no content-length")?.trim().parse()?;
            let ok = head.starts_with("HTTP/1.1 20");
            let start = end + 4;
            while self.buffer.len() < start + length {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    bail!("the server closed the connection");
                }
            }
            if !ok {
                bail!("refused: {}", String::from_utf8_lossy(&self.buffer));
            }
            return Ok(&self.buffer[start..start + length]);
        }
    }
}

/// The text of a JSON member, without a parser: replies are ours.
pub fn member<'a>(body: &'a [u8], key: &str) -> Result<&'a str> {
    let pattern = format!("\"{key}\":\"");
    let start =
        find(body, pattern.as_bytes()).with_context(|| format!("no `{key}`"))? + pattern.len();
    let end = body[start..].iter().position(|b| *b == b'"').context("an open string")? + start;
    Ok(core::str::from_utf8(&body[start..end])?)
}

/// What a run gave.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// Requests a second.
    pub rate: f64,
    /// Requests.
    pub requests: u64,
    /// Pieces of feedback acknowledged.
    pub feedbacks: u64,
    /// Latencies in seconds, ascending.
    pub latencies: Vec<f64>,
}

impl Outcome {
    /// A quantile of the latency in milliseconds.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1) as f64;
        self.latencies.get((last * q).round() as usize).map_or(f64::NAN, |s| s * 1e3)
    }
}

/// How requests are made.
#[derive(Clone)]
pub struct Plan {
    /// Where to.
    pub address: String,
    /// Requests to send in turn.
    pub requests: Arc<Vec<Vec<u8>>>,
    /// Give feedback for every second decision, with this key.
    pub feedback: Option<Option<String>>,
    /// Connections.
    pub connections: usize,
    /// How long.
    pub duration: Duration,
    /// Requests a second in open loop; `None` is as fast as replies come.
    pub rate: Option<f64>,
}

/// Makes requests as planned.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let next = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        // Feedback goes over connections of its own: waiting for the disk must not delay the next decision.
        let (decided, ids) = tokio::sync::mpsc::channel(1 << 16);
        let ids = Arc::new(tokio::sync::Mutex::new(ids));
        let teachers = if plan.feedback.is_some() { plan.connections } else { 0 };
        let teachers: Vec<_> =
            (0..teachers).map(|_| tokio::spawn(teacher(plan.clone(), ids.clone()))).collect();
        let tasks: Vec<_> = (0..plan.connections)
            .map(|i| {
                let (stop, next) = (stop.clone(), next.clone());
                tokio::spawn(client(plan.clone(), i, stop, next, begun, decided.clone()))
            })
            .collect();
        drop(decided);
        tokio::time::sleep(plan.duration).await;
        stop.store(true, Ordering::Release);
        let elapsed = begun.elapsed().as_secs_f64();
        let mut outcome = Outcome::default();
        for task in tasks {
            outcome.latencies.extend(task.await??);
        }
        for teacher in teachers {
            outcome.feedbacks += teacher.await??;
        }
        outcome.requests = outcome.latencies.len() as u64;
        outcome.rate = outcome.requests as f64 / elapsed;
        outcome.latencies.sort_by(f64::total_cmp);
        Ok(outcome)
    })
}

async fn client(
    plan: Plan,
    index: usize,
    stop: Arc<AtomicBool>,
    next: Arc<AtomicU64>,
    begun: Instant,
    decided: tokio::sync::mpsc::Sender<String>,
) -> Result<Vec<f64>> {
    let mut connection = Connection::open(&plan.address).await?;
    let mut latencies = Vec::new();
    let mut count = index;
    while !stop.load(Ordering::Acquire) {
        // Open loop: each request has its time, and waits for it; whoever comes late counts from that time.
        let intended = match plan.rate {
            None => Instant::now(),
            Some(rate) => {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let at = begun + Duration::from_secs_f64(i as f64 / rate);
                tokio::time::sleep_until(at.into()).await;
                at
            }
        };
        let request = &plan.requests[count % plan.requests.len()];
        count += 1;
        let reply = connection.send(request).await?;
        latencies.push(intended.elapsed().as_secs_f64());
        if plan.feedback.is_some() && count.is_multiple_of(2) {
            // A full queue means that feedback is slower than decisions: the rest is left out and not counted.
            let _full = decided.try_send(member(reply, "decision_id")?.to_owned());
        }
    }
    Ok(latencies)
}

/// Gives feedback for decisions until there are none. Returns for how many.
async fn teacher(
    plan: Plan,
    ids: Arc<tokio::sync::Mutex<tokio::sync::mpsc::Receiver<String>>>,
) -> Result<u64> {
    let mut connection = Connection::open(&plan.address).await?;
    let key = plan.feedback.flatten();
    let mut count = 0;
    loop {
        let Some(id) = ids.lock().await.recv().await else { return Ok(count) };
        count += 1;
        let quality = count % 3 / 2;
        let body = format!(
            r#"{{"decision_id":"{id}","metrics":{{"quality":{quality},"cost_usd":0.00{}}}}}"#,
            count % 7
        );
        connection.send(&post("/v1/feedback", key.as_deref(), &body)).await?;
    }
}
