//! Sixteen bits a decision, in pages that are shared until they change: a checkpoint copies none of them.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};

/// No more feedback is taken. The bits above belong to metrics.
pub(super) const CLOSED: u16 = 1;

const PAGE: u64 = 4096;

/// Bits by ordinal of a decision, a window that moves up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Bits {
    /// Ordinal of the first that is kept.
    base: u64,
    /// Ordinal after the last.
    end: u64,
    /// The first page begins at `base` rounded down.
    pages: VecDeque<Arc<Vec<u16>>>,
}

impl Bits {
    pub(super) const fn len(&self) -> u64 {
        self.end - self.base
    }

    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Adds the decision with this ordinal. Those skipped were lost and are closed.
    pub(super) fn push(&mut self, ordinal: u64) {
        if self.pages.is_empty() {
            (self.base, self.end) = (ordinal.max(self.end), ordinal.max(self.end));
        }
        while self.end <= ordinal {
            if self.end.is_multiple_of(PAGE) || self.pages.is_empty() {
                self.pages.push_back(Arc::new(vec![0; PAGE as usize]));
            }
            self.end += 1;
            if self.end <= ordinal {
                self.set(self.end - 1, CLOSED);
            }
        }
    }

    fn place(&self, ordinal: u64) -> Option<(usize, usize)> {
        let inside = (self.base..self.end).contains(&ordinal);
        let page = (ordinal / PAGE).checked_sub(self.base / PAGE)?;
        inside.then_some((page as usize, (ordinal % PAGE) as usize))
    }

    /// The bits of a decision; `None` if it is not kept any more.
    pub(super) fn get(&self, ordinal: u64) -> Option<u16> {
        let (page, within) = self.place(ordinal)?;
        self.pages.get(page)?.get(within).copied()
    }

    /// Sets bits of a decision, if it is kept.
    pub(super) fn set(&mut self, ordinal: u64, bits: u16) {
        if let Some((page, within)) = self.place(ordinal)
            && let Some(page) = self.pages.get_mut(page)
            && let Some(slot) = Arc::make_mut(page).get_mut(within)
        {
            *slot |= bits;
        }
    }

    /// Forgets every decision before `ordinal`.
    pub(super) fn release(&mut self, ordinal: u64) {
        let base = ordinal.clamp(self.base, self.end);
        for _ in self.base / PAGE..base / PAGE {
            self.pages.pop_front();
        }
        self.base = base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_window() {
        let mut bits = Bits::default();
        for i in 0..20_000 {
            bits.push(i);
            bits.set(i, 2);
        }
        bits.release(9_999);
        assert_eq!(
            (bits.get(9_998), bits.get(9_999), bits.get(19_999), bits.get(20_000)),
            (None, Some(2), Some(2), None)
        );
        assert_eq!(bits.pages.len(), 3);
        bits.release(20_000);
        assert_eq!(bits.len(), 0);
        bits.push(20_000);
        bits.set(20_000, 4);
        assert_eq!(bits.get(20_000), Some(4));
        bits.push(20_002);
        assert_eq!((bits.get(20_001), bits.get(20_002)), (Some(CLOSED), Some(0)));
    }
}
