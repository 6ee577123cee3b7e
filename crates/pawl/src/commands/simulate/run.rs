//! One pass of a policy over a table, with bandit feedback, through the log, the fold and the snapshots of the server.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use pawl_domain::{
    CheckedSpec, DecisionId, Event, Position,
    event::{Caller, Change, Decided, Feedback, Target},
    spec::Goal,
};
use pawl_driver::Fold;
use pawl_engine::Engine;
use pawl_model::{
    HashKey, Request,
    context::Context,
    snapshot::{Made, Workspace},
};
use pawl_stats::rng::{Stream, mix, uniform};
use pawl_store::{
    Log, MemoryDisk,
    log::{Batch, Config},
};

use super::table::Table;

/// Sums over a pass, one a metric, and by tenth of the stream.
pub struct Pass {
    /// Sums of what the chosen actions gave, `[metrics]`.
    pub sums: Vec<f64>,
    /// The same by tenth of the stream, `[10][metrics]`.
    pub tenths: Vec<Vec<f64>>,
    /// What was kept of each floor of the spec.
    pub floors: Vec<KeptFloor>,
}

/// What was kept of a floor, on the same rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeptFloor {
    /// Sums of the policy's values and of the incumbent's.
    pub sums: [f64; 2],
    /// Σ value − part × incumbent's, and the sum of squares.
    difference: [f64; 2],
    /// Whether a 1 % confidence sequence of that lay wholly below 0 at any row.
    pub shown_broken: bool,
}

impl KeptFloor {
    fn add(&mut self, value: f64, incumbents: f64, part: f64, width: f64) {
        self.sums[0] += value;
        self.sums[1] += incumbents;
        let difference = (value - part * incumbents) / width;
        self.difference[0] += difference;
        self.difference[1] += difference * difference;
        let [sum, squares] = self.difference;
        self.shown_broken |= pawl_judge::shows_below(sum, squares, 0.01);
    }
}

/// The order of a pass: seed 0 is stream order, seed s a permutation.
fn order(rows: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    if seed > 0 {
        Stream::new(seed).shuffle(&mut order);
    }
    order
}

/// A log in memory whose only model is `spec`'s, and the fold over it.
pub fn begin(spec: &CheckedSpec) -> Result<(Arc<Log>, Fold)> {
    let disk = Arc::new(MemoryDisk::default());
    let (log, _) = Log::open(disk, Config { segment_bytes: 4 << 20, read_only: false }, 0, false)?;
    let log = Arc::new(log);
    log.append_event(&Event::Changed(Change::first(spec, 1)))?;
    let fold = Fold::new(log.clone(), Engine::new());
    Ok((log, fold))
}

/// Runs `spec` over the rows of `table` in the order of `seed`. Of `observed` of them the metrics that are gains are given as
/// feedback, the others always. `progress` is told the rows done.
pub fn run(
    spec: &CheckedSpec,
    table: &Table,
    seed: u64,
    observed: f64,
    progress: &dyn Fn(u64),
) -> Result<Pass> {
    let (log, mut fold) = begin(spec)?;
    let order = order(table.rows.len(), seed);
    let metrics = spec.metrics();
    let mut pass = Pass {
        sums: vec![0.0; metrics.len()],
        tenths: vec![vec![0.0; metrics.len()]; 10],
        floors: vec![KeptFloor::default(); spec.floors().len()],
    };
    let (floors, incumbent) = (spec.floors(), spec.incumbent().unwrap_or(0));
    let mut work = Workspace::default();
    let mut batch = Batch::default();
    for (at_ms, &row) in order.iter().enumerate() {
        fold.catch_up()?;
        let decided =
            decide(&mut fold, spec, &table.rows[row].context, seed, at_ms as u64, &mut work)?;
        let action = usize::from(decided.action().context("a decision has an action")?);
        batch.clear();
        let nonce = decided.nonce;
        batch.push(&Event::Decided(decided));
        let written = log.append(&mut batch)?;
        let values = metrics.iter().enumerate().map(|(m, metric)| {
            let value = table.value(row, m, action);
            pass.sums[m] += value;
            pass.tenths[at_ms * 10 / order.len()][m] += value;
            (metric.name.clone(), value)
        });
        let values: Vec<(String, f64)> = values.collect();
        for (keep, kept) in floors.iter().zip(&mut pass.floors) {
            let [low, high] = keep.bounds;
            let incumbents = table.value(row, keep.metric, incumbent);
            kept.add(values[keep.metric].1, incumbents, keep.part, high - low);
        }
        let seen = uniform(seed ^ 0x0B5E, at_ms as u64) < observed;
        let given = metrics.iter().zip(values).filter(|(m, _)| seen || m.goal == Goal::Min);
        let position = Position { partition: 0, offset: written.first };
        log.append_event(&Event::Feedback(Feedback {
            target: Target::Decision(DecisionId { epoch: log.epoch(), position, nonce }),
            received_ms: at_ms as u64,
            at_ms: None,
            metrics: given.map(|(_, value)| value).collect(),
            action_taken: None,
            not_used: false,
            principal: None,
            metadata: None,
        }))?;
        if at_ms % 1024 == 1023 {
            progress(1024);
        }
    }
    progress(order.len() as u64 % 1024);
    fold.catch_up()?;
    Ok(pass)
}

fn decide(
    fold: &mut Fold,
    spec: &CheckedSpec,
    context: &str,
    seed: u64,
    at_ms: u64,
    work: &mut Workspace,
) -> Result<Decided> {
    let snapshot = fold
        .engine_mut()
        .snapshot(spec.name())
        .ok_or_else(|| anyhow!("the model is not enrolled"))?;
    let read = Context::read(spec, &HashKey::default(), context)?;
    let nonce = mix(mix(seed ^ 0x5EED).wrapping_add(at_ms));
    let choice = snapshot.decide(&Request { context: &read, actions: None, seed: nonce }, work)?;
    let made = Made { epoch: fold.log().epoch(), nonce, at_ms, caller: Caller::default() };
    Ok(snapshot.record(&read, choice, made))
}
