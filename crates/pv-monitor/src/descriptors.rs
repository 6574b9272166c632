//! Segment descriptors of the guest, and the window through which the processor sees its tables.

use cantle_abi::Errno;
use cantle_abi::pv::{FIRST_RESERVED_GDT_ENTRY, FIRST_RESERVED_GDT_PAGE};

use crate::hardware::Machine;
use crate::interface::{MAX_VCPUS, WINDOW_SIZE};

/// Descriptors in a page.
const PER_PAGE: u64 = 512;
/// Pages of a window: GDT and LDT.
const WINDOW_PAGES: u64 = WINDOW_SIZE / 4096;
/// The first page of the LDT.
const LDT_PAGE: u64 = WINDOW_PAGES / 2;
/// Level-1 entry of a window's page: present, writable, accessed, dirty, never executed.
const WINDOW_ENTRY: u64 = 1 << 63 | 0x63;
/// Most descriptors of an LDT.
pub const LDT_ENTRIES: u64 = 8192;

const PRESENT: u64 = 1 << 47;
const NOT_SYSTEM: u64 = 1 << 44;
const CODE: u64 = 1 << 43;
const ACCESSED: u64 = 1 << 40;
const DPL: u64 = 3 << 45;

/// What becomes of a descriptor that the guest wants: the kernel's privilege is ring 1, data may be used by all, and it has been accessed already,
/// so that the processor never writes to it. `None` where it may not be: system segments and gates.
#[must_use]
pub const fn fixed(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        // The processor faults on it, whatever it is.
        return Some(descriptor);
    }
    if descriptor & NOT_SYSTEM == 0 {
        return None;
    }
    let accessed = descriptor | ACCESSED;
    if descriptor & CODE == 0 {
        Some(accessed | DPL)
    } else if descriptor & DPL == 0 {
        Some(accessed | 1 << 45)
    } else {
        Some(accessed)
    }
}

/// Fixes all descriptors of a frame, in place.
///
/// # Errors
/// `EINVAL` where one of them may not be; those before it are fixed already, which does no harm.
fn fix_frame<M: Machine>(machine: &mut M, mfn: u64, entries: u64) -> Result<(), Errno> {
    for index in 0..entries.min(PER_PAGE) {
        let at = (mfn << 12) + index * 8;
        let old = machine.load(at);
        let new = fixed(old).ok_or(Errno::EINVAL)?;
        if old != new {
            machine.store(at, new);
        }
    }
    Ok(())
}

/// Shows a frame, or nothing, in a page of a vCPU's window.
fn show<M: Machine>(machine: &mut M, vcpu: u32, page: u64, mfn: Option<u64>) {
    if vcpu >= MAX_VCPUS || page >= WINDOW_PAGES {
        return;
    }
    // The level-1 tables are one after the other: so are their entries.
    let entry = u64::from(vcpu) * WINDOW_PAGES + page;
    let at = (machine.boot().window_tables << 12) + entry * 8;
    machine.store(at, mfn.map_or(0, |mfn| mfn << 12 | WINDOW_ENTRY));
}

/// The pages that so many descriptors take.
#[must_use]
pub const fn pages(entries: u64) -> u64 {
    entries.div_ceil(PER_PAGE)
}

/// Gives a vCPU a GDT: the first `entries` descriptors are in `frames`. The processor is to be told.
///
/// # Errors
/// `EINVAL` where there are too many, a frame is not the guest's, or a descriptor may not be. The table is then as it was.
pub fn set_gdt<M: Machine>(
    machine: &mut M,
    vcpu: u32,
    frames: &[u64],
    entries: u64,
) -> Result<(), Errno> {
    let count = pages(entries);
    let used = usize::try_from(count)
        .ok()
        .and_then(|count| frames.get(..count));
    let Some(used) = used else {
        return Err(Errno::EINVAL);
    };
    if entries > FIRST_RESERVED_GDT_ENTRY || !used.iter().all(|&mfn| machine.boot().is_ram(mfn)) {
        return Err(Errno::EINVAL);
    }
    for &mfn in used {
        // All of the page can be loaded from.
        fix_frame(machine, mfn, PER_PAGE)?;
    }
    let mut used = used.iter();
    for page in 0..FIRST_RESERVED_GDT_PAGE {
        show(machine, vcpu, page, used.next().copied());
    }
    Ok(())
}

/// Gives a vCPU an LDT of `frames`, all of which are the guest's memory. The processor is to be told.
///
/// # Errors
/// `EINVAL` where a descriptor may not be. The table is then as it was.
pub fn set_ldt<M: Machine>(
    machine: &mut M,
    vcpu: u32,
    frames: &[u64],
    entries: u64,
) -> Result<(), Errno> {
    let mut left = entries;
    for &mfn in frames {
        fix_frame(machine, mfn, left)?;
        left = left.saturating_sub(PER_PAGE);
    }
    let mut frames = frames.iter();
    for page in LDT_PAGE..WINDOW_PAGES {
        show(machine, vcpu, page, frames.next().copied());
    }
    Ok(())
}
