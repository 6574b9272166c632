//! What guests do with each other's grants: mapping, transfer, swap.

use std::sync::Arc;

use cantle_abi::grant_table::*;
use cantle_abi::{DomId, Errno, Gfn, GrantRef, SharedMemory};
use cantle_grant::test_utils::{HeapGuest, HeapSpace, calls};
use cantle_grant::{Access, GrantMapper, GrantStatus, InProcessMapper, TableConfig, Tables};

const A: DomId = DomId(1);
const B: DomId = DomId(2);
/// Beyond the guests' memory.
const AT: u64 = 0x10_0000;
const CONFIG: TableConfig = TableConfig {
    initial_frames: 1,
    max_frames: 2,
    max_version: 2,
    max_maptrack_frames: 1,
};

/// `A`, who lends, and `B`, who maps.
fn setup() -> (Arc<Tables>, HeapGuest, HeapGuest, Arc<HeapSpace>) {
    let tables = Arc::new(Tables::new());
    let a = HeapGuest::with_config(&tables, A, 16, CONFIG);
    let b = HeapGuest::with_config(&tables, B, 16, CONFIG);
    let space = b.with_space();
    (tables, a, b, space)
}

fn map_op(gref: GrantRef, host_addr: u64, flags: u32) -> GnttabMapGrantRef {
    calls::map_op(A, gref, host_addr, flags)
}

fn map(tables: &Tables, gref: GrantRef, host_addr: u64, flags: u32) -> GnttabMapGrantRef {
    calls::map(tables, B, calls::map_op(A, gref, host_addr, flags))
}

fn unmap(tables: &Tables, handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
    calls::unmap(tables, B, handle, host_addr, dev_bus_addr)
}

#[test]
fn a_guest_maps_anothers_page_and_gives_it_back() {
    let (tables, a, b, space) = setup();
    let gref = a.grant(B, Gfn(3), false);
    a.write(Gfn(3), 8, b"lent");
    let op = map(&tables, gref, AT, GNTMAP_host_map);
    assert_eq!((op.status, op.dev_bus_addr), (GNTST_okay, 0));
    assert_eq!(space.read(AT + 8, 4).unwrap(), b"lent");
    assert_eq!((b.table().maptracked(), space.placed()), (1, 1));
    let in_use = a.table().mapped();
    assert_eq!((in_use[0].grantee, in_use[0].uses), (B, 1));
    assert!(!a.end_access(gref));
    assert_eq!(unmap(&tables, op.handle, AT, 0), GNTST_okay);
    assert_eq!((b.table().maptracked(), space.placed()), (0, 0));
    assert!(a.end_access(gref));
    assert_eq!(unmap(&tables, op.handle, AT, 0), GNTST_bad_handle);
}

#[test]
fn refusals_are_xens_and_leave_nothing_behind() {
    let (tables, a, b, space) = setup();
    let (rw, ro) = (a.grant(B, Gfn(3), false), a.grant(B, Gfn(4), true));
    let status = |gref, at, flags| map(&tables, gref, at, flags).status;
    let (host, device) = (GNTMAP_host_map, GNTMAP_device_map);
    assert_eq!(status(rw, AT, 0), GNTST_bad_gntref);
    assert_eq!(status(rw, AT, GNTMAP_readonly), GNTST_bad_gntref);
    for flags in [
        device,
        host | device,
        host | GNTMAP_application_map,
        host | GNTMAP_contains_pte,
        host | 1 << 16,
        host | 1 << 5,
    ] {
        assert_eq!(status(rw, AT, flags), GNTST_general_error, "{flags:#x}");
    }
    assert_eq!(status(ro, AT, host), GNTST_general_error);
    assert_eq!(status(GrantRef(1 << 20), AT, host), GNTST_bad_gntref);
    assert_eq!(status(rw, 0x3000, host), GNTST_general_error, "over RAM");
    let mut nobody = map_op(rw, AT, host);
    nobody.dom = DomId(9);
    tables.guest_map(B, &mut nobody);
    assert_eq!(nobody.status, GNTST_bad_domain);
    space.refuse(true);
    assert_eq!(status(rw, AT, host), GNTST_general_error);
    // A guest without a space of its own maps nothing.
    let mut op = map_op(rw, AT, host);
    tables.guest_map(A, &mut op);
    assert_eq!(op.status, GNTST_permission_denied);
    assert_eq!(a.table().mapped(), []);
    assert_eq!((b.table().maptracked(), space.placed()), (0, 0));
    assert_eq!(status(ro, AT, host | GNTMAP_readonly), GNTST_general_error);
    space.refuse(false);
    let op = map(&tables, ro, AT, host | GNTMAP_readonly);
    assert_eq!(op.status, GNTST_okay);
    // What cannot be taken away is still mapped, and in use.
    space.refuse(true);
    assert_eq!(unmap(&tables, op.handle, AT, 0), GNTST_general_error);
    assert!(!a.end_access(ro));
    space.refuse(false);
    assert_eq!(unmap(&tables, op.handle, AT, 0), GNTST_okay);
}

