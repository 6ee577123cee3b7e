//! Budgets: what was spent is what feedback said, and for the rest what its actions take in the mean.

use super::*;

const SPEC: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["dear", "cheap"]
[features]
tenant = { type = "category" }
[metrics]
quality = { bounds = [0, 1] }
cost = { goal = "min", explore = false }
[objective]
incumbent = "dear"
weights = { quality = 1.0, cost = -0.001 }
[feedback]
deadline = "10m"
[[budget]]
metric = "cost"
per = "hour"
by = "tenant"
max = 10.0
on_exceed = "cheapest_eligible"
[learner]
algorithm = "linear_thompson"
"#;

const HOUR: u64 = 3_600_000;

impl Tape {
    fn decide_of(&mut self, at_ms: u64, tenant: &str, chosen: u16) -> DecisionId {
        let id = self.decide(at_ms, None);
        let (Some(Event::Decided(mut decided)), Some(_)) = (self.events.pop(), self.ordinals.pop())
        else {
            panic!("a decision was pushed");
        };
        // Folded once, as it was; the engine of a new tape folds what is meant.
        decided.context = format!("{{\"tenant\":\"{tenant}\"}}");
        decided.chosen = chosen;
        self.events.push(Event::Decided(decided));
        self.ordinals.push(0);
        id
    }

    /// Folds the events anew.
    fn again(&self) -> Self {
        let mut tape = Self { events: Vec::new(), ordinals: Vec::new(), engine: Engine::new() };
        for event in &self.events {
            tape.push(event.clone());
        }
        tape
    }

    fn spent(&self) -> Vec<f64> {
        let model = self.engine.state().models.values().next().unwrap();
        let (_, key, ledger) = model.budgets().remove(0);
        let mean = model.mean_of(&key.metric);
        let mut all: Vec<f64> = ledger.unwrap().spent.values().map(|s| s.in_all(&mean)).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn reason(&mut self, tenant: &str) -> (Option<&'static str>, u16) {
        let snapshot = self.engine.snapshot(&"router".parse().unwrap()).unwrap();
        let text = format!("{{\"tenant\":\"{tenant}\"}}");
        let context = Context::read(&snapshot.spec, &HashKey::default(), &text).unwrap();
        let request = Request { context: &context, actions: None, seed: 1 };
        let choice = snapshot.decide(&request, &mut Workspace::default()).unwrap();
        (choice.reason.map(|r| r.as_str()), choice.eligible[choice.chosen])
    }
}

/// By hand. One `dear` decision of acme cost 6, one `cheap` one 1: two open `dear` ones are expected to take 6 each.
#[test]
fn open_decisions_count_at_the_mean_until_feedback_replaces_it() {
    let mut script = Tape::new(SPEC, JoinLimits::default());
    let dear = script.decide_of(1000, "acme", 0);
    let cheap = script.decide_of(1001, "other", 1);
    script.feedback(Target::Decision(dear), 1100, &[("cost", 6.0)]);
    script.feedback(Target::Decision(cheap), 1100, &[("cost", 1.0)]);
    let mut tape = script.again();
    assert_eq!(tape.spent(), [1.0, 6.0]);
    assert_eq!(tape.reason("acme").0, None);

    let open = script.decide_of(1200, "acme", 0);
    let mut tape = script.again();
    assert_eq!(tape.spent(), [1.0, 12.0]);
    assert_eq!(tape.reason("acme"), (Some("budget"), 1));
    assert_eq!(tape.reason("other").0, None, "each tenant has a budget of its own");
    let alerts = &tape.engine.state().alerts;
    let told = |a: &Alert| matches!(a.what, Happening::BudgetSpent { max: 10.0, .. });
    assert_eq!(alerts.iter().filter(|a| told(a)).count(), 1);

    // It took less than was expected: there is room again, and reaching the most again is no news.
    script.feedback(Target::Decision(open), 1300, &[("quality", 1.0), ("cost", 2.0)]);
    let mut tape = script.again();
    assert_eq!(tape.spent(), [1.0, 8.0]);
    assert_eq!(tape.reason("acme").0, None);
    script.decide_of(1400, "acme", 0);
    let tape = script.again();
    // (6 + 2) / 2 of the mean on top.
    assert_eq!(tape.spent(), [1.0, 12.0]);
    assert_eq!(tape.engine.state().alerts.len(), 1);
}

#[test]
fn a_new_period_begins_empty_and_what_belongs_to_the_old_one_is_not_in_it() {
    let mut script = Tape::new(SPEC, JoinLimits::default());
    let first = script.decide_of(HOUR - 2000, "acme", 0);
    script.feedback(Target::Decision(first), HOUR - 1500, &[("cost", 11.0)]);
    let late = script.decide_of(HOUR - 1000, "acme", 0);
    let mut tape = script.again();
    assert_eq!(tape.reason("acme").0, Some("budget"));
    assert!(tape.engine.next_due_ms().unwrap() <= HOUR);
    tape.engine.take_changed();
    tape.push(Event::Tick { now_ms: HOUR + 1 });
    assert!(!tape.engine.take_changed().is_empty(), "who may spend again is published");
    assert_eq!(tape.reason("acme").0, None);
    tape.feedback(Target::Decision(late), HOUR + 5, &[("cost", 50.0)]);
    assert_eq!((tape.spent().len(), tape.reason("acme").0), (0, None));
}

/// A decision nobody acted on takes nothing; a version without the budget forgets it, one that keeps it keeps what was spent.
#[test]
fn what_was_not_used_is_not_spent_and_versions_keep_their_budgets() {
    let mut script = Tape::new(SPEC, JoinLimits::default());
    let spent = script.decide_of(1000, "acme", 0);
    script.feedback(Target::Decision(spent), 1100, &[("cost", 4.0)]);
    let unused = script.decide_of(1200, "acme", 0);
    assert_eq!(script.again().spent(), [8.0]);
    script.push(Event::Feedback(Feedback {
        not_used: true,
        ..feedback(Target::Decision(unused), 1300, &[])
    }));
    let mut tape = script.again();
    assert_eq!(tape.spent(), [4.0]);
    // Also where another metric had come before: no bill of it can come any more.
    let seen = script.decide_of(1400, "acme", 0);
    script.feedback(Target::Decision(seen), 1500, &[("quality", 1.0)]);
    assert_eq!(script.again().spent(), [8.0]);
    script.push(Event::Feedback(Feedback {
        not_used: true,
        ..feedback(Target::Decision(seen), 1600, &[])
    }));
    assert_eq!(script.again().spent(), [4.0]);
    tape.enrol(&SPEC.replace("max = 10.0", "max = 3.0"), 2);
    assert_eq!(tape.spent(), [4.0]);
    tape.enrol(&SPEC.replace("per = \"hour\"", "per = \"day\""), 3);
    assert!(tape.spent().is_empty());
    // What was decided before a budget began takes nothing of it, nor anything away from others' decisions.
    tape.feedback(Target::Decision(spent), 2000, &[("quality", 1.0)]);
    assert!(tape.spent().is_empty());
}
