//! Actions with features of their own.

use pawl_model::{Encoded, HashKey, Request, context::Context, snapshot::Workspace};
use pawl_stats::rng::uniform;

use crate::environment::Bandit;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn spec(learner: &str) -> String {
    format!(
        "schema = 1\nname = \"market\"\nkind = \"policy\"\ncrosses = [[\"price\", \"thrift\"]]\n\
         [actions.a]\n[actions.b]\n[actions.c.features]\nprice = 0.5\n[actions.d]\n\
         [features]\nthrift = {{ type = \"number\" }}\nprice = {{ type = \"number\", of = \"action\" }}\n\
         [metrics]\nreward = {{ bounds = [-1, 1] }}\n[learner]\n{learner}\n"
    )
}

/// A context as the log keeps it.
fn logged(thrift: f64, prices: &[f64]) -> String {
    let of = NAMES.iter().zip(prices).map(|(n, p)| format!("\"{n}\":{{\"price\":{p}}}"));
    let actions: Vec<String> = of.collect();
    format!("{{\"thrift\":{thrift},\"pawl:actions\":{{{}}}}}", actions.join(","))
}

fn prices(seed: u64, t: u64, n: u64) -> Vec<f64> {
    (0..n).map(|a| uniform(seed, n * t + a)).collect()
}

/// The reward is −thrift × price, whatever the action is called: what is learned from three actions holds for a fourth
/// that was never taken. With parameters of its own an action cannot know that.
#[test]
fn shared_parameters_judge_an_action_by_its_features() {
    for learner in [
        "algorithm = \"linucb\"\nparameters = \"shared\"\nalpha = 0.01",
        "algorithm = \"linear_thompson\"\nparameters = \"shared\"\nalpha = 0.01",
        "algorithm = \"linear_thompson\"\nparameters = \"hybrid\"\nalpha = 0.01",
        "algorithm = \"squarecb\"\nparameters = \"shared\"\ngamma = 1e6",
    ] {
        let mut bandit = Bandit::new(&spec(learner));
        for t in 0..600 {
            let (action, thrift) = (t % 3, if t % 2 == 0 { 1.0 } else { -1.0 });
            let prices = prices(1, t, 4);
            let reward = -thrift * prices[action as usize];
            bandit.learn(&logged(thrift, &prices), action as u16, "reward", reward);
        }
        let snapshot = bandit.snapshot();
        let mut work = Workspace::default();
        let mut right = 0;
        for t in 0..200 {
            let thrift = if t % 2 == 0 { 1.0 } else { -1.0 };
            let prices = prices(2, t, 4);
            let text = logged(thrift, &prices);
            let context = Context::read_logged(&bandit.spec, &text).unwrap();
            let request = Request { context: &context, actions: None, seed: t };
            let choice = snapshot.decide(&request, &mut work).unwrap();
            let best =
                |a: &usize, b: &usize| (-thrift * prices[*a]).total_cmp(&(-thrift * prices[*b]));
            let best = (0..4).max_by(best).unwrap();
            right += u32::from(usize::from(choice.eligible[choice.chosen]) == best);
        }
        // Two prices may be nearly the same. Of three actions a ridge puts 3/4 of what they have in common into the shared
        // part of a hybrid, 1/4 into each one's own: the fourth is judged by the 3/4.
        let least = if learner.contains("hybrid") { 160 } else { 185 };
        assert!(right >= least, "{learner}: {right} of 200");
    }
}

/// The request's value counts before the spec's, the spec's where the request gives none; and the log keeps what the
/// request gave.
#[test]
fn values_come_from_the_request_or_else_from_the_spec() {
    let bandit = Bandit::new(&spec("algorithm = \"linucb\"\nparameters = \"shared\""));
    let mut context =
        Context::read(&bandit.spec, &HashKey::default(), r#"{"thrift":2,"price":9}"#).unwrap();
    context.add_action(&bandit.spec, 0, r#"{"price":0.25,"thrift":7,"x":1}"#).unwrap();
    context.add_action(&bandit.spec, 1, "{}").unwrap();
    assert!(context.add_action(&bandit.spec, 1, "3").is_err());
    let text = context.logged(&bandit.spec, &[0, 1, 2, 3]);
    assert_eq!(
        text,
        r#"{"thrift":2,"pawl:actions":{"a":{"price":0.25},"b":{},"c":{"price":0.5},"d":{}}}"#
    );
    let again = Context::read_logged(&bandit.spec, &text).unwrap();
    let layout = bandit.views.layout(0);
    for (action, price) in [(0, Some(0.25)), (1, None), (2, Some(0.5)), (3, None)] {
        let x = Encoded::new(&bandit.spec, layout, &context, action);
        let price = price.unwrap_or(0.0);
        // The intercept, the price, the thrift, and the cross of the two.
        let mut values = x.dense.clone();
        values.extend(x.sparse.iter().map(|(_, v)| v));
        values.sort_by(f64::total_cmp);
        let mut expected = vec![1.0, 2.0, price, 2.0 * price];
        if price == 0.0 {
            expected = vec![0.0, 1.0, 2.0];
        }
        expected.sort_by(f64::total_cmp);
        assert_eq!(values, expected, "action {action}");
        assert_eq!(x, Encoded::new(&bandit.spec, layout, &again, action));
    }
    // A caller cannot give them by the name that the log uses.
    let sly =
        Context::read(&bandit.spec, &HashKey::default(), r#"{"pawl:actions":{"a":{"price":1}}}"#)
            .unwrap();
    assert_eq!(sly.logged(&bandit.spec, &[1]), r#"{"pawl:actions":{"b":{}}}"#);
    // What counted when it was decided counts when its feedback comes, whatever the spec says by then.
    let later = Bandit::new(&spec("algorithm = \"linucb\"").replace("price = 0.5", "price = 3.0"));
    let then = Context::read_logged(&later.spec, &text).unwrap();
    let x = |c: &Context<'_>| Encoded::new(&later.spec, later.views.layout(0), c, 2);
    assert_eq!(x(&then), Encoded::new(&bandit.spec, layout, &context, 2));
    assert_ne!(
        x(&then),
        x(&Context::read(&later.spec, &HashKey::default(), r#"{"thrift":2}"#).unwrap())
    );
}
