//! The machine-to-physical table as it is at the start.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{MonitorError, MonitorLayout};

impl MonitorLayout {
    /// The guest's pages by frame; all other frames have none (all ones, as in Xen).
    pub(super) fn write_m2p(&self, memory: &GuestMemoryMmap<()>) -> Result<(), MonitorError> {
        /// Entries written at a time.
        const PIECE: u64 = 1 << 16;
        let [low, high] = self.guest.pieces();
        let pfn = |mfn: u64| {
            if (low.start..low.end).contains(&mfn) {
                mfn - low.start
            } else if (high.start..high.end).contains(&mfn) {
                mfn - high.start + (low.end - low.start)
            } else {
                u64::MAX
            }
        };
        let end = self.guest.end();
        let mut first = 0;
        while first < end {
            let last = end.min(first + PIECE);
            let bytes: Vec<u8> = (first..last)
                .flat_map(|mfn| pfn(mfn).to_le_bytes())
                .collect();
            memory.write_slice(&bytes, GuestAddress(self.m2p() + first * 8))?;
            first = last;
        }
        Ok(())
    }
}
