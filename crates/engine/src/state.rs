//! What the fold keeps: the models, the join, the counters. Serialised as a whole by a checkpoint.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use pawl_domain::event::Decided;
use pawl_domain::{ActionName, Alert, CheckedSpec, LearnerId, Levers, ModelName, Sha256};
use pawl_judge::Floor;
use pawl_learn::Artifact;
use pawl_model::counts::Count;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    FOLD_VERSION,
    books::Books,
    budgets::{BudgetKey, Ledger},
    enrolled::Enrolled,
    join::Join,
    supply::Supply,
};

/// The oldest version of the fold whose state can still be read.
const OLDEST_READ: u32 = 3;

thread_local! {
    /// The version of the fold that wrote what is read.
    static WRITTEN_BY: core::cell::Cell<u32> = const { core::cell::Cell::new(FOLD_VERSION) };
}

/// A field that version `BY` of the fold added: what older ones wrote has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added<const BY: u32, T>(pub T);

impl<const BY: u32, T: Serialize> Serialize for Added<BY, T> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de, const BY: u32, T: Deserialize<'de> + Default> Deserialize<'de> for Added<BY, T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if WRITTEN_BY.get() < BY {
            return Ok(Self::default());
        }
        T::deserialize(from).map(Self)
    }
}

/// The whole state of the fold at one position.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The version of the fold that made it.
    pub fold_version: u32,
    /// The offset of the next record to apply.
    pub position: u64,
    /// Fold time: the latest tick.
    pub now_ms: u64,
    /// The latest log epoch.
    pub epoch: u32,
    /// Incarnation and seq of the latest registry change.
    pub registry: (u64, u64),
    /// Everything below is gone.
    pub trimmed: u64,
    /// What waits for feedback.
    pub join: Join,
    /// By name.
    pub models: BTreeMap<ModelName, Model>,
    /// What belongs to no model.
    pub tally: Tally,
    /// Where the changes stand whose rewind is not done yet.
    pub rewinds: Vec<u64>,
    /// What happened and is not told yet.
    pub alerts: Vec<Alert>,
    /// Rewinds that are done: where the change stands and where its state was put in place. Not below what is trimmed.
    pub rewound: Vec<(u64, u64)>,
}

/// One model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Model {
    production: LearnerId,
    learners: BTreeMap<LearnerId, Enrolled>,
    /// The actions of every version, in its order: records name them by index.
    pub(crate) actions: BTreeMap<Version, Vec<ActionName>>,
    /// The bit of each metric in the join.
    pub(crate) bits: BTreeMap<String, u8>,
    /// What was counted.
    pub tally: Tally,
    /// Whether feedback still comes.
    pub supply: Supply,
    /// What operators ordered.
    pub levers: Arc<Levers>,
    /// What is known of each floor, by metric.
    pub floors: BTreeMap<String, Kept>,
    /// What became of each action's decisions.
    pub by_action: BTreeMap<ActionName, ActionTally>,
    /// The last things that happened, the oldest first.
    pub alerts: VecDeque<Alert>,
    /// What was served and what came of it, over time.
    pub books: Added<4, Books>,
    /// Whether it answers no more.
    pub archived: Added<5, bool>,
    /// What was spent of each budget.
    pub budgets: Added<5, BTreeMap<BudgetKey, Ledger>>,
}

/// What is known of a floor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The part that is kept, …
    pub part: f64,
    /// … of this action's mean.
    pub incumbent: ActionName,
    /// The evidence.
    pub floor: Floor,
    /// Values that it had when it last opened or closed.
    pub changed_at: Added<4, u64>,
}

/// What became of the decisions for one action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActionTally {
    /// Decisions that chose it.
    pub decisions: u64,
    /// Of these, those that were not the policy's: held back, beyond the ramp, pinned, a fallback, or made elsewhere.
    pub not_by_policy: u64,
    /// Of these, those after which another action was taken.
    pub overridden: u64,
    /// Metric values that had not come at the deadline.
    pub missing: u64,
    /// What was measured where it was taken, by metric.
    pub metrics: BTreeMap<String, Count>,
}

