//! A learner: one estimate a metric and action, moved by one example at a time, in log order.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use pawl_domain::{
    ActionName, LearnerId,
    spec::{CheckedSpec, Descent, Gradient, HalfLife, Metric, Policy},
};
use pawl_model::{Encoded, Snapshot, Views, context::Context, counts::Count};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::Parts,
    linear::Degenerate,
    metric::{MetricState, Models, runs},
    monitor::{Batch, Judgement, Monitor},
    online::{Online, Row, Scratch},
    progress::Progress,
};

/// One value of one metric for one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Index of the metric in the spec.
    pub metric: usize,
    /// Index of the action in the spec.
    pub action: u16,
    /// The value; of a classifier's label the index of the class.
    pub value: f64,
    /// Its importance: 1 is usual.
    pub weight: f64,
    /// The clock of the learner that decided: decisions of the model until then.
    pub clock: u64,
    /// Log time of the decision.
    pub at_ms: u64,
}

/// The moving state of a model's learner. Two learners that took the same examples are equal, bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learner {
    pub(crate) actions: Vec<ActionName>,
    /// The classes of a classifier.
    pub(crate) classes: Vec<String>,
    pub(crate) metrics: Vec<MetricState>,
    /// Examples taken.
    examples: u64,
    /// Decisions of the model.
    decisions: u64,
    /// Log time of the latest of them.
    time_ms: u64,
    /// Decisions and log time up to which statistics have decayed.
    decayed: (u64, u64),
    /// Examples of the batch that is not yet applied: only where the learner gathers.
    pending: Vec<(Example, Encoded)>,
    /// Log time of the first of them.
    pending_since_ms: u64,
    /// Examples that were refused because their update was not finite.
    refused: u64,
    /// Regressors and classifiers: how well they predicted.
    progress: Progress,
    /// Gradient learners: what watches each metric.
    monitors: Vec<Monitor>,
    /// The state to which it goes back when something goes wrong. Gradient learners keep what differs themselves.
    good: Option<Box<Self>>,
}

fn monitors(spec: &CheckedSpec) -> Vec<Monitor> {
    let Some(online) = &spec.policy().online else { return Vec::new() };
    vec![Monitor::new(&online.monitor, online.loss); spec.metrics().len()]
}

impl Learner {
    /// A learner that has seen nothing.
    #[must_use]
    pub fn new(spec: &CheckedSpec, views: &Views) -> Self {
        let metric = |(m, metric): (usize, &Metric)| MetricState {
            name: metric.name.clone(),
            runs: runs(spec, views.layout(m)),
            pooled: Count::default(),
            seen: None,
            logistic: spec.policy().online.as_ref().is_some_and(|o| o.loss.is_logistic()),
            models: Models::new(spec, views.layout(m)),
        };
        Self {
            actions: spec.actions().iter().map(|a| a.name.clone()).collect(),
            classes: spec.classes().to_vec(),
            metrics: spec.metrics().iter().enumerate().map(metric).collect(),
            examples: 0,
            decisions: 0,
            time_ms: 0,
            decayed: (0, 0),
            pending: Vec::new(),
            pending_since_ms: 0,
            refused: 0,
            progress: Progress::default(),
            monitors: monitors(spec),
            good: None,
        }
    }

    /// Whether its slots mean what `views` say.
    #[must_use]
    pub fn fits(&self, spec: &CheckedSpec, views: &Views) -> bool {
        let mut metrics = self.metrics.iter().enumerate();
        metrics.all(|(m, state)| state.runs == runs(spec, views.layout(m)))
    }

    /// Examples taken so far.
    #[must_use]
    pub const fn examples(&self) -> u64 {
        self.examples
    }

    /// Decisions of the model so far.
    #[must_use]
    pub const fn decisions(&self) -> u64 {
        self.decisions
    }

    /// Counts a decision at log time `at_ms`.
    pub const fn decided(&mut self, at_ms: u64) {
        self.decisions += 1;
        if at_ms > self.time_ms {
            self.time_ms = at_ms;
        }
    }

    /// The mean of each metric that its present state expects of an action, `[metrics]`.
    #[must_use]
    pub fn expected(
        &self,
        spec: &CheckedSpec,
        views: &Views,
        context: &Context<'_>,
        action: u16,
    ) -> Vec<f64> {
        let of = |((m, metric), state): ((usize, &Metric), &MetricState)| {
            let layout = views.layout(m);
            let x = Encoded::new(spec, layout, context, action);
            state.expected(spec, metric, layout, action, &x)
        };
        spec.metrics().iter().enumerate().zip(&self.metrics).map(of).collect()
    }

