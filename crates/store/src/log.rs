//! The embedded log: append-only segments, one order, group commit.
//!
//! An offset counts the bytes of frames since the beginning. A frame is a header of 20 bytes and a payload, padded to
//! 8 bytes. The header holds the length; a CRC-32 of offset, header and payload, which binds a frame to its place, so
//! that stale bytes are never taken for a record; the number of decisions before it and whether it is one; and how
//! far behind the log was on the disk, by which a start tells a torn tail from damage.

mod frame;
mod open;
mod read;
mod redact;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use pawl_domain::Event;

use crate::disk::{Disk, DiskFile};
use frame::HEADER;
pub use frame::{Batch, FRAME_MAX, Kind};
pub use open::{Damage, OpenError, Recovery};
pub use read::{Entry, Reader};

/// Where the segments are.
const DIR: &str = "log";
/// Bytes of a segment file before its first frame: magic with version, base offset, CRC-32 of both, then what was taken
/// out of it.
const SEGMENT_HEADER: u64 = 24;
/// Where that is said: 1 if all contexts were taken out, 2 if some were.
const REDACTED: usize = 20;
const MAGIC: &[u8; 8] = b"PAWLLOG1";

/// How the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// A segment is closed when it has this many bytes.
    pub segment_bytes: u64,
    /// Change nothing on the disk: a torn tail is left, the epoch is not raised, nothing can be appended.
    pub read_only: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, read_only: false }
    }
}

/// Why a record was not taken or not found.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused.
    #[error("the log cannot be written or read: {0}")]
    Io(#[from] io::Error),
    /// A sync failed earlier: what was written since may be lost, so nothing more is taken.
    #[error(
        "the log failed to reach the disk earlier and takes nothing more: check the disk, then restart"
    )]
    Failed,
    /// The record is too large.
    #[error("a record of `{0}` bytes is too large: at most {FRAME_MAX}")]
    TooLarge(usize),
    /// A frame does not have its checksum.
    #[error("the record at offset `{0}` is damaged")]
    Damaged(u64),
    /// The offset was trimmed away or never written.
    #[error("there is no record at offset `{0}`")]
    Absent(u64),
    /// A record of a kind that this binary does not know.
    #[error(
        "the record at offset `{0}` is of a kind that this binary does not know: run a newer one"
    )]
    UnknownKind(u64),
}

#[derive(Clone)]
struct Segment {
    base: u64,
    file: Arc<dyn DiskFile>,
    /// Its contexts were taken out.
    redacted: bool,
    /// Some of them were.
    erased: bool,
}

struct Tail {
    offset: u64,
    ordinal: u64,
    segment: Segment,
}

/// The log of one partition.
pub struct Log {
    disk: Arc<dyn Disk>,
    config: Config,
    epoch: u32,
    tail: Mutex<Tail>,
    segments: RwLock<Vec<Segment>>,
    /// Everything below is written.
    head: AtomicU64,
    /// Everything below is on the disk.
    synced: AtomicU64,
    /// The synced mark; none where nothing may be written.
    syncing: Mutex<Option<Arc<dyn DiskFile>>>,
    failed: AtomicBool,
    /// Held while sealed segments are rewritten or removed.
    rewriting: Mutex<()>,
    /// Below this records are being erased.
    erasing: AtomicU64,
    /// The last append was refused by the disk.
    refuses: AtomicBool,
}

/// Where a batch was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Offset of its first record.
    pub first: u64,
    /// Offset after its last.
    pub end: u64,
}

