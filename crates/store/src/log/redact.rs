//! Taking contexts out of sealed segments: the records, their places and their lengths stay.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use pawl_domain::{Event, event::Decided};

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
        self.end_of_last(|s| s.redacted)
    }

    /// Below this offset the contexts of some decisions were taken out; 0 if none were.
    #[must_use]
    pub fn erased_below(&self) -> u64 {
        self.end_of_last(|s| s.erased).max(self.erasing.load(Ordering::Acquire))
    }

    /// Says that records below `offset` are about to be erased.
    pub fn erases_below(&self, offset: u64) {
        self.erasing.fetch_max(offset, Ordering::AcqRel);
    }

    fn end_of_last(&self, is: impl Fn(&Segment) -> bool) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let last = segments.iter().rposition(is);
        last.and_then(|i| segments.get(i + 1)).map_or(0, |s| s.base)
    }

    /// Rewrites every sealed segment that ends at or before `before` with empty contexts. Returns how many were rewritten.
    ///
    /// # Errors
    /// If a segment is damaged or the disk refuses.
    pub fn redact(&self, before: u64) -> Result<usize, LogError> {
        let _alone = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let sealed = self.spans().into_iter().filter(|(s, end)| *end <= before && !s.redacted);
        let mut count = 0;
        for (segment, _) in sealed {
            self.rewrite(segment, true, &|_, event| match event {
                Event::Decided(mut decided) if decided.context.len() >= 2 => {
                    decided.context = format!("{{}}{}", " ".repeat(decided.context.len() - 2));
                    Some(Event::Decided(decided))
                }
                Event::Examples(mut examples) => {
                    examples.rows.blank();
                    Some(Event::Examples(examples))
                }
                _ => None,
            })?;
            count += 1;
        }
        Ok(count)
    }

    /// Takes out of the decisions at `offsets`, in ascending order, what they say of a person. All must stand in sealed
    /// segments. Returns how many segments were rewritten.
    ///
    /// # Errors
    /// If a segment is damaged or the disk refuses.
    pub fn erase(&self, offsets: &[u64]) -> Result<usize, LogError> {
        let _alone = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (segment, end) in self.spans() {
            let from = offsets.partition_point(|o| *o < segment.base);
            let to = offsets.partition_point(|o| *o < end);
            if from == to {
                continue;
            }
            let within = &offsets[from..to];
            let redacted = segment.redacted;
            self.rewrite(segment, redacted, &|offset, event| match event {
                Event::Decided(mut decided) if within.binary_search(&offset).is_ok() => {
                    decided.erase();
                    Some(Event::Decided(decided))
                }
                _ => None,
            })?;
            count += 1;
        }
        Ok(count)
    }

    /// The offsets of the decisions below `before` that are meant and not erased yet, in ascending order.
    ///
    /// # Errors
    /// If the log is damaged or the disk refuses.
    pub fn find(
        self: &Arc<Self>,
        before: u64,
        is: impl Fn(&Decided) -> bool,
    ) -> Result<Vec<u64>, LogError> {
        let mut reader = self.reader(self.first());
        let mut found = Vec::new();
        while let Some(entry) = reader.next_decision(before)? {
            match &entry.event {
                Event::Decided(d) if entry.offset < before && is(d) => found.push(entry.offset),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Sealed segments with where they end.
    fn spans(&self) -> Vec<(Segment, u64)> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.windows(2).map(|pair| (pair[0].clone(), pair[1].base)).collect()
    }

    /// Replaces a segment by one in which some records are changed to others of the same length. A crash leaves the old or the
    /// new one.
    fn rewrite(
        &self,
        segment: Segment,
        whole: bool,
        change: &dyn Fn(u64, Event) -> Option<Event>,
    ) -> Result<(), LogError> {
        let len = usize::try_from(segment.file.size()?).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; len];
        let n = segment.file.read_at(&mut bytes, 0)?;
        bytes.truncate(n);
        alter(&mut bytes, segment.base, change)?;
        bytes[REDACTED] = if whole { 1 } else { 2 };
        let path = segment_path(segment.base);
        write_whole(self.disk.as_ref(), &path, &bytes)?;
        let file = self.disk.open(&path)?;
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = segments.iter_mut().find(|s| s.base == segment.base) {
            *known = Segment { base: segment.base, file, redacted: whole, erased: !whole };
        }
        Ok(())
    }
}

/// Changes records in a segment's bytes to others of the same length.
fn alter(
    bytes: &mut [u8],
    base: u64,
    change: &dyn Fn(u64, Event) -> Option<Event>,
) -> Result<(), LogError> {
    let mut within = SEGMENT_HEADER as usize;
    while within < bytes.len() {
        let offset = base + (within as u64 - SEGMENT_HEADER);
        let header = frame::check(&bytes[within..], offset).ok_or(LogError::Damaged(offset))?;
        let payload = within + HEADER..within + HEADER + header.len;
        let changed = match header.tag.kind {
            Kind::Decision | Kind::Other => {
                frame::decode(&bytes[payload.clone()]).and_then(|event| change(offset, event))
            }
            Kind::Lost => None,
        };
        if let Some(event) = changed {
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
