//! The learner's part of a spec: algorithm, parameters, hyperparameters.

use serde::{Deserialize, Serialize};

use super::online::{ClipSpec, Descent, Gradient, LossName, MonitorSpec, Online, RateSpec};
use crate::duration::Duration;

/// How actions are chosen, or what predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Every eligible action alike.
    Uniform,
    /// The best predicted, and with probability ε any.
    EpsilonGreedy,
    /// UCB1 (Auer, Cesa-Bianchi, Fischer 2002), without context.
    Ucb1,
    /// Thompson sampling without context.
    Thompson,
    /// LinUCB (Li, Chu, Langford, Schapire 2010).
    Linucb,
    /// Linear Thompson sampling (Agrawal, Goyal 2013).
    LinearThompson,
    /// SquareCB (Foster, Rakhlin 2020), over any estimator.
    Squarecb,
    /// Regressors and classifiers: stochastic gradient descent, normalised, adaptive, invariant.
    Sgd,
    /// Regressors and classifiers: FTRL-Proximal (McMahan et al. 2013).
    Ftrl,
    /// Regressors: recursive least squares, exact.
    Rls,
}

impl Algorithm {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::EpsilonGreedy => "epsilon_greedy",
            Self::Ucb1 => "ucb1",
            Self::Thompson => "thompson",
            Self::Linucb => "linucb",
            Self::LinearThompson => "linear_thompson",
            Self::Squarecb => "squarecb",
            Self::Sgd => "sgd",
            Self::Ftrl => "ftrl",
            Self::Rls => "rls",
        }
    }

    /// Whether it predicts from the context with a linear model fitted by least squares.
    #[must_use]
    pub const fn is_linear(self) -> bool {
        matches!(
            self,
            Self::EpsilonGreedy | Self::Linucb | Self::LinearThompson | Self::Squarecb | Self::Rls
        )
    }

    /// Whether it is one of a regressor or classifier.
    #[must_use]
    pub const fn predicts(self) -> bool {
        matches!(self, Self::Sgd | Self::Ftrl | Self::Rls)
    }
}

/// What estimates each metric for SquareCB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Least squares with a ridge, exact.
    #[default]
    Ridge,
    /// As the algorithm `sgd`.
    Sgd,
    /// As the algorithm `ftrl`.
    Ftrl,
}

/// Which parameters actions share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameters {
    /// Each action has its own (Li et al. 2010, algorithm 1).
    #[default]
    PerAction,
    /// One set over the context, and an intercept an action.
    Shared,
    /// One set over the context and one an action (Li et al. 2010, algorithm 2).
    Hybrid,
}

/// What is kept of the posterior covariance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Covariance {
    /// All of it, up to 512 slots.
    #[default]
    Full,
    /// All of it but for text, whose slots keep variances only.
    Block,
    /// Variances only.
    Diagonal,
}

/// The likelihood of Thompson sampling without context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Likelihood {
    /// Successes in [0, 1] with a Beta posterior.
    Bernoulli,
    /// Normal with unknown mean and variance: a normal-inverse-gamma posterior.
    Normal,
}

/// How fast old examples lose weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HalfLife {
    /// In decisions of the model.
    Events(f64),
    /// In log time.
    Time(Duration),
}

/// The unit of publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSpec {
    /// Examples.
    pub size: u32,
    /// At the latest this long after the first.
    pub after: Duration,
}

impl Default for BatchSpec {
    fn default() -> Self {
        Self { size: 32, after: Duration::from_ms(10) }
    }
}

