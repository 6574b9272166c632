//! What mapping and copying do, from the outside.

use std::sync::Arc;

use cantle_abi::grant_table::{
    GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTST_bad_copy_arg, GNTST_bad_domain, GNTST_bad_gntref,
    GNTST_bad_page, GNTST_general_error, GNTST_okay, GNTST_permission_denied,
    GNTTAB_RESERVED_CONSOLE, GTF_permit_access, GTF_reading, GTF_readonly, GTF_writing, GnttabCopy,
    GnttabCopyPtr,
};
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Errno, Gfn, GrantRef, PAGE_SIZE, SharedMemory};
use cantle_grant::test_utils::{HeapFrames, HeapGuest, calls};
use cantle_grant::{
    Access, CopyPiece, GrantMapper, GrantStatus, GrantTable, InProcessMapper, InUse, Local,
    TableConfig, TableError, Tables,
};

const GUEST: DomId = DomId(1);
const OTHER: DomId = DomId(2);
const HOST: DomId = DomId(0);

fn setup() -> (Arc<Tables>, HeapGuest, InProcessMapper) {
    let tables = Arc::new(Tables::new());
    let guest = HeapGuest::new(&tables, GUEST, 16);
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    (tables, guest, mapper)
}

fn copy_one(
    mapper: &InProcessMapper,
    gref: GrantRef,
    offset: u16,
    local: Local<'_>,
) -> Result<(), GrantStatus> {
    calls::copy_one(mapper, GUEST, gref, offset, local)
}

#[test]
fn mapping_is_the_guests_page() {
    let (_tables, guest, mapper) = setup();
    let gfn = guest.alloc_frame();
    let gref = guest.grant(HOST, gfn, false);
    let mapping = mapper.map(GUEST, gref, Access::ReadWrite).unwrap();
    assert_eq!(mapping.len(), PAGE_SIZE);
    assert_eq!(mapping.as_ptr(), guest.page(gfn).as_ptr());
    assert_eq!((mapping.granter(), mapping.gref()), (GUEST, gref));
    let marks = GTF_permit_access | GTF_reading | GTF_writing;
    assert_eq!(guest.entry_flags(gref), marks);
    let one = InUse {
        granter: GUEST,
        gref,
        grantee: HOST,
        uses: 1,
    };
    assert_eq!(guest.table().mapped(), [one]);
    assert!(!guest.end_access(gref));
    drop(mapping);
    assert_eq!(guest.entry_flags(gref), GTF_permit_access);
    assert_eq!(guest.table().mapped(), []);
    assert!(guest.ungrant(gref));
    let stats = guest.table().stats();
    assert_eq!((stats.maps, stats.unmaps), (1, 1));
}

#[test]
fn what_is_not_granted_is_refused_and_left_unmarked() {
    let (_tables, guest, mapper) = setup();
    let gfn = guest.alloc_frame();
    let refused = |gref, access| mapper.map(GUEST, gref, access).unwrap_err();

    let readonly = guest.grant(HOST, gfn, true);
    assert_eq!(
        refused(readonly, Access::ReadWrite),
        GrantStatus::GENERAL_ERROR
    );
    assert_eq!(
        guest.entry_flags(readonly),
        GTF_permit_access | GTF_readonly
    );
    drop(mapper.map(GUEST, readonly, Access::ReadOnly).unwrap());

    let others = guest.grant(OTHER, gfn, false);
    assert_eq!(
        refused(others, Access::ReadOnly),
        GrantStatus::GENERAL_ERROR
    );
    let nowhere = guest.grant(HOST, Gfn(16), false);
    assert_eq!(refused(nowhere, Access::ReadOnly), GrantStatus::BAD_PAGE);
    assert_eq!(guest.entry_flags(nowhere), GTF_permit_access);
    assert_eq!(
        refused(GrantRef(500), Access::ReadOnly),
        GrantStatus::GENERAL_ERROR
    );
    for gref in [64 * 512, u32::MAX] {
        assert_eq!(
            refused(GrantRef(gref), Access::ReadOnly),
            GrantStatus::BAD_GNTREF
        );
    }
    let error = mapper.map(OTHER, others, Access::ReadOnly).unwrap_err();
    assert_eq!(error, GrantStatus::BAD_DOMAIN);
    // Flags 0 to 0xffff: only "permit" alone as the kind opens it.
    for flags in (0..0x200).filter(|flags| flags & 0x103 != GTF_permit_access) {
        guest.write_entry(others, flags, HOST, 0);
        assert_eq!(
            refused(others, Access::ReadOnly),
            GrantStatus::GENERAL_ERROR,
            "{flags:#x}"
        );
        assert_eq!(guest.entry_flags(others), flags, "left as it was");
    }
    assert_eq!(guest.table().mapped(), []);
}

