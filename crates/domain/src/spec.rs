//! What a model is asked to be: the file that a person writes, unchecked until [`ModelSpec::check`].

mod check;
mod feature;
mod learner;
mod online;
mod rules;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    duration::Duration,
    examples::Label,
    id::{ActionName, ModelName, Sha256},
    suggest,
    value::Value,
};
pub use check::{METRICS_MAX, SpecError, SpecErrors};
pub use feature::{Encoding, FeatureOf, FeatureSpec, FeatureType, LogMode, Scale};
pub use learner::{
    Algorithm, BatchSpec, Covariance, Estimator, HalfLife, LearnerSpec, Likelihood, Parameters,
    Policy,
};
pub use online::{
    ClipSpec, Descent, Gradient, Loss, LossName, Monitor, MonitorSpec, OnDrift, Online, RateSpec,
    Schedule, ScheduleName, ScheduleSpec, ScheduleUnit, Shape,
};
pub use rules::{Condition, Rule, RuleSpec, Scalar, Within};

/// The schema of specs that this version reads.
pub const SCHEMA: u32 = 1;

/// A spec as written. Only its checked form can be built, trained or served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Version of this format: 1.
    pub schema: u32,
    /// The model's name.
    pub name: ModelName,
    /// What it answers.
    pub kind: Kind,
    /// The actions of a policy.
    #[serde(default, skip_serializing_if = "Actions::is_empty")]
    pub actions: Actions,
    /// What a regressor or classifier predicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelSpec>,
    /// The fields of the context that are stored and learned from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<String, FeatureSpec>,
    /// Pairs of features whose slots are multiplied with each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crosses: Vec<[String; 2]>,
    /// What feedback measures.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, MetricSpec>,
    /// How the metrics make one score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveSpec>,
    /// Which actions a context forbids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleSpec>,
    /// When feedback counts as missing.
    #[serde(default)]
    pub feedback: FeedbackSpec,
    /// How it learns and explores.
    pub learner: LearnerSpec,
}

/// What a model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Chooses an action.
    Policy,
    /// Predicts a number.
    Regressor,
    /// Predicts a class.
    Classifier,
}

/// What a regressor or classifier predicts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSpec {
    /// The classes of a classifier; with two, the second is the positive one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// The least and largest possible label of a regressor; others are refused, and predictions stay within.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f64; 2]>,
}

/// The metric under which a label is learned.
pub const LABEL: &str = "label";
/// The one action of a regressor or classifier.
pub const PREDICT: &str = "predict";

impl Kind {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Regressor => "regressor",
            Self::Classifier => "classifier",
        }
    }
}

/// Actions by name, or as tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Actions {
    /// `["a", "b"]`
    Names(Vec<ActionName>),
    /// `[actions.a]`
    Tables(BTreeMap<ActionName, ActionSpec>),
}

impl Default for Actions {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

impl Actions {
    fn is_empty(&self) -> bool {
        match self {
            Self::Names(names) => names.is_empty(),
            Self::Tables(tables) => tables.is_empty(),
        }
    }
}

/// One action as a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionSpec {
    /// Returned with the decision as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<serde_json::Value>,
    /// By number feature: not eligible beyond.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub max: BTreeMap<String, f64>,
    /// Whether it may be chosen.
    #[serde(default, skip_serializing_if = "ActionState::is_active")]
    pub state: ActionState,
    /// By feature with `of = "action"`: its value where a request does not give one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<String, serde_json::Value>,
}

/// The holdback of a spec with a floor that gives none.
const HOLDBACK: f64 = 0.05;

/// Whether an action may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionState {
    /// It may.
    #[default]
    Active,
    /// It may, but seldom: with a probability of at most [`PROBATION_MAX`].
    Probation,
    /// It may not. What it taught stays, and requests may still name it.
    Retired,
}

/// The largest probability of an action on probation, where another is eligible.
pub const PROBATION_MAX: f64 = 0.05;

impl ActionState {
    const fn is_active(&self) -> bool {
        matches!(self, Self::Active)
    }
}

/// The better direction of a metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// More is better.
    #[default]
    Max,
    /// Less is better.
    Min,
}

/// The prior mean of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prior {
    /// The same for every action.
    Number(f64),
    /// One an action.
    PerAction(BTreeMap<ActionName, f64>),
}

/// One metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSpec {
    /// The least and largest possible value; feedback outside is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f64; 2]>,
    /// The better direction.
    #[serde(default)]
    pub goal: Goal,
    /// The prior mean; by default the running mean over all actions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Prior>,
    /// Features to predict it from, `name`, `name:raw`, `name:log` or `a*b`; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Whether its uncertainty counts when deciding; by default yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explore: Option<bool>,
}

/// How metrics make one score, and who answers when the policy cannot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveSpec {
    /// The action that served before Pawl, and on fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incumbent: Option<ActionName>,
    /// The share of traffic that is always the incumbent's: the control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdback: Option<f64>,
    /// The share of traffic that the policy may decide; the rest is the incumbent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<f64>,
    /// score = Σ weight × predicted metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// Instead of weights: the metric that is to be as small as the floors allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimize: Option<String>,
    /// The floors: by metric, the part of the incumbent's mean that is kept at any time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<String, f64>,
}

/// When feedback counts as missing, and what is then assumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedbackSpec {
    /// Feedback later than this after its decision is counted and not learned.
    #[serde(default = "default_deadline")]
    pub deadline: Duration,
    /// By metric: `"skip"` (the default) or the value to learn at the deadline.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, Missing>,
}

fn default_deadline() -> Duration {
    Duration::from_ms(86_400_000)
}

impl Default for FeedbackSpec {
    fn default() -> Self {
        Self { deadline: default_deadline(), missing: BTreeMap::new() }
    }
}

/// What to learn for a metric that never came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Missing {
    /// This value.
    Value(f64),
    /// Nothing.
    Skip(Skip),
}

/// The word `skip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// Learn nothing.
    Skip,
}

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
    spec: ModelSpec,
    actions: Vec<Action>,
    features: Vec<Feature>,
    metrics: Vec<Metric>,
    rules: Vec<Rule>,
    policy: Policy,
}

impl ModelSpec {
    /// Reads TOML.
    ///
    /// # Errors
    /// Where it is not TOML or has an unknown or wrong field; the message names it and the nearest known one.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| suggest::explain_unknown(&e.to_string()))
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// As [`ModelSpec::from_toml`].
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| suggest::explain_unknown(&e.to_string()))
    }

    /// Checks that everything holds together.
    ///
    /// # Errors
    /// Every violation, each with its field, value and remedy.
    pub fn check(self) -> Result<CheckedSpec, SpecErrors> {
        check::check(self)
    }
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

    /// Actions, in the order of the spec. A regressor or classifier has one, [`PREDICT`]: it learns as a policy
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

#[cfg(test)]
mod tests;
