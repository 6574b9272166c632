//! `GNTTABOP_map_grant_ref` and its reverse: the domain maps what it lends to itself, and a back end what is lent to it.

use core::sync::atomic::Ordering;

use cantle_abi::grant_table::{
    self as abi, GNTMAP_contains_pte, GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly,
    GNTST_bad_domain, GNTST_bad_gntref, GNTST_bad_handle, GNTST_general_error, GNTST_okay,
    GNTST_permission_denied, GTF_reading, GTF_writing, GnttabMapGrantRef, GnttabUnmapAndReplace,
    GnttabUnmapGrantRef,
};
use cantle_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY};
use cantle_abi::{DomId, GrantRef, PAGE_SIZE};

use super::{NOBODY, call, has};
use crate::block::Disk;
use crate::memory::Window;
use crate::report::{Because as _, Failure, Outcome};
use crate::text::Text;
use crate::{Probe, ensure, fail, grants, hypercall, memory};

/// Where nothing is: the hole for devices, beyond the grant table.
const HOLE: u64 = 0xfe90_0000;
const IN_USE: u32 = (GTF_reading | GTF_writing) as u32;

fn mapping(dom: DomId, gref: GrantRef, host_addr: u64, flags: u32) -> Outcome<GnttabMapGrantRef> {
    let mut map = GnttabMapGrantRef {
        host_addr,
        flags,
        gref,
        dom,
        status: 1,
        handle: u32::MAX,
        dev_bus_addr: 0,
    };
    call(abi::GNTTABOP_map_grant_ref, &mut map).because("map_grant_ref")?;
    Ok(map)
}

fn unmap(handle: u32, host_addr: u64) -> Outcome<i16> {
    let mut unmap = GnttabUnmapGrantRef {
        host_addr,
        dev_bus_addr: 0,
        handle,
        status: 1,
        pad: 0,
    };
    call(abi::GNTTABOP_unmap_grant_ref, &mut unmap).because("unmap_grant_ref")?;
    Ok(unmap.status)
}

/// How an entry is in use.
fn uses(gref: GrantRef) -> Outcome<u32> {
    Ok(grants::entry(gref)?.0 & IN_USE)
}

/// A page that is lent to the domain itself: mapped for writing, for reading, twice, and given back.
pub(crate) fn own(_: &mut Probe) -> Outcome {
    grants::prepare()?;
    let own = hypercall::domid();
    let page = memory::page()?;
    page.fill(0, PAGE_SIZE, |i| i + 7);
    let gref = grants::grant(&page, own, false)?;
    let first = mapping(own, gref, HOLE, GNTMAP_host_map)?;
    if first.status == GNTST_permission_denied {
        let what = format_args!("the host lets guests map nothing");
        return Err(Failure::Absent(Text::format(what)));
    }
    has(GNTST_okay, first.status, "mapping")?;
    let Some(there) = Window::outside_image(HOLE, PAGE_SIZE) else {
        fail!("{HOLE:#x} is in the program");
    };
    let word = there.word64(800).load(Ordering::Relaxed);
    ensure!(word == 107, "the mapped page holds {word}, not 107");
    there.word64(800).store(42, Ordering::Relaxed);
    let word = page.word64(800).load(Ordering::Relaxed);
    ensure!(
        word == 42,
        "what is written to the mapping is {word} in the page"
    );
    let used = uses(gref)?;
    ensure!(
        used == IN_USE,
        "while mapped the entry's flags are {used:#x}"
    );
    ensure!(!grants::end(gref)?, "an entry was taken back while mapped");

    let second = mapping(own, gref, HOLE + 0x1000, GNTMAP_host_map | GNTMAP_readonly)?;
    has(GNTST_okay, second.status, "mapping once more, for reading")?;
    ensure!(second.handle != first.handle, "both have one handle");
    has(GNTST_okay, unmap(first.handle, HOLE)?, "unmapping")?;
    let used = uses(gref)?;
    ensure!(
        used == u32::from(GTF_reading),
        "mapped for reading only, the entry's flags are {used:#x}"
    );
    has(
        GNTST_bad_handle,
        unmap(first.handle, HOLE)?,
        "unmapping twice",
    )?;
    let wrong = unmap(second.handle, HOLE)?;
    ensure!(wrong < 0, "unmapping at another address has status {wrong}");
    replace(second.handle, HOLE + 0x1000)?;
    has(
        GNTST_okay,
        unmap(second.handle, HOLE + 0x1000)?,
        "unmapping",
    )?;
    let used = uses(gref)?;
    ensure!(used == 0, "unmapped, the entry's flags are {used:#x}");
    ensure!(grants::end(gref)?, "the entry cannot be taken back");
    Ok(())
}

/// To put another mapping in the place is for guests with Xen's page tables.
fn replace(handle: u32, host_addr: u64) -> Outcome {
    let mut op = GnttabUnmapAndReplace {
        host_addr,
        new_addr: HOLE + 0x5000,
        handle,
        status: 1,
        pad: 0,
    };
    call(abi::GNTTABOP_unmap_and_replace, &mut op).because("unmap_and_replace")?;
    ensure!(op.status < 0, "unmap_and_replace has status {}", op.status);
    Ok(())
}

