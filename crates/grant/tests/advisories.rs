//! Known wounds of grant tables, each a test that an implementation with that flaw fails.
//!
//! Those of version 2, of guests that map, and of numbers used again are in `advisories_guests.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cantle_abi::grant_table::{
    GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTST_okay, GTF_permit_access, GTF_reading,
    GTF_transitive, GTF_writing, GnttabCopy, GnttabCopyPtr,
};
use cantle_abi::{DomId, Errno, Gfn, GrantRef, SharedMemory};
use cantle_grant::test_utils::HeapGuest;
use cantle_grant::test_utils::calls::Stop;
use cantle_grant::{
    Access, CopyPiece, GrantMapper, GrantStatus, InProcessMapper, Local, TableConfig, Tables,
};

const GUEST: DomId = DomId(1);
const HOST: DomId = DomId(0);

fn setup() -> (Arc<Tables>, HeapGuest, InProcessMapper) {
    let tables = Arc::new(Tables::new());
    let guest = HeapGuest::new(&tables, GUEST, 32);
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    (tables, guest, mapper)
}

fn piece(gref: GrantRef, local: Local<'_>) -> CopyPiece<'_> {
    CopyPiece {
        granter: GUEST,
        gref,
        offset: 0,
        local,
        status: Ok(()),
    }
}

/// XSA-218: the guest was told that a grant is free before the host had counted the use out (and in again by another).
#[test]
fn xsa_218_map_unmap_race() {
    let tables = Arc::new(Tables::new());
    let small = TableConfig {
        initial_frames: 1,
        max_frames: 1,
        ..TableConfig::default()
    };
    let guest = HeapGuest::with_config(&tables, GUEST, 1, small);
    let mapper = InProcessMapper::new(tables, HOST);
    let gref = guest.grant(HOST, Gfn(0), false);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // While somebody maps it, the entry says so.
                    if let Ok(_mapping) = mapper.map(GUEST, gref, Access::ReadWrite) {
                        let flags = guest.entry_flags(gref);
                        let marks = GTF_permit_access | GTF_reading | GTF_writing;
                        assert_eq!(flags & marks, marks, "mapped, but free to the guest");
                    }
                    thread::yield_now();
                }
            });
        }
        let mut ended = 0;
        let begin = Instant::now();
        while ended < 5_000 && begin.elapsed() < Duration::from_secs(20) {
            if guest.end_access(gref) {
                // The page is the guest's again: nobody may hold it or get it now.
                assert_eq!(guest.table().mapped(), [], "told free while in use");
                ended += 1;
                guest.grant_access(gref, HOST, Gfn(0), false);
            }
            thread::yield_now();
        }
        assert!(ended > 0, "never free");
    });
}

/// XSA-224: uses for reading and for writing were not taken back as they were counted.
#[test]
fn xsa_224_read_and_write_uses_are_counted_apart() {
    let (_tables, guest, mapper) = setup();
    let gref = guest.grant(HOST, Gfn(0), false);
    let map = |access| mapper.map(GUEST, gref, access).unwrap();
    let marks = || guest.entry_flags(gref) & (GTF_reading | GTF_writing);
    let (r1, w1, w2, r2) = (
        map(Access::ReadOnly),
        map(Access::ReadWrite),
        map(Access::ReadWrite),
        map(Access::ReadOnly),
    );
    drop(w1);
    assert_eq!(marks(), GTF_reading | GTF_writing);
    drop(r1);
    assert_eq!(marks(), GTF_reading | GTF_writing);
    drop(w2);
    assert_eq!(marks(), GTF_reading);
    drop(r2);
    assert_eq!(marks(), 0);
    // Writers only: the last one takes both marks along.
    let w = map(Access::ReadWrite);
    assert_eq!(marks(), GTF_reading | GTF_writing);
    drop(w);
    assert_eq!(marks(), 0);
}

