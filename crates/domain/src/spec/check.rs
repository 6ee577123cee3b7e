//! The rules of a spec: each violation names its field, the value and the remedy.

mod budgets;
mod features;
mod label;
mod learner;
mod online;
mod rules;

use core::fmt;
use std::collections::BTreeSet;

use super::{
    Action, ActionSpec, Actions, CheckedSpec, Feature, Goal, Kind, Metric, MetricSpec, Missing,
    ModelSpec, ObjectiveSpec, Parameters, Prior, SCHEMA, feature,
};
use crate::suggest::nearest;
use budgets::{check_budgets, check_session};
use features::{check_action_features, check_crosses, check_features, check_terms};
use label::{check_label, label_metric};
use learner::{check_dimensions, check_explored, check_learner};
use rules::check_rules;

/// Most actions of a policy.
pub const ACTIONS_MAX: usize = 1000;
/// Most metrics of a model: a decision keeps one bit for each.
pub const METRICS_MAX: usize = 15;
/// Most slots of a full covariance.
pub const FULL_SLOTS_MAX: usize = 512;
/// Most numbers that the state of a linear model may have: 64 MB, and as much again for its last good copy.
pub const NUMBERS_MAX: usize = 1 << 23;
/// Most actions of Thompson sampling without context.
pub const THOMPSON_ACTIONS_MAX: usize = 64;
/// Largest bound, prior or weight: beyond it sums lose all other digits.
pub const NUMBER_MAX: f64 = 1e15;
/// Most slots in all.
pub const SLOTS_MAX: usize = 1 << 20;
/// Most slots of a gradient learner, classes together: 128 MB.
pub const ONLINE_SLOTS_MAX: usize = 1 << 22;
/// Most weights of a gradient learner over all actions and metrics: half a gigabyte.
pub const COORDINATES_MAX: usize = 1 << 24;

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// The path of the field, such as `metrics.quality.bounds`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Every violation of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecErrors(pub Vec<SpecError>);

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", error.field, error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

struct Checker(Vec<SpecError>);

impl Checker {
    fn fail(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(SpecError { field: field.into(), message: message.into() });
    }

    fn require(&mut self, ok: bool, field: &str, message: impl Into<String>) {
        if !ok {
            self.fail(field, message);
        }
    }

    fn unknown<'a>(
        &mut self,
        field: &str,
        name: &str,
        what: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) {
        let hint = nearest(name, known).map_or_else(
            || format!("declare the {what} or remove it here"),
            |n| format!("did you mean `{n}`?"),
        );
        self.fail(field, format!("`{name}` is not a declared {what}; {hint}"));
    }
}

pub(super) fn check(spec: ModelSpec) -> Result<CheckedSpec, SpecErrors> {
    let mut c = Checker(Vec::new());
    c.require(
        spec.schema == SCHEMA,
        "schema",
        format!("`{}` is not a known schema; write {SCHEMA}", spec.schema),
    );
    let features = check_features(&spec, &mut c);
    check_label(&spec, &mut c);
    let policy = spec.kind == Kind::Policy;
    let actions = if policy { check_actions(&spec, &features, &mut c) } else { label::actions() };
    let crosses = check_crosses(&spec, &features, &mut c);
    let metrics = if policy {
        check_objective(&spec, &actions, &mut c);
        check_metrics(&spec, &actions, &features, &crosses, &mut c)
    } else {
        vec![label_metric(&spec, &features, &crosses, &mut c)]
    };
    check_feedback(&spec, &mut c);
    let policy = check_learner(&spec, &mut c);
    let one_prior = |m: &Metric| !matches!(m.prior, Some(Prior::PerAction(_)));
    if policy.parameters != Parameters::PerAction && !metrics.iter().all(one_prior) {
        c.fail("learner.parameters", "shared parameters need one `prior` for all actions");
    }
    let rules = check_rules(&spec, &actions, &features, &mut c);
    let budgets = check_budgets(&spec, &metrics, &features, &mut c);
    check_session(&spec, &mut c);
    check_explored(&metrics, &policy, &mut c);
    check_dimensions(&spec, &metrics, &features, &policy, actions.len(), &mut c);
    if c.0.is_empty() {
        Ok(CheckedSpec { spec, actions, features, metrics, rules, budgets, policy })
    } else {
        Err(SpecErrors(c.0))
    }
}

