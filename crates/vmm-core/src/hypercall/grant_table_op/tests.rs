mod ended;
mod version2;

use std::sync::Arc;

use cantle_abi::GrantRef;
use cantle_abi::grant_table::{
    GNTCOPY_source_gref, GNTMAP_host_map, GNTMAP_readonly, GNTST_bad_gntref, GNTST_bad_handle,
    GNTST_bad_page, GnttabCopyPtr,
};
use cantle_abi::xen::__HYPERVISOR_grant_table_op;

use super::*;
use crate::test_utils::{ARGS, GRANT_FRAMES, GUEST, Harness, MEMORY, OTHER};

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

/// Beyond RAM, below the special pages.
const HOLE: u64 = MEMORY + 0x10_0000;

fn map(gref: u32, dom: DomId, host_addr: u64, flags: u32) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr,
        flags,
        gref: GrantRef(gref),
        dom,
        status: 99,
        handle: u32::MAX,
        dev_bus_addr: 0,
    }
}

fn unmap(handle: u32, host_addr: u64) -> GnttabUnmapGrantRef {
    GnttabUnmapGrantRef {
        host_addr,
        dev_bus_addr: 0,
        handle,
        status: 99,
        pad: 0,
    }
}

#[test]
fn kvm_one_guest_maps_anothers_page_and_gives_it_back() {
    let Some((granter, mapper)) = Harness::pair() else {
        return;
    };
    let (gref, frame) = (GrantRef(9), cantle_abi::Gfn(0x800));
    let granted = granter.domain().grants.seed(gref, OTHER, frame);
    assert_eq!(granted, Ok(()));
    let flags = GNTMAP_host_map;
    let (ret, done) = call(
        &mapper,
        GNTTABOP_map_grant_ref,
        &map(9, GUEST, HOLE, flags),
        1,
    );
    assert_eq!((ret, done.status), (0, GNTST_okay));
    // KVM has it: nothing else can be there.
    let again = map(9, GUEST, HOLE, flags);
    let (_, second) = call(&mapper, GNTTABOP_map_grant_ref, &again, 1);
    assert_eq!(second.status, GNTST_general_error);
    let shared_info = crate::memory::HeapPage::SHARED_INFO;
    let hole = cantle_abi::Gfn::of_addr(HOLE);
    assert_eq!(mapper.ram().place(shared_info, hole), Err(Errno::EBUSY));
    let uses = granter.domain().grants.mapped();
    assert_eq!((uses.len(), uses[0].grantee), (1, OTHER));
    // Not over RAM, where this process would find it by address; and it cannot be granted on.
    let over_ram = map(9, GUEST, 0x10_0000, flags);
    let (_, refused) = call(&mapper, GNTTABOP_map_grant_ref, &over_ram, 1);
    assert_eq!(refused.status, GNTST_general_error);
    let frame = cantle_grant::GuestFrames::frame(mapper.ram(), hole);
    assert_eq!(frame, None);

    for (at, status) in [(HOLE + 4096, GNTST_general_error), (HOLE, GNTST_okay)] {
        let op = unmap(done.handle, at);
        let (_, op) = call(&mapper, GNTTABOP_unmap_grant_ref, &op, 1);
        assert_eq!(op.status, status);
    }
    assert_eq!(granter.domain().grants.mapped(), []);
    let (_, op) = call(
        &mapper,
        GNTTABOP_unmap_grant_ref,
        &unmap(done.handle, HOLE),
        1,
    );
    assert_eq!(op.status, GNTST_bad_handle);
}

#[test]
fn kvm_entries_are_swapped_and_frames_not_transferred() {
    let Some(h) = Harness::new() else { return };
    let swap = GnttabSwapGrantRef {
        ref_a: GrantRef(8),
        ref_b: GrantRef(9),
        status: 99,
        pad: 0,
    };
    let (ret, op) = call(&h, GNTTABOP_swap_grant_ref, &swap, 1);
    assert_eq!((ret, op.status), (0, GNTST_okay));
    let transfer = GnttabTransfer {
        mfn: 0x800,
        domid: DomId::DOM0,
        pad: 0,
        gref: GrantRef(8),
        status: 99,
        pad2: [0; 3],
    };
    let (ret, op) = call(&h, GNTTABOP_transfer, &transfer, 1);
    assert_eq!((ret, op.status), (0, GNTST_general_error));
    let flush = GnttabCacheFlush {
        a: 0,
        offset: 0,
        length: 64,
        op: 1,
    };
    assert_eq!(call(&h, GNTTABOP_cache_flush, &flush, 1).0, 0);
    let status = GnttabGetStatusFrames {
        nr_frames: 1,
        dom: DomId::SELF,
        status: 99,
        frame_list: 0,
    };
    let (ret, op) = call(&h, GNTTABOP_get_status_frames, &status, 1);
    assert_eq!((ret, op.status), (0, GNTST_general_error), "version 1");
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
