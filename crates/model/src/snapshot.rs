//! The immutable view that answers requests: a version's spec and a learner's weights at one position.

mod budget;
mod choose;
mod floor;

use std::sync::{Arc, OnceLock};

use pawl_domain::{
    LearnerId, Levers,
    event::{Caller, Decided, Outcome, Removal},
    spec::{Algorithm, CheckedSpec, Likelihood, Metric, Online, Parameters},
};
use pawl_stats::argmax::{self, Marginal};
use semver::Version;

pub use budget::BudgetView;
pub use floor::FloorView;

use crate::{
    context::Context, counts::Count, encode::Encoded, layout::Views, linear::Posterior,
    weights::Weights,
};

/// What is known of one metric.
#[derive(Clone, Debug)]
pub struct MetricView {
    /// The prior mean of each action.
    pub prior: Vec<f64>,
    /// The values seen so far, least and largest: predictions of metrics that are not explored stay within.
    pub seen: Option<[f64; 2]>,
    /// The estimates.
    pub estimates: Estimates,
}

/// Estimates of one metric.
#[derive(Clone, Debug)]
pub enum Estimates {
    /// One linear model an action.
    PerAction(Vec<Arc<Posterior>>),
    /// One linear model over context and action.
    Joint(Arc<Posterior>),
    /// Counts an action.
    Counts(Vec<Count>),
    /// Weights of a gradient learner, an action.
    Online(Vec<Weights>),
}

/// The immutable view that answers requests.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The spec of the version.
    pub spec: Arc<CheckedSpec>,
    /// Its layouts.
    pub views: Arc<Views>,
    /// The version.
    pub version: Version,
    /// The learner.
    pub learner: LearnerId,
    /// The log offset up to which it has learned.
    pub position: u64,
    /// Examples it had taken.
    pub examples: u64,
    /// Decisions of the model folded there: the clock of forgetting by events.
    pub decisions: u64,
    /// One a metric of the spec.
    pub metrics: Vec<MetricView>,
    /// The weight of each metric in the score: the spec's, or what its floors have come to.
    pub weights: Vec<f64>,
    /// How far the floors let the policy decide.
    pub floors: Vec<FloorView>,
    /// The budgets that somebody has spent.
    pub budgets: Vec<BudgetView>,
    /// What operators ordered.
    pub levers: Arc<Levers>,
    /// Whether the model answers no more.
    pub archived: bool,
    /// Thompson without context: the probabilities of all actions, once they were asked for.
    pub of_all: OnceLock<Vec<f64>>,
}

/// What a decision is asked from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The context.
    pub context: &'a Context<'a>,
    /// Only these actions, by index; all if `None`.
    pub actions: Option<&'a [u16]>,
    /// The decision's own random bits.
    pub seed: u64,
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Indices of the eligible actions.
    pub eligible: Vec<u16>,
    /// What removed the others.
    pub removed: Vec<(u16, Removal)>,
    /// One an eligible action.
    pub probabilities: Vec<f64>,
    /// Index into `eligible`.
    pub chosen: usize,
    /// Why it was not the policy that chose.
    pub reason: Option<Reason>,
}

/// Why it was not the policy that chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The control group: always the incumbent.
    Holdback,
    /// Beyond the share of traffic that the policy may decide: the incumbent.
    Ramp,
    /// A floor is not certain enough: the incumbent.
    Floor,
    /// An operator pinned the action.
    Pinned,
    /// A budget is spent.
    Budget,
}

impl Reason {
    /// As records and replies have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holdback => "holdback",
            Self::Ramp => "ramp",
            Self::Floor => "floor",
            Self::Pinned => "pinned",
            Self::Budget => "budget",
        }
    }
}

/// What a record says beside the choice.
#[derive(Clone, Debug)]
pub struct Made {
    /// The log epoch.
    pub epoch: u32,
    /// The decision's own random bits, which keyed the draw.
    pub nonce: u64,
    /// Wall time.
    pub at_ms: u64,
    /// What the caller said.
    pub caller: Caller,
}

/// Why nothing could be decided.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Every action was removed.
    #[error("no action is eligible: {0}")]
    NoEligibleAction(String),
}

