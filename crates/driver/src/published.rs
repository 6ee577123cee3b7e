//! The snapshots that answer requests: one swap a model, read without a lock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pawl_domain::ModelName;
use pawl_model::Snapshot;

/// A model's snapshot, and when it was put there: microseconds since the first.
#[derive(Debug)]
struct Slot {
    snapshot: ArcSwap<Snapshot>,
    at: AtomicU64,
}

/// The current snapshot of every model.
#[derive(Clone, Debug)]
pub struct Published {
    models: Arc<ArcSwap<BTreeMap<ModelName, Arc<Slot>>>>,
    since: Instant,
}

impl Default for Published {
    fn default() -> Self {
        Self { models: Arc::default(), since: Instant::now() }
    }
}

impl Published {
    /// The snapshot that answers for `model` now.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<Arc<Snapshot>> {
        Some(self.models.load().get(model)?.snapshot.load_full())
    }

    /// How long ago the snapshot of a model was put in place.
    #[must_use]
    pub fn age(&self, model: &str) -> Option<Duration> {
        let at = self.models.load().get(model)?.at.load(Ordering::Relaxed);
        Some(self.since.elapsed().saturating_sub(Duration::from_micros(at)))
    }

    /// The names of all models.
    #[must_use]
    pub fn names(&self) -> Vec<ModelName> {
        self.models.load().keys().cloned().collect()
    }

    /// A model is gone.
    pub(crate) fn remove(&self, model: &ModelName) {
        let mut fewer = BTreeMap::clone(&self.models.load());
        fewer.remove(model);
        self.models.store(Arc::new(fewer));
    }

    /// Puts a snapshot in place. Only the driver does.
    pub(crate) fn put(&self, model: &ModelName, snapshot: Snapshot) {
        let at = self.since.elapsed().as_micros() as u64;
        let models = self.models.load();
        if let Some(slot) = models.get(model) {
            slot.snapshot.store(Arc::new(snapshot));
            slot.at.store(at, Ordering::Relaxed);
        } else {
            let mut more = BTreeMap::clone(&models);
            let slot = Slot { snapshot: ArcSwap::from_pointee(snapshot), at: at.into() };
            more.insert(model.clone(), Arc::new(slot));
            self.models.store(Arc::new(more));
        }
    }
}
