//! Gradient learners: losses, schedules, regularisation, clipping.

use super::{
    super::{
        Descent, Gradient, Kind, LearnerSpec, Loss, LossName, ModelSpec, Monitor, MonitorSpec,
        Online, RateSpec, Schedule, ScheduleName, ScheduleSpec, ScheduleUnit, Shape,
    },
    Checker,
};

fn check_loss(spec: &ModelSpec, classes: usize, c: &mut Checker) -> Loss {
    let l = &spec.learner;
    for (set, key, owner) in [
        (l.delta.is_some(), "delta", LossName::Huber),
        (l.tau.is_some(), "tau", LossName::Quantile),
    ] {
        if set && l.loss != Some(owner) {
            let owner = format!("{owner:?}").to_lowercase();
            c.fail(format!("learner.{key}"), format!("`{key}` needs `loss = \"{owner}\"`"));
        }
    }
    let delta = l.delta.unwrap_or(1.0);
    c.require(
        delta > 0.0 && delta <= 1e15,
        "learner.delta",
        format!("`{delta}` must be above 0 and at most 1e15"),
    );
    let tau = l.tau.unwrap_or(0.5);
    c.require(
        tau > 0.0 && tau < 1.0,
        "learner.tau",
        format!("`{tau}` must be above 0 and below 1"),
    );
    if spec.kind == Kind::Classifier {
        c.require(
            matches!(l.loss, None | Some(LossName::Logistic)),
            "learner.loss",
            "a classifier's loss is `logistic`; remove it",
        );
        return if classes == 2 { Loss::Logistic } else { Loss::Softmax(classes) };
    }
    match l.loss.unwrap_or(LossName::Squared) {
        LossName::Squared => Loss::Squared,
        LossName::Absolute => Loss::Absolute,
        LossName::Huber => Loss::Huber(delta),
        LossName::Quantile => Loss::Quantile(tau),
        LossName::Logistic => {
            let bounded = spec.label.as_ref().and_then(|l| l.bounds) == Some([0.0, 1.0]);
            c.require(
                bounded,
                "learner.loss",
                "`logistic` needs a label in [0, 1]: set `label.bounds = [0, 1]`, or use a classifier",
            );
            Loss::Logistic
        }
    }
}

/// A field of a schedule: set?, its name, and the schedules that have it.
fn check_fields(s: &ScheduleSpec, c: &mut Checker) {
    use ScheduleName as S;
    for (set, key, owners) in [
        (s.decay.is_some(), "decay", &[S::Exponential][..]),
        (s.per.is_some(), "per", &[S::Exponential, S::InversePower]),
        (s.power.is_some(), "power", &[S::InversePower]),
        (s.period.is_some(), "period", &[S::Cosine]),
        (s.restart.is_some(), "restart", &[S::Cosine]),
        (s.floor.is_some(), "floor", &[S::Exponential, S::InversePower, S::Cosine]),
    ] {
        if set && !owners.contains(&s.schedule) {
            c.fail(format!("learner.rate.{key}"), format!("`{:?}` has no `{key}`", s.schedule));
        }
    }
}

fn check_schedule(rate: Option<RateSpec>, default: f64, c: &mut Checker) -> Schedule {
    let s = match rate {
        Some(RateSpec::Schedule(s)) => s,
        constant => ScheduleSpec {
            schedule: ScheduleName::Constant,
            initial: match constant {
                Some(RateSpec::Constant(rate)) => rate,
                _ => default,
            },
            decay: None,
            per: None,
            power: None,
            period: None,
            restart: None,
            floor: None,
            warm_up: None,
            unit: ScheduleUnit::Examples,
        },
    };
    check_fields(&s, c);
    let mut number = |key: &str, value: Option<f64>, default: f64, low: f64, high: f64| {
        let v = value.unwrap_or(default);
        c.require(
            (low..=high).contains(&v),
            &format!("learner.rate.{key}"),
            format!("`{v}` must be from {low} to {high}"),
        );
        v
    };
    let initial = number("initial", Some(s.initial), 0.5, 1e-12, 1e9);
    let floor = number("floor", s.floor, 0.0, 0.0, 1e9);
    let warm_up = number("warm_up", s.warm_up, 0.0, 0.0, 1e15);
    let per = number("per", s.per, 1000.0, 1.0, 1e15);
    let shape = match s.schedule {
        ScheduleName::Constant => Shape::Constant,
        ScheduleName::Exponential => {
            Shape::Exponential(number("decay", s.decay, 0.5, 1e-12, 1.0), per)
        }
        ScheduleName::InversePower => {
            Shape::InversePower(number("power", s.power, 0.5, 0.0, 10.0), per)
        }
        ScheduleName::Cosine => {
            let period = number("period", s.period, 1e4, 1.0, 1e15);
            let restart = s.restart.map(|r| number("restart", Some(r), 1.0, 1.0, 100.0));
            c.require(
                restart.is_none_or(|r| r == 1.0 || r >= 1.01),
                "learner.rate.restart",
                "must be 1, or 1.01 or more",
            );
            Shape::Cosine(period, restart)
        }
    };
    c.require(floor <= initial, "learner.rate.floor", "must not be above `initial`");
    Schedule { shape, initial, floor, warm_up, unit: s.unit }
}

