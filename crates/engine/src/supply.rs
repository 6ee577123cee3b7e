//! Whether feedback still comes: a pipe that dies must not look like a thousand failures.
//!
//! While it has stopped, the model's deadlines wait, so that a backlog still counts when it is delivered; and what
//! trickles in is held, since the little that comes is no fair sample.

use std::collections::VecDeque;

use pawl_domain::ActionName;
use serde::{Deserialize, Serialize};

/// Decisions over which the recent share is taken.
const RECENT: f64 = 100.0;
/// Closed decisions over which history is taken.
const HISTORY: f64 = 10_000.0;
/// Closed decisions before the first judgement.
const WARM_UP: u64 = 200;
/// Feedback has stopped when the recent share is below this part of history, …
const STOPPED: f64 = 0.1;
/// … and comes again above this one.
const BACK: f64 = 0.5;
/// Deadlines wait at most so long (log time), or the deadline itself if that is longer: then no feedback is how things are.
const WAIT_MAX_MS: u64 = 7 * 86_400_000;
/// Pieces that are held at most; beyond, the oldest is learned.
const HELD_MAX: usize = 65_536;

/// The share of a model's decisions that have feedback.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Supply {
    /// Decisions closed.
    pub closed: u64,
    /// The share of late: of closed decisions, or of those made, while feedback has stopped.
    pub recent: f64,
    /// The share before; it stands still while feedback has stopped.
    pub history: f64,
    /// Log time since when it has stopped.
    pub stopped_since_ms: Option<u64>,
    /// Log time at which it came again: decisions before are due a deadline after it.
    pub back_at_ms: u64,
    /// What came meanwhile.
    pub(crate) held: VecDeque<Held>,
}

/// Feedback that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Where its decision stands.
    pub offset: u64,
    /// The action that was taken.
    pub action: ActionName,
    /// By metric.
    pub values: Vec<(String, f64)>,
}

impl Supply {
    /// Whether feedback has stopped.
    #[must_use]
    pub const fn has_stopped(&self) -> bool {
        self.stopped_since_ms.is_some()
    }

    /// Pieces of feedback that wait for feedback to come again.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// When a decision of `at_ms` is due.
    pub(crate) fn due_ms(&self, at_ms: u64, deadline_ms: u64) -> u64 {
        let usual = at_ms + deadline_ms;
        match self.stopped_since_ms {
            Some(since) => usual.max(since + WAIT_MAX_MS.max(deadline_ms)),
            None if at_ms < self.back_at_ms => usual.max(self.back_at_ms + deadline_ms),
            None => usual,
        }
    }

    /// Counts a decision whose deadline has passed. True if feedback has stopped by that.
    pub(crate) fn closed(&mut self, had_feedback: bool, now_ms: u64) -> bool {
        self.closed += 1;
        let (n, had) = (self.closed as f64, f64::from(u8::from(had_feedback)));
        if self.has_stopped() {
            return false;
        }
        self.recent += (had - self.recent) / n.min(RECENT);
        self.history += (had - self.history) / n.min(HISTORY);
        let stops = self.closed > WARM_UP && self.recent < STOPPED * self.history;
        if stops {
            self.stopped_since_ms = Some(now_ms);
        }
        stops
    }

    /// Counts a decision that was made.
    pub(crate) fn decided(&mut self) {
        if self.has_stopped() {
            self.recent -= self.recent / RECENT;
        }
    }

    /// Counts a decision for which first feedback came. True if it comes again by that.
    pub(crate) fn arrived(&mut self) -> bool {
        if self.has_stopped() {
            self.recent += 1.0 / RECENT;
        }
        self.has_stopped() && self.recent > BACK * self.history
    }

    /// Keeps a piece of feedback until feedback comes again. Returns the oldest where there are too many.
    pub(crate) fn hold(&mut self, piece: Held) -> Option<Held> {
        self.held.push_back(piece);
        if self.held.len() > HELD_MAX { self.held.pop_front() } else { None }
    }

    /// Whether deadlines have waited as long as they may.
    pub(crate) fn waited_out(&self, now_ms: u64, deadline_ms: u64) -> bool {
        self.stopped_since_ms.is_some_and(|since| since + WAIT_MAX_MS.max(deadline_ms) <= now_ms)
    }

    /// Feedback comes again. Returns what was held.
    pub(crate) fn back(&mut self, now_ms: u64) -> VecDeque<Held> {
        self.stopped_since_ms = None;
        self.back_at_ms = now_ms;
        core::mem::take(&mut self.held)
    }

    /// That hardly any comes is how things are from now on. Returns what was held.
    pub(crate) fn accept(&mut self) -> VecDeque<Held> {
        self.stopped_since_ms = None;
        (self.closed, self.history, self.recent) = (0, 0.0, 0.0);
        core::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of the decisions have feedback; then none, then half again. The recent share falls below a tenth of a
    /// half after ln(.1)/ln(.99) = 229 decisions without, and is back above a quarter within some hundred.
    #[test]
    fn a_dead_pipe_is_seen_and_its_return_too() {
        let mut supply = Supply::default();
        assert!((0..5000).all(|k| !supply.closed(k % 2 == 0, k)));
        let stopped = (0..1000).position(|k| supply.closed(false, 5000 + k)).unwrap();
        assert!((225..240).contains(&stopped), "{stopped}");
        assert!(supply.due_ms(4000, 100) > 100_000, "deadlines wait");
        for _ in 0..5000 {
            supply.decided();
        }
        let history = supply.history;
        assert!((history - 0.5).abs() < 0.03, "{history}");
        // A piece now and then is no return.
        for k in 0..2000 {
            supply.decided();
            assert!(k % 50 != 0 || !supply.arrived());
        }
        let back = |k| {
            supply.decided();
            k % 2 == 0 && supply.arrived()
        };
        let back = (0..1000).position(back).unwrap();
        assert!(back < 150, "{back}");
        assert!(supply.back(20_000).is_empty());
        assert_eq!(supply.due_ms(4000, 100), 20_100, "a backlog has a deadline of its own");
        assert_eq!(supply.due_ms(20_000, 100), 20_100);
    }

    /// A model that has seldom feedback is not taken for one that has lost it.
    #[test]
    fn seldom_is_not_stopped() {
        let mut supply = Supply::default();
        assert!((0..100_000).all(|k| !supply.closed(k % 20 == 0, k)));
        let mut never = Supply::default();
        assert!((0..10_000).all(|k| !never.closed(false, k)));
    }

    /// A pipe that never comes back does not hold the log for ever.
    #[test]
    fn no_feedback_is_accepted_in_the_end() {
        let mut supply = Supply::default();
        assert!((0..1000).all(|k| !supply.closed(true, k)));
        assert!((0..1000).any(|k| supply.closed(false, k)));
        assert!(!supply.waited_out(WAIT_MAX_MS - 1, 1000));
        assert!(supply.waited_out(WAIT_MAX_MS + 1000, 1000));
        supply.accept();
        assert!((0..10_000).all(|k| !supply.closed(false, k)));
    }
}
