//! Whether feedback still comes: a pipe that dies must not look like a thousand failures.

use serde::{Deserialize, Serialize};

/// Closed decisions over which the recent share is taken.
const RECENT: f64 = 100.0;
/// Closed decisions over which history is taken.
const HISTORY: f64 = 10_000.0;
/// Closed decisions before the first judgement.
const WARM_UP: u64 = 200;
/// Feedback has stopped when the recent share is below this part of history, …
const STOPPED: f64 = 0.1;
/// … and comes again above this one.
const BACK: f64 = 0.5;

/// The share of a model's decisions that had feedback when their deadline came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Supply {
    /// Decisions closed.
    pub closed: u64,
    /// The share of late.
    pub recent: f64,
    /// The share before; it stands still while feedback has stopped.
    pub history: f64,
    /// Log time since when it has stopped.
    pub stopped_since_ms: Option<u64>,
}

impl Supply {
    /// Counts a decision whose deadline has passed. True while feedback has stopped: then a missing value says
    /// nothing about the decision.
    pub(crate) fn count(&mut self, had_feedback: bool, now_ms: u64) -> bool {
        self.closed += 1;
        let (n, had) = (self.closed as f64, f64::from(u8::from(had_feedback)));
        self.recent += (had - self.recent) / n.min(RECENT);
        if self.stopped_since_ms.is_none() {
            self.history += (had - self.history) / n.min(HISTORY);
        }
        match self.stopped_since_ms {
            None if self.closed > WARM_UP && self.recent < STOPPED * self.history => {
                self.stopped_since_ms = Some(now_ms);
            }
            Some(_) if self.recent > BACK * self.history => self.stopped_since_ms = None,
            _ => {}
        }
        self.stopped_since_ms.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of the decisions have feedback; then none, then half again. The recent share falls below a tenth of a
    /// half after ln(.1)/ln(.99) = 229 decisions without, and is back above a quarter within some hundreds.
    #[test]
    fn a_dead_pipe_is_seen_and_its_return_too() {
        let mut supply = Supply::default();
        assert!((0..5000).all(|k| !supply.count(k % 2 == 0, k)));
        let stopped = (0..1000).position(|k| supply.count(false, 5000 + k)).unwrap();
        assert!((225..240).contains(&stopped), "{stopped}");
        assert!((0..5000).all(|_| supply.count(false, 9000)));
        let history = supply.history;
        let back = (0..1000).position(|k| !supply.count(k % 2 == 0, 20_000)).unwrap();
        assert!(back < 150, "{back}");
        assert!((history - 0.5).abs() < 0.03, "{history}");
    }

    /// A model that has seldom feedback is not taken for one that has lost it.
    #[test]
    fn seldom_is_not_stopped() {
        let mut supply = Supply::default();
        assert!((0..100_000).all(|k| !supply.count(k % 20 == 0, k)));
        let mut never = Supply::default();
        assert!((0..10_000).all(|k| !never.count(false, k)));
    }
}
