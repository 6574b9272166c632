//! `memory_op`: where pages are, and the balloon.

mod pv;

use cantle_abi::memory::{
    E820Entry, MEMOP_CMD_MASK, XENMAPSPACE_grant_table, XENMAPSPACE_shared_info,
    XENMEM_add_to_physmap, XENMEM_add_to_physmap_batch, XENMEM_current_reservation,
    XENMEM_decrease_reservation, XENMEM_exchange, XENMEM_increase_reservation, XENMEM_maximum_gpfn,
    XENMEM_maximum_ram_page, XENMEM_maximum_reservation, XENMEM_memory_map,
    XENMEM_populate_physmap, XENMEM_remove_from_physmap, XenAddToPhysmap, XenAddToPhysmapBatch,
    XenMemoryMap, XenMemoryReservation, XenRemoveFromPhysmap,
};
use cantle_abi::start_info::{HvmMemmapTableEntry, XEN_HVM_MEMMAP_TYPE_RAM};
use cantle_abi::{DomId, Errno, Gfn, PAGE_SHIFT};

use super::{Call, Caller, Served};
use crate::boot::layout;
use crate::grants;
use crate::memory::HeapPage;
use crate::pv::PvDomain;

/// The largest extent, as log2 of pages, that a guest may give or take at once: 2 MiB, as Xen lets guests.
const MAX_ORDER: u32 = 9;
/// The most places in one batch, since each takes KVM a while: several times the pages of a table of the usual size.
const MOST_PLACES: u16 = 512;

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let (cmd, at) = (call.arg32(0), call.arg(1));
    let start = u64::from(cmd >> MEMOP_CMD_MASK.count_ones());
    if let Some(pv) = &caller.domain().pv {
        return serve_pv(caller, pv, (cmd & MEMOP_CMD_MASK, start), at);
    }
    match cmd & MEMOP_CMD_MASK {
        XENMEM_add_to_physmap => {
            let op: XenAddToPhysmap = caller.read(at)?;
            own(caller, op.domid)?;
            if op.space_high != 0 {
                return Err(Errno::EINVAL);
            }
            add(caller, op.space, op.idx, op.gpfn)?;
            Ok(0)
        }
        XENMEM_add_to_physmap_batch => add_batch(caller, at),
        XENMEM_remove_from_physmap => {
            let op: XenRemoveFromPhysmap = caller.read(at)?;
            own(caller, op.domid)?;
            caller.domain().ram.remove(op.gpfn)?;
            Ok(0)
        }
        XENMEM_memory_map => {
            let ram = &caller.domain().ram;
            memory_map(
                caller,
                at,
                layout::memory_map(ram.max_pages() << PAGE_SHIFT),
            )
        }
        XENMEM_current_reservation => {
            own_at(caller, at)?;
            Ok(pages(caller.domain().ram.current_pages()))
        }
        XENMEM_maximum_reservation => {
            own_at(caller, at)?;
            Ok(pages(caller.domain().ram.max_pages()))
        }
        XENMEM_maximum_gpfn | XENMEM_maximum_ram_page => Ok(pages(max_gfn(caller))),
        XENMEM_decrease_reservation => reservation(caller, at, start, |caller, gfn| {
            caller.domain().ram.remove(gfn).is_ok()
        }),
        XENMEM_populate_physmap => reservation(caller, at, start, |caller, gfn| {
            caller.domain().ram.populate(gfn)
        }),
        _ => Err(Errno::ENOSYS),
    }
}

