//! Divergence caused for real: each fault is met, undone, and leaves no trace in what is predicted afterwards.
//!
//! A logistic stream of 40,000 examples with 8 features; the fault is in the examples from 10,000 to 12,000. The
//! progressive loss over the last 20,000 is compared with that of a run without the fault, and what is published
//! meanwhile with what was published before.

use std::sync::Arc;

use pawl_domain::{LearnerId, ModelSpec, spec::CheckedSpec};
use pawl_learn::{Example, Learner};
use pawl_model::{
    Encoded, Prediction, Snapshot, Views,
    context::{Context, Value},
    snapshot::Workspace,
};
use pawl_stats::rng::uniform;
use semver::Version;

use crate::environment::Bandit;

const N: u64 = 40_000;
const FAULT: std::ops::Range<u64> = 10_000..12_000;
const FEATURES: usize = 8;

struct Run {
    spec: Arc<CheckedSpec>,
    views: Arc<Views>,
    learner: Learner,
}

/// The features of an example and the probability of its label.
fn example(k: u64) -> ([f64; FEATURES], f64) {
    let x: [f64; FEATURES] =
        core::array::from_fn(|j| 2.0 * uniform(11, k * FEATURES as u64 + j as u64) - 1.0);
    let score: f64 = x.iter().enumerate().map(|(j, x)| (j as f64 - 3.5) * x).sum();
    (x, 1.0 / (1.0 + libm::exp(-score)))
}

impl Run {
    fn new(kind: &str, learner: &str) -> Self {
        let features: String =
            (0..FEATURES).map(|j| format!("x{j} = {{ type = \"number\" }}\n")).collect();
        let label = if kind == "classifier" { "classes = [\"0\", \"1\"]" } else { "" };
        let text = format!(
            "schema = 1\nname = \"m\"\nkind = \"{kind}\"\n[label]\n{label}\n[features]\n{features}\
             [learner]\nalgorithm = \"sgd\"\n{learner}\n"
        );
        let spec = Arc::new(ModelSpec::from_toml(&text).unwrap().check().unwrap());
        let views = Arc::new(Views::of(&spec));
        let mut learner = Learner::new(&spec, &views);
        learner.mark_good();
        Self { spec, views, learner }
    }

    fn context(x: [f64; FEATURES]) -> Context<'static> {
        Context::of(x.iter().map(|x| Value::Number(*x)).collect())
    }

    fn learn(&mut self, x: [f64; FEATURES], y: f64) {
        let encoded = Encoded::new(&self.spec, self.views.layout(0), &Self::context(x), 0);
        let example = Example { value: y, weight: 1.0, ..Example::default() };
        self.learner.learn(&self.spec, &self.views, &example, &encoded, 0).unwrap();
        if self.learner.batch_full(self.spec.policy()) {
            self.learner.flush(&self.spec, &self.views).unwrap();
            let content = !self.learner.monitors()[0].is_holding();
            if content && self.learner.examples() - self.learner.good_examples() >= 1024 {
                self.learner.mark_good();
            }
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let version = Version::new(1, 0, 0);
        self.learner.snapshot(&self.spec, &self.views, version, LearnerId(1), 0)
    }

    fn predict(&mut self, x: [f64; FEATURES]) -> f64 {
        match self.snapshot().predict(&Self::context(x), &mut Workspace::default()) {
            Prediction::Value(v) => v,
            Prediction::Classes(p) => p[1],
        }
    }

    /// The loss of what is published, on examples that are never learned.
    fn held_out(&mut self) -> f64 {
        let n = 500;
        let mut sum = 0.0;
        for k in 1_000_000..1_000_000 + n {
            let (x, p) = example(k);
            let y = uniform(12, k) < p;
            let q = self.predict(x).clamp(1e-12, 1.0 - 1e-12);
            sum -= libm::log(if y { q } else { 1.0 - q });
        }
        sum / n as f64
    }
}

/// What a run showed: progressive loss of the last 20,000, the worst published loss within the fault and after it.
struct Shown {
    late: f64,
    worst: f64,
    run: Run,
}