/// XSA-226: transitive grants. There are none.
#[test]
fn xsa_226_transitive_grants_are_refused() {
    let (_tables, guest, mapper) = setup();
    let gref = guest.grant(HOST, Gfn(0), false);
    guest.write_entry(gref, GTF_transitive, HOST, 0);
    assert!(mapper.map(GUEST, gref, Access::ReadOnly).is_err());
    let mut buffer = [0; 4];
    let mut pieces = [piece(gref, Local::Into(&mut buffer))];
    mapper.copy(&mut pieces);
    assert_eq!(pieces[0].status, Err(GrantStatus::GENERAL_ERROR));
}

/// XSA-230: the end of a copy cleared the marks although a mapping still used the page.
#[test]
fn xsa_230_copy_leaves_a_mappings_marks() {
    let (_tables, guest, mapper) = setup();
    let gref = guest.grant(HOST, Gfn(0), false);
    let mapping = mapper.map(GUEST, gref, Access::ReadWrite).unwrap();
    for _ in 0..3 {
        let mut buffer = [0; 8];
        let mut pieces = [
            piece(gref, Local::From(b"from")),
            piece(gref, Local::Into(&mut buffer)),
        ];
        mapper.copy(&mut pieces);
        assert!(pieces.iter().all(|piece| piece.status.is_ok()));
        let marks = GTF_permit_access | GTF_reading | GTF_writing;
        assert_eq!(guest.entry_flags(gref), marks);
        assert!(!guest.end_access(gref));
    }
    drop(mapping);
    assert!(guest.end_access(gref));
}

/// XSA-316: an error on the way was reported as success, and the caller went on without a page.
#[test]
fn xsa_316_an_error_is_never_success() {
    let (tables, guest, mapper) = setup();
    let missing = guest.grant(HOST, Gfn(32), false);
    assert!(mapper.map(GUEST, missing, Access::ReadOnly).is_err());
    assert_eq!(guest.table().mapped(), []);
    let mut buffer = [9; 8];
    let mut pieces = [piece(missing, Local::Into(&mut buffer))];
    mapper.copy(&mut pieces);
    assert_eq!(pieces[0].status, Err(GrantStatus::BAD_PAGE));
    let ptr = |u, domid| GnttabCopyPtr {
        u,
        domid,
        offset: 0,
        pad: 0,
    };
    let mut op = GnttabCopy {
        source: ptr(u64::from(missing.0), GUEST),
        dest: ptr(0, DomId::SELF),
        len: 8,
        flags: GNTCOPY_source_gref,
        status: GNTST_okay,
        pad: 0,
    };
    tables.guest_copy(HOST, std::slice::from_mut(&mut op));
    assert_ne!(op.status, GNTST_okay);
    assert_eq!(buffer, [9; 8]);
}

/// XSA-318: pieces after an interruption in a batch kept a success that nobody had earned.
#[test]
fn xsa_318_every_piece_of_a_batch_is_done_or_says_why_not() {
    let (_tables, guest, mapper) = setup();
    let good = guest.grant(HOST, Gfn(0), false);
    let bad = guest.grant(HOST, Gfn(1), true);
    let bytes: Vec<[u8; 1]> = (0..200).map(|n| [n]).collect();
    let mut pieces: Vec<_> = (0u16..)
        .zip(&bytes)
        .map(|(n, byte)| CopyPiece {
            offset: n,
            ..piece(if n % 3 == 0 { bad } else { good }, Local::From(byte))
        })
        .collect();
    mapper.copy(&mut pieces);
    let page = guest.read(Gfn(0), 0, 200);
    for (n, piece) in pieces.iter().enumerate() {
        assert_eq!(piece.status.is_ok(), n % 3 != 0);
        assert_eq!(page[n], if n % 3 == 0 { 0 } else { bytes[n][0] });
    }
}

