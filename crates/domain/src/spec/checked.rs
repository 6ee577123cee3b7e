//! A spec that holds together, as everything else reads it.

use serde::{Deserialize, Serialize};

use super::{
    ActionState, Budget, Encoding, FeatureOf, Goal, HOLDBACK, Kind, LABEL, LogMode, ModelSpec,
    Policy, Prior, Rule, SessionSpec,
};
use crate::{
    duration::Duration,
    examples::Label,
    id::{ActionName, ModelName, Sha256},
    value::Value,
};

/// An action of a checked spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// Its name.
    pub name: ActionName,
    /// Returned with the decision as it is.
    pub payload: Option<serde_json::Value>,
    /// By index of a number feature: not eligible beyond.
    pub max: Vec<(usize, f64)>,
    /// Whether it may be chosen.
    pub state: ActionState,
    /// By index of a feature of actions: its value where a request does not give one.
    pub features: Vec<(usize, Value<'static>)>,
}

/// A floor of a checked spec.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keep {
    /// Index of the metric.
    pub metric: usize,
    /// The part of the incumbent's mean that is kept.
    pub part: f64,
    /// The metric's bounds.
    pub bounds: [f64; 2],
}

/// A feature of a checked spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    /// The field of the context, or of the action.
    pub name: String,
    /// Whose it is.
    pub of: FeatureOf,
    /// How its value becomes slots.
    pub encoding: Encoding,
    /// What the log keeps of it.
    pub log: LogMode,
}

/// One use of features by a metric: alone, or crossed with another.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// Feature `index`, in this encoding.
    Alone(usize, Encoding),
    /// The products of the slots of two features.
    Cross(usize, usize),
}

/// A metric of a checked spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// The least and largest possible value.
    pub bounds: Option<[f64; 2]>,
    /// The better direction.
    pub goal: Goal,
    /// The prior mean; `None` is the running mean over all actions.
    pub prior: Option<Prior>,
    /// What it is predicted from.
    pub terms: Vec<Term>,
    /// Whether its uncertainty counts when deciding.
    pub explore: bool,
    /// Its weight in the score.
    pub weight: f64,
    /// The value learned at the deadline where none came.
    pub missing: Option<f64>,
}

/// A spec that holds together. Made only by [`ModelSpec::check`]; stored as its JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckedSpec {
    pub(super) spec: ModelSpec,
    pub(super) actions: Vec<Action>,
    pub(super) features: Vec<Feature>,
    pub(super) metrics: Vec<Metric>,
    pub(super) rules: Vec<Rule>,
    pub(super) budgets: Vec<Budget>,
    pub(super) policy: Policy,
}

