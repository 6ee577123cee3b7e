//! A rewind: the learner becomes what it would be if it had never seen what is left out, live and after any restart.

use std::sync::Arc;

use pawl_domain::{
    DecisionId, Event, Examples, Label, ModelSpec, Position,
    event::{Caller, Change, ChangeKind, Feedback, JoinLimits, LearnerChange, Target},
    examples::{Head, Rows},
    spec::CheckedSpec,
};
use pawl_driver::{Fold, Recovered};
use pawl_model::{
    HashKey, Request,
    context::{Context, stored_features},
    snapshot::{Made, Workspace},
};
use pawl_stats::rng::Stream;
use pawl_store::{Disk, MemoryDisk, checkpoints, log::Config};

const POLICY: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["a", "b"]
[features]
x = { type = "number" }
[metrics]
quality = { bounds = [0, 1] }
[learner]
algorithm = "linucb"
"#;

const CLASSIFIER: &str = r#"
schema = 1
name = "churn"
kind = "classifier"
[label]
classes = ["0", "1"]
[features]
x = { type = "number" }
[learner]
algorithm = "sgd"
"#;

struct Tape {
    disk: Arc<dyn Disk>,
    fold: Fold,
    specs: [CheckedSpec; 2],
    stream: Stream,
    changes: u64,
}

fn recover(disk: &Arc<dyn Disk>) -> Fold {
    let config = Config { segment_bytes: 4096, read_only: false };
    let Recovered { mut fold, .. } =
        Fold::recover(disk, config, JoinLimits::default(), false, 0).unwrap();
    fold.catch_up().unwrap();
    fold
}

impl Tape {
    fn new() -> Self {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let spec = |text: &str| ModelSpec::from_toml(text).unwrap().check().unwrap();
        let specs = [spec(POLICY), spec(CLASSIFIER)];
        let mut tape =
            Self { fold: recover(&disk), disk, specs, stream: Stream::new(4), changes: 2 };
        for (i, spec) in tape.specs.iter().enumerate() {
            let change = Event::Changed(Change::first(spec, i as u64 + 1));
            tape.fold.log().append_event(&change).unwrap();
        }
        tape.fold.catch_up().unwrap();
        tape
    }

