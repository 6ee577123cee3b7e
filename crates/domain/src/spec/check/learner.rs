//! The learner: hyperparameters, what is explored, how many slots.

use super::{
    super::{
        Actions, Algorithm, Covariance, Feature, HalfLife, Kind, LearnerSpec, Likelihood, Metric,
        ModelSpec, Online, Parameters, Policy, Term,
    },
    COORDINATES_MAX, Checker, FULL_SLOTS_MAX, NUMBERS_MAX, ONLINE_SLOTS_MAX, SLOTS_MAX,
    THOMPSON_ACTIONS_MAX,
    online::check_online,
};

/// Batches, intervals, half-lives, and what a decision may cost.
fn check_pace(l: &LearnerSpec, actions: usize, c: &mut Checker) {
    c.require(
        l.batch.is_none_or(|b| (1..=100_000).contains(&b.size) && b.after.ms() <= 60_000),
        "learner.batch",
        "`size` must be from 1 to 100000, and `after` at most 60s",
    );
    if let Some(HalfLife::Time(t)) = l.half_life {
        c.require(t.ms() >= 1000, "learner.half_life", format!("`{t}` must be 1s or more"));
    }
    c.require(
        l.algorithm != Algorithm::Thompson || actions <= THOMPSON_ACTIONS_MAX,
        "actions",
        format!(
            "`thompson` integrates over all actions: at most {THOMPSON_ACTIONS_MAX}, not {actions}"
        ),
    );
    let interval = l.checkpoint_interval.ms();
    c.require(interval >= 100, "learner.checkpoint_interval", "must be 100ms or more");
    if let Some(HalfLife::Events(n)) = l.half_life {
        c.require(
            n.is_finite() && n >= 1.0,
            "learner.half_life",
            format!("`{n}` must be 1 or more"),
        );
    }
}

/// A hyperparameter that the algorithm lacks is an error.
pub(super) fn check_hyperparameters(l: &LearnerSpec, c: &mut Checker) {
    use Algorithm as A;
    let linear = l.algorithm.is_linear() && l.rule().is_none();
    let squarecb = l.algorithm == A::Squarecb;
    for (set, key, allowed) in [
        (l.parameters.is_some(), "parameters", linear && !l.algorithm.predicts()),
        (l.covariance.is_some(), "covariance", linear),
        (l.lambda.is_some(), "lambda", linear),
        (
            l.alpha.is_some(),
            "alpha",
            matches!(l.algorithm, A::Ucb1 | A::Linucb | A::LinearThompson),
        ),
        (l.epsilon.is_some(), "epsilon", l.algorithm == A::EpsilonGreedy),
        (l.epsilon_decay.is_some(), "epsilon_decay", l.algorithm == A::EpsilonGreedy),
        (l.epsilon_min.is_some(), "epsilon_min", l.algorithm == A::EpsilonGreedy),
        (l.likelihood.is_some(), "likelihood", l.algorithm == A::Thompson),
        (
            l.prior_weight.is_some(),
            "prior_weight",
            l.algorithm != A::Ucb1 && !l.algorithm.predicts(),
        ),
        (l.floor.is_some(), "floor", l.algorithm != A::Uniform && !l.algorithm.predicts()),
        (l.half_life.is_some(), "half_life", l.rule().is_none()),
        (l.estimator.is_some(), "estimator", squarecb),
        (l.gamma.is_some(), "gamma", squarecb),
        (l.gamma_exponent.is_some(), "gamma_exponent", squarecb),
    ] {
        if set && !allowed {
            c.fail(
                format!("learner.{key}"),
                format!("`{}` has no `{key}`; remove it", l.algorithm.as_str()),
            );
        }
    }
}

/// The algorithm must be one of the kind of model.
fn check_kind(spec: &ModelSpec, c: &mut Checker) {
    let l = &spec.learner;
    let fits = match spec.kind {
        Kind::Policy => !l.algorithm.predicts(),
        Kind::Regressor => l.algorithm.predicts(),
        Kind::Classifier => matches!(l.algorithm, Algorithm::Sgd | Algorithm::Ftrl),
    };
    let choices = match spec.kind {
        Kind::Policy => {
            "`uniform`, `epsilon_greedy`, `ucb1`, `thompson`, `linucb`, `linear_thompson` or `squarecb`"
        }
        Kind::Regressor => "`sgd`, `ftrl` or `rls`",
        Kind::Classifier => "`sgd` or `ftrl`",
    };
    c.require(
        fits,
        "learner.algorithm",
        format!("`{}` is not for this kind of model: use {choices}", l.algorithm.as_str()),
    );
}

