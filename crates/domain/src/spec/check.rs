//! The rules of a spec: each violation names its field, the value and the remedy.

use core::fmt;
use std::collections::BTreeSet;

use super::{
    Action, ActionSpec, Actions, CheckedSpec, Encoding, Feature, Goal, Kind, LogMode, Metric,
    MetricSpec, Missing, ModelSpec, Prior, SCHEMA, Term, feature, learner,
};
use crate::suggest::nearest;
use learner::{Algorithm, Covariance, HalfLife, Likelihood, Parameters, Policy};

/// Most actions of a policy.
pub const ACTIONS_MAX: usize = 1000;
/// Most metrics of a model: a decision keeps one bit for each.
pub const METRICS_MAX: usize = 15;
/// Most slots of a full covariance.
pub const FULL_SLOTS_MAX: usize = 512;
/// Most slots in all.
pub const SLOTS_MAX: usize = 1 << 20;

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// The path of the field, such as `metrics.quality.bounds`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Every violation of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecErrors(pub Vec<SpecError>);

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", error.field, error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

struct Checker(Vec<SpecError>);

impl Checker {
    fn fail(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(SpecError { field: field.into(), message: message.into() });
    }

    fn require(&mut self, ok: bool, field: &str, message: impl Into<String>) {
        if !ok {
            self.fail(field, message);
        }
    }

    fn unknown<'a>(
        &mut self,
        field: &str,
        name: &str,
        what: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) {
        let hint = nearest(name, known).map_or_else(
            || format!("declare the {what} or remove it here"),
            |n| format!("did you mean `{n}`?"),
        );
        self.fail(field, format!("`{name}` is not a declared {what}; {hint}"));
    }
}

pub(super) fn check(spec: ModelSpec) -> Result<CheckedSpec, SpecErrors> {
    let mut c = Checker(Vec::new());
    c.require(
        spec.schema == SCHEMA,
        "schema",
        format!("`{}` is not a known schema; write {SCHEMA}", spec.schema),
    );
    c.require(
        spec.kind == Kind::Policy,
        "kind",
        "only `policy` can be served by this version of Pawl; regressors and classifiers cannot",
    );
    let features = check_features(&spec, &mut c);
    let actions = check_actions(&spec, &features, &mut c);
    let crosses = check_crosses(&spec, &features, &mut c);
    let metrics = check_metrics(&spec, &actions, &features, &crosses, &mut c);
    check_objective(&spec, &actions, &mut c);
    check_feedback(&spec, &mut c);
    let policy = check_learner(&spec, &mut c);
    let one_prior = |m: &Metric| !matches!(m.prior, Some(Prior::PerAction(_)));
    if policy.parameters != Parameters::PerAction && !metrics.iter().all(one_prior) {
        c.fail("learner.parameters", "shared parameters need one `prior` for all actions");
    }
    check_explored(&metrics, &policy, &mut c);
    check_dimensions(&spec, &metrics, &features, &policy, actions.len(), &mut c);
    if c.0.is_empty() {
        Ok(CheckedSpec { spec, actions, features, metrics, policy })
    } else {
        Err(SpecErrors(c.0))
    }
}

fn check_features(spec: &ModelSpec, c: &mut Checker) -> Vec<Feature> {
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
                features.push(Feature { name: name.clone(), encoding, log: feature.log });
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

fn check_actions(spec: &ModelSpec, features: &[Feature], c: &mut Checker) -> Vec<Action> {
    let listed: Vec<(_, ActionSpec)> = match &spec.actions {
        Actions::Names(names) => names.iter().map(|n| (n.clone(), ActionSpec::default())).collect(),
        Actions::Tables(tables) => tables.iter().map(|(n, a)| (n.clone(), a.clone())).collect(),
    };
    c.require(
        (2..=ACTIONS_MAX).contains(&listed.len()),
        "actions",
        format!("a policy has 2 to {ACTIONS_MAX} actions; this one has {}", listed.len()),
    );
    let distinct: BTreeSet<_> = listed.iter().map(|(n, _)| n).collect();
    c.require(distinct.len() == listed.len(), "actions", "list each action once");
    let mut actions = Vec::new();
    for (name, action) in listed {
        let mut max = Vec::new();
        for (feature, limit) in action.max {
            let field = format!("actions.{name}.max.{feature}");
            match features.iter().position(|f| f.name == feature) {
                Some(i) if features[i].encoding.kind() == feature::FeatureType::Number => {
                    c.require(limit.is_finite(), &field, "give a finite number");
                    max.push((i, limit));
                }
                Some(_) => c.fail(field, format!("`{feature}` is not a number")),
                None => {
                    c.unknown(&field, &feature, "feature", features.iter().map(|f| f.name.as_str()))
                }
            }
        }
        actions.push(Action { name, payload: action.payload, max });
    }
    actions
}

fn check_crosses(spec: &ModelSpec, features: &[Feature], c: &mut Checker) -> Vec<(usize, usize)> {
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
            crosses.push((a, b));
        }
    }
    crosses
}