#[test]
fn one_grantee_at_a_time() {
    let (tables, guest, mapper) = setup();
    let other = InProcessMapper::new(tables, OTHER);
    let gfn = guest.alloc_frame();
    let gref = guest.grant(HOST, gfn, false);
    let mapping = mapper.map(GUEST, gref, Access::ReadOnly).unwrap();
    // The guest breaks the rules and gives the entry to another while it is in use.
    guest.grant_access(gref, OTHER, gfn, false);
    let error = other.map(GUEST, gref, Access::ReadOnly).unwrap_err();
    assert_eq!(error, GrantStatus::GENERAL_ERROR);
    drop(mapping);
    other.map(GUEST, gref, Access::ReadOnly).unwrap();
}

#[test]
fn copies_both_ways_within_the_page() {
    let (_tables, guest, mapper) = setup();
    let gfn = guest.alloc_frame();
    let gref = guest.grant(HOST, gfn, false);
    guest.write(gfn, 4090, b"abcdef");
    let mut buffer = [0; 6];
    assert_eq!(
        copy_one(&mapper, gref, 4090, Local::Into(&mut buffer)),
        Ok(())
    );
    assert_eq!(&buffer, b"abcdef");
    assert_eq!(copy_one(&mapper, gref, 4093, Local::From(b"xyz")), Ok(()));
    assert_eq!(guest.read(gfn, 4090, 6), b"abcxyz");
    let whole = vec![7; PAGE_SIZE];
    assert_eq!(copy_one(&mapper, gref, 0, Local::From(&whole)), Ok(()));
    assert_eq!(guest.read(gfn, 0, PAGE_SIZE), whole);

    for (offset, len) in [(4091, 6), (1, PAGE_SIZE), (u16::MAX, 1), (4096, 1)] {
        let mut buffer = vec![0; len];
        let status = copy_one(&mapper, gref, offset, Local::Into(&mut buffer));
        assert_eq!(status, Err(GrantStatus::BAD_COPY_ARG));
    }
    assert_eq!(guest.entry_flags(gref), GTF_permit_access, "unmarked again");
    let stats = guest.table().stats();
    assert_eq!((stats.copies, stats.bytes), (3, 6 + 3 + 4096));
}

#[test]
fn copying_into_a_readonly_grant_is_refused() {
    let (_tables, guest, mapper) = setup();
    let gfn = guest.alloc_frame();
    let gref = guest.grant(HOST, gfn, true);
    let refused = Err(GrantStatus::GENERAL_ERROR);
    assert_eq!(copy_one(&mapper, gref, 0, Local::From(b"no")), refused);
    assert_eq!(guest.read(gfn, 0, 2), [0, 0]);
    let mut buffer = [1; 2];
    assert_eq!(copy_one(&mapper, gref, 0, Local::Into(&mut buffer)), Ok(()));
}

#[test]
fn batch_has_a_status_for_each_piece_and_mixes_granters() {
    let (tables, guest, mapper) = setup();
    let other = HeapGuest::new(&tables, OTHER, 4);
    let (g, o) = (guest.alloc_frame(), other.alloc_frame());
    let (gg, og) = (guest.grant(HOST, g, false), other.grant(HOST, o, false));
    let piece = |granter, gref, local| CopyPiece {
        granter,
        gref,
        offset: 0,
        local,
        status: Ok(()),
    };
    let mut pieces = [
        piece(GUEST, gg, Local::From(b"one")),
        piece(GUEST, GrantRef(77), Local::From(b"no")),
        piece(OTHER, og, Local::From(b"two")),
        piece(DomId(9), gg, Local::From(b"no")),
        piece(GUEST, gg, Local::From(b"six")),
    ];
    mapper.copy(&mut pieces);
    let statuses: Vec<_> = pieces.iter().map(|piece| piece.status).collect();
    let expected = [
        Ok(()),
        Err(GrantStatus::GENERAL_ERROR),
        Ok(()),
        Err(GrantStatus::BAD_DOMAIN),
        Ok(()),
    ];
    assert_eq!(statuses, expected);
    assert_eq!(guest.read(g, 0, 3), b"six");
    assert_eq!(other.read(o, 0, 3), b"two");
    assert_eq!(guest.table().stats().copies, 2);
    assert_eq!(other.table().stats().bytes, 3);
}

/// One end of a guest's copy.
fn at(u: u64, domid: DomId, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr {
        u,
        domid,
        offset,
        pad: 0,
    }
}

fn guest_copy(
    tables: &Tables,
    caller: DomId,
    source: GnttabCopyPtr,
    dest: GnttabCopyPtr,
    len: u16,
    flags: u16,
) -> i16 {
    let mut op = GnttabCopy {
        source,
        dest,
        len,
        flags,
        status: 99,
        pad: 0,
    };
    tables.guest_copy(caller, std::slice::from_mut(&mut op));
    op.status
}