/// Counters. The feedback ones count metric values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Decisions folded.
    pub decisions: u64,
    /// Values learned from.
    pub learned: u64,
    /// Values of a metric that had already come.
    pub duplicate: u64,
    /// Values that came after the deadline.
    pub late: u64,
    /// Feedback for no known decision.
    pub orphan: u64,
    /// Feedback that came before its decision and was held.
    pub early: u64,
    /// Held feedback given up: too much of it, or its decision never came.
    pub early_dropped: u64,
    /// Decisions that were not acted upon.
    pub not_used: u64,
    /// Values of metrics or actions that no version declares.
    pub undeclared: u64,
    /// Metrics that had not come at the deadline.
    pub missing: u64,
    /// Decisions closed before their deadline because too many were open.
    pub closed_early: u64,
    /// Registry changes that were not next in order.
    pub changes_dropped: u64,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            fold_version: FOLD_VERSION,
            position: 0,
            now_ms: 0,
            epoch: 0,
            registry: (0, 0),
            trimmed: 0,
            join: Join::new(),
            models: BTreeMap::new(),
            tally: Tally::default(),
            rewinds: Vec::new(),
            alerts: Vec::new(),
            rewound: Vec::new(),
        }
    }

    /// The bytes that a checkpoint stores.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain data of sized maps and sequences: postcard cannot fail on it.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// The version of the fold that made some [`State::to_bytes`].
    ///
    /// # Errors
    /// If the bytes are not a state.
    pub fn version_of(bytes: &[u8]) -> Result<u32, String> {
        postcard::take_from_bytes(bytes).map(|(version, _)| version).map_err(|e| e.to_string())
    }

    /// Reads [`State::to_bytes`].
    ///
    /// # Errors
    /// If the bytes are not a state of this version of the fold.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let version = Self::version_of(bytes)?;
        if version != FOLD_VERSION {
            return Err(format!("made by version {version} of the fold, this is {FOLD_VERSION}"));
        }
        postcard::from_bytes(bytes).map_err(|e| e.to_string())
    }

    /// Reads the state of an older fold, to go on from it where the log no longer holds what came before.
    ///
    /// # Errors
    /// If the bytes are not a state of an older version that can be read.
    pub fn from_older(bytes: &[u8]) -> Result<Self, String> {
        let version = Self::version_of(bytes)?;
        if !(OLDEST_READ..FOLD_VERSION).contains(&version) {
            return Err(format!("made by version {version} of the fold, this is {FOLD_VERSION}"));
        }
        WRITTEN_BY.set(version);
        let read = postcard::from_bytes::<Self>(bytes);
        WRITTEN_BY.set(FOLD_VERSION);
        let mut state = read.map_err(|e| e.to_string())?;
        state.fold_version = FOLD_VERSION;
        state.models.values_mut().flat_map(Model::learners_mut).for_each(Enrolled::renew);
        Ok(state)
    }

    /// The first record that is still asked for: nothing from there on may be trimmed or lose its context.
    #[must_use]
    pub fn needed_from(&self) -> u64 {
        let held = self.models.values().filter_map(|m| m.supply.needed_from()).min();
        let open = self.join.needed_from(self.position);
        held.map_or(open, |held| held.min(open))
    }

    /// Digest of [`State::to_bytes`].
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        Sha256::of(&self.to_bytes())
    }

    pub(crate) fn enrol(
        &mut self,
        name: &ModelName,
        version: &Version,
        learner: LearnerId,
        spec: &str,
        inherits: Option<LearnerId>,
    ) -> Result<(), String> {
        let spec = Arc::new(CheckedSpec::from_json(spec)?);
        let old = self.models.get_mut(name).and_then(|m| m.learners.get_mut(&inherits?));
        let enrolled = Enrolled::new(spec, version.clone(), learner, old);
        self.put(name, enrolled);
        Ok(())
    }

    pub(crate) fn restore(
        &mut self,
        name: &ModelName,
        version: &Version,
        learner: LearnerId,
        artifact: Artifact,
    ) {
        let old = self.models.get(name).and_then(Model::production);
        let enrolled = Enrolled::restored(artifact, version.clone(), learner, old);
        self.put(name, enrolled);
    }

    /// Puts a learner into production.
    fn put(&mut self, name: &ModelName, enrolled: Enrolled) {
        let (learner, version) = (enrolled.id(), enrolled.version().clone());
        let spec = enrolled.shared_spec();
        let model = self.models.entry(name.clone()).or_insert_with(|| Model {
            production: learner,
            learners: BTreeMap::new(),
            actions: BTreeMap::new(),
            bits: BTreeMap::new(),
            tally: Tally::default(),
            supply: Supply::default(),
            levers: Arc::default(),
            floors: BTreeMap::new(),
            by_action: BTreeMap::new(),
            alerts: VecDeque::new(),
            books: Added::default(),
            archived: Added::default(),
            budgets: Added::default(),
        });
        // An order about an action that is gone cannot be taken back by anybody.
        let gone = |name: &ActionName| spec.action(name.as_str()).is_none();
        if model.levers.disabled.keys().any(gone)
            || model.levers.pinned.as_ref().is_some_and(|(name, _)| gone(name))
        {
            let levers = Arc::make_mut(&mut model.levers);
            levers.disabled.retain(|name, _| !gone(name));
            levers.pinned.take_if(|(name, _)| gone(name));
        }
        let incumbent = |e: &Enrolled| Some(e.spec().actions()[e.spec().incumbent()?].name.clone());
        let before = model.learners.get(&model.production).map(incumbent);
        if before.is_some_and(|before| before != incumbent(&enrolled)) {
            model.books.0.forget_incumbent();
        }
        model.set_floors(&spec);
        model.set_budgets(&spec, self.position);
        model.learners = BTreeMap::from([(learner, enrolled)]);
        model.production = learner;
        let names = spec.actions().iter().map(|a| a.name.clone()).collect();
        model.actions.insert(version, names);
        for metric in spec.metrics() {
            let next = model.bits.len() as u8 + 1;
            model.bits.entry(metric.name.clone()).or_insert(next);
        }
        self.follow_deadlines();
    }

    /// A model and what it learned are gone.
    pub(crate) fn delete(&mut self, name: &ModelName) {
        self.models.remove(name);
        self.follow_deadlines();
    }

    fn follow_deadlines(&mut self) {
        let deadlines: Vec<(&ModelName, u64)> =
            self.models.iter().map(|(name, m)| (name, m.deadline_ms())).collect();
        self.join.set_deadlines(&deadlines, self.position);
    }
}

impl Model {
    /// The learner that answers.
    #[must_use]
    pub fn production(&self) -> Option<&Enrolled> {
        self.learners.get(&self.production)
    }

    pub(crate) fn production_mut(&mut self) -> Option<&mut Enrolled> {
        self.learners.get_mut(&self.production)
    }

    /// The counters of an action.
    pub(crate) fn tally_of(&mut self, action: &ActionName) -> &mut ActionTally {
        self.by_action.entry(action.clone()).or_default()
    }

    /// The name of the action that a decision chose.
    pub(crate) fn chosen(&self, decided: &Decided) -> Option<ActionName> {
        let names = self.actions.get(&decided.version)?;
        names.get(usize::from(decided.action()?)).cloned()
    }

    /// Every learner, by id.
    pub fn learners(&self) -> impl Iterator<Item = &Enrolled> {
        self.learners.values()
    }

    pub(crate) fn learners_mut(&mut self) -> impl Iterator<Item = &mut Enrolled> {
        self.learners.values_mut()
    }

    /// How long after its decision feedback still counts.
    #[must_use]
    pub fn deadline_ms(&self) -> u64 {
        self.production().map_or(0, |e| e.spec().deadline().ms())
    }
}
