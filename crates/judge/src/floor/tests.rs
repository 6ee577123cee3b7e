//! The floor against its statement.

use pawl_stats::rng::uniform;

use super::*;

const RULES: Rules = Rules { keep: 0.98, bounds: [0.0, 1.0] };

/// Where nothing is better than the incumbent but by a little less than the floor, the policy that would lose is stopped: the
/// true sum is never below 0 in more than one run of a hundred. The model of the incumbent's quality is wrong on purpose.
#[test]
fn the_true_sum_is_never_below_zero() {
    let mut broken = 0;
    for run in 0..300 {
        let mut floor = Floor::default();
        let (mut d, mut least) = (0.0, 0.0_f64);
        for t in 0..4000 {
            let u = |k: u64| uniform(run, 8 * t + k);
            let (mu, other) = if u(0) < 0.5 { (0.9, 0.85) } else { (0.5, 0.46) };
            let share = floor.share(RULES);
            let p = 1.0 - share;
            let incumbent = u(1) < p;
            let value = f64::from(u8::from(u(2) < if incumbent { mu } else { other }));
            d += p * mu + share * other - 0.98 * mu;
            least = least.min(d);
            let evidence = Evidence { value, expected: 0.75, incumbent, probability: p };
            floor.take(RULES, &evidence, t);
        }
        broken += u32::from(least < 0.0);
    }
    assert!(broken <= 3, "{broken} of 300");
}

/// An action as good as the incumbent is let in, and stays.
#[test]
fn what_is_as_good_is_let_in() {
    let mut floor = Floor::default();
    let mut decided = 0.0;
    for t in 0..10_000 {
        let u = |k: u64| uniform(77, 4 * t + k);
        let share = floor.share(RULES);
        decided += share;
        let incumbent = u(1) < 1.0 - share;
        let value = f64::from(u8::from(u(2) < 0.9));
        let evidence = Evidence { value, expected: 0.9, incumbent, probability: 1.0 - share };
        floor.take(RULES, &evidence, t);
    }
    assert!(decided > 4000.0 && floor.released, "{decided} {floor:?}");
}

/// By hand: one rate, c = 1.5, λ = .6: ψ = (−ln(.1) − .9)/2.25 = .6233712. With V = 0 the mixture of twelve rates is above
/// 100 where its largest term alone is above 1200: S = ln(1200)/.6 = 11.817, a little less with the others.
#[test]
fn the_first_certainty_is_where_it_must_be() {
    let rates = rates();
    assert!((rates[0].0 - 0.6).abs() < 1e-15 && (rates[0].1 - 0.623_371_2).abs() < 1e-6);
    assert!(certain(11.817, 0.0, 0.0, &rates) && !certain(11.6, 0.0, 0.0, &rates));
}
