//! Version 2 tables: parts of pages, status frames, and changing between the versions.

use std::sync::Arc;

use cantle_abi::grant_table::{
    GTF_permit_access, GTF_reading, GTF_readonly, GTF_sub_page, GTF_transitive, GTF_writing,
};
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Errno, Gfn, GrantRef, PAGE_SIZE, SharedMemory};
use cantle_grant::test_utils::{HeapFrames, HeapGuest, calls};
use cantle_grant::{
    Access, GrantMapper, GrantStatus, GrantTable, InProcessMapper, Local, TableConfig, TableError,
    TablePages, Tables,
};

const GUEST: DomId = DomId(1);
const HOST: DomId = DomId(0);
const CONFIG: TableConfig = TableConfig {
    initial_frames: 2,
    max_frames: 20,
    max_version: 2,
    max_maptrack_frames: 1,
};

fn setup() -> (Arc<Tables>, HeapGuest, InProcessMapper) {
    let tables = Arc::new(Tables::new());
    let guest = HeapGuest::with_config(&tables, GUEST, 16, CONFIG);
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    (tables, guest, mapper)
}

fn copy(
    mapper: &InProcessMapper,
    gref: GrantRef,
    offset: u16,
    local: Local<'_>,
) -> Result<(), GrantStatus> {
    calls::copy_one(mapper, GUEST, gref, offset, local)
}

#[test]
fn a_page_is_mapped_and_copied_and_its_marks_are_in_the_status() {
    let (_tables, guest, mapper) = setup();
    guest.table().set_version(2).unwrap();
    assert_eq!(guest.table().version(), 2);
    let gfn = guest.alloc_frame();
    let gref = guest.grant(HOST, gfn, false);
    guest.write(gfn, 4000, b"second");
    let mapping = mapper.map(GUEST, gref, Access::ReadWrite).unwrap();
    assert_eq!(mapping.as_ptr(), guest.page(gfn).as_ptr());
    let marks = GTF_permit_access | GTF_reading | GTF_writing;
    assert_eq!(guest.entry_flags(gref), marks);
    let mut buffer = [0; 6];
    assert_eq!(copy(&mapper, gref, 4000, Local::Into(&mut buffer)), Ok(()));
    assert_eq!(&buffer, b"second");
    assert_eq!(guest.entry_flags(gref), marks, "the mapping's");
    // The guest revokes: nothing new, and it is told that the old is still there.
    assert!(!guest.end_access(gref));
    let refused = mapper.map(GUEST, gref, Access::ReadOnly).unwrap_err();
    assert_eq!(refused, GrantStatus::GENERAL_ERROR);
    assert_eq!(guest.entry_flags(gref), GTF_reading | GTF_writing);
    drop(mapping);
    assert_eq!(guest.entry_flags(gref), 0);
    assert!(guest.end_access(gref));
}

#[test]
fn what_is_not_granted_is_refused_and_left_unmarked() {
    let (_tables, guest, mapper) = setup();
    guest.table().set_version(2).unwrap();
    let gref = GrantRef(20);
    let refused = |access| mapper.map(GUEST, gref, access).unwrap_err();
    guest.grant_access(gref, HOST, Gfn(0), true);
    assert_eq!(refused(Access::ReadWrite), GrantStatus::GENERAL_ERROR);
    assert_eq!(guest.entry_flags(gref), GTF_permit_access | GTF_readonly);
    // A frame that no version 1 entry could name.
    guest.grant_access(gref, HOST, Gfn(1 << 40), false);
    assert_eq!(refused(Access::ReadOnly), GrantStatus::BAD_PAGE);
    assert_eq!(guest.entry_flags(gref), GTF_permit_access);
    for flags in (0..0x200).filter(|flags| flags & 0x103 != GTF_permit_access) {
        guest.write_entry(gref, flags, HOST, 0);
        assert_eq!(refused(Access::ReadOnly), GrantStatus::GENERAL_ERROR);
        assert_eq!(guest.entry_flags(gref), flags, "left as it was");
    }
    // Two frames have half as many entries as with version 1.
    let beyond = mapper.map(GUEST, GrantRef(512), Access::ReadOnly);
    assert_eq!(beyond.unwrap_err(), GrantStatus::BAD_GNTREF);
    guest.table().grow(3).unwrap();
    guest.grant_access(GrantRef(767), HOST, Gfn(0), false);
    mapper.map(GUEST, GrantRef(767), Access::ReadWrite).unwrap();
    assert_eq!(guest.table().mapped(), []);
}