fn number(
    c: &mut Checker,
    key: &str,
    value: Option<f64>,
    default: f64,
    ok: fn(f64) -> bool,
    rule: &str,
) -> f64 {
    let v = value.unwrap_or(default);
    let message = format!("`{v}` must be {rule}");
    c.require(v.is_finite() && ok(v), &format!("learner.{key}"), message);
    v
}

fn check_gamma(l: &LearnerSpec, c: &mut Checker) -> [f64; 2] {
    let range = |v| (1e-6..=1e9).contains(&v);
    let gamma = number(c, "gamma", l.gamma, 10.0, range, "from 1e-6 to 1e9");
    let range = |v| (0.0..=2.0).contains(&v);
    [gamma, number(c, "gamma_exponent", l.gamma_exponent, 0.5, range, "from 0 to 2")]
}

fn check_epsilon(l: &LearnerSpec, c: &mut Checker) -> [f64; 3] {
    let share = |v| (0.0..=1.0).contains(&v);
    let epsilon = number(c, "epsilon", l.epsilon, 0.1, share, "from 0 to 1");
    let factor = |v| v > 0.0 && v <= 1.0;
    let decay = number(c, "epsilon_decay", l.epsilon_decay, 1.0, factor, "above 0 and at most 1");
    [epsilon, decay, number(c, "epsilon_min", l.epsilon_min, 0.0, share, "from 0 to 1")]
}

pub(super) fn check_learner(spec: &ModelSpec, c: &mut Checker) -> Policy {
    let l = &spec.learner;
    check_hyperparameters(l, c);
    check_kind(spec, c);
    let online = check_online(spec, c);
    let mut number =
        |key: &str, value, default, ok, rule: &str| number(c, key, value, default, ok, rule);
    let actions = match &spec.actions {
        Actions::Names(n) => n.len(),
        Actions::Tables(t) => t.len(),
    };
    let alpha = number(
        "alpha",
        l.alpha,
        default_alpha(l.algorithm),
        |v| (0.0..=1e6).contains(&v),
        "from 0 to 1e6",
    );
    let lambda =
        number("lambda", l.lambda, 1.0, |v| (1e-6..=1e12).contains(&v), "from 1e-6 to 1e12");
    let prior_weight = number(
        "prior_weight",
        l.prior_weight,
        2.0,
        |v| (1e-6..=1e9).contains(&v),
        "from 1e-6 to 1e9",
    );
    let floor = number("floor", l.floor, 0.0, |v| (0.0..=1.0).contains(&v), "from 0 to 1");
    c.require(
        floor * actions as f64 <= 1.0,
        "learner.floor",
        format!("`{floor}` times {actions} actions is above 1; lower it"),
    );
    check_pace(l, actions, c);
    Policy {
        algorithm: l.algorithm,
        parameters: l.parameters.unwrap_or_default(),
        // A gradient learner keeps no covariance: its slots are one sparse run.
        covariance: match online {
            Some(_) => Covariance::Diagonal,
            None => l.covariance.unwrap_or_default(),
        },
        alpha,
        lambda,
        gamma: check_gamma(l, c),
        epsilon: check_epsilon(l, c),
        likelihood: l.likelihood.unwrap_or(Likelihood::Bernoulli),
        prior_weight,
        floor,
        half_life: l.half_life,
        batch: l.batch,
        online,
    }
}

const fn default_alpha(algorithm: Algorithm) -> f64 {
    match algorithm {
        Algorithm::LinearThompson => 0.3,
        Algorithm::Linucb => 0.5,
        _ => 1.0,
    }
}