fn check_metrics(
    spec: &ModelSpec,
    actions: &[Action],
    features: &[Feature],
    crosses: &[(usize, usize)],
    c: &mut Checker,
) -> Vec<Metric> {
    c.require(
        (1..=METRICS_MAX).contains(&spec.metrics.len()),
        "metrics",
        format!("declare 1 to {METRICS_MAX} metrics; there are {}", spec.metrics.len()),
    );
    let alone = spec.metrics.len() == 1;
    let mut metrics = Vec::new();
    for (name, metric) in &spec.metrics {
        let field = format!("metrics.{name}");
        c.require(
            !name.is_empty() && name.len() <= 64,
            &field,
            "a metric's name has 1 to 64 bytes",
        );
        if let Some([low, high]) = metric.bounds {
            let ok = low.is_finite() && high.is_finite() && low < high;
            c.require(ok, &format!("{field}.bounds"), "give two finite numbers, the smaller first");
        }
        check_prior(metric, &field, actions, c);
        let default_weight = match metric.goal {
            _ if !alone => 0.0,
            Goal::Max => 1.0,
            Goal::Min => -1.0,
        };
        let weights = spec.objective.as_ref().map(|o| &o.weights);
        let weight = weights.and_then(|w| w.get(name)).copied().unwrap_or(default_weight);
        metrics.push(Metric {
            name: name.clone(),
            bounds: metric.bounds,
            goal: metric.goal,
            prior: metric.prior.clone(),
            terms: check_terms(metric, &field, features, crosses, c),
            explore: metric.explore.unwrap_or(true) && weight != 0.0,
            weight,
            missing: match spec.feedback.missing.get(name) {
                Some(Missing::Value(v)) => Some(*v),
                _ => None,
            },
        });
    }
    metrics
}

fn check_prior(metric: &MetricSpec, field: &str, actions: &[Action], c: &mut Checker) {
    let field = format!("{field}.prior");
    let mut value = |v: f64| {
        let inside = metric.bounds.is_none_or(|[low, high]| (low..=high).contains(&v));
        c.require(
            v.is_finite() && inside,
            &field,
            format!("`{v}` must be finite and within `bounds`"),
        );
    };
    match &metric.prior {
        None => {}
        Some(Prior::Number(v)) => value(*v),
        Some(Prior::PerAction(means)) => {
            means.values().for_each(|v| value(*v));
            for name in means.keys().filter(|n| !actions.iter().any(|a| a.name == **n)) {
                c.unknown(&field, name.as_str(), "action", actions.iter().map(|a| a.name.as_str()));
            }
            for action in actions.iter().filter(|a| !means.contains_key(&a.name)) {
                c.fail(
                    &*field,
                    format!("`{}` has no prior mean; give one for each action", action.name),
                );
            }
        }
    }
}

fn check_terms(
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
    terms
}

fn check_objective(spec: &ModelSpec, actions: &[Action], c: &mut Checker) {
    let Some(objective) = &spec.objective else {
        c.require(
            spec.metrics.len() <= 1,
            "objective",
            "with several metrics, give `objective.weights`, one for each that counts",
        );
        return;
    };
    if objective.minimize.is_some() || !objective.keep.is_empty() {
        c.fail(
            "objective.keep",
            "a floor (`minimize`, `keep`) is not available in this version of Pawl; use `objective.weights`",
        );
    }
    if let Some(incumbent) = &objective.incumbent
        && !actions.iter().any(|a| a.name == *incumbent)
    {
        let known = actions.iter().map(|a| a.name.as_str());
        c.unknown("objective.incumbent", incumbent.as_str(), "action", known);
    }
    if spec.metrics.len() > 1 && objective.weights.is_empty() {
        c.fail("objective.weights", "with several metrics, give a weight for each that counts");
    }
    for (name, weight) in &objective.weights {
        let field = format!("objective.weights.{name}");
        c.require(weight.is_finite(), &field, format!("`{weight}` must be a finite number"));
        match spec.metrics.get(name) {
            None => c.unknown(&field, name, "metric", spec.metrics.keys().map(String::as_str)),
            Some(m) if m.goal == Goal::Max && *weight < 0.0 => {
                c.fail(
                    field,
                    format!("`{weight}` is negative but the goal is `max`; change one of them"),
                );
            }
            Some(m) if m.goal == Goal::Min && *weight > 0.0 => {
                c.fail(
                    field,
                    format!("`{weight}` is positive but the goal is `min`; change one of them"),
                );
            }
            Some(_) => {}
        }
    }
}

fn check_feedback(spec: &ModelSpec, c: &mut Checker) {
    const MOST: u64 = 90 * 86_400_000;
    let deadline = spec.feedback.deadline;
    c.require(
        (1..=MOST).contains(&deadline.ms()),
        "feedback.deadline",
        format!("`{deadline}` must be above 0 and at most 90d"),
    );
    for (name, missing) in &spec.feedback.missing {
        let field = format!("feedback.missing.{name}");
        match (spec.metrics.get(name), missing) {
            (None, _) => c.unknown(&field, name, "metric", spec.metrics.keys().map(String::as_str)),
            (Some(m), Missing::Value(v)) => {
                let inside = m.bounds.is_none_or(|[low, high]| (low..=high).contains(v));
                c.require(
                    v.is_finite() && inside,
                    &field,
                    format!("`{v}` must be finite and within `bounds`"),
                );
            }
            (Some(_), Missing::Skip(_)) => {}
        }
    }
}