/// What cannot be mapped, with its status; nothing stays in use.
pub(crate) fn refusals(_: &mut Probe) -> Outcome {
    grants::prepare()?;
    let own = hypercall::domid();
    let page = memory::page()?;
    let gref = grants::grant(&page, own, true)?;
    let other = grants::grant(&page, DomId(0), false)?;
    let read = GNTMAP_host_map | GNTMAP_readonly;
    let taken = page.addr();
    for (dom, gref, at, flags, status, what) in [
        (
            own,
            gref,
            HOLE,
            GNTMAP_host_map,
            GNTST_general_error,
            "a read-only grant for writing",
        ),
        (
            own,
            other,
            HOLE,
            read,
            GNTST_general_error,
            "a grant for another",
        ),
        (
            own,
            GrantRef(511),
            HOLE,
            read,
            GNTST_general_error,
            "an entry that is none",
        ),
        (
            own,
            GrantRef(u32::MAX),
            HOLE,
            read,
            GNTST_bad_gntref,
            "grant 2^32-1",
        ),
        (
            NOBODY,
            gref,
            HOLE,
            read,
            GNTST_bad_domain,
            "a grant of nobody",
        ),
        (own, gref, HOLE, 0, GNTST_bad_gntref, "mapping for nobody"),
        (
            own,
            gref,
            HOLE,
            read | GNTMAP_device_map,
            GNTST_general_error,
            "for devices",
        ),
        (
            own,
            gref,
            HOLE,
            read | GNTMAP_contains_pte,
            GNTST_general_error,
            "by a page table",
        ),
        (own, gref, taken, read, GNTST_general_error, "over RAM"),
    ] {
        let map = mapping(dom, gref, at, flags)?;
        if map.status == GNTST_permission_denied {
            let what = format_args!("the host lets guests map nothing");
            return Err(Failure::Absent(Text::format(what)));
        }
        has(status, map.status, what)?;
    }
    for handle in [0, 1, 4096, u32::MAX] {
        has(
            GNTST_bad_handle,
            unmap(handle, HOLE)?,
            "a handle that is none",
        )?;
    }
    ensure!(
        grants::end(gref)? && grants::end(other)?,
        "an entry that was not mapped is in use"
    );
    Ok(())
}

/// The disk's back end holds the ring for as long as it is connected, and a data page as it is allowed to.
pub(crate) fn backend(probe: &mut Probe) -> Outcome {
    grants::prepare()?;
    let id = probe.start.option("blk").map(|id| crate::path!("{id}"));
    let store = probe.store()?;
    let mut disk = Disk::connect(store, id.as_ref().map(|id| id.as_str()))?;
    let ring = disk.ring_gref();
    let used = uses(ring)?;
    ensure!(used == IN_USE, "the connected ring's flags are {used:#x}");
    ensure!(
        !grants::end(ring)?,
        "the ring was taken back while connected"
    );

    let status = disk.request(BLKIF_OP_READ, 0, 1)?;
    ensure!(status == BLKIF_RSP_OKAY, "reading sector 0: {status}");
    let gref = disk.gref(0);
    let Some(page) = disk.data.part(0, PAGE_SIZE) else {
        fail!("the disk has no data page");
    };
    // Nobody has asked for grants that stay mapped.
    let used = uses(gref)?;
    ensure!(used == 0, "after a request its page's flags are {used:#x}");
    // Lent for reading only, the page cannot be read into, and can be written from.
    ensure!(grants::end(gref)?, "a page that is not in use is in use");
    grants::regrant(gref, &page, disk.backend(), true)?;
    page.fill(0, PAGE_SIZE, |_| 0x5a);
    let status = disk.request(BLKIF_OP_READ, 0, 1)?;
    ensure!(
        status != BLKIF_RSP_OKAY,
        "a read into a read-only page succeeded"
    );
    let word = page.word64(0).load(Ordering::Relaxed);
    ensure!(word == 0x5a, "the read-only page was written: {word:#x}");
    // To another domain it is not lent at all.
    ensure!(
        grants::end(gref)?,
        "after a refused read the page is in use"
    );
    grants::regrant(gref, &page, NOBODY, false)?;
    for operation in [BLKIF_OP_READ, BLKIF_OP_WRITE] {
        let status = disk.request(operation, 0, 1)?;
        ensure!(status != BLKIF_RSP_OKAY, "a page lent to another was used");
    }
    ensure!(grants::end(gref)?, "a page lent to another is in use");
    grants::regrant(gref, &page, disk.backend(), false)?;
    let status = disk.request(BLKIF_OP_READ, 0, 1)?;
    ensure!(status == BLKIF_RSP_OKAY, "lent again, reading: {status}");
    disk.close(store)?;
    ensure!(grants::end(ring)?, "the ring is in use after the end");
    Ok(())
}
