//! A learner: one estimate a metric and action, moved by one example at a time, in log order.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use pawl_domain::{
    ActionName, LearnerId,
    spec::{CheckedSpec, Goal, Gradient, HalfLife, Loss, Metric, Parameters, Policy, Prior},
};
use pawl_model::{
    Encoded, Snapshot, Views,
    counts::Count,
    layout::Layout,
    snapshot::{Estimates, MetricView, joint},
};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    linear::{Degenerate, Linear},
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

/// A run of slots as stored: by name, never by place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub key: String,
    pub start: usize,
    pub len: usize,
}

/// What a learner knows of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricState {
    pub(crate) name: String,
    pub(crate) runs: Vec<Run>,
    /// All values of all actions.
    pooled: Count,
    seen: Option<[f64; 2]>,
    pub(crate) models: Models,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Models {
    PerAction(Vec<Linear>),
    Joint(Linear),
    Counts(Vec<Count>),
    Online(Vec<Online>),
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
    /// The state to which it goes back when something goes wrong. Gradient learners keep what differs themselves.
    good: Option<Box<Self>>,
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
            good: None,
        }
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
        for (example, x) in batch {
            self.examples += 1;
            self.take_gradient(policy, example, x, scratch);
        }
        self.end_batch();
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
        let taken = model.learn(online, &x.diagonal, e.value, e.weight, scratch);
        if taken.is_err() {
            self.refused += 1;
            return;
        }
        if policy.algorithm.predicts() {
            match scratch.log_loss {
                Some(known) => self.progress.add_logistic(known, e.value, e.weight),
                None => {
                    let range = model.range();
                    self.progress.add(online.loss, scratch.scores(), range, e.value, e.weight);
                }
            }
        }
    }

    fn end_batch(&mut self) {
        for metric in &mut self.metrics {
            if let Models::Online(models) = &mut metric.models {
                models.iter_mut().for_each(Online::end_batch);
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
            if online.gradient == Gradient::Average {
                self.average(policy, &pending, &mut scratch);
            } else {
                for (example, x) in &pending {
                    self.take_gradient(policy, example, x, &mut scratch);
                }
            }
            self.end_batch();
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
            for row in &rows {
                model.scores(row.x, &mut scratch.scores);
                if policy.algorithm.predicts() {
                    let range = model.range();
                    self.progress.add(online.loss, scratch.scores(), range, row.y, row.weight);
                }
            }
            if model.learn_average(online, &rows, scratch).is_err() {
                self.refused += rows.len() as u64;
            }
        }
    }

    /// Makes the present state the one to which [`Learner::go_back`] returns.
    pub fn mark_good(&mut self) {
        let good = self.hollow();
        self.good = Some(Box::new(good));
        for metric in &mut self.metrics {
            if let Models::Online(models) = &mut metric.models {
                models.iter_mut().for_each(Online::mark_good);
            }
        }
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
            good: None,
            ..*self
        }
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
            of_all: OnceLock::new(),
        }
    }
}

impl Models {
    fn new(spec: &CheckedSpec, layout: &Layout) -> Self {
        let policy = spec.policy();
        let k = spec.actions().len();
        let slots = layout.slots;
        if let Some(online) = &policy.online {
            return Self::Online(vec![Online::new(policy.algorithm, slots, online.outputs()); k]);
        }
        match (policy.algorithm.is_linear(), policy.parameters) {
            (false, _) => Self::Counts(vec![Count::default(); k]),
            (true, Parameters::PerAction) => {
                Self::PerAction(vec![Linear::new(layout.full, slots, policy.lambda); k])
            }
            (true, Parameters::Shared) => {
                Self::Joint(Linear::new(slots + k, slots + k, policy.lambda))
            }
            (true, Parameters::Hybrid) => {
                let all = slots + k * slots;
                Self::Joint(Linear::new(all, all, policy.lambda))
            }
        }
    }
}

/// The runs of slots of a metric's models: for joint ones, those of the actions too.
fn runs(spec: &CheckedSpec, layout: &Layout) -> Vec<Run> {
    let mut runs: Vec<Run> = layout
        .blocks
        .iter()
        .map(|b| Run { key: b.key.clone(), start: b.start, len: b.len })
        .collect();
    for (a, action) in spec.actions().iter().enumerate() {
        let name = &action.name;
        match spec.policy().parameters {
            Parameters::PerAction => {}
            Parameters::Shared => {
                runs.push(Run { key: format!("@{name}"), start: layout.slots + a, len: 1 });
            }
            Parameters::Hybrid => {
                let start = layout.slots + a * layout.slots;
                runs.extend(layout.blocks.iter().map(|b| Run {
                    key: format!("@{name}|{}", b.key),
                    start: start + b.start,
                    len: b.len,
                }));
            }
        }
    }
    runs
}