impl core::fmt::Debug for Log {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Log")
            .field("epoch", &self.epoch)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// The epoch of this opening: larger than every one before.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the disk refused the last record.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Acquire) || self.failed.load(Ordering::Acquire)
    }

    /// The offset after the last record.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Everything below this offset is on the disk.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// Numbers the next decision `ordinal` at least: what a checkpoint says of the records before it, which were not read.
    pub fn count_from(&self, ordinal: u64) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.ordinal = tail.ordinal.max(ordinal);
    }

    /// The first offset that is kept.
    #[must_use]
    pub fn first(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.first().map_or(0, |s| s.base)
    }

    /// Bytes kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.head() - self.first()
    }

    /// Appends a batch in one write: it is then in the operating system's hands, and survives the process.
    /// [`Batch::offset`] gives each record's offset from the returned place.
    ///
    /// # Errors
    /// If the disk refuses; nothing of the batch is then in the log.
    pub fn append(&self, batch: &mut Batch) -> Result<Written, LogError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(LogError::Failed);
        }
        if batch.is_empty() {
            let head = self.head();
            return Ok(Written { first: head, end: head });
        }
        if let Some(len) = batch.too_large() {
            return Err(LogError::TooLarge(len));
        }
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.offset - tail.segment.base >= self.config.segment_bytes {
            self.begin_segment(&mut tail)?;
        }
        let first = tail.offset;
        let ordinal = batch.seal(first, tail.ordinal, self.synced());
        let place = SEGMENT_HEADER + (first - tail.segment.base);
        if let Err(e) = tail.segment.file.write_at(batch.bytes(), place) {
            // Part of it may lie there: a later start must not take that for records.
            if tail.segment.file.set_len(place).is_err() {
                self.failed.store(true, Ordering::Release);
            }
            self.refuses.store(true, Ordering::Release);
            return Err(e.into());
        }
        self.refuses.store(false, Ordering::Release);
        let end = first + batch.bytes().len() as u64;
        tail.offset = end;
        tail.ordinal = ordinal;
        self.head.store(end, Ordering::Release);
        Ok(Written { first, end })
    }

    fn begin_segment(&self, tail: &mut Tail) -> Result<(), LogError> {
        let segment = create_segment(self.disk.as_ref(), tail.offset)?;
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.push(segment.clone());
        tail.segment = segment;
        Ok(())
    }

    /// Seals the segment that is being written where it holds the record at `offset`, so that it can be rewritten. Returns
    /// where the one that is written begins.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn seal_behind(&self, offset: u64) -> Result<u64, LogError> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.segment.base <= offset {
            self.begin_segment(&mut tail)?;
        }
        Ok(tail.segment.base)
    }

    /// Appends one event.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_event(&self, event: &Event) -> Result<Written, LogError> {
        let mut batch = Batch::default();
        batch.push(event);
        self.append(&mut batch)
    }

    /// Puts everything written so far onto the disk. One call serves all that wait for it.
    ///
    /// # Errors
    /// If the disk fails: the log then takes nothing more, since what it holds may be lost.
    pub fn sync(&self) -> Result<u64, LogError> {
        let mark = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failed.load(Ordering::Acquire) {
            return Err(LogError::Failed);
        }
        let synced = self.synced();
        let head = self.head();
        if synced == head {
            return Ok(synced);
        }
        let dirty: Vec<Segment> = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let from = segments.partition_point(|s| s.base <= synced).saturating_sub(1);
            segments[from..].to_vec()
        };
        if let Err(e) = dirty.iter().try_for_each(|s| s.file.sync()) {
            self.failed.store(true, Ordering::Release);
            return Err(e.into());
        }
        // The mark tells a torn tail from damage at the next start. It is neither synced nor required: without it an
        // older one stands, which only protects less.
        let _older_stands = mark.as_ref().map(|m| m.write_at(&open::mark(head), 0));
        self.synced.store(head, Ordering::Release);
        Ok(head)
    }

    /// Removes whole segments that end at or before `before`. The event that says so is to be on the disk already.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn trim(&self, before: u64) -> Result<u64, LogError> {
        let _alone = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Segment> = {
            let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            let keep = segments.partition_point(|s| s.base <= before).saturating_sub(1);
            segments.drain(..keep).collect()
        };
        for segment in &gone {
            self.disk.remove(&segment_path(segment.base))?;
        }
        Ok(self.first())
    }

    /// The segment boundary at or below `before`: what [`Log::trim`] would leave first.
    #[must_use]
    pub fn boundary(&self, before: u64) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let keep = segments.partition_point(|s| s.base <= before).saturating_sub(1);
        segments.get(keep).map_or(0, |s| s.base)
    }

    /// The segment boundary after `offset`; `None` in the last segment.
    #[must_use]
    pub fn next_boundary(&self, offset: u64) -> Option<u64> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.get(segments.partition_point(|s| s.base <= offset)).map(|s| s.base)
    }

    fn segment_of(&self, offset: u64) -> Option<(Segment, Option<u64>)> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let i = segments.partition_point(|s| s.base <= offset).checked_sub(1)?;
        Some((segments[i].clone(), segments.get(i + 1).map(|s| s.base)))
    }
}

fn segment_path(base: u64) -> String {
    format!("{DIR}/{base:020}.seg")
}

/// The segment files, and how much of each holds records below `end`.
///
/// # Errors
/// As the operating system says.
pub fn files(disk: &dyn Disk, end: u64) -> io::Result<Vec<(String, u64)>> {
    let names = disk.list(DIR)?;
    let bases = names.iter().filter_map(|n| n.strip_suffix(".seg")?.parse::<u64>().ok());
    let bases: Vec<u64> = bases.filter(|base| *base < end).collect();
    let below = |i: usize| bases.get(i + 1).copied().unwrap_or(end);
    let file = |(i, base): (usize, &u64)| (segment_path(*base), SEGMENT_HEADER + below(i) - base);
    Ok(bases.iter().enumerate().map(file).collect())
}

fn segment_header(base: u64) -> [u8; SEGMENT_HEADER as usize] {
    let mut header = [0; SEGMENT_HEADER as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&base.to_le_bytes());
    let crc = crc32fast::hash(&header[..16]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    header
}

fn create_segment(disk: &dyn Disk, base: u64) -> io::Result<Segment> {
    let file = disk.open(&segment_path(base))?;
    file.set_len(0)?;
    file.write_at(&segment_header(base), 0)?;
    file.sync()?;
    disk.sync_dir(DIR)?;
    Ok(Segment { base, file, redacted: false, erased: false })
}

#[cfg(test)]
mod tests;
