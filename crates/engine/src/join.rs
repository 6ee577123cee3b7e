//! The join: which decision a piece of feedback belongs to, and what of it has already come.
//!
//! A decision's place is in its id, so the join keeps no index of decisions: 16 bits a decision say which metrics
//! have come. A cursor a distinct deadline follows the head at that distance and closes what it passes. Only
//! feedback by the caller's own ids needs a memory of them, which is bounded.

mod bits;
mod closing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bits::{Bits, CLOSED};
use pawl_domain::{
    ActionName, DecisionId, Examples, Happening, ModelName, Position, Value,
    event::{Decided, Feedback, JoinLimits, Outcome, Target},
    spec::Kind,
};
use serde::{Deserialize, Serialize};

use crate::{
    At, Engine, Halt, History, Recorded,
    enrolled::{Enrolled, Lesson},
    sessions::Sessions,
    state::{Added, Model},
    supply::Held,
};

/// Reads on in the log at the distance of one deadline.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cursor {
    /// The next record to look at.
    offset: u64,
    /// Decisions passed.
    ordinal: u64,
    /// When the decision there is due; `None` where there was none yet.
    due_ms: Option<u64>,
}

/// A deadline, and the model whose own cursor it is: one whose deadlines wait.
type Lane = (u64, Option<ModelName>);

/// What waits for feedback.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    pub(crate) limits: JoinLimits,
    bits: Bits,
    cursors: BTreeMap<Lane, Cursor>,
    /// Decisions by [`request_key`].
    requests: BTreeMap<u64, DecisionId>,
    request_order: VecDeque<u64>,
    early: BTreeMap<u64, Vec<Feedback>>,
    early_order: VecDeque<u64>,
    /// Open decisions whose feedback a rewind leaves out: that none came says nothing.
    excused: BTreeSet<u64>,
    sessions: Added<5, Sessions>,
}

