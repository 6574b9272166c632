//! Known wounds of version 2, of guests that map others' pages, and of numbers used again: each a test that an implementation with
//! that flaw fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cantle_abi::grant_table::*;
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Errno, Gfn, GrantRef, SharedMemory};
use cantle_grant::test_utils::calls::Stop;
use cantle_grant::test_utils::{HeapFrames, HeapGuest, HeapSpace, calls};
use cantle_grant::{
    Access, CopyPiece, GrantMapper, GrantStatus, GrantTable, InProcessMapper, Local, TableConfig,
    TablePages, Tables,
};

const HOST: DomId = DomId(0);
const A: DomId = DomId(1);
const B: DomId = DomId(2);
const AT: u64 = 0x10_0000;
const CONFIG: TableConfig = TableConfig {
    initial_frames: 1,
    max_frames: 1,
    max_version: 2,
    max_maptrack_frames: 1,
};

fn guest(tables: &Arc<Tables>, dom: DomId) -> HeapGuest {
    HeapGuest::with_config(tables, dom, 16, CONFIG)
}

/// `A`, who lends, and `B`, who maps.
fn setup() -> (Arc<Tables>, HeapGuest, HeapGuest, Arc<HeapSpace>) {
    let tables = Arc::new(Tables::new());
    let (a, b) = (guest(&tables, A), guest(&tables, B));
    let space = b.with_space();
    (tables, a, b, space)
}

fn map(tables: &Tables, gref: GrantRef, host_addr: u64, flags: u32) -> GnttabMapGrantRef {
    calls::map(tables, B, calls::map_op(A, gref, host_addr, flags))
}

fn unmap(tables: &Tables, handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
    calls::unmap(tables, B, handle, host_addr, dev_bus_addr)
}

fn marks(guest: &HeapGuest, gref: GrantRef) -> u16 {
    guest.entry_flags(gref) & (GTF_reading | GTF_writing)
}

/// XSA-218 with version 2, whose marks are apart from what they are about.
#[test]
fn xsa_218_map_unmap_race_in_version_2() {
    let tables = Arc::new(Tables::new());
    let a = guest(&tables, A);
    a.table().set_version(2).unwrap();
    let mapper = InProcessMapper::new(tables, HOST);
    let gref = a.grant(HOST, Gfn(0), false);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(_mapping) = mapper.map(A, gref, Access::ReadWrite) {
                        let both = GTF_reading | GTF_writing;
                        assert_eq!(marks(&a, gref), both, "mapped, but free to the guest");
                    }
                    thread::yield_now();
                }
            });
        }
        let mut ended = 0;
        let begin = Instant::now();
        while ended < 5_000 && begin.elapsed() < Duration::from_secs(20) {
            if a.end_access(gref) {
                assert_eq!(a.table().mapped(), [], "told free while in use");
                ended += 1;
            }
            // What was revoked while in use is lost to the guest until it is free, and then granted anew.
            if a.entry_flags(gref) == 0 {
                a.grant_access(gref, HOST, Gfn(0), false);
            }
            thread::yield_now();
        }
        assert!(ended > 0, "never free");
    });
}

/// XSA-224 and 234: a mapping was ended by the flags and the address of another one, and the uses of a page came out of step.
#[test]
fn xsa_224_an_unmap_wants_its_own_address() {
    let (tables, a, b, space) = setup();
    let gref = a.grant(B, Gfn(3), false);
    let rw = map(&tables, gref, AT, GNTMAP_host_map);
    let ro = map(&tables, gref, AT + 4096, GNTMAP_host_map | GNTMAP_readonly);
    for (op, wrong) in [(rw, AT + 4096), (ro, AT), (ro, AT + 8192)] {
        assert_eq!(unmap(&tables, op.handle, wrong, 0), GNTST_general_error);
        // And none of the parts is done where one is wrong.
        assert_eq!(unmap(&tables, op.handle, wrong, 5), GNTST_general_error);
        let right = op.host_addr;
        assert_eq!(unmap(&tables, op.handle, right, 5), GNTST_general_error);
    }
    assert_eq!((space.placed(), b.table().maptracked()), (2, 2));
    assert_eq!(marks(&a, gref), GTF_reading | GTF_writing);
    assert_eq!(unmap(&tables, rw.handle, AT, 0), GNTST_okay);
    assert_eq!(marks(&a, gref), GTF_reading, "the reader's alone");
    assert_eq!(unmap(&tables, rw.handle, AT, 0), GNTST_bad_handle);
    assert_eq!(marks(&a, gref), GTF_reading);
    assert_eq!(unmap(&tables, ro.handle, AT + 4096, 0), GNTST_okay);
    assert_eq!(marks(&a, gref), 0);
}