fn classify(learner: &str, fault: impl Fn(u64, &mut [f64; FEATURES], &mut f64)) -> Shown {
    let mut run = Run::new("classifier", learner);
    let mut worst = 0.0_f64;
    let mut before = (0.0, 0.0);
    for k in 0..N {
        let (mut x, p) = example(k);
        let mut y = f64::from(u8::from(uniform(12, k) < p));
        fault(k, &mut x, &mut y);
        run.learn(x, y);
        if k >= FAULT.start && k % 500 == 0 && k < FAULT.end + 2000 {
            worst = worst.max(run.held_out());
        }
        if k == N / 2 {
            before = (run.learner.progress().weight, run.learner.progress().loss);
        }
    }
    let p = run.learner.progress();
    let late = (p.loss - before.1) / (p.weight - before.0);
    Shown { late, worst, run }
}

fn none(_: u64, _: &mut [f64; FEATURES], _: &mut f64) {}

#[test]
fn a_label_flipped_for_an_hour_is_not_learned() {
    let clean = classify("", none);
    assert_eq!(clean.run.learner.monitors()[0].went_back, 0);
    let flipped = classify("", |k, _, y| {
        if FAULT.contains(&k) {
            *y = 1.0 - *y;
        }
    });
    let monitor = &flipped.run.learner.monitors()[0];
    assert!(monitor.went_back >= 1 && !monitor.is_holding());
    assert!(flipped.late < 1.05 * clean.late, "{} {}", flipped.late, clean.late);
    assert!(flipped.worst < 1.1 * clean.worst, "served {} against {}", flipped.worst, clean.worst);
}

#[test]
fn values_that_are_no_numbers_or_far_too_large_change_nothing() {
    let clean = classify("", none);
    for bad in [f64::NAN, f64::INFINITY, 1e308, -1e308] {
        let hit = classify("", |k, x, _| {
            if FAULT.contains(&k) && k % 3 == 0 {
                x[(k % 8) as usize] = bad;
            }
        });
        assert!(hit.run.learner.refused() > 500, "{bad}");
        assert!(hit.late < 1.05 * clean.late, "{bad}: {} {}", hit.late, clean.late);
        assert!(hit.worst < 1.1 * clean.worst, "{bad}: {} {}", hit.worst, clean.worst);
    }
}

/// A rate of 10⁶ is worse than a constant after the warm-up, and is cut to the default or below it.
#[test]
fn a_rate_of_a_million_is_cut() {
    let clean = classify("", none);
    for learner in ["rate = 1e6", "rate = 1e6\ninvariant = false"] {
        let hit = classify(learner, none);
        let monitor = &hit.run.learner.monitors()[0];
        assert!(monitor.went_back >= 1, "{learner}");
        assert!(hit.late < 1.05 * clean.late, "{learner}: {} {}", hit.late, clean.late);
    }
}

#[test]
fn a_scale_that_grows_a_billion_times_is_followed() {
    let clean = classify("", none);
    let hit = classify("", |k, x, _| {
        if k >= FAULT.start {
            x[7] *= 1e9;
        }
    });
    // The others keep what they learned, and this one learns at its new scale; what is held out has the old one.
    assert!(hit.late < 1.05 * clean.late, "{} {}", hit.late, clean.late);
}

/// The world changes for good: it is accepted after `hold_max` examples, and learned anew.
#[test]
fn a_change_that_stays_is_accepted() {
    let clean = classify("", none);
    let hit = classify("", |k, _, y| {
        if k >= FAULT.start {
            *y = 1.0 - *y;
        }
    });
    let monitor = &hit.run.learner.monitors()[0];
    assert_eq!((monitor.accepted, monitor.is_holding()), (1, false));
    assert!(hit.late < 1.05 * clean.late, "{} {}", hit.late, clean.late);
}

