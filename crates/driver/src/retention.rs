//! What is kept, and how what is not goes: never anything that a fold may still ask for.

use std::sync::Arc;

use pawl_domain::Event;
use pawl_engine::State;
use pawl_store::{Disk, Log, checkpoints};

use crate::fold::RecoverError;

/// How long records are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Bytes of the log; the oldest segments go first, whether feedback is still expected or not.
    pub log_bytes_max: u64,
    /// Age of a record.
    pub record_ms: u64,
    /// Age of a decision's context, where that is less.
    pub context_ms: u64,
}

/// Trims what retention does not keep, whole segments at a time and in two steps: first the log says what is to go;
/// once a checkpoint knows that, nothing that is folded again asks for it, and it goes.
pub(crate) fn trim(
    disk: &dyn Disk,
    log: &Arc<Log>,
    state: &State,
    retention: Retention,
    now_ms: u64,
) -> Result<(), RecoverError> {
    // A rewind that is under way reads what would go.
    if !state.rewinds.is_empty() {
        return Ok(());
    }
    if state.trimmed > log.first() {
        for position in checkpoints::positions(disk)? {
            let known = checkpoints::read(disk, position)?.map(|bytes| State::from_bytes(&bytes));
            let knows = matches!(known, Some(Ok(older)) if older.trimmed >= state.trimmed);
            if !knows && position < state.position {
                disk.remove(&checkpoints::path(position))?;
            }
        }
        log.trim(state.trimmed)?;
    }
    redact(disk, log, state, retention, now_ms)?;
    let by_size = log.head().saturating_sub(retention.log_bytes_max);
    let from = log.boundary(by_size.min(state.position));
    let before = older_than(log, state, from, retention.record_ms, now_ms)?;
    if before > state.trimmed.max(log.first()) {
        log.append_event(&Event::Trimmed { before })?;
    }
    Ok(())
}

/// Takes old contexts out of the log: of decisions that no fold will learn from again, because every checkpoint that is
/// left has closed them.
fn redact(
    disk: &dyn Disk,
    log: &Arc<Log>,
    state: &State,
    retention: Retention,
    now_ms: u64,
) -> Result<(), RecoverError> {
    if retention.context_ms >= retention.record_ms {
        return Ok(());
    }
    let old = older_than(log, state, log.first(), retention.context_ms, now_ms)?;
    let before = log.boundary(old.min(state.needed_from()));
    if before <= log.first() {
        return Ok(());
    }
    for position in checkpoints::positions(disk)?.into_iter().filter(|p| *p < state.position) {
        let known = checkpoints::read(disk, position)?.map(|bytes| State::from_bytes(&bytes));
        let closed = |s: &State| s.position >= before && s.needed_from() >= before;
        if !matches!(&known, Some(Ok(older)) if closed(older)) {
            disk.remove(&checkpoints::path(position))?;
        }
    }
    log.redact(before)?;
    Ok(())
}

/// The segment boundary at or after `from` below which every record is older than `age_ms`; never above the checkpoint
/// just written.
fn older_than(
    log: &Arc<Log>,
    state: &State,
    from: u64,
    age_ms: u64,
    now_ms: u64,
) -> Result<u64, RecoverError> {
    let mut before = from;
    // A segment goes when the first record of the next one is too old.
    while let Some(next) = log.next_boundary(before).filter(|b| *b <= state.position) {
        let mut reader = log.reader(next);
        let mut came_ms = None;
        while came_ms.is_none()
            && let Some(entry) = reader.next_entry()?.filter(|e| e.offset < state.position)
        {
            came_ms = entry.event.came_ms();
        }
        let old = came_ms.is_some_and(|at_ms| at_ms.saturating_add(age_ms) < now_ms);
        if !old {
            break;
        }
        before = next;
    }
    Ok(before)
}
