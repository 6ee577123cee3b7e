//! The join as a specification: each rule on a tape of events.

mod budgets;
mod pipe;

use pawl_domain::{
    ActionName, DecisionId, Event, LearnerId, ModelSpec, Position,
    event::{Caller, Change, ChangeKind, Decided, Feedback, JoinLimits, Outcome, Target},
};
use pawl_model::{HashKey, Request, context::Context, snapshot::Workspace};
use semver::Version;

use super::*;

const SPEC: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["a", "b"]
[features]
x = { type = "number" }
[metrics]
quality = { bounds = [0, 1] }
cost = { goal = "min", explore = false }
[objective]
weights = { quality = 1.0, cost = -1.0 }
[feedback]
deadline = "10s"
missing = { quality = 0.25 }
[learner]
algorithm = "linear_thompson"
"#;

/// Events at offsets 0, 10, 20, …, and the engine that follows them.
struct Tape {
    events: Vec<Event>,
    ordinals: Vec<u64>,
    engine: Engine,
}

struct Past<'a>(&'a [Event], &'a [u64]);

impl Past<'_> {
    fn recorded(&self, i: usize) -> Option<Recorded> {
        match &self.0[i] {
            Event::Decided(d) => {
                let offset = i as u64 * 10;
                let at = At { offset, next: offset + 10, ordinal: self.1[i] };
                Some(Recorded { at, decided: Arc::new(d.clone()) })
            }
            _ => None,
        }
    }
}

impl History for Past<'_> {
    fn decision(&mut self, offset: u64) -> Result<Option<Recorded>, Unreadable> {
        Ok(if offset.is_multiple_of(10) { self.recorded(offset as usize / 10) } else { None })
    }

    fn next_decision(&mut self, from: u64, below: u64) -> Result<Option<Recorded>, Unreadable> {
        let range = (from as usize).div_ceil(10)..(below as usize / 10).min(self.0.len());
        Ok(range.into_iter().find_map(|i| self.recorded(i)))
    }

    fn artifact(&mut self, digest: Sha256) -> Result<Vec<u8>, MissingArtifact> {
        Err(MissingArtifact { digest, why: "a tape has none".to_owned() })
    }
}

impl Tape {
    fn new(spec: &str, limits: JoinLimits) -> Self {
        let mut tape = Self { events: Vec::new(), ordinals: Vec::new(), engine: Engine::new() };
        tape.push(Event::Opened { epoch: 1, at_ms: 0, limits });
        tape.enrol(spec, 1);
        tape
    }

    fn push(&mut self, event: Event) -> u64 {
        let offset = self.events.len() as u64 * 10;
        let decided = |e: &&Event| matches!(e, Event::Decided(_));
        let ordinal = self.events.iter().filter(decided).count() as u64;
        self.events.push(event);
        self.ordinals.push(ordinal);
        let at = At { offset, next: offset + 10, ordinal };
        let event = self.events.last().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the engine's own tests")]
        self.engine.apply(at, event, &mut Past(&self.events, &self.ordinals)).unwrap();
        offset
    }

    fn enrol(&mut self, spec: &str, n: u32) {
        let spec = ModelSpec::from_toml(spec).unwrap().check().unwrap();
        self.push(Event::Changed(Change {
            incarnation: 1,
            seq: u64::from(n),
            at_ms: 0,
            principal: None,
            kind: ChangeKind::Enrolled {
                model: spec.name().clone(),
                version: Version::new(1, 0, u64::from(n) - 1),
                learner: LearnerId(n),
                spec: spec.to_json(),
                spec_sha256: spec.sha256(),
                inherits: (n > 1).then(|| LearnerId(n - 1)),
            },
        }));
    }

    fn decide(&mut self, at_ms: u64, request_id: Option<&str>) -> DecisionId {
        self.decide_for("router", at_ms, request_id)
    }