#[test]
fn mappings_are_bounded() {
    let (tables, a, b, _space) = setup();
    let gref = a.grant(B, Gfn(3), false);
    let ops: Vec<_> = (0..512)
        .map(|n| map(&tables, gref, AT + (n << 12), GNTMAP_host_map))
        .collect();
    assert!(ops.iter().all(|op| op.status == GNTST_okay));
    let more = map(&tables, gref, AT + (600 << 12), GNTMAP_host_map);
    assert_eq!(more.status, GNTST_no_space);
    assert_eq!(a.table().mapped()[0].uses, 512);
    for op in &ops {
        assert_eq!(unmap(&tables, op.handle, op.host_addr, 0), GNTST_okay);
    }
    assert_eq!((b.table().maptracked(), a.table().mapped().len()), (0, 0));
    // All of them are to be had again, by other numbers.
    let again = map(&tables, gref, AT, GNTMAP_host_map);
    assert_eq!(again.status, GNTST_okay);
    assert!(ops.iter().all(|op| op.handle != again.handle));
}

#[test]
fn a_stale_handle_names_nothing() {
    let (tables, a, _b, _space) = setup();
    let gref = a.grant(B, Gfn(3), false);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5_000 {
        let op = map(&tables, gref, AT, GNTMAP_host_map);
        assert!(seen.insert(op.handle), "a handle twice");
        assert_ne!(op.handle, u32::MAX);
        assert_eq!(unmap(&tables, op.handle, AT, 0), GNTST_okay);
    }
    let live = map(&tables, gref, AT, GNTMAP_host_map);
    for stale in seen {
        assert_eq!(unmap(&tables, stale, AT, 0), GNTST_bad_handle);
    }
    assert_eq!(unmap(&tables, live.handle, AT, 0), GNTST_okay);
}

#[test]
fn a_paravirtual_guest_maps_for_devices_and_into_its_tables() {
    let (tables, a, b, space) = setup();
    space.paravirtual();
    let gref = a.grant(B, Gfn(3), false);
    let both = GNTMAP_host_map | GNTMAP_device_map | GNTMAP_contains_pte | 3 << 16;
    let op = map(&tables, gref, AT, both);
    assert_eq!(op.status, GNTST_okay);
    assert_eq!(op.dev_bus_addr, a.page(Gfn(3)).as_ptr().as_ptr() as u64);
    assert_eq!(
        map(&tables, gref, AT, 1 << 5 | 2).status,
        GNTST_general_error
    );
    // One part at a time; the grant is in use until both are gone.
    assert_eq!(unmap(&tables, op.handle, 0, 0), GNTST_okay, "nothing");
    assert_eq!(unmap(&tables, op.handle, 0, 4), GNTST_general_error);
    assert_eq!(unmap(&tables, op.handle, 0, op.dev_bus_addr), GNTST_okay);
    assert!(!a.end_access(gref));
    assert_eq!(b.table().maptracked(), 1);
    // The device's part is gone already, and passed over; the address is still looked at.
    assert_eq!(unmap(&tables, op.handle, AT, 4), GNTST_general_error);
    assert_eq!(unmap(&tables, op.handle, AT, op.dev_bus_addr), GNTST_okay);
    assert!(a.end_access(gref));

    let gref = a.grant(B, Gfn(5), true);
    let only_device = map(&tables, gref, AT, GNTMAP_device_map | GNTMAP_readonly);
    assert_eq!((only_device.status, space.placed()), (GNTST_okay, 0));
    let done = unmap(&tables, only_device.handle, AT, only_device.dev_bus_addr);
    assert_eq!((done, b.table().maptracked()), (GNTST_okay, 0));
}

