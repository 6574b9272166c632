//! The grant table, version 1.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cantle_abi::grant_table::{
    self as abi, GRANT_ENTRIES_PER_FRAME_V1, GTF_permit_access, GTF_reading, GTF_readonly,
    GTF_writing, GnttabQuerySize,
};
use cantle_abi::memory::{XENMAPSPACE_grant_table, XENMEM_add_to_physmap, XenAddToPhysmap};
use cantle_abi::xen::{__HYPERVISOR_grant_table_op, __HYPERVISOR_memory_op};
use cantle_abi::{DomId, Errno, Gfn, GrantRef, PAGE_SIZE};

use crate::memory::Window;
use crate::report::{Because as _, Outcome};
use crate::{ensure, fail, hypercall};

/// Where the table's first frame is put: in the hole for devices, after shared info.
const TABLE: u64 = 0xfe80_0000;

static READY: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU32 = AtomicU32::new(abi::GNTTAB_NR_RESERVED_ENTRIES);

fn frame() -> Option<Window> {
    Window::outside_image(TABLE, PAGE_SIZE)
}

/// Puts a frame of the table at a guest frame.
pub(crate) fn map_frame(idx: u64, gpfn: Gfn) -> Result<u64, Errno> {
    let mut add = XenAddToPhysmap {
        domid: DomId::SELF,
        size: 0,
        space: XENMAPSPACE_grant_table,
        space_high: 0,
        idx,
        gpfn,
    };
    hypercall::op(__HYPERVISOR_memory_op, XENMEM_add_to_physmap, &mut add)
}

/// The table's size and limit in frames.
pub(crate) fn query_size() -> Outcome<GnttabQuerySize> {
    let query = query_size_of(DomId::SELF)?;
    ensure!(
        query.status == abi::GNTST_okay,
        "query_size has status {}",
        query.status
    );
    Ok(query)
}

/// What the host says of a domain's table.
pub(crate) fn query_size_of(dom: DomId) -> Outcome<GnttabQuerySize> {
    let mut query = [GnttabQuerySize {
        dom,
        pad: 0,
        nr_frames: 0,
        max_nr_frames: 0,
        status: 1,
        pad2: 0,
    }];
    hypercall::op_many(
        __HYPERVISOR_grant_table_op,
        abi::GNTTABOP_query_size,
        &mut query,
    )
    .because("GNTTABOP_query_size")?;
    let [query] = query;
    Ok(query)
}

/// Maps the table's first frame. Done once.
pub(crate) fn prepare() -> Outcome {
    if READY.load(Ordering::Relaxed) {
        return Ok(());
    }
    map_frame(0, Gfn::of_addr(TABLE)).because("mapping a grant frame")?;
    READY.store(true, Ordering::Relaxed);
    Ok(())
}

/// Reads an entry's first word (flags and domain) and its frame.
pub(crate) fn entry(gref: GrantRef) -> Outcome<(u32, u32)> {
    let (Some(table), true) = (frame(), gref.0 < GRANT_ENTRIES_PER_FRAME_V1) else {
        fail!("grant {gref} is beyond the first frame");
    };
    let at = gref.0 as usize * 8;
    let flags = table.word32(at).load(Ordering::Acquire);
    Ok((flags, table.word32(at + 4).load(Ordering::Relaxed)))
}

/// Lends a page to a domain.
pub(crate) fn grant(page: &Window, to: DomId, readonly: bool) -> Outcome<GrantRef> {
    let gref = GrantRef(NEXT.fetch_add(1, Ordering::Relaxed));
    regrant(gref, page, to, readonly)?;
    Ok(gref)
}

/// Lends a page by an entry that is not in use.
pub(crate) fn regrant(gref: GrantRef, page: &Window, to: DomId, readonly: bool) -> Outcome {
    prepare()?;
    let (Some(table), true) = (frame(), gref.0 < GRANT_ENTRIES_PER_FRAME_V1) else {
        fail!("the first grant frame is used up");
    };
    let Ok(gfn) = u32::try_from(page.gfn().0) else {
        fail!("the page is too far up for a version 1 grant");
    };
    let at = gref.0 as usize * 8;
    let flags = GTF_permit_access | if readonly { GTF_readonly } else { 0 };
    table.word32(at + 4).store(gfn, Ordering::Relaxed);
    // Release: whoever sees the type sees frame and domain.
    table
        .word32(at)
        .store(u32::from(to.0) << 16 | u32::from(flags), Ordering::Release);
    Ok(())
}

/// Takes a page back; false where it is still in use.
pub(crate) fn end(gref: GrantRef) -> Outcome<bool> {
    let Some(table) = frame() else {
        fail!("no grant table");
    };
    let word = table.word32(gref.0 as usize * 8);
    let flags = word.load(Ordering::Relaxed);
    let in_use = u32::from(GTF_reading | GTF_writing);
    Ok(flags & in_use == 0
        && word
            .compare_exchange(flags, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok())
}
