//! Sessions: which decisions belong together, as far as they are remembered.

use std::collections::{BTreeMap, BTreeSet};

use pawl_domain::DecisionId;
use serde::{Deserialize, Serialize};

/// Decisions of one session that are remembered: the last ones.
pub const SESSION_DECISIONS: usize = 64;

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The last decision whose action was drawn, not repeated.
    pub drawn: Option<DecisionId>,
    /// When the last decision was made.
    pub last_ms: u64,
    /// The last decisions, the oldest first.
    pub decisions: Vec<DecisionId>,
}

/// Sessions by [`crate::request_key`] of their ids, those that were longest without a decision forgotten first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    known: BTreeMap<u64, Session>,
    /// Last decision and key.
    order: BTreeSet<(u64, u64)>,
    /// Decisions of all sessions.
    decisions: u64,
}

impl Sessions {
    /// What is remembered of a session.
    #[must_use]
    pub fn get(&self, key: u64) -> Option<&Session> {
        self.known.get(&key)
    }

    /// Every session with its key.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Session)> {
        self.known.iter().map(|(key, session)| (*key, session))
    }

    /// Remembers a decision, and of all sessions together at most `most`.
    pub fn note(&mut self, key: u64, id: DecisionId, at_ms: u64, drawn: bool, most: u64) {
        let session = self.known.entry(key).or_default();
        self.order.remove(&(session.last_ms, key));
        session.last_ms = session.last_ms.max(at_ms);
        self.order.insert((session.last_ms, key));
        session.decisions.push(id);
        self.decisions += 1;
        if session.decisions.len() > SESSION_DECISIONS {
            session.decisions.remove(0);
            self.decisions -= 1;
        }
        if drawn {
            session.drawn = Some(id);
        }
        while self.decisions > most {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            let gone = self.known.remove(&oldest).map_or(0, |s| s.decisions.len());
            self.decisions -= gone as u64;
        }
    }

    /// Takes over a session as it was, as long as there is room.
    pub fn restore(&mut self, key: u64, session: Session) {
        self.order.insert((session.last_ms, key));
        self.decisions += session.decisions.len() as u64;
        self.known.insert(key, session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(nonce: u64) -> DecisionId {
        DecisionId { epoch: 1, position: Default::default(), nonce }
    }

    #[test]
    fn a_session_keeps_its_last_decisions_and_what_was_drawn() {
        let mut sessions = Sessions::default();
        sessions.note(7, id(0), 5, true, 1000);
        (1..=64).for_each(|n| sessions.note(7, id(n), 5 + n, false, 1000));
        let session = sessions.get(7).unwrap();
        assert_eq!((session.drawn, session.last_ms), (Some(id(0)), 69));
        assert_eq!((session.decisions.len(), session.decisions[0]), (64, id(1)));
    }

    #[test]
    fn the_one_longest_without_a_decision_is_forgotten_first() {
        let mut sessions = Sessions::default();
        for (key, at) in [(1, 10), (2, 11), (1, 12), (3, 13)] {
            sessions.note(key, id(at), at, true, 3);
        }
        assert!(sessions.get(2).is_none() && sessions.get(1).is_some());
        (20..1000).for_each(|n| sessions.note(n, id(n), n, true, 3));
        assert_eq!((sessions.known.len(), sessions.order.len(), sessions.decisions), (3, 3, 3));
    }
}