    /// Examples that were refused because their update was not finite.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// How well a regressor or classifier predicted.
    #[must_use]
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Takes one example: at once, or into the batch that gathers. `now_ms` is log time.
    ///
    /// # Errors
    /// If the statistics have become degenerate.
    pub fn learn(
        &mut self,
        spec: &CheckedSpec,
        views: &Views,
        example: &Example,
        x: &Encoded,
        now_ms: u64,
    ) -> Result<(), Degenerate> {
        self.examples += 1;
        let policy = spec.policy();
        if policy.gathers() {
            if self.pending.is_empty() {
                self.pending_since_ms = now_ms;
            }
            self.pending.push((*example, x.clone()));
            return Ok(());
        }
        let layout = views.layout(example.metric);
        let metric = &mut self.metrics[example.metric];
        if policy.algorithm.predicts() {
            metric.predicted(example, x, &mut self.progress);
        }
        metric.learn(policy, layout, example, x, example.weight);
        metric.apply(policy, layout, example, x)
    }

    /// Takes examples of a gradient learner that make a whole batch, without keeping them in between: the same as
    /// [`Learner::learn`] of each and [`Learner::flush`]. No other example may be pending.
    pub fn learn_batch<'a>(
        &mut self,
        policy: &Policy,
        batch: impl IntoIterator<Item = (&'a Example, &'a Encoded)>,
        scratch: &mut Scratch,
    ) {
        self.begin_batch(scratch);
        let mut batch = batch.into_iter().peekable();
        while let Some((example, x)) = batch.next() {
            if let Some((next, x)) = batch.peek()
                && let Models::Online(models) = &self.metrics[next.metric].models
            {
                models[usize::from(next.action)].touch(&x.diagonal);
            }
            self.examples += 1;
            self.take_gradient(policy, example, x, scratch);
        }
        self.end_batch(policy, scratch);
    }

    fn begin_batch(&self, scratch: &mut Scratch) {
        scratch.batches.resize_with(self.monitors.len(), Batch::default);
        scratch.batches.iter_mut().for_each(Batch::clear);
    }

    /// What watches each metric of a gradient learner, in the order of the spec; none for others.
    #[must_use]
    pub fn monitors(&self) -> &[Monitor] {
        &self.monitors
    }

    /// Whether examples wait for their batch.
    #[must_use]
    pub const fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn take_gradient(&mut self, policy: &Policy, e: &Example, x: &Encoded, scratch: &mut Scratch) {
        let Some(online) = &policy.online else { return };
        let metric = &mut self.metrics[e.metric];
        let Models::Online(models) = &mut metric.models else { return };
        let model = &mut models[usize::from(e.action)];
        let monitor = &self.monitors[e.metric];
        let holds = monitor.is_holding();
        scratch.cut = monitor.rate();
        model.scores(&x.diagonal, &mut scratch.scores);
        scratch.log_loss = None;
        let judged = model.judged(online, &x.diagonal, e.value, &scratch.scores);
        let finite = judged.is_none_or(f64::is_finite);
        if !finite
            || !holds
                && model.learn_scored(online, &x.diagonal, e.value, e.weight, scratch).is_err()
        {
            self.refused += 1;
            scratch.batches[e.metric].refused += 1;
            return;
        }
        // A log loss is known once the example is learned.
        let judged = judged.or(scratch.log_loss.map(|l| l.value));
        let judged = judged.unwrap_or_else(|| model.loss(online, e.value, &scratch.scores));
        let batch = &mut scratch.batches[e.metric];
        batch.seen.push((judged, e.value));
        if !holds {
            batch.norm = batch.norm.max(scratch.norm);
        }
        if policy.algorithm.predicts() {
            match scratch.log_loss.filter(|_| !holds) {
                Some(known) => self.progress.add_logistic(known, e.value, e.weight),
                None => {
                    let range = model.range();
                    self.progress.add(online.loss, scratch.scores(), range, e.value, e.weight);
                }
            }
        }
    }

    /// Ends a batch: what it did to a metric stands only if that metric's monitor is content.
    fn end_batch(&mut self, policy: &Policy, scratch: &Scratch) {
        let Some(online) = &policy.online else { return };
        // FTRL has no rate to cut: its sums were made with it.
        let plain = !online.adaptive && !online.normalized;
        let rate = (online.rule == Descent::Sgd).then_some((online.schedule.initial, plain));
        let watched = self.metrics.iter_mut().zip(&mut self.monitors);
        for ((metric, monitor), batch) in watched.zip(&scratch.batches) {
            let Models::Online(models) = &mut metric.models else { continue };
            if batch.is_empty() {
                continue;
            }
            let rules = &online.monitor;
            let judgement = monitor.judge(rules, online.loss, batch, rate, self.examples);
            for model in models {
                match judgement {
                    Judgement::Content => model.end_batch(),
                    Judgement::GoBack => model.go_back(),
                    Judgement::StartOver => model.forget(),
                    Judgement::Accept | Judgement::Restart => model.restart(),
                }
            }
        }
    }

    /// When the pending batch is to be applied; `None` if there is none.
    #[must_use]
    pub fn batch_due_ms(&self, policy: &Policy) -> Option<u64> {
        let due = self.pending_since_ms + policy.gathered_batch().after.ms();
        (!self.pending.is_empty()).then_some(due)
    }

    /// Whether the pending batch is full.
    #[must_use]
    pub fn batch_full(&self, policy: &Policy) -> bool {
        self.pending.len() >= policy.gathered_batch().size as usize
    }

    /// Applies the pending batch. A gradient learner takes its examples in order. One that forgets decays everything
    /// to the present, takes each example with the weight that its decision's age leaves, and derives every
    /// posterior once.
    ///
    /// # Errors
    /// If the statistics have become degenerate.
    pub fn flush(&mut self, spec: &CheckedSpec, views: &Views) -> Result<(), Degenerate> {
        let policy = spec.policy();
        let pending = core::mem::take(&mut self.pending);
        if pending.is_empty() && policy.online.is_some() {
            return Ok(());
        }
        if let Some(online) = &policy.online {
            let mut scratch = Scratch::default();
            self.begin_batch(&mut scratch);
            if online.gradient == Gradient::Average {
                self.average(policy, &pending, &mut scratch);
            } else {
                for (example, x) in &pending {
                    self.take_gradient(policy, example, x, &mut scratch);
                }
            }
            self.end_batch(policy, &scratch);
            return Ok(());
        }
        let Some(half_life) = policy.half_life else { return Ok(()) };
        let (decisions, time_ms) = (self.decisions, self.time_ms);
        let left = |(events, at_ms): (u64, u64)| {
            let halvings = match half_life {
                HalfLife::Events(n) => decisions.saturating_sub(events) as f64 / n,
                HalfLife::Time(t) => time_ms.saturating_sub(at_ms) as f64 / t.ms() as f64,
            };
            libm::exp2(-halvings)
        };
        let factor = left(self.decayed);
        for metric in &mut self.metrics {
            metric.decay(factor);
        }
        for (example, x) in &pending {
            let layout = views.layout(example.metric);
            let metric = &mut self.metrics[example.metric];
            if policy.algorithm.predicts() {
                metric.predicted(example, x, &mut self.progress);
            }
            let weight = example.weight * left((example.clock, example.at_ms));
            metric.learn(policy, layout, example, x, weight);
        }
        self.decayed = (decisions, time_ms);
        self.metrics.iter_mut().try_for_each(|m| m.rebuild())
    }

    /// One step with the mean gradient of the batch, for each metric and action.
    fn average(&mut self, policy: &Policy, pending: &[(Example, Encoded)], scratch: &mut Scratch) {
        let Some(online) = &policy.online else { return };
        let mut groups: BTreeMap<(usize, u16), Vec<Row<'_>>> = BTreeMap::new();
        for (e, x) in pending {
            let rows = groups.entry((e.metric, e.action)).or_default();
            rows.push(Row { x: &x.diagonal, y: e.value, weight: e.weight });
        }
        for ((m, action), rows) in groups {
            let Models::Online(models) = &mut self.metrics[m].models else { continue };
            let model = &mut models[usize::from(action)];
            scratch.cut = self.monitors[m].rate();
            for row in &rows {
                model.scores(row.x, &mut scratch.scores);
                let judged = model.judged(online, row.x, row.y, &scratch.scores);
                let judged = judged.unwrap_or_else(|| model.loss(online, row.y, &scratch.scores));
                scratch.batches[m].seen.push((judged, row.y));
                if policy.algorithm.predicts() {
                    let range = model.range();
                    self.progress.add(online.loss, scratch.scores(), range, row.y, row.weight);
                }
            }
            let holds = self.monitors[m].is_holding();
            if !holds && model.learn_average(online, &rows, scratch).is_err() {
                self.refused += rows.len() as u64;
                scratch.batches[m].refused += rows.len() as u64 + 1;
            }
        }
    }

    /// Makes the present state the one to which [`Learner::go_back`] returns. Gradient learners know theirs.
    pub fn mark_good(&mut self) {
        let good = self.hollow();
        self.good = Some(Box::new(good));
    }

    /// Examples taken when the good state was marked.
    #[must_use]
    pub fn good_examples(&self) -> u64 {
        self.good.as_ref().map_or(0, |g| g.examples)
    }

    /// Goes back to the state of the last [`Learner::mark_good`]; without one nothing changes.
    pub fn go_back(&mut self) {
        let Some(mut good) = self.good.take() else { return };
        for (mine, theirs) in self.metrics.iter_mut().zip(&mut good.metrics) {
            if let (Models::Online(mine), Models::Online(theirs)) =
                (&mut mine.models, &mut theirs.models)
            {
                mine.iter_mut().for_each(Online::go_back);
                core::mem::swap(mine, theirs);
            }
        }
        *self = *good;
        self.mark_good();
    }

    /// A copy without the slots of gradient learners, which undo their changes themselves.
    fn hollow(&self) -> Self {
        let metric = |m: &MetricState| MetricState {
            name: m.name.clone(),
            runs: m.runs.clone(),
            pooled: m.pooled,
            seen: m.seen,
            logistic: m.logistic,
            models: match &m.models {
                Models::Online(models) => {
                    Models::Online(models.iter().map(Online::hollow).collect())
                }
                other => other.clone(),
            },
        };
        Self {
            actions: self.actions.clone(),
            classes: self.classes.clone(),
            metrics: self.metrics.iter().map(metric).collect(),
            pending: self.pending.clone(),
            monitors: self.monitors.clone(),
            good: None,
            ..*self
        }
    }

    /// What an artifact keeps of it beside the arrays.
    pub(crate) fn parts(&self) -> Parts {
        Parts {
            // What waits for its batch is not in the file.
            examples: self.examples - self.pending.len() as u64,
            decisions: self.decisions,
            time_ms: self.time_ms,
            decayed: self.decayed,
            refused: self.refused,
            progress: self.progress,
            metrics: self.metrics.iter().map(MetricState::parts).collect(),
        }
    }

    /// Takes over what an artifact kept. `self` is a learner of the same spec that has seen nothing.
    ///
    /// # Errors
    /// If it is not of that spec, or no learner could have come to it.
    pub(crate) fn set_parts(&mut self, parts: Parts) -> Result<(), String> {
        if parts.metrics.len() != self.metrics.len() {
            return Err("its state is not one of its spec".to_owned());
        }
        if parts.decayed.0 > parts.decisions || !parts.progress.is_sound() {
            return Err("its counters contradict each other".to_owned());
        }
        self.examples = parts.examples;
        self.decisions = parts.decisions;
        self.time_ms = parts.time_ms;
        self.decayed = parts.decayed;
        self.refused = parts.refused;
        self.progress = parts.progress;
        self.metrics.iter_mut().zip(parts.metrics).try_for_each(|(m, p)| m.set_parts(p))
    }

    /// Counts decisions on from those of `old`. What it knows is as old as before.
    pub const fn set_clock(&mut self, old: &Self) {
        let since = self.decisions.saturating_sub(self.decayed.0);
        self.decisions = old.decisions;
        self.decayed.0 = old.decisions.saturating_sub(since);
    }

    pub(crate) const fn take_clock(&mut self, old: &Self) {
        self.examples = old.examples;
        self.decisions = old.decisions;
        self.time_ms = old.time_ms;
        // What waited was applied before: everything is decayed up to now, whether the old one forgot or not.
        self.decayed = (old.decisions, old.time_ms);
    }

    /// The immutable view of what it knows.
    #[must_use]
    pub fn snapshot(
        &mut self,
        spec: &Arc<CheckedSpec>,
        views: &Arc<Views>,
        version: Version,
        learner: LearnerId,
        position: u64,
    ) -> Snapshot {
        let metrics = spec.metrics().iter().zip(&mut self.metrics);
        Snapshot {
            spec: spec.clone(),
            views: views.clone(),
            version,
            learner,
            position,
            examples: self.examples - self.pending.len() as u64,
            decisions: self.decisions,
            metrics: metrics.map(|(metric, state)| state.view(spec, metric)).collect(),
            weights: spec.metrics().iter().map(|m| m.weight).collect(),
            floors: Vec::new(),
            budgets: Vec::new(),
            archived: false,
            levers: Arc::default(),
            of_all: OnceLock::new(),
        }
    }
}