#[test]
fn a_part_of_a_page_is_copied_and_not_mapped() {
    let (_tables, guest, mapper) = setup();
    guest.table().set_version(2).unwrap();
    let gref = GrantRef(9);
    guest.grant_part(gref, HOST, Gfn(3), false, (100, 50));
    guest.write(Gfn(3), 90, &[7; 70]);
    let mapped = mapper.map(GUEST, gref, Access::ReadOnly).unwrap_err();
    assert_eq!(mapped, GrantStatus::GENERAL_ERROR);
    let mut buffer = [0; 50];
    assert_eq!(copy(&mapper, gref, 100, Local::Into(&mut buffer)), Ok(()));
    assert_eq!(buffer, [7; 50]);
    assert_eq!(copy(&mapper, gref, 149, Local::From(b"x")), Ok(()));
    let refused = Err(GrantStatus::GENERAL_ERROR);
    for (offset, len) in [(99, 1), (99, 51), (100, 51), (149, 2), (150, 1), (0, 4096)] {
        let mut buffer = vec![0; len];
        let status = copy(&mapper, gref, offset, Local::Into(&mut buffer));
        assert_eq!(status, refused, "{len} at {offset}");
        assert_eq!(buffer, vec![0; len]);
    }
    // What it says of itself may reach beyond the page; a copy may not.
    guest.grant_part(gref, HOST, Gfn(3), false, (4000, u16::MAX));
    let mut buffer = [0; 97];
    let status = copy(&mapper, gref, 4000, Local::Into(&mut buffer));
    assert_eq!(status, Err(GrantStatus::BAD_COPY_ARG));
    let status = copy(&mapper, gref, 4000, Local::Into(&mut buffer[..96]));
    assert_eq!(status, Ok(()));
    assert_eq!(guest.entry_flags(gref), GTF_permit_access | GTF_sub_page);
}

#[test]
fn only_what_the_host_offers_and_nothing_while_in_use() {
    let (_tables, guest, mapper) = setup();
    let table = guest.table();
    assert_eq!((table.version(), table.nr_status_frames()), (1, 0));
    assert_eq!(table.set_version(3), Err(Errno::EINVAL));
    assert_eq!(table.set_version(0), Err(Errno::EINVAL));
    let gref = guest.grant(HOST, Gfn(0), false);
    let mapping = mapper.map(GUEST, gref, Access::ReadOnly).unwrap();
    assert_eq!(table.set_version(2), Err(Errno::EBUSY));
    assert_eq!(table.set_version(1), Ok(()), "it is that already");
    assert_eq!(table.version(), 1);
    drop(mapping);
    assert_eq!(table.set_version(2), Ok(()));
    assert_eq!((table.version(), table.nr_status_frames()), (2, 1));
    table.grow(17).unwrap();
    assert_eq!(table.nr_status_frames(), 3);
    let flags = guest.entry_flags(gref);
    assert_eq!(flags, 0, "what was granted is not any more");
    let one = HeapGuest::with_config(&Arc::new(Tables::new()), GUEST, 1, TableConfig::default());
    assert_eq!(one.table().set_version(2), Err(Errno::ENOSYS));
}

