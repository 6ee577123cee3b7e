//! Rules: which actions a context forbids.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{id::ActionName, value::Value};

/// A rule as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// Its name in records; by default its place, such as `rules[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// By feature of the context: the rule applies where all hold. A feature that is missing holds.
    pub when: BTreeMap<String, Condition>,
    /// The actions that are then not eligible.
    pub deny: Vec<ActionName>,
}

/// What a feature is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Condition {
    /// It equals this.
    Is(Scalar),
    /// It is one of these.
    OneOf(Vec<Scalar>),
    /// It lies within these bounds, each included.
    Within(Within),
}

/// A plain value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// True or false.
    Boolean(bool),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
}

/// Bounds of a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Within {
    /// The least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// A checked rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// By index of a feature: what it is compared with.
    pub when: Vec<(usize, Condition)>,
    /// Indices of the actions that are then not eligible.
    pub deny: Vec<u16>,
}

impl Condition {
    /// Whether it holds of a value. What is not known may be what is forbidden: it holds.
    #[must_use]
    pub fn holds(&self, value: &Value<'_>) -> bool {
        let same = |scalar: &Scalar| match (scalar, value) {
            (Scalar::Boolean(a), Value::Boolean(b)) => a == b,
            (Scalar::Number(a), Value::Number(b)) => a == b,
            (Scalar::Text(a), Value::Text(b)) => a == b,
            // A category may be written as a number or a truth value.
            (Scalar::Boolean(a), Value::Text(b)) => a.to_string() == *b,
            (Scalar::Number(a), Value::Text(b)) => b.parse() == Ok(*a),
            _ => matches!(value, Value::Missing | Value::Unknown | Value::Slots(..)),
        };
        match self {
            Self::Is(scalar) => same(scalar),
            Self::OneOf(scalars) => scalars.iter().any(same),
            Self::Within(bounds) => match value {
                Value::Number(x) => {
                    bounds.min.is_none_or(|min| *x >= min) && bounds.max.is_none_or(|max| *x <= max)
                }
                _ => true,
            },
        }
    }
}
