//! What a regressor or classifier predicts.

use std::collections::BTreeSet;

use super::{
    super::{
        Action, ActionState, Feature, FeatureOf, Goal, Kind, LABEL, Metric, MetricSpec, ModelSpec,
        PREDICT, Prior,
    },
    Checker, NUMBER_MAX,
    features::check_terms,
};
use crate::id::ActionName;

/// Most classes of a classifier.
const CLASSES_MAX: usize = 1000;

/// What a kind must have, and what it may not.
pub(super) fn check_label(spec: &ModelSpec, c: &mut Checker) {
    if spec.kind == Kind::Policy {
        c.require(spec.label.is_none(), "label", "a policy has `metrics`, not a label; remove it");
        return;
    }
    for (set, field) in [
        (!spec.actions.is_empty(), "actions"),
        (!spec.metrics.is_empty(), "metrics"),
        (spec.objective.is_some(), "objective"),
        (!spec.rules.is_empty(), "rules"),
        (!spec.feedback.missing.is_empty(), "feedback.missing"),
    ] {
        c.require(!set, field, format!("only a policy has `{field}`; remove it"));
    }
    c.require(!spec.features.is_empty(), "features", "declare at least one feature");
    for (name, _) in spec.features.iter().filter(|(_, f)| f.of == FeatureOf::Action) {
        c.fail(format!("features.{name}.of"), "only a policy has actions; remove it");
    }
    let label = spec.label.clone().unwrap_or_default();
    if spec.kind == Kind::Classifier {
        let distinct: BTreeSet<_> = label.classes.iter().collect();
        c.require(
            (2..=CLASSES_MAX).contains(&label.classes.len()),
            "label.classes",
            format!("list 2 to {CLASSES_MAX} classes, such as `classes = [\"stay\", \"leave\"]`"),
        );
        c.require(
            distinct.len() == label.classes.len()
                && label.classes.iter().all(|k| (1..=256).contains(&k.len())),
            "label.classes",
            "list each class once, each of 1 to 256 bytes",
        );
        c.require(label.bounds.is_none(), "label.bounds", "only a regressor has bounds; remove it");
        return;
    }
    c.require(
        label.classes.is_empty(),
        "label.classes",
        "only a classifier has classes; remove it",
    );
    if let Some([low, high]) = label.bounds {
        let ok = low.abs() <= NUMBER_MAX && high.abs() <= NUMBER_MAX && high - low >= 1e-12;
        c.require(ok, "label.bounds", "give two finite numbers, the smaller first");
    }
}

/// The one action of a model that does not choose.
pub(super) fn actions() -> Vec<Action> {
    // A constant name is valid: if it were not, the model would have no action and no test would pass.
    let name = ActionName::try_from(PREDICT.to_owned()).ok();
    name.into_iter()
        .map(|name| Action {
            name,
            payload: None,
            max: Vec::new(),
            state: ActionState::Active,
            features: Vec::new(),
        })
        .collect()
}

/// The metric under which the label is learned: from every feature and cross.
pub(super) fn label_metric(
    spec: &ModelSpec,
    features: &[Feature],
    crosses: &[(usize, usize)],
    c: &mut Checker,
) -> Metric {
    Metric {
        name: LABEL.to_owned(),
        bounds: spec.label.as_ref().and_then(|l| l.bounds),
        goal: Goal::Max,
        prior: Some(Prior::Number(0.0)),
        terms: check_terms(&MetricSpec::default(), LABEL, features, crosses, c),
        explore: false,
        weight: 1.0,
        missing: None,
    }
}
