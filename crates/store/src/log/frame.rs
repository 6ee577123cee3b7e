//! Frames: how an event lies in a segment.

use pawl_domain::Event;

/// Length, checksum, tag, distance behind.
pub(super) const HEADER: usize = 20;
/// A distance that says nothing.
const FAR: u32 = u32::MAX;
/// Largest payload: a batch of limits elsewhere keeps requests far below it.
pub const FRAME_MAX: usize = 16 << 20;
/// The version of the payload's encoding, its first byte.
const PAYLOAD_VERSION: u8 = 1;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A decision.
    Decision,
    /// Any other event.
    Other,
    /// Nothing: it covers records that were given up.
    Lost,
}

/// Ordinal and kind in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Decisions before this frame.
    pub ordinal: u64,
    pub kind: Kind,
}

impl Tag {
    const DECISION: u64 = 1 << 63;
    const LOST: u64 = 1 << 62;

    pub(super) fn to_bits(self) -> u64 {
        let kind = match self.kind {
            Kind::Decision => Self::DECISION,
            Kind::Other => 0,
            Kind::Lost => Self::LOST,
        };
        kind | self.ordinal
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        let kind = match (bits & Self::DECISION != 0, bits & Self::LOST != 0) {
            (true, _) => Kind::Decision,
            (false, true) => Kind::Lost,
            (false, false) => Kind::Other,
        };
        Self { ordinal: bits & (Self::LOST - 1), kind }
    }
}

/// Bytes of a frame with a payload of `len` bytes.
pub(super) const fn frame_len(len: usize) -> usize {
    (HEADER + len).next_multiple_of(8)
}

/// A parsed header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub len: usize,
    pub crc: u32,
    pub tag: Tag,
    /// How far behind this frame the log was on the disk when it was written.
    behind: u32,
}

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

impl Header {
    /// Reads the first bytes of a frame.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER {
            return None;
        }
        let len = u32::from_le_bytes(four(bytes, 0)) as usize;
        let low = u64::from(u32::from_le_bytes(four(bytes, 8)));
        let high = u64::from(u32::from_le_bytes(four(bytes, 12)));
        let tag = Tag::from_bits(high << 32 | low);
        let plausible = len > 0 && (len <= FRAME_MAX || tag.kind == Kind::Lost);
        let crc = u32::from_le_bytes(four(bytes, 4));
        plausible.then_some(Self { len, crc, tag, behind: u32::from_le_bytes(four(bytes, 16)) })
    }

    /// Up to where the log was on the disk when this frame, at `offset`, was written.
    pub(super) fn synced(&self, offset: u64) -> u64 {
        if self.behind == FAR { 0 } else { offset.saturating_sub(u64::from(self.behind)) }
    }
}

/// Whether `bytes`, which start with a frame at `offset`, hold all of it unharmed; then its header.
pub(super) fn check(bytes: &[u8], offset: u64) -> Option<Header> {
    let header = Header::parse(bytes)?;
    let payload = match header.tag.kind {
        Kind::Lost => &[][..],
        _ => bytes.get(HEADER..HEADER + header.len)?,
    };
    (checksum(offset, header.len, header.tag, header.behind, payload) == header.crc)
        .then_some(header)
}

/// The payload of a checked frame.
pub(super) fn payload<'a>(bytes: &'a [u8], header: &Header) -> Option<&'a [u8]> {
    bytes.get(HEADER..HEADER + header.len)
}

fn checksum(offset: u64, len: usize, tag: Tag, behind: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut head = [0; 24];
    head[..8].copy_from_slice(&offset.to_le_bytes());
    head[8..16].copy_from_slice(&tag.to_bits().to_le_bytes());
    head[16..20].copy_from_slice(&(len as u32).to_le_bytes());
    head[20..].copy_from_slice(&behind.to_le_bytes());
    hasher.update(&head);
    hasher.update(payload);
    hasher.finalize()
}