#[test]
fn unmap_and_replace_is_for_paravirtual_guests() {
    let (tables, a, b, space) = setup();
    let (one, two) = (a.grant(B, Gfn(3), false), a.grant(B, Gfn(4), false));
    a.write(Gfn(4), 0, b"two");
    let replace = |handle, new_addr| {
        let mut op = GnttabUnmapAndReplace {
            host_addr: AT,
            new_addr,
            handle,
            status: 99,
            pad: 0,
        };
        tables.guest_unmap_and_replace(B, &mut op);
        op.status
    };
    let op = map(&tables, one, AT, GNTMAP_host_map);
    assert_eq!(replace(op.handle, AT + 4096), GNTST_general_error);
    assert_eq!(replace(op.handle, 0), GNTST_okay, "just unmaps");
    space.paravirtual();
    let op = map(&tables, one, AT, GNTMAP_host_map);
    let _other = map(&tables, two, AT + 4096, GNTMAP_host_map);
    assert_eq!(replace(op.handle, AT + 0x9000), GNTST_general_error);
    assert_eq!(b.table().maptracked(), 2);
}

#[test]
fn a_frame_changes_hands() {
    for version in [1, 2] {
        let (tables, a, b, to) = setup();
        let from = a.with_space();
        b.table().set_version(version).unwrap();
        let transfer = |mfn, domid, gref| {
            let mut op = GnttabTransfer {
                mfn,
                domid,
                pad: 0,
                gref,
                status: 99,
                pad2: [0; 3],
            };
            tables.guest_transfer(A, &mut op);
            op.status
        };
        let gref = GrantRef(30);
        b.write(Gfn(7), 0, b"old");
        a.write(Gfn(3), 0, b"new");
        // Where it is to be, there must be nothing.
        b.accept_transfer(gref, A, Gfn(7));
        assert_eq!(transfer(99, B, gref), GNTST_bad_page);
        assert_eq!(b.entry_flags(gref), GTF_accept_transfer);
        cantle_grant::GuestSpace::surrender(&*to, Gfn(7), &mut [0; 4096]).unwrap();
        assert_eq!(transfer(3, B, gref), GNTST_okay);
        assert_eq!(b.read(Gfn(7), 0, 3), b"new");
        let done = GTF_accept_transfer | GTF_transfer_committed | GTF_transfer_completed;
        assert_eq!(b.entry_flags(gref) & 0xf, done);
        // It is gone from its giver, and an entry takes one only.
        assert_eq!(transfer(3, B, gref), GNTST_bad_page);
        assert_eq!(transfer(4, B, gref), GNTST_general_error);
        assert_eq!(transfer(4, B, gref), GNTST_bad_page, "gone all the same");
        b.accept_transfer(gref, DomId(3), Gfn(8));
        assert_eq!(transfer(5, B, gref), GNTST_general_error, "not from us");
        assert_eq!(transfer(6, DomId(9), gref), GNTST_bad_domain);
        assert_eq!(transfer(8, B, GrantRef(1 << 20)), GNTST_general_error);
        drop(from);
    }
}