    fn decide_for(&mut self, model: &str, at_ms: u64, request_id: Option<&str>) -> DecisionId {
        let nonce = 77 + at_ms;
        let caller = Caller { request_id: request_id.map(str::to_owned), ..Caller::default() };
        let decided = Decided {
            epoch: 1,
            nonce,
            at_ms,
            model: model.parse().unwrap(),
            version: Version::new(1, 0, u64::from(model != "router")),
            learner: LearnerId(1),
            snapshot: 0,
            clock: 0,
            context: r#"{"x":1.5}"#.to_owned(),
            eligible: vec![0, 1],
            removed: vec![],
            probabilities: vec![0.5, 0.5],
            chosen: 0,
            outcome: Outcome::Ok,
            reason: None,
            caller,
            metrics: vec![],
        };
        let offset = self.push(Event::Decided(decided));
        DecisionId { epoch: 1, position: Position { partition: 0, offset }, nonce }
    }

    fn feedback(&mut self, target: Target, at_ms: u64, metrics: &[(&str, f64)]) {
        self.push(Event::Feedback(feedback(target, at_ms, metrics)));
    }

    fn tally(&self) -> Tally {
        self.engine.state().models.values().next().unwrap().tally.clone()
    }

    /// Examples and predicted quality of both actions at x = 1.5.
    fn knows(&mut self) -> (u64, Vec<f64>) {
        let snapshot = self.engine.snapshot(&"router".parse().unwrap()).unwrap();
        let context = Context::read(&snapshot.spec, &HashKey::default(), r#"{"x":1.5}"#).unwrap();
        let q = snapshot.spec.metric("quality").unwrap();
        (snapshot.examples, snapshot.scores(&context, &[0, 1]).predicted[q].clone())
    }
}

fn feedback(target: Target, at_ms: u64, metrics: &[(&str, f64)]) -> Feedback {
    Feedback {
        target,
        received_ms: at_ms,
        at_ms: None,
        metrics: metrics.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
        action_taken: None,
        not_used: false,
        principal: None,
        metadata: None,
    }
}

fn by_request(id: &str) -> Target {
    Target::Request { model: "router".parse().unwrap(), request_id: id.to_owned() }
}

#[test]
fn metrics_that_arrive_apart_teach_once_each() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    let id = tape.decide(1000, None);
    tape.feedback(Target::Decision(id), 1100, &[("quality", 1.0)]);
    tape.feedback(Target::Decision(id), 1200, &[("cost", 0.1), ("quality", 0.0)]);
    tape.engine.take_changed();
    tape.feedback(Target::Decision(id), 1300, &[("cost", 0.9)]);
    assert!(!tape.engine.take_changed().is_empty(), "a duplicate moves the position too");
    let tally = tape.tally();
    assert_eq!((tally.learned, tally.duplicate), (2, 2));
    let (_, predicted) = tape.knows();
    assert!(predicted[0] > predicted[1] - 1e-12, "the first value counts: {predicted:?}");
}

#[test]
fn a_wrong_nonce_epoch_or_place_is_an_orphan() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    let id = tape.decide(1000, None);
    let elsewhere = Position { partition: 0, offset: 0 };
    let future = Position { partition: 0, offset: 1_000_000 };
    for bad in [
        DecisionId { nonce: id.nonce ^ 1, ..id },
        DecisionId { epoch: 2, ..id },
        DecisionId { position: elsewhere, ..id },
        DecisionId { position: future, ..id },
    ] {
        tape.feedback(Target::Decision(bad), 1100, &[("quality", 1.0)]);
    }
    assert_eq!((tape.engine.state().tally.orphan, tape.tally().learned), (4, 0));
    tape.push(Event::Trimmed { before: id.position.offset + 10 });
    tape.feedback(Target::Decision(id), 1100, &[("quality", 1.0)]);
    assert_eq!((tape.engine.state().tally.orphan, tape.tally().learned), (5, 0));
}

