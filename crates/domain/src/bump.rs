//! Which part of a version rises when a spec changes: one table, documented by `docs/versions.md`.

use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    id::Sha256,
    spec::{CheckedSpec, Metric},
};

/// The part of a version that rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bump {
    /// The same inputs and outputs, other numbers.
    Patch,
    /// Old callers still work.
    Minor,
    /// Inputs or outputs break.
    Major,
}

/// One difference between two specs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What it asks for.
    pub bump: Bump,
    /// The field.
    pub field: String,
    /// What changed.
    pub change: String,
}

impl Difference {
    /// The spec is the same, and what was learned is another.
    #[must_use]
    pub fn learned(artifact: Sha256) -> Self {
        let change = format!("begins from the artifact {artifact}");
        Self { bump: Bump::Patch, field: "learner".to_owned(), change }
    }
}

/// The rules, as the documentation shows them: change, bump, reason.
pub const RULES: &[(&str, Bump, &str)] = &[
    ("an action removed", Bump::Major, "requests that name it are refused"),
    ("a feature removed", Bump::Major, "what callers send is no longer used"),
    ("a feature's type changed", Bump::Major, "what callers send is no longer understood"),
    ("a metric removed", Bump::Major, "feedback that names it is refused"),
    (
        "a metric's bounds narrowed or its goal changed",
        Bump::Major,
        "feedback that was valid is refused, or means the opposite",
    ),
    ("the kind changed, or a class removed", Bump::Major, "replies or labels mean something else"),
    (
        "a feature is of actions instead of the context, or back",
        Bump::Major,
        "callers send it elsewhere",
    ),
    ("an action or a class added", Bump::Minor, "replies may name it"),
    (
        "an action's payload, max or state changed, or a rule",
        Bump::Minor,
        "replies carry another payload, or other actions are eligible",
    ),
    (
        "a feature added, or its encoding or log mode changed",
        Bump::Minor,
        "old requests still work; that feature learns anew",
    ),
    ("a budget or the session changed", Bump::Minor, "other actions are answered"),
    ("a cross added or removed", Bump::Minor, "old requests still work"),
    ("a metric added, or its bounds widened", Bump::Minor, "old feedback is still valid"),
    ("a metric's features changed", Bump::Minor, "that metric learns anew what it did not have"),
    (
        "the algorithm, parameters, covariance or loss changed",
        Bump::Minor,
        "another family of learner",
    ),
    (
        "anything else: weights, incumbent, holdback, ramp, prior, explore, hyperparameters, feedback, batch",
        Bump::Patch,
        "same inputs and outputs, nothing relearned",
    ),
];

/// `docs/versions.md`.
#[must_use]
pub fn documentation() -> String {
    let mut out = String::from(
        "# Versions\n\nPawl computes the number of a new version from what changed between two specs: the largest part that any\n\
         difference asks for.\n\n| change | rises | because |\n| --- | --- | --- |\n",
    );
    for (change, bump, reason) in RULES {
        out.push_str(&format!(
            "| {change} | {} | {reason} |\n",
            format!("{bump:?}").to_uppercase()
        ));
    }
    out
}

/// Every difference between two specs of the same model, the largest bump first. Empty if they are equal.
#[must_use]
pub fn differences(old: &CheckedSpec, new: &CheckedSpec) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut note = |bump, field: String, change: &str| {
        found.push(Difference { bump, field, change: change.to_owned() });
    };
    class_differences(old, new, &mut note);
    action_differences(old, new, &mut note);
    feature_differences(old, new, &mut note);
    for metric in old.metrics() {
        let field = format!("metrics.{}", metric.name);
        match new.metric(&metric.name).map(|i| &new.metrics()[i]) {
            None => note(Bump::Major, field, "removed"),
            Some(m) => metric_difference(metric, m, old, new, |b, c| note(b, field.clone(), c)),
        }
    }
    for metric in new.metrics().iter().filter(|m| old.metric(&m.name).is_none()) {
        note(Bump::Minor, format!("metrics.{}", metric.name), "added");
    }
    let (a, b) = (old.policy(), new.policy());
    let loss = |p: &crate::spec::Policy| p.online.as_ref().map(|o| o.loss);
    if (a.algorithm, a.parameters, a.covariance, loss(a))
        != (b.algorithm, b.parameters, b.covariance, loss(b))
    {
        note(Bump::Minor, "learner".to_owned(), "another family");
    }
    if found.is_empty() && old.spec() != new.spec() {
        let json = |spec: &CheckedSpec| serde_json::from_str(&spec.to_json()).unwrap_or_default();
        leaf_differences("", &json(old), &json(new), &mut found);
    }
    found.sort_by_key(|d| core::cmp::Reverse(d.bump));
    found
}