fn check_actions(spec: &ModelSpec, features: &[Feature], c: &mut Checker) -> Vec<Action> {
    let listed: Vec<(_, ActionSpec)> = match &spec.actions {
        Actions::Names(names) => names.iter().map(|n| (n.clone(), ActionSpec::default())).collect(),
        Actions::Tables(tables) => tables.iter().map(|(n, a)| (n.clone(), a.clone())).collect(),
    };
    c.require(
        (2..=ACTIONS_MAX).contains(&listed.len()),
        "actions",
        format!("a policy has 2 to {ACTIONS_MAX} actions; this one has {}", listed.len()),
    );
    let distinct: BTreeSet<_> = listed.iter().map(|(n, _)| n).collect();
    c.require(distinct.len() == listed.len(), "actions", "list each action once");
    let mut actions = Vec::new();
    for (name, action) in listed {
        let mut max = Vec::new();
        for (feature, limit) in action.max {
            let field = format!("actions.{name}.max.{feature}");
            match features.iter().position(|f| f.name == feature) {
                Some(i) if features[i].encoding.kind() == feature::FeatureType::Number => {
                    c.require(limit.is_finite(), &field, "give a finite number");
                    max.push((i, limit));
                }
                Some(_) => c.fail(field, format!("`{feature}` is not a number")),
                None => {
                    c.unknown(&field, &feature, "feature", features.iter().map(|f| f.name.as_str()))
                }
            }
        }
        let features = check_action_features(&name, action.features, features, c);
        let state = action.state;
        actions.push(Action { name, payload: action.payload, max, state, features });
    }
    actions
}

fn check_metrics(
    spec: &ModelSpec,
    actions: &[Action],
    features: &[Feature],
    crosses: &[(usize, usize)],
    c: &mut Checker,
) -> Vec<Metric> {
    c.require(
        (1..=METRICS_MAX).contains(&spec.metrics.len()),
        "metrics",
        format!("declare 1 to {METRICS_MAX} metrics; there are {}", spec.metrics.len()),
    );
    let alone = spec.metrics.len() == 1;
    let mut metrics = Vec::new();
    for (name, metric) in &spec.metrics {
        let field = format!("metrics.{name}");
        c.require(
            !name.is_empty() && name.len() <= 64,
            &field,
            "a metric's name has 1 to 64 bytes",
        );
        if let Some([low, high]) = metric.bounds {
            let ok = low.abs() <= NUMBER_MAX && high.abs() <= NUMBER_MAX && high - low >= 1e-12;
            c.require(ok, &format!("{field}.bounds"), "give two finite numbers, the smaller first");
        }
        check_prior(metric, &field, actions, c);
        let default_weight = match metric.goal {
            _ if !alone => 0.0,
            Goal::Max => 1.0,
            Goal::Min => -1.0,
        };
        let objective = spec.objective.as_ref();
        let of_floor = objective.and_then(|o| match o.minimize.as_ref() {
            Some(minimized) if minimized == name => Some(-1.0),
            Some(_) => Some(if o.keep.contains_key(name) { 1.0 } else { 0.0 }),
            None => None,
        });
        let weight = objective.and_then(|o| o.weights.get(name)).copied();
        let weight = weight.or(of_floor).unwrap_or(default_weight);
        metrics.push(Metric {
            name: name.clone(),
            bounds: metric.bounds,
            goal: metric.goal,
            prior: metric.prior.clone(),
            terms: check_terms(metric, &field, features, crosses, c),
            explore: metric.explore.unwrap_or(true) && weight != 0.0,
            weight,
            missing: match spec.feedback.missing.get(name) {
                Some(Missing::Value(v)) => Some(*v),
                _ => None,
            },
        });
    }
    metrics
}

fn check_prior(metric: &MetricSpec, field: &str, actions: &[Action], c: &mut Checker) {
    let field = format!("{field}.prior");
    let mut value = |v: f64| {
        let inside = metric.bounds.is_none_or(|[low, high]| (low..=high).contains(&v));
        c.require(
            v.is_finite() && inside,
            &field,
            format!("`{v}` must be finite and within `bounds`"),
        );
    };
    match &metric.prior {
        None => {}
        Some(Prior::Number(v)) => value(*v),
        Some(Prior::PerAction(means)) => {
            means.values().for_each(|v| value(*v));
            for name in means.keys().filter(|n| !actions.iter().any(|a| a.name == **n)) {
                c.unknown(&field, name.as_str(), "action", actions.iter().map(|a| a.name.as_str()));
            }
            for action in actions.iter().filter(|a| !means.contains_key(&a.name)) {
                c.fail(
                    &*field,
                    format!("`{}` has no prior mean; give one for each action", action.name),
                );
            }
        }
    }
}

