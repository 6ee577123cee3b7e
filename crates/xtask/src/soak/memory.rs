//! Memory over millions of decisions of the fixed workload, in fold time that runs as fast as the machine.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use pawl_domain::{
    CheckedSpec, Event, ModelSpec, Position,
    event::{Caller, Decided, Feedback, JoinLimits, Target},
};
use pawl_driver::{Clock, Fold, Live, Retention, Settings};
use pawl_model::{
    HashKey, Request,
    context::Context,
    snapshot::{Made, Workspace},
};
use pawl_stats::rng::mix;
use pawl_store::{
    Disk, Log, RealDisk,
    log::{Batch, Config, Reader},
    registry::{By, Registry},
};

use crate::bench::{
    serve::{bodies, spec},
    server::{Process, Scratch, binary, build},
};

/// How much.
#[derive(Args, Debug)]
pub struct Options {
    /// Decisions
    #[arg(long, default_value_t = 10_000_000)]
    decisions: u64,
}

/// Fold time between two decisions: 2,000 a second, so that an hour holds 7.2 million.
const BETWEEN_US: u64 = 500;
/// How late feedback is, in fold time: each decision gets one of these.
const LATE_MS: [u64; 3] = [1_000, 600_000, 3_500_000];
/// Records of one append.
const BATCH: u64 = 64;
/// Bytes of the log that may wait to be folded.
const LAG_MAX: u64 = 1 << 20;

/// Time as the workload sets it.
#[derive(Debug)]
struct Told(AtomicU64);

impl Clock for Told {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Gives feedback for decisions at one distance behind the present, reading them back from the log.
struct Teacher {
    reader: Reader,
    late_ms: u64,
    class: u64,
    /// A decision that was read and is not due.
    next: Option<(Decided, u64)>,
}

impl Teacher {
    /// Adds the feedback that is due at `now_ms`: metrics apart, one of a hundred twice.
    fn teach(&mut self, now_ms: u64, head: u64, batch: &mut Batch) -> Result<()> {
        loop {
            if self.next.is_none() {
                let Some(entry) = self.reader.next_decision(head)? else { return Ok(()) };
                let Event::Decided(decided) = entry.event else { continue };
                self.next = Some((decided, entry.offset));
            }
            let Some((decided, _)) = &self.next else { return Ok(()) };
            if decided.at_ms + self.late_ms > now_ms {
                return Ok(());
            }
            let Some((decided, offset)) = self.next.take() else { return Ok(()) };
            if decided.nonce % 3 != self.class {
                continue;
            }
            let id = decided.id(Position { partition: 0, offset });
            let quality = (decided.nonce >> 8) % 2;
            let twice = (decided.nonce >> 16).is_multiple_of(100);
            let metrics = [("quality", quality as f64), ("cost_usd", 0.001), ("quality", 1.0)];
            for (name, value) in &metrics[..if twice { 3 } else { 2 }] {
                batch.push(&Event::Feedback(Feedback {
                    target: Target::Decision(id),
                    received_ms: now_ms,
                    at_ms: None,
                    metrics: vec![((*name).to_owned(), *value)],
                    action_taken: None,
                    not_used: false,
                    principal: None,
                    metadata: None,
                }));
            }
        }
    }
}

/// Creates the model in the registry and relays its change into the log, as the server does.
fn enrol(data: &Path, log: &Log, spec: &CheckedSpec) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let registry = Registry::open(&data.join("registry.sqlite")).await?;
        registry.create_model(spec, None, &By::default()).await?;
        for change in registry.changes_after(0, 10).await? {
            log.append_event(&Event::Changed(change))?;
        }
        registry.close().await;
        Ok(())
    })
}

