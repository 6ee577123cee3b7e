//! The fold: everything that is learned is a function of the log, event by event.
//!
//! It holds the only mutable state, reads no clock and does no I/O: what it needs of older records it asks of
//! [`History`]. The same events give the same state, bit for bit.

mod books;
mod budgets;
mod enrolled;
mod floors;
mod join;
mod sessions;
mod state;
mod supply;

use std::{collections::BTreeSet, sync::Arc};

use pawl_domain::{
    Alert, Examples, Happening, LearnerId, ModelName, Sha256,
    event::{Change, ChangeKind, Decided, LearnerChange},
};
use pawl_learn::{Artifact, ArtifactError};
use pawl_model::Snapshot;

pub use pawl_domain::Event;

pub use books::{Books, Entry, Page};
pub use budgets::{BudgetKey, Ledger, Spent};
pub use enrolled::{Enrolled, Status};
pub use join::request_key;
pub use sessions::{SESSION_DECISIONS, Session, Sessions};
pub use state::{ActionTally, Added, Kept, Model, State, Tally};
pub use supply::Supply;

/// The version of the fold. A change of what any event does to the state raises it.
pub const FOLD_VERSION: u32 = 6;

/// Alerts of a model that are remembered after they were told.
const ALERTS_KEPT: usize = 32;

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Its offset.
    pub offset: u64,
    /// The offset of the next record.
    pub next: u64,
    /// How many decisions stand before it in the partition.
    pub ordinal: u64,
}

/// A decision as the log holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Where it stands.
    pub at: At,
    /// The decision.
    pub decided: Arc<Decided>,
}

/// Older records, for the join. The answers are part of the log: asked again, they are the same.
pub trait History {
    /// The decision whose record starts at `offset`; `None` if none does.
    ///
    /// # Errors
    /// If the log cannot be read there.
    fn decision(&mut self, offset: u64) -> Result<Option<Recorded>, Unreadable>;

    /// The first decision at or after `from` and before `below`; `None` if there is none.
    ///
    /// # Errors
    /// If the log cannot be read there.
    fn next_decision(&mut self, from: u64, below: u64) -> Result<Option<Recorded>, Unreadable>;

    /// The bytes of an artifact that a record names.
    ///
    /// # Errors
    /// If they are not there, or not what they were.
    fn artifact(&mut self, digest: Sha256) -> Result<Vec<u8>, MissingArtifact>;
}

/// An artifact that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the artifact `{digest}` cannot be read: {why}")]
pub struct MissingArtifact {
    /// Which.
    pub digest: Sha256,
    /// The reason.
    pub why: String,
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be read at offset `{offset}`: {why}")]
pub struct Unreadable {
    /// Where.
    pub offset: u64,
    /// The reason.
    pub why: String,
}

/// Why the fold stopped. The state is as before the event; serving goes on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Halt {
    /// A newer binary has folded this log.
    #[error(
        "the log was folded by version {0} of the fold, this binary has {FOLD_VERSION}: run the newer one"
    )]
    NewerFold(u32),
    /// An older record could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// An artifact could not be read.
    #[error(transparent)]
    Artifact(#[from] MissingArtifact),
    /// A spec in the log is not valid to this binary.
    #[error("the spec of `{model}` in the log is not valid here: {why}")]
    Spec {
        /// Whose.
        model: ModelName,
        /// The reason.
        why: String,
    },
}