pub(super) fn check_explored(metrics: &[Metric], policy: &Policy, c: &mut Checker) {
    let bounded = match policy.algorithm {
        Algorithm::Uniform | Algorithm::EpsilonGreedy => return,
        Algorithm::Squarecb | Algorithm::Sgd | Algorithm::Ftrl | Algorithm::Rls => return,
        Algorithm::Thompson => policy.likelihood == Likelihood::Bernoulli,
        Algorithm::Ucb1 | Algorithm::Linucb | Algorithm::LinearThompson => true,
    };
    for metric in metrics.iter().filter(|m| m.explore && bounded && m.bounds.is_none()) {
        c.fail(
            format!("metrics.{}.bounds", metric.name),
            "an explored metric needs bounds: they scale the exploration; give them or set `explore = false`",
        );
    }
    c.require(
        metrics.iter().any(|m| m.explore),
        "metrics",
        format!(
            "`{}` explores, but no metric with a weight has `explore`; set it for one",
            policy.algorithm.as_str()
        ),
    );
}

pub(super) fn check_dimensions(
    spec: &ModelSpec,
    metrics: &[Metric],
    features: &[Feature],
    policy: &Policy,
    actions: usize,
    c: &mut Checker,
) {
    if !policy.algorithm.is_linear() && policy.online.is_none() {
        return;
    }
    let slots_max = if policy.online.is_some() { ONLINE_SLOTS_MAX } else { SLOTS_MAX };
    let (mut numbers, mut coordinates) = (0, 0);
    for metric in metrics {
        let size = |t: &Term| match t {
            Term::Alone(_, e) => e.slots(),
            Term::Cross(a, b) => features[*a].encoding.slots() * features[*b].encoding.slots(),
        };
        let text = |t: &&Term| matches!(t, Term::Alone(_, e) if e.is_text());
        let all: usize = 1 + metric.terms.iter().map(size).sum::<usize>();
        let in_text: usize = metric.terms.iter().filter(text).map(size).sum();
        let copies = match policy.parameters {
            Parameters::PerAction => 1,
            Parameters::Shared => 1,
            Parameters::Hybrid => 1 + actions,
        };
        let full = copies
            * match policy.covariance {
                Covariance::Full => all,
                Covariance::Block => all - in_text,
                Covariance::Diagonal => 0,
            }
            + if policy.parameters == Parameters::Shared { actions } else { 0 };
        let field = format!("metrics.{}", metric.name);
        if policy.covariance != Covariance::Diagonal && full > FULL_SLOTS_MAX {
            c.fail(
                &*field,
                format!(
                    "{full} slots are too many for a full covariance (at most {FULL_SLOTS_MAX}): use fewer bits, \
                     list `features`, or set `learner.covariance` to `block` (text by variances) or `diagonal`"
                ),
            );
        }
        c.require(
            all * policy.online.as_ref().map_or(1, Online::outputs) <= slots_max,
            &field,
            format!("{all} slots are too many (at most {slots_max}); use fewer bits"),
        );
        let models = if policy.parameters == Parameters::PerAction { actions } else { 1 };
        if let Some(online) = &policy.online {
            coordinates += models * all * online.outputs();
        } else {
            numbers += models * (2 * full * full + 5 * copies * all);
        }
        check_forgetting(spec, policy, full * models, c);
    }
    c.require(
        coordinates <= COORDINATES_MAX,
        "learner",
        format!(
            "{actions} actions and {} metrics need {coordinates} weights (at most {COORDINATES_MAX}): use fewer bits",
            metrics.len()
        ),
    );
    c.require(
        numbers <= NUMBERS_MAX,
        "learner.covariance",
        format!(
            "{actions} actions and {} metrics need {numbers} numbers (at most {NUMBERS_MAX}): use fewer slots or \
             actions, or `covariance = \"diagonal\"`",
            metrics.len()
        ),
    );
    if policy.covariance != Covariance::Full && policy.parameters != Parameters::PerAction {
        let message = "`block` and `diagonal` need `parameters = \"per_action\"`";
        c.fail("learner.covariance", message);
    }
}

fn check_forgetting(spec: &ModelSpec, policy: &Policy, slots: usize, c: &mut Checker) {
    if policy.covariance != Covariance::Full && policy.half_life.is_some() {
        let message = "forgetting needs `covariance = \"full\"`; remove one of the two";
        c.fail("learner.half_life", message);
    }
    if let Some(HalfLife::Events(n)) = policy.half_life
        && n < 10.0 * slots as f64
        && !spec.learner.half_life_force
    {
        c.fail(
            "learner.half_life",
            format!(
                "`{n}` is below ten times {slots} slots of all actions: too little is left to learn from; raise it \
                 or set `half_life_force = true`"
            ),
        );
    }
}
