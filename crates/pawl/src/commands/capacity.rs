//! `pawl capacity`: disk, memory and recovery time for a rate of decisions, from a trial on this machine.

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use pawl_domain::{
    CheckedSpec, Event, ModelSpec, Position,
    event::{Caller, Change, Decided, Feedback, JoinLimits, Target},
    spec::{FeatureOf, FeatureType, Kind},
};
use pawl_driver::Fold;
use pawl_model::{
    HashKey, Request,
    context::Context,
    snapshot::{Made, Workspace},
};
use pawl_server::Config;
use pawl_store::{Disk, MemoryDisk, log::Config as LogConfig};
use serde_json::json;

use super::read_spec;

/// Most decisions of the trial, and most bytes of their contexts.
const TRIAL: u64 = 20_000;
const TRIAL_BYTES: u64 = 200_000_000;
/// What a server holds before it has learned anything: resident memory after its start.
const BASE_BYTES: f64 = 24e6;
/// The learner's state is held as it is, as its last good one, and as the snapshot that answers.
const COPIES: f64 = 3.0;
/// Bytes of an open decision in memory.
const OPEN_BYTES: f64 = 2.0;
const DAY_S: f64 = 86_400.0;

/// A policy of usual size.
const USUAL: &str = r#"
schema = 1
name = "usual"
kind = "policy"
actions = ["a", "b", "c", "d", "e"]
[features]
task = { type = "category", vocabulary = ["chat", "code", "math", "summary", "translation", "extraction", "other", "agent"] }
prompt_tokens = { type = "number", scale = "log" }
[metrics]
quality = { bounds = [0, 1] }
cost_usd = { goal = "min", explore = false }
[objective]
weights = { quality = 1.0, cost_usd = -10.0 }
[learner]
algorithm = "linear_thompson"
"#;

/// Options of `pawl capacity`.
#[derive(Args, Debug)]
pub struct Capacity {
    /// Decisions a second, in the mean
    #[arg(long)]
    rate: f64,
    /// Bytes of the declared features of a context, as JSON
    #[arg(long)]
    context_bytes: usize,
    /// Pieces of feedback a decision
    #[arg(long, default_value_t = 1.0)]
    feedback: f64,
    /// The policy, TOML; without it one of five actions and two features
    #[arg(long)]
    spec: Option<PathBuf>,
    /// The server's configuration, for its retention and bounds
    #[arg(long)]
    config: Option<PathBuf>,
}

/// What the trial measured.
struct Trial {
    decision_bytes: f64,
    feedback_bytes: f64,
    /// Seconds to fold a decision with its feedback.
    fold_s: f64,
    /// The state of the model.
    state_bytes: f64,
}

impl Capacity {
    /// Runs the command.
    pub fn run(&self, as_json: bool) -> Result<()> {
        let sound = self.rate > 0.0 && self.rate <= 1e6 && (0.0..=100.0).contains(&self.feedback);
        if !sound || !(2..=8 << 20).contains(&self.context_bytes) {
            bail!(
                "give --rate above 0 and at most 1000000, --feedback from 0 to 100, --context-bytes from 2 to 8388608"
            );
        }
        let spec = match &self.spec {
            Some(path) => read_spec(path)?,
            None => ModelSpec::from_toml(USUAL)
                .and_then(|s| s.check().map_err(|e| e.to_string()))
                .map_err(anyhow::Error::msg)?,
        };
        let config = match &self.config {
            None => Config::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read `{}`", path.display()))?;
                Config::from_toml(&text).map_err(anyhow::Error::msg)?
            }
        };
        if spec.kind() != Kind::Policy {
            bail!("`{}` does not choose: give the spec of a policy", spec.name());
        }
        let trial = trial(&spec, self.context_bytes)?;
        let a_decision = trial.decision_bytes + self.feedback * trial.feedback_bytes;
        let a_day = self.rate * DAY_S * a_decision;
        let by_time = config.log.retention.ms() as f64 / 1000.0 / DAY_S;
        let kept_days = by_time.min(config.log.max_bytes as f64 / a_day);
        let deadline_days = spec.deadline().ms() as f64 / 1000.0 / DAY_S;
        let awaited = self.rate * DAY_S * deadline_days.min(kept_days);
        let open = awaited.min(config.join.open as f64);
        let memory = BASE_BYTES + COPIES * trial.state_bytes + OPEN_BYTES * open;
        let interval = config.checkpoint_interval.ms() as f64 / 1000.0;
        // A checkpoint comes sooner where the tail would take more than a second.
        let tail = (interval * self.rate * trial.fold_s).min(1.0);
        let whole = kept_days * DAY_S * self.rate * trial.fold_s;
        if as_json {
            say!(
                "{}",
                json!({
                    "decision_bytes": trial.decision_bytes, "feedback_bytes": trial.feedback_bytes, "bytes_a_day": a_day,
                    "kept_days": kept_days, "log_bytes": a_day * kept_days, "open_decisions": open,
                    "checkpoint_bytes": trial.state_bytes + OPEN_BYTES * open, "memory_bytes": memory,
                    "folds_a_second": 1.0 / trial.fold_s, "recovery_seconds": tail, "refold_seconds": whole,
                })
            );
            return Ok(());
        }
        say!(
            "disk      {} a day: {:.0} bytes a decision, {:.0} a piece of feedback",
            bytes(a_day),
            trial.decision_bytes,
            trial.feedback_bytes
        );
        let bound = if kept_days < by_time { "log.max_bytes" } else { "log.retention" };
        say!("log       {} for {kept_days:.1} days, by `{bound}`", bytes(a_day * kept_days));
        say!("memory    {}: {open:.0} decisions wait for feedback at a time", bytes(memory));
        say!(
            "recovery  {} after kill -9: a checkpoint of {} and what came behind it",
            seconds(tail),
            bytes(trial.state_bytes + OPEN_BYTES * open)
        );
        say!(
            "refold    {} of the whole log, after an upgrade that changes the fold ({:.0} decisions a second)",
            seconds(whole),
            1.0 / trial.fold_s
        );
        say!(
            "measured with decisions of this size on this machine, in memory: a slow disk adds to recovery"
        );
        Ok(())
    }
}

