//! Version 2: a guest that may choose it, does, and goes back.

use cantle_abi::grant_table::{
    GTF_permit_access, GTF_reading, GTF_readonly, GTF_sub_page, GTF_writing, GrantEntryV2,
};
use cantle_abi::memory::{
    XENMAPIDX_grant_table_status, XENMAPSPACE_grant_table, XENMEM_add_to_physmap, XenAddToPhysmap,
};
use cantle_abi::xen::__HYPERVISOR_memory_op;
use cantle_abi::{Gfn, PAGE_SIZE, SharedMemory as _};
use cantle_grant::{
    Access, CopyPiece, GrantMapper, GrantStatus, GuestFrames as _, InProcessMapper, Local, Mapping,
};

use super::*;
use crate::test_utils::small_grants;

/// Where the guest has its table's first frame, its last, and its first status frame.
const TABLE: Gfn = Gfn(0x900);
const LAST: Gfn = Gfn(0x901);
const STATUS: Gfn = Gfn(0x902);
/// The frame that it lends.
const LENT: Gfn = Gfn(0x800);

/// Two guests; the first has chosen version 2, and sees its table.
fn pair() -> Option<(Harness, Harness)> {
    let (granter, other) = Harness::pair_with(&small_grants(2))?;
    assert_eq!(set_version(&granter, 2), (0, 2));
    assert_eq!(place(&granter, 0, TABLE), 0);
    assert_eq!(place(&granter, XENMAPIDX_grant_table_status, STATUS), 0);
    Some((granter, other))
}

fn set_version(h: &Harness, version: u32) -> (i64, u32) {
    let (ret, op) = call(h, GNTTABOP_set_version, &GnttabSetVersion { version }, 1);
    (ret, op.version)
}

fn get_version(h: &Harness) -> u32 {
    let op = GnttabGetVersion {
        dom: DomId::SELF,
        pad: 0,
        version: 0,
    };
    call(h, GNTTABOP_get_version, &op, 1).1.version
}

fn place(h: &Harness, idx: u64, gpfn: Gfn) -> i64 {
    let op = XenAddToPhysmap {
        domid: DomId::SELF,
        size: 0,
        space: XENMAPSPACE_grant_table,
        space_high: 0,
        idx,
        gpfn,
    };
    h.put(ARGS, &op);
    let cmd = XENMEM_add_to_physmap.into();
    h.call(0, __HYPERVISOR_memory_op, &[cmd, ARGS])
}

fn status_frames(h: &Harness, nr_frames: u32, frame_list: u64) -> i16 {
    let op = GnttabGetStatusFrames {
        nr_frames,
        dom: DomId::SELF,
        status: 99,
        frame_list,
    };
    let (ret, op) = call(h, GNTTABOP_get_status_frames, &op, 1);
    assert_eq!(ret, 0);
    op.status
}

/// Writes an entry as the guest does: what is lent, then to whom.
fn write(h: &Harness, gref: u64, domid: DomId, flags: u16, (page_off, length): (u16, u16)) {
    let entry = GrantEntryV2 {
        flags,
        domid,
        page_off,
        length,
        frame: LENT.0,
    };
    h.put((TABLE.0 << 12) + gref * 16, &entry);
}

/// The host's marks, as the guest sees them.
fn marks(h: &Harness, gref: u64) -> u16 {
    h.get((STATUS.0 << 12) + gref * 2)
}

fn host(h: &Harness) -> InProcessMapper {
    InProcessMapper::new(h.domain().tables.clone(), DomId::DOM0)
}

fn host_map(h: &Harness, gref: u32, access: Access) -> Result<Mapping, GrantStatus> {
    host(h).map(GUEST, GrantRef(gref), access)
}

fn host_copy(h: &Harness, gref: u32, offset: u16, local: Local<'_>) -> Result<(), GrantStatus> {
    let mut pieces = [CopyPiece {
        granter: GUEST,
        gref: GrantRef(gref),
        offset,
        local,
        status: Err(GrantStatus::EAGAIN),
    }];
    host(h).copy(&mut pieces);
    pieces[0].status
}

