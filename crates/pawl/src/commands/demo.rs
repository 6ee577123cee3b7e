//! `pawl demo`: the whole loop in front of one's eyes, over real HTTP.

mod screen;
mod world;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use pawl_domain::{ModelSpec, Position};
use pawl_server::{App, Config};
use serde_json::{Value, json};

use self::{
    screen::{Sample, Screen, Totals},
    world::ACTIONS,
};
use super::serve::stop_signal;

const SPEC: &str = include_str!("demo/router.toml");
/// Clients that ask and answer at the same time.
const CLIENTS: usize = 8;

/// Options of `pawl demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// How long it runs
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seed of the workload
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the data in this directory; by default it is removed at the end
    #[arg(long)]
    data: Option<PathBuf>,
}

struct Workload {
    http: reqwest::Client,
    base: String,
    seed: u64,
    next: AtomicU64,
    fallen: AtomicBool,
    done: AtomicBool,
    totals: Mutex<Totals>,
    /// Acknowledged feedback that no decision has been seen to use: position and time.
    unseen: Mutex<VecDeque<(u64, Instant)>>,
    last_decision: Mutex<String>,
}

impl Demo {
    /// Runs the demo.
    pub fn run(&self) -> Result<()> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(self.play())
    }

    async fn play(&self) -> Result<()> {
        let temporary = std::env::temp_dir().join(format!("pawl-demo-{}", std::process::id()));
        let data = self.data.clone().unwrap_or_else(|| temporary.clone());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { data: data.clone(), listen, ..Config::default() };
        let running = pawl_server::serve(App::open(config, false).await?).await?;
        let base = format!("http://{}", running.address());
        say!(
            "pawl listens on {base}; five LLMs, six kinds of task, {} seconds of traffic",
            self.seconds
        );
        let http = reqwest::Client::builder().tcp_nodelay(true).tls_certs_only([]).build()?;
        create_model(&http, &base).await?;
        let workload = Arc::new(Workload {
            http,
            base,
            seed: self.seed,
            next: AtomicU64::new(0),
            fallen: AtomicBool::new(false),
            done: AtomicBool::new(false),
            totals: Mutex::new(Totals::new()),
            unseen: Mutex::default(),
            last_decision: Mutex::default(),
        });
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| tokio::spawn(client(workload.clone()))).collect();
        let interrupted = self.watch(&workload).await?;
        workload.done.store(true, Ordering::Release);
        for client in clients {
            client.await??;
        }
        if interrupted {
            say!("\nstopped");
        }
        say!("{}", lock(&workload.totals).summary());
        say!("{}", learned(&workload).await?);
        running.stop().await;
        if self.data.is_none() {
            std::fs::remove_dir_all(&temporary)
                .with_context(|| format!("cannot remove `{}`", temporary.display()))?;
        }
        say!("{}", what_next());
        Ok(())
    }

    /// Draws until the time is over or somebody interrupts. True if somebody did.
    async fn watch(&self, workload: &Workload) -> Result<bool> {
        let mut screen = Screen::new();
        let begun = Instant::now();
        let whole = Duration::from_secs(self.seconds);
        let stop = stop_signal();
        tokio::pin!(stop);
        while begun.elapsed() < whole {
            screen.draw(&lock(&workload.totals))?;
            if begun.elapsed() > whole / 2 {
                workload.fallen.store(true, Ordering::Release);
            }
            tokio::select! {
                stopped = stop.as_mut() => return stopped.map(|()| true),
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
            }
        }
        screen.draw(&lock(&workload.totals))?;
        Ok(false)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn create_model(http: &reqwest::Client, base: &str) -> Result<()> {
    let spec = ModelSpec::from_toml(SPEC).map_err(|e| anyhow!(e))?.check()?;
    let reply = http.post(format!("{base}/v1/models")).body(spec.to_json()).send().await?;
    if !reply.status().is_success() {
        return Err(anyhow!("the model was not created: {}", reply.text().await?));
    }
    Ok(())
}

async fn post(workload: &Workload, path: &str, body: String) -> Result<Value> {
    let url = format!("{}{path}", workload.base);
    let reply = workload.http.post(url).body(body).send().await?;
    let status = reply.status();
    let text = reply.text().await?;
    if !status.is_success() {
        return Err(anyhow!("{path} answered {status}: {text}"));
    }
    Ok(serde_json::from_str(&text)?)
}

fn offset(reply: &Value) -> Result<u64> {
    let position = reply["position"].as_str().context("a reply has a position")?;
    Ok(position.parse::<Position>()?.offset)
}

/// Asks for a decision, takes the action, tells what came of it; again and again.
async fn client(workload: Arc<Workload>) -> Result<()> {
    while !workload.done.load(Ordering::Acquire) {
        let i = workload.next.fetch_add(1, Ordering::Relaxed);
        let request = world::request(workload.seed, i);
        let fallen = workload.fallen.load(Ordering::Acquire);
        let decision = post(&workload, "/v1/models/router/decide", request.body()).await?;
        see(&workload, offset(&decision)?);
        let name = decision["action"].as_str().unwrap_or_default();
        let action =
            ACTIONS.iter().position(|a| *a == name).context("the action is one of ours")?;
        let outcomes = core::array::from_fn(|a| request.outcome(a, fallen));
        let (quality, cost) = outcomes[action];
        let feedback = json!({
            "decision_id": decision["decision_id"], "metrics": {"quality": quality, "cost_usd": cost},
        });
        let reply = post(&workload, "/v1/feedback", feedback.to_string()).await?;
        lock(&workload.unseen).push_back((offset(&reply)?, Instant::now()));
        let regret = request.best(fallen) - request.expected(action, fallen);
        lock(&workload.totals).add(&Sample { action, outcomes, regret, fallen });
        if let Some(id) = decision["decision_id"].as_str() {
            id.clone_into(&mut lock(&workload.last_decision));
        }
    }
    Ok(())
}

/// A decision had learned everything up to `position`: which feedback is now seen to be used?
fn see(workload: &Workload, position: u64) {
    let mut unseen = lock(&workload.unseen);
    while let Some((needed, since)) = unseen.front() {
        if *needed > position {
            break;
        }
        lock(&workload.totals).fresh(since.elapsed());
        unseen.pop_front();
    }
}

/// What the model has learned, as the API tells it.
async fn learned(workload: &Workload) -> Result<String> {
    let id = lock(&workload.last_decision).clone();
    let url = format!("{}/v1/decisions/{id}/explain", workload.base);
    let reply: Value = workload.http.get(url).send().await?.json().await?;
    let mut out = format!("the last decision, explained ({}):\n", reply["context"]);
    for (action, of) in reply["explanation"]["actions"].as_object().into_iter().flatten() {
        let number = |v: &Value| v.as_f64().unwrap_or_default();
        out.push_str(&format!(
            "  {action:20} quality {:.3} ± {:.3}  cost {:.6}  score {:.3}  probability {:.3}\n",
            number(&of["metrics"]["quality"]["predicted"]),
            number(&of["metrics"]["quality"]["deviation"]),
            number(&of["metrics"]["cost_usd"]["predicted"]),
            number(&of["score"]),
            number(&of["probability"]),
        ));
    }
    out.push_str(&format!(
        "recomputed from the log, equal to what was served: {}\n",
        reply["explanation"]["recomputed_equal"]
    ));
    Ok(out)
}

fn what_next() -> String {
    "go on with\n  \
     pawl serve --data ./pawl-data\n  \
     pawl model create crates/pawl/src/commands/demo/router.toml\n  \
     curl -s http://127.0.0.1:7295/v1/models/router/decide -d '{\"context\": {\"task\": \"code\", \"prompt_tokens\": 350}}'\n  \
     curl -s http://127.0.0.1:7295/v1/feedback -d '{\"decision_id\": \"…\", \"metrics\": {\"quality\": 1, \"cost_usd\": 0.002}}'"
        .to_owned()
}