/// What the policy saw: for explanations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Predicted value, `[metrics][eligible]`.
    pub predicted: Vec<Vec<f64>>,
    /// Standard deviation that counted in exploration, `[metrics][eligible]`; 0 where none did.
    pub deviation: Vec<Vec<f64>>,
    /// Σ weight × predicted, `[eligible]`.
    pub score: Vec<f64>,
    /// Standard deviation of the score, `[eligible]`.
    pub score_deviation: Vec<f64>,
}

/// The context in the slots of each layout: one for all actions, or one an action where they have features of their own.
#[derive(Clone, Debug, Default)]
struct Inputs {
    all: Vec<Encoded>,
    /// 1, or the number of eligible actions.
    width: usize,
}

impl Inputs {
    /// For the `i`-th eligible action.
    fn of(&self, layout: usize, i: usize) -> &Encoded {
        &self.all[layout * self.width + i.min(self.width - 1)]
    }
}

/// Memory that decisions use again.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    encoded: Inputs,
    scores: Scores,
    scratch: argmax::Scratch,
}

impl Workspace {
    /// The context in the slots of one layout, once a snapshot has encoded it for its one action.
    pub(crate) fn encoded(&self, layout: usize) -> &Encoded {
        self.encoded.of(layout, 0)
    }
}

impl Snapshot {
    /// The record of a choice that this snapshot made from `context`.
    #[must_use]
    pub fn record(&self, context: &Context<'_>, choice: Choice, made: Made) -> Decided {
        Decided {
            epoch: made.epoch,
            nonce: made.nonce,
            at_ms: made.at_ms,
            model: self.spec.name().clone(),
            version: self.version.clone(),
            learner: self.learner,
            snapshot: self.position,
            clock: self.decisions,
            context: context.logged(&self.spec, &choice.eligible).into_owned(),
            eligible: choice.eligible,
            removed: choice.removed,
            probabilities: choice.probabilities,
            chosen: choice.chosen as u16,
            outcome: Outcome::Ok,
            reason: choice.reason.map(|r| r.as_str().to_owned()),
            caller: made.caller,
            metrics: Vec::new(),
        }
    }

    /// The scores that [`Snapshot::decide`] weighs, for `eligible` actions.
    #[must_use]
    pub fn scores(&self, context: &Context<'_>, eligible: &[u16]) -> Scores {
        let mut work = Workspace::default();
        self.encode(context, eligible, &mut work);
        let Workspace { encoded, mut scores, .. } = work;
        self.score(eligible, &encoded, &mut scores);
        scores
    }