#[test]
fn guest_copy_in_all_four_forms() {
    let (tables, a, _mapper) = setup();
    let b = HeapGuest::new(&tables, OTHER, 4);
    let (af, bf) = (a.alloc_frame(), b.alloc_frame());
    let from_b = u64::from(b.grant(GUEST, bf, false).0);
    let own = u64::from(a.grant(GUEST, af, false).0);
    let (source, dest) = (GNTCOPY_source_gref, GNTCOPY_dest_gref);
    b.write(bf, 8, b"lent");

    // From another's grant to an own frame.
    let (from, to) = (at(from_b, OTHER, 8), at(af.0, DomId::SELF, 100));
    assert_eq!(guest_copy(&tables, GUEST, from, to, 4, source), GNTST_okay);
    assert_eq!(a.read(af, 100, 4), b"lent");
    // From an own frame to another's grant.
    a.write(af, 0, b"back");
    let (from, to) = (at(af.0, DomId::SELF, 0), at(from_b, OTHER, 16));
    assert_eq!(guest_copy(&tables, GUEST, from, to, 4, dest), GNTST_okay);
    assert_eq!(b.read(bf, 16, 4), b"back");
    // From grant to grant, within one page and overlapping.
    let (from, to) = (at(from_b, OTHER, 8), at(from_b, OTHER, 10));
    assert_eq!(
        guest_copy(&tables, GUEST, from, to, 4, source | dest),
        GNTST_okay
    );
    assert_eq!(b.read(bf, 8, 6), b"lelent");
    // From an own grant to an own frame; and from frame to frame.
    let (from, to) = (at(own, DomId::SELF, 0), at(af.0, DomId::SELF, 50));
    assert_eq!(guest_copy(&tables, GUEST, from, to, 4, source), GNTST_okay);
    let (from, to) = (at(af.0, DomId::SELF, 50), at(af.0, DomId::SELF, 4092));
    assert_eq!(guest_copy(&tables, GUEST, from, to, 4, 0), GNTST_okay);
    assert_eq!(a.read(af, 4092, 4), b"back");
    assert_eq!(a.table().mapped().len() + b.table().mapped().len(), 0);
    assert_eq!(b.table().stats().copies, 4);
}

#[test]
fn guest_copy_refuses_what_is_not_the_callers() {
    let (tables, a, _mapper) = setup();
    let b = HeapGuest::new(&tables, OTHER, 4);
    let (af, bf) = (a.alloc_frame(), b.alloc_frame());
    let ro = u64::from(b.grant(GUEST, bf, true).0);
    let host = u64::from(b.grant(HOST, bf, false).0);
    let own = at(af.0, DomId::SELF, 0);
    let copy = |from, to, flags| guest_copy(&tables, GUEST, from, to, 8, flags);
    let (source, dest) = (GNTCOPY_source_gref, GNTCOPY_dest_gref);

    // Another's frame by number, or one's own by one's own name.
    assert_eq!(copy(at(bf.0, OTHER, 0), own, 0), GNTST_permission_denied);
    assert_eq!(copy(at(af.0, GUEST, 0), own, 0), GNTST_permission_denied);
    assert_eq!(copy(own, at(bf.0, OTHER, 0), 0), GNTST_permission_denied);
    assert_eq!(copy(at(host, OTHER, 0), own, source), GNTST_general_error);
    assert_eq!(copy(own, at(ro, OTHER, 0), dest), GNTST_general_error);
    assert_eq!(copy(at(1 << 30, OTHER, 0), own, source), GNTST_bad_gntref);
    assert_eq!(copy(at(ro, DomId(7), 0), own, source), GNTST_bad_domain);
    assert_eq!(copy(at(ro, OTHER, 4089), own, source), GNTST_bad_copy_arg);
    assert_eq!(copy(own, at(ro, OTHER, 4089), dest), GNTST_bad_copy_arg);
    assert_eq!(copy(at(99, DomId::SELF, 0), own, 0), GNTST_bad_page);
    assert_eq!(copy(at(u64::MAX, DomId::SELF, 0), own, 0), GNTST_bad_page);
    let stranger = guest_copy(&tables, DomId(7), own, own, 8, 0);
    assert_eq!(stranger, GNTST_bad_domain);
    assert_eq!(b.table().mapped(), []);
    assert_eq!(b.read(bf, 0, 8), [0; 8]);
}

