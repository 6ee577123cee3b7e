//! Features, their encodings, crosses, and the terms of a metric.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{Encoding, Feature, FeatureOf, LogMode, MetricSpec, ModelSpec, Term, feature},
    Checker, NUMBER_MAX,
};
use crate::{id::ActionName, value::Value};

pub(super) fn check_features(spec: &ModelSpec, c: &mut Checker) -> Vec<Feature> {
    let mut features = Vec::new();
    for (name, feature) in &spec.features {
        let field = format!("features.{name}");
        let ok = !name.is_empty()
            && name.len() <= 128
            && !name.contains([':', '*'])
            && !name.chars().any(char::is_control);
        c.require(
            ok,
            &field,
            "a feature's name has 1 to 128 bytes, and no `:`, `*` or control character",
        );
        for (set, key, kinds) in [
            (feature.scale.is_some(), "scale", &[feature::FeatureType::Number][..]),
            (feature.bounds.is_some(), "bounds", &[feature::FeatureType::Number]),
            (feature.edges.is_some(), "edges", &[feature::FeatureType::Number]),
            (feature.period.is_some(), "period", &[feature::FeatureType::Number]),
            (feature.vocabulary.is_some(), "vocabulary", &[feature::FeatureType::Category]),
            (
                feature.bits.is_some(),
                "bits",
                &[feature::FeatureType::Category, feature::FeatureType::Text],
            ),
            (feature.ngrams.is_some(), "ngrams", &[feature::FeatureType::Text]),
            (feature.dim.is_some(), "dim", &[feature::FeatureType::Vector]),
        ] {
            if set && !kinds.contains(&feature.kind) {
                c.fail(
                    format!("{field}.{key}"),
                    format!(
                        "`{key}` does not apply to type `{}`; remove it",
                        feature.kind.as_str()
                    ),
                );
            }
        }
        match encoding(feature) {
            Ok(encoding) => {
                let (name, of, log) = (name.clone(), feature.of, feature.log);
                // What actions have of their own mostly stands in the spec, for all to read.
                let keyed = log == LogMode::Encoded && of == FeatureOf::Context;
                let encoding = if keyed { encoding.keyed() } else { encoding };
                features.push(Feature { name, of, encoding, log });
            }
            Err((key, message)) => c.fail(format!("{field}.{key}"), message),
        }
    }
    features
}

type Violation = (&'static str, String);

fn encoding(f: &feature::FeatureSpec) -> Result<Encoding, Violation> {
    use feature::FeatureType as T;
    match f.kind {
        T::Number => number_encoding(f),
        T::Boolean => Ok(Encoding::Boolean),
        T::Category => match (&f.vocabulary, f.bits) {
            (Some(_), Some(_)) => Err(("bits", "give `vocabulary` or `bits`, not both".to_owned())),
            (Some(words), None) => {
                let distinct: BTreeSet<_> = words.iter().collect();
                if words.is_empty() || distinct.len() != words.len() {
                    return Err(("vocabulary", "list at least one word, each once".to_owned()));
                }
                Ok(Encoding::Vocabulary(words.clone()))
            }
            (None, bits) => bits_in(bits.unwrap_or(6), 16).map(Encoding::Hashed),
        },
        T::Text => {
            let ngrams = f.ngrams.unwrap_or(1);
            if !(1..=5).contains(&ngrams) {
                return Err(("ngrams", format!("`{ngrams}` must be from 1 to 5")));
            }
            Ok(Encoding::Text { bits: bits_in(f.bits.unwrap_or(12), 20)?, ngrams })
        }
        T::Vector => match f.dim {
            Some(dim) if (1..=4096).contains(&dim) => Ok(Encoding::Vector(dim)),
            _ => Err(("dim", "give the vector's length, from 1 to 4096".to_owned())),
        },
    }
}

fn bits_in(bits: u8, most: u8) -> Result<u8, Violation> {
    if (1..=most).contains(&bits) {
        Ok(bits)
    } else {
        Err(("bits", format!("`{bits}` must be from 1 to {most}")))
    }
}

fn number_encoding(f: &feature::FeatureSpec) -> Result<Encoding, Violation> {
    use feature::Scale;
    let scale = f.scale.unwrap_or_default();
    for (set, key, wanted) in [
        (f.bounds.is_some(), "bounds", Scale::Bounded),
        (f.edges.is_some(), "edges", Scale::Bucketed),
        (f.period.is_some(), "period", Scale::Cyclic),
    ] {
        if set && scale != wanted {
            let wanted = format!("{wanted:?}").to_lowercase();
            return Err((key, format!("`{key}` needs `scale = \"{wanted}\"`")));
        }
    }
    match scale {
        Scale::Raw => Ok(Encoding::Raw),
        Scale::Log => Ok(Encoding::Log),
        Scale::Bounded => match f.bounds {
            Some(b) if b[0].is_finite() && b[1].is_finite() && b[0] < b[1] => {
                Ok(Encoding::Bounded(b))
            }
            _ => Err(("bounds", "give two finite numbers, the smaller first".to_owned())),
        },
        Scale::Bucketed => match &f.edges {
            Some(e)
                if !e.is_empty()
                    && e.len() <= 256
                    && e.iter().all(|v| v.is_finite())
                    && e.windows(2).all(|w| w[0] < w[1]) =>
            {
                Ok(Encoding::Bucketed(e.clone()))
            }
            _ => Err(("edges", "give 1 to 256 finite numbers in ascending order".to_owned())),
        },
        Scale::Cyclic => match f.period {
            Some(p) if p.is_finite() && p > 0.0 => Ok(Encoding::Cyclic(p)),
            _ => Err(("period", "give the period, a positive number".to_owned())),
        },
    }
}

/// The values that an action has of its own.
pub(super) fn check_action_features(
    action: &ActionName,
    given: BTreeMap<String, serde_json::Value>,
    features: &[Feature],
    c: &mut Checker,
) -> Vec<(usize, Value<'static>)> {
    let of_actions = || features.iter().filter(|f| f.of == FeatureOf::Action);
    let mut values = Vec::new();
    for (name, value) in given {
        let field = format!("actions.{action}.features.{name}");
        let found = features.iter().position(|f| f.name == name);
        match found.filter(|i| features[*i].of == FeatureOf::Action) {
            Some(i) => match action_value(&features[i].encoding, &value) {
                Some(value) => values.push((i, value)),
                None => {
                    let kind = features[i].encoding.kind().as_str();
                    c.fail(field, format!("`{value}` is not a {kind}, as `{name}` is declared"));
                }
            },
            None if found.is_some() => c.fail(
                field,
                format!("`{name}` is of the context; declare it with `of = \"action\"`"),
            ),
            None => c.unknown(
                &field,
                &name,
                "feature with `of = \"action\"`",
                of_actions().map(|f| f.name.as_str()),
            ),
        }
    }
    values
}

fn action_value(encoding: &Encoding, value: &serde_json::Value) -> Option<Value<'static>> {
    use feature::FeatureType as T;
    use serde_json::Value as Json;
    let finite = |n: &serde_json::Number| n.as_f64().filter(|v| v.abs() <= NUMBER_MAX);
    match (encoding.kind(), value) {
        (T::Number, Json::Number(n)) => finite(n).map(Value::Number),
        (T::Boolean, Json::Bool(b)) => Some(Value::Boolean(*b)),
        (T::Category | T::Text, Json::String(text)) => Some(Value::Text(text.clone().into())),
        (T::Vector, Json::Array(all)) => {
            let numbers = all.iter().map(|v| v.as_number().and_then(finite));
            let numbers: Option<Vec<f64>> = numbers.collect();
            numbers.filter(|n| n.len() == encoding.slots()).map(Value::Vector)
        }
        _ => None,
    }
}

