//! Budgets of metrics that exist, by features whose values can be told apart; sessions of policies.

use super::{
    super::{Budget, Feature, FeatureOf, FeatureType, Kind, LogMode, Metric, ModelSpec, OnExceed},
    Checker, NUMBER_MAX,
};

/// Most budgets of a spec.
const BUDGETS_MAX: usize = 16;
/// The longest that a session waits for its next decision.
const STICKY_MAX_MS: u64 = 7 * 86_400_000;

pub(super) fn check_budgets(
    spec: &ModelSpec,
    metrics: &[Metric],
    features: &[Feature],
    c: &mut Checker,
) -> Vec<Budget> {
    c.require(
        spec.budgets.is_empty() || spec.kind == Kind::Policy,
        "budget",
        "only a policy spends; remove it",
    );
    c.require(
        spec.budgets.len() <= BUDGETS_MAX,
        "budget",
        format!("there are {}; at most {BUDGETS_MAX}", spec.budgets.len()),
    );
    let mut budgets: Vec<Budget> = Vec::new();
    for (i, budget) in spec.budgets.iter().enumerate() {
        let field = |key: &str| format!("budget[{i}].{key}");
        let metric = metrics.iter().position(|m| m.name == budget.metric);
        if metric.is_none() {
            let known = metrics.iter().map(|m| m.name.as_str());
            c.unknown(&field("metric"), &budget.metric, "metric", known);
        }
        let by = budget.by.as_ref().and_then(|name| spender(name, &field("by"), features, c));
        c.require(
            budget.max > 0.0 && budget.max <= NUMBER_MAX,
            &field("max"),
            format!("`{}` must be above 0 and at most {NUMBER_MAX:e}", budget.max),
        );
        let incumbent = spec.objective.as_ref().and_then(|o| o.incumbent.as_ref());
        c.require(
            budget.on_exceed != OnExceed::Incumbent || incumbent.is_some(),
            &field("on_exceed"),
            "there is no incumbent: name it in `objective.incumbent`, or write \"cheapest_eligible\"",
        );
        let Some(metric) = metric else { continue };
        let (per, max, on_exceed) = (budget.per, budget.max, budget.on_exceed);
        let twice = budgets.iter().any(|b| (b.metric, b.per, b.by) == (metric, per, by));
        c.require(!twice, &field("metric"), "there is one of this metric, `per` and `by` already");
        budgets.push(Budget { metric, per, by, max, on_exceed });
    }
    budgets
}

/// The feature whose values have budgets of their own.
fn spender(name: &str, field: &str, features: &[Feature], c: &mut Checker) -> Option<usize> {
    let Some(i) = features.iter().position(|f| f.name == name) else {
        c.unknown(field, name, "feature", features.iter().map(|f| f.name.as_str()));
        return None;
    };
    let feature = &features[i];
    let fits = feature.encoding.kind() == FeatureType::Category
        && feature.of == FeatureOf::Context
        && feature.log == LogMode::Raw;
    c.require(
        fits,
        field,
        format!("`{name}` must be a category of the context with `log = \"raw\"`"),
    );
    Some(i)
}

pub(super) fn check_session(spec: &ModelSpec, c: &mut Checker) {
    let Some(session) = spec.session else { return };
    c.require(spec.kind == Kind::Policy, "session", "only a policy has sessions; remove it");
    let sticky = session.sticky.map_or(1, |s| s.ms());
    c.require(
        (1..=STICKY_MAX_MS).contains(&sticky),
        "session.sticky",
        "must be above 0 and at most 7d",
    );
}
