//! `grant_table_op`: a list of operations of one kind, each with a status of its own.

use std::time::Instant;

use cantle_abi::grant_table::{
    GNTST_bad_domain, GNTST_eagain, GNTST_general_error, GNTST_okay, GNTTABOP_cache_flush,
    GNTTABOP_copy, GNTTABOP_get_status_frames, GNTTABOP_get_version, GNTTABOP_map_grant_ref,
    GNTTABOP_query_size, GNTTABOP_set_version, GNTTABOP_setup_table, GNTTABOP_swap_grant_ref,
    GNTTABOP_transfer, GNTTABOP_unmap_and_replace, GNTTABOP_unmap_grant_ref, GnttabCacheFlush,
    GnttabCopy, GnttabGetStatusFrames, GnttabGetVersion, GnttabMapGrantRef, GnttabQuerySize,
    GnttabSetVersion, GnttabSetupTable, GnttabSwapGrantRef, GnttabTransfer, GnttabUnmapAndReplace,
    GnttabUnmapGrantRef,
};
use cantle_abi::{DomId, Errno};
use cantle_grant::Tables;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Call, Caller, LONGEST_CALL, Served};
use crate::memory::{GuestRam, HeapPage};

/// The most operations in one call.
const MOST: u32 = 1 << 16;
/// As many copies are read from the list at a time, and done with one lock.
const COPIES: usize = 16;

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let (cmd, list, count) = (call.arg32(0), call.arg(1), call.arg32(2));
    if count > MOST {
        return Err(Errno::E2BIG);
    }
    let tables = &caller.domain().tables;
    let own = caller.domain().domid;
    match cmd {
        GNTTABOP_query_size | GNTTABOP_setup_table | GNTTABOP_get_status_frames if count != 1 => {
            Err(Errno::EINVAL)
        }
        GNTTABOP_query_size => each(caller, list, 1, query_size),
        GNTTABOP_setup_table => each(caller, list, 1, setup_table),
        GNTTABOP_get_status_frames => each(caller, list, 1, get_status_frames),
        GNTTABOP_set_version => set_version(caller, list),
        GNTTABOP_get_version => each(caller, list, 1, get_version),
        GNTTABOP_copy => copy(caller, list, count),
        GNTTABOP_map_grant_ref => map(caller, list, count),
        GNTTABOP_unmap_grant_ref => each(caller, list, count, |_, op: &mut GnttabUnmapGrantRef| {
            tables.guest_unmap(own, op);
            Ok(())
        }),
        GNTTABOP_unmap_and_replace => {
            each(caller, list, count, |_, op: &mut GnttabUnmapAndReplace| {
                tables.guest_unmap_and_replace(own, op);
                Ok(())
            })
        }
        GNTTABOP_transfer => each(caller, list, count, |_, op: &mut GnttabTransfer| {
            tables.guest_transfer(own, op);
            Ok(())
        }),
        GNTTABOP_swap_grant_ref => each(caller, list, count, |caller, op| {
            swap_grant_ref(caller, op);
            Ok(())
        }),
        GNTTABOP_cache_flush => each(caller, list, count, |_, op: &mut GnttabCacheFlush| {
            Tables::guest_cache_flush(op)
        }),
        _ => Err(Errno::ENOSYS),
    }
}

