//! The join: which decision a piece of feedback belongs to, and what of it has already come.
//!
//! A decision's place is in its id, so the join keeps no index of decisions: 16 bits a decision say which metrics
//! have come. A cursor a distinct deadline follows the head at that distance and closes what it passes. Only
//! feedback by the caller's own ids needs a memory of them, which is bounded.

mod bits;

use std::collections::{BTreeMap, VecDeque};

use bits::{Bits, CLOSED};
use pawl_domain::{
    ActionName, DecisionId, Examples, ModelName, Position, Value,
    event::{Decided, Feedback, JoinLimits, Target},
    spec::Kind,
};
use serde::{Deserialize, Serialize};

use crate::{
    At, Engine, Halt, History, Recorded,
    enrolled::{Enrolled, Lesson, Now},
    state::Model,
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

/// What waits for feedback.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    pub(crate) limits: JoinLimits,
    bits: Bits,
    cursors: BTreeMap<u64, Cursor>,
    /// Decisions by [`request_key`].
    requests: BTreeMap<u64, DecisionId>,
    request_order: VecDeque<u64>,
    early: BTreeMap<u64, Vec<Feedback>>,
    early_order: VecDeque<u64>,
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
        }
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

    /// One cursor a distinct deadline; a new one starts where the slowest stands.
    pub(crate) fn set_deadlines(&mut self, deadlines: &[u64], head: u64) {
        let slowest = self.cursors.values().min_by_key(|c| c.ordinal).cloned();
        let start =
            slowest.unwrap_or(Cursor { offset: head, ordinal: self.bits.end(), due_ms: None });
        let before = self.cursors.len();
        self.cursors.retain(|d, _| deadlines.contains(d));
        if self.cursors.len() < before {
            // Decisions that the removed one had still to close are met again by the others: what is closed stays so.
            self.cursors.clear();
        }
        for &deadline in deadlines {
            let mut cursor = start.clone();
            // Due at once if anything stands there: it then reads what really is due.
            cursor.due_ms = (cursor.ordinal < self.bits.end()).then_some(0);
            self.cursors.entry(deadline).or_insert(cursor);
        }
        self.release();
    }

    /// The callers' ids that are remembered: [`request_key`] and decision.
    pub fn requests(&self) -> impl Iterator<Item = (u64, DecisionId)> + '_ {
        self.requests.iter().map(|(key, id)| (*key, *id))
    }

    fn release(&mut self) {
        let passed = self.cursors.values().map(|c| c.ordinal).min();
        self.bits.release(passed.unwrap_or(self.bits.end()));
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
        for (deadline, cursor) in &mut join.cursors {
            if cursor.due_ms.is_none() {
                *cursor = Cursor { offset, ordinal, due_ms: Some(decided.at_ms + deadline) };
            }
        }
        if let Some(model) = self.state.models.get_mut(&decided.model) {
            model.tally.decisions += 1;
            model.learners_mut().for_each(|e| e.decided(decided.at_ms));
            // Forgetting and ε count decisions: the next ones must see how many there were.
            if model.production().is_some_and(Enrolled::counts_decisions) {
                self.dirty.insert(decided.model.clone());
            }
        }
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
            self.take(&recorded, metrics, None, decided.at_ms);
            held.iter().for_each(|feedback| self.joined(feedback, &recorded));
        }
        while self.state.join.bits.len() > self.state.join.limits.open_max {
            self.state.tally.closed_early += 1;
            if !self.close_oldest(next, history)? {
                break;
            }
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
                self.joined(feedback, &recorded)
            }
            _ => self.state.tally.orphan += 1,
        }
        Ok(())
    }

    /// Feedback and its decision are both there.
    fn joined(&mut self, feedback: &Feedback, recorded: &Recorded) {
        if let Target::Request { model, request_id } = &feedback.target
            && (recorded.decided.model != *model
                || recorded.decided.caller.request_id.as_ref() != Some(request_id))
        {
            self.state.tally.orphan += 1;
            return;
        }
        if feedback.not_used {
            if let Some(model) = self.state.models.get_mut(&recorded.decided.model) {
                model.tally.not_used += 1;
            }
            self.state.join.bits.set(recorded.at.ordinal, CLOSED);
            return;
        }
        let taken = feedback.action_taken.as_ref();
        self.take(recorded, &feedback.metrics, taken, feedback.received_ms);
    }

    /// Learns values for a decision: each metric once, and none after the deadline.
    fn take(
        &mut self,
        recorded: &Recorded,
        metrics: &[(String, f64)],
        taken: Option<&ActionName>,
        at_ms: u64,
    ) {
        let decided = &recorded.decided;
        let now = self.now();
        let (bits, models) = (&mut self.state.join.bits, &mut self.state.models);
        let Some(model) = models.get_mut(&decided.model) else {
            self.state.tally.orphan += 1;
            return;
        };
        let state = bits.get(recorded.at.ordinal);
        if state.is_none_or(|b| b & CLOSED != 0) || at_ms > decided.at_ms + model.deadline_ms() {
            model.tally.late += metrics.len() as u64;
            return;
        }
        let chosen =
            decided.action().and_then(|a| model.actions.get(&decided.version)?.get(usize::from(a)));
        let Some(action) = taken.or(chosen).cloned() else {
            model.tally.undeclared += metrics.len() as u64;
            return;
        };
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
        #[cfg(feature = "failpoints")]
        let fail_at = self.fail_at.as_ref().filter(|(m, _)| *m == decided.model).map(|f| f.1);
        #[cfg(not(feature = "failpoints"))]
        let fail_at = None;
        teach(model, decided, &action, &news, now, fail_at);
        self.dirty.insert(decided.model.clone());
    }

    /// Closes every decision whose deadline has passed.
    pub(crate) fn close_due(&mut self, head: u64, history: &mut dyn History) -> Result<(), Halt> {
        let now_ms = self.state.now_ms;
        let deadlines: Vec<u64> = self.state.join.cursors.keys().copied().collect();
        for deadline in deadlines {
            while self
                .state
                .join
                .cursors
                .get(&deadline)
                .is_some_and(|c| c.due_ms.is_some_and(|d| d <= now_ms))
            {
                self.step(deadline, head, history, |at_ms| at_ms + deadline <= now_ms)?;
            }
        }
        self.state.join.release();
        Ok(())
    }

    /// Closes the oldest open decision whatever its deadline. False if there is none.
    fn close_oldest(&mut self, head: u64, history: &mut dyn History) -> Result<bool, Halt> {
        let slowest = self.state.join.cursors.iter().min_by_key(|(_, c)| c.ordinal);
        let Some((&deadline, _)) = slowest else { return Ok(false) };
        self.step(deadline, head, history, |_| true)?;
        self.state.join.release();
        Ok(true)
    }

    /// Looks at the next decision of one cursor, closes it if `due` says so and it has this deadline, and moves on.
    fn step(
        &mut self,
        deadline: u64,
        head: u64,
        history: &mut dyn History,
        due: impl Fn(u64) -> bool,
    ) -> Result<(), Halt> {
        let from = self.state.join.cursors.get(&deadline).map_or(head, |c| c.offset);
        let found = history.next_decision(from.max(self.state.trimmed), head)?;
        let end = self.state.join.bits.end();
        let close = found.as_ref().is_some_and(|r| due(r.decided.at_ms));
        let Some(cursor) = self.state.join.cursors.get_mut(&deadline) else { return Ok(()) };
        match &found {
            None => *cursor = Cursor { offset: head, ordinal: end, due_ms: None },
            Some(r) if !close => {
                let due_ms = Some(r.decided.at_ms + deadline);
                *cursor = Cursor { offset: r.at.offset, ordinal: r.at.ordinal, due_ms };
            }
            // Due at once: the next look tells when it really is.
            Some(r) => {
                let more = r.at.ordinal + 1 < end;
                *cursor = Cursor {
                    offset: r.at.next,
                    ordinal: r.at.ordinal + 1,
                    due_ms: more.then_some(0),
                };
            }
        }
        match found {
            Some(recorded) if close => self.close(&recorded, deadline),
            _ => {}
        }
        Ok(())
    }

    /// The deadline of a decision has passed: what never came counts as missing.
    fn close(&mut self, recorded: &Recorded, deadline: u64) {
        let decided = &recorded.decided;
        let now = self.now();
        let Some(model) = self.state.models.get_mut(&decided.model) else { return };
        let bits = &mut self.state.join.bits;
        let state = bits.get(recorded.at.ordinal).unwrap_or(CLOSED);
        if state & CLOSED != 0 || model.deadline_ms() != deadline {
            return;
        }
        bits.set(recorded.at.ordinal, CLOSED);
        let stopped = model.supply.count(state != 0, now.ms);
        let Some(spec) = model.production().map(|e| e.spec().clone()) else { return };
        let absent = |name: &str| model.bits.get(name).is_some_and(|b| state & (1 << b) == 0);
        let missing: Vec<_> = spec.metrics().iter().filter(|m| absent(&m.name)).collect();
        let assumed: Vec<(&str, f64)> =
            missing.iter().filter_map(|m| Some((m.name.as_str(), m.missing?))).collect();
        let chosen =
            decided.action().and_then(|a| model.actions.get(&decided.version)?.get(usize::from(a)));
        let chosen = chosen.cloned();
        model.tally.missing += missing.len() as u64;
        // Where feedback has stopped altogether, that none came is no news of the decision.
        if let (Some(action), false) = (chosen, assumed.is_empty() || stopped) {
            teach(model, decided, &action, &assumed, now, None);
            self.dirty.insert(decided.model.clone());
        }
    }
}

/// Gives values to every learner of the model, each in terms of its own spec.
fn teach(
    model: &mut Model,
    decided: &Decided,
    action: &ActionName,
    values: &[(&str, f64)],
    now: Now,
    fail_at: Option<u64>,
) {
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
}
