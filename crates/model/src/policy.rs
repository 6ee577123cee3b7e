//! From scores to probabilities: each policy gives the whole vector, and the action is drawn from it.

use pawl_domain::spec::{Algorithm, Policy};
use pawl_stats::{argmax, rng};

/// What a policy needs to know of the eligible actions.
#[derive(Debug)]
pub enum Evidence<'a> {
    /// Independent normal scores: means and standard deviations.
    Normal(&'a [f64], &'a [f64]),
    /// Jointly normal scores: means and the covariance `[k, k]`.
    Joint(&'a [f64], &'a [f64]),
    /// Probabilities that were integrated before.
    Known(&'a [f64]),
}

/// Fills `p`, one an eligible action: it sums to 1 and keeps the floor.
///
/// `decisions` counts the model's decisions so far, `seed` is the decision's own.
pub fn probabilities(
    policy: &Policy,
    evidence: &Evidence<'_>,
    decisions: u64,
    seed: u64,
    scratch: &mut argmax::Scratch,
    p: &mut [f64],
) {
    let k = p.len() as f64;
    match (policy.algorithm, evidence) {
        (Algorithm::Uniform, _) => p.fill(1.0 / k),
        (Algorithm::EpsilonGreedy, Evidence::Normal(mean, _) | Evidence::Joint(mean, _)) => {
            let [initial, decay, least] = policy.epsilon;
            let epsilon = (initial * libm::pow(decay, decisions as f64)).max(least);
            p.fill(epsilon / k);
            p[argmax::first_largest(mean)] += 1.0 - epsilon;
        }
        (Algorithm::Ucb1 | Algorithm::Linucb, Evidence::Normal(mean, sd)) => {
            greedy(mean.iter().zip(*sd).map(|(m, s)| m + s), p);
        }
        (Algorithm::Linucb, Evidence::Joint(mean, covariance)) => {
            let width = |a: usize| libm::sqrt(covariance[a * mean.len() + a].max(0.0));
            greedy(mean.iter().enumerate().map(|(a, m)| m + width(a)), p);
        }
        (_, Evidence::Normal(mean, sd)) => argmax::normal(mean, sd, p, scratch),
        (_, Evidence::Joint(mean, covariance)) => {
            argmax::correlated(mean, covariance, rng::mix(seed), p);
        }
        (_, Evidence::Known(known)) => p.copy_from_slice(known),
    }
    if p.iter().any(|p| !p.is_finite()) {
        // Estimates that are not finite say nothing: the first, which is the incumbent where there is one.
        p.fill(0.0);
        p[0] = 1.0;
    }
    if policy.floor > 0.0 {
        // Fewer are eligible than the floor was checked for only if K·f ≤ 1 still holds.
        p.iter_mut().for_each(|p| *p = (1.0 - k * policy.floor) * *p + policy.floor);
    }
}

fn greedy(bounds: impl Iterator<Item = f64>, p: &mut [f64]) {
    let bounds: Vec<f64> = bounds.collect();
    p.fill(0.0);
    p[argmax::first_largest(&bounds)] = 1.0;
}

/// The index drawn from `p` by `seed`: always one with a positive probability.
#[must_use]
pub fn draw(p: &[f64], seed: u64) -> usize {
    let u = rng::uniform(seed, 0);
    let mut sum = 0.0;
    let mut last = 0;
    for (i, &p) in p.iter().enumerate() {
        sum += p;
        if p > 0.0 {
            last = i;
            if u < sum {
                return i;
            }
        }
    }
    last
}
