//! Sessions in memory: the action that was drawn is repeated, and feedback on a session finds its decisions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pawl_domain::{
    DecisionId, Event, ModelName, Position,
    event::{Decided, Outcome},
    spec::Credit,
};
use pawl_engine::{Sessions, request_key};
use pawl_model::Snapshot;

use crate::{
    app::App,
    decisions::spec_of,
    error::{ApiError, ApiResult, Code},
};

const SHARDS: u64 = 16;
/// Why a repeated action was answered.
const REASON: &str = "session";

/// The sessions of every model. The fold keeps the same, for the next start.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Vec<Mutex<Sessions>>,
    /// Decisions that a shard remembers.
    most: u64,
}

impl Table {
    /// Remembers `most` decisions, and what the fold had at the start.
    pub(crate) fn new(most: u64, before: &Sessions) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let table = Self { shards, most: most.div_ceil(SHARDS) };
        for (key, session) in before.iter() {
            table.shard(key).restore(key, session.clone());
        }
        table
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Sessions> {
        self.shards[(key % SHARDS) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a decision of a session.
    pub(crate) fn note(&self, id: DecisionId, decided: &Decided) {
        if let Some(session) = &decided.caller.session_id {
            let key = request_key(&decided.model, session);
            self.shard(key).note(key, id, decided.at_ms, decided.is_drawn(), self.most);
        }
    }

    /// The decision whose action is repeated, while the session lasts.
    fn drawn(&self, key: u64, now_ms: u64, sticky_ms: u64) -> Option<DecisionId> {
        let shard = self.shard(key);
        let session = shard.get(key)?;
        session.drawn.filter(|_| now_ms <= session.last_ms.saturating_add(sticky_ms))
    }

    /// The decisions that feedback on a session is for.
    pub(crate) fn credited(
        &self,
        model: &ModelName,
        session: &str,
        credit: Credit,
    ) -> ApiResult<Vec<DecisionId>> {
        let key = request_key(model, session);
        let shard = self.shard(key);
        let decisions = shard.get(key).map_or(&[][..], |s| &s.decisions);
        match (decisions, credit) {
            ([], _) => {
                let detail = "`session_id`: no decision of this session is remembered; send `decision_id` instead";
                Err(ApiError::new(Code::DecisionNotFound, detail))
            }
            (all, Credit::All) => Ok(all.to_vec()),
            ([.., last], Credit::Last) => Ok(vec![*last]),
        }
    }
}

/// Repeats the action that was drawn in the session of a decision, where it is eligible, with its probability. What was drawn
/// anew counts only where none of that holds.
pub(crate) async fn repeat(app: &App, snapshot: &Snapshot, decided: &mut Decided) {
    let sticky = snapshot.spec.session().and_then(|s| s.sticky);
    let (Some(sticky), Some(session)) = (sticky, &decided.caller.session_id) else { return };
    // What an operator or a budget orders goes before, and a policy that may decide nothing keeps no session either.
    if !decided.is_drawn() || !snapshot.policy_decides() {
        return;
    }
    let key = request_key(&decided.model, session);
    let Some(id) = app.sessions().drawn(key, decided.at_ms, sticky.ms()) else { return };
    let Some(first) = read(app, id, decided) else { return };
    let spec = if first.version == decided.version {
        snapshot.spec.clone()
    } else {
        // Without the names of another version's actions there is nothing to repeat.
        let Ok(spec) = spec_of(app, &first).await else { return };
        Arc::new(spec)
    };
    let place = |action: u16| {
        let name = &spec.actions().get(usize::from(action))?.name;
        let action = snapshot.spec.action(name.as_str())? as u16;
        decided.eligible.iter().position(|a| *a == action)
    };
    let Some(at) = first.action().and_then(place) else { return };
    let mut probabilities = vec![0.0; decided.eligible.len()];
    for (action, p) in first.eligible.iter().zip(&first.probabilities) {
        if let Some(i) = place(*action) {
            probabilities[i] += p;
        }
    }
    // Given that what was drawn is still eligible: had it been another, it would have been drawn anew, with its own probabilities.
    let left: f64 = probabilities.iter().sum();
    if left <= 0.0 {
        return;
    }
    if left < 1.0 {
        probabilities.iter_mut().for_each(|p| *p /= left);
    }
    decided.probabilities = probabilities;
    decided.chosen = at as u16;
    (decided.outcome, decided.reason) = (Outcome::Sticky, Some(REASON.to_owned()));
}

/// A decision of the same session; `None` where it is gone, or a key stood for two.
fn read(app: &App, id: DecisionId, decided: &Decided) -> Option<Decided> {
    let Position { offset, .. } = id.position;
    let Event::Decided(first) = app.log().read(offset).ok()?.event else { return None };
    let same = first.model == decided.model
        && first.caller.session_id == decided.caller.session_id
        && first.id(id.position) == id;
    same.then_some(first)
}