/// The learner as written. A hyperparameter that the algorithm lacks is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerSpec {
    /// How actions are chosen.
    pub algorithm: Algorithm,
    /// SquareCB: what estimates each metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimator: Option<Estimator>,
    /// SquareCB: γ at the first example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// SquareCB: γ grows with this power of the examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma_exponent: Option<f64>,
    /// Linear: which parameters actions share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// Linear: what is kept of the covariance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covariance: Option<Covariance>,
    /// UCB1, LinUCB, linear Thompson: the width of exploration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Linear: the ridge, in examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// ε-greedy: ε at the first decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// ε-greedy: the factor of ε a decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon_decay: Option<f64>,
    /// ε-greedy: ε is never less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon_min: Option<f64>,
    /// Thompson: the likelihood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihood: Option<Likelihood>,
    /// The weight of the prior mean, in examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_weight: Option<f64>,
    /// Every eligible action has at least this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// Gradients: the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossName>,
    /// Huber: where the loss becomes linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Quantile: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// Gradients: the rate, a number or a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateSpec>,
    /// SGD: a rate for each coordinate that falls with its gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<bool>,
    /// SGD: updates that do not depend on the scale of a feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalized: Option<bool>,
    /// SGD: updates that a weighted example cannot carry past its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invariant: Option<bool>,
    /// Gradients: the weight of |w|.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l1: Option<f64>,
    /// Gradients: the weight of w²/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2: Option<f64>,
    /// FTRL: β of the rate α/(β + √n).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// SGD: bounds of a gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipSpec>,
    /// SGD: serve the running mean of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<bool>,
    /// SGD: what a mini-batch does with its gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<Gradient>,
    /// Gradients: the rules of the stability monitor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<MonitorSpec>,
    /// How fast old examples lose weight; by default they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_life: Option<HalfLife>,
    /// Accept a half-life too short for the number of slots and actions.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub half_life_force: bool,
    /// The unit of publication; by default every example is published at once, and a learner that forgets or takes
    /// gradients takes batches of 32 or 10 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchSpec>,
    /// How often the state is written to disk; the shortest of all models counts.
    #[serde(default = "default_checkpoint_interval")]
    pub checkpoint_interval: Duration,
}

fn default_checkpoint_interval() -> Duration {
    Duration::from_ms(300_000)
}

impl LearnerSpec {
    /// The rule by which it moves weights along gradients; `None` if it does not.
    #[must_use]
    pub const fn rule(&self) -> Option<Descent> {
        match (self.algorithm, self.estimator) {
            (Algorithm::Sgd, _) | (Algorithm::Squarecb, Some(Estimator::Sgd)) => Some(Descent::Sgd),
            (Algorithm::Ftrl, _) | (Algorithm::Squarecb, Some(Estimator::Ftrl)) => {
                Some(Descent::Ftrl)
            }
            _ => None,
        }
    }
}

/// A checked learner: every hyperparameter has its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How actions are chosen.
    pub algorithm: Algorithm,
    /// Which parameters actions share.
    pub parameters: Parameters,
    /// What is kept of the covariance.
    pub covariance: Covariance,
    /// The width of exploration.
    pub alpha: f64,
    /// The ridge.
    pub lambda: f64,
    /// SquareCB: γ at the first example, and the power of the examples with which it grows.
    pub gamma: [f64; 2],
    /// ε at the first decision, its factor a decision, its least value.
    pub epsilon: [f64; 3],
    /// The likelihood of Thompson sampling.
    pub likelihood: Likelihood,
    /// The weight of the prior mean.
    pub prior_weight: f64,
    /// The exploration floor.
    pub floor: f64,
    /// How fast old examples lose weight.
    pub half_life: Option<HalfLife>,
    /// The unit of publication; `None` is every example at once.
    pub batch: Option<BatchSpec>,
    /// The gradient learner, where it is one.
    pub online: Option<Online>,
}

impl Policy {
    /// Whether examples wait for a batch: those of a learner that forgets or takes gradients.
    #[must_use]
    pub const fn gathers(&self) -> bool {
        self.half_life.is_some() || self.online.is_some()
    }

    /// The batch of a learner that gathers.
    #[must_use]
    pub fn gathered_batch(&self) -> BatchSpec {
        self.batch.unwrap_or_default()
    }
}
