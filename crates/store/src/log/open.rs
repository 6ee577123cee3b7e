//! Opening: finding the tail after any crash, and telling a torn tail from damage.

use std::{
    io,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
};

use pawl_domain::Event;

use super::{
    Config, DIR, Kind, Log, LogError, REDACTED, SEGMENT_HEADER, Segment, Tail, create_segment,
    frame::{self, frame_len},
    segment_header,
};
use crate::disk::{Disk, DiskFile, TEMPORARY};

/// The synced mark: eight bytes of offset, four of CRC-32.
const MARK: &str = "log/synced";
/// The epoch: four bytes, four of CRC-32.
const EPOCH: &str = "log/epoch";

/// Damage that is not a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first damaged byte.
    pub from: u64,
    /// The first good record after it, or the end of the log.
    pub to: u64,
}

/// Why a log was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error("the log cannot be opened: {0}")]
    Io(#[from] io::Error),
    /// Records are damaged that had reached the disk.
    #[error(
        "the log is damaged from offset `{}` to `{}`: restore these bytes from a copy, or give up the records there \
         with `--accept-loss`", .0.from, .0.to
    )]
    Damaged(Damage),
    /// The log could be read but not written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is nothing to read.
    #[error("there is no log here")]
    None,
    /// Records that the newest checkpoint needs are not there.
    #[error(
        "the log begins at offset `{first}`, but the newest valid checkpoint is at `{wanted}`: restore the missing files"
    )]
    Gap {
        /// Where the log begins.
        first: u64,
        /// What is needed.
        wanted: u64,
    },
}

/// What opening found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Damage that was accepted.
    pub accepted: Option<Damage>,
}

/// Bytes of the synced mark for `offset`.
pub(super) fn mark(offset: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn read_mark(file: &dyn DiskFile) -> io::Result<u64> {
    let mut bytes = [0; 12];
    let n = file.read_at(&mut bytes, 0)?;
    let mut offset = [0; 8];
    offset.copy_from_slice(&bytes[..8]);
    let offset = u64::from_le_bytes(offset);
    // A torn mark protects nothing; it never stops a start.
    Ok(if n == 12 && mark(offset) == bytes { offset } else { 0 })
}

fn raise_epoch(disk: &dyn Disk, segments: &[Segment]) -> io::Result<u32> {
    let file = disk.open(EPOCH)?;
    let mut slots = [[0_u8; 8]; 2];
    let mut epoch = 0;
    // Two slots, written in turn: a torn write never loses the other.
    for (i, slot) in slots.iter_mut().enumerate() {
        let n = file.read_at(slot, 8 * i as u64)?;
        let crc = crc32fast::hash(&slot[..4]).to_le_bytes();
        if n == 8 && slot[4..] == crc {
            epoch = epoch.max(u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]]));
        }
    }
    if epoch == 0 {
        // The file is new or lost: the log itself tells.
        epoch = last_epoch(segments)?;
    }
    let next = epoch + 1;
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&next.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..4]).to_le_bytes();
    bytes[4..].copy_from_slice(&crc);
    file.write_at(&bytes, 8 * u64::from(next % 2))?;
    file.sync()?;
    disk.sync_dir(DIR)?;
    Ok(next)
}

/// The largest epoch that a record tells of.
fn last_epoch(segments: &[Segment]) -> io::Result<u32> {
    let mut epoch = 0;
    for segment in segments {
        let bytes = read_from(segment, segment.base)?;
        let mut within = 0;
        while let Some(rest) = bytes.get(within..).filter(|r| !r.is_empty()) {
            let Some(header) = frame::check(rest, segment.base + within as u64) else { break };
            if header.tag.kind == Kind::Other
                && let Some(Event::Opened { epoch: opened, .. }) =
                    frame::payload(rest, &header).and_then(frame::decode)
            {
                epoch = epoch.max(opened);
            }
            within += frame_len(header.len);
        }
    }
    Ok(epoch)
}

/// Places where a segment ends before the next one begins: a file was cut short or is missing.
fn holes(segments: &[Segment]) -> io::Result<Vec<Damage>> {
    let mut found = Vec::new();
    for pair in segments.windows(2) {
        let end = end_of(&pair[..1])?;
        if end < pair[1].base {
            found.push(Damage { from: end, to: pair[1].base });
        }
    }
    Ok(found)
}

/// Writes frames over `damage` that say that nothing is there, one a segment.
fn cover(segments: &[Segment], damage: Damage, ordinal: u64) -> io::Result<()> {
    for (i, segment) in segments.iter().enumerate() {
        let end = segments.get(i + 1).map_or(damage.to, |s| s.base);
        let (from, to) = (damage.from.max(segment.base), damage.to.min(end));
        if from < to {
            let place = SEGMENT_HEADER + (to - segment.base);
            if segment.file.size()? < place {
                segment.file.set_len(place)?;
            }
            let header = frame::lost(from, to - from, ordinal);
            segment.file.write_at(&header, SEGMENT_HEADER + (from - segment.base))?;
            segment.file.sync()?;
        }
    }
    Ok(())
}

