//! What a start would begin from, told without starting.

use std::sync::Arc;

use pawl_engine::State;
use pawl_store::{Disk, Log, checkpoints, log::Config};

use crate::fold::{RecoverError, is_whole, newest, newest_older};

/// What a start begins from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// There is nothing yet.
    Empty,
    /// The checkpoint at this position.
    Checkpoint(u64),
    /// The first record of the log: all of it is folded again.
    Log,
    /// The checkpoint of an older fold at this position, since the log no longer holds what came before.
    Older(u64),
}

/// What a start would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The version of the fold that wrote the newest checkpoint.
    pub written_by: Option<u32>,
    /// What it begins from.
    pub begins: Begins,
    /// Where the log ends.
    pub head: u64,
}

impl Plan {
    /// What a start on `disk` would do. Nothing is changed; another process may be writing there.
    ///
    /// # Errors
    /// If a start would be refused.
    pub fn of(disk: &Arc<dyn Disk>) -> Result<Self, RecoverError> {
        let (engine, checkpoint) = newest(disk.as_ref(), u64::MAX)?;
        drop(engine);
        let older = if checkpoint == 0 { newest_older(disk.as_ref())? } else { None };
        let known = older.as_ref().map_or(checkpoint, |(_, position)| *position);
        let written_by = written_by(disk.as_ref())?;
        if known == 0 && disk.list("log")?.is_empty() {
            return Ok(Self { written_by, begins: Begins::Empty, head: 0 });
        }
        let config = Config { read_only: true, ..Config::default() };
        let (log, _) = Log::open(disk.clone(), config, known, false)?;
        let log = Arc::new(log);
        let begins = match (checkpoint, older) {
            (0, _) if is_whole(&log) => Begins::Log,
            (0, Some((_, position))) => Begins::Older(position),
            (0, None) => return Err(RecoverError::NoBeginning),
            (position, _) => Begins::Checkpoint(position),
        };
        Ok(Self { written_by, begins, head: log.head() })
    }
}

/// The version of the fold that wrote the newest readable checkpoint.
fn written_by(disk: &dyn Disk) -> std::io::Result<Option<u32>> {
    for position in checkpoints::positions(disk)?.into_iter().rev() {
        if let Some(bytes) = checkpoints::read(disk, position)?
            && let Ok(version) = State::version_of(&bytes)
        {
            return Ok(Some(version));
        }
    }
    Ok(None)
}