impl MetricState {
    /// Adds an example to the statistics.
    fn learn(&mut self, policy: &Policy, layout: &Layout, e: &Example, x: &Encoded, weight: f64) {
        self.pooled.add(e.value, weight);
        let [low, high] = self.seen.unwrap_or([e.value; 2]);
        self.seen = Some([low.min(e.value), high.max(e.value)]);
        let forgets = policy.half_life.is_some();
        let a = usize::from(e.action);
        match &mut self.models {
            Models::Counts(counts) => counts[a].add(e.value, weight),
            Models::PerAction(models) if forgets => models[a].accumulate(x, e.value, weight),
            Models::Joint(model) if forgets => {
                let phi = joint(policy.parameters, layout.slots, x, e.action);
                model.accumulate(&phi, e.value, weight);
            }
            Models::PerAction(_) | Models::Joint(_) | Models::Online(_) => {}
        }
    }

    /// Adds an example to the statistics of a linear model and moves its posterior at once.
    fn apply(
        &mut self,
        policy: &Policy,
        layout: &Layout,
        e: &Example,
        x: &Encoded,
    ) -> Result<(), Degenerate> {
        match &mut self.models {
            Models::Counts(_) | Models::Online(_) => Ok(()),
            Models::PerAction(models) => models[usize::from(e.action)].learn(x, e.value, e.weight),
            Models::Joint(model) => {
                let phi = joint(policy.parameters, layout.slots, x, e.action);
                model.learn(&phi, e.value, e.weight)
            }
        }
    }

    /// Counts how well recursive least squares predicts an example, before it learns.
    fn predicted(&self, e: &Example, x: &Encoded, progress: &mut Progress) {
        if let Models::PerAction(models) = &self.models {
            let score = models[usize::from(e.action)].posterior.mean(x, 0.0);
            let [low, high] = self.seen.unwrap_or([0.0; 2]);
            let range = [low.min(e.value), high.max(e.value)];
            progress.add(Loss::Squared, &[score], range, e.value, e.weight);
        }
    }

    fn decay(&mut self, factor: f64) {
        self.pooled.decay(factor);
        match &mut self.models {
            Models::Counts(counts) => counts.iter_mut().for_each(|c| c.decay(factor)),
            Models::PerAction(models) => models.iter_mut().for_each(|m| m.decay(factor)),
            Models::Joint(model) => model.decay(factor),
            Models::Online(_) => {}
        }
    }

    fn rebuild(&mut self) -> Result<(), Degenerate> {
        match &mut self.models {
            Models::Counts(_) | Models::Online(_) => Ok(()),
            Models::PerAction(models) => models.iter_mut().try_for_each(|m| m.rebuild()),
            Models::Joint(model) => model.rebuild(),
        }
    }

    pub(crate) const fn take_pooled(&mut self, old: &Self) {
        self.pooled = old.pooled;
        self.seen = old.seen;
    }

    fn view(&mut self, spec: &CheckedSpec, metric: &Metric) -> MetricView {
        let online = spec.policy().online.as_ref();
        let mut seen = self.seen;
        let estimates = match &mut self.models {
            Models::Online(models) => {
                // A score is no value: only the labels of a regression bound what is predicted.
                let numbers = online.is_some_and(|o| !o.loss.is_logistic());
                seen = models.first().map(Online::range).filter(|_| numbers);
                let average = online.is_some_and(|o| o.average);
                Estimates::Online(models.iter_mut().map(|m| m.publish(average)).collect())
            }
            Models::Counts(counts) => Estimates::Counts(counts.clone()),
            Models::PerAction(models) => {
                Estimates::PerAction(models.iter().map(|m| m.posterior.clone()).collect())
            }
            Models::Joint(model) => Estimates::Joint(model.posterior.clone()),
        };
        let actions = spec.actions().iter();
        let prior = match &metric.prior {
            Some(Prior::Number(value)) => actions.map(|_| *value).collect(),
            Some(Prior::PerAction(means)) => {
                actions.map(|a| means.get(&a.name).copied().unwrap_or_default()).collect()
            }
            None => {
                let value = self.default_prior(spec.policy(), metric);
                actions.map(|_| value).collect()
            }
        };
        MetricView { prior, seen, estimates }
    }

    /// Linear models: the running mean over all actions, which starts at the favourable bound with the weight of
    /// `prior_weight` examples. Counts: the middle of the bounds.
    fn default_prior(&self, policy: &Policy, metric: &Metric) -> f64 {
        let middle = metric.bounds.map_or(0.0, |[low, high]| low + (high - low) / 2.0);
        if !policy.algorithm.is_linear() {
            return middle;
        }
        match (metric.goal, metric.bounds) {
            (Goal::Max, Some([_, high])) => self.pooled.mean(high, policy.prior_weight),
            (Goal::Min, Some([low, _])) => self.pooled.mean(low, policy.prior_weight),
            (Goal::Min, None) => self.pooled.mean(0.0, policy.prior_weight),
            (Goal::Max, None) => self.pooled.mean(0.0, f64::MIN_POSITIVE),
        }
    }
}