/// The key under which a caller's id is remembered: FNV-1a (Fowler, Noll, Vo) over the model, a separator and the
/// id. A collision is told by the record itself.
#[must_use]
pub fn request_key(model: &ModelName, request_id: &str) -> u64 {
    let bytes = model.as_str().bytes().chain([0]).chain(request_id.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

impl Join {
    pub(crate) fn new() -> Self {
        Self {
            limits: JoinLimits::default(),
            bits: Bits::default(),
            cursors: BTreeMap::new(),
            requests: BTreeMap::new(),
            request_order: VecDeque::new(),
            early: BTreeMap::new(),
            early_order: VecDeque::new(),
            excused: BTreeSet::new(),
            sessions: Added::default(),
        }
    }

    /// Decisions that the log has held so far.
    #[must_use]
    pub const fn decisions(&self) -> u64 {
        self.bits.end()
    }

    /// Decisions that wait for feedback.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.bits.len()
    }

    /// The first record that a cursor has not passed: nothing from there on may be trimmed. `head` if none is open.
    #[must_use]
    pub fn needed_from(&self, head: u64) -> u64 {
        let waiting = self.cursors.values().filter(|c| c.due_ms.is_some());
        waiting.map(|c| c.offset).min().unwrap_or(head)
    }

    pub(crate) fn due_ms(&self) -> impl Iterator<Item = u64> + '_ {
        self.cursors.values().filter_map(|c| c.due_ms)
    }

    /// One cursor a distinct deadline, and one a model whose deadlines wait; a new one starts where the slowest stands.
    pub(crate) fn set_deadlines(&mut self, deadlines: &[(&ModelName, u64)], head: u64) {
        let waits = |name: &ModelName| self.cursors.keys().any(|(_, m)| m.as_ref() == Some(name));
        let own = deadlines.iter().filter(|(name, _)| waits(name));
        let own = own.map(|(name, d)| (*d, Some((*name).clone())));
        let lanes: Vec<Lane> = deadlines.iter().map(|(_, d)| (*d, None)).chain(own).collect();
        let slowest = self.cursors.values().min_by_key(|c| c.ordinal).cloned();
        let start =
            slowest.unwrap_or(Cursor { offset: head, ordinal: self.bits.end(), due_ms: None });
        let before = self.cursors.len();
        self.cursors.retain(|lane, _| lanes.contains(lane));
        if self.cursors.len() < before {
            // Decisions that the removed one had still to close are met again by the others: what is closed stays so.
            self.cursors.clear();
        }
        for lane in lanes {
            let mut cursor = start.clone();
            // Due at once if anything stands there: it then reads what really is due.
            cursor.due_ms = (cursor.ordinal < self.bits.end()).then_some(0);
            self.cursors.entry(lane).or_insert(cursor);
        }
        self.release();
    }

    /// The deadlines of a model wait: it has a cursor of its own from here on.
    fn wait(&mut self, deadline: u64, model: &ModelName) {
        if let Some(cursor) = self.cursors.get(&(deadline, None)) {
            let cursor = Cursor { due_ms: Some(0), ..cursor.clone() };
            // One that is still on its way through an earlier outage goes on where it is.
            self.cursors.entry((deadline, Some(model.clone()))).or_insert(cursor);
        }
    }

    /// The cursor of a model looks again when its next decision is due.
    fn wait_no_longer(&mut self, model: &ModelName) {
        for ((_, own), cursor) in &mut self.cursors {
            if own.as_ref() == Some(model) {
                cursor.due_ms = Some(0);
            }
        }
    }

    /// Whether a model has a cursor of its own.
    fn waits(&self, deadline: u64, model: &ModelName) -> bool {
        // Hardly ever any model does.
        self.cursors.keys().any(|(d, m)| *d == deadline && m.as_ref() == Some(model))
    }

    /// Removes a cursor that has caught up with the one of all models.
    fn merge(&mut self, lane: &Lane) {
        let all = self.cursors.get(&(lane.0, None)).map(|c| c.ordinal);
        if self.cursors.get(lane).map(|c| c.ordinal) >= all {
            self.cursors.remove(lane);
        }
    }

    /// The callers' ids that are remembered: [`request_key`] and decision.
    pub fn requests(&self) -> impl Iterator<Item = (u64, DecisionId)> + '_ {
        self.requests.iter().map(|(key, id)| (*key, *id))
    }

    /// The sessions that are remembered.
    #[must_use]
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions.0
    }

    fn release(&mut self) {
        let passed = self.cursors.values().map(|c| c.ordinal).min();
        let passed = passed.unwrap_or(self.bits.end());
        self.bits.release(passed);
        if !self.excused.is_empty() {
            self.excused = self.excused.split_off(&passed);
        }
    }

    fn remember(&mut self, model: &ModelName, request_id: &str, id: DecisionId) {
        let key = request_key(model, request_id);
        if self.requests.insert(key, id).is_none() {
            self.request_order.push_back(key);
        }
        while self.request_order.len() as u64 > self.limits.requests_max {
            if let Some(oldest) = self.request_order.pop_front() {
                self.requests.remove(&oldest);
            }
        }
    }

    /// Which rows of a batch are new: those without an id, and those whose id is not remembered. Empty where none has
    /// an id.
    pub(crate) fn fresh(&mut self, offset: u64, epoch: u32, examples: &Examples) -> Vec<bool> {
        let mut fresh = Vec::new();
        if !examples.rows.have_ids() {
            return fresh;
        }
        let mut values = vec![Value::Missing; examples.features.len()];
        let mut reader = examples.rows.reader();
        let mut row = 0;
        while let Some(head) = reader.next_row(&mut values) {
            if let Some(id) = head.id {
                fresh.resize(examples.rows.len(), true);
                // Apart from the ids of requests, which may be the same words.
                let id = format!("\u{1}{id}");
                fresh[row] = !self.requests.contains_key(&request_key(&examples.model, &id));
                let position = Position { partition: 0, offset };
                self.remember(&examples.model, &id, DecisionId { epoch, position, nonce: 0 });
            }
            row += 1;
        }
        fresh
    }

    /// Holds feedback whose decision has not come. Returns how many pieces were given up for it.
    fn hold(&mut self, key: u64, feedback: &Feedback) -> u64 {
        self.early.entry(key).or_default().push(feedback.clone());
        self.early_order.push_back(key);
        let mut dropped = 0;
        while self.early_order.len() as u64 > self.limits.early_max {
            let Some(oldest) = self.early_order.pop_front() else { break };
            if let Some(held) = self.early.remove(&oldest) {
                dropped += held.len() as u64;
            }
        }
        dropped
    }

    /// Gives up held feedback older than its model's deadline.
    pub(crate) fn expire_early(
        &mut self,
        deadline: impl Fn(&ModelName) -> Option<u64>,
        now_ms: u64,
    ) {
        let expired = |f: &Feedback| {
            let Target::Request { model, .. } = &f.target else { return true };
            f.received_ms + deadline(model).unwrap_or(0) < now_ms
        };
        while let Some(oldest) = self.early_order.front() {
            match self.early.get(oldest) {
                Some(held) if !held.iter().all(expired) => break,
                _ => {
                    self.early.remove(oldest);
                    self.early_order.pop_front();
                }
            }
        }
    }
}