/// The workload: decides, teaches, lets time pass. Ends by waiting to be killed.
pub fn workload(data: &Path, decisions: u64) -> Result<()> {
    let spec = ModelSpec::from_json(&spec("router")).map_err(|e| anyhow!(e))?.check()?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(data)?);
    let mut fold = Fold::recover(&disk, Config::default(), JoinLimits::default(), false, 0)?.fold;
    let log = fold.log().clone();
    enrol(data, &log, &spec)?;
    fold.catch_up()?;
    let clock = Arc::new(Told(AtomicU64::new(0)));
    let settings = Settings {
        checkpoint_every: Duration::from_secs(300),
        retention: Retention {
            log_bytes_max: 40 << 30,
            record_ms: u64::MAX / 2,
            context_ms: u64::MAX,
        },
    };
    let live = Live::spawn(fold, disk, clock.clone(), settings)?;
    let bodies = bodies();
    let mut work = Workspace::default();
    let mut teachers: Vec<Teacher> = (0..)
        .zip(LATE_MS)
        .map(|(class, late_ms)| Teacher {
            reader: log.reader(log.head()),
            late_ms,
            class,
            next: None,
        })
        .collect();
    let mut batch = Batch::default();
    for first in (0..decisions).step_by(BATCH as usize) {
        batch.clear();
        for i in first..first + BATCH {
            let at_ms = i * BETWEEN_US / 1000;
            clock.0.store(at_ms, Ordering::Release);
            batch.push(&decide(
                &live,
                &spec,
                &log,
                &bodies[i as usize % bodies.len()],
                i,
                &mut work,
            )?);
        }
        let (now_ms, head) = (clock.now_ms(), log.head());
        teachers.iter_mut().try_for_each(|t| t.teach(now_ms, head, &mut batch))?;
        log.append(&mut batch)?;
        live.wake();
        while live.lag_bytes() > LAG_MAX {
            if let Some(stopped) = live.stopped() {
                bail!("{stopped}");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if first % (1 << 18) == 0 {
            println!("{first}");
        }
    }
    println!("done");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn decide(
    live: &Live,
    spec: &CheckedSpec,
    log: &Log,
    body: &str,
    i: u64,
    work: &mut Workspace,
) -> Result<Event> {
    let snapshot = live.published().get("router").context("the model is not published")?;
    let text =
        body.strip_prefix("{\"context\":").and_then(|b| b.strip_suffix('}')).context("a body")?;
    let context = Context::read(spec, &HashKey::default(), text)?;
    let nonce = mix(i);
    let choice =
        snapshot.decide(&Request { context: &context, actions: None, seed: nonce }, work)?;
    let at_ms = i * BETWEEN_US / 1000;
    let made = Made { epoch: log.epoch(), nonce, at_ms, caller: Caller::default() };
    Ok(Event::Decided(snapshot.record(&context, choice, made)))
}

/// Runs the workload in a process of its own, watches its memory, kills it, and times the restart.
pub fn run(options: &Options) -> Result<()> {
    build()?;
    let scratch = Scratch::new("soak")?;
    let mut command = Command::new(binary("xtask"));
    command.args(["soak", "workload"]).arg(&scratch.0).arg(options.decisions.to_string());
    let mut child = Process::watch(command.stdout(Stdio::piped()))?;
    let begun = Instant::now();
    while let Some(line) = child.line()? {
        if line == "done" {
            break;
        }
        println!(
            "{line:>10} decisions  {:7.1} MB private  {:6.0} s",
            child.private_bytes()? as f64 / 1e6,
            begun.elapsed().as_secs_f64()
        );
    }
    println!(
        "{:>10} decisions  {:7.1} MB private  (goal < 200)",
        options.decisions,
        child.private_bytes()? as f64 / 1e6
    );
    drop(child); // kill -9
    let begun = Instant::now();
    let pawl = Process::pawl(&scratch.0)?;
    let ready = begun.elapsed();
    println!("killed, and folded to the head after {:.2} s  (goal < 2)", ready.as_secs_f64());
    drop(pawl);
    Ok(())
}
