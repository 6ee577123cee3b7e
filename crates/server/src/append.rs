//! Group commit without a queue: what one turn of a worker's loop gathers goes to the log in one write.

use std::{
    cell::RefCell,
    future::poll_fn,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Poll, Waker},
};

use pawl_domain::Event;
use pawl_store::log::Batch;

use crate::app::App;

/// What became of the records of one turn: the offset at which they were written.
#[derive(Debug, Default)]
struct Turn {
    written: OnceLock<Result<u64, String>>,
    waiting: Mutex<Vec<Waker>>,
}

#[derive(Default)]
struct Gathering {
    batch: Batch,
    turn: Option<Arc<Turn>>,
}

thread_local! {
    static GATHERING: RefCell<Gathering> = RefCell::default();
    static SPARE: RefCell<Batch> = RefCell::default();
}

/// Where one record was written.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its offset.
    pub offset: u64,
    /// An offset after it: below it, everything of its turn.
    pub end: u64,
}

/// Appends `events` together, in the operating system's hands when this returns. Returns the place of each.
///
/// # Errors
/// If the log refuses; the reason.
pub async fn append(app: &Arc<App>, events: &[Event]) -> Result<Vec<Place>, String> {
    let (turn, relative, first_of_turn) = GATHERING.with_borrow_mut(|gathering| {
        let mut relative = Vec::with_capacity(events.len());
        for event in events {
            gathering.batch.push(event);
            relative.push((
                gathering.batch.offset(0, gathering.batch.len() - 1),
                gathering.batch.end(0),
            ));
        }
        let first = gathering.turn.is_none();
        (gathering.turn.get_or_insert_default().clone(), relative, first)
    });
    if first_of_turn {
        let app = app.clone();
        tokio::spawn(async move {
            // Runs after every task that is ready now: they add their records first.
            tokio::task::yield_now().await;
            flush(&app);
        });
    }
    let first = poll_fn(|context| {
        if let Some(written) = turn.written.get() {
            return Poll::Ready(written.clone());
        }
        let mut waiting = turn.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match turn.written.get() {
            Some(written) => Poll::Ready(written.clone()),
            None => {
                waiting.push(context.waker().clone());
                Poll::Pending
            }
        }
    })
    .await?;
    Ok(relative
        .into_iter()
        .map(|(offset, end)| Place { offset: first + offset, end: first + end })
        .collect())
}

/// Writes what this thread has gathered and wakes those that wait for it.
fn flush(app: &App) {
    let (mut batch, turn) = GATHERING.with_borrow_mut(|gathering| {
        let spare = SPARE.take();
        (core::mem::replace(&mut gathering.batch, spare), gathering.turn.take())
    });
    let written = app.log().append(&mut batch).map(|w| w.first).map_err(|e| e.to_string());
    batch.clear();
    SPARE.set(batch);
    app.live().wake();
    if let Some(turn) = turn {
        let _once = turn.written.set(written);
        let waiting =
            core::mem::take(&mut *turn.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }
}