/// Does an operation for each structure of a list, writing each back.
fn each<T: FromBytes + IntoBytes + Immutable>(
    caller: &Caller<'_>,
    list: u64,
    count: u32,
    op: impl Fn(&Caller<'_>, &mut T) -> Result<(), Errno>,
) -> Served {
    for index in 0..u64::from(count) {
        if caller.domain().has_ended() {
            break;
        }
        let at = Caller::element::<T>(list, index)?;
        let mut value: T = caller.read(at)?;
        op(caller, &mut value)?;
        caller.write(at, &value)?;
    }
    Ok(0)
}

/// Copies, some of the list at a time.
fn copy(caller: &Caller<'_>, list: u64, count: u32) -> Served {
    let domain = caller.domain();
    let mut ops = Vec::with_capacity(COPIES);
    let mut first = 0;
    while first < u64::from(count) && !domain.has_ended() {
        ops.clear();
        for index in (first..u64::from(count)).take(COPIES) {
            match Caller::element::<GnttabCopy>(list, index).and_then(|at| caller.read(at)) {
                Ok(op) => ops.push(op),
                // Those before it are done, as they would be one by one.
                Err(_) => break,
            }
        }
        let read = ops.len() as u64;
        domain.tables.guest_copy(domain.domid, &mut ops);
        for (index, op) in (first..).zip(&ops) {
            caller.write(Caller::element::<GnttabCopy>(list, index)?, op)?;
        }
        if read == 0 {
            return Err(Errno::EFAULT);
        }
        first += read;
    }
    Ok(0)
}

/// Maps; each takes KVM a while. What there is no time for is to be tried again.
fn map(caller: &Caller<'_>, list: u64, count: u32) -> Served {
    let until = Instant::now() + LONGEST_CALL;
    each(caller, list, count, |caller, op: &mut GnttabMapGrantRef| {
        if Instant::now() > until {
            op.status = GNTST_eagain;
        } else {
            let domain = caller.domain();
            domain.tables.guest_map(domain.domid, op);
        }
        Ok(())
    })
}

fn swap_grant_ref(caller: &Caller<'_>, op: &mut GnttabSwapGrantRef) {
    let swapped = caller.domain().grants.swap(op.ref_a, op.ref_b);
    op.status = swapped.map_or_else(|status| status.0, |()| GNTST_okay);
}

fn get_version(caller: &Caller<'_>, op: &mut GnttabGetVersion) -> Result<(), Errno> {
    if !is_self(caller, op.dom) {
        return Err(Errno::EPERM);
    }
    op.version = caller.domain().grants.version();
    Ok(())
}

fn is_self(caller: &Caller<'_>, dom: DomId) -> bool {
    dom.resolve(caller.domain().domid) == caller.domain().domid
}

/// The version in use is told also where the one that is wanted is refused.
fn set_version(caller: &Caller<'_>, at: u64) -> Served {
    let wanted: GnttabSetVersion = caller.read(at)?;
    let grants = &caller.domain().grants;
    let set = grants.set_version(wanted.version);
    let version = grants.version();
    caller.write(at, &GnttabSetVersion { version })?;
    set.map(|()| 0)
}

fn query_size(caller: &Caller<'_>, op: &mut GnttabQuerySize) -> Result<(), Errno> {
    let grants = &caller.domain().grants;
    op.status = if is_self(caller, op.dom) {
        op.nr_frames = grants.nr_frames();
        op.max_nr_frames = grants.max_frames();
        GNTST_okay
    } else {
        GNTST_bad_domain
    };
    Ok(())
}

/// Sizes the table. A translated guest learns no frame numbers: it places the frames itself by `XENMEM_add_to_physmap`. A PV guest maps them
/// by their numbers.
fn setup_table(caller: &Caller<'_>, op: &mut GnttabSetupTable) -> Result<(), Errno> {
    op.status = if !is_self(caller, op.dom) {
        GNTST_bad_domain
    } else {
        match caller.domain().grants.grow(op.nr_frames) {
            Ok(()) => {
                tell(caller, op.frame_list, op.nr_frames, GuestRam::grant_frame)?;
                GNTST_okay
            }
            Err(_) => GNTST_general_error,
        }
    };
    Ok(())
}

/// As [`setup_table`].
fn get_status_frames(caller: &Caller<'_>, op: &mut GnttabGetStatusFrames) -> Result<(), Errno> {
    op.status = if !is_self(caller, op.dom) {
        GNTST_bad_domain
    } else if op.nr_frames > caller.domain().grants.nr_status_frames() {
        GNTST_general_error
    } else {
        tell(caller, op.frame_list, op.nr_frames, GuestRam::status_frame)?;
        GNTST_okay
    };
    Ok(())
}

/// Fills a list with a PV guest's frames, or for others with "no frame", where there is a list. The count is bounded by the table's size.
fn tell(
    caller: &Caller<'_>,
    list: u64,
    count: u32,
    page: impl Fn(&GuestRam, u32) -> Option<HeapPage>,
) -> Result<(), Errno> {
    if list == 0 {
        return Ok(());
    }
    let domain = caller.domain();
    for index in 0..count {
        let page = domain.pv.as_ref().and_then(|_| page(&domain.ram, index));
        let frame = page.map_or(u64::MAX, |page| page.pv_frame().0);
        caller.write(Caller::element::<u64>(list, index.into())?, &frame)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