fn check_objective(spec: &ModelSpec, actions: &[Action], c: &mut Checker) {
    let Some(objective) = &spec.objective else {
        c.require(
            spec.metrics.len() <= 1,
            "objective",
            "with several metrics, give `objective.weights`, one for each that counts",
        );
        return;
    };
    check_floors(spec, objective, c);
    if let Some(incumbent) = &objective.incumbent
        && !actions.iter().any(|a| a.name == *incumbent)
    {
        let known = actions.iter().map(|a| a.name.as_str());
        c.unknown("objective.incumbent", incumbent.as_str(), "action", known);
    }
    for (key, share) in [("holdback", objective.holdback), ("ramp", objective.ramp)] {
        let Some(share) = share else { continue };
        let field = format!("objective.{key}");
        c.require((0.0..=1.0).contains(&share), &field, format!("`{share}` must be from 0 to 1"));
        c.require(
            objective.incumbent.is_some(),
            &field,
            "that share is the incumbent's: name it in `objective.incumbent`",
        );
    }
    if spec.metrics.len() > 1 && objective.weights.is_empty() && objective.keep.is_empty() {
        c.fail("objective.weights", "with several metrics, give a weight for each that counts");
    }
    for (name, weight) in &objective.weights {
        let field = format!("objective.weights.{name}");
        c.require(
            weight.abs() <= NUMBER_MAX,
            &field,
            format!("`{weight:e}` must be at most {NUMBER_MAX:e}"),
        );
        match spec.metrics.get(name) {
            None => c.unknown(&field, name, "metric", spec.metrics.keys().map(String::as_str)),
            Some(m) if m.goal == Goal::Max && *weight < 0.0 => {
                c.fail(
                    field,
                    format!("`{weight}` is negative but the goal is `max`; change one of them"),
                );
            }
            Some(m) if m.goal == Goal::Min && *weight > 0.0 => {
                c.fail(
                    field,
                    format!("`{weight}` is positive but the goal is `min`; change one of them"),
                );
            }
            Some(_) => {}
        }
    }
}

/// A floor needs both its parts, an incumbent, and bounds that a part of can be kept.
fn check_floors(spec: &ModelSpec, objective: &ObjectiveSpec, c: &mut Checker) {
    if objective.minimize.is_none() && objective.keep.is_empty() {
        return;
    }
    c.require(
        objective.minimize.is_some() && !objective.keep.is_empty(),
        "objective.keep",
        "a floor has two parts: `minimize` names what is to be small, `keep` what is kept of which metric",
    );
    c.require(
        objective.weights.is_empty(),
        "objective.weights",
        "with a floor the weights follow from what is observed; remove them, or `minimize` and `keep`",
    );
    c.require(
        objective.incumbent.is_some(),
        "objective.incumbent",
        "a floor is a part of the incumbent's: name it",
    );
    c.require(
        objective.holdback.is_none_or(|h| h > 0.0),
        "objective.holdback",
        "a floor needs the incumbent to compare with; remove it (5 %), or give more than 0",
    );
    let known = || spec.metrics.keys().map(String::as_str);
    if let Some(name) = &objective.minimize {
        match spec.metrics.get(name) {
            None => c.unknown("objective.minimize", name, "metric", known()),
            Some(m) => c.require(
                m.goal == Goal::Min && !objective.keep.contains_key(name),
                "objective.minimize",
                format!("`{name}` must have `goal = \"min\"`, and not be in `keep`"),
            ),
        }
    }
    for (name, part) in &objective.keep {
        let field = format!("objective.keep.{name}");
        c.require(
            *part > 0.0 && *part < 1.0,
            &field,
            format!("`{part}` must be above 0 and below 1"),
        );
        match spec.metrics.get(name) {
            None => c.unknown(&field, name, "metric", known()),
            Some(m) => c.require(
                m.goal == Goal::Max && m.bounds.is_some_and(|[low, _]| low >= 0.0),
                &field,
                format!("`{name}` must have `goal = \"max\"` and `bounds` from 0 or more"),
            ),
        }
    }
}

fn check_feedback(spec: &ModelSpec, c: &mut Checker) {
    const MOST: u64 = 90 * 86_400_000;
    let deadline = spec.feedback.deadline;
    c.require(
        (1..=MOST).contains(&deadline.ms()),
        "feedback.deadline",
        format!("`{deadline}` must be above 0 and at most 90d"),
    );
    for (name, missing) in &spec.feedback.missing {
        let field = format!("feedback.missing.{name}");
        match (spec.metrics.get(name), missing) {
            (None, _) => c.unknown(&field, name, "metric", spec.metrics.keys().map(String::as_str)),
            (Some(m), Missing::Value(v)) => {
                let inside = m.bounds.is_none_or(|[low, high]| (low..=high).contains(v));
                c.require(
                    v.is_finite() && inside,
                    &field,
                    format!("`{v}` must be finite and within `bounds`"),
                );
            }
            (Some(_), Missing::Skip(_)) => {}
        }
    }
}