fn check_learner(spec: &ModelSpec, c: &mut Checker) -> Policy {
    use Algorithm as A;
    let l = &spec.learner;
    let linear = l.algorithm.is_linear();
    for (set, key, allowed) in [
        (l.parameters.is_some(), "parameters", linear),
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
        (l.floor.is_some(), "floor", l.algorithm != A::Uniform),
    ] {
        if set && !allowed {
            c.fail(
                format!("learner.{key}"),
                format!("`{}` has no `{key}`; remove it", l.algorithm.as_str()),
            );
        }
    }
    let mut number =
        |key: &str, value: Option<f64>, default: f64, ok: fn(f64) -> bool, rule: &str| {
            let v = value.unwrap_or(default);
            c.require(
                v.is_finite() && ok(v),
                &format!("learner.{key}"),
                format!("`{v}` must be {rule}"),
            );
            v
        };
    let actions = match &spec.actions {
        Actions::Names(n) => n.len(),
        Actions::Tables(t) => t.len(),
    };
    let alpha = number("alpha", l.alpha, default_alpha(l.algorithm), |v| v >= 0.0, "0 or more");
    let lambda = number("lambda", l.lambda, 1.0, |v| v >= 1e-6, "1e-6 or more");
    let epsilon = number("epsilon", l.epsilon, 0.1, |v| (0.0..=1.0).contains(&v), "from 0 to 1");
    let decay = number(
        "epsilon_decay",
        l.epsilon_decay,
        1.0,
        |v| v > 0.0 && v <= 1.0,
        "above 0 and at most 1",
    );
    let least =
        number("epsilon_min", l.epsilon_min, 0.0, |v| (0.0..=1.0).contains(&v), "from 0 to 1");
    let prior_weight = number("prior_weight", l.prior_weight, 2.0, |v| v > 0.0, "above 0");
    let floor = number("floor", l.floor, 0.0, |v| (0.0..=1.0).contains(&v), "from 0 to 1");
    c.require(
        floor * actions as f64 <= 1.0,
        "learner.floor",
        format!("`{floor}` times {actions} actions is above 1; lower it"),
    );
    c.require(l.batch.size >= 1, "learner.batch.size", "`0` must be 1 or more");
    if let Some(HalfLife::Events(n)) = l.half_life {
        c.require(
            n.is_finite() && n >= 1.0,
            "learner.half_life",
            format!("`{n}` must be 1 or more"),
        );
    }
    Policy {
        algorithm: l.algorithm,
        parameters: l.parameters.unwrap_or_default(),
        covariance: l.covariance.unwrap_or_default(),
        alpha,
        lambda,
        epsilon: [epsilon, decay, least],
        likelihood: l.likelihood.unwrap_or(Likelihood::Bernoulli),
        prior_weight,
        floor,
        half_life: l.half_life,
        batch: l.batch,
    }
}

const fn default_alpha(algorithm: Algorithm) -> f64 {
    match algorithm {
        Algorithm::LinearThompson => 0.3,
        Algorithm::Linucb => 0.5,
        _ => 1.0,
    }
}

fn check_explored(metrics: &[Metric], policy: &Policy, c: &mut Checker) {
    let bounded = match policy.algorithm {
        Algorithm::Uniform | Algorithm::EpsilonGreedy => return,
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

fn check_dimensions(
    spec: &ModelSpec,
    metrics: &[Metric],
    features: &[Feature],
    policy: &Policy,
    actions: usize,
    c: &mut Checker,
) {
    if !policy.algorithm.is_linear() {
        return;
    }
    for metric in metrics {
        let size = |t: &Term| match t {
            Term::Alone(_, e) => e.slots(),
            Term::Cross(a, b) => features[*a].encoding.slots() * features[*b].encoding.slots(),
        };
        let text = |t: &&Term| matches!(t, Term::Alone(_, Encoding::Text { .. }));
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
            all <= SLOTS_MAX,
            &field,
            format!("{all} slots are too many (at most {SLOTS_MAX}); use fewer bits"),
        );
        let blocked = policy.covariance != Covariance::Full;
        if blocked && policy.parameters != Parameters::PerAction {
            c.fail(
                "learner.covariance",
                "`block` and `diagonal` need `parameters = \"per_action\"`",
            );
        }
        if blocked && policy.half_life.is_some() {
            c.fail(
                "learner.half_life",
                "forgetting needs `covariance = \"full\"`; remove one of the two",
            );
        }
        if let Some(HalfLife::Events(n)) = policy.half_life
            && n < 10.0 * (full * actions) as f64
            && !spec.learner.half_life_force
        {
            c.fail(
                "learner.half_life",
                format!(
                    "`{n}` is below ten times {full} slots times {actions} actions: too little is left to learn from; \
                     raise it or set `half_life_force = true`"
                ),
            );
        }
    }
}
