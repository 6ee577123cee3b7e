//! A policy driven by hand through log and fold, on a clock of one's own.

use std::sync::Arc;

use pawl_domain::{
    DecisionId, Event, ModelSpec, Position,
    event::{Caller, Change, Feedback, Target},
    spec::CheckedSpec,
};
use pawl_driver::Fold;
use pawl_engine::Engine;
use pawl_model::{
    HashKey, Request,
    context::Context,
    snapshot::{Made, Workspace},
};
use pawl_stats::rng::mix;
use pawl_store::{
    Log, MemoryDisk,
    log::{Batch, Config},
};

pub struct Driven {
    pub spec: CheckedSpec,
    pub fold: Fold,
    log: Arc<Log>,
    work: Workspace,
    made: u64,
}

/// What was decided: the probabilities by action, which was chosen, and the id for feedback.
pub struct Answer {
    pub probabilities: Vec<f64>,
    pub action: usize,
    pub id: DecisionId,
}

impl Driven {
    pub fn new(spec: &str) -> Self {
        let spec = ModelSpec::from_toml(spec).unwrap().check().unwrap();
        let disk = Arc::new(MemoryDisk::default());
        let config = Config { segment_bytes: 4 << 20, read_only: false };
        let log = Arc::new(Log::open(disk, config, 0, false).unwrap().0);
        log.append_event(&Event::Changed(Change::first(&spec, 1))).unwrap();
        let fold = Fold::new(log.clone(), Engine::new());
        Self { spec, fold, log, work: Workspace::default(), made: 0 }
    }

    pub fn decide(&mut self, context: &str, seed: u64, at_ms: u64) -> Answer {
        self.fold.catch_up().unwrap();
        let snapshot = self.fold.engine_mut().snapshot(self.spec.name()).unwrap();
        let context = Context::read(&self.spec, &HashKey::default(), context).unwrap();
        let nonce = mix(mix(seed) + self.made);
        self.made += 1;
        let request = Request { context: &context, actions: None, seed: nonce };
        let choice = snapshot.decide(&request, &mut self.work).unwrap();
        let mut probabilities = vec![0.0; self.spec.actions().len()];
        for (a, p) in choice.eligible.iter().zip(&choice.probabilities) {
            probabilities[usize::from(*a)] = *p;
        }
        let action = usize::from(choice.eligible[choice.chosen]);
        let made = Made { epoch: self.log.epoch(), nonce, at_ms, caller: Caller::default() };
        let mut batch = Batch::default();
        batch.push(&Event::Decided(snapshot.record(&context, choice, made)));
        let offset = self.log.append(&mut batch).unwrap().first;
        let position = Position { partition: 0, offset };
        let id = DecisionId { epoch: self.log.epoch(), position, nonce };
        Answer { probabilities, action, id }
    }

    pub fn feedback(&self, id: DecisionId, metrics: &[(&str, f64)], at_ms: u64) {
        let metrics = metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let feedback = Feedback {
            target: Target::Decision(id),
            received_ms: at_ms,
            at_ms: None,
            metrics,
            action_taken: None,
            not_used: false,
            principal: None,
            metadata: None,
        };
        self.log.append_event(&Event::Feedback(feedback)).unwrap();
    }
}
