//! Rewinds of a running fold.

use std::{sync::PoisonError, thread};

use pawl_domain::Event;

use super::Worker;
use crate::fold::RecoverError;

impl Worker {
    /// A rewind folds on a thread of its own, while everything goes on from the state before. When it has nearly caught
    /// up, a record puts it in place.
    pub(super) fn rewind_if_asked(&mut self) -> Result<(), RecoverError> {
        if let Some((asked, thread)) = self.rewinding.take_if(|(_, thread)| thread.is_finished()) {
            let why = match thread.join() {
                Ok(Ok(fold)) => {
                    self.fold.prepare(asked, fold);
                    self.fold.log().append_event(&Event::Rewound { asked })?;
                    self.checkpoint_now = true;
                    return Ok(());
                }
                Ok(Err(why)) => why,
                Err(_) => "the fold panicked".to_owned(),
            };
            tracing::warn!(asked, why, "a rewind cannot be done");
            let mut failed = self.rewind_failed.lock().unwrap_or_else(PoisonError::into_inner);
            *failed = Some(why);
            self.fold.log().append_event(&Event::RewindAbandoned { asked })?;
            return Ok(());
        }
        let rewinds = &self.fold.engine().state().rewinds;
        if self.rewinding.is_none()
            && self.fold.prepared().is_none()
            && let Some(&asked) = rewinds.first()
            && self.begun != Some(asked)
        {
            let begun = self.fold.rewinding(asked);
            let fold = begun.map_err(|e| e.to_string());
            self.begun = Some(asked);
            let work = move || {
                let mut fold = fold?;
                fold.catch_up().map_err(|e| e.to_string())?;
                // What came meanwhile is little.
                fold.catch_up().map_err(|e| e.to_string())?;
                Ok(fold)
            };
            let thread = thread::Builder::new().name("pawl-rewind".to_owned()).spawn(work);
            self.rewinding = thread.ok().map(|t| (asked, t));
        }
        Ok(())
    }
}
