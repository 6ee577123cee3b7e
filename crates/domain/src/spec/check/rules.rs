//! Rules: conditions on features that exist, denials of actions that exist.

use super::{
    super::{Action, Condition, Feature, FeatureOf, FeatureType, ModelSpec, Rule, Scalar},
    Checker, NUMBER_MAX,
};

/// Most rules of a spec.
const RULES_MAX: usize = 256;
/// Most values of one condition.
const VALUES_MAX: usize = 1000;

pub(super) fn check_rules(
    spec: &ModelSpec,
    actions: &[Action],
    features: &[Feature],
    c: &mut Checker,
) -> Vec<Rule> {
    c.require(
        spec.rules.len() <= RULES_MAX,
        "rules",
        format!("there are {}; at most {RULES_MAX}", spec.rules.len()),
    );
    let mut rules: Vec<Rule> = Vec::new();
    for (i, rule) in spec.rules.iter().enumerate() {
        let field = format!("rules[{i}]");
        let name = rule.name.clone().unwrap_or_else(|| field.clone());
        c.require(
            (1..=64).contains(&name.len()) && !rules.iter().any(|r| r.name == name),
            &format!("{field}.name"),
            "give each rule a name of its own, of 1 to 64 bytes",
        );
        c.require(!rule.when.is_empty(), &format!("{field}.when"), "give at least one condition");
        c.require(!rule.deny.is_empty(), &format!("{field}.deny"), "name at least one action");
        let mut when = Vec::new();
        for (feature, condition) in &rule.when {
            let field = format!("{field}.when.{feature}");
            match features.iter().position(|f| f.name == *feature) {
                None => {
                    c.unknown(&field, feature, "feature", features.iter().map(|f| f.name.as_str()));
                }
                Some(i) => match misfit(&features[i], condition) {
                    None => when.push((i, condition.clone())),
                    Some(why) => c.fail(field, why),
                },
            }
        }
        let mut deny = Vec::new();
        for action in &rule.deny {
            let field = format!("{field}.deny");
            match actions.iter().position(|a| a.name == *action) {
                Some(i) => deny.push(i as u16),
                None => {
                    let known = actions.iter().map(|a| a.name.as_str());
                    c.unknown(&field, action.as_str(), "action", known);
                }
            }
        }
        rules.push(Rule { name, when, deny });
    }
    rules
}

/// Why a condition can never be meant of a feature.
fn misfit(feature: &Feature, condition: &Condition) -> Option<String> {
    let kind = feature.encoding.kind();
    if feature.of == FeatureOf::Action {
        return Some("a rule looks at the context; this is a feature of actions".to_owned());
    }
    let fits = |scalar: &Scalar| match (kind, scalar) {
        (FeatureType::Number, Scalar::Number(x)) => x.abs() <= NUMBER_MAX,
        (FeatureType::Boolean, Scalar::Boolean(_)) => true,
        (FeatureType::Category, _) => true,
        _ => false,
    };
    match condition {
        Condition::Is(scalar) if fits(scalar) => None,
        Condition::OneOf(all) if all.is_empty() || all.len() > VALUES_MAX => {
            Some(format!("list 1 to {VALUES_MAX} values"))
        }
        Condition::OneOf(all) if all.iter().all(fits) => None,
        Condition::Within(bounds) if kind == FeatureType::Number => {
            let given = [bounds.min, bounds.max];
            let finite = given.iter().flatten().all(|v| v.abs() <= NUMBER_MAX);
            let ordered = bounds.min.zip(bounds.max).is_none_or(|(min, max)| min <= max);
            let some = given.iter().any(Option::is_some);
            (!(finite && ordered && some))
                .then(|| "give `min`, `max` or both, the smaller first".to_owned())
        }
        _ => Some(format!(
            "`{}` is a {}: compare it with what it can be (a number also with `{{ min, max }}`)",
            feature.name,
            kind.as_str()
        )),
    }
}
