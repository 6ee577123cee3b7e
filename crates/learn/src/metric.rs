//! What a learner knows of one metric.

use pawl_domain::spec::{CheckedSpec, Goal, Loss, Metric, Parameters, Policy, Prior};
use pawl_model::{
    Encoded,
    counts::Count,
    layout::Layout,
    snapshot::{Estimates, MetricView, joint},
};
use pawl_stats::logistic::sigmoid;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{MetricParts, ModelParts},
    learner::Example,
    linear::{Degenerate, Linear},
    online::{Online, Totals},
    progress::Progress,
};

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
    pub(crate) pooled: Count,
    pub(crate) seen: Option<[f64; 2]>,
    /// Whether what is estimated are scores of a logistic function.
    pub(crate) logistic: bool,
    pub(crate) models: Models,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Models {
    PerAction(Vec<Linear>),
    Joint(Linear),
    Counts(Vec<Count>),
    Online(Vec<Online>),
}

impl Models {
    pub(crate) fn new(spec: &CheckedSpec, layout: &Layout) -> Self {
        let policy = spec.policy();
        let k = spec.actions().len();
        let slots = layout.slots;
        if let Some(online) = &policy.online {
            return Self::Online(vec![Online::new(online.rule, slots, online.outputs()); k]);
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
pub(crate) fn runs(spec: &CheckedSpec, layout: &Layout) -> Vec<Run> {
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
    pub(crate) fn learn(
        &mut self,
        policy: &Policy,
        layout: &Layout,
        e: &Example,
        x: &Encoded,
        weight: f64,
    ) {
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
    pub(crate) fn apply(
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
    pub(crate) fn predicted(&self, e: &Example, x: &Encoded, progress: &mut Progress) {
        if let Models::PerAction(models) = &self.models {
            let score = models[usize::from(e.action)].posterior.mean(x, 0.0);
            let [low, high] = self.seen.unwrap_or([0.0; 2]);
            let range = [low.min(e.value), high.max(e.value)];
            progress.add(Loss::Squared, &[score], range, e.value, e.weight);
        }
    }

    pub(crate) fn decay(&mut self, factor: f64) {
        self.pooled.decay(factor);
        match &mut self.models {
            Models::Counts(counts) => counts.iter_mut().for_each(|c| c.decay(factor)),
            Models::PerAction(models) => models.iter_mut().for_each(|m| m.decay(factor)),
            Models::Joint(model) => model.decay(factor),
            Models::Online(_) => {}
        }
    }

    pub(crate) fn rebuild(&mut self) -> Result<(), Degenerate> {
        match &mut self.models {
            Models::Counts(_) | Models::Online(_) => Ok(()),
            Models::PerAction(models) => models.iter_mut().try_for_each(|m| m.rebuild()),
            Models::Joint(model) => model.rebuild(),
        }
    }

    /// What an artifact keeps of it beside the arrays.
    pub(crate) fn parts(&self) -> MetricParts {
        let linear = |m: &Linear| (m.since_rebuild, m.examples);
        MetricParts {
            pooled: self.pooled,
            seen: self.seen,
            models: match &self.models {
                Models::PerAction(models) => {
                    ModelParts::Linear(models.iter().map(linear).collect())
                }
                Models::Joint(model) => ModelParts::Linear(vec![linear(model)]),
                Models::Counts(counts) => ModelParts::Counts(counts.clone()),
                Models::Online(models) => {
                    ModelParts::Online(models.iter().map(Online::totals).collect())
                }
            },
        }
    }

    /// Takes over what an artifact kept.
    ///
    /// # Errors
    /// If it is not of this metric, or no learner could have come to it.
    pub(crate) fn set_parts(&mut self, parts: MetricParts) -> Result<(), String> {
        let linear = |m: &mut Linear, (since_rebuild, examples): (u32, u64)| {
            (m.since_rebuild, m.examples) = (since_rebuild, examples);
        };
        let finite = |[low, high]: [f64; 2]| low.is_finite() && high.is_finite() && low <= high;
        let ordered = parts.seen.is_none_or(finite);
        let name = &self.name;
        if !parts.pooled.is_sound() || !ordered {
            return Err(format!("what it saw of `{name}` cannot be"));
        }
        (self.pooled, self.seen) = (parts.pooled, parts.seen);
        let fits = match (&mut self.models, parts.models) {
            (Models::PerAction(models), ModelParts::Linear(parts)) => {
                let fits = models.len() == parts.len();
                models.iter_mut().zip(parts).for_each(|(m, p)| linear(m, p));
                fits
            }
            (Models::Joint(model), ModelParts::Linear(parts)) => {
                parts.iter().for_each(|p| linear(model, *p));
                parts.len() == 1
            }
            (Models::Counts(counts), ModelParts::Counts(parts)) => {
                let fits = counts.len() == parts.len() && parts.iter().all(Count::is_sound);
                *counts = parts;
                fits
            }
            (Models::Online(models), ModelParts::Online(parts)) => {
                let fits = models.len() == parts.len() && parts.iter().all(Totals::is_sound);
                models.iter_mut().zip(parts).for_each(|(m, p)| m.set_totals(p));
                fits
            }
            _ => false,
        };
        fits.then_some(()).ok_or_else(|| format!("its state of `{name}` is not one of its spec"))
    }

    pub(crate) const fn take_pooled(&mut self, old: &Self) {
        self.pooled = old.pooled;
        self.seen = old.seen;
    }

    pub(crate) fn view(&mut self, spec: &CheckedSpec, metric: &Metric) -> MetricView {
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
        let actions = 0..spec.actions().len();
        let prior = actions.map(|a| self.prior(spec, metric, a)).collect();
        MetricView { prior, seen, estimates }
    }

    /// The prior mean of an action.
    fn prior(&self, spec: &CheckedSpec, metric: &Metric, action: usize) -> f64 {
        match &metric.prior {
            Some(Prior::Number(value)) => *value,
            Some(Prior::PerAction(means)) => {
                means.get(&spec.actions()[action].name).copied().unwrap_or_default()
            }
            None => self.default_prior(spec.policy(), metric),
        }
    }

    /// The mean that it expects of an action, within the metric's bounds or, without any, what was seen.
    pub(crate) fn expected(
        &self,
        spec: &CheckedSpec,
        metric: &Metric,
        layout: &Layout,
        action: u16,
        x: &Encoded,
    ) -> f64 {
        let policy = spec.policy();
        let a = usize::from(action);
        let prior = || self.prior(spec, metric, a);
        let mean = match &self.models {
            Models::Counts(counts) => counts[a].mean(prior(), policy.prior_weight),
            Models::PerAction(models) => models[a].posterior.mean(x, prior()),
            Models::Joint(model) => {
                let phi = joint(policy.parameters, layout.slots, x, action);
                model.posterior.mean(&phi, prior())
            }
            Models::Online(models) => {
                let mut scores = Vec::new();
                models[a].scores(&x.diagonal, &mut scores);
                let score = scores.first().copied().unwrap_or_default();
                if self.logistic { sigmoid(score) } else { score }
            }
        };
        match metric.bounds.or(self.seen) {
            Some([low, high]) => mean.clamp(low, high),
            None => mean,
        }
    }

    /// Linear models: the running mean over all actions, which starts at the favourable bound with the weight of
    /// `prior_weight` examples. Counts: the middle of the bounds.
    fn default_prior(&self, policy: &Policy, metric: &Metric) -> f64 {
        let middle = metric.bounds.map_or(0.0, |[low, high]| low + (high - low) / 2.0);
        if !policy.algorithm.is_linear() || policy.online.is_some() {
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
