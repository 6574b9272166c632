use cantle_abi::GrantRef;
use cantle_abi::grant_table::{
    GNTCOPY_source_gref, GNTST_bad_gntref, GNTST_bad_handle, GNTST_bad_page,
    GNTST_permission_denied, GnttabCopyPtr,
};
use cantle_abi::xen::__HYPERVISOR_grant_table_op;

use super::*;
use crate::test_utils::{ARGS, GRANT_FRAMES, Harness, MEMORY};

fn call<T: FromBytes + IntoBytes + Immutable>(
    h: &Harness,
    cmd: u32,
    op: &T,
    count: u64,
) -> (i64, T) {
    h.put(ARGS, op);
    let ret = h.call(0, __HYPERVISOR_grant_table_op, &[cmd.into(), ARGS, count]);
    (ret, h.get(ARGS))
}

fn query(dom: DomId) -> GnttabQuerySize {
    GnttabQuerySize {
        dom,
        pad: 0,
        nr_frames: 99,
        max_nr_frames: 99,
        status: 99,
        pad2: 0,
    }
}

fn setup(dom: DomId, nr_frames: u32, frame_list: u64) -> GnttabSetupTable {
    GnttabSetupTable {
        dom,
        pad: 0,
        nr_frames,
        status: 99,
        pad2: [0; 3],
        frame_list,
    }
}

#[test]
fn kvm_the_table_tells_its_size_and_grows() {
    let Some(h) = Harness::new() else { return };
    let (ret, size) = call(&h, GNTTABOP_query_size, &query(DomId::SELF), 1);
    let GnttabQuerySize {
        status,
        nr_frames,
        max_nr_frames,
        ..
    } = size;
    assert_eq!((ret, status, nr_frames, max_nr_frames), (0, 0, 1, 4));
    let (_, other) = call(&h, GNTTABOP_query_size, &query(DomId(0)), 1);
    assert_eq!(other.status, GNTST_bad_domain);

    let list = ARGS + 0x800;
    h.put(list, &[7_u64; 3]);
    let (ret, done) = call(&h, GNTTABOP_setup_table, &setup(DomId::SELF, 2, list), 1);
    assert_eq!((ret, done.status), (0, GNTST_okay));
    assert_eq!(h.get::<[u64; 3]>(list), [u64::MAX, u64::MAX, 7]);
    let too_many = setup(DomId::SELF, GRANT_FRAMES + 1, list);
    let (_, done) = call(&h, GNTTABOP_setup_table, &too_many, 1);
    assert_eq!(done.status, GNTST_general_error);
    let (_, done) = call(&h, GNTTABOP_setup_table, &setup(DomId(9), 1, 0), 1);
    assert_eq!(done.status, GNTST_bad_domain);
    let nowhere = setup(DomId::SELF, 1, MEMORY);
    let (ret, _) = call(&h, GNTTABOP_setup_table, &nowhere, 1);
    assert_eq!(ret, Errno::EFAULT.to_ret());
}

#[test]
fn kvm_what_is_done_once_refuses_a_list() {
    let Some(h) = Harness::new() else { return };
    for count in [0, 2] {
        let (ret, _) = call(&h, GNTTABOP_query_size, &query(DomId::SELF), count);
        assert_eq!(ret, Errno::EINVAL.to_ret());
        let (ret, _) = call(&h, GNTTABOP_setup_table, &setup(DomId::SELF, 1, 0), count);
        assert_eq!(ret, Errno::EINVAL.to_ret());
    }
}

#[test]
fn kvm_version_one_is_all_there_is_and_a_guest_is_told_so() {
    let Some(h) = Harness::new() else { return };
    for (wanted, ret) in [
        (1, 0),
        (2, Errno::ENOSYS.to_ret()),
        (3, Errno::EINVAL.to_ret()),
    ] {
        let op = GnttabSetVersion { version: wanted };
        let (got, op) = call(&h, GNTTABOP_set_version, &op, 1);
        assert_eq!((got, op.version), (ret, 1));
    }
    let mut op = GnttabGetVersion {
        dom: DomId::SELF,
        pad: 0,
        version: 0,
    };
    assert_eq!(call(&h, GNTTABOP_get_version, &op, 1).1.version, 1);
    op.dom = DomId(3);
    let (ret, _) = call(&h, GNTTABOP_get_version, &op, 1);
    assert_eq!(ret, Errno::EPERM.to_ret());
}

fn copy(from: u64, to: u64, len: u16) -> GnttabCopy {
    let end = |gfn| GnttabCopyPtr {
        u: gfn,
        domid: DomId::SELF,
        offset: 0,
        pad: 0,
    };
    GnttabCopy {
        source: end(from),
        dest: end(to),
        len,
        flags: 0,
        status: 99,
        pad: 0,
    }
}

#[test]
fn kvm_each_copy_has_a_status_of_its_own() {
    let Some(h) = Harness::new() else { return };
    h.put(0x80_0000, &0x1234_u64);
    let mut no_grant = copy(0, 0x801, 8);
    no_grant.flags = GNTCOPY_source_gref;
    no_grant.source.u = u64::from(GrantRef(100_000).0);
    let ops = [copy(0x800, 0x801, 8), no_grant, copy(0x800, 1 << 40, 8)];
    h.put(ARGS, &ops);
    let ret = h.call(0, __HYPERVISOR_grant_table_op, &[5, ARGS, 3]);
    assert_eq!(ret, 0);
    let done: [GnttabCopy; 3] = h.get(ARGS);
    let statuses = done.map(|op| op.status);
    assert_eq!(statuses, [GNTST_okay, GNTST_bad_gntref, GNTST_bad_page]);
    assert_eq!(h.get::<u64>(0x80_1000), 0x1234);
}

#[test]
fn kvm_maps_and_unmaps_are_refused_one_by_one() {
    let Some(h) = Harness::new() else { return };
    let map = GnttabMapGrantRef {
        host_addr: 0,
        flags: 2,
        gref: GrantRef(0),
        dom: DomId::SELF,
        status: 99,
        handle: 0,
        dev_bus_addr: 0,
    };
    let (ret, done) = call(&h, GNTTABOP_map_grant_ref, &map, 1);
    assert_eq!((ret, done.status), (0, GNTST_permission_denied));
    let unmap = GnttabUnmapGrantRef {
        host_addr: 0,
        dev_bus_addr: 0,
        handle: 0,
        status: 99,
        pad: 0,
    };
    let (ret, done) = call(&h, GNTTABOP_unmap_grant_ref, &unmap, 1);
    assert_eq!((ret, done.status), (0, GNTST_bad_handle));
}

#[test]
fn kvm_lists_are_bounded_and_lie_in_memory() {
    let Some(h) = Harness::new() else { return };
    let call =
        |cmd: u32, at, count| h.call(0, __HYPERVISOR_grant_table_op, &[cmd.into(), at, count]);
    let too_many = u64::from(MOST) + 1;
    assert_eq!(call(GNTTABOP_copy, ARGS, too_many), Errno::E2BIG.to_ret());
    assert_eq!(call(GNTTABOP_copy, MEMORY - 8, 1), Errno::EFAULT.to_ret());
    assert_eq!(call(GNTTABOP_copy, u64::MAX - 7, 2), Errno::EFAULT.to_ret());
    for cmd in [3, 13, 99] {
        assert_eq!(call(cmd, ARGS, 1), Errno::ENOSYS.to_ret());
    }
}
