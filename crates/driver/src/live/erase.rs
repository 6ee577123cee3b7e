//! Taking what decisions say of a person out of the log, for good.

use pawl_domain::{Event, event::Decided};
use pawl_store::checkpoints;

use super::{Command, Live, Worker};
use crate::fold::{RecoverError, write_checkpoint};

/// Decisions of one record.
const CHUNK: usize = 20_000;

/// What an erasure did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// Decisions whose context was taken out.
    pub decisions: u64,
    /// Segments that were rewritten.
    pub segments: u64,
    /// Where folding begins from now on; nothing before it can be folded again.
    pub base: u64,
}

impl Live {
    /// Takes out what the decisions that are meant say of a person: of all that were made before this call. First the log says
    /// which, so that no fold learns from them any more; then a checkpoint behind that becomes the first from which the log
    /// is folded, and older ones go; then the segments are rewritten. Done again after a crash in between, it goes on.
    ///
    /// # Errors
    /// If the log or a checkpoint cannot be written.
    pub fn erase(&self, is: impl Fn(&Decided) -> bool) -> Result<Erased, RecoverError> {
        let found = self.log.find(self.log.head(), is)?;
        let Some(last) = found.last() else {
            return Ok(Erased { decisions: 0, segments: 0, base: 0 });
        };
        let mut end = self.log.seal_behind(*last)?;
        // From here on nothing may be folded from before it.
        self.log.erases_below(end);
        for decisions in found.chunks(CHUNK) {
            let event = Event::Erased { decisions: decisions.to_vec() };
            end = self.log.append_event(&event)?.end;
        }
        self.log.sync()?;
        let stopped = |why: String| RecoverError::from(std::io::Error::other(why));
        let based =
            self.ask(|reply| Command::Base(end, reply)).map_err(|e| stopped(e.to_string()))?;
        let base = based.map_err(stopped)?;
        let segments = self.log.erase(&found)? as u64;
        Ok(Erased { decisions: found.len() as u64, segments, base })
    }
}

impl Worker {
    /// Folds up to `from` at least, writes a checkpoint there and removes every older one.
    pub(super) fn new_base(&mut self, from: u64) -> Result<u64, String> {
        if let Some(stopped) = self.stopped.get() {
            return Err(stopped.to_string());
        }
        while self.fold.position() < from {
            match self.fold.step() {
                Ok(true) => {}
                Ok(false) => return Err("the log ends before the erasure".to_owned()),
                Err(e) => {
                    let _first = self.stopped.set(super::Stopped(e.to_string()));
                    return Err(e.to_string());
                }
            }
        }
        self.end_writing();
        let state = self.fold.engine().state();
        if !state.rewinds.is_empty() {
            return Err(
                "a rewind is under way, which reads what would go: try again when it is done"
                    .to_owned(),
            );
        }
        let told = |e: RecoverError| e.to_string();
        write_checkpoint(self.disk.as_ref(), self.fold.log(), state).map_err(told)?;
        let position = self.fold.position();
        self.note_written();
        self.checkpointed = (std::time::Instant::now(), position);
        for older in checkpoints::positions(self.disk.as_ref()).map_err(|e| e.to_string())? {
            if older < position {
                self.disk.remove(&checkpoints::path(older)).map_err(|e| e.to_string())?;
            }
        }
        Ok(position)
    }
}