/// The header of a frame that covers `len` bytes of lost records at `offset`.
pub(super) fn lost(offset: u64, len: u64, ordinal: u64) -> [u8; HEADER] {
    let tag = Tag { ordinal, kind: Kind::Lost };
    let payload_len = len as usize - HEADER;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&(payload_len as u32).to_le_bytes());
    header[4..8].copy_from_slice(&checksum(offset, payload_len, tag, FAR, &[]).to_le_bytes());
    header[8..16].copy_from_slice(&tag.to_bits().to_le_bytes());
    header[16..].copy_from_slice(&FAR.to_le_bytes());
    header
}

/// The payload of an event.
pub(super) fn encode(event: &Event) -> Vec<u8> {
    // Plain data: postcard cannot fail on it.
    postcard::to_extend(event, vec![PAYLOAD_VERSION]).unwrap_or_default()
}

/// Computes the checksum of a frame anew, whose payload was changed in place.
pub(super) fn reseal(bytes: &mut [u8], offset: u64) {
    let Some(header) = Header::parse(bytes) else { return };
    let payload = &bytes[HEADER..HEADER + header.len];
    let crc = checksum(offset, header.len, header.tag, header.behind, payload);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads an event out of a payload; `None` if this binary does not know it.
pub(super) fn decode(payload: &[u8]) -> Option<Event> {
    match payload.split_first() {
        Some((&PAYLOAD_VERSION, rest)) => postcard::from_bytes(rest).ok(),
        _ => None,
    }
}

/// Records to be appended in one write, in memory that is used again.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Batch {
    /// Adds an event.
    pub fn push(&mut self, event: &Event) {
        let start = self.bytes.len();
        let kind = if matches!(event, Event::Decided(_)) { Kind::Decision } else { Kind::Other };
        self.bytes.extend_from_slice(&[0; HEADER]);
        self.bytes.push(PAYLOAD_VERSION);
        let bytes = core::mem::take(&mut self.bytes);
        // Plain data: postcard cannot fail on it.
        self.bytes = postcard::to_extend(event, bytes).unwrap_or_default();
        let len = self.bytes.len() - start - HEADER;
        self.bytes.resize(start + frame_len(len), 0);
        self.bytes[start..start + 4]
            .copy_from_slice(&(len.min(u32::MAX as usize) as u32).to_le_bytes());
        let tag = Tag { ordinal: 0, kind };
        self.bytes[start + 8..start + 16].copy_from_slice(&tag.to_bits().to_le_bytes());
        self.starts.push(start);
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// How many records it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The offset of record `i` once the batch was written at `first`.
    #[must_use]
    pub fn offset(&self, first: u64, i: usize) -> u64 {
        first + self.starts[i] as u64
    }

    /// The offset after the last record once the batch was written at `first`.
    #[must_use]
    pub fn end(&self, first: u64) -> u64 {
        first + self.bytes.len() as u64
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn too_large(&self) -> Option<usize> {
        let lens = self.starts.iter().filter_map(|&s| Some(Header::parse(&self.bytes[s..])?.len));
        let parsed = lens.clone().count();
        lens.max()
            .filter(|len| *len > FRAME_MAX)
            .or((parsed < self.starts.len()).then_some(self.bytes.len()))
    }

    /// Writes ordinal, distance behind and checksum into every header. Returns the ordinal after the last record.
    pub(super) fn seal(&mut self, first: u64, mut ordinal: u64, synced: u64) -> u64 {
        for &start in &self.starts {
            let Some(header) = Header::parse(&self.bytes[start..]) else { continue };
            let tag = Tag { ordinal, kind: header.tag.kind };
            let payload = &self.bytes[start + HEADER..start + HEADER + header.len];
            let offset = first + start as u64;
            let behind = u32::try_from(offset.saturating_sub(synced)).unwrap_or(FAR);
            let crc = checksum(offset, header.len, tag, behind, payload);
            self.bytes[start + 16..start + HEADER].copy_from_slice(&behind.to_le_bytes());
            self.bytes[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
            self.bytes[start + 8..start + 16].copy_from_slice(&tag.to_bits().to_le_bytes());
            ordinal += u64::from(tag.kind == Kind::Decision);
        }
        ordinal
    }
}
