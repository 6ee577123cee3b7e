//! What a model is asked to be: the file that a person writes, unchecked until [`ModelSpec::check`].

mod budget;
mod check;
mod checked;
mod feature;
mod learner;
mod online;
mod rules;
mod session;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    duration::Duration,
    id::{ActionName, ModelName},
    suggest,
};
pub use budget::{Budget, BudgetSpec, OnExceed, Period, spender};
pub use check::{METRICS_MAX, SpecError, SpecErrors};
pub use checked::{Action, CheckedSpec, Feature, Keep, Metric, Term};
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
pub use session::{Credit, SessionSpec};

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
    /// What may be spent, and what happens beyond.
    #[serde(default, rename = "budget", skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetSpec>,
    /// What decisions of one session have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionSpec>,
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

#[cfg(test)]
mod tests;
