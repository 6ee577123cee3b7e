//! What is eligible, and what operators and shares make of the policy's probabilities.

use std::sync::Arc;

use pawl_domain::{LeverChange, Levers, Order, event::Removal};
use pawl_model::{
    HashKey, Request, Snapshot,
    context::Context,
    snapshot::{Choice, Reason, Workspace},
};

use crate::environment::Bandit;

const SPEC: &str = r#"
schema = 1
name = "router"
kind = "policy"
[actions.a]
[actions.b]
[actions.c]
state = "probation"
[actions.d]
state = "retired"
[features]
region = { type = "category" }
tokens = { type = "number" }
[metrics]
quality = { bounds = [0, 1] }
[objective]
incumbent = "b"
holdback = 0.05
ramp = 0.4
[[rules]]
when = { region = ["eu", "uk"] }
deny = ["a"]
[[rules]]
name = "long"
when = { tokens = { min = 1000 }, region = "us" }
deny = ["c"]
[learner]
algorithm = "linear_thompson"
"#;

fn taught() -> Snapshot {
    let mut bandit = Bandit::new(SPEC);
    for k in 0..200 {
        let context = format!("{{\"region\":\"us\",\"tokens\":{k}}}");
        for (action, quality) in [(0, 0.9), (1, 0.5), (2, 0.95)] {
            bandit.learn(&context, action, "quality", quality);
        }
    }
    bandit.snapshot()
}

fn decide(snapshot: &Snapshot, context: &str, seed: u64) -> Choice {
    let context = Context::read(&snapshot.spec, &HashKey::default(), context).unwrap();
    let request = Request { context: &context, actions: None, seed };
    let mut work = Workspace::default();
    let choice = snapshot.decide(&request, &mut work).unwrap();
    let sum: f64 = choice.probabilities.iter().sum();
    assert!((sum - 1.0).abs() < 1e-12 && choice.probabilities.iter().all(|p| *p >= 0.0));
    assert!(choice.probabilities[choice.chosen] > 0.0);
    choice
}

const US: &str = r#"{"region":"us","tokens":5}"#;

fn p(choice: &Choice, action: u16) -> f64 {
    let place = choice.eligible.iter().position(|a| *a == action);
    place.map_or(0.0, |i| choice.probabilities[i])
}

/// Frequencies over seeds are the logged probabilities, and each share of traffic is told by its reason.
#[test]
fn shares_are_drawn_as_they_are_logged() {
    let snapshot = taught();
    let n = 40_000;
    let mut counts = [0_u32; 4];
    let mut reasons = [0_u32; 3];
    let first = decide(&snapshot, US, 0);
    for seed in 0..n {
        let choice = decide(&snapshot, US, seed);
        assert_eq!(choice.probabilities, first.probabilities);
        counts[usize::from(choice.eligible[choice.chosen])] += 1;
        match choice.reason {
            None => reasons[0] += 1,
            Some(Reason::Holdback) => reasons[1] += 1,
            Some(Reason::Ramp) => reasons[2] += 1,
            Some(Reason::Pinned | Reason::Floor | Reason::Budget) => {
                panic!("nothing is pinned, no floor is declared")
            }
        }
        assert!(choice.reason.is_none() || choice.eligible[choice.chosen] == 1);
    }
    let near = |count: u32, expected: f64| {
        let share = f64::from(count) / n as f64;
        // Four standard errors.
        assert!((share - expected).abs() < 4.0 * (0.25 / n as f64).sqrt(), "{share} {expected}");
    };
    (0..4).for_each(|a| near(counts[usize::from(a)], p(&first, a)));
    [0.4, 0.05, 0.55].into_iter().zip(reasons).for_each(|(share, count)| near(count, share));
    // The policy would take `c` nearly always: on probation it gets a twentieth of the policy's share.
    assert!((p(&first, 2) - 0.4 * 0.05).abs() < 1e-12, "{first:?}");
    assert_eq!(p(&first, 3), 0.0);
}

#[test]
fn rules_deny_and_what_is_missing_denies() {
    let snapshot = taught();
    let removed = |context: &str| {
        let mut removed = decide(&snapshot, context, 1).removed;
        removed.retain(|(_, why)| *why != Removal::Retired);
        removed
    };
    let rule = |name: &str| Removal::Rule(name.to_owned());
    assert_eq!(removed(US), []);
    assert_eq!(removed(r#"{"region":"uk","tokens":5}"#), [(0, rule("rules[0]"))]);
    assert_eq!(removed(r#"{"region":"us","tokens":1000}"#), [(2, rule("long"))]);
    assert_eq!(removed(r#"{"tokens":5}"#), [(0, rule("rules[0]"))]);
    assert_eq!(removed(r#"{"region":"us"}"#), [(2, rule("long"))]);
    assert_eq!(removed("{}"), [(0, rule("rules[0]")), (2, rule("long"))]);
    // Who cannot be chosen is told why.
    let context = Context::read(&snapshot.spec, &HashKey::default(), r#"{"region":"eu"}"#).unwrap();
    let request = Request { context: &context, actions: Some(&[0, 3]), seed: 1 };
    let refusal = snapshot.decide(&request, &mut Workspace::default()).unwrap_err().to_string();
    assert!(
        refusal.contains("the rule `rules[0]` denies `a`") && refusal.contains("`d` is retired"),
        "{refusal}"
    );
}

#[test]
fn levers_do_what_they_say() {
    let mut snapshot = taught();
    let order = || Order { reason: None, until_ms: None };
    let name = |n: &str| n.parse().unwrap();
    let pull = |snapshot: &mut Snapshot, change: LeverChange| {
        let mut levers: Levers = (*snapshot.levers).clone();
        levers.pull(&change);
        snapshot.levers = Arc::new(levers);
    };
    pull(&mut snapshot, LeverChange::Ramp(Some(1.0)));
    let choice = decide(&snapshot, US, 7);
    assert!(p(&choice, 1) >= 0.05, "the holdback stays: {choice:?}");
    pull(&mut snapshot, LeverChange::Explore(false));
    // `c` is the best known, and on probation: `a` is the best of the others.
    let choice = decide(&snapshot, US, 7);
    assert!((p(&choice, 1) - 0.05).abs() < 1e-12 && (p(&choice, 0) - 0.95).abs() < 1e-12);
    pull(&mut snapshot, LeverChange::Disable { action: name("a"), order: order() });
    let choice = decide(&snapshot, US, 7);
    assert_eq!((p(&choice, 0), choice.removed[0].clone()), (0.0, (0, Removal::Disabled)));
    pull(&mut snapshot, LeverChange::Ramp(Some(0.0)));
    assert_eq!(p(&decide(&snapshot, US, 8), 1), 1.0);
    pull(&mut snapshot, LeverChange::Pin { action: name("c"), order: order() });
    let choice = decide(&snapshot, US, 9);
    assert_eq!((p(&choice, 2), choice.reason), (1.0, Some(Reason::Pinned)));
    // Where the pinned one is not eligible, the rest decides.
    let choice = decide(&snapshot, r#"{"region":"us","tokens":5000}"#, 9);
    assert_eq!((p(&choice, 1), choice.reason.is_some()), (1.0, true));
    assert_ne!(choice.reason, Some(Reason::Pinned));
    let context = Context::read(&snapshot.spec, &HashKey::default(), US).unwrap();
    let request = Request { context: &context, actions: None, seed: 1 };
    let fallback = snapshot.fall_back(&request).unwrap();
    assert_eq!((fallback.eligible[0], fallback.probabilities[0]), (1, 1.0));
}
