//! The gradient learners' part of a spec: losses, rates, schedules, what tames a gradient.

use serde::{Deserialize, Serialize};

/// What a prediction is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossName {
    /// (p − y)².
    Squared,
    /// |p − y|.
    Absolute,
    /// ½(p − y)² up to `delta`, linear beyond (Huber 1964).
    Huber,
    /// The pinball loss of the quantile `tau` (Koenker & Bassett 1978).
    Quantile,
    /// ln(1 + e^(−ys)) of a score s, y = ±1; with more than two classes, −ln of the softmax.
    Logistic,
}

/// A loss with its parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// (p − y)².
    Squared,
    /// |p − y|.
    Absolute,
    /// ½(p − y)² up to this distance, linear beyond.
    Huber(f64),
    /// The pinball loss of this quantile.
    Quantile(f64),
    /// ln(1 + e^(−ys)), y = ±1.
    Logistic,
    /// −ln softmax(s) of the label's class, of this many.
    Softmax(usize),
}

impl Loss {
    /// Whether predictions are scores of a logistic function.
    #[must_use]
    pub const fn is_logistic(self) -> bool {
        matches!(self, Self::Logistic | Self::Softmax(_))
    }
}

/// The rate of a gradient learner: a number, or a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RateSpec {
    /// Constant.
    Constant(f64),
    /// It changes.
    Schedule(ScheduleSpec),
}

/// How a rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// It does not, but for the warm-up.
    Constant,
    /// `initial` · `decay`^(t / `per`), never below `floor`.
    Exponential,
    /// `initial` · (`per` / (`per` + t))^`power`, never below `floor`.
    InversePower,
    /// `floor` + (`initial` − `floor`)(1 + cos(π t / `period`))/2, then `floor` (Loshchilov & Hutter 2017).
    Cosine,
}

/// What t counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleUnit {
    /// Examples.
    #[default]
    Examples,
    /// Mini-batches.
    Batches,
}

/// A schedule as written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Which.
    pub schedule: ScheduleName,
    /// The rate at t = 0.
    pub initial: f64,
    /// Exponential: the factor after `per`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<f64>,
    /// Exponential, inverse power: units of t.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<f64>,
    /// Inverse power: the exponent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// Cosine: units of t from `initial` to `floor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<f64>,
    /// Cosine: begin again after each period, which then grows by this factor (1 or more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<f64>,
    /// The rate is never less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// The rate rises linearly over the first so many units of t.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<f64>,
    /// What t counts.
    #[serde(default)]
    pub unit: ScheduleUnit,
}

/// A checked schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub shape: Shape,
    /// The rate at t = 0.
    pub initial: f64,
    /// The rate is never less, but for the warm-up.
    pub floor: f64,
    /// The rate rises linearly over the first so many units of t.
    pub warm_up: f64,
    /// What t counts.
    pub unit: ScheduleUnit,
}

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// The same.
    Constant,
    /// Factor and the units of t in which it is taken once.
    Exponential(f64, f64),
    /// Exponent and the units of t after which it is half-way on a doubly logarithmic scale.
    InversePower(f64, f64),
    /// Period, and the factor by which it grows at a restart; without one, the floor follows.
    Cosine(f64, Option<f64>),
}

/// Bounds of a gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipSpec {
    /// Of each coordinate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Of the Euclidean norm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<f64>,
}

/// What a mini-batch does with its gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gradient {
    /// Each example moves the weights, in order.
    #[default]
    Each,
    /// One step with the mean gradient.
    Average,
}

/// How a gradient moves the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Descent {
    /// Stochastic gradient descent.
    Sgd,
    /// FTRL-Proximal.
    Ftrl,
}

/// A checked gradient learner.
#[derive(Clone, Debug, PartialEq)]
pub struct Online {
    /// How a gradient moves the weights.
    pub rule: Descent,
    /// What a prediction is measured by.
    pub loss: Loss,
    /// The rate.
    pub schedule: Schedule,
    /// A rate for each coordinate that falls with its gradients (Duchi, Hazan & Singer 2011).
    pub adaptive: bool,
    /// Updates that do not depend on the scale of a feature (Ross, Mineiro & Langford 2013).
    pub normalized: bool,
    /// Updates that a weighted example cannot carry past its label (Karampatziakis & Langford 2011).
    pub invariant: bool,
    /// The weight of |w|.
    pub l1: f64,
    /// The weight of w²/2.
    pub l2: f64,
    /// FTRL: β of the rate α/(β + √n).
    pub beta: f64,
    /// Bounds of a gradient.
    pub clip: ClipSpec,
    /// Serve the running mean of the weights (Polyak & Juditsky 1992).
    pub average: bool,
    /// What a mini-batch does with its gradients.
    pub gradient: Gradient,
    /// The rules of its stability monitor.
    pub monitor: Monitor,
}

impl Online {
    /// Scores that it predicts: one a class for softmax, else one.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        match self.loss {
            Loss::Softmax(classes) => classes,
            _ => 1,
        }
    }
}

/// What to do when the loss has risen for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDrift {
    /// Count it.
    #[default]
    Count,
    /// Begin the schedule of the rate anew, the sums of `adaptive` with it.
    Restart,
}

/// The stability monitor as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorSpec {
    /// Examples before the first judgement; by default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<u64>,
    /// A batch does not fit if its mean loss is this many standard errors above the running one, …; by default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_sigmas: Option<f64>,
    /// … and this many times the running one; by default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_factor: Option<f64>,
    /// A batch does not fit if its largest gradient is this many times the running one; by default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_factor: Option<f64>,
    /// The learner starts over if its loss is this many times that of a constant; by default 1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worse_factor: Option<f64>,
    /// The rate is multiplied by this whenever it goes back; by default 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_cut: Option<f64>,
    /// Examples after which what does not fit is accepted as how things are; by default 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_max: Option<u64>,
    /// ADWIN's confidence on the loss; by default 0.002.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_delta: Option<f64>,
    /// What to do when the loss has risen for good.
    #[serde(default)]
    pub on_drift: OnDrift,
}

/// The rules of the stability monitor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Monitor {
    /// Examples before the first judgement.
    pub warm_up: u64,
    /// Standard errors above the running loss.
    pub loss_sigmas: f64,
    /// Times the running loss.
    pub loss_factor: f64,
    /// Times the running gradient.
    pub gradient_factor: f64,
    /// Times the loss of a constant.
    pub worse_factor: f64,
    /// The factor of the rate.
    pub rate_cut: f64,
    /// Examples until acceptance.
    pub hold_max: u64,
    /// ADWIN's confidence.
    pub drift_delta: f64,
    /// What to do on drift.
    pub on_drift: OnDrift,
}
