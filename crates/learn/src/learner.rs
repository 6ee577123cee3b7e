//! A learner: one estimate a metric and action, moved by one example at a time, in log order.

use std::sync::{Arc, OnceLock};

use pawl_domain::{
    ActionName, LearnerId,
    spec::{CheckedSpec, Goal, HalfLife, Metric, Parameters, Policy, Prior},
};
use pawl_model::{
    Encoded, Snapshot, Views,
    counts::Count,
    layout::Layout,
    snapshot::{Estimates, MetricView, joint},
};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::linear::{Degenerate, Linear};

/// One value of one metric for one action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Index of the metric in the spec.
    pub metric: usize,
    /// Index of the action in the spec.
    pub action: u16,
    /// The value.
    pub value: f64,
    /// The clock of the learner that decided: decisions of the model until then.
    pub clock: u64,
    /// Log time of the decision.
    pub at_ms: u64,
    /// The declared features of its context, as logged.
    pub context: Arc<str>,
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
}

/// The moving state of a model's learner. Two learners that took the same examples are equal, bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learner {
    pub(crate) actions: Vec<ActionName>,
    pub(crate) metrics: Vec<MetricState>,
    /// Examples taken.
    examples: u64,
    /// Decisions of the model.
    decisions: u64,
    /// Log time of the latest of them.
    time_ms: u64,
    /// Decisions and log time up to which statistics have decayed.
    decayed: (u64, u64),
    /// Examples of the batch that is not yet applied: only where the learner forgets.
    pending: Vec<Example>,
    /// Log time of the first of them.
    pending_since_ms: u64,
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
            metrics: spec.metrics().iter().enumerate().map(metric).collect(),
            examples: 0,
            decisions: 0,
            time_ms: 0,
            decayed: (0, 0),
            pending: Vec::new(),
            pending_since_ms: 0,
        }
    }

    /// Examples taken so far.
    #[must_use]
    pub const fn examples(&self) -> u64 {
        self.examples
    }

    /// Counts a decision at log time `at_ms`.
    pub const fn decided(&mut self, at_ms: u64) {
        self.decisions += 1;
        if at_ms > self.time_ms {
            self.time_ms = at_ms;
        }
    }

    /// Takes one example. `now_ms` is log time.
    ///
    /// # Errors
    /// If the statistics have become degenerate.
    pub fn learn(
        &mut self,
        spec: &CheckedSpec,
        views: &Views,
        example: Example,
        x: &Encoded,
        now_ms: u64,
    ) -> Result<(), Degenerate> {
        self.examples += 1;
        let policy = spec.policy();
        if policy.half_life.is_none() {
            let layout = views.layout(example.metric);
            self.metrics[example.metric].learn(policy, layout, &example, x, 1.0);
            return self.metrics[example.metric].apply(policy, layout, &example, x);
        }
        if self.pending.is_empty() {
            self.pending_since_ms = now_ms;
        }
        self.pending.push(example);
        Ok(())
    }

    /// When the pending batch is to be applied; `None` if there is none.
    #[must_use]
    pub fn batch_due_ms(&self, policy: &Policy) -> Option<u64> {
        let due = self.pending_since_ms + policy.forgetting_batch().after.ms();
        (!self.pending.is_empty()).then_some(due)
    }

    /// Whether the pending batch is full.
    #[must_use]
    pub fn batch_full(&self, policy: &Policy) -> bool {
        self.pending.len() >= policy.forgetting_batch().size as usize
    }

    /// Applies the pending batch: decays everything to the present, then takes each example with the weight
    /// that its decision's age leaves, then derives every posterior once. `encode` gives an example's vector.
    ///
    /// # Errors
    /// If the statistics have become degenerate.
    pub fn flush(
        &mut self,
        spec: &CheckedSpec,
        views: &Views,
        encode: impl Fn(&Example) -> Encoded,
    ) -> Result<(), Degenerate> {
        let policy = spec.policy();
        let pending = core::mem::take(&mut self.pending);
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
        for example in &pending {
            let x = encode(example);
            let layout = views.layout(example.metric);
            let metric = &mut self.metrics[example.metric];
            metric.learn(policy, layout, example, &x, left((example.clock, example.at_ms)));
        }
        self.decayed = (decisions, time_ms);
        self.metrics.iter_mut().try_for_each(|m| m.rebuild())
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
        &self,
        spec: &Arc<CheckedSpec>,
        views: &Arc<Views>,
        version: Version,
        learner: LearnerId,
        position: u64,
    ) -> Snapshot {
        let metrics = spec.metrics().iter().zip(&self.metrics);
        Snapshot {
            spec: spec.clone(),
            views: views.clone(),
            version,
            learner,
            position,
            examples: self.examples,
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
            Models::PerAction(_) | Models::Joint(_) => {}
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
            Models::Counts(_) => Ok(()),
            Models::PerAction(models) => models[usize::from(e.action)].learn(x, e.value, 1.0),
            Models::Joint(model) => {
                let phi = joint(policy.parameters, layout.slots, x, e.action);
                model.learn(&phi, e.value, 1.0)
            }
        }
    }

    fn decay(&mut self, factor: f64) {
        self.pooled.decay(factor);
        match &mut self.models {
            Models::Counts(counts) => counts.iter_mut().for_each(|c| c.decay(factor)),
            Models::PerAction(models) => models.iter_mut().for_each(|m| m.decay(factor)),
            Models::Joint(model) => model.decay(factor),
        }
    }

    fn rebuild(&mut self) -> Result<(), Degenerate> {
        match &mut self.models {
            Models::Counts(_) => Ok(()),
            Models::PerAction(models) => models.iter_mut().try_for_each(|m| m.rebuild()),
            Models::Joint(model) => model.rebuild(),
        }
    }

    pub(crate) const fn take_pooled(&mut self, old: &Self) {
        self.pooled = old.pooled;
        self.seen = old.seen;
    }

    fn view(&self, spec: &CheckedSpec, metric: &Metric) -> MetricView {
        let estimates = match &self.models {
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
        MetricView { prior, seen: self.seen, estimates }
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
