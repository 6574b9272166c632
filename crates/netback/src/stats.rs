//! What went through an interface.

use std::sync::atomic::{AtomicU64, Ordering};

/// One direction's counters. Written by the back end's thread, read by any.
#[derive(Debug, Default)]
pub struct Direction {
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
}

/// An interface's counters, from the guest's side.
#[derive(Debug, Default)]
pub struct Stats {
    /// From the guest.
    pub tx: Direction,
    /// To the guest.
    pub rx: Direction,
    stalls: AtomicU64,
}

impl Stats {
    /// How often the link was taken down since the guest took no packets.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    pub(crate) fn count_stall(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }
}

/// One direction's counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that went through; a large one that is to be cut up counts as one.
    pub packets: u64,
    /// Their bytes, Ethernet headers included.
    pub bytes: u64,
    /// Packets lost though nobody was at fault: the port did not take them, or had none that the guest can take.
    pub dropped: u64,
    /// Packets refused since the guest made a mistake: malformed, or with pages that cannot be had; and the port's failures.
    pub errors: u64,
}

impl Direction {
    /// The counters now. Each is right; together they may be of slightly different moments.
    #[must_use]
    pub fn counts(&self) -> Counts {
        // Relaxed, here and below: the numbers order nothing.
        Counts {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}
