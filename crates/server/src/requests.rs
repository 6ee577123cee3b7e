//! The callers' own ids: the same request again within a window answers the same decision.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use pawl_domain::DecisionId;

const SHARDS: u64 = 16;

/// What is known of a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is now reserved for the caller, who must [`Requests::complete`] or [`Requests::release`] it.
    New,
    /// Another request with it is being answered.
    InProgress,
    /// It was answered by this decision.
    Answered(DecisionId),
}

#[derive(Default)]
struct Shard {
    /// Arrival and answer by key.
    entries: HashMap<u64, (u64, Option<DecisionId>)>,
    order: VecDeque<(u64, u64)>,
}

/// A bounded memory of request ids.
pub struct Requests {
    shards: Vec<Mutex<Shard>>,
    most: usize,
    window_ms: u64,
}

impl Requests {
    /// Remembers up to `most` ids for `window_ms`.
    #[must_use]
    pub fn new(most: usize, window_ms: u64) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, most: most.div_ceil(SHARDS as usize), window_ms }
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        self.shards[(key % SHARDS) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks `key` up and reserves it if it is new.
    pub fn reserve(&self, key: u64, now_ms: u64) -> Known {
        let mut shard = self.shard(key);
        match shard.entries.get(&key) {
            Some((at, answer)) if at + self.window_ms > now_ms => {
                return answer.map_or(Known::InProgress, Known::Answered);
            }
            _ => {}
        }
        shard.insert(key, now_ms, None, self.most);
        Known::New
    }

    /// Says that `key` was answered.
    pub fn complete(&self, key: u64, now_ms: u64, answer: DecisionId) {
        self.shard(key).insert(key, now_ms, Some(answer), self.most);
    }

    /// Says that the reserved `key` was not answered.
    pub fn release(&self, key: u64) {
        self.shard(key).entries.remove(&key);
    }
}

impl Shard {
    fn insert(&mut self, key: u64, now_ms: u64, answer: Option<DecisionId>, most: usize) {
        if self.entries.insert(key, (now_ms, answer)).is_none() {
            self.order.push_back((key, now_ms));
        }
        while self.order.len() > most {
            if let Some((oldest, _)) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_answered_once_within_its_window() {
        let requests = Requests::new(64, 1000);
        let id = DecisionId { epoch: 1, position: Default::default(), nonce: 9 };
        assert_eq!(requests.reserve(5, 0), Known::New);
        assert_eq!(requests.reserve(5, 1), Known::InProgress);
        requests.complete(5, 1, id);
        assert_eq!(requests.reserve(5, 1000), Known::Answered(id));
        assert_eq!(requests.reserve(5, 1001), Known::New);
        requests.release(5);
        assert_eq!(requests.reserve(5, 1002), Known::New);
        (100..10_000).for_each(|key| assert_eq!(requests.reserve(key, 1003), Known::New));
        let kept: usize = (0..16).map(|s| requests.shard(s).order.len()).sum();
        assert!(kept <= 64 + 16, "{kept}");
    }
}