/// Labels of a regression that are 10¹² times too large, and a plain step whose rate explodes.
#[test]
fn a_regression_survives_labels_a_trillion_times_too_large() {
    let late = |learner: &str, fault: bool| {
        let mut run = Run::new("regressor", learner);
        let mut late = 0.0;
        for k in 0..N {
            let (x, p) = example(k);
            let noise = uniform(13, k) - 0.5;
            let y = 10.0 * p + noise;
            let wrong = fault && FAULT.contains(&k) && k % 7 == 0;
            if k >= N / 2 && k % 64 == 0 {
                let error = run.predict(x) - y;
                late += error * error / (N / 2 / 64) as f64;
            }
            run.learn(x, if wrong { 1e12 * y } else { y });
        }
        (late, run)
    };
    let (clean, _) = late("", false);
    let (hit, run) = late("", true);
    assert!(run.learner.monitors()[0].went_back > 0);
    assert!(hit < 1.05 * clean, "{hit} {clean}");
    // A plain step at a rate of 10⁶ ends as good as the same step without that fault, at the rate of a spec that gives none.
    let plain = "adaptive = false\nnormalized = false\ninvariant = false";
    let (clean, _) = late(plain, false);
    let (hit, run) = late(&format!("{plain}\nrate = 1e6"), false);
    let monitor = &run.learner.monitors()[0];
    assert!(monitor.went_back > 0 && hit < 1.05 * clean, "{hit} {clean} {}", monitor.rate());
}

/// What is no fault is learned: labels far from 0, and rare events, alone and with a feature that foretells them.
#[test]
fn ordinary_data_is_not_taken_for_a_fault() {
    for (mean, most) in [(20.0, 10.0), (100.0, f64::INFINITY)] {
        let mut run = Run::new("regressor", "");
        for k in 0..N {
            let (x, p) = example(k);
            run.learn(x, mean + 10.0 * (p - 0.5) + uniform(13, k));
        }
        let recent = run.learner.progress().recent_mean().unwrap();
        let monitor = &run.learner.monitors()[0];
        assert!(recent < most && monitor.went_back == 0, "{mean}: {recent} {}", monitor.went_back);
    }
    for rare in [0.05, 0.003] {
        let mut run = Run::new("classifier", "");
        for k in 0..2 * N {
            let (mut x, _) = example(k);
            let event = uniform(14, k) < rare;
            x[0] = if event { 1.0 } else { 0.0 };
            run.learn(x, f64::from(u8::from(event)));
        }
        let recent = run.learner.progress().recent_mean().unwrap();
        let base = -rare * libm::log(rare) - (1.0 - rare) * libm::log(1.0 - rare);
        assert!(recent < base / 2.0, "{rare}: {recent} {base} {:?}", run.learner.monitors());
    }
    // A regression that is 0 until something happens.
    let mut run = Run::new("regressor", "");
    for k in 0..2 * N {
        let (mut x, _) = example(k);
        let event = k > 600 && uniform(14, k) < 0.01;
        x[0] = if event { 1.0 } else { 0.0 };
        run.learn(x, if event { 3.0 } else { 0.0 });
    }
    let recent = run.learner.progress().recent_mean().unwrap();
    assert!(recent < 0.03, "{recent} {:?}", run.learner.monitors());
}

/// A policy's metrics are watched apart: one that goes mad does not keep the others from learning.
#[test]
fn each_metric_has_a_monitor_of_its_own() {
    let mut bandit = Bandit::new(
        "schema = 1\nname = \"m\"\nkind = \"policy\"\nactions = [\"a\", \"b\"]\n\
         [features]\nx = { type = \"number\" }\n[metrics]\nquality = {}\ncost = { goal = \"min\" }\n\
         [objective]\nweights = { quality = 1.0, cost = -0.001 }\n\
         [learner]\nalgorithm = \"squarecb\"\nestimator = \"sgd\"\n",
    );
    let step = |bandit: &mut Bandit, k: u64, mad: bool| {
        let x = 2.0 * uniform(31, k) - 1.0;
        let context = format!("{{\"x\":{x}}}");
        let action = (k % 2) as u16;
        let cost = if mad { 1e12 } else { 1000.0 * x };
        bandit.learn(&context, action, "quality", 0.5 * x);
        bandit.learn(&context, action, "cost", cost);
        if bandit.learner.batch_full(bandit.spec.policy()) {
            bandit.learner.flush(&bandit.spec, &bandit.views).unwrap();
        }
    };
    (0..2000).for_each(|k| step(&mut bandit, k, false));
    (2000..2100).for_each(|k| step(&mut bandit, k, true));
    let names: Vec<&str> = bandit.spec.metrics().iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["cost", "quality"]);
    let [cost, quality] = bandit.learner.monitors() else { panic!("one a metric") };
    assert!(cost.is_holding() && cost.went_back == 1 && cost.rate() == 0.5, "{cost:?}");
    assert!(!quality.is_holding() && quality.went_back == 0 && quality.rate() == 1.0);
}