#[test]
fn the_toolstacks_entries_are_kept_with_their_uses() {
    let (_tables, guest, mapper) = setup();
    let table = guest.table();
    table.seed(GrantRef(1), HOST, Gfn(3)).unwrap();
    guest.grant_access(GrantRef(7), DomId(4), Gfn(5), true);
    let mapping = mapper.map(GUEST, GrantRef(1), Access::ReadWrite).unwrap();
    let marks = GTF_permit_access | GTF_reading | GTF_writing;
    for version in [2, 1, 2] {
        assert_eq!(table.set_version(version), Ok(()));
        assert_eq!(guest.entry_flags(GrantRef(1)), marks);
        let readonly = GTF_permit_access | GTF_readonly;
        assert_eq!(guest.entry_flags(GrantRef(7)), readonly);
        let again = mapper.map(GUEST, GrantRef(1), Access::ReadOnly).unwrap();
        assert_eq!(again.as_ptr(), mapping.as_ptr());
    }
    drop(mapping);
    assert_eq!(guest.entry_flags(GrantRef(1)), GTF_permit_access);
    assert_eq!(table.mapped(), []);
}

#[test]
fn what_version_one_cannot_say_stops_the_change_or_is_dropped() {
    let (_tables, guest, mapper) = setup();
    let table = guest.table();
    table.set_version(2).unwrap();
    guest.grant_access(GrantRef(2), HOST, Gfn(1 << 32), false);
    assert_eq!(table.set_version(1), Err(Errno::ERANGE));
    guest.write_entry(GrantRef(2), GTF_transitive, HOST, 0);
    assert_eq!(table.set_version(1), Err(Errno::ERANGE));
    assert_eq!(table.version(), 2);
    guest.grant_part(GrantRef(2), HOST, Gfn(3), false, (0, 8));
    assert_eq!(table.set_version(1), Ok(()));
    // A part of a page has not become a whole one.
    let status = copy(&mapper, GrantRef(2), 8, Local::From(b"more"));
    assert_eq!(status, Err(GrantStatus::GENERAL_ERROR));
}

#[test]
fn status_needs_memory() {
    let new = |status: Option<usize>| {
        let pages = TablePages {
            entries: Arc::new(HeapPages::new(20)),
            status: status.map(|n| Arc::new(HeapPages::new(n)) as _),
        };
        GrantTable::with_pages(GUEST, CONFIG, pages, Arc::new(HeapFrames::new(1)))
    };
    assert_eq!(new(None).unwrap_err(), TableError::StatusTooSmall(0));
    let two = TableError::StatusTooSmall(2 * PAGE_SIZE);
    assert_eq!(new(Some(2)).unwrap_err(), two);
    assert!(new(Some(3)).is_ok());
    let config = TableConfig {
        max_version: 3,
        ..CONFIG
    };
    let entries = Arc::new(HeapPages::new(20));
    let frames = Arc::new(HeapFrames::new(1));
    let refused = GrantTable::new(GUEST, config, entries, frames).unwrap_err();
    assert_eq!(refused, TableError::Version(3));
}

#[test]
fn the_largest_table_works_to_its_last_entry() {
    let tables = Arc::new(Tables::new());
    let config = TableConfig {
        initial_frames: 1,
        max_frames: 4096,
        ..CONFIG
    };
    let guest = HeapGuest::with_config(&tables, GUEST, 4, config);
    let mapper = InProcessMapper::new(tables, HOST);
    guest.table().grow(4096).unwrap();
    for (version, entries) in [(1, 4096 * 512), (2, 4096 * 256)] {
        guest.table().set_version(version).unwrap();
        let last = GrantRef(entries - 1);
        guest.grant_access(last, HOST, Gfn(2), false);
        let mapping = mapper.map(GUEST, last, Access::ReadWrite).unwrap();
        assert_eq!(mapping.as_ptr(), guest.page(Gfn(2)).as_ptr());
        let beyond = mapper.map(GUEST, GrantRef(entries), Access::ReadOnly);
        assert_eq!(beyond.unwrap_err(), GrantStatus::BAD_GNTREF);
    }
}