    /// How much each slot adds to the prediction of metric `m` for `action`: name and θ·x, the largest first.
    #[must_use]
    pub fn contributions(
        &self,
        context: &Context<'_>,
        m: usize,
        action: u16,
    ) -> Vec<(String, f64)> {
        let layout = self.views.layout(m);
        let x = Encoded::new(&self.spec, layout, context, action);
        let view = &self.metrics[m];
        let prior = view.prior[usize::from(action)];
        let theta = |p: &Posterior, slot: usize| p.u[slot] - prior * p.v[slot];
        let mut found: Vec<(String, f64)> = match &view.estimates {
            Estimates::Counts(_) => Vec::new(),
            Estimates::Online(models) => {
                let outputs = self.outputs();
                let w = &models[usize::from(action)];
                // Of several classes, towards the last one: what speaks for the others is in their predictions.
                let at = |slot: usize| w.get(slot * outputs + outputs - 1);
                x.iter().map(|(slot, v)| (layout.name(&self.spec, slot), at(slot) * v)).collect()
            }
            Estimates::PerAction(posteriors) => {
                let p = &posteriors[usize::from(action)];
                x.iter()
                    .map(|(slot, v)| (layout.name(&self.spec, slot), theta(p, slot) * v))
                    .collect()
            }
            Estimates::Joint(p) => {
                let phi = self.joint(&x, m, action);
                let name = |slot: usize| match slot.checked_sub(layout.slots) {
                    None => layout.name(&self.spec, slot),
                    Some(_) if self.spec.policy().parameters == Parameters::Shared => {
                        "action".to_owned()
                    }
                    Some(rest) => {
                        format!("action * {}", layout.name(&self.spec, rest % layout.slots))
                    }
                };
                phi.iter().map(|(slot, v)| (name(slot), theta(p, slot) * v)).collect()
            }
        };
        found.retain(|(_, v)| *v != 0.0);
        found.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then_with(|| a.0.cmp(&b.0)));
        found
    }

    pub(crate) fn encode(&self, context: &Context<'_>, eligible: &[u16], work: &mut Workspace) {
        let layouts = &self.views.layouts;
        let Inputs { all, width } = &mut work.encoded;
        *width = if self.spec.has_action_features() { eligible.len() } else { 1 };
        all.resize_with(layouts.len() * *width, Encoded::default);
        for (layout, encoded) in layouts.iter().zip(all.chunks_mut(*width)) {
            for (x, action) in encoded.iter_mut().zip(eligible) {
                x.fill(&self.spec, layout, context, *action);
            }
        }
    }

    fn score(&self, eligible: &[u16], encoded: &Inputs, scores: &mut Scores) {
        let k = eligible.len();
        let metrics = self.spec.metrics();
        scores.predicted.resize_with(metrics.len(), Vec::new);
        scores.deviation.resize_with(metrics.len(), Vec::new);
        scores.score.clear();
        scores.score.resize(k, 0.0);
        scores.score_deviation.clear();
        scores.score_deviation.resize(k, 0.0);
        for (m, metric) in metrics.iter().enumerate() {
            let layout = self.views.of_metric[m];
            let (predicted, deviation) = (&mut scores.predicted[m], &mut scores.deviation[m]);
            predicted.clear();
            deviation.clear();
            for (i, &action) in eligible.iter().enumerate() {
                let (mean, sd) = self.estimate(m, metric, action, encoded.of(layout, i));
                predicted.push(mean);
                deviation.push(sd);
                scores.score[i] += self.weights[m] * mean;
                let spread = self.weights[m] * sd;
                scores.score_deviation[i] += spread * spread;
            }
        }
        scores.score_deviation.iter_mut().for_each(|s| *s = libm::sqrt(*s));
    }

    /// The predicted value of metric `m` for `action`, and the deviation that exploration adds.
    pub(crate) fn estimate(
        &self,
        m: usize,
        metric: &Metric,
        action: u16,
        x: &Encoded,
    ) -> (f64, f64) {
        let policy = self.spec.policy();
        let view = &self.metrics[m];
        let a = usize::from(action);
        let prior = view.prior[a];
        let explores = metric.explore
            && matches!(policy.algorithm, Algorithm::Linucb | Algorithm::LinearThompson);
        let width = policy.alpha * range(metric);
        let (mean, sd) = match &view.estimates {
            Estimates::PerAction(posteriors) => {
                let p = &posteriors[a];
                let sd = if explores { width * libm::sqrt(p.variance(x)) } else { 0.0 };
                (p.mean(x, prior), sd)
            }
            Estimates::Joint(p) => {
                let phi = self.joint(x, m, action);
                let sd = if explores { width * libm::sqrt(p.variance(&phi)) } else { 0.0 };
                (p.mean(&phi, prior), sd)
            }
            Estimates::Counts(counts) => {
                let count = &counts[a];
                let bonus = policy.algorithm == Algorithm::Ucb1 && metric.explore;
                let sd = if bonus { width * ucb1(counts, count.n) } else { 0.0 };
                let mean = if policy.algorithm == Algorithm::Ucb1 {
                    count.mean(prior, f64::MIN_POSITIVE)
                } else {
                    count.mean(prior, policy.prior_weight)
                };
                (mean, sd)
            }
            Estimates::Online(models) => (models[a].score(&x.diagonal, 0, self.outputs()), 0.0),
        };
        match (metric.explore, view.seen) {
            (false, Some([low, high])) => (mean.clamp(low, high), sd),
            _ => (mean, sd),
        }
    }

    /// Scores that a gradient learner gives.
    pub(crate) fn outputs(&self) -> usize {
        self.spec.policy().online.as_ref().map_or(1, Online::outputs)
    }

    fn marginals(&self, eligible: &[u16]) -> Vec<Marginal> {
        let policy = self.spec.policy();
        let metrics = self.spec.metrics();
        let explored = metrics.iter().filter(|m| m.explore).count();
        let of = |&action: &u16| {
            let a = usize::from(action);
            let mut fixed = 0.0;
            let (mut mean, mut variance) = (0.0, 0.0);
            let mut only = None;
            for ((metric, view), weight) in metrics.iter().zip(&self.metrics).zip(&self.weights) {
                let Estimates::Counts(counts) = &view.estimates else { continue };
                let prior = view.prior[a];
                if !metric.explore {
                    fixed += weight * counts[a].mean(prior, policy.prior_weight);
                    continue;
                }
                let posterior = match policy.likelihood {
                    Likelihood::Bernoulli => {
                        let bounds = metric.bounds.unwrap_or([0.0, 1.0]);
                        counts[a].beta(bounds, prior, policy.prior_weight)
                    }
                    Likelihood::Normal => counts[a].student(prior, policy.prior_weight),
                };
                mean += weight * posterior.mean();
                let spread = weight * posterior.spread();
                variance += spread * spread;
                only = Some((posterior, *weight));
            }
            match only {
                Some((posterior, weight)) if explored == 1 => shift(&posterior, weight, fixed),
                // Several posteriors in one sum: a normal of the same mean and variance.
                _ => Marginal::Normal(mean + fixed, libm::sqrt(variance)),
            }
        };
        eligible.iter().map(of).collect()
    }

    /// The covariance of the eligible actions' scores, `[k, k]`, under shared parameters.
    fn covariance(&self, eligible: &[u16], encoded: &Inputs) -> Vec<f64> {
        let k = eligible.len();
        let mut covariance = vec![0.0; k * k];
        let mut row = Vec::new();
        for (m, metric) in self.spec.metrics().iter().enumerate().filter(|(_, m)| m.explore) {
            let Estimates::Joint(p) = &self.metrics[m].estimates else { continue };
            let width = self.weights[m] * self.spec.policy().alpha * range(metric);
            let layout = self.views.of_metric[m];
            let of = |(i, &a): (usize, &u16)| self.joint(encoded.of(layout, i), m, a);
            let phi: Vec<Encoded> = eligible.iter().enumerate().map(of).collect();
            for i in 0..k {
                p.times(&phi[i], &mut row);
                for j in 0..=i {
                    let value = width * width * phi[j].dot(&row);
                    covariance[i * k + j] += value;
                    if i != j {
                        covariance[j * k + i] += value;
                    }
                }
            }
        }
        covariance
    }

    /// φ(x, a) of shared and hybrid parameters for metric `m`.
    #[must_use]
    pub fn joint(&self, x: &Encoded, m: usize, action: u16) -> Encoded {
        joint(self.spec.policy().parameters, self.views.layout(m).slots, x, action)
    }
}