#[test]
fn kvm_version_two_is_chosen_used_and_given_up() {
    let Some((h, _other)) = pair() else { return };
    assert_eq!(get_version(&h), 2);
    let list = ARGS + 0x800;
    h.put(list, &[7_u64; 2]);
    assert_eq!(status_frames(&h, 1, list), GNTST_okay);
    assert_eq!(h.get::<[u64; 2]>(list), [u64::MAX, 7]);
    assert_eq!(status_frames(&h, 2, 0), GNTST_general_error);

    write(&h, 20, DomId::DOM0, GTF_permit_access, (0, 0));
    h.put((LENT.0 << 12) + 5, b"lent");
    let page = host_map(&h, 20, Access::ReadWrite).unwrap();
    assert_eq!(Some(page.as_ptr()), h.ram().frame(LENT));
    assert_eq!(marks(&h, 20), GTF_reading | GTF_writing);
    let entry: GrantEntryV2 = h.get((TABLE.0 << 12) + 20 * 16);
    assert_eq!(entry.flags, GTF_permit_access, "the guest's alone");
    let mut bytes = [0; 4];
    assert_eq!(host_copy(&h, 20, 5, Local::Into(&mut bytes)), Ok(()));
    assert_eq!(&bytes, b"lent");
    assert_eq!(host_copy(&h, 20, 5, Local::From(b"back")), Ok(()));
    assert_eq!(&h.get::<[u8; 4]>((LENT.0 << 12) + 5), b"back");

    assert_eq!(set_version(&h, 1), (Errno::EBUSY.to_ret(), 2));
    assert_eq!(marks(&h, 20), GTF_reading | GTF_writing, "as before");
    drop(page);
    assert_eq!(marks(&h, 20), 0);
    assert_eq!(set_version(&h, 1), (0, 1));
    assert_eq!(get_version(&h), 1);
    assert_eq!(status_frames(&h, 1, 0), GNTST_general_error);
    let gone = host_map(&h, 20, Access::ReadOnly).unwrap_err();
    assert_eq!(gone, GrantStatus::GENERAL_ERROR, "entries were emptied");
    assert_eq!(set_version(&h, 3), (Errno::EINVAL.to_ret(), 1));
    assert_eq!(set_version(&h, 2), (0, 2));
}

#[test]
fn kvm_a_read_only_grant_is_marked_as_read_and_no_more() {
    let Some((h, _other)) = pair() else { return };
    let readonly = GTF_permit_access | GTF_readonly;
    write(&h, 20, DomId::DOM0, readonly, (0, 0));
    let refused = host_map(&h, 20, Access::ReadWrite).unwrap_err();
    assert_eq!((refused, marks(&h, 20)), (GrantStatus::GENERAL_ERROR, 0));
    let page = host_map(&h, 20, Access::ReadOnly).unwrap();
    assert_eq!(marks(&h, 20), GTF_reading);
    drop(page);
    assert_eq!(marks(&h, 20), 0);
    // A frame has half as many entries as with version 1: this is in the second.
    let beyond = host_map(&h, 256, Access::ReadOnly).unwrap_err();
    assert_eq!(beyond, GrantStatus::BAD_GNTREF);
}

