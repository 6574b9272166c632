//! Which frames of the VM are the guest's: its first P2M as a formula.

use cantle_abi::{PAGE_SHIFT, PAGE_SIZE};
use cantle_pv_monitor::interface::Frames;

use crate::boot::layout::{HIGH_RAM_START, LOW_RAM_LIMIT};

/// The first of the frames in the hole below 4 GiB where the host's own pages are that a PV guest maps: shared info, rings, grant table.
pub const FIRST_SPECIAL: u64 = 0xf_0000;

/// The hole's first frame, and the one after its last.
const HOLE: std::ops::Range<u64> = LOW_RAM_LIMIT >> PAGE_SHIFT..HIGH_RAM_START >> PAGE_SHIFT;

/// The frames of a guest's memory: consecutive from the first on, but for the hole below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvFrames {
    first: u64,
    pages: u64,
}

impl PvFrames {
    /// `pages` pages from frame `first` on, which is below the hole. Fewer than 2^40 of them.
    #[must_use]
    pub const fn new(first: u64, pages: u64) -> Self {
        Self { first, pages }
    }

    /// Pages that the guest has.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Pages below the hole.
    const fn low(&self) -> u64 {
        let room = HOLE.start.saturating_sub(self.first);
        if self.pages < room { self.pages } else { room }
    }

    /// Its memory, in at most two pieces.
    #[must_use]
    pub const fn pieces(&self) -> [Frames; 2] {
        let high = self.pages - self.low();
        [
            Frames {
                start: self.first,
                end: self.first + self.low(),
            },
            Frames {
                start: HOLE.end,
                end: HOLE.end + high,
            },
        ]
    }

    /// The frame after the last one.
    #[must_use]
    pub const fn end(&self) -> u64 {
        let [low, high] = self.pieces();
        if high.start < high.end {
            high.end
        } else {
            low.end
        }
    }

    /// The frame of a page, as it is at the start.
    #[must_use]
    pub const fn mfn(&self, pfn: u64) -> Option<u64> {
        if pfn >= self.pages {
            None
        } else if pfn < self.low() {
            Some(self.first + pfn)
        } else {
            Some(HOLE.end + (pfn - self.low()))
        }
    }

    /// Whether a frame is the guest's memory.
    #[must_use]
    pub const fn contains(&self, mfn: u64) -> bool {
        let [low, high] = self.pieces();
        (low.start <= mfn && mfn < low.end) || (high.start <= mfn && mfn < high.end)
    }

    /// The ranges of RAM of the VM, the monitor's frames among them, as guest-physical start and length in bytes.
    #[must_use]
    pub fn ram_ranges(&self) -> Vec<(u64, u64)> {
        let bytes = |frames: Frames| (frames.end - frames.start) << PAGE_SHIFT;
        let [low, high] = self.pieces();
        let mut ranges = vec![(0, low.end << PAGE_SHIFT)];
        if bytes(high) > 0 {
            ranges.push((high.start << PAGE_SHIFT, bytes(high)));
        }
        ranges
    }

    /// The pieces of VM memory behind `bytes` bytes of pseudo-physical memory at `address`, each as address and length;
    /// `None` where the guest has not that much.
    #[must_use]
    pub(super) fn behind(&self, address: u64, bytes: u64) -> Option<Vec<(u64, u64)>> {
        let end = address.checked_add(bytes)?;
        if end > self.pages.checked_mul(PAGE_SIZE as u64)? {
            return None;
        }
        let low_end = self.low() << PAGE_SHIFT;
        let mut pieces = Vec::new();
        for (from, to, base) in [
            (address, end.min(low_end), self.first << PAGE_SHIFT),
            (
                address.max(low_end),
                end,
                (HOLE.end << PAGE_SHIFT).wrapping_sub(low_end),
            ),
        ] {
            if from < to {
                pieces.push((base.wrapping_add(from), to - from));
            }
        }
        Some(pieces)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_page_has_a_frame_of_its_own(first in 1_u64..0x2000, pages in 1_u64..0x20_0000, at in any::<proptest::sample::Index>()) {
            let frames = PvFrames::new(first, pages);
            let pfn = at.index(usize::try_from(pages).unwrap()) as u64;
            let mfn = frames.mfn(pfn).unwrap();
            prop_assert!(frames.contains(mfn) && mfn < frames.end() && !HOLE.contains(&mfn) && mfn >= first);
            prop_assert_ne!(mfn, pfn);
            if let Some(next) = frames.mfn(pfn + 1) {
                prop_assert!(next == mfn + 1 || (mfn + 1, next) == (HOLE.start, HOLE.end));
            }
            let total: u64 = frames.pieces().iter().map(|piece| piece.end - piece.start).sum();
            prop_assert_eq!(total, pages);
            let behind = frames.behind(pfn << PAGE_SHIFT, (pages - pfn) << PAGE_SHIFT).unwrap();
            prop_assert_eq!(behind[0].0, mfn << PAGE_SHIFT);
            prop_assert_eq!(behind.iter().map(|(_, bytes)| bytes).sum::<u64>(), (pages - pfn) << PAGE_SHIFT);
            prop_assert!(!frames.contains(first - 1) && !frames.contains(frames.end()));
        }
    }

    #[test]
    fn there_is_nothing_behind_the_end() {
        let frames = PvFrames::new(0x200, 16);
        assert_eq!(frames.mfn(16), None);
        assert_eq!(frames.behind(15 << 12, 4097), None);
        assert_eq!(frames.behind(u64::MAX, 2), None);
    }
}