impl Engine {
    pub(crate) fn decided(
        &mut self,
        at: At,
        decided: &Decided,
        history: &mut dyn History,
    ) -> Result<(), Halt> {
        let At { offset, next, ordinal } = at;
        let join = &mut self.state.join;
        join.bits.push(ordinal);
        if join.cursors.is_empty() {
            join.release();
        }
        for ((deadline, _), cursor) in &mut join.cursors {
            if cursor.due_ms.is_none() {
                *cursor = Cursor { offset, ordinal, due_ms: Some(decided.at_ms + deadline) };
            }
        }
        if let Some(model) = self.state.models.get_mut(&decided.model) {
            model.tally.decisions += 1;
            model.supply.decided();
            if let Some(action) = model.chosen(decided) {
                let tally = model.tally_of(&action);
                tally.decisions += 1;
                let elsewhere = decided.outcome == Outcome::Elsewhere;
                tally.not_by_policy += u64::from(elsewhere || decided.reason.is_some());
                model.book(decided, &action);
            }
            model.learners_mut().for_each(|e| e.decided(decided.at_ms));
            // Forgetting and ε count decisions: the next ones must see how many there were.
            if model.production().is_some_and(Enrolled::counts_decisions) {
                self.dirty.insert(decided.model.clone());
            }
        }
        self.spend_decided(offset, decided);
        self.note_session(offset, decided);
        let join = &mut self.state.join;
        let mut held = Vec::new();
        if let Some(id) = &decided.caller.request_id {
            let position = Position { partition: 0, offset };
            join.remember(&decided.model, id, decided.id(position));
            held = join.early.remove(&request_key(&decided.model, id)).unwrap_or_default();
        }
        let chooses = |m: &Model| m.production().is_some_and(|e| e.spec().kind() == Kind::Policy);
        let chosen = self.state.models.get(&decided.model).is_some_and(chooses);
        // What a prediction served is no metric.
        let metrics = if chosen { &decided.metrics[..] } else { &[] };
        if !metrics.is_empty() || !held.is_empty() {
            let recorded = Recorded { at, decided: decided.clone().into() };
            self.take(&recorded, metrics, None, decided.at_ms, history)?;
            for feedback in &held {
                self.joined(feedback, &recorded, history)?;
            }
        }
        while self.state.join.bits.len() > self.state.join.limits.open_max {
            if !self.close_oldest(next, history)? {
                break;
            }
        }
        Ok(())
    }

    /// A decision belongs to its session.
    fn note_session(&mut self, offset: u64, decided: &Decided) {
        let Some(session_id) = &decided.caller.session_id else { return };
        let spec =
            self.state.models.get(&decided.model).and_then(Model::production).map(Enrolled::spec);
        if spec.is_none_or(|s| s.session().is_none()) {
            return;
        }
        let key = request_key(&decided.model, session_id);
        let id = decided.id(Position { partition: 0, offset });
        let join = &mut self.state.join;
        let most = join.limits.requests_max;
        join.sessions.0.note(key, id, decided.at_ms, decided.is_drawn(), most);
    }

    /// Closes decisions whose contexts are taken out.
    pub(crate) fn erased(
        &mut self,
        decisions: &[u64],
        history: &mut dyn History,
    ) -> Result<(), Halt> {
        for offset in decisions.iter().filter(|o| **o >= self.state.trimmed) {
            if let Some(recorded) = history.decision(*offset)? {
                self.state.join.bits.set(recorded.at.ordinal, CLOSED);
            }
        }
        Ok(())
    }