impl Log {
    /// Opens the log and raises its epoch. Everything before `checkpoint`, the place of a record, is taken as it is;
    /// from there on each record is checked.
    ///
    /// After a power loss any subset of the blocks that were not synced may be left. So at the first invalid record
    /// the log ends, if that record was not on the disk as far as the synced mark, the checkpoint and every valid
    /// record (those after it too) can tell. If it was, it is damage: an error unless `accept_loss`.
    ///
    /// # Errors
    /// If the log is damaged or the disk refuses.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        checkpoint: u64,
        accept_loss: bool,
    ) -> Result<(Self, Recovery), OpenError> {
        let mut segments = list_segments(disk.as_ref(), config.read_only)?;
        if segments.is_empty() && config.read_only {
            return Err(OpenError::None);
        }
        let mark = disk.open(MARK)?;
        let marked = read_mark(mark.as_ref())?.max(checkpoint);
        if segments.is_empty() {
            if marked > 0 {
                return Err(OpenError::Gap { first: 0, wanted: marked });
            }
            segments.push(create_segment(disk.as_ref(), 0)?);
        }
        let first = segments[0].base;
        if first > checkpoint && checkpoint > 0 {
            return Err(OpenError::Gap { first, wanted: checkpoint });
        }
        let (scan, recovery) =
            mend(disk.as_ref(), &mut segments, config, marked, checkpoint, accept_loss)?;
        let Some(last) = segments.last().cloned() else {
            return Err(OpenError::Gap { first, wanted: checkpoint });
        };
        let epoch = if config.read_only { 0 } else { raise_epoch(disk.as_ref(), &segments)? };
        let log = Self {
            disk,
            config,
            epoch,
            tail: Mutex::new(Tail { offset: scan.offset, ordinal: scan.ordinal, segment: last }),
            segments: RwLock::new(segments),
            head: AtomicU64::new(scan.offset),
            synced: AtomicU64::new(0),
            syncing: Mutex::new((!config.read_only).then_some(mark)),
            failed: AtomicBool::new(config.read_only),
            rewriting: Mutex::default(),
            erasing: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
        };
        if let Some(Damage { from, to }) = recovery.accepted {
            log.append_event(&Event::LossAccepted { from, to })?;
        }
        if !config.read_only {
            log.sync()?;
        }
        Ok((log, recovery))
    }
}

/// Looks at every record from the checkpoint on (with `accept_loss` at every one), cuts a torn tail, and covers damage
/// that is accepted. Returns where the log ends.
fn mend(
    disk: &dyn Disk,
    segments: &mut Vec<Segment>,
    config: Config,
    marked: u64,
    checkpoint: u64,
    accept_loss: bool,
) -> Result<(Scan, Recovery), OpenError> {
    let first = segments.first().map_or(0, |s| s.base);
    let mut recovery = Recovery::default();
    let mut give_up = |damage: Damage| {
        if !accept_loss || config.read_only {
            return Err(OpenError::Damaged(damage));
        }
        let from = recovery.accepted.map_or(damage.from, |a| a.from.min(damage.from));
        recovery.accepted = Some(Damage { from, to: damage.to });
        Ok(())
    };
    // What the checkpoint holds is not read again, but it must be there. Above it, the scan sees every hole.
    for hole in holes(segments)?.into_iter().filter(|h| h.from < checkpoint) {
        give_up(hole)?;
        cover(segments, hole, 0)?;
    }
    // With damage to give up, everything is looked at; else what the newest checkpoint does not hold.
    let from = if accept_loss { first } else { checkpoint.max(first) };
    let mut scan = Scan { offset: from, ordinal: 0, synced: marked };
    let mut torn_bytes = 0;
    while let Some(broken) = scan.run(segments)? {
        let (next, synced) = look_beyond(segments, broken)?;
        let end = end_of(segments)?;
        if broken >= scan.synced.max(synced) {
            torn_bytes = end.saturating_sub(broken);
            if !config.read_only {
                cut(disk, segments, broken)?;
            }
            break;
        }
        let damage = Damage { from: broken, to: next.unwrap_or(end.max(scan.synced)) };
        give_up(damage)?;
        cover(segments, damage, scan.ordinal)?;
    }
    // A log that ends well but earlier than what was on the disk has lost its end.
    let end = end_of(segments)?.min(scan.offset);
    if end < scan.synced {
        let damage = Damage { from: end, to: scan.synced };
        give_up(damage)?;
        cover(segments, damage, scan.ordinal)?;
        scan.offset = damage.to;
    }
    recovery.torn_bytes = torn_bytes;
    Ok((scan, recovery))
}

