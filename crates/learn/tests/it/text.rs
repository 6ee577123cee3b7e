//! Linear Thompson and LinUCB over hashed text, with variances only.

use std::collections::BTreeMap;

use pawl_model::{Encoded, HashKey, Request, context::Context, snapshot::Workspace};
use pawl_stats::rng::uniform;
use serde_json::json;

use crate::environment::Bandit;

const BITS: u8 = 14;

fn spec(algorithm: &str) -> String {
    format!(
        "schema = 1\nname = \"text\"\nkind = \"policy\"\nactions = [\"a\", \"b\", \"c\"]\n\
         [features]\nprompt = {{ type = \"text\", bits = {BITS} }}\n[metrics.reward]\nbounds = [0, 1]\nprior = 0.25\n\
         [learner]\nalgorithm = \"{algorithm}\"\ncovariance = \"diagonal\"\nlambda = 2.0\nalpha = 0.5\n"
    )
}

/// Ten words of two hundred. The topic, which is the best action, brings three words of its own sixty.
fn prompt(seed: u64, t: u64) -> (String, usize) {
    let draw = |k: u64, n: u64| (uniform(seed, 16 * t + k) * n as f64) as u64;
    let topic = draw(0, 3);
    let word = |k: u64| match k {
        1..=3 => format!("w{}", 20 + 60 * topic + draw(k, 60)),
        _ => format!("w{}", draw(k, 200)),
    };
    let words: Vec<String> = (1..=10).map(word).collect();
    (json!({"prompt": words.join(" ")}).to_string(), topic as usize)
}

/// Assumed-density filtering onto independent normals (Opper 1998, "A Bayesian approach to on-line learning"; noise of
/// variance 1, prior variance 1/λ): with s = 1 + Σσ²x², μ += σ²x(y − μ·x)/s and σ² −= (σ²x)²/s.
#[derive(Default)]
struct Independent(BTreeMap<usize, (f64, f64)>);

impl Independent {
    fn read(&self, x: &Encoded) -> (f64, f64) {
        x.iter().fold((0.0, 0.0), |(mean, variance), (slot, v)| {
            let (mu, sigma2) = self.0.get(&slot).copied().unwrap_or((0.0, 0.5));
            (mean + mu * v, variance + sigma2 * v * v)
        })
    }

    fn learn(&mut self, x: &Encoded, y: f64) {
        let (mean, variance) = self.read(x);
        for (slot, v) in x.iter() {
            let (mu, sigma2) = self.0.entry(slot).or_insert((0.0, 0.5));
            let gain = *sigma2 * v / (1.0 + variance);
            *mu += gain * (y - mean);
            *sigma2 -= gain * *sigma2 * v;
        }
    }
}

#[test]
fn variances_only_is_filtering_onto_independent_normals() {
    for algorithm in ["linear_thompson", "linucb"] {
        let mut bandit = Bandit::new(&spec(algorithm));
        let mut reference: [Independent; 3] = Default::default();
        for t in 0..400 {
            let (text, _) = prompt(3, t);
            let action = t as usize % 3;
            let reward = uniform(4, t);
            bandit.learn(&text, action as u16, "reward", reward);
            let context = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
            let x = Encoded::new(&bandit.spec, bandit.views.layout(0), &context, 0);
            reference[action].learn(&x, reward - 0.25);
        }
        for t in 0..20 {
            let (text, _) = prompt(5, t);
            let context = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
            let scores = bandit.snapshot().scores(&context, &[0, 1, 2]);
            let x = Encoded::new(&bandit.spec, bandit.views.layout(0), &context, 0);
            for (a, reference) in reference.iter().enumerate() {
                let (mean, variance) = reference.read(&x);
                let (ours, deviation) = (scores.predicted[0][a], scores.deviation[0][a]);
                assert!((ours - mean - 0.25).abs() < 1e-12, "{algorithm}: {ours} {mean}");
                let expected = 0.5 * variance.sqrt();
                assert!(
                    (deviation - expected).abs() < 1e-12,
                    "{algorithm}: {deviation} {expected}"
                );
            }
        }
    }
}

/// Who draws blindly gets a third of the rewards.
#[test]
fn the_words_of_a_prompt_find_the_action() {
    for algorithm in ["linear_thompson", "linucb"] {
        let mut bandit = Bandit::new(&spec(algorithm));
        let mut work = Workspace::default();
        let mut late = 0;
        for t in 0..3000 {
            let (text, topic) = prompt(6, t);
            let context = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
            let request = Request { context: &context, actions: None, seed: t };
            let choice = bandit.snapshot().decide(&request, &mut work).unwrap();
            let action = usize::from(choice.eligible[choice.chosen]);
            let right = action == topic;
            bandit.learn(&text, action as u16, "reward", f64::from(u8::from(right)));
            late += u32::from(right && t >= 2000);
        }
        assert!(late > 650, "{algorithm}: {late} of the last 1000");
    }
}