/// XSA-380 and its fix's flaw XSA-394: unmapping walked all mappings there were, and a partial unmap dropped the domain.
#[test]
fn xsa_380_394_unmapping_costs_the_same_and_drops_only_its_own() {
    let (tables, guest, mapper) = setup();
    let grefs: Vec<_> = (0..20_000u64)
        .map(|n| guest.grant(HOST, Gfn(n % 32), false))
        .collect();
    let mut mappings: Vec<_> = grefs
        .iter()
        .map(|&gref| mapper.map(GUEST, gref, Access::ReadOnly).unwrap())
        .collect();
    let one = mappings.swap_remove(7);
    let twice = mapper.map(GUEST, one.gref(), Access::ReadWrite).unwrap();
    drop(twice);
    let table = tables.remove(GUEST).unwrap().table;
    drop(guest);
    drop(mappings);
    let left = table.mapped();
    assert_eq!((left.len(), left[0].gref, left[0].uses), (1, one.gref(), 1));
    // Still the page, though all else has gone.
    assert_eq!(one.len(), 4096);
    drop(one);
    assert_eq!(table.mapped(), []);
    assert_eq!(
        Arc::strong_count(&table),
        1,
        "nothing holds the dead domain"
    );
}

/// XSA-448's clean-up: a copy without bytes looked at grants all the same, and failed or faulted on them.
#[test]
fn xsa_448_zero_length_copies_touch_nothing() {
    let (tables, guest, mapper) = setup();
    let mut pieces = [
        piece(GrantRef(u32::MAX), Local::From(b"")),
        CopyPiece {
            granter: DomId(9),
            offset: u16::MAX,
            ..piece(GrantRef(0), Local::Into(&mut []))
        },
    ];
    mapper.copy(&mut pieces);
    assert!(pieces.iter().all(|piece| piece.status.is_ok()));
    let nowhere = GnttabCopyPtr {
        u: u64::MAX,
        domid: DomId(9),
        offset: u16::MAX,
        pad: 0,
    };
    let mut op = GnttabCopy {
        source: nowhere,
        dest: nowhere,
        len: 0,
        flags: GNTCOPY_source_gref | GNTCOPY_dest_gref,
        status: 1,
        pad: 0,
    };
    tables.guest_copy(GUEST, std::slice::from_mut(&mut op));
    assert_eq!(op.status, GNTST_okay);
    assert_eq!(guest.table().stats().copies, 0);
}

/// XSA-500: the second use of an entry went by what the first had seen, although the guest can write it meanwhile.
#[test]
fn xsa_500_second_use_looks_anew() {
    let (tables, guest, mapper) = setup();
    let gref = guest.grant(HOST, Gfn(0), false);
    let first = mapper.map(GUEST, gref, Access::ReadOnly).unwrap();
    // The guest breaks the rules: the entry in use becomes read-only, then another frame's, then nobody's.
    guest.grant_access(gref, HOST, Gfn(0), true);
    assert!(mapper.map(GUEST, gref, Access::ReadWrite).is_err());
    guest.grant_access(gref, HOST, Gfn(1), false);
    let second = mapper.map(GUEST, gref, Access::ReadOnly).unwrap();
    assert_eq!(second.as_ptr(), guest.page(Gfn(1)).as_ptr());
    assert_eq!(first.as_ptr(), guest.page(Gfn(0)).as_ptr());
    guest.write_entry(gref, 0, HOST, 1);
    assert!(mapper.map(GUEST, gref, Access::ReadOnly).is_err());
    drop((first, second));
    assert_eq!(guest.table().mapped(), []);
    drop(tables);
}

