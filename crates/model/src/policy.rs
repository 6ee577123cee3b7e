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
/// `decisions` counts the model's decisions so far, `examples` what its learner took, `seed` is the decision's own.
pub fn probabilities(
    policy: &Policy,
    evidence: &Evidence<'_>,
    [decisions, examples]: [u64; 2],
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
        (Algorithm::Squarecb, Evidence::Normal(mean, _) | Evidence::Joint(mean, _)) => {
            let [gamma, exponent] = policy.gamma;
            squarecb(mean, gamma * libm::pow(examples.max(1) as f64, exponent), p);
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

/// Inverse gap weighting of predicted rewards (Foster & Rakhlin, "Beyond UCB", ICML 2020, algorithm 1, there for
/// losses): with K actions and the best predicted b, p(a) = 1/(K + γ(f(b) − f(a))) for the others, and b has the rest.
fn squarecb(rewards: &[f64], gamma: f64, p: &mut [f64]) {
    let k = rewards.len() as f64;
    let best = argmax::first_largest(rewards);
    let mut rest = 1.0;
    for (a, p) in p.iter_mut().enumerate().filter(|(a, _)| *a != best) {
        *p = 1.0 / (k + gamma * (rewards[best] - rewards[a]));
        rest -= *p;
    }
    p[best] = rest;
}

fn greedy(bounds: impl Iterator<Item = f64>, p: &mut [f64]) {
    let bounds: Vec<f64> = bounds.collect();
    p.fill(0.0);
    p[argmax::first_largest(&bounds)] = 1.0;
}

/// The index drawn from `p` by `u` in [0, 1): always one with a positive probability.
#[must_use]
pub fn draw(p: &[f64], u: f64) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand from rewards, not losses: f = (.9, .5, .8), K = 3, γ = 20: gaps .4 and .1, so p = (rest, 1/(3 + 8),
    /// 1/(3 + 2)) = (.7090909, .0909091, .2).
    #[test]
    fn squarecb_weighs_inverse_gaps_of_rewards() {
        let mut p = [0.0; 3];
        squarecb(&[0.9, 0.5, 0.8], 20.0, &mut p);
        for (p, expected) in p.iter().zip([1.0 - 1.0 / 11.0 - 0.2, 1.0 / 11.0, 0.2]) {
            assert!((p - expected).abs() < 1e-15);
        }
        squarecb(&[0.3, 0.3], 1e9, &mut p[..2]);
        assert_eq!(p[..2], [0.5, 0.5]);
    }
}