    /// Notes that a rewind leaves out feedback of a decision.
    pub(crate) fn excuse(
        &mut self,
        feedback: &Feedback,
        history: &mut dyn History,
    ) -> Result<(), Halt> {
        let id = match &feedback.target {
            Target::Decision(id) => Some(*id),
            Target::Request { model, request_id } => {
                self.state.join.requests.get(&request_key(model, request_id)).copied()
            }
        };
        let Some(offset) = id.map(|id| id.position.offset) else { return Ok(()) };
        let known = offset >= self.state.trimmed && offset < self.state.position;
        if let Some(recorded) = if known { history.decision(offset)? } else { None } {
            self.state.join.excused.insert(recorded.at.ordinal);
        }
        Ok(())
    }

    pub(crate) fn feedback(
        &mut self,
        feedback: &Feedback,
        history: &mut dyn History,
    ) -> Result<(), Halt> {
        let id = match &feedback.target {
            Target::Decision(id) => *id,
            Target::Request { model, request_id } => {
                let key = request_key(model, request_id);
                match self.state.join.requests.get(&key) {
                    Some(&id) => id,
                    None => {
                        self.state.tally.early += 1;
                        self.state.tally.early_dropped += self.state.join.hold(key, feedback);
                        return Ok(());
                    }
                }
            }
        };
        let offset = id.position.offset;
        let known = offset >= self.state.trimmed && offset < self.state.position;
        let recorded = if known { history.decision(offset)? } else { None };
        match recorded {
            Some(recorded) if recorded.decided.id(id.position) == id => {
                self.joined(feedback, &recorded, history)?;
            }
            _ => self.state.tally.orphan += 1,
        }
        Ok(())
    }

    /// Feedback and its decision are both there.
    fn joined(
        &mut self,
        feedback: &Feedback,
        recorded: &Recorded,
        history: &mut dyn History,
    ) -> Result<(), Halt> {
        if let Target::Request { model, request_id } = &feedback.target
            && (recorded.decided.model != *model
                || recorded.decided.caller.request_id.as_ref() != Some(request_id))
        {
            self.state.tally.orphan += 1;
            return Ok(());
        }
        if feedback.not_used {
            let state = self.state.join.bits.get(recorded.at.ordinal);
            let untouched = state == Some(0);
            if let Some(model) = self.state.models.get_mut(&recorded.decided.model) {
                model.tally.not_used += 1;
                if untouched {
                    model.book_not_used(&recorded.decided);
                }
            }
            self.state.join.bits.set(recorded.at.ordinal, CLOSED);
            if let Some(came) = state.filter(|s| s & CLOSED == 0) {
                self.spend_nothing(recorded, came);
            }
            return Ok(());
        }
        let taken = feedback.action_taken.as_ref();
        self.take(recorded, &feedback.metrics, taken, feedback.received_ms, history)
    }

