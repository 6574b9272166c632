//! `memory_op` of PV guests: they know frames by number, give them back and get others, and find the machine-to-physical table.

use cantle_abi::memory::XenMemoryReservation;
use cantle_abi::{Errno, Gfn, PAGE_SHIFT};
use cantle_pv_monitor::interface::M2P_BASE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Caller, MAX_ORDER, Served, own, pages};
use crate::pv::PvDomain;

/// Where the machine-to-physical table is, in frames (memory.h).
pub(super) const XENMEM_machphys_mfn_list: u32 = 5;
/// Where it is, in addresses (memory.h).
pub(super) const XENMEM_machphys_mapping: u32 = 12;
/// What a piece of the table has, in `XENMEM_machphys_mfn_list`: 2 MiB.
const PIECE: u64 = 2 << 20;
/// The most frames in one exchange: Xen has guests that are not privileged exchange 2 MiB at the most.
const MOST_EXCHANGED: u64 = 1 << MAX_ORDER;

/// `struct xen_machphys_mapping`, 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MachphysMapping {
    v_start: u64,
    v_end: u64,
    max_mfn: u64,
}

/// `struct xen_machphys_mfn_list`, 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MachphysMfnList {
    max_extents: u32,
    pad0: u32,
    extent_start: u64,
    nr_extents: u32,
    pad1: u32,
}

/// `struct xen_memory_exchange`, 72 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MemoryExchange {
    taken: XenMemoryReservation,
    given: XenMemoryReservation,
    nr_exchanged: u64,
}

pub(super) fn machphys_mapping(caller: &Caller<'_>, pv: &PvDomain, at: u64) -> Served {
    let entries = pv.frames().end();
    let mapping = MachphysMapping {
        v_start: M2P_BASE,
        v_end: M2P_BASE + (entries * 8).next_multiple_of(PIECE),
        max_mfn: entries - 1,
    };
    caller.write(at, &mapping)?;
    Ok(0)
}

/// The first frame of each 2 MiB of the table, as many as there is room for.
pub(super) fn machphys_mfn_list(caller: &Caller<'_>, pv: &PvDomain, at: u64) -> Served {
    let mut list: MachphysMfnList = caller.read(at)?;
    let there = (pv.frames().end() * 8).div_ceil(PIECE);
    let count = there.min(u64::from(list.max_extents));
    for piece in 0..count {
        let mfn = (pv.m2p() + piece * PIECE) >> PAGE_SHIFT;
        caller.write(Caller::element::<u64>(list.extent_start, piece)?, &mfn)?;
    }
    list.nr_extents = u32::try_from(count).unwrap_or(0);
    caller.write(at, &list)?;
    Ok(0)
}

/// Gives a frame back.
pub(super) fn decrease(caller: &Caller<'_>, pv: &PvDomain, mfn: Gfn) -> bool {
    if !pv.frames().contains(mfn.0) {
        return false;
    }
    let ram = &caller.domain().ram;
    ram.remove(mfn).is_ok() && pv.set_pfn(ram, mfn.0, None).is_ok()
}

/// Takes extents of frames, which replace the list's entries; where these say which pages they become (`populate`), the machine-to-physical table
/// does so, too. Returns how many were done.
pub(super) fn take(
    caller: &Caller<'_>,
    pv: &PvDomain,
    at: u64,
    start: u64,
    populate: bool,
) -> Served {
    let op: XenMemoryReservation = caller.read(at)?;
    own(caller, op.domid)?;
    if op.extent_order > MAX_ORDER {
        return Err(Errno::EPERM);
    }
    let domain = caller.domain();
    let most = op.nr_extents.min(domain.ram.max_pages());
    for extent in start..most {
        if domain.has_ended() {
            return Ok(pages(extent));
        }
        let place = Caller::element::<u64>(op.extent_start, extent);
        let page = place.and_then(|at| caller.read::<u64>(at));
        // Without a list the frames are nobody's to know; Xen gives them all the same, here they stay.
        let (Ok(place), Ok(page)) = (place, page) else {
            return Ok(pages(extent));
        };
        let Some(first) = domain.ram.take_ballooned(op.extent_order) else {
            return Ok(pages(extent));
        };
        for offset in 0..1_u64 << op.extent_order {
            let pfn = populate.then(|| page.wrapping_add(offset));
            pv.set_pfn(&domain.ram, first.0 + offset, pfn)?;
        }
        if caller.write(place, &first).is_err() {
            // It was read a moment ago. The guest does not learn of these frames.
            for offset in 0..1_u64 << op.extent_order {
                decrease(caller, pv, Gfn(first.0 + offset));
            }
            return Ok(pages(extent));
        }
    }
    Ok(pages(most))
}