    /// A round of traffic: both logs see the same decisions and good feedback; only one sees what is poisoned.
    fn round(&mut self, poison: bool, poisoned: bool) {
        let x = self.stream.normal();
        let text = format!(r#"{{"x":{x}}}"#);
        let y = self.stream.below(2);
        if poisoned && !poison {
            return;
        }
        let metadata = poisoned.then(|| r#"{"source":"x"}"#.to_owned());
        let context = Context::read(&self.specs[1], &HashKey::default(), &text).unwrap();
        let mut rows = Rows::default();
        let label = Label::Number(if poisoned { 1.0 - y as f64 } else { y as f64 });
        let values: Vec<_> = context.stored(&self.specs[1]).collect();
        let head = Head { label, weight: 1.0, at_ms: None, id: None };
        rows.push(&head, values.iter().map(|v| &**v));
        self.push(&Event::Examples(Examples {
            model: self.specs[1].name().clone(),
            received_ms: 0,
            principal: None,
            metadata: metadata.clone(),
            features: stored_features(&self.specs[1]).map(str::to_owned).collect(),
            rows,
        }));
    }

    fn decide(&mut self) -> DecisionId {
        let text = format!(r#"{{"x":{}}}"#, self.stream.normal());
        let spec = self.specs[0].clone();
        let snapshot = self.fold.engine_mut().snapshot(spec.name()).unwrap();
        let context = Context::read(&spec, &HashKey::default(), &text).unwrap();
        let nonce = self.stream.bits();
        let request = Request { context: &context, actions: None, seed: nonce };
        let choice = snapshot.decide(&request, &mut Workspace::default()).unwrap();
        let made =
            Made { epoch: self.fold.log().epoch(), nonce, at_ms: 0, caller: Caller::default() };
        let mut decided = snapshot.record(&context, choice, made);
        // Both tapes must show the same decision, whatever was learned before.
        decided.chosen = 0;
        decided.eligible = vec![0, 1];
        decided.snapshot = 0;
        let offset = self.push(&Event::Decided(decided.clone()));
        decided.id(Position { partition: 0, offset })
    }

    fn feedback(&mut self, id: DecisionId, quality: f64, poisoned: bool) {
        self.push(&Event::Feedback(Feedback {
            target: Target::Decision(id),
            received_ms: 1,
            at_ms: None,
            metrics: vec![("quality".to_owned(), quality)],
            action_taken: None,
            not_used: false,
            principal: None,
            metadata: poisoned.then(|| r#"{"source":"x"}"#.to_owned()),
        }));
    }

    fn push(&mut self, event: &Event) -> u64 {
        let written = self.fold.log().append_event(event).unwrap();
        self.fold.catch_up().unwrap();
        written.first
    }

    fn change(&mut self, model: usize, change: LearnerChange) -> u64 {
        self.changes += 1;
        let kind = ChangeKind::Learner { model: self.specs[model].name().clone(), change };
        let seq = self.changes;
        self.push(&Event::Changed(Change { incarnation: 1, seq, at_ms: 0, principal: None, kind }))
    }

    fn checkpoint(&self) {
        self.fold.log().sync().unwrap();
        let state = self.fold.engine().state();
        checkpoints::write(self.disk.as_ref(), state.position, &state.to_bytes()).unwrap();
    }

    /// What the learner of a model has learned.
    fn learned(&self, model: usize) -> String {
        let state = self.fold.engine().state();
        state.models[self.specs[model].name()].production().unwrap().sha256().to_string()
    }
}

/// The same traffic with and without what is poisoned; `rewind` leaves that out afterwards.
fn tape(poison: bool, rewind: bool) -> Tape {
    let mut tape = Tape::new();
    let mut to = 0;
    let mut open = Vec::new();
    for k in 0..400 {
        if k == 100 {
            tape.checkpoint();
            to = tape.fold.position();
        }
        tape.round(poison, false);
        let id = tape.decide();
        let quality = tape.stream.uniform();
        let bad = (100..300).contains(&k) && k % 2 == 0;
        if bad {
            tape.round(poison, true);
            if poison {
                tape.feedback(id, 1.0 - quality, true);
            } else {
                open.push((id, quality));
            }
        } else {
            tape.feedback(id, quality, false);
        }
        if k == 350 {
            tape.checkpoint();
        }
    }
    if rewind {
        for model in [0, 1] {
            let without = "metadata.source = \"x\"".parse().unwrap();
            let asked = tape.change(model, LearnerChange::Rewind { to, without });
            assert_eq!(tape.fold.engine().state().rewinds, [asked]);
            // Traffic goes on until the other fold has caught up.
            let before = tape.learned(model);
            let id = tape.decide();
            tape.feedback(id, 0.5, false);
            tape.round(poison, false);
            assert!(model == 1 || tape.learned(0) != before);
            tape.push(&Event::Rewound { asked });
            assert!(tape.fold.engine().state().rewinds.is_empty());
        }
    } else {
        for _ in [0, 1] {
            let id = tape.decide();
            tape.feedback(id, 0.5, false);
            tape.round(poison, false);
        }
    }
    tape
}

#[test]
fn a_rewound_learner_is_one_that_never_saw_it() {
    let clean = tape(false, false);
    let poisoned = tape(true, false);
    let rewound = tape(true, true);
    for model in [0, 1] {
        assert_ne!(poisoned.learned(model), clean.learned(model));
        assert_eq!(rewound.learned(model), clean.learned(model), "model {model}");
    }
    // A start from the checkpoint within, and a replay from the beginning, come to the same.
    let digest = rewound.fold.engine().state_sha256();
    let position = rewound.fold.position();
    let (mut replayed, from) = Fold::replay(&rewound.disk).unwrap();
    assert_eq!(from, 0);
    while replayed.position() < position {
        assert!(replayed.step().unwrap());
    }
    assert_eq!(replayed.engine().state_sha256(), digest);
    let learned = [rewound.learned(0), rewound.learned(1)];
    let disk = rewound.disk.clone();
    drop(rewound);
    let fold = recover(&disk);
    for (name, digest) in ["router", "churn"].iter().zip(learned) {
        let model = &fold.engine().state().models[*name];
        assert_eq!(model.production().unwrap().sha256().to_string(), digest);
    }
}

#[test]
fn a_learner_freezes_resumes_and_forgets() {
    let mut tape = Tape::new();
    let fresh = tape.learned(1);
    (0..100).for_each(|_| tape.round(true, false));
    tape.change(1, LearnerChange::Freeze);
    let frozen = tape.learned(1);
    let examples =
        |t: &Tape| t.fold.engine().state().models["churn"].production().unwrap().examples();
    assert_eq!(examples(&tape), 100);
    (0..100).for_each(|_| tape.round(true, false));
    assert_eq!((tape.learned(1), examples(&tape)), (frozen, 100));
    tape.change(1, LearnerChange::Resume);
    (0..100).for_each(|_| tape.round(true, false));
    assert_eq!(examples(&tape), 200);
    tape.change(1, LearnerChange::Reset);
    assert_eq!(tape.learned(1), fresh);
}
