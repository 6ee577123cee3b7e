//! A workload over a log and its fold that remembers, outside of both, what was promised.

use std::sync::Arc;

use pawl_domain::{
    CheckedSpec, DecisionId, Event, Examples, Label, ModelSpec, Position, Sha256,
    event::{Caller, Change, Decided, Feedback, JoinLimits, Target},
    examples::{Head, Rows},
};
use pawl_driver::{Fold, RecoverError, Recovered};
use pawl_model::{
    HashKey, Request,
    context::{Context, stored_features},
    snapshot::{Choice, Made, Workspace},
};
use pawl_stats::rng::Stream;
use pawl_store::{Disk, LogError, checkpoints, log::Config};

/// Policies of three families, one that forgets, one with text, one without context; then classifiers of two and of
/// three classes.
const SPECS: [&str; 5] = [
    r#"
schema = 1
name = "forgetting"
kind = "policy"
actions = ["a", "b", "c"]
[features]
x = { type = "number" }
kind = { type = "category", vocabulary = ["u", "v"] }
[metrics]
quality = { bounds = [0, 1] }
cost = { goal = "min", explore = false, features = ["kind"] }
[objective]
weights = { quality = 1.0, cost = -0.5 }
[feedback]
deadline = "20s"
missing = { quality = 0.0 }
[session]
sticky = "10s"
[[budget]]
metric = "cost"
per = "hour"
by = "kind"
max = 5.0
on_exceed = "cheapest_eligible"
[learner]
algorithm = "linear_thompson"
half_life = 50
half_life_force = true
batch = { size = 4, after = "50ms" }
"#,
    r#"
schema = 1
name = "text"
kind = "policy"
actions = ["a", "b"]
[features]
x = { type = "number", scale = "log" }
prompt = { type = "text", bits = 8, log = "encoded" }
[metrics]
quality = { bounds = [0, 1] }
cost = { goal = "min", explore = false }
[objective]
incumbent = "a"
minimize = "cost"
keep = { quality = 0.5 }
[feedback]
deadline = "60s"
[learner]
algorithm = "linucb"
covariance = "block"
"#,
    r#"
schema = 1
name = "counting"
kind = "policy"
actions = ["a", "b"]
[metrics]
quality = { bounds = [0, 1] }
[learner]
algorithm = "thompson"
"#,
    r#"
schema = 1
name = "two"
kind = "classifier"
[label]
classes = ["0", "1"]
[features]
x = { type = "number" }
kind = { type = "category", bits = 4 }
[feedback]
deadline = "20s"
[learner]
algorithm = "sgd"
batch = { size = 4, after = "50ms" }
"#,
    r#"
schema = 1
name = "three"
kind = "classifier"
[label]
classes = ["0", "1", "2"]
[features]
prompt = { type = "text", bits = 8, log = "encoded" }
x = { type = "number" }
[learner]
algorithm = "sgd"
average = true
batch = { size = 3, after = "50ms" }
"#,
];

/// How many of them are policies.
const POLICIES: usize = 3;

/// Small segments, so that every run has several.
const CONFIG: Config = Config { segment_bytes: 4096, read_only: false };

/// A workload and its memory of what was promised.
pub struct World<D: Disk> {
    /// The disk.
    pub disk: Arc<D>,
    /// The fold.
    pub fold: Fold,
    stream: Stream,
    now_ms: u64,
    specs: Vec<Arc<CheckedSpec>>,
    decisions: Vec<DecisionId>,
    /// Acknowledged records: offset and event. They must be there after any crash.
    pub acknowledged: Vec<(u64, Event)>,
    /// Digests that the running process reported: position, whole state.
    pub reported: Vec<(u64, Sha256)>,
    checkpoint: u64,
}

fn recover(disk: &Arc<dyn Disk>, now_ms: u64) -> Result<Recovered, RecoverError> {
    Fold::recover(disk, CONFIG, JoinLimits { open_max: 40, ..JoinLimits::default() }, false, now_ms)
}

impl<D: Disk> World<D> {
    /// A world on an empty or surviving disk, driven by `seed`. Folds to the head.
    ///
    /// # Errors
    /// If the disk cannot be opened.
    pub fn open(disk: Arc<D>, seed: u64) -> Result<Self, RecoverError> {
        let dynamic: Arc<dyn Disk> = disk.clone();
        let Recovered { fold, checkpoint, .. } = recover(&dynamic, 0)?;
        let specs = SPECS
            .iter()
            .filter_map(|text| Some(Arc::new(ModelSpec::from_toml(text).ok()?.check().ok()?)));
        let mut world = Self {
            disk,
            fold,
            stream: Stream::new(seed),
            now_ms: 1_000_000,
            specs: specs.collect(),
            decisions: Vec::new(),
            acknowledged: Vec::new(),
            reported: Vec::new(),
            checkpoint,
        };
        world.fold.catch_up()?;
        world.now_ms = world.now_ms.max(world.fold.engine().state().now_ms);
        if world.fold.engine().state().models.is_empty() {
            world.enrol()?;
        }
        Ok(world)
    }