/// What is different for a guest that is not translated; the rest is the same.
fn serve_pv(caller: &Caller<'_>, pv: &PvDomain, (cmd, start): (u32, u64), at: u64) -> Served {
    match cmd {
        XENMEM_memory_map => {
            let all = HvmMemmapTableEntry {
                addr: 0,
                size: caller.domain().ram.max_pages() << PAGE_SHIFT,
                kind: XEN_HVM_MEMMAP_TYPE_RAM,
                reserved: 0,
            };
            memory_map(caller, at, vec![all])
        }
        XENMEM_current_reservation | XENMEM_maximum_reservation => {
            own_at(caller, at)?;
            let ram = &caller.domain().ram;
            Ok(pages(match cmd {
                XENMEM_current_reservation => ram.current_pages(),
                _ => ram.max_pages(),
            }))
        }
        XENMEM_maximum_gpfn => Ok(pages(caller.domain().ram.max_pages() - 1)),
        XENMEM_maximum_ram_page => Ok(pages(pv.frames().end() - 1)),
        XENMEM_decrease_reservation => reservation(caller, at, start, |caller, mfn| {
            pv::decrease(caller, pv, mfn)
        }),
        XENMEM_populate_physmap => pv::take(caller, pv, at, start, true),
        XENMEM_increase_reservation => pv::take(caller, pv, at, start, false),
        XENMEM_exchange => pv::exchange(caller, pv, at),
        pv::XENMEM_machphys_mapping => pv::machphys_mapping(caller, pv, at),
        pv::XENMEM_machphys_mfn_list => pv::machphys_mfn_list(caller, pv, at),
        // The guest maps what it wants by frame.
        XENMEM_add_to_physmap | XENMEM_add_to_physmap_batch | XENMEM_remove_from_physmap => {
            Err(Errno::EACCES)
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn pages(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The last frame of RAM.
fn max_gfn(caller: &Caller<'_>) -> u64 {
    let ranges = layout::ram_ranges(caller.domain().ram.max_pages() << PAGE_SHIFT);
    ranges
        .last()
        .map_or(0, |(base, bytes)| (base + bytes - 1) >> PAGE_SHIFT)
}

fn own(caller: &Caller<'_>, dom: DomId) -> Result<(), Errno> {
    let own = caller.domain().domid;
    if dom.resolve(own) == own {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// For operations whose argument is just a domain.
fn own_at(caller: &Caller<'_>, at: u64) -> Result<(), Errno> {
    own(caller, caller.read(at)?)
}

fn add(caller: &Caller<'_>, space: u16, idx: u64, gpfn: Gfn) -> Result<(), Errno> {
    let domain = caller.domain();
    let page = match space {
        XENMAPSPACE_shared_info if idx == 0 => HeapPage::SHARED_INFO,
        XENMAPSPACE_grant_table => grants::page(&domain.grants, &domain.ram, idx)?,
        _ => return Err(Errno::EINVAL),
    };
    domain.ram.place(page, gpfn)?;
    if page == HeapPage::SHARED_INFO {
        domain.shared_info_placed(gpfn);
    }
    Ok(())
}

/// Each entry has its own result; the call fails only where its lists cannot be read.
fn add_batch(caller: &Caller<'_>, at: u64) -> Served {
    let op: XenAddToPhysmapBatch = caller.read(at)?;
    own(caller, op.domid)?;
    if op.size > MOST_PLACES {
        return Err(Errno::E2BIG);
    }
    for index in 0..u64::from(op.size) {
        if caller.domain().has_ended() {
            break;
        }
        let idx: u64 = caller.read(Caller::element::<u64>(op.idxs, index)?)?;
        let gpfn: Gfn = caller.read(Caller::element::<u64>(op.gpfns, index)?)?;
        let result = match add(caller, op.space, idx, gpfn) {
            Ok(()) => 0_i32,
            Err(errno) => -errno.0,
        };
        caller.write(Caller::element::<i32>(op.errs, index)?, &result)?;
    }
    Ok(0)
}

/// Stores as many entries as there is room for, and says how many (memory.h).
fn memory_map(caller: &Caller<'_>, at: u64, mut map: Vec<HvmMemmapTableEntry>) -> Served {
    let mut op: XenMemoryMap = caller.read(at)?;
    map.truncate(usize::try_from(op.nr_entries).unwrap_or(usize::MAX));
    let halves = |v: u64| {
        let bytes = v.to_le_bytes();
        let (low, high) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>());
        [
            low.map_or(0, |b| u32::from_le_bytes(*b)),
            high.map_or(0, |b| u32::from_le_bytes(*b)),
        ]
    };
    for (index, entry) in (0_u64..).zip(&map) {
        let e820 = E820Entry {
            addr: halves(entry.addr),
            size: halves(entry.size),
            kind: entry.kind,
        };
        caller.write(Caller::element::<E820Entry>(op.buffer, index)?, &e820)?;
    }
    op.nr_entries = u32::try_from(map.len()).unwrap_or(u32::MAX);
    caller.write(at, &op)?;
    Ok(0)
}

/// Gives pages back or takes them: returns how many extents were done, from `start` on, stopping at the first that cannot be, or
/// whose place in the list cannot be read.
fn reservation(
    caller: &Caller<'_>,
    at: u64,
    start: u64,
    page: impl Fn(&Caller<'_>, Gfn) -> bool,
) -> Served {
    let op: XenMemoryReservation = caller.read(at)?;
    own(caller, op.domid)?;
    if op.extent_order > MAX_ORDER {
        return Err(Errno::EPERM);
    }
    // More extents than the guest has pages cannot all succeed: the work is bounded by its own size.
    let most = op.nr_extents.min(caller.domain().ram.max_pages());
    for extent in start..most {
        // Not for the time that it takes: Xen goes on by itself after a pause, and Linux takes fewer than it asked for as a fault (BUG in its balloon).
        if caller.domain().has_ended() {
            return Ok(pages(extent));
        }
        // The guest learns of those that were done, whatever becomes of the others.
        let Ok(first) =
            Caller::element::<u64>(op.extent_start, extent).and_then(|at| caller.read::<Gfn>(at))
        else {
            return Ok(pages(extent));
        };
        for offset in 0..1_u64 << op.extent_order {
            if !first
                .0
                .checked_add(offset)
                .is_some_and(|gfn| page(caller, Gfn(gfn)))
            {
                return Ok(pages(extent));
            }
        }
    }
    Ok(pages(most))
}

#[cfg(test)]
mod tests;
