//! Regret on a defined environment, against the values of an independent implementation.

use crate::environment::{Bandit, play};

fn spec(learner: &str) -> String {
    format!(
        "schema = 1\nname = \"bandit\"\nkind = \"policy\"\nactions = [\"0\", \"1\", \"2\", \"3\", \"4\"]\n\
         [features]\nx = {{ type = \"vector\", dim = 19 }}\n\
         [metrics]\nreward = {{ bounds = [0, 1], prior = 0.0 }}\n[learner]\nlambda = 1.0\n{learner}\n"
    )
}

#[test]
fn linucb_makes_the_choices_of_an_exact_implementation() {
    // Values from the founding issue: a disjoint LinUCB in numpy with Sherman-Morrison, α = 0.5, λ = 1, 20,000 rounds.
    let expected = [224.264, 268.553, 254.014];
    for (s, expected) in expected.into_iter().enumerate() {
        let mut bandit = Bandit::new(&spec("algorithm = \"linucb\"\nalpha = 0.5"));
        let (regret, choices) = play(&mut bandit, s as u64, 20_000);
        assert!((regret - expected).abs() < 5e-4, "seed {s}: {regret}");
        if s == 0 {
            assert_eq!(choices[..10], [0, 1, 1, 1, 1, 0, 2, 2, 0, 2]);
            let counts: Vec<usize> =
                (0..5).map(|a| choices.iter().filter(|c| **c == a).count()).collect();
            assert_eq!(counts, [3636, 5052, 3108, 3986, 4218]);
        }
    }
}

#[test]
fn linear_thompson_is_as_good_as_sampling_the_weights() {
    // Regret of a linear Thompson sampler in numpy that draws the weights (v = 0.3, λ = 1) on seeds 0 to 9.
    let numpy =
        [340.168, 346.065, 289.604, 319.061, 371.282, 325.728, 351.777, 350.078, 323.368, 305.152];
    let differences: Vec<f64> = numpy
        .iter()
        .enumerate()
        .map(|(s, expected)| {
            let mut bandit = Bandit::new(&spec("algorithm = \"linear_thompson\"\nalpha = 0.3"));
            play(&mut bandit, s as u64, 20_000).0 - expected
        })
        .collect();
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / (n - 1.0);
    assert!(mean <= 2.0 * (variance / n).sqrt(), "{mean} in {differences:?}");
}