pub(super) fn check_crosses(
    spec: &ModelSpec,
    features: &[Feature],
    c: &mut Checker,
) -> Vec<(usize, usize)> {
    let mut crosses = Vec::new();
    for (i, [a, b]) in spec.crosses.iter().enumerate() {
        let field = format!("crosses[{i}]");
        let mut find = |name: &String| {
            let found = features.iter().position(|f| f.name == *name);
            match found.map(|i| &features[i]) {
                None => {
                    c.unknown(&field, name, "feature", features.iter().map(|f| f.name.as_str()))
                }
                Some(f) if f.log == LogMode::Drop => {
                    c.fail(
                        &*field,
                        format!("`{name}` has `log = \"drop\"` and is not learned from"),
                    );
                }
                Some(f) if f.encoding.kind() == feature::FeatureType::Text => {
                    c.fail(&*field, format!("`{name}` is text, which cannot be crossed"));
                }
                Some(_) => return found,
            }
            None
        };
        if let (Some(a), Some(b)) = (find(a), find(b)) {
            c.require(a != b, &field, "cross two different features");
            let known = crosses.contains(&(a, b)) || crosses.contains(&(b, a));
            c.require(!known, &field, "this cross is listed before; list each once");
            crosses.push((a, b));
        }
    }
    crosses
}

pub(super) fn check_terms(
    metric: &MetricSpec,
    field: &str,
    features: &[Feature],
    crosses: &[(usize, usize)],
    c: &mut Checker,
) -> Vec<Term> {
    let learned = |i: &usize| features[*i].log != LogMode::Drop;
    let Some(listed) = &metric.features else {
        let alone = (0..features.len()).filter(learned);
        return alone
            .map(|i| Term::Alone(i, features[i].encoding.clone()))
            .chain(crosses.iter().map(|&(a, b)| Term::Cross(a, b)))
            .collect();
    };
    let field = format!("{field}.features");
    let names = || features.iter().map(|f| f.name.as_str());
    let mut terms = Vec::new();
    for name in listed {
        let (base, scale) =
            name.split_once(':').map_or((name.as_str(), None), |(b, s)| (b, Some(s)));
        if let Some((a, b)) = base.split_once('*') {
            let at = |n: &str| features.iter().position(|f| f.name == n);
            match (at(a), at(b)) {
                (Some(a), Some(b)) if crosses.contains(&(a, b)) => terms.push(Term::Cross(a, b)),
                _ => c.fail(&*field, format!("`{name}` is not in `crosses`; add it there")),
            }
            continue;
        }
        let Some(i) = features.iter().position(|f| f.name == base) else {
            c.unknown(&field, base, "feature", names());
            continue;
        };
        if !learned(&i) {
            c.fail(&*field, format!("`{base}` has `log = \"drop\"` and is not learned from"));
        }
        let number = features[i].encoding.kind() == feature::FeatureType::Number;
        match scale {
            None => terms.push(Term::Alone(i, features[i].encoding.clone())),
            Some(_) if features[i].log == LogMode::Encoded => {
                c.fail(
                    &*field,
                    format!("`{name}`: `{base}` is logged encoded, in its own scale only"),
                );
            }
            Some("raw") if number => terms.push(Term::Alone(i, Encoding::Raw)),
            Some("log") if number => terms.push(Term::Alone(i, Encoding::Log)),
            Some(_) => {
                c.fail(&*field, format!("`{name}`: only numbers have a scale here, `raw` or `log`"))
            }
        }
    }
    let twice = terms.iter().enumerate().find(|(i, t)| terms[..*i].contains(t));
    c.require(twice.is_none(), &field, "a feature is listed twice in one scale; list each once");
    terms
}