/// Longest values of which a change tells both.
const CHANGE_MAX: usize = 200;

/// What differs of two objects that mean the same inputs and outputs, member by member.
fn leaf_differences(field: &str, old: &Value, new: &Value, found: &mut Vec<Difference>) {
    if old == new {
        return;
    }
    if let (Value::Object(a), Value::Object(b)) = (old, new) {
        let only_new = b.keys().filter(|key| !a.contains_key(*key));
        for key in a.keys().chain(only_new) {
            let dot = if field.is_empty() { "" } else { "." };
            let of = |object: &Map<String, Value>| object.get(key).cloned().unwrap_or_default();
            leaf_differences(&format!("{field}{dot}{key}"), &of(a), &of(b), found);
        }
        return;
    }
    let shown = |value: &Value| match value {
        Value::Null => "none".to_owned(),
        value => value.to_string(),
    };
    let (before, after) = (shown(old), shown(new));
    // A list of a thousand actions in another order says nothing.
    let change = match before.len() + after.len() {
        0..=CHANGE_MAX => format!("{before} → {after}"),
        _ => "changed".to_owned(),
    };
    found.push(Difference { bump: Bump::Patch, field: field.to_owned(), change });
}

fn class_differences(
    old: &CheckedSpec,
    new: &CheckedSpec,
    note: &mut impl FnMut(Bump, String, &str),
) {
    if old.kind() != new.kind() {
        note(Bump::Major, "kind".to_owned(), "changed");
    }
    for class in old.classes().iter().filter(|c| !new.classes().contains(c)) {
        note(Bump::Major, format!("label.classes.{class}"), "removed");
    }
    for class in new.classes().iter().filter(|c| !old.classes().contains(c)) {
        note(Bump::Minor, format!("label.classes.{class}"), "added");
    }
}

fn action_differences(
    old: &CheckedSpec,
    new: &CheckedSpec,
    note: &mut impl FnMut(Bump, String, &str),
) {
    for action in old.actions() {
        let field = format!("actions.{}", action.name);
        match new.action(action.name.as_str()).map(|i| &new.actions()[i]) {
            None => note(Bump::Major, field, "removed"),
            Some(a) if a.payload != action.payload => note(Bump::Minor, field, "payload changed"),
            Some(a) if max_of(new, a) != max_of(old, action) => {
                note(Bump::Minor, field, "max changed");
            }
            Some(a) if a.state != action.state => note(Bump::Minor, field, "state changed"),
            Some(_) => {}
        }
    }
    if old.spec().rules != new.spec().rules {
        note(Bump::Minor, "rules".to_owned(), "changed");
    }
    if old.spec().budgets != new.spec().budgets {
        note(Bump::Minor, "budget".to_owned(), "changed");
    }
    if old.session() != new.session() {
        note(Bump::Minor, "session".to_owned(), "changed");
    }
    for action in new.actions().iter().filter(|a| old.action(a.name.as_str()).is_none()) {
        note(Bump::Minor, format!("actions.{}", action.name), "added");
    }
}

fn feature_differences(
    old: &CheckedSpec,
    new: &CheckedSpec,
    note: &mut impl FnMut(Bump, String, &str),
) {
    for feature in old.features() {
        let field = format!("features.{}", feature.name);
        match new.features().iter().find(|f| f.name == feature.name) {
            None => note(Bump::Major, field, "removed"),
            Some(f) if f.encoding.kind() != feature.encoding.kind() => {
                note(Bump::Major, field, "type changed");
            }
            Some(f) if f.of != feature.of => note(Bump::Major, field, "is another's"),
            Some(f) if f != feature => note(Bump::Minor, field, "encoding or log mode changed"),
            Some(_) => {}
        }
    }
    let known = |name: &str| old.features().iter().any(|o| o.name == name);
    for feature in new.features().iter().filter(|f| !known(&f.name)) {
        note(Bump::Minor, format!("features.{}", feature.name), "added");
    }
    if old.spec().crosses != new.spec().crosses {
        note(Bump::Minor, "crosses".to_owned(), "changed");
    }
}

fn max_of<'a>(spec: &'a CheckedSpec, action: &crate::spec::Action) -> Vec<(&'a str, f64)> {
    action.max.iter().map(|(i, v)| (spec.features()[*i].name.as_str(), *v)).collect()
}