/// XSA-234: a mapping for devices only got a mapping for the CPU besides, which nobody had asked for or accounted for.
#[test]
fn xsa_234_no_host_mapping_unasked() {
    let (tables, a, b, space) = setup();
    space.paravirtual();
    let gref = a.grant(B, Gfn(3), false);
    let op = map(&tables, gref, AT, GNTMAP_device_map);
    assert_eq!((op.status, space.placed()), (GNTST_okay, 0));
    // There is nothing of it at the address to be unmapped.
    assert_eq!(unmap(&tables, op.handle, AT, 0), GNTST_okay);
    assert_eq!((b.table().maptracked(), a.table().mapped().len()), (1, 1));
    assert_eq!(unmap(&tables, op.handle, 0, op.dev_bus_addr), GNTST_okay);
    assert_eq!((b.table().maptracked(), a.table().mapped().len()), (0, 0));
}

/// XSA-380, and its fix's own flaw, XSA-394: after an unmap of a part of a mapping the rest kept nothing alive.
#[test]
fn xsa_380_394_what_is_left_of_a_mapping_keeps_its_page() {
    let (tables, a, b, space) = setup();
    space.paravirtual();
    let gref = a.grant(B, Gfn(3), false);
    let op = map(&tables, gref, AT, GNTMAP_device_map | GNTMAP_host_map);
    assert_eq!(unmap(&tables, op.handle, 0, op.dev_bus_addr), GNTST_okay);
    // Twice is not two uses less.
    assert_eq!(unmap(&tables, op.handle, 0, op.dev_bus_addr), GNTST_okay);
    a.write(Gfn(3), 0, b"kept");
    let frames = Arc::downgrade(a.frames());
    let ended = tables.remove(A).unwrap();
    assert_eq!((ended.in_use.len(), ended.in_use[0].uses), (1, 1));
    drop((ended, a));
    assert_eq!(space.read(AT, 4).unwrap(), b"kept");
    assert_eq!(unmap(&tables, op.handle, AT, 0), GNTST_okay);
    assert_eq!((b.table().maptracked(), frames.strong_count()), (0, 0));
}

/// XSA-316 for guests: what fails on the way, at whatever step, is no success and leaves no use behind.
#[test]
fn xsa_316_a_failed_map_is_no_map() {
    let (tables, a, b, space) = setup();
    let gref = a.grant(B, Gfn(3), false);
    let missing = a.grant(B, Gfn(99), false);
    assert_eq!(
        map(&tables, missing, AT, GNTMAP_host_map).status,
        GNTST_bad_page
    );
    space.refuse(true);
    let failed = map(&tables, gref, AT, GNTMAP_host_map);
    assert_eq!(
        (failed.status, failed.handle),
        (GNTST_general_error, u32::MAX)
    );
    assert_eq!((b.table().maptracked(), marks(&a, gref)), (0, 0));
    assert!(a.end_access(gref));
}

/// XSA-379: status pages were freed by a change of version while a guest had them mapped.
#[test]
fn xsa_379_status_pages_live_as_long_as_the_table() {
    let entries: Arc<HeapPages> = Arc::new(HeapPages::new(1));
    let status = Arc::new(HeapPages::new(1));
    let (weak, at) = (Arc::downgrade(&status), status.as_ptr());
    let pages = TablePages {
        entries,
        status: Some(status),
    };
    let frames = Arc::new(HeapFrames::new(1));
    let table = GrantTable::with_pages(A, CONFIG, pages, frames).unwrap();
    for version in [2, 1, 2, 1, 2, 1] {
        table.set_version(version).unwrap();
        let status = weak.upgrade().expect("the guest may look at it still");
        assert_eq!(status.as_ptr(), at);
    }
    drop(table);
    assert!(weak.upgrade().is_none());
}

/// XSA-384 and 387: status frames were told of, and placed, while the version changed under the caller. Here what is told of is
/// bounded by the version at hand, and frames that were placed before are the same ones after.
#[test]
fn xsa_384_387_status_frames_are_those_of_the_version() {
    let tables = Arc::new(Tables::new());
    let a = guest(&tables, A);
    let gref = GrantRef(1);
    let mapper = InProcessMapper::new(tables, HOST);
    for _ in 0..3 {
        assert_eq!(a.table().nr_status_frames(), 0);
        a.table().set_version(2).unwrap();
        assert_eq!(a.table().nr_status_frames(), 1);
        a.grant_access(gref, HOST, Gfn(1), false);
        let mapping = mapper.map(A, gref, Access::ReadOnly).unwrap();
        assert_eq!(
            marks(&a, gref),
            GTF_reading,
            "in the frames that the guest has"
        );
        drop(mapping);
        a.table().set_version(1).unwrap();
    }
}