    /// The position of the checkpoint that opening used.
    #[must_use]
    pub const fn opened_at(&self) -> u64 {
        self.checkpoint
    }

    /// Goes on remembering what an earlier world was promised.
    pub fn inherit(&mut self, earlier: Self) {
        self.acknowledged = earlier.acknowledged;
        self.decisions = earlier.decisions;
        self.now_ms = self.now_ms.max(earlier.now_ms);
    }

    fn enrol(&mut self) -> Result<(), RecoverError> {
        for (i, spec) in self.specs.iter().enumerate() {
            let change = Change::first(spec, i as u64 + 1);
            self.fold.log().append_event(&Event::Changed(change))?;
        }
        self.fold.log().sync()?;
        self.fold.catch_up()?;
        Ok(())
    }

    /// One step of traffic: a decision, feedback of any kind, time, a report or a checkpoint.
    ///
    /// # Errors
    /// If the log refuses or the fold stops.
    pub fn step(&mut self) -> Result<(), RecoverError> {
        self.now_ms += self.stream.below(200);
        match self.stream.below(20) {
            0..=6 => self.decide()?,
            7 => self.predict()?,
            8..=13 => self.feedback()?,
            14 | 15 => self.examples()?,
            16 | 17 => {
                self.fold.tick(self.now_ms)?;
                self.fold.tell()?;
            }
            18 => {
                self.fold.catch_up()?;
                self.reported.push((self.fold.position(), self.fold.engine().state_sha256()));
            }
            _ => self.write_checkpoint()?,
        }
        if self.stream.below(3) == 0 {
            self.fold.catch_up()?;
        }
        Ok(())
    }

    fn decide(&mut self) -> Result<(), RecoverError> {
        let spec = self.specs[self.stream.below(POLICIES as u64) as usize].clone();
        let Some(snapshot) = self.fold.engine_mut().snapshot(spec.name()) else { return Ok(()) };
        let text = self.context();
        let Ok(context) = Context::read(&spec, &HashKey::default(), &text) else { return Ok(()) };
        let nonce = self.stream.bits();
        let request = Request { context: &context, actions: None, seed: nonce };
        let Ok(choice) = snapshot.decide(&request, &mut Workspace::default()) else {
            return Ok(());
        };
        let request_id = (self.stream.below(4) == 0).then(|| format!("r{}", self.stream.below(30)));
        let session_id = nonce.is_multiple_of(3).then(|| format!("s{}", nonce / 3 % 10));
        let caller = Caller { request_id, session_id, ..Caller::default() };
        let made = Made { epoch: self.fold.log().epoch(), nonce, at_ms: self.now_ms, caller };
        self.record(snapshot.record(&context, choice, made))
    }

    fn context(&mut self) -> String {
        let kind = ["u", "v", "w"][self.stream.below(3) as usize];
        format!(
            r#"{{"x":{},"kind":"{kind}","prompt":"word{} and word{}","undeclared":[1]}}"#,
            self.stream.normal(),
            self.stream.below(50),
            self.stream.below(50)
        )
    }

    fn record(&mut self, decided: Decided) -> Result<(), RecoverError> {
        let id = |offset| decided.id(Position { partition: 0, offset });
        let written = self.fold.log().append_event(&Event::Decided(decided.clone()))?;
        self.decisions.push(id(written.first));
        Ok(())
    }

    fn classifier(&mut self) -> Arc<CheckedSpec> {
        let classifiers = (self.specs.len() - POLICIES) as u64;
        self.specs[POLICIES + self.stream.below(classifiers) as usize].clone()
    }

    fn predict(&mut self) -> Result<(), RecoverError> {
        let spec = self.classifier();
        let Some(snapshot) = self.fold.engine_mut().snapshot(spec.name()) else { return Ok(()) };
        let text = self.context();
        let Ok(context) = Context::read(&spec, &HashKey::default(), &text) else { return Ok(()) };
        let prediction = snapshot.predict(&context, &mut Workspace::default());
        let choice = Choice { eligible: vec![0], probabilities: vec![1.0], ..Choice::default() };
        let (epoch, caller) = (self.fold.log().epoch(), Caller::default());
        let made = Made { epoch, nonce: self.stream.bits(), at_ms: self.now_ms, caller };
        let metrics = prediction.named(&spec);
        self.record(Decided { metrics, ..snapshot.record(&context, choice, made) })
    }