#[test]
fn kvm_parts_of_pages_are_copied_by_host_and_guests_and_not_mapped() {
    let Some((h, other)) = pair() else { return };
    let part = GTF_permit_access | GTF_sub_page;
    h.put(LENT.0 << 12, &[9_u8; 200]);
    write(&h, 20, DomId::DOM0, part, (100, 50));
    write(&h, 21, OTHER, part, (100, 50));
    let mapped = host_map(&h, 20, Access::ReadOnly).unwrap_err();
    assert_eq!(mapped, GrantStatus::GENERAL_ERROR);
    let op = map(21, GUEST, HOLE, GNTMAP_host_map | GNTMAP_readonly);
    let (_, op) = call(&other, GNTTABOP_map_grant_ref, &op, 1);
    assert_eq!(op.status, GNTST_general_error);

    for (offset, len, granted) in [
        (100, 50, true),
        (149, 1, true),
        (99, 2, false),
        (149, 2, false),
        (150, 1, false),
        (0, 200, false),
    ] {
        let mut bytes = vec![0; usize::from(len)];
        let done = host_copy(&h, 20, offset, Local::Into(&mut bytes));
        assert_eq!(done.is_ok(), granted, "{len} at {offset}");
        assert_eq!(bytes, vec![if granted { 9 } else { 0 }; usize::from(len)]);

        other.put(0x80_1000, &[0_u8; 200]);
        let mut op = copy(0, 0x801, len);
        op.flags = GNTCOPY_source_gref;
        op.source.u = 21;
        op.source.domid = GUEST;
        op.source.offset = offset;
        let (ret, op) = call(&other, GNTTABOP_copy, &op, 1);
        let status = if granted {
            GNTST_okay
        } else {
            GNTST_general_error
        };
        assert_eq!((ret, op.status), (0, status), "{len} at {offset}");
        let copied = other.get::<[u8; 200]>(0x80_1000);
        let nines = copied.iter().filter(|byte| **byte == 9).count();
        assert_eq!(nines, if granted { usize::from(len) } else { 0 });
        assert_eq!((marks(&h, 20), marks(&h, 21)), (0, 0));
    }
}

#[test]
fn kvm_a_guest_that_maps_marks_the_others_status() {
    let Some((h, other)) = pair() else { return };
    write(&h, 20, OTHER, GTF_permit_access, (0, 0));
    let op = map(20, GUEST, HOLE, GNTMAP_host_map);
    let (_, done) = call(&other, GNTTABOP_map_grant_ref, &op, 1);
    assert_eq!(done.status, GNTST_okay);
    assert_eq!(marks(&h, 20), GTF_reading | GTF_writing);
    assert_eq!(set_version(&h, 1), (Errno::EBUSY.to_ret(), 2));
    let op = unmap(done.handle, HOLE);
    let (_, op) = call(&other, GNTTABOP_unmap_grant_ref, &op, 1);
    assert_eq!((op.status, marks(&h, 20)), (GNTST_okay, 0));
    assert_eq!(set_version(&h, 1), (0, 1));
}

/// XSA-379 and those after it: status frames that were freed while the guest still had them. Ours are the table's for ever.
#[test]
fn kvm_xsa_379_a_status_frame_that_a_guest_keeps_is_nobody_elses() {
    let Some((h, _other)) = pair() else { return };
    let status = STATUS.0 << 12;
    assert_eq!(set_version(&h, 1), (0, 1));
    assert_eq!(place(&h, u64::from(GRANT_FRAMES) - 1, LAST), 0);
    h.put(status, &[0xa5_u8; PAGE_SIZE]);
    for gfn in [TABLE, LAST] {
        assert_eq!(h.get::<[u8; PAGE_SIZE]>(gfn.0 << 12), [0; PAGE_SIZE]);
    }
    let granted = h.domain().grants.seed(GrantRef(20), DomId::DOM0, LENT);
    assert_eq!(granted, Ok(()));
    let page = host_map(&h, 20, Access::ReadWrite).unwrap();
    assert_eq!(h.get::<[u8; PAGE_SIZE]>(status), [0xa5; PAGE_SIZE]);
    drop(page);
    // The same page is there again, without what was written to it.
    assert_eq!(set_version(&h, 2), (0, 2));
    assert_eq!(h.get::<[u8; PAGE_SIZE]>(status), [0; PAGE_SIZE]);
    write(&h, 20, DomId::DOM0, GTF_permit_access, (0, 0));
    let page = host_map(&h, 20, Access::ReadOnly).unwrap();
    assert_eq!(marks(&h, 20), GTF_reading);
    drop(page);
}