/// The fold.
#[derive(Clone, Debug)]
pub struct Engine {
    state: State,
    dirty: BTreeSet<ModelName>,
    /// The record that is applied, and how many alerts it has raised.
    applying: (u64, u32),
    /// When it came: log time stands still between ticks.
    came_ms: u64,
    #[cfg(feature = "failpoints")]
    fail_at: Option<(ModelName, u64)>,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// A fold that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::from_state(State::new())
    }

    /// Goes on from a checkpoint.
    #[must_use]
    pub fn from_state(state: State) -> Self {
        let dirty = state.models.keys().cloned().collect();
        Self {
            state,
            dirty,
            applying: (0, 0),
            came_ms: 0,
            #[cfg(feature = "failpoints")]
            fail_at: None,
        }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Makes the learner of `model` panic when it takes its `example`-th example.
    #[cfg(feature = "failpoints")]
    pub fn fail_at(&mut self, model: ModelName, example: u64) {
        self.fail_at = Some((model, example));
    }

    /// Applies one record of the log.
    ///
    /// # Errors
    /// If the fold must stop: see [`Halt`].
    pub fn apply(&mut self, at: At, event: &Event, history: &mut dyn History) -> Result<(), Halt> {
        self.applying = (at.offset, 0);
        self.came_ms = event.came_ms().unwrap_or(0);
        match event {
            Event::Opened { epoch, limits, .. } => {
                self.state.epoch = (*epoch).max(self.state.epoch);
                self.state.join.limits = *limits;
            }
            Event::FoldVersion(version) if *version > FOLD_VERSION => {
                return Err(Halt::NewerFold(*version));
            }
            Event::FoldVersion(_) | Event::LossAccepted { .. } => {}
            Event::Tick { now_ms } => self.tick(*now_ms, at.offset, history)?,
            Event::Decided(decided) => self.decided(at, decided, history)?,
            Event::Feedback(feedback) => self.feedback(feedback, history)?,
            Event::Examples(examples) => self.examples(at, examples),
            Event::Changed(change) => self.changed(at, change, history)?,
            // The driver has put the state of the other fold in place.
            Event::Rewound { asked } => {
                self.state.rewinds.retain(|r| r != asked);
                self.state.rewound.push((*asked, at.offset));
            }
            Event::RewindAbandoned { asked } => self.state.rewinds.retain(|r| r != asked),
            Event::Alerted(alert) => self.state.alerts.retain(|a| a != alert),
            Event::Erased { decisions } => self.erased(decisions, history)?,
            Event::Trimmed { before } => {
                self.state.trimmed = (*before).max(self.state.trimmed);
                self.state.rewound.retain(|(_, at)| at >= before);
            }
        }
        self.state.position = at.next;
        Ok(())
    }

    /// Passes over a record as if it were not there: a rewind leaves it out.
    ///
    /// # Errors
    /// If an older record cannot be read.
    pub fn skip(&mut self, at: At, event: &Event, history: &mut dyn History) -> Result<(), Halt> {
        if let Event::Feedback(feedback) = event {
            self.excuse(feedback, history)?;
        }
        self.state.position = at.next;
        Ok(())
    }

    /// The earliest time at which a [`Event::Tick`] would do something; `None` if there is nothing to wait for.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        let batches = self.state.models.values().filter_map(|m| m.production()?.batch_due_ms());
        let levers = self.state.models.values().filter_map(|m| m.levers.due_ms());
        let budgets = self.state.models.values().filter_map(Model::budgets_due_ms);
        batches.chain(levers).chain(budgets).chain(self.state.join.due_ms()).min()
    }

    /// The view of a model at the present position; `None` if the model is unknown.
    #[must_use]
    pub fn snapshot(&mut self, model: &ModelName) -> Option<Snapshot> {
        let position = self.state.position;
        let model = self.state.models.get_mut(model)?;
        let levers = model.levers.clone();
        let mut snapshot = model.production_mut()?.snapshot(position);
        snapshot.levers = levers;
        snapshot.archived = model.archived.0;
        model.hold_floors(&mut snapshot);
        model.hold_budgets(&mut snapshot);
        Some(snapshot)
    }

    /// The models whose view changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<ModelName> {
        core::mem::take(&mut self.dirty)
    }

    /// Digest of the whole state. The same log gives the same digest at the same position.
    #[must_use]
    pub fn state_sha256(&self) -> Sha256 {
        self.state.sha256()
    }

    const fn now(&self) -> enrolled::Now {
        enrolled::Now { position: self.state.position, ms: self.state.now_ms }
    }

    fn tick(&mut self, now_ms: u64, at: u64, history: &mut dyn History) -> Result<(), Halt> {
        self.state.now_ms = now_ms.max(self.state.now_ms);
        let now_ms = self.state.now_ms;
        let mut flushed = Vec::new();
        for (name, model) in &mut self.state.models {
            if model.levers.due_ms().is_some_and(|due| due <= now_ms) {
                Arc::make_mut(&mut model.levers).expire(now_ms);
                model.learners_mut().for_each(Enrolled::flush);
                flushed.push(name.clone());
            }
            if model.begin_periods(now_ms) {
                flushed.push(name.clone());
            }
            if let Some(enrolled) = model.production_mut()
                && enrolled.batch_due_ms().is_some_and(|due| due <= now_ms)
            {
                enrolled.flush();
                flushed.push(name.clone());
            }
        }
        flushed.iter().for_each(|name| self.touched(name));
        self.close_due(at, history)?;
        let (models, join) = (&self.state.models, &mut self.state.join);
        join.expire_early(|model| models.get(model).map(Model::deadline_ms), now_ms);
        Ok(())
    }

    /// Labelled examples: each teaches every learner of its model that can read it.
    fn examples(&mut self, at: At, examples: &Examples) {
        let Some(model) = self.state.models.get_mut(&examples.model) else {
            self.state.tally.orphan += examples.rows.len() as u64;
            return;
        };
        let fresh = self.state.join.fresh(at.offset, self.state.epoch, examples);
        model.tally.duplicate += fresh.iter().filter(|f| !**f).count() as u64;
        let now = self.now();
        let Some(model) = self.state.models.get_mut(&examples.model) else { return };
        let (mut learned, mut unread) = (0, u64::MAX);
        for enrolled in model.learners_mut() {
            let taken = enrolled.learn_examples(examples, &fresh, now);
            learned = learned.max(taken.learned);
            unread = unread.min(taken.unread);
        }
        model.tally.learned += learned;
        model.tally.undeclared += if unread == u64::MAX { 0 } else { unread };
        self.touched(&examples.model);
    }

    /// A model's learners have learned: its view has changed, and something may have happened.
    fn touched(&mut self, name: &ModelName) {
        if !self.dirty.contains(name) {
            self.dirty.insert(name.clone());
        }
        let Some(model) = self.state.models.get_mut(name) else { return };
        let news: Vec<_> = model.learners_mut().map(|e| (e.id(), e.news())).collect();
        for (learner, news) in news {
            news.into_iter().for_each(|what| self.alert(name, Some(learner), what));
        }
    }

    /// Raises an alert.
    fn alert(&mut self, name: &ModelName, learner: Option<LearnerId>, what: Happening) {
        let raised = self.applying;
        self.applying.1 += 1;
        let at_ms = self.state.now_ms.max(self.came_ms);
        let alert = Alert { raised, at_ms, model: name.clone(), learner, what };
        if let Some(model) = self.state.models.get_mut(name) {
            model.alerts.push_back(alert.clone());
            if model.alerts.len() > ALERTS_KEPT {
                model.alerts.pop_front();
            }
        }
        self.state.alerts.push(alert);
    }

    fn changed(&mut self, at: At, change: &Change, history: &mut dyn History) -> Result<(), Halt> {
        let (incarnation, seq) = self.state.registry;
        let expected = if change.incarnation == incarnation { seq + 1 } else { 1 };
        if change.seq != expected || change.incarnation < incarnation {
            self.state.tally.changes_dropped += 1;
            return Ok(());
        }
        if let ChangeKind::Enrolled { model, version, learner, spec, inherits, .. } = &change.kind {
            let invalid = |why| Halt::Spec { model: model.clone(), why };
            self.state.enrol(model, version, *learner, spec, *inherits).map_err(invalid)?;
            self.dirty.insert(model.clone());
        }
        if let ChangeKind::Restored { model, version, learner, artifact } = &change.kind {
            let bytes = history.artifact(*artifact)?;
            let why = |e: ArtifactError| MissingArtifact { digest: *artifact, why: e.to_string() };
            let artifact = Artifact::read(&bytes).map_err(why)?;
            self.state.restore(model, version, *learner, artifact);
            self.dirty.insert(model.clone());
        }
        if let ChangeKind::Learner { model, change } = &change.kind
            && let Some(known) = self.state.models.get_mut(model)
        {
            known.learners_mut().for_each(|e| e.change(change));
            if matches!(change, LearnerChange::Rewind { .. }) {
                self.state.rewinds.push(at.offset);
            }
            self.dirty.insert(model.clone());
        }
        if let ChangeKind::Lever { model, change } = &change.kind
            && let Some(known) = self.state.models.get_mut(model)
        {
            Arc::make_mut(&mut known.levers).pull(change);
            // What waits for its batch would keep the view of before.
            known.learners_mut().for_each(Enrolled::flush);
            self.touched(model);
        }
        if let ChangeKind::Archived { model, archived } = &change.kind
            && let Some(known) = self.state.models.get_mut(model)
        {
            known.archived.0 = *archived;
            known.learners_mut().for_each(Enrolled::flush);
            self.touched(model);
        }
        if let ChangeKind::Deleted { model } = &change.kind {
            self.state.delete(model);
            self.dirty.insert(model.clone());
        }
        self.state.registry = (change.incarnation, change.seq);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