/// Exchanges frames for others that are consecutive, or not: here the ones that are given serve already where they are consecutive as they should be, and
/// keep what is in them. Where they are not, the guest is told that nothing was exchanged.
pub(super) fn exchange(caller: &Caller<'_>, pv: &PvDomain, at: u64) -> Served {
    let mut op: MemoryExchange = caller.read(at)?;
    own(caller, op.taken.domid)?;
    own(caller, op.given.domid)?;
    if op.taken.extent_order > MAX_ORDER || op.given.extent_order > MAX_ORDER {
        return Err(Errno::EPERM);
    }
    let all = |list: &XenMemoryReservation| list.nr_extents.checked_shl(list.extent_order);
    let bytes = |list: &XenMemoryReservation| {
        all(list).filter(|n| n >> list.extent_order == list.nr_extents)
    };
    let count = bytes(&op.taken).filter(|n| Some(*n) == bytes(&op.given));
    let count = count.filter(|n| *n <= MOST_EXCHANGED);
    let count = count.ok_or(Errno::EINVAL)?;
    if op.nr_exchanged != 0 {
        return Err(Errno::EINVAL);
    }
    let mut frames = Vec::new();
    for extent in 0..op.taken.nr_extents {
        let at = Caller::element::<u64>(op.taken.extent_start, extent)?;
        let first: u64 = caller.read(at)?;
        for offset in 0..1_u64 << op.taken.extent_order {
            let mfn = first.checked_add(offset).ok_or(Errno::EINVAL)?;
            if !pv.frames().contains(mfn) || caller.domain().ram.is_ballooned(Gfn(mfn)) {
                return Err(Errno::EINVAL);
            }
            frames.push(mfn);
        }
    }
    let extent = usize::try_from(1_u64 << op.given.extent_order).map_err(|_| Errno::EINVAL)?;
    let serves = |frames: &[u64]| {
        let aligned = frames
            .first()
            .is_some_and(|mfn| mfn.is_multiple_of(extent as u64));
        aligned
            && frames
                .windows(2)
                .all(|pair| matches!(pair, [a, b] if a + 1 == *b))
    };
    let bits = op.given.mem_flags & 0xff;
    let below = |mfn: &u64| bits == 0 || bits >= 52 || mfn >> bits.saturating_sub(PAGE_SHIFT) == 0;
    if frames.len() as u64 != count
        || !frames.chunks(extent).all(serves)
        || !frames.iter().all(below)
    {
        return Err(Errno::ENOMEM);
    }
    for (index, mfns) in (0..).zip(frames.chunks(extent)) {
        let at = Caller::element::<u64>(op.given.extent_start, index)?;
        let pfn: u64 = caller.read(at)?;
        for (offset, mfn) in (0..).zip(mfns) {
            pv.set_pfn(&caller.domain().ram, *mfn, Some(pfn.wrapping_add(offset)))?;
        }
        caller.write(at, mfns.first().ok_or(Errno::EINVAL)?)?;
    }
    op.nr_exchanged = op.taken.nr_extents;
    caller.write(at, &op)?;
    Ok(0)
}

#[cfg(test)]
mod tests;