#[test]
fn table_grows_to_its_limit() {
    let tables = Arc::new(Tables::new());
    let config = TableConfig {
        initial_frames: 1,
        max_frames: 3,
        ..TableConfig::default()
    };
    let guest = HeapGuest::with_config(&tables, GUEST, 4, config);
    let mapper = InProcessMapper::new(tables, HOST);
    let table = guest.table();
    assert_eq!((table.nr_frames(), table.max_frames()), (1, 3));
    let beyond = GrantRef(512);
    guest.grant_access(beyond, HOST, Gfn(0), false);
    let refused = mapper.map(GUEST, beyond, Access::ReadOnly).unwrap_err();
    assert_eq!(refused, GrantStatus::BAD_GNTREF);
    assert_eq!(table.grow(4), Err(GrantStatus::GENERAL_ERROR));
    assert_eq!(table.grow(2), Ok(()));
    assert_eq!(table.grow(1), Ok(()));
    assert_eq!(table.nr_frames(), 2, "never smaller");
    mapper.map(GUEST, beyond, Access::ReadOnly).unwrap();
}

#[test]
fn versions() {
    let (_tables, guest, _mapper) = setup();
    let table = guest.table();
    assert_eq!(table.version(), 1);
    assert_eq!(table.set_version(1), Ok(()));
    assert_eq!(table.set_version(2), Err(Errno::ENOSYS));
    assert_eq!(table.set_version(0), Err(Errno::EINVAL));
    assert_eq!(table.set_version(3), Err(Errno::EINVAL));
}

#[test]
fn seeded_entry_is_the_guests_grant() {
    let (_tables, guest, mapper) = setup();
    let table = guest.table();
    table.seed(GNTTAB_RESERVED_CONSOLE, HOST, Gfn(3)).unwrap();
    let mapping = mapper.map(GUEST, GNTTAB_RESERVED_CONSOLE, Access::ReadWrite);
    let again = table.seed(GNTTAB_RESERVED_CONSOLE, OTHER, Gfn(3));
    assert_eq!(again, Err(GrantStatus::GENERAL_ERROR), "in use");
    assert_eq!(mapping.unwrap().as_ptr(), guest.page(Gfn(3)).as_ptr());
    let seed = |gref, gfn| table.seed(GrantRef(gref), HOST, Gfn(gfn));
    assert_eq!(seed(1 << 20, 3), Err(GrantStatus::BAD_GNTREF));
    assert_eq!(seed(1, 16), Err(GrantStatus::BAD_PAGE));
    assert_eq!(seed(1, 1 << 33), Err(GrantStatus::BAD_PAGE));
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let new = |initial_frames, max_frames| {
        let config = TableConfig {
            initial_frames,
            max_frames,
            ..TableConfig::default()
        };
        let entries = Arc::new(HeapPages::new(2));
        GrantTable::new(GUEST, config, entries, Arc::new(HeapFrames::new(1)))
    };
    for (initial, max) in [(0, 1), (2, 1), (1, 4097), (0, 0)] {
        assert!(matches!(new(initial, max), Err(TableError::Frames(_))));
    }
    assert_eq!(new(1, 3).unwrap_err(), TableError::TooSmall(2 * PAGE_SIZE));
    assert!(new(2, 2).is_ok());
    let tables = Tables::new();
    tables.insert(new(1, 1).unwrap()).unwrap();
    assert!(tables.insert(new(1, 1).unwrap()).is_err(), "one a domain");
}

#[test]
fn mapping_outlives_its_domain_and_the_next_one_is_another() {
    let (tables, guest, mapper) = setup();
    let gfn = guest.alloc_frame();
    guest.write(gfn, 0, b"old");
    let gref = guest.grant(HOST, gfn, false);
    let mapping = mapper.map(GUEST, gref, Access::ReadWrite).unwrap();
    let table = tables.remove(GUEST).unwrap().table;
    assert_eq!(table.mapped().len(), 1, "the leak check names it");
    drop(guest);

    // The number is used again, at once.
    let next = HeapGuest::new(&tables, GUEST, 16);
    let new_gfn = next.alloc_frame();
    let gone = mapper.map(GUEST, gref, Access::ReadOnly).unwrap_err();
    assert_eq!(
        gone,
        GrantStatus::GENERAL_ERROR,
        "the new one granted nothing"
    );
    next.grant_access(gref, HOST, new_gfn, false);
    let again = mapper.map(GUEST, gref, Access::ReadOnly).unwrap();
    assert_ne!(again.as_ptr(), mapping.as_ptr());
    #[expect(unsafe_code, reason = "reads what the mapping holds")]
    // SAFETY: the mapping keeps the old guest's page.
    let byte = unsafe { mapping.as_ptr().read_volatile() };
    assert_eq!(byte, b'o');
    drop(mapping);
    assert_eq!(table.mapped(), []);
    assert_eq!(next.table().mapped().len(), 1, "the new one's is untouched");
}
