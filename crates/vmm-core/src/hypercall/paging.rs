//! The walk of a guest's page tables, for the pointers in its hypercalls.

use crate::memory::GuestRam;

/// Present.
const P: u64 = 1 << 0;
/// Writable.
const RW: u64 = 1 << 1;
/// A large page.
const PS: u64 = 1 << 7;
/// The address bits of an entry.
const ADDR: u64 = 0x000f_ffff_ffff_f000;
/// CR4: five levels.
const CR4_LA57: u64 = 1 << 12;
/// CR0: paging.
const CR0_PG: u64 = 1 << 31;
/// EFER: long mode is active.
const EFER_LMA: u64 = 1 << 10;

/// How a vCPU translates addresses at the moment of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paging {
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
}

impl Paging {
    /// Whether the vCPU is in long mode.
    pub(crate) fn is_long(&self) -> bool {
        self.efer & EFER_LMA != 0 && self.cr0 & CR0_PG != 0
    }

    /// The guest-physical address behind a guest-virtual one, for reading or for writing; at most five steps.
    ///
    /// `None` where it is not mapped (or not writable), is not canonical, or the tables lie outside RAM. Long mode only.
    pub(crate) fn translate(&self, ram: &GuestRam, gva: u64, write: bool) -> Option<u64> {
        if !self.is_long() {
            return None;
        }
        let levels: u32 = if self.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
        let unused = 64 - (12 + 9 * levels);
        // Canonical: the unused upper bits repeat the highest used one.
        if (gva.cast_signed() << unused >> unused).cast_unsigned() != gva {
            return None;
        }
        let mut table = self.cr3 & ADDR;
        for level in (0..levels).rev() {
            let shift = 12 + 9 * level;
            let index = (gva >> shift) & 0x1ff;
            let entry = ram.read_u64(table + index * 8)?;
            if entry & P == 0 || (write && entry & RW == 0) {
                return None;
            }
            let large = entry & PS != 0 && (level == 1 || level == 2);
            if level == 0 || large {
                let offset = (1_u64 << shift) - 1;
                return Some((entry & ADDR & !offset) | (gva & offset));
            }
            table = entry & ADDR;
        }
        None
    }
}
