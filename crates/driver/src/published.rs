//! The snapshots that answer requests: one swap a model, read without a lock.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use pawl_domain::ModelName;
use pawl_model::Snapshot;

type Slot = Arc<ArcSwap<Snapshot>>;

/// The current snapshot of every model.
#[derive(Clone, Debug, Default)]
pub struct Published {
    models: Arc<ArcSwap<BTreeMap<ModelName, Slot>>>,
}

impl Published {
    /// The snapshot that answers for `model` now.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<Arc<Snapshot>> {
        Some(self.models.load().get(model)?.load_full())
    }

    /// The names of all models.
    #[must_use]
    pub fn names(&self) -> Vec<ModelName> {
        self.models.load().keys().cloned().collect()
    }

    /// Puts a snapshot in place. Only the driver does.
    pub(crate) fn put(&self, model: &ModelName, snapshot: Snapshot) {
        let models = self.models.load();
        if let Some(slot) = models.get(model) {
            slot.store(Arc::new(snapshot));
        } else {
            let mut more = BTreeMap::clone(&models);
            more.insert(model.clone(), Arc::new(ArcSwap::from_pointee(snapshot)));
            self.models.store(Arc::new(more));
        }
    }
}