fn metric_difference(
    old: &Metric,
    new: &Metric,
    old_spec: &CheckedSpec,
    new_spec: &CheckedSpec,
    mut note: impl FnMut(Bump, &str),
) {
    let narrowed = match (old.bounds, new.bounds) {
        (None, Some(_)) => true,
        (Some([a, b]), Some([c, d])) => c > a || d < b,
        (_, None) => false,
    };
    if narrowed {
        note(Bump::Major, "bounds narrowed");
    } else if old.bounds != new.bounds {
        note(Bump::Minor, "bounds widened");
    }
    if old.goal != new.goal {
        note(Bump::Major, "goal changed");
    }
    let listed =
        |spec: &CheckedSpec| spec.spec().metrics.get(&old.name).and_then(|m| m.features.clone());
    if listed(old_spec) != listed(new_spec) {
        note(Bump::Minor, "features changed");
    }
}

/// The version after `version` for these differences; `None` if there are none.
#[must_use]
pub fn next(version: &Version, differences: &[Difference]) -> Option<Version> {
    let bump = differences.iter().map(|d| d.bump).max()?;
    let Version { major, minor, patch, .. } = *version;
    Some(match bump {
        Bump::Major => Version::new(major + 1, 0, 0),
        Bump::Minor => Version::new(major, minor + 1, 0),
        Bump::Patch => Version::new(major, minor, patch + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ModelSpec;

    const BASE: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["a", "b"]
[features]
tokens = { type = "number", scale = "log" }
[metrics]
quality = { bounds = [0, 1] }
cost = { goal = "min", explore = false }
[objective]
weights = { quality = 1.0, cost = -30.0 }
[learner]
algorithm = "linucb"
"#;

    #[test]
    fn the_documentation_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/versions.md");
        if std::env::var_os("PAWL_WRITE_DOCS").is_some() {
            std::fs::write(path, documentation()).unwrap();
        }
        let file = std::fs::read_to_string(path).unwrap();
        assert_eq!(file, documentation(), "run the tests with PAWL_WRITE_DOCS=1");
    }

    #[test]
    fn a_patch_says_what_is_other() {
        let spec = |text: &str| ModelSpec::from_toml(text).unwrap().check().unwrap();
        let new = BASE
            .replace("cost = -30.0", "cost = -10.5")
            .replace("\"linucb\"", "\"linucb\"\nalpha = 0.5");
        let found = differences(&spec(BASE), &spec(&new));
        let said: Vec<_> =
            found.iter().map(|d| (d.bump, d.field.as_str(), d.change.as_str())).collect();
        assert_eq!(
            said,
            [
                (Bump::Patch, "learner.alpha", "none → 0.5"),
                (Bump::Patch, "objective.weights.cost", "-30.0 → -10.5"),
            ]
        );
    }

    #[test]
    fn each_rule_raises_its_part() {
        let spec = |text: &str| ModelSpec::from_toml(text).unwrap().check().unwrap();
        let old = spec(BASE);
        assert_eq!(next(&Version::new(1, 4, 2), &differences(&old, &old)), None);
        for (from, to, expected) in [
            ("[\"a\", \"b\"]", "[\"a\", \"c\"]", "2.0.0"),
            ("tokens = { type = \"number\", scale = \"log\" }", "", "2.0.0"),
            ("{ type = \"number\", scale = \"log\" }", "{ type = \"category\" }", "2.0.0"),
            ("bounds = [0, 1]", "bounds = [0, 0.5]", "2.0.0"),
            ("[\"a\", \"b\"]", "[\"a\", \"b\", \"c\"]", "1.5.0"),
            ("scale = \"log\"", "scale = \"raw\"", "1.5.0"),
            ("bounds = [0, 1]", "bounds = [0, 2]", "1.5.0"),
            (
                "goal = \"min\", explore = false",
                "goal = \"min\", explore = false, features = []",
                "1.5.0",
            ),
            ("\"linucb\"", "\"linear_thompson\"", "1.5.0"),
            ("cost = -30.0", "cost = -10.0", "1.4.3"),
            ("\"linucb\"", "\"linucb\"\nalpha = 1.0", "1.4.3"),
        ] {
            let new = spec(&BASE.replacen(from, to, 1));
            let found = differences(&old, &new);
            let version = next(&Version::new(1, 4, 2), &found).unwrap();
            assert_eq!(version.to_string(), expected, "{from} → {to}: {found:?}");
        }
    }
}
