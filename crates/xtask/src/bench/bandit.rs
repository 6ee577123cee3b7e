//! The contextual bandit, d = 20, K = 5: scoring, probabilities, draw and update, without log and HTTP.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use pawl_domain::{
    ModelSpec,
    spec::{CheckedSpec, Policy},
};
use pawl_learn::linear::Linear;
use pawl_model::{
    Encoded,
    policy::{self, Evidence},
};
use pawl_stats::{
    argmax::Scratch,
    rng::{mix, uniform},
};

use crate::python::python;

const K: usize = 5;
const D: usize = 19;
const ROUNDS: usize = 20_000;
const SEEDS: u64 = 10;

/// The defined environment `s`: contexts, probabilities of a reward, rewards.
struct Environment {
    x: Vec<Encoded>,
    p: Vec<[f64; K]>,
    r: Vec<[f64; K]>,
}

impl Environment {
    fn new(s: u64) -> Self {
        let mut theta = [[0.0; D]; K];
        for (a, theta) in theta.iter_mut().enumerate() {
            for (j, t) in theta.iter_mut().enumerate() {
                *t = 2.0 * uniform(10 * s + 1, (a * D + j) as u64) - 1.0;
            }
            let norm = theta.iter().map(|t| t * t).sum::<f64>().sqrt();
            theta.iter_mut().for_each(|t| *t /= norm);
        }
        let mut environment = Self { x: Vec::new(), p: Vec::new(), r: Vec::new() };
        for t in 0..ROUNDS {
            let mut x: Vec<f64> =
                (0..D).map(|j| 2.0 * uniform(10 * s + 2, (t * D + j) as u64) - 1.0).collect();
            let dot = |theta: [f64; D]| theta.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>();
            let p = theta.map(|theta| (0.5 + 0.4 * dot(theta)).clamp(0.02, 0.98));
            x.push(1.0);
            environment.x.push(Encoded { dense: x, ..Encoded::default() });
            environment.p.push(p);
            let reward =
                |a: usize| f64::from(u8::from(uniform(10 * s + 3, (t * K + a) as u64) < p[a]));
            environment.r.push(core::array::from_fn(reward));
        }
        environment
    }
}

fn spec(learner: &str) -> Result<CheckedSpec> {
    let text = format!(
        "schema = 1\nname = \"bandit\"\nkind = \"policy\"\nactions = [\"0\", \"1\", \"2\", \"3\", \"4\"]\n\
         [metrics]\nreward = {{ bounds = [0, 1], prior = 0.0 }}\n[learner]\n{learner}\n"
    );
    let spec = ModelSpec::from_toml(&text).map_err(|e| anyhow::anyhow!(e))?;
    Ok(spec.check()?)
}

/// Plays one environment. `batch` is the examples between two derivations under forgetting; 0 is no forgetting.
fn play(policy: &Policy, environment: &Environment, s: u64, batch: usize) -> Result<f64> {
    let mut models = vec![Linear::new(D + 1, D + 1, policy.lambda); K];
    let (mut mean, mut sd, mut p) = ([0.0; K], [0.0; K], [0.0; K]);
    let mut scratch = Scratch::default();
    let mut regret = 0.0;
    let gamma = 0.5_f64.powf(batch as f64 / 5000.0);
    for t in 0..ROUNDS {
        let x = &environment.x[t];
        for (a, model) in models.iter().enumerate() {
            mean[a] = model.posterior.mean(x, 0.0);
            sd[a] = policy.alpha * model.posterior.variance(x).sqrt();
        }
        let seed = mix(mix(s + 1000) + t as u64);
        policy::probabilities(
            policy,
            &Evidence::Normal(&mean, &sd),
            [t as u64; 2],
            seed,
            &mut scratch,
            &mut p,
        );
        let a = policy::draw(&p, uniform(seed, 0));
        let degenerate = |_| anyhow::anyhow!("degenerate statistics");
        if batch == 0 {
            models[a].learn(x, environment.r[t][a], 1.0).map_err(degenerate)?;
        } else {
            models[a].accumulate(x, environment.r[t][a], 1.0);
            if t % batch == batch - 1 {
                for model in &mut models {
                    model.decay(gamma);
                    model.rebuild().map_err(degenerate)?;
                }
            }
        }
        let best = environment.p[t].iter().fold(0.0_f64, |m, p| m.max(*p));
        regret += best - environment.p[t][a];
    }
    Ok(regret)
}

/// Measures and prints.
pub fn run() -> Result<()> {
    if cfg!(debug_assertions) {
        // The kernels are measured in this very process.
        return crate::cargo(
            &["run", "--release", "--quiet", "-p", "xtask", "--", "bench", "bandit"],
            &[],
        );
    }
    let environments: Vec<Environment> = (0..SEEDS).map(Environment::new).collect();
    println!(
        "{:42} {:>12} {:>10}",
        format!("{ROUNDS} rounds, {SEEDS} seeds"),
        "rounds/s",
        "regret"
    );
    let mut rates = Vec::new();
    for (name, learner, batch) in [
        ("pawl LinUCB", "algorithm = \"linucb\"\nalpha = 0.5", 0),
        ("pawl linear Thompson", "algorithm = \"linear_thompson\"\nalpha = 0.3", 0),
        (
            "pawl linear Thompson, half-life 5000, batch 32",
            "algorithm = \"linear_thompson\"\nalpha = 0.3",
            32,
        ),
    ] {
        let spec = spec(learner)?;
        let begun = Instant::now();
        let mut regret = 0.0;
        for (s, environment) in (0..).zip(&environments) {
            regret += play(spec.policy(), environment, s, batch)? / SEEDS as f64;
        }
        let rate = (SEEDS as usize * ROUNDS) as f64 / begun.elapsed().as_secs_f64();
        println!("{name:42} {rate:12.0} {regret:10.1}");
        rates.push(rate);
    }
    let python = python("bench/venv", &["vowpalwabbit==9.11.9", "numpy==2.4.6"])?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/bandit.py");
    let output = Command::new(python)
        .arg(script)
        .args([ROUNDS.to_string(), SEEDS.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the peers failed");
    }
    for line in String::from_utf8(output.stdout)?.lines() {
        let mut parts = line.split(',');
        let name = parts.next().context("a name")?;
        let rate: f64 = parts.next().context("a rate")?.parse()?;
        let regret: f64 = parts.next().context("a regret")?.parse()?;
        println!(
            "{name:42} {rate:12.0} {regret:10.1}   pawl LinUCB ÷ this {:.1}, Thompson {:.1}",
            rates[0] / rate,
            rates[1] / rate
        );
    }
    Ok(())
}