    /// Labelled examples: fewer and more than a batch, some with a label that is no class, some twice.
    fn examples(&mut self) -> Result<(), RecoverError> {
        let spec = self.classifier();
        let mut rows = Rows::default();
        for _ in 0..1 + self.stream.below(9) {
            let text = self.context();
            let Ok(context) = Context::read(&spec, &HashKey::default(), &text) else { continue };
            let values: Vec<_> = context.stored(&spec).collect();
            let id = (self.stream.below(5) == 0).then(|| format!("e{}", self.stream.below(20)));
            let head = Head {
                label: Label::Number(self.stream.below(4) as f64),
                weight: [1.0, 1.0, 0.5, 3.0][self.stream.below(4) as usize],
                at_ms: None,
                id: id.as_deref(),
            };
            rows.push(&head, values.iter().map(|v| &**v));
        }
        let event = Event::Examples(Examples {
            model: spec.name().clone(),
            received_ms: self.now_ms,
            principal: None,
            metadata: None,
            features: stored_features(&spec).map(str::to_owned).collect(),
            rows,
        });
        let written = self.fold.log().append_event(&event)?;
        if self.stream.below(2) == 0 {
            self.fold.log().sync()?;
            self.acknowledged.push((written.first, event));
        }
        Ok(())
    }

    fn feedback(&mut self) -> Result<(), RecoverError> {
        let known = self.decisions.len() as u64;
        let target = match self.stream.below(10) {
            0 => Target::Request {
                model: self.specs[self.stream.below(3) as usize].name().clone(),
                request_id: format!("r{}", self.stream.below(30)),
            },
            1 => Target::Decision(DecisionId {
                epoch: 1,
                position: Position { partition: 0, offset: 8 * self.stream.below(2000) },
                nonce: self.stream.bits(),
            }),
            // Mostly a recent decision, sometimes an old one, sometimes one that had its feedback.
            _ if known > 0 => {
                let back = if self.stream.below(5) == 0 { known } else { known.min(20) };
                Target::Decision(self.decisions[(known - 1 - self.stream.below(back)) as usize])
            }
            _ => return Ok(()),
        };
        let mut metrics = Vec::new();
        if self.stream.below(4) > 0 {
            metrics.push(("quality".to_owned(), f64::from(self.stream.below(2) as u8)));
        }
        if self.stream.below(2) == 0 {
            metrics.push(("cost".to_owned(), self.stream.uniform()));
        }
        if self.stream.below(4) == 0 {
            metrics.push((format!("label={}", self.stream.below(3)), 1.0));
        }
        let taken = (self.stream.below(8) == 0).then(|| "b".parse().ok()).flatten();
        let event = Event::Feedback(Feedback {
            target,
            received_ms: self.now_ms,
            at_ms: None,
            metrics,
            action_taken: taken,
            not_used: self.stream.below(20) == 0,
            principal: None,
            metadata: None,
        });
        let written = self.fold.log().append_event(&event)?;
        if self.stream.below(2) == 0 {
            self.fold.log().sync()?;
            self.acknowledged.push((written.first, event));
        }
        Ok(())
    }

    fn write_checkpoint(&mut self) -> Result<(), RecoverError> {
        self.fold.catch_up()?;
        self.fold.log().sync()?;
        let state = self.fold.engine().state();
        checkpoints::write(self.disk.as_ref(), state.position, &state.to_bytes())?;
        Ok(())
    }

    /// Opens `disk` anew and checks every promise: acknowledged records are there, and at every position that was
    /// reported and still exists, the state has the digest that was reported.
    ///
    /// # Errors
    /// If a promise was broken; in words.
    pub fn check_survivor(&self, disk: Arc<D>) -> Result<(), String> {
        let disk: Arc<dyn Disk> = disk;
        let Recovered { mut fold, checkpoint, head, .. } =
            recover(&disk, self.now_ms).map_err(|e| format!("no recovery: {e}"))?;
        for (offset, event) in &self.acknowledged {
            match fold.log().read(*offset) {
                Ok(entry) if entry.event == *event => {}
                Ok(_) => {
                    return Err(format!("another record stands at acknowledged offset {offset}"));
                }
                Err(e @ LogError::Absent(_)) => return Err(format!("acknowledged and lost: {e}")),
                Err(e) => return Err(e.to_string()),
            }
        }
        // Beyond the head that was found, another history begins.
        let kept = checkpoint..=head;
        for (position, digest) in self.reported.iter().filter(|(p, _)| kept.contains(p)) {
            while fold.position() < *position {
                match fold.step() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => return Err(format!("the fold stopped: {e}")),
                }
            }
            if fold.position() == *position && fold.engine().state_sha256() != *digest {
                return Err(format!("the state at {position} is another than was reported"));
            }
        }
        fold.catch_up().map_err(|e| format!("the fold stopped: {e}"))?;
        Ok(())
    }
}