/// XSA-486, 501 and 517: changes of version from 2 to 1 and back, and from several vCPUs at once, against each other and against uses.
#[test]
fn xsa_486_501_517_changes_of_version_race_with_each_other_and_with_uses() {
    let tables = Arc::new(Tables::new());
    let a = guest(&tables, A);
    let table = a.table();
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    table.seed(GrantRef(1), HOST, Gfn(1)).unwrap();
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for version in [2, 1] {
                        let set = table.set_version(version);
                        assert!(matches!(set, Ok(()) | Err(Errno::EBUSY)), "{set:?}");
                    }
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Whichever the version is: an entry of one is a part of one or two of the other.
                a.grant_access(GrantRef(20), HOST, Gfn(2), false);
                thread::yield_now();
            }
        });
        let (mut held, mut kept) = (0, 0);
        while (held < 300 || kept < 300) && begin.elapsed() < Duration::from_secs(20) {
            // The toolstack's entry is there in both versions, and its use goes along.
            if let Ok(mapping) = mapper.map(A, GrantRef(1), Access::ReadWrite) {
                assert_eq!(mapping.as_ptr(), a.page(Gfn(1)).as_ptr());
                kept += 1;
            }
            // Any other entry's use holds the version where it is.
            if let Ok(_mapping) = mapper.map(A, GrantRef(20), Access::ReadOnly) {
                let version = table.version();
                for _ in 0..50 {
                    std::hint::spin_loop();
                }
                assert_eq!(table.version(), version, "changed while in use");
                held += 1;
            }
        }
        assert!(held > 0 && kept > 0, "{held} and {kept}");
    });
    assert_eq!(table.mapped(), []);
    for version in [1, 2, 1] {
        table.set_version(version).unwrap();
        assert_eq!(
            a.entry_flags(GrantRef(1)),
            GTF_permit_access,
            "no mark is left"
        );
    }
}

/// XSA-385: counts of pages ran over 32 bits. Whatever a reference is multiplied by, it stays beyond the end.
#[test]
fn xsa_385_no_product_wraps() {
    let tables = Arc::new(Tables::new());
    let a = guest(&tables, A);
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    for version in [1, 2] {
        a.table().set_version(version).unwrap();
        a.grant_access(GrantRef(8), HOST, Gfn(0), false);
        for shift in 10..32 {
            let far = GrantRef(8 + (1 << shift));
            let refused = mapper.map(A, far, Access::ReadOnly).unwrap_err();
            assert_eq!(refused, GrantStatus::BAD_GNTREF);
            let swapped = a.table().swap(GrantRef(8), far);
            assert_eq!(swapped, Err(GrantStatus::BAD_GNTREF));
        }
        assert!(a.table().grow(u32::MAX).is_err());
        assert!(a.table().grow(1 << 20 | 1).is_err());
    }
}

/// CVE-2026-102704, as in one list of a guest's: each copy stands for itself.
#[test]
fn cve_2026_102704_no_copy_of_a_list_profits_from_another() {
    let (tables, a, b, _space) = setup();
    a.grant_access(GrantRef(9), B, Gfn(10), true);
    a.write(Gfn(10), 0, b"lent");
    a.write(Gfn(9), 0, b"mine");
    b.write(Gfn(9), 0, b"own ");
    let end = |u, domid, offset| GnttabCopyPtr {
        u,
        domid,
        offset,
        pad: 0,
    };
    let copy = |source, dest, flags| GnttabCopy {
        source,
        dest,
        len: 4,
        flags,
        status: 99,
        pad: 0,
    };
    let to = |offset| end(0, DomId::SELF, offset);
    let granted = copy(end(9, A, 0), to(0), GNTCOPY_source_gref);
    let mut ops = [
        granted,
        copy(end(9, A, 0), to(4), 0),
        copy(end(9, DomId::SELF, 0), to(8), 0),
        copy(end(9, DomId::SELF, 0), to(12), GNTCOPY_source_gref),
        copy(to(0), end(9, A, 0), GNTCOPY_dest_gref),
        copy(end(10, A, 0), to(16), GNTCOPY_source_gref),
        copy(end(9, A, 0), to(20), GNTCOPY_source_gref),
    ];
    tables.guest_copy(B, &mut ops);
    let done = ops.map(|op| op.status == GNTST_okay);
    assert_eq!(done, [true, false, true, false, false, false, true]);
    let expected = b"lent\0\0\0\0own \0\0\0\0\0\0\0\0lent";
    assert_eq!(b.read(Gfn(0), 0, 24), expected);
}