fn bytes(n: f64) -> String {
    let (unit, name) = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
        .into_iter()
        .find(|(u, _)| n >= *u)
        .unwrap_or((1.0, "bytes"));
    format!("{:.1} {name}", n / unit)
}

fn seconds(s: f64) -> String {
    if s < 1.0 {
        format!("{:.0} ms", (1000.0 * s).max(1.0))
    } else if s < 120.0 {
        format!("{s:.0} s")
    } else {
        format!("{:.0} min", s / 60.0)
    }
}

/// A context that fills every declared feature, as long as is asked for where that is enough.
fn context(spec: &CheckedSpec, n: u64, bytes: usize) -> String {
    let mut fields = serde_json::Map::new();
    let of_context = spec.features().iter().filter(|f| f.of == FeatureOf::Context);
    for feature in of_context {
        let value = match &spec.spec().features[&feature.name].vocabulary {
            Some(words) if !words.is_empty() => json!(words[n as usize % words.len()]),
            _ => match feature.encoding.kind() {
                FeatureType::Number => json!(n % 1000),
                FeatureType::Boolean => json!(n.is_multiple_of(2)),
                FeatureType::Category => json!(format!("value {}", n % 50)),
                FeatureType::Text => json!(format!("the request number {n} asks for {}", n % 97)),
                FeatureType::Vector => {
                    let of = |i: usize| ((n as usize * 31 + i * 17) % 200) as f64 / 100.0 - 1.0;
                    json!((0..feature.encoding.slots()).map(of).collect::<Vec<f64>>())
                }
            },
        };
        fields.insert(feature.name.clone(), value);
    }
    let short = serde_json::Value::Object(fields.clone()).to_string().len() + r#","":"""#.len();
    fields.insert(String::new(), json!("x".repeat(bytes.saturating_sub(short))));
    serde_json::Value::Object(fields).to_string()
}

/// Writes decisions with feedback into a log in memory, and folds it.
fn trial(spec: &CheckedSpec, context_bytes: usize) -> Result<Trial> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let mut fold =
        Fold::recover(&disk, LogConfig::default(), JoinLimits::default(), false, 0)?.fold;
    let log = fold.log().clone();
    log.append_event(&Event::Changed(Change::first(spec, 1)))?;
    fold.catch_up()?;
    let snapshot =
        fold.engine_mut().snapshot(spec.name()).context("the model of the trial is gone")?;
    let empty = Context::read(spec, &HashKey::default(), "{}")?;
    let request = Request { context: &empty, actions: None, seed: 1 };
    let choice = snapshot.decide(&request, &mut Workspace::default())?;
    let made = Made { epoch: log.epoch(), nonce: 0, at_ms: 1000, caller: Caller::default() };
    let record = snapshot.record(&empty, choice, made);
    let metrics: Vec<(String, f64)> = spec
        .metrics()
        .iter()
        .map(|m| (m.name.clone(), m.bounds.map_or(0.5, |[low, high]| (low + high) / 2.0)))
        .collect();
    let before = fold.position();
    let mut ids = Vec::new();
    let trial = TRIAL.min(TRIAL_BYTES / context_bytes as u64).max(1);
    for nonce in 0..trial {
        let text = context(spec, nonce, context_bytes);
        // Each action in turn: all of them learn.
        let chosen = (nonce % record.eligible.len() as u64) as u16;
        let decided = Decided { nonce, context: text, chosen, ..record.clone() };
        let offset = log.append_event(&Event::Decided(decided.clone()))?.first;
        ids.push(decided.id(Position { partition: 0, offset }));
    }
    let between = log.head();
    for id in ids {
        let feedback = Feedback {
            target: Target::Decision(id),
            received_ms: 1000,
            at_ms: None,
            metrics: metrics.clone(),
            action_taken: None,
            not_used: false,
            principal: None,
            metadata: None,
        };
        log.append_event(&Event::Feedback(feedback))?;
    }
    let begun = Instant::now();
    fold.catch_up()?;
    let n = trial as f64;
    let open = OPEN_BYTES * n;
    Ok(Trial {
        decision_bytes: (between - before) as f64 / n,
        feedback_bytes: (log.head() - between) as f64 / n,
        fold_s: begun.elapsed().as_secs_f64() / n,
        state_bytes: (fold.engine().state().to_bytes().len() as f64 - open).max(0.0),
    })
}