/// A hyperparameter that only gradient learners have: set?, and its name.
fn of_gradients(l: &LearnerSpec) -> [(bool, &'static str); 14] {
    [
        (l.loss.is_some(), "loss"),
        (l.delta.is_some(), "delta"),
        (l.tau.is_some(), "tau"),
        (l.rate.is_some(), "rate"),
        (l.adaptive.is_some(), "adaptive"),
        (l.normalized.is_some(), "normalized"),
        (l.invariant.is_some(), "invariant"),
        (l.l1.is_some(), "l1"),
        (l.l2.is_some(), "l2"),
        (l.beta.is_some(), "beta"),
        (l.clip.is_some(), "clip"),
        (l.average.is_some(), "average"),
        (l.gradient.is_some(), "gradient"),
        (l.monitor.is_some(), "monitor"),
    ]
}

fn check_monitor(m: MonitorSpec, c: &mut Checker) -> Monitor {
    let warm_up = m.warm_up.unwrap_or(256);
    c.require(warm_up >= 32, "learner.monitor.warm_up", format!("`{warm_up}` must be 32 or more"));
    let mut number = |key: &str, value: Option<f64>, default: f64, low: f64, high: f64| {
        let v = value.unwrap_or(default);
        c.require(
            (low..=high).contains(&v),
            &format!("learner.monitor.{key}"),
            format!("`{v}` must be from {low} to {high}"),
        );
        v
    };
    Monitor {
        warm_up,
        loss_sigmas: number("loss_sigmas", m.loss_sigmas, 10.0, 1.0, 1e6),
        loss_factor: number("loss_factor", m.loss_factor, 2.0, 1.0, 1e12),
        gradient_factor: number("gradient_factor", m.gradient_factor, 1000.0, 1.0, 1e12),
        worse_factor: number("worse_factor", m.worse_factor, 1.2, 1.0, 1e12),
        rate_cut: number("rate_cut", m.rate_cut, 0.5, 1e-6, 1.0),
        hold_max: m.hold_max.unwrap_or(5000),
        drift_delta: number("drift_delta", m.drift_delta, 0.002, 1e-12, 0.5),
        on_drift: m.on_drift,
    }
}

/// What only gradient learners have, and of those not all.
fn check_applicable(l: &LearnerSpec, c: &mut Checker) {
    let of_sgd = ["adaptive", "normalized", "invariant", "clip", "average", "gradient"];
    for (set, key) in of_gradients(l) {
        let allowed = match l.rule() {
            Some(Descent::Sgd) => key != "beta",
            Some(Descent::Ftrl) => !of_sgd.contains(&key),
            None => false,
        };
        if set && !allowed {
            let algorithm = l.algorithm.as_str();
            let message = match key {
                "rate" => format!("`{algorithm}` has no rate and so no schedule; remove it"),
                _ => format!("`{algorithm}` has no `{key}`; remove it"),
            };
            c.fail(format!("learner.{key}"), message);
        }
    }
}

/// `None` where the algorithm takes no gradients; what only gradient learners have is then an error.
pub(super) fn check_online(spec: &ModelSpec, c: &mut Checker) -> Option<Online> {
    let l = &spec.learner;
    check_applicable(l, c);
    let rule = l.rule()?;
    let classes = spec.label.as_ref().map_or(0, |l| l.classes.len());
    let ftrl = rule == Descent::Ftrl;
    c.require(
        !(ftrl && classes > 2),
        "learner.algorithm",
        "`ftrl` predicts two classes; use `sgd` for more",
    );
    let schedule = check_schedule(l.rate, if ftrl { 0.1 } else { 0.5 }, c);
    c.require(
        !ftrl || (schedule.shape == Shape::Constant && schedule.warm_up == 0.0),
        "learner.rate",
        "`ftrl` adapts its rate itself and has no schedule; give a number",
    );
    let mut positive = |key: &str, value: Option<f64>, default: f64| {
        let v = value.unwrap_or(default);
        c.require(
            (0.0..=1e9).contains(&v),
            &format!("learner.{key}"),
            format!("`{v}` must be from 0 to 1e9"),
        );
        v
    };
    let (l1, l2) = (positive("l1", l.l1, 0.0), positive("l2", l.l2, 0.0));
    let beta = positive("beta", l.beta, 1.0);
    let clip = l.clip.unwrap_or_default();
    for (key, value) in [("value", clip.value), ("norm", clip.norm)] {
        c.require(
            value.is_none_or(|v| v > 0.0 && v.is_finite()),
            &format!("learner.clip.{key}"),
            "must be a positive number",
        );
    }
    let softmax = classes > 2;
    c.require(
        !softmax || clip.value.or(clip.norm).is_none(),
        "learner.clip",
        "more than two classes are learned by implicit steps, which need no clipping; remove it",
    );
    c.require(
        !softmax || l.gradient.is_none_or(|g| g == Gradient::Each),
        "learner.gradient",
        "more than two classes are learned example by example; remove it",
    );
    Some(Online {
        rule,
        loss: check_loss(spec, classes, c),
        schedule,
        adaptive: l.adaptive.unwrap_or(true),
        normalized: l.normalized.unwrap_or(true),
        invariant: l.invariant.unwrap_or(true),
        l1,
        l2,
        beta,
        clip,
        average: l.average.unwrap_or(false),
        gradient: l.gradient.unwrap_or_default(),
        monitor: check_monitor(l.monitor.unwrap_or_default(), c),
    })
}
