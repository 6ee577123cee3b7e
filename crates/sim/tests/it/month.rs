//! The books of a month against what is true: a policy that learns, with a holdback, on traffic that drifts or not.

use pawl_engine::Page;
use pawl_stats::rng::{mix, uniform};

use crate::driven::Driven;

const ROUNDS: u64 = 6000;
const DAY_MS: u64 = 86_400_000;
const STEP_MS: u64 = 30 * DAY_MS / ROUNDS;

const SPEC: &str = "schema = 1\nname = \"month\"\nkind = \"policy\"\nactions = [\"large\", \"small\"]\n\
    [features]\nhard = { type = \"number\" }\nsize = { type = \"number\" }\n\
    [metrics]\nquality = { bounds = [0, 1] }\ncost = { goal = \"min\", explore = false }\n\
    [objective]\nincumbent = \"large\"\nholdback = 0.05\nweights = { quality = 1.0, cost = -0.2 }\n\
    [learner]\nalgorithm = \"linear_thompson\"\n";

/// One month. Whether the intervals of what cost and quality are as parts of the incumbent's hold the true ones.
fn month(seed: u64, drift: bool, observed: f64) -> [bool; 2] {
    let mut driven = Driven::new(SPEC);
    // What was served and what the incumbent would have given, of cost and quality.
    let mut truth = [[0.0; 2]; 2];
    for t in 0..ROUNDS {
        let u = |k: u64| uniform(seed, t * 8 + k);
        let month = if drift { t as f64 / ROUNDS as f64 } else { 0.0 };
        let hard = (u(0) + 0.5 * month).min(1.0);
        let size = (0.3 - u(1).max(1e-9).ln()) * (1.0 + month);
        let cost = [size, size * (0.2 + 0.2 * month)];
        let quality = [0.92, 0.95 - (0.3 + 0.3 * month) * hard];
        let quality = quality.map(|q| f64::from(u8::from(u(2) < q)));
        let at_ms = t * STEP_MS;
        let context = format!("{{\"hard\":{hard:?},\"size\":{size:?}}}");
        let answer = driven.decide(&context, seed, at_ms);
        for (sums, values) in truth.iter_mut().zip([cost, quality]) {
            sums[0] += values[answer.action];
            sums[1] += values[0];
        }
        if u(3) < observed {
            let values = [("cost", cost[answer.action]), ("quality", quality[answer.action])];
            driven.feedback(answer.id, &values, at_ms);
        }
    }
    driven.fold.catch_up().unwrap();
    let model = &driven.fold.engine().state().models[driven.spec.name()];
    let mut all = Page::default();
    model.books.0.since(0).for_each(|(_, _, page)| all.merge(page));
    assert_eq!(all.decisions.values().sum::<u64>(), ROUNDS);
    let covers = |metric: &str, [served, incumbents]: [f64; 2]| {
        let compared = &all.metrics[metric].compared;
        assert!(compared.is_enough() || observed < 1.0);
        let [low, high] = compared.relative(ROUNDS).interval();
        (low..=high).contains(&(served / incumbents))
    };
    [covers("cost", truth[0]), covers("quality", truth[1])]
}

/// 95 % intervals hold the truth in as many months, within three standard errors of that over so many. `PAWL_MONTHS` says how many.
#[test]
fn the_books_cover_what_is_true() {
    let months = std::env::var("PAWL_MONTHS").map_or(3, |n| n.parse::<u64>().unwrap());
    for (drift, observed) in [(false, 1.0), (true, 1.0), (false, 0.1), (true, 0.1)] {
        let covered: Vec<[bool; 2]> =
            (0..months).map(|m| month(mix(7000 + m), drift, observed)).collect();
        let n = months as f64;
        for metric in [0, 1] {
            let share = covered.iter().filter(|c| c[metric]).count() as f64 / n;
            println!("drift {drift}, {observed} observed, metric {metric}: {share:.3} covered");
            assert!(share >= 0.95 - 3.0 * (0.95 * 0.05 / n).sqrt(), "{share}");
        }
    }
}