fn list_segments(disk: &dyn Disk, read_only: bool) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for name in disk.list(DIR)? {
        // What a crash left half written beside a segment that was being rewritten.
        if !read_only && name.ends_with(TEMPORARY) {
            disk.remove(&format!("{DIR}/{name}"))?;
        }
        let Some(base) = name.strip_suffix(".seg").and_then(|b| b.parse::<u64>().ok()) else {
            continue;
        };
        let file = disk.open(&format!("{DIR}/{name}"))?;
        let mut header = [0; SEGMENT_HEADER as usize];
        let n = file.read_at(&mut header, 0)?;
        let (redacted, erased) = (header[REDACTED] == 1, header[REDACTED] == 2);
        header[REDACTED] = 0;
        if n == header.len() && header == segment_header(base) {
            segments.push(Segment { base, file, redacted, erased });
        } else if segments.is_empty() || file.size()? > SEGMENT_HEADER {
            // A segment is used only once its header is synced: this is no torn creation.
            return Err(io::Error::other(format!(
                "`{DIR}/{name}` has no valid header: restore the file"
            )));
        } else if !read_only {
            disk.remove(&format!("{DIR}/{name}"))?;
        }
    }
    Ok(segments)
}

/// Walks the frames from `offset`.
struct Scan {
    offset: u64,
    ordinal: u64,
    /// Up to here everything was on the disk once.
    synced: u64,
}

impl Scan {
    /// Walks to the end. Returns the first offset that holds no valid frame but is not the end.
    fn run(&mut self, segments: &[Segment]) -> io::Result<Option<u64>> {
        for (i, segment) in segments.iter().enumerate() {
            let next_base = segments.get(i + 1).map(|s| s.base);
            if next_base.is_some_and(|n| n <= self.offset) {
                continue;
            }
            if self.offset < segment.base {
                return Ok(Some(self.offset));
            }
            let bytes = read_from(segment, self.offset)?;
            let start = self.offset;
            while let Some(rest) =
                bytes.get((self.offset - start) as usize..).filter(|r| !r.is_empty())
            {
                let Some(header) = frame::check(rest, self.offset) else {
                    return Ok(Some(self.offset));
                };
                self.synced = self.synced.max(header.synced(self.offset));
                self.offset += frame_len(header.len) as u64;
                self.ordinal = header.tag.ordinal + u64::from(header.tag.kind == Kind::Decision);
                if next_base.is_some_and(|n| n <= self.offset) {
                    break;
                }
            }
            if next_base.is_some_and(|n| n != self.offset) {
                return Ok(Some(self.offset));
            }
        }
        Ok(None)
    }
}

fn read_from(segment: &Segment, offset: u64) -> io::Result<Vec<u8>> {
    let place = SEGMENT_HEADER + (offset - segment.base);
    let len = segment.file.size()?.saturating_sub(place);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    let n = segment.file.read_at(&mut bytes, place)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// The offset after the last byte of the last segment.
fn end_of(segments: &[Segment]) -> io::Result<u64> {
    let Some(last) = segments.last() else { return Ok(0) };
    let bytes = last.file.size()?.saturating_sub(SEGMENT_HEADER);
    Ok((last.base + bytes).next_multiple_of(8))
}

/// The first valid frame after `broken`, and up to where valid frames after it say that the log was on the disk.
fn look_beyond(segments: &[Segment], broken: u64) -> io::Result<(Option<u64>, u64)> {
    let (mut first, mut synced) = (None, 0);
    for (i, segment) in segments.iter().enumerate() {
        let end = segments.get(i + 1).map_or(u64::MAX, |s| s.base);
        let from = (broken + 8).max(segment.base);
        if from >= end {
            continue;
        }
        let bytes = read_from(segment, from)?;
        let mut within = 0;
        while within < bytes.len() && from + (within as u64) < end {
            let offset = from + within as u64;
            within += match frame::check(&bytes[within..], offset) {
                None => 8,
                Some(header) => {
                    first.get_or_insert(offset);
                    synced = synced.max(header.synced(offset));
                    frame_len(header.len)
                }
            };
        }
    }
    Ok((first, synced))
}

/// Cuts everything from `offset` on.
fn cut(disk: &dyn Disk, segments: &mut Vec<Segment>, offset: u64) -> io::Result<()> {
    while segments.len() > 1 && segments.last().is_some_and(|s| s.base > offset) {
        if let Some(segment) = segments.pop() {
            disk.remove(&super::segment_path(segment.base))?;
        }
    }
    if let Some(last) = segments.last() {
        let place = SEGMENT_HEADER + (offset - last.base);
        last.file.set_len(place)?;
        last.file.sync()?;
    }
    disk.sync_dir(DIR)
}