#[test]
fn late_feedback_is_counted_and_not_learned() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    let id = tape.decide(1000, None);
    tape.feedback(Target::Decision(id), 11_000, &[("cost", 0.2)]);
    tape.feedback(Target::Decision(id), 11_001, &[("quality", 1.0)]);
    assert_eq!((tape.tally().learned, tape.tally().late), (1, 1));
}

#[test]
fn at_the_deadline_the_stated_value_is_learned_and_the_rest_is_missing() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    tape.decide(1000, None);
    let second = tape.decide(2000, None);
    tape.feedback(Target::Decision(second), 2100, &[("quality", 1.0)]);
    assert_eq!(tape.engine.next_due_ms(), Some(11_000));
    tape.push(Event::Tick { now_ms: 11_000 });
    assert_eq!((tape.tally().missing, tape.knows().0), (2, 2), "quality as 0.25, cost skipped");
    assert_eq!(tape.engine.next_due_ms(), Some(12_000));
    tape.push(Event::Tick { now_ms: 12_500 });
    assert_eq!((tape.tally().missing, tape.knows().0), (3, 2));
    assert_eq!((tape.engine.next_due_ms(), tape.engine.state().join.open()), (None, 0));
    tape.feedback(Target::Decision(second), 2200, &[("cost", 0.2)]);
    assert_eq!(tape.tally().late, 1, "closed is closed");
}

#[test]
fn time_never_goes_back() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    tape.decide(1000, None);
    tape.push(Event::Tick { now_ms: 11_000 });
    tape.push(Event::Tick { now_ms: 10 });
    assert_eq!(tape.engine.state().now_ms, 11_000);
}

#[test]
fn early_feedback_waits_for_its_decision() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    tape.feedback(by_request("r1"), 900, &[("quality", 1.0)]);
    assert_eq!((tape.engine.state().tally.early, tape.tally().learned), (1, 0));
    tape.decide(1000, Some("r1"));
    assert_eq!(tape.tally().learned, 1);
    tape.feedback(by_request("r1"), 1100, &[("cost", 0.5)]);
    assert_eq!(tape.tally().learned, 2);
}

#[test]
fn held_feedback_is_bounded_and_expires() {
    let limits = JoinLimits { early_max: 2, ..JoinLimits::default() };
    let mut tape = Tape::new(SPEC, limits);
    for i in 0..5 {
        tape.feedback(by_request(&format!("r{i}")), 900, &[("quality", 1.0)]);
    }
    assert_eq!(tape.engine.state().tally.early_dropped, 3);
    tape.push(Event::Tick { now_ms: 100_000 });
    tape.decide(100_000, Some("r4"));
    assert_eq!(tape.tally().learned, 0, "expired before its decision came");
}

#[test]
fn another_action_taken_is_the_one_that_learns() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    let id = tape.decide(1000, None);
    let mut other = feedback(Target::Decision(id), 1100, &[("quality", 0.0)]);
    other.action_taken = Some("b".parse::<ActionName>().unwrap());
    tape.push(Event::Feedback(other));
    let (_, predicted) = tape.knows();
    assert!(predicted[1] < predicted[0], "{predicted:?}");
}

#[test]
fn a_decision_not_used_teaches_nothing() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    let id = tape.decide(1000, None);
    let mut unused = feedback(Target::Decision(id), 1100, &[]);
    unused.not_used = true;
    tape.push(Event::Feedback(unused));
    tape.feedback(Target::Decision(id), 1200, &[("quality", 1.0)]);
    tape.push(Event::Tick { now_ms: 60_000 });
    let tally = tape.tally();
    assert_eq!((tally.not_used, tally.learned, tally.missing, tape.knows().0), (1, 0, 0, 0));
}

#[test]
fn open_decisions_are_bounded() {
    let mut tape = Tape::new(SPEC, JoinLimits { open_max: 3, ..JoinLimits::default() });
    let first = tape.decide(1000, None);
    for i in 0..9 {
        tape.decide(1001 + i, None);
    }
    assert_eq!(tape.engine.state().join.open(), 3);
    assert_eq!(tape.engine.state().tally.closed_early, 7);
    tape.feedback(Target::Decision(first), 1100, &[("quality", 1.0)]);
    assert_eq!(tape.tally().late, 1);
}

