//! How often a domain's grants were used.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// How often a domain's grants were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Mappings made.
    pub maps: u64,
    /// Mappings ended.
    pub unmaps: u64,
    /// Pieces copied out of or into its granted pages.
    pub copies: u64,
    /// Bytes in them.
    pub bytes: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    maps: AtomicU64,
    unmaps: AtomicU64,
    /// Copies (high bits) and their bytes (low bits) since they were last carried over: one addition counts both.
    recent: AtomicU64,
    copies: AtomicU64,
    bytes: AtomicU64,
}

/// Where the copies begin in `recent`.
const COPIES_SHIFT: u32 = 44;
/// Either count is carried over before it is full: when its highest bit is set.
const NEARLY_FULL: u64 = 1 << 63 | 1 << (COPIES_SHIFT - 1);
/// The most that one addition may count, so that a hundred of them at a time cannot run over before one of them carries.
const MOST_COPIES: u64 = 1 << 12;
const MOST_BYTES: u64 = 1 << 36;

impl Counters {
    pub(super) fn maps(&self, count: u64) {
        self.maps.fetch_add(count, Relaxed);
    }

    pub(super) fn unmaps(&self, count: u64) {
        self.unmaps.fetch_add(count, Relaxed);
    }

    pub(super) fn copies(&self, copies: u64, bytes: u64) {
        if copies > MOST_COPIES || bytes > MOST_BYTES {
            self.copies.fetch_add(copies, Relaxed);
            self.bytes.fetch_add(bytes, Relaxed);
            return;
        }
        let before = self
            .recent
            .fetch_add(copies << COPIES_SHIFT | bytes, Relaxed);
        if before & NEARLY_FULL != 0 {
            self.carry();
        }
    }

    #[cold]
    fn carry(&self) {
        let (copies, bytes) = split(self.recent.swap(0, Relaxed));
        self.copies.fetch_add(copies, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn read(&self) -> Stats {
        self.carry();
        Stats {
            maps: self.maps.load(Relaxed),
            unmaps: self.unmaps.load(Relaxed),
            copies: self.copies.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

fn split(recent: u64) -> (u64, u64) {
    (recent >> COPIES_SHIFT, recent & ((1 << COPIES_SHIFT) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_carried_over_before_either_is_full() {
        let counters = Counters::default();
        let (mut copies, mut bytes) = (0, 0);
        for n in 0..1000 {
            counters.copies(MOST_COPIES, n);
            counters.copies(1, MOST_BYTES);
            counters.copies(MOST_COPIES + 1, 3);
            copies += 2 * MOST_COPIES + 2;
            bytes += n + MOST_BYTES + 3;
        }
        let stats = counters.read();
        assert_eq!((stats.copies, stats.bytes), (copies, bytes));
        assert_eq!(counters.read(), stats, "reading changes nothing");
    }
}
