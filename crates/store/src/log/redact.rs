//! Taking contexts out of sealed segments: the records, their places and their lengths stay.

use std::sync::PoisonError;

use pawl_domain::Event;

use super::{
    HEADER, Kind, Log, LogError, REDACTED, SEGMENT_HEADER, Segment,
    frame::{self, frame_len},
    segment_path,
};
use crate::disk::write_whole;

impl Log {
    /// Below this offset contexts were taken out; 0 if none were.
    #[must_use]
    pub fn redacted_below(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let last = segments.iter().rposition(|s| s.redacted);
        last.and_then(|i| segments.get(i + 1)).map_or(0, |s| s.base)
    }

    /// Rewrites every sealed segment that ends at or before `before` with empty contexts. Each is replaced as a whole: a
    /// crash leaves the old or the new one. Returns how many were rewritten.
    ///
    /// # Errors
    /// If a segment is damaged or the disk refuses.
    pub fn redact(&self, before: u64) -> Result<usize, LogError> {
        let sealed: Vec<Segment> = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let ends_before = |pair: &[Segment]| pair[1].base <= before && !pair[0].redacted;
            segments.windows(2).filter(|p| ends_before(p)).map(|p| p[0].clone()).collect()
        };
        for segment in &sealed {
            let len = usize::try_from(segment.file.size()?).map_err(std::io::Error::other)?;
            let mut bytes = vec![0; len];
            let n = segment.file.read_at(&mut bytes, 0)?;
            bytes.truncate(n);
            blank(&mut bytes, segment.base)?;
            bytes[REDACTED] = 1;
            let path = segment_path(segment.base);
            write_whole(self.disk.as_ref(), &path, &bytes)?;
            let file = self.disk.open(&path)?;
            let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = segments.iter_mut().find(|s| s.base == segment.base) {
                *known = Segment { base: segment.base, file, redacted: true };
            }
        }
        Ok(sealed.len())
    }
}

/// Empties the context of every decision in a segment's bytes, an object and spaces of the same length, and the rows
/// of examples.
fn blank(bytes: &mut [u8], base: u64) -> Result<(), LogError> {
    let mut within = SEGMENT_HEADER as usize;
    while within < bytes.len() {
        let offset = base + (within as u64 - SEGMENT_HEADER);
        let header = frame::check(&bytes[within..], offset).ok_or(LogError::Damaged(offset))?;
        let payload = within + HEADER..within + HEADER + header.len;
        let blanked = match (header.tag.kind, frame::decode(&bytes[payload.clone()])) {
            (Kind::Decision, Some(Event::Decided(mut decided))) if decided.context.len() >= 2 => {
                decided.context = format!("{{}}{}", " ".repeat(decided.context.len() - 2));
                Some(Event::Decided(decided))
            }
            (Kind::Other, Some(Event::Examples(mut examples))) => {
                examples.rows.blank();
                Some(Event::Examples(examples))
            }
            _ => None,
        };
        if let Some(event) = blanked {
            let encoded = frame::encode(&event);
            if encoded.len() == header.len {
                bytes[payload].copy_from_slice(&encoded);
                frame::reseal(&mut bytes[within..], offset);
            }
        }
        within += frame_len(header.len);
    }
    Ok(())
}
