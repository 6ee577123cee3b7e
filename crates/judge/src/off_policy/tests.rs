//! Worked vectors, and coverage where the truth is known.

use pawl_stats::rng::uniform;

use super::*;

fn logged(value: f64, probability: f64, target: f64, expected: [f64; 2]) -> Logged {
    Logged { value, probability, target, expected_logged: expected[0], expected: expected[1] }
}

/// Four decisions with weights 2, 1.6, .8, .8 and rewards 1, 1, 0, 0. By the definitions:
/// IPS = (2 + 1.6) ÷ 4 = .9; SNIPS = 3.6 ÷ 5.2 = .692308; ESS = 5.2² ÷ (4 + 2.56 + .64 + .64) = 27.04 ÷ 7.84 = 3.44898.
/// With q̂(a) = .8, .75, .25, .25 and q̂(π) = .8, .76, .5, .5, the terms are .8 + 2 · .2 = 1.2, .76 + 1.6 · .25 = 1.16,
/// .5 − .8 · .25 = .3 and again .3: DR = 2.96 ÷ 4 = .74.
#[test]
fn worked_vectors() {
    let mut of = OffPolicy::default();
    of.take(&logged(1.0, 0.4, 0.8, [0.8, 0.8]));
    of.take(&logged(1.0, 0.5, 0.8, [0.75, 0.76]));
    of.take(&logged(0.0, 0.5, 0.4, [0.25, 0.5]));
    of.take(&logged(0.0, 0.25, 0.2, [0.25, 0.5]));
    assert!((of.ips().value - 0.9).abs() < 1e-12);
    assert!((of.snips().value - 9.0 / 13.0).abs() < 1e-12);
    assert!((of.dr().value - 0.74).abs() < 1e-12);
    assert!((of.effective() - 27.04 / 7.84).abs() < 1e-12);
    // Squares of (2, 1.6, 0, 0) around .9 sum to 3.32.
    assert!((of.ips().error - (3.32_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
}

/// One simulated log: two contexts, three actions drawn unevenly, and a target policy whose value is known.
/// `model` is how wrong q̂ is.
fn log(run: u64, n: u64, model: f64) -> OffPolicy {
    let mut of = OffPolicy::default();
    for t in 0..n {
        let u = |k: u64| uniform(run, 4 * t + k);
        let x = usize::from(u(0) < 0.4);
        let a = usize::from(u(1) >= LOGGER[0]) + usize::from(u(1) >= LOGGER[0] + LOGGER[1]);
        let value = f64::from(u8::from(u(2) < MEANS[x][a]));
        let q: [f64; 3] = core::array::from_fn(|b| MEANS[x][b] + model * (b as f64 - 1.0));
        let expected = (0..3).map(|b| TARGET[x][b] * q[b]).sum();
        of.take(&logged(value, LOGGER[a], TARGET[x][a], [q[a], expected]));
    }
    of
}

const LOGGER: [f64; 3] = [0.7, 0.2, 0.1];
const MEANS: [[f64; 3]; 2] = [[0.3, 0.5, 0.6], [0.8, 0.4, 0.2]];
const TARGET: [[f64; 3]; 2] = [[0.0, 0.3, 0.7], [0.9, 0.1, 0.0]];
/// .6 · (.3 · .5 + .7 · .6) + .4 · (.9 · .8 + .1 · .4)
const VALUE: f64 = 0.6 * 0.57 + 0.4 * 0.76;

/// 95 % intervals hold the true value in 92 to 98 % of 500 logs, for each estimator, whether q̂ is right or not.
#[test]
fn intervals_cover_the_truth() {
    for model in [0.0, 0.4] {
        let mut covered = [0; 3];
        for run in 0..500 {
            let of = log(run, 1000, model);
            for (count, e) in covered.iter_mut().zip([of.ips(), of.snips(), of.dr()]) {
                let [low, high] = e.interval();
                *count += u32::from((low..=high).contains(&VALUE));
            }
        }
        assert!(covered.iter().all(|c| (460..=490).contains(c)), "{covered:?}");
    }
}

/// A right q̂ makes the doubly robust error smaller; a wrong one leaves it without bias.
#[test]
fn doubly_robust_is_right_where_either_is() {
    let error = |model| {
        let of = log(1, 20_000, model);
        let dr = of.dr();
        assert!((dr.value - VALUE).abs() < 4.0 * dr.error, "{dr:?}");
        (dr.error, of.ips().error)
    };
    let (right, ips) = error(0.0);
    let (wrong, _) = error(0.4);
    assert!(right < 0.8 * ips && right < wrong);
}