#[test]
fn entries_are_swapped_unless_in_use() {
    let (tables, a, _b, _space) = setup();
    let host = InProcessMapper::new(tables, DomId(0));
    for version in [1, 2] {
        let table = a.table();
        table.set_version(version).unwrap();
        let (one, two) = (GrantRef(10), GrantRef(20));
        a.grant_access(one, DomId(0), Gfn(1), false);
        a.grant_access(two, DomId(0), Gfn(2), true);
        table.swap(one, two).unwrap();
        assert_eq!(a.entry_flags(one), GTF_permit_access | GTF_readonly);
        let mapping = host.map(A, two, Access::ReadWrite).unwrap();
        assert_eq!(mapping.as_ptr(), a.page(Gfn(1)).as_ptr());
        for (x, y) in [(one, two), (two, one)] {
            assert_eq!(table.swap(x, y), Err(GrantStatus::EAGAIN));
        }
        assert_eq!(table.swap(two, two), Ok(()), "nothing to do");
        drop(mapping);
        let beyond = GrantRef(1024);
        assert_eq!(table.swap(one, beyond), Err(GrantStatus::BAD_GNTREF));
        assert_eq!(table.swap(beyond, beyond), Err(GrantStatus::BAD_GNTREF));
    }
}

#[test]
fn caches_are_coherent() {
    let flush = |offset, length, op| {
        let a = 0;
        Tables::guest_cache_flush(&GnttabCacheFlush {
            a,
            offset,
            length,
            op,
        })
    };
    let (clean, inval) = (GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL);
    assert_eq!(flush(0, 4096, clean), Ok(()));
    assert_eq!(flush(4095, 1, clean | inval), Ok(()));
    assert_eq!(flush(0, 0, inval), Ok(()));
    assert_eq!(flush(0, 1, inval), Err(Errno::EOPNOTSUPP));
    assert_eq!(flush(4096, 0, clean), Err(Errno::EINVAL));
    assert_eq!(flush(1, 4096, clean), Err(Errno::EINVAL));
    assert_eq!(flush(0, u16::MAX, clean), Err(Errno::EINVAL));
    assert_eq!(flush(0, 1, GNTTAB_CACHE_SOURCE_GREF), Err(Errno::EINVAL));
    assert_eq!(flush(0, 1, 4), Err(Errno::EINVAL));
}

#[test]
fn a_batch_is_mapped_with_an_outcome_for_each() {
    let (tables, a, _b, _space) = setup();
    let host = InProcessMapper::new(tables, DomId(0));
    let (rw, ro) = (
        a.grant(DomId(0), Gfn(3), false),
        a.grant(DomId(0), Gfn(4), true),
    );
    let write = Access::ReadWrite;
    let wanted = [
        (rw, write),
        (ro, write),
        (ro, Access::ReadOnly),
        (rw, write),
    ];
    let pages = host.map_all(A, &wanted);
    let grefs: Vec<_> = pages
        .iter()
        .map(|page| page.map(|page| page.gref()))
        .collect();
    assert_eq!(
        grefs,
        [Ok(rw), Err(GrantStatus::GENERAL_ERROR), Ok(ro), Ok(rw)]
    );
    assert_eq!(pages.get(2).unwrap().as_ptr(), a.page(Gfn(4)).as_ptr());
    assert_eq!(pages.get(4).unwrap_err(), GrantStatus::BAD_HANDLE);
    let uses: Vec<_> = a.table().mapped().iter().map(|one| one.uses).collect();
    assert_eq!(uses, [2, 1]);
    drop(pages);
    assert_eq!(a.table().mapped(), []);
    let stats = a.table().stats();
    assert_eq!((stats.maps, stats.unmaps), (3, 3));
    let nobody = host.map_all(DomId(9), &wanted);
    assert_eq!(nobody.len(), 4);
    assert_eq!(nobody.get(0).unwrap_err(), GrantStatus::BAD_DOMAIN);
}