#[test]
fn decisions_made_elsewhere_teach_at_once() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    let id = tape.decide(1000, None);
    let Some(Event::Decided(mut decided)) = tape.events.pop() else { panic!() };
    tape.ordinals.pop();
    decided.outcome = Outcome::Elsewhere;
    decided.metrics = vec![("quality".to_owned(), 1.0)];
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    tape.push(Event::Decided(decided));
    tape.feedback(Target::Decision(id), 1100, &[("quality", 0.0), ("cost", 0.5)]);
    assert_eq!((tape.tally().learned, tape.tally().duplicate), (2, 1));
}

#[test]
fn changes_apply_in_their_order_and_once() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    let change = tape.events[1].clone();
    tape.push(change);
    assert_eq!(tape.engine.state().tally.changes_dropped, 1);
    assert_eq!(tape.engine.state().registry, (1, 1));
    tape.enrol(SPEC, 3);
    assert_eq!(tape.engine.state().registry, (1, 1), "a gap is not applied");
}

#[test]
fn changed_weights_relearn_nothing_and_a_new_action_leaves_the_others() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    for i in 0..50 {
        let id = tape.decide(1000 + i, None);
        tape.feedback(Target::Decision(id), 1100 + i, &[("quality", 0.7), ("cost", 0.1)]);
    }
    let before = tape.knows();
    tape.enrol(&SPEC.replace("cost = -1.0", "cost = -9.0"), 2);
    assert_eq!(tape.knows(), before);
    tape.enrol(&SPEC.replace(r#"["a", "b"]"#, r#"["c", "b", "a"]"#), 3);
    let snapshot = tape.engine.snapshot(&"router".parse().unwrap()).unwrap();
    let context = Context::read(&snapshot.spec, &HashKey::default(), r#"{"x":1.5}"#).unwrap();
    let q = snapshot.spec.metric("quality").unwrap();
    let predicted = &snapshot.scores(&context, &[0, 1, 2]).predicted[q];
    assert!(
        (predicted[2] - before.1[0]).abs() < 1e-12 && (predicted[1] - before.1[1]).abs() < 1e-12
    );
    assert!(
        (predicted[0] - before.1[1]).abs() < 1e-12,
        "a new action starts where an unserved one stands"
    );
    // Feedback for a decision of an older version still teaches the action that it named.
    let id = tape.decide(2000, None);
    tape.feedback(Target::Decision(id), 2100, &[("quality", 0.0)]);
    let snapshot = tape.engine.snapshot(&"router".parse().unwrap()).unwrap();
    assert!(snapshot.scores(&context, &[2]).predicted[q][0] < predicted[2]);
}

#[test]
fn a_state_survives_its_bytes_and_decides_the_same() {
    let mut tape = Tape::new(SPEC, JoinLimits::default());
    for i in 0..20 {
        let id = tape.decide(1000 + i, Some(&format!("r{i}")));
        tape.feedback(Target::Decision(id), 1100 + i, &[("quality", f64::from(i as u8 % 2))]);
    }
    let state = State::from_bytes(&tape.engine.state().to_bytes()).unwrap();
    assert_eq!(state.sha256(), tape.engine.state_sha256());
    let mut again = Engine::from_state(state);
    let name = "router".parse().unwrap();
    let (a, b) = (tape.engine.snapshot(&name).unwrap(), again.snapshot(&name).unwrap());
    let context = Context::read(&a.spec, &HashKey::default(), r#"{"x":0.5}"#).unwrap();
    let request = Request { context: &context, actions: None, seed: 5 };
    let mut work = Workspace::default();
    assert_eq!(a.decide(&request, &mut work), b.decide(&request, &mut work));
}
