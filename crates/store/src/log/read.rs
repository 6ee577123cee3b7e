//! Reading: one record by its place, or on from a place in order.

use std::sync::Arc;

use pawl_domain::Event;

use super::{
    HEADER, Kind, Log, LogError, SEGMENT_HEADER,
    frame::{self, Header},
};

/// Bytes read ahead by a [`Reader`].
const AHEAD: usize = 256 << 10;
/// Bytes read at first for one record: most decisions fit.
const GUESS: usize = 2048;

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it stands.
    pub offset: u64,
    /// Where the next one stands.
    pub next: u64,
    /// How many decisions stand before it.
    pub ordinal: u64,
    /// What it says.
    pub event: Event,
}

impl Log {
    /// The record at `offset`.
    ///
    /// # Errors
    /// If none starts there, it is damaged, or the disk refuses.
    pub fn read(&self, offset: u64) -> Result<Entry, LogError> {
        if offset >= self.head() {
            return Err(LogError::Absent(offset));
        }
        let (segment, _) = self.segment_of(offset).ok_or(LogError::Absent(offset))?;
        let place = SEGMENT_HEADER + (offset - segment.base);
        let mut bytes = vec![0; GUESS];
        let n = segment.file.read_at(&mut bytes, place)?;
        bytes.truncate(n);
        let header = Header::parse(&bytes).ok_or(LogError::Absent(offset))?;
        if header.tag.kind != Kind::Lost && bytes.len() < HEADER + header.len {
            bytes.resize(HEADER + header.len, 0);
            let n = segment.file.read_at(&mut bytes, place)?;
            bytes.truncate(n);
        }
        let header = frame::check(&bytes, offset).ok_or(LogError::Absent(offset))?;
        if header.tag.kind == Kind::Lost {
            return Err(LogError::Absent(offset));
        }
        entry(&bytes, offset, header)
    }

    /// Reads on from `offset`, which must be the place of a record or the head.
    #[must_use]
    pub fn reader(self: &Arc<Self>, offset: u64) -> Reader {
        Reader { log: self.clone(), offset, bytes: Vec::new(), start: 0 }
    }
}

fn entry(bytes: &[u8], offset: u64, header: Header) -> Result<Entry, LogError> {
    let payload = &bytes[HEADER..HEADER + header.len];
    let event = frame::decode(payload).ok_or(LogError::UnknownKind(offset))?;
    let next = offset + frame::frame_len(header.len) as u64;
    Ok(Entry { offset, next, ordinal: header.tag.ordinal, event })
}

/// Reads records in order.
#[derive(Debug)]
pub struct Reader {
    log: Arc<Log>,
    offset: u64,
    bytes: Vec<u8>,
    /// Offset of the first of `bytes`.
    start: u64,
}

impl Reader {
    /// The place of the next record.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes to the place of a record, back or on.
    pub const fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The next record; `None` at the head.
    ///
    /// # Errors
    /// If it is damaged or of an unknown kind, or the disk refuses.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LogError> {
        self.next_where(u64::MAX, |_| true)
    }

    /// The next decision before `below`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Reader::next_entry`].
    pub fn next_decision(&mut self, below: u64) -> Result<Option<Entry>, LogError> {
        self.next_where(below, |kind| kind == Kind::Decision)
    }

    fn next_where(
        &mut self,
        below: u64,
        wanted: impl Fn(Kind) -> bool,
    ) -> Result<Option<Entry>, LogError> {
        loop {
            let head = self.log.head().min(below);
            if self.offset >= head {
                return Ok(None);
            }
            let header = self.load()?;
            let within = (self.offset - self.start) as usize;
            let offset = self.offset;
            self.offset += frame::frame_len(header.len) as u64;
            if header.tag.kind != Kind::Lost && wanted(header.tag.kind) {
                return entry(&self.bytes[within..], offset, header).map(Some);
            }
        }
    }

    /// Makes the whole frame at `self.offset` present in `self.bytes` and checks it.
    fn load(&mut self) -> Result<Header, LogError> {
        let offset = self.offset;
        let end = self.start + self.bytes.len() as u64;
        if (self.start..end).contains(&offset)
            && let Some(header) =
                frame::check(&self.bytes[(offset - self.start) as usize..], offset)
        {
            return Ok(header);
        }
        let (segment, next) = self.log.segment_of(offset).ok_or(LogError::Absent(offset))?;
        let place = SEGMENT_HEADER + (offset - segment.base);
        let available = next.unwrap_or_else(|| self.log.head()) - offset;
        let mut want = AHEAD;
        loop {
            let len = usize::try_from(available).unwrap_or(usize::MAX).min(want);
            self.bytes.resize(len, 0);
            let n = segment.file.read_at(&mut self.bytes, place)?;
            self.bytes.truncate(n);
            self.start = offset;
            if let Some(header) = frame::check(&self.bytes, offset) {
                return Ok(header);
            }
            match Header::parse(&self.bytes) {
                Some(h) if h.tag.kind != Kind::Lost && HEADER + h.len > want && len == want => {
                    want = HEADER + h.len;
                }
                _ => return Err(LogError::Damaged(offset)),
            }
        }
    }
}