impl CheckedSpec {
    /// The spec as it was written.
    #[must_use]
    pub const fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What it answers.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.spec.kind
    }

    /// The classes of a classifier; none for other kinds.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        self.spec.label.as_ref().map_or(&[], |l| &l.classes)
    }

    /// The model's name.
    #[must_use]
    pub const fn name(&self) -> &ModelName {
        &self.spec.name
    }

    /// Actions, in the order of the spec. A regressor or classifier has one, [`PREDICT`](super::PREDICT): it learns as a policy
    /// without a choice does, from one metric, [`LABEL`].
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Features, by name.
    #[must_use]
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Whether words of some feature are hashed under a key.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.features.iter().any(|f| matches!(f.encoding, Encoding::Keyed(_)))
    }

    /// The same, as it was read before words were hashed under a key.
    #[must_use]
    pub fn unkeyed(&self) -> Self {
        let mut spec = self.clone();
        let terms = spec.metrics.iter_mut().flat_map(|m| &mut m.terms);
        let in_terms = terms.filter_map(|t| match t {
            Term::Alone(_, encoding) => Some(encoding),
            Term::Cross(..) => None,
        });
        for encoding in spec.features.iter_mut().map(|f| &mut f.encoding).chain(in_terms) {
            *encoding = encoding.unkeyed().clone();
        }
        spec
    }

    /// Whether actions have features of their own.
    #[must_use]
    pub fn has_action_features(&self) -> bool {
        self.features.iter().any(|f| f.of == FeatureOf::Action)
    }

    /// Rules, in the order of the spec.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Budgets, in the order of the spec.
    #[must_use]
    pub fn budgets(&self) -> &[Budget] {
        &self.budgets
    }

    /// What decisions of one session have in common.
    #[must_use]
    pub const fn session(&self) -> Option<&SessionSpec> {
        self.spec.session.as_ref()
    }

    /// The share of traffic that is always the incumbent's, and the share that the policy may decide.
    #[must_use]
    pub fn shares(&self) -> [f64; 2] {
        let objective = self.spec.objective.as_ref();
        let floor = objective.is_some_and(|o| !o.keep.is_empty());
        let default = if floor { HOLDBACK } else { 0.0 };
        let holdback = objective.and_then(|o| o.holdback).unwrap_or(default);
        [holdback, objective.and_then(|o| o.ramp).unwrap_or(1.0)]
    }

    /// The floors, by name of the metric.
    #[must_use]
    pub fn floors(&self) -> Vec<Keep> {
        let kept = self.spec.objective.iter().flat_map(|o| &o.keep);
        kept.filter_map(|(name, part)| {
            let metric = self.metric(name)?;
            Some(Keep { metric, part: *part, bounds: self.metrics[metric].bounds? })
        })
        .collect()
    }

    /// The index of the metric that is to be as small as the floors allow.
    #[must_use]
    pub fn minimized(&self) -> Option<usize> {
        self.metric(self.spec.objective.as_ref()?.minimize.as_ref()?)
    }

    /// Metrics, by name.
    #[must_use]
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The index of a metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<usize> {
        self.metrics.iter().position(|m| m.name == name)
    }

    /// What a named value teaches: the index of its metric, and the value. Of a classifier's label, however it is
    /// written, the value is the index of the class. `None` where the spec has no such metric or class.
    #[must_use]
    pub fn lesson(&self, name: &str, value: f64) -> Option<(usize, f64)> {
        if self.kind() != Kind::Classifier {
            return Some((self.metric(name)?, value));
        }
        let class = match name.strip_prefix(LABEL)?.strip_prefix('=') {
            Some(class) => self.class(class),
            None if name == LABEL => self.class_of_number(value),
            None => None,
        };
        Some((0, class? as f64))
    }

    /// The index of a class.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<usize> {
        self.classes().iter().position(|c| c == name)
    }

    /// The index of the class that is written as this number.
    #[must_use]
    pub fn class_of_number(&self, value: f64) -> Option<usize> {
        self.classes().iter().position(|c| c.parse() == Ok(value))
    }

    /// What an example's label teaches: a number, or the index of a class. `None` where it does not fit.
    #[must_use]
    pub fn label(&self, label: Label<'_>) -> Option<f64> {
        match (self.kind(), label) {
            (Kind::Policy, _) | (Kind::Regressor, Label::Class(_)) => None,
            (Kind::Regressor, Label::Number(y)) => Some(y),
            (Kind::Classifier, Label::Class(name)) => self.class(name).map(|c| c as f64),
            (Kind::Classifier, Label::Number(y)) => self.class_of_number(y).map(|c| c as f64),
        }
    }

    /// The index of an action.
    #[must_use]
    pub fn action(&self, name: &str) -> Option<usize> {
        self.actions.iter().position(|a| a.name.as_str() == name)
    }

    /// How it decides and learns.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The incumbent's index.
    #[must_use]
    pub fn incumbent(&self) -> Option<usize> {
        let name = self.spec.objective.as_ref()?.incumbent.as_ref()?;
        self.action(name.as_str())
    }

    /// How long after its decision feedback still counts.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        self.spec.feedback.deadline
    }

    /// Canonical JSON: what is stored, hashed and carried by events.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A spec is maps with text keys, numbers that TOML or JSON gave, and text: it always serialises.
        serde_json::to_string(&self.spec).unwrap_or_default()
    }

    /// The digest of [`CheckedSpec::to_json`].
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        Sha256::of(self.to_json().as_bytes())
    }

    /// Reads and checks what [`CheckedSpec::to_json`] wrote.
    ///
    /// # Errors
    /// If the text is not a valid spec.
    pub fn from_json(text: &str) -> Result<Self, String> {
        ModelSpec::from_json(text)?.check().map_err(|e| e.to_string())
    }
}

impl TryFrom<String> for CheckedSpec {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::from_json(&text)
    }
}

impl From<CheckedSpec> for String {
    fn from(spec: CheckedSpec) -> Self {
        spec.to_json()
    }
}