/// The class of XSA-322, 417 and 419: what was of a dead domain is not of the next one of its number.
#[test]
fn domid_reuse_handle_unmaps_the_dead_domains_page() {
    let (tables, a, _b, space) = setup();
    let gref = a.grant(B, Gfn(3), false);
    let old = map(&tables, gref, AT, GNTMAP_host_map);
    a.write(Gfn(3), 0, b"dead");
    drop(a);
    let a = guest(&tables, A);
    a.grant_access(gref, B, Gfn(3), false);
    let new = map(&tables, gref, AT + 4096, GNTMAP_host_map | GNTMAP_readonly);
    assert_eq!(space.read(AT, 4).unwrap(), b"dead");
    assert_eq!(space.read(AT + 4096, 4).unwrap(), [0; 4]);
    assert_eq!(unmap(&tables, old.handle, AT, 0), GNTST_okay);
    assert_eq!(marks(&a, gref), GTF_reading, "the successor's is untouched");
    assert_eq!(unmap(&tables, new.handle, AT + 4096, 0), GNTST_okay);
}

#[test]
fn domid_reuse_maptrack_is_a_new_one() {
    let (tables, a, b, space) = setup();
    let gref = a.grant(B, Gfn(3), false);
    let old = map(&tables, gref, AT, GNTMAP_host_map);
    drop((b, space));
    assert!(a.end_access(gref), "what the dead one had mapped is free");
    let b = guest(&tables, B);
    let space = b.with_space();
    assert_eq!(unmap(&tables, old.handle, AT, 0), GNTST_bad_handle);
    a.grant_access(gref, B, Gfn(3), false);
    let new = map(&tables, gref, AT, GNTMAP_host_map);
    assert_eq!((new.status, space.placed()), (GNTST_okay, 1));
}

#[test]
fn domid_reuse_pending_copy_never_sees_the_next_domain() {
    let tables = Arc::new(Tables::new());
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    let stop = AtomicBool::new(false);
    let gref = GrantRef(9);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // One that lends; then one that has a secret where that had what it lent, and lends nothing.
                let lender = guest(&tables, A);
                lender.write(Gfn(3), 0, b"lent");
                lender.grant_access(gref, HOST, Gfn(3), false);
                thread::yield_now();
                drop(lender);
                let other = guest(&tables, A);
                other.write(Gfn(3), 0, b"keep");
                thread::yield_now();
            }
        });
        let (mut copied, begin) = (0, Instant::now());
        while copied < 2_000 && begin.elapsed() < Duration::from_secs(20) {
            let mut buffers = [[0; 4]; 4];
            let mut pieces = buffers.each_mut().map(|buffer| CopyPiece {
                granter: A,
                gref,
                offset: 0,
                local: Local::Into(buffer),
                status: Ok(()),
            });
            mapper.copy(&mut pieces);
            let done = pieces.map(|piece| piece.status.is_ok());
            for (buffer, done) in buffers.iter().zip(done) {
                assert_eq!(buffer, if done { b"lent" } else { &[0; 4] });
                copied += u32::from(done);
            }
        }
        assert!(copied > 0, "nobody lent anything");
    });
}

/// The zombie's memory: as long as anybody has a page of it, and no longer.
#[test]
fn zombie_memory_goes_with_its_last_mapping() {
    let tables = Arc::new(Tables::new());
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    let a = guest(&tables, A);
    let grefs = [0, 1, 2].map(|n| a.grant(HOST, Gfn(n), false));
    let one = mapper.map(A, grefs[0], Access::ReadWrite).unwrap();
    let wanted = [(grefs[1], Access::ReadOnly), (grefs[2], Access::ReadWrite)];
    let two = mapper.map_all(A, &wanted);
    let frames = Arc::downgrade(a.frames());
    let ended = tables.remove(A).unwrap();
    let left: Vec<_> = ended
        .in_use
        .iter()
        .map(|use_| (use_.granter, use_.gref, use_.grantee, use_.uses))
        .collect();
    assert_eq!(left, grefs.map(|gref| (A, gref, HOST, 1)));
    drop((ended, a));
    assert!(one.has_ended());
    drop(one);
    assert!(frames.upgrade().is_some());
    drop(two);
    assert!(frames.upgrade().is_none());
}
