//! Which frames are the guest's.

use crate::interface::{BootInfo, Frames};

impl Frames {
    /// Whether a frame is one of them.
    #[must_use]
    pub const fn contain(&self, mfn: u64) -> bool {
        self.start <= mfn && mfn < self.end
    }
}

impl BootInfo {
    /// Whether a frame is of the guest's own memory, which is all in the direct map.
    #[must_use]
    pub fn is_ram(&self, mfn: u64) -> bool {
        self.ram.iter().any(|frames| frames.contain(mfn))
    }

    /// Whether the guest may map a frame: its memory, and what the host shares with it.
    #[must_use]
    pub fn may_map(&self, mfn: u64) -> bool {
        self.is_ram(mfn) || self.special.contain(mfn) || mfn == self.shared_info
    }
}