/// CVE-2026-102703 and -102704: what was checked for one piece of a batch was taken for another one that
/// names a frame by the same number as that one's grant, or the same grant of another domain.
#[test]
fn cve_2026_102703_no_piece_profits_from_another() {
    let (tables, a, _mapper) = setup();
    let b = HeapGuest::new(&tables, DomId(2), 32);
    // Grant 9 of `a` is frame 20, for `b`; frame 9 of `a`, and grant 9 and frame 20 of `b`, are something else.
    let number = 9;
    a.grant_access(GrantRef(9), DomId(2), Gfn(20), true);
    a.write(Gfn(20), 0, b"lent");
    a.write(Gfn(9), 0, b"mine");
    b.write(Gfn(9), 0, b"own ");
    let ptr = |u, domid, offset| GnttabCopyPtr {
        u,
        domid,
        offset,
        pad: 0,
    };
    let copy = |source, dest, flags| {
        let mut op = GnttabCopy {
            source,
            dest,
            len: 4,
            flags,
            status: 1,
            pad: 0,
        };
        tables.guest_copy(DomId(2), std::slice::from_mut(&mut op));
        op.status
    };
    let to = |offset| ptr(0, DomId::SELF, offset);
    let (source, dest) = (GNTCOPY_source_gref, GNTCOPY_dest_gref);
    assert_eq!(copy(ptr(number, GUEST, 0), to(0), source), GNTST_okay);
    // The same number as a frame: of the caller itself; never of `a`.
    assert_eq!(copy(ptr(number, DomId::SELF, 0), to(4), 0), GNTST_okay);
    assert_ne!(copy(ptr(number, GUEST, 0), to(8), 0), GNTST_okay);
    // The same grant for writing, the same number in the caller's own table, and the frame behind the grant.
    assert_ne!(copy(to(0), ptr(number, GUEST, 0), dest), GNTST_okay);
    assert_ne!(
        copy(ptr(number, DomId::SELF, 0), to(12), source),
        GNTST_okay
    );
    assert_ne!(copy(ptr(20, GUEST, 0), to(16), source), GNTST_okay);
    assert_eq!(b.read(Gfn(0), 0, 20), b"lentown \0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(a.read(Gfn(20), 0, 4), b"lent");

    // And in a back end's batch: revoked between two pieces of it means refused at the second.
    let mapper = InProcessMapper::new(tables.clone(), DomId(2));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if a.end_access(GrantRef(9)) {
                    // Revoked: from here to the next grant the page holds a secret.
                    a.write(Gfn(20), 0, b"keep");
                    a.write(Gfn(20), 0, b"lent");
                    a.grant_access(GrantRef(9), DomId(2), Gfn(20), true);
                }
            }
        });
        for _ in 0..20_000 {
            let mut buffers = [[0; 4]; 8];
            let mut pieces: Vec<_> = buffers
                .iter_mut()
                .map(|buffer| piece(GrantRef(9), Local::Into(buffer)))
                .collect();
            mapper.copy(&mut pieces);
            let done: Vec<_> = pieces.iter().map(|piece| piece.status.is_ok()).collect();
            for (buffer, done) in buffers.iter().zip(done) {
                assert_eq!(buffer, if done { b"lent" } else { &[0; 4] });
            }
        }
    });
}

/// XSA-379 and the five after it need version 2, which a host does not offer unless it is told to.
#[test]
fn v2_is_not_offered() {
    let (_tables, guest, _mapper) = setup();
    assert_eq!(guest.table().set_version(2), Err(Errno::ENOSYS));
    assert_eq!(guest.table().version(), 1);
}

/// The class of XSA-322, 417 and 419, for grants: a late end of a dead domain's mapping does not touch its successor's.
#[test]
fn domid_reuse_is_a_new_domain() {
    let (tables, guest, mapper) = setup();
    let gref = guest.grant(HOST, Gfn(0), false);
    let old = mapper.map(GUEST, gref, Access::ReadWrite).unwrap();
    drop(guest);
    let guest = HeapGuest::new(&tables, GUEST, 32);
    guest.grant_access(gref, HOST, Gfn(0), false);
    let new = mapper.map(GUEST, gref, Access::ReadOnly).unwrap();
    drop(old);
    assert_eq!(guest.entry_flags(gref), GTF_permit_access | GTF_reading);
    assert_eq!(guest.table().mapped().len(), 1);
    drop(new);
}
