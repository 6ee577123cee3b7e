//! A linear Bernoulli bandit that anyone can make again, bit for bit: d = 20 (19 random and a constant), K = 5.
//!
//! With u(seed, k) value k of the SplitMix64 stream `seed` in [0, 1), environment s has
//! θₐⱼ = 2u(10s + 1, 19a + j) − 1, each θₐ scaled to unit length; xₜⱼ = 2u(10s + 2, 19t + j) − 1;
//! pₜₐ = clip(½ + 0.4 θₐ·xₜ, 0.02, 0.98); the reward is 1 if u(10s + 3, 5t + a) < pₜₐ.

use std::sync::Arc;

use pawl_domain::{CheckedSpec, LearnerId, ModelSpec};
use pawl_learn::{Example, Learner};
use pawl_model::{
    Encoded, HashKey, Request, Snapshot, Views, context::Context, snapshot::Workspace,
};
use pawl_stats::rng::{mix, uniform};
use semver::Version;

const K: usize = 5;
const D: usize = 19;

/// A model and what it learned, without a log.
pub struct Bandit {
    pub spec: Arc<CheckedSpec>,
    pub views: Arc<Views>,
    pub learner: Learner,
}

impl Bandit {
    /// A learner of `spec` that has seen nothing.
    pub fn new(spec: &str) -> Self {
        let spec = Arc::new(ModelSpec::from_toml(spec).unwrap().check().unwrap());
        let views = Arc::new(Views::of(&spec));
        let learner = Learner::new(&spec, &views);
        Self { spec, views, learner }
    }

    pub fn snapshot(&self) -> Snapshot {
        self.learner.clone().snapshot(
            &self.spec,
            &self.views,
            Version::new(1, 0, 0),
            LearnerId(1),
            0,
        )
    }

    pub fn learn(&mut self, context: &str, action: u16, metric: &str, value: f64) {
        assert!(self.learns(context, action, metric, value), "its statistics are degenerate");
    }

    /// The same of one whose statistics may be damaged. False if they have become degenerate.
    pub fn learns(&mut self, context: &str, action: u16, metric: &str, value: f64) -> bool {
        let metric = self.spec.metric(metric).unwrap();
        let read = Context::read_logged(&self.spec, context).unwrap();
        let x = Encoded::new(&self.spec, self.views.layout(metric), &read, action);
        let example = Example { metric, action, value, clock: 0, at_ms: 0, weight: 1.0 };
        self.learner.learn(&self.spec, &self.views, &example, &x, 0).is_ok()
    }
}

/// Plays `rounds` of environment `s`. Returns the regret and the choices.
pub fn play(bandit: &mut Bandit, s: u64, rounds: usize) -> (f64, Vec<usize>) {
    let mut theta = [[0.0; D]; K];
    for (a, theta) in theta.iter_mut().enumerate() {
        for (j, t) in theta.iter_mut().enumerate() {
            *t = 2.0 * uniform(10 * s + 1, (a * D + j) as u64) - 1.0;
        }
        let norm = theta.iter().map(|t| t * t).sum::<f64>().sqrt();
        theta.iter_mut().for_each(|t| *t /= norm);
    }
    let (mut regret, mut choices) = (0.0, Vec::new());
    let mut work = Workspace::default();
    for t in 0..rounds {
        let x: Vec<f64> =
            (0..D).map(|j| 2.0 * uniform(10 * s + 2, (t * D + j) as u64) - 1.0).collect();
        let p = theta.map(|theta| {
            let dot: f64 = theta.iter().zip(&x).map(|(a, b)| a * b).sum();
            (0.5 + 0.4 * dot).clamp(0.02, 0.98)
        });
        let context = format!("{{\"x\":{x:?}}}");
        let read = Context::read(&bandit.spec, &HashKey::default(), &context).unwrap();
        let request =
            Request { context: &read, actions: None, seed: mix(mix(s + 1000) + t as u64) };
        let choice = bandit.snapshot().decide(&request, &mut work).unwrap();
        let a = usize::from(choice.eligible[choice.chosen]);
        let reward = uniform(10 * s + 3, (t * K + a) as u64) < p[a];
        bandit.learn(&context, a as u16, "reward", f64::from(u8::from(reward)));
        regret += p.iter().fold(0.0_f64, |m, p| m.max(*p)) - p[a];
        choices.push(a);
    }
    (regret, choices)
}