    /// Learns values for a decision: each metric once, and none after the deadline.
    fn take(
        &mut self,
        recorded: &Recorded,
        metrics: &[(String, f64)],
        taken: Option<&ActionName>,
        at_ms: u64,
        history: &mut dyn History,
    ) -> Result<(), Halt> {
        let decided = &recorded.decided;
        let now_ms = self.state.now_ms;
        // Also what teaches nothing is taken up: the position that answers carry must pass it.
        self.dirty.insert(decided.model.clone());
        let (bits, models) = (&mut self.state.join.bits, &mut self.state.models);
        let Some(model) = models.get_mut(&decided.model) else {
            self.state.tally.orphan += 1;
            return Ok(());
        };
        let state = bits.get(recorded.at.ordinal);
        let due_ms = model.supply.due_ms(decided.at_ms, model.deadline_ms());
        // What was taken out teaches nothing, also where a later fold meets it before it hears of that.
        if state.is_none_or(|b| b & CLOSED != 0) || at_ms > due_ms || decided.is_erased() {
            model.tally.late += metrics.len() as u64;
            return Ok(());
        }
        let chosen = model.chosen(decided);
        let Some(action) = taken.or(chosen.as_ref()).cloned() else {
            model.tally.undeclared += metrics.len() as u64;
            return Ok(());
        };
        if let Some(chosen) = chosen.filter(|c| *c != action && state == Some(0)) {
            model.tally_of(&chosen).overridden += 1;
        }
        let mut news = Vec::new();
        for (name, value) in metrics {
            // A class is part of the name of its label.
            let metric = name.split_once('=').map_or(name.as_str(), |(metric, _)| metric);
            let bit = model.bits.get(name).or_else(|| model.bits.get(metric));
            let Some(bit) = bit.map(|b| 1_u16 << b) else {
                model.tally.undeclared += 1;
                continue;
            };
            if bits.get(recorded.at.ordinal).unwrap_or(0) & bit != 0 {
                model.tally.duplicate += 1;
                continue;
            }
            bits.set(recorded.at.ordinal, bit);
            news.push((name.as_str(), *value));
        }
        let of_action = model.tally_of(&action);
        for (name, value) in &news {
            match of_action.metrics.get_mut(*name) {
                Some(count) => count.add(*value, 1.0),
                None => of_action.metrics.entry((*name).to_owned()).or_default().add(*value, 1.0),
            }
        }
        if news.is_empty() {
            return Ok(());
        }
        model.book_values(decided, &action, &news);
        self.spend_values(recorded, &news);
        let Some(model) = self.state.models.get_mut(&decided.model) else { return Ok(()) };
        if state == Some(0) && model.supply.arrived() {
            // Log time stands still where nothing is due.
            let held = model.supply.back(now_ms.max(at_ms));
            let back = Happening::FeedbackBack { held: held.len() as u64 };
            self.alert(&decided.model, None, back);
            self.learn_held(&decided.model, held, history)?;
        } else if model.supply.has_stopped() {
            let values = news.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            let oldest = model.supply.hold(Held { offset: recorded.at.offset, action, values });
            return match oldest {
                Some(oldest) => self.learn_late(&decided.model, &oldest, history),
                None => Ok(()),
            };
        }
        self.judge_floors(decided, &action, &news);
        self.teach(decided, &action, &news);
        Ok(())
    }

    /// Deadlines wait no longer: learns what was held.
    fn learn_held(
        &mut self,
        name: &ModelName,
        held: VecDeque<Held>,
        history: &mut dyn History,
    ) -> Result<(), Halt> {
        self.state.join.wait_no_longer(name);
        held.iter().try_for_each(|held| self.learn_late(name, held, history))
    }

    fn learn_late(
        &mut self,
        name: &ModelName,
        held: &Held,
        history: &mut dyn History,
    ) -> Result<(), Halt> {
        let known = held.offset >= self.state.trimmed;
        let recorded = if known { history.decision(held.offset)? } else { None };
        match recorded.filter(|r| !r.decided.is_erased()) {
            Some(recorded) => {
                let values: Vec<_> = held.values.iter().map(|(n, v)| (n.as_str(), *v)).collect();
                self.judge_floors(&recorded.decided, &held.action, &values);
                self.teach(&recorded.decided, &held.action, &values);
            }
            None => {
                if let Some(model) = self.state.models.get_mut(name) {
                    model.tally.late += held.values.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// Gives values to every learner of the decision's model, each in terms of its own spec.
    fn teach(&mut self, decided: &Decided, action: &ActionName, values: &[(&str, f64)]) {
        let now = self.now();
        #[cfg(feature = "failpoints")]
        let fail_at = self.fail_at.as_ref().filter(|(m, _)| *m == decided.model).map(|f| f.1);
        #[cfg(not(feature = "failpoints"))]
        let fail_at = None;
        let Some(model) = self.state.models.get_mut(&decided.model) else { return };
        let (mut learned, mut declared) = (0, 0);
        for enrolled in model.learners_mut() {
            let spec = enrolled.spec();
            let Some(action) = spec.action(action.as_str()) else { continue };
            let lesson = |&(name, value): &(&str, f64)| {
                let (metric, value) = spec.lesson(name, value)?;
                Some(Lesson { metric, action: action as u16, value })
            };
            let lessons: Vec<Lesson> = values.iter().filter_map(lesson).collect();
            declared = declared.max(lessons.len());
            learned = learned.max(enrolled.learn(decided, &lessons, now, fail_at));
        }
        model.tally.learned += learned;
        model.tally.undeclared += (values.len() - declared) as u64;
        self.touched(&decided.model);
    }
}