/// φ(x, a): the slots of the context and of the action's own features, then an intercept an action (shared) or a copy of the context's slots an
/// action (hybrid; Li et al. 2010, section 3.2, with the context itself as the shared features).
#[must_use]
pub fn joint(parameters: Parameters, slots: usize, x: &Encoded, action: u16) -> Encoded {
    let mut phi = x.clone();
    let a = usize::from(action);
    if parameters == Parameters::Shared {
        phi.sparse.push(((slots + a) as u32, 1.0));
    } else {
        let start = slots + a * slots;
        phi.sparse.extend(x.iter().map(|(slot, v)| ((start + slot) as u32, v)));
    }
    phi
}

/// The width of a metric's bounds; 1 where it has none.
fn range(metric: &Metric) -> f64 {
    metric.bounds.map_or(1.0, |[low, high]| high - low)
}

/// √(2 ln t / n) (Auer et al. 2002, figure 1); an action never played is infinitely interesting.
fn ucb1(counts: &[Count], n: f64) -> f64 {
    let total: f64 = counts.iter().map(|c| c.n).sum();
    if n <= 0.0 { f64::INFINITY } else { libm::sqrt(2.0 * libm::log(total.max(1.0)) / n) }
}

fn shift(posterior: &Marginal, weight: f64, fixed: f64) -> Marginal {
    match *posterior {
        Marginal::Normal(mean, sd) => Marginal::Normal(fixed + weight * mean, weight.abs() * sd),
        Marginal::Beta { a, b, location, scale } => {
            Marginal::Beta { a, b, location: fixed + weight * location, scale: weight * scale }
        }
        Marginal::Student { dof, location, scale } => {
            let location = fixed + weight * location;
            Marginal::Student { dof, location, scale: weight.abs() * scale }
        }
    }
}
