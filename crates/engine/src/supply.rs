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
/// Feedback has stopped when the recent share is below this part of history, and not by chance.
const STOPPED: f64 = 0.1;
/// Both ways, the evidence is a CUSUM of log-likelihood ratios (Page 1954) between the usual share and a tenth of it. With
/// this threshold a false alarm comes about once in e¹⁶ ≈ 9 million decisions, however small the share.
const EVIDENCE: f64 = 16.0;
/// A larger share counts as this one: no single decision is proof.
const SHARE_MAX: f64 = 0.95;
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
    /// The evidence that it has stopped, or comes again.
    evidence: f64,
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

    /// Where the first decision stands whose feedback waits.
    pub(crate) fn needed_from(&self) -> Option<u64> {
        self.held.iter().map(|h| h.offset).min()
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

    /// Counts a decision of `at_ms` whose deadline has passed. True if feedback has stopped by that.
    pub(crate) fn closed(&mut self, had_feedback: bool, at_ms: u64, now_ms: u64) -> bool {
        self.closed += 1;
        // What an outage lost says nothing of the time after it.
        if self.has_stopped() || at_ms < self.back_at_ms {
            return false;
        }
        let share = self.history.min(SHARE_MAX);
        self.evidence += match (had_feedback, share > 0.0) {
            (_, false) => 0.0,
            (true, true) => libm::log(STOPPED),
            (false, true) => libm::log((1.0 - STOPPED * share) / (1.0 - share)),
        };
        self.evidence = self.evidence.max(0.0);
        let (n, had) = (self.closed as f64, f64::from(u8::from(had_feedback)));
        self.recent += (had - self.recent) / n.min(RECENT);
        self.history += (had - self.history) / n.min(HISTORY);
        let stops = self.closed > WARM_UP
            && self.recent < STOPPED * self.history
            && self.evidence >= EVIDENCE;
        if stops {
            self.stopped_since_ms = Some(now_ms);
            self.evidence = 0.0;
        }
        stops
    }

    /// Counts a decision that was made.
    pub(crate) fn decided(&mut self) {
        if self.has_stopped() {
            self.recent -= self.recent / RECENT;
            let expected = (1.0 - STOPPED) * self.history.min(SHARE_MAX);
            self.evidence = (self.evidence - expected).max(0.0);
        }
    }

    /// Counts a decision for which first feedback came. True if it comes again by that.
    pub(crate) fn arrived(&mut self) -> bool {
        if !self.has_stopped() {
            return false;
        }
        self.recent += 1.0 / RECENT;
        // Arrivals as a Poisson stream, a decision its unit of time.
        self.evidence -= libm::log(STOPPED);
        self.evidence >= EVIDENCE
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
        (self.evidence, self.recent) = (0.0, self.history);
        core::mem::take(&mut self.held)
    }

    /// That hardly any comes is how things are from now on. Returns what was held.
    pub(crate) fn accept(&mut self) -> VecDeque<Held> {
        self.stopped_since_ms = None;
        (self.closed, self.history, self.recent, self.evidence) = (0, 0.0, 0.0, 0.0);
        core::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use pawl_stats::rng::uniform;

    use super::*;

    /// Half of the decisions have feedback; then none. A decision without is a ratio of log(.95/.5) = .642 towards a
    /// tenth: 25 reach 16, and the recent share falls below a tenth of a half after ln(.1)/ln(.99) = 229.
    #[test]
    fn a_dead_pipe_is_seen_and_its_return_too() {
        let mut supply = Supply::default();
        assert!((0..5000).all(|k| !supply.closed(k % 2 == 0, k, k)));
        let stopped = (0..1000).position(|k| supply.closed(false, 5000, 5000 + k)).unwrap();
        assert!((225..240).contains(&stopped), "{stopped}");
        assert!(supply.due_ms(4000, 100) > 100_000, "deadlines wait");
        for _ in 0..5000 {
            supply.decided();
        }
        let history = supply.history;
        assert!((history - 0.5).abs() < 0.03, "{history}");
        // A tenth of what is usual is no return.
        for k in 0..20_000 {
            supply.decided();
            assert!(uniform(1, k) > 0.05 || !supply.arrived());
        }
        let back = |k| {
            supply.decided();
            k % 2 == 0 && supply.arrived()
        };
        let back = (0..1000).position(back).unwrap();
        assert!(back < 50, "{back}");
        assert!(supply.back(20_000).is_empty());
        assert_eq!(supply.due_ms(4000, 100), 20_100, "a backlog has a deadline of its own");
        assert_eq!(supply.due_ms(20_000, 100), 20_100);
        // What the outage lost raises no second alarm.
        assert!((0..5000).all(|k| !supply.closed(false, 19_999, 20_100 + k)));
    }

    /// A model that has seldom feedback is not taken for one that has lost it; and where it has, that is seen.
    #[test]
    fn seldom_is_not_stopped() {
        for share in [0.2, 0.05, 0.02, 0.01, 0.005] {
            let mut supply = Supply::default();
            let alarms = (0..300_000)
                .filter(|k| {
                    let stops = supply.closed(uniform(7, *k) < share, 1, 1);
                    if stops {
                        supply.back(0);
                    }
                    stops
                })
                .count();
            assert_eq!(alarms, 0, "{share}");
            // ln((1 − share/10)/(1 − share)) each: about 16 / (.9 · share).
            let seen = (0..100_000).position(|_| supply.closed(false, 1, 1)).unwrap() as f64;
            assert!(seen < 300.0 + 25.0 / share, "{share}: {seen}");
        }
        let mut never = Supply::default();
        assert!((0..10_000).all(|k| !never.closed(false, k, k)));
    }

    /// A pipe that never comes back does not hold the log for ever.
    #[test]
    fn no_feedback_is_accepted_in_the_end() {
        let mut supply = Supply::default();
        assert!((0..1000).all(|k| !supply.closed(true, k, k)));
        assert!((0..1000).any(|k| supply.closed(false, k, k)));
        assert!(!supply.waited_out(WAIT_MAX_MS - 1, 1000));
        assert!(supply.waited_out(WAIT_MAX_MS + 1000, 1000));
        supply.accept();
        assert!((0..10_000).all(|k| !supply.closed(false, k, k)));
    }
}
