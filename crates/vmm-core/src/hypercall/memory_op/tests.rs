use cantle_abi::memory::XENMAPIDX_grant_table_status;
use cantle_abi::xen::__HYPERVISOR_memory_op;
use cantle_abi::{PAGE_SIZE, VcpuId};
use cantle_evtchn::Upcall as _;

use super::*;
use crate::config::GrantConfig;
use crate::test_utils::{ARGS, GRANT_FRAMES, GUEST, Harness, MEMORY, small_grants};

/// A frame of RAM that holds nothing else.
const FRAME: Gfn = Gfn(0x800);
/// A frame beyond RAM.
const BEYOND: Gfn = Gfn(0x10_0100);
/// Where lists are.
const LIST: u64 = ARGS + 0x1000;

fn op(h: &Harness, cmd: u32) -> i64 {
    h.call(0, __HYPERVISOR_memory_op, &[cmd.into(), ARGS])
}

fn add_to(h: &Harness, domid: DomId, space: u16, idx: u64, gpfn: Gfn) -> i64 {
    let arg = XenAddToPhysmap {
        domid,
        size: 0,
        space,
        space_high: 0,
        idx,
        gpfn,
    };
    h.put(ARGS, &arg);
    op(h, XENMEM_add_to_physmap)
}

fn add_shared_info(h: &Harness, gpfn: Gfn) -> i64 {
    add_to(h, DomId::SELF, XENMAPSPACE_shared_info, 0, gpfn)
}

fn remove(h: &Harness, gpfn: Gfn) -> i64 {
    let arg = XenRemoveFromPhysmap {
        domid: DomId::SELF,
        pad: [0; 3],
        gpfn,
    };
    h.put(ARGS, &arg);
    op(h, XENMEM_remove_from_physmap)
}

fn reserve(h: &Harness, cmd: u32, frames: &[u64], nr_extents: u64, extent_order: u32) -> i64 {
    h.put(LIST, frames);
    let arg = XenMemoryReservation {
        extent_start: LIST,
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid: DomId::SELF,
        pad: [0; 3],
    };
    h.put(ARGS, &arg);
    op(h, cmd)
}

fn pages_now(h: &Harness) -> i64 {
    h.put(ARGS, &DomId::SELF);
    op(h, XENMEM_current_reservation)
}

/// The wall clock's version, the one word of shared info that the host sets at the start.
fn wall_clock_version(h: &Harness, at: Gfn) -> u32 {
    h.get((at.0 << 12) + std::mem::offset_of!(cantle_abi::xen::SharedInfo, wc_version) as u64)
}

#[test]
fn kvm_what_lay_under_a_placed_page_is_there_again_when_it_goes() {
    let Some(h) = Harness::new() else { return };
    let ram = [0x5a_u8; PAGE_SIZE];
    h.put(FRAME.0 << 12, &ram);
    assert_eq!(add_shared_info(&h, FRAME), 0);
    assert_eq!(wall_clock_version(&h, FRAME), 2);
    assert_eq!(remove(&h, FRAME), 0);
    assert_eq!(h.get::<[u8; PAGE_SIZE]>(FRAME.0 << 12), ram);
    assert_eq!(pages_now(&h), 4096);
}

#[test]
fn kvm_a_page_is_at_one_place_at_a_time() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(add_shared_info(&h, FRAME), 0);
    assert_eq!(add_shared_info(&h, FRAME), 0);
    assert_eq!(add_shared_info(&h, Gfn(FRAME.0 + 1)), 0);
    assert_eq!(wall_clock_version(&h, FRAME), 0);
    assert_eq!(wall_clock_version(&h, Gfn(FRAME.0 + 1)), 2);
    assert_eq!(add_shared_info(&h, BEYOND), 0);
    assert_eq!(wall_clock_version(&h, Gfn(FRAME.0 + 1)), 0);
    assert_eq!(remove(&h, BEYOND), 0);
    assert_eq!(remove(&h, BEYOND), Errno::ENOENT.to_ret());
}

#[test]
fn kvm_where_a_page_cannot_be_placed_it_stays_where_it_was() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(add_shared_info(&h, FRAME), 0);
    // The special pages have a memory slot; the second lies beyond any address.
    for refused in [layout::STORE_GFN, Gfn(u64::MAX), Gfn(u64::MAX >> 12)] {
        assert_eq!(add_shared_info(&h, refused), Errno::EINVAL.to_ret());
        assert_eq!(wall_clock_version(&h, FRAME), 2);
    }
    let grant = |gfn| add_to(&h, GUEST, XENMAPSPACE_grant_table, 0, gfn);
    assert_eq!(grant(FRAME), Errno::EBUSY.to_ret());
    assert_eq!(grant(BEYOND), 0);
    assert_eq!(add_shared_info(&h, BEYOND), Errno::EBUSY.to_ret());
    assert_eq!(wall_clock_version(&h, FRAME), 2);
}

#[test]
fn kvm_places_come_and_go_without_using_anything_up() {
    let Some(h) = Harness::new() else { return };
    for n in 0..2000 {
        let gfn = if n % 3 == 0 { FRAME } else { BEYOND };
        assert_eq!(add_shared_info(&h, Gfn(gfn.0 + n % 7)), 0);
    }
}

#[test]
fn kvm_grant_frames_grow_the_table_up_to_its_limit() {
    let Some(h) = Harness::new() else { return };
    let add = |idx, gfn| add_to(&h, DomId::SELF, XENMAPSPACE_grant_table, idx, gfn);
    let last = u64::from(GRANT_FRAMES - 1);
    assert_eq!(add(last, FRAME), 0);
    assert_eq!(h.domain().grants.nr_frames(), GRANT_FRAMES);
    for idx in [
        last + 1,
        u64::from(u32::MAX),
        u64::from(u32::MAX) + 1,
        u64::MAX,
        XENMAPIDX_grant_table_status,
    ] {
        assert_eq!(add(idx, BEYOND), Errno::EINVAL.to_ret());
    }
}

#[test]
fn kvm_status_frames_are_there_with_version_two_alone() {
    let config = GrantConfig {
        max_grant_frames: 20,
        ..small_grants(2)
    };
    let Some(h) = Harness::with_grants(&config) else {
        return;
    };
    let add = |idx, gfn| add_to(&h, DomId::SELF, XENMAPSPACE_grant_table, idx, Gfn(gfn));
    let status = |idx: u64| XENMAPIDX_grant_table_status | idx;
    let grants = &h.domain().grants;
    assert_eq!(add(status(0), 0x800), Errno::EINVAL.to_ret());
    assert_eq!(grants.set_version(2), Ok(()));
    assert_eq!((add(status(0), 0x800), grants.nr_frames()), (0, 1));
    // Each is for eight frames of entries, which come with it, as far as there may be any.
    assert_eq!((add(status(1), 0x801), grants.nr_frames()), (0, 16));
    assert_eq!((add(status(2), 0x802), grants.nr_frames()), (0, 20));
    for idx in [
        status(3),
        status(0x2000_0000),
        status(0x7fff_ffff),
        status(1 << 32),
        20,
    ] {
        assert_eq!(add(idx, 0x803), Errno::EINVAL.to_ret(), "{idx:#x}");
    }
    // Beyond RAM too; and what went on to another place leaves RAM behind.
    assert_eq!(add(status(2), BEYOND.0), 0);
    h.put(0x80_2000, &7_u64);
    assert_eq!(grants.set_version(1), Ok(()));
    assert_eq!(add(status(0), 0x804), Errno::EINVAL.to_ret());
}

#[test]
fn kvm_add_to_physmap_refuses_what_it_does_not_have() {
    let Some(h) = Harness::new() else { return };
    for (domid, space, idx, errno) in [
        (DomId(2), XENMAPSPACE_shared_info, 0, Errno::EPERM),
        (DomId::DOM0, XENMAPSPACE_shared_info, 0, Errno::EPERM),
        (DomId::SELF, XENMAPSPACE_shared_info, 1, Errno::EINVAL),
        (DomId::SELF, 2, 0, Errno::EINVAL),
        (DomId::SELF, 77, 0, Errno::EINVAL),
    ] {
        assert_eq!(add_to(&h, domid, space, idx, FRAME), errno.to_ret());
    }
    let nowhere = h.call(
        0,
        __HYPERVISOR_memory_op,
        &[XENMEM_add_to_physmap.into(), MEMORY],
    );
    assert_eq!(nowhere, Errno::EFAULT.to_ret());
}

fn batch(h: &Harness, size: u16) -> i64 {
    let arg = XenAddToPhysmapBatch {
        domid: DomId::SELF,
        space: XENMAPSPACE_grant_table,
        size,
        foreign_domid: DomId(0),
        idxs: LIST,
        gpfns: LIST + 0x1000,
        errs: LIST + 0x2000,
    };
    h.put(ARGS, &arg);
    op(h, XENMEM_add_to_physmap_batch)
}

#[test]
fn kvm_a_batch_has_a_result_for_each() {
    let Some(h) = Harness::new() else { return };
    h.put(LIST, &[0_u64, 99, 1]);
    h.put(LIST + 0x1000, &[FRAME.0, FRAME.0, FRAME.0]);
    assert_eq!(batch(&h, 3), 0);
    let einval = -Errno::EINVAL.0;
    let results: [i32; 3] = h.get(LIST + 0x2000);
    assert_eq!(results, [0, einval, -Errno::EBUSY.0]);
    assert_eq!(batch(&h, 0), 0);
    // More than there are pages to place, many times over.
    assert_eq!(batch(&h, u16::MAX), Errno::E2BIG.to_ret());
}

#[test]
fn kvm_balloon_goes_down_and_up() {
    let Some(h) = Harness::new() else { return };
    h.put(FRAME.0 << 12, &1_u64);
    let frames = [FRAME.0, FRAME.0 + 1, FRAME.0 + 2];
    assert_eq!(reserve(&h, XENMEM_decrease_reservation, &frames, 3, 0), 3);
    assert_eq!(pages_now(&h), 4093);
    assert_eq!(h.get::<u64>(FRAME.0 << 12), 0, "what it held is gone");
    // Given back already; and from the second on they are not.
    let again = [FRAME.0 + 3, FRAME.0, FRAME.0 + 4];
    assert_eq!(reserve(&h, XENMEM_decrease_reservation, &again, 3, 0), 1);
    assert_eq!(reserve(&h, XENMEM_populate_physmap, &frames, 3, 0), 3);
    assert_eq!(reserve(&h, XENMEM_populate_physmap, &frames, 3, 0), 0);
    let rest = [FRAME.0 + 3];
    assert_eq!(reserve(&h, XENMEM_populate_physmap, &rest, 1, 0), 1);
    assert_eq!(pages_now(&h), 4096);
}

#[test]
fn kvm_reservations_count_what_was_done_and_go_on_where_they_are_told() {
    let Some(h) = Harness::new() else { return };
    let frames = [u64::MAX, FRAME.0];
    let from_second = XENMEM_decrease_reservation | 1 << 6;
    assert_eq!(reserve(&h, from_second, &frames, 2, 0), 2);
    assert_eq!(pages_now(&h), 4095);
    assert_eq!(reserve(&h, XENMEM_decrease_reservation, &frames, 2, 0), 0);
    // An extent of 512 pages, and one that is too large.
    assert_eq!(reserve(&h, XENMEM_decrease_reservation, &[0x400], 1, 9), 1);
    assert_eq!(pages_now(&h), 4095 - 512);
    let too_large = reserve(&h, XENMEM_decrease_reservation, &[0x400], 1, 10);
    assert_eq!(too_large, Errno::EPERM.to_ret());
}

#[test]
fn kvm_a_list_that_ends_in_nowhere_counts_what_came_before() {
    let Some(h) = Harness::new() else { return };
    let end = ARGS + 0x4000;
    h.put(Harness::pte(end), &0_u64);
    h.put(end - 16, &[FRAME.0, FRAME.0 + 1]);
    let arg = XenMemoryReservation {
        extent_start: end - 16,
        nr_extents: u64::MAX,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::SELF,
        pad: [0; 3],
    };
    h.put(ARGS, &arg);
    assert_eq!(op(&h, XENMEM_decrease_reservation), 2);
    assert_eq!(pages_now(&h), 4094);
}

#[test]
fn kvm_reservations_of_others_are_not_ones_own() {
    let Some(h) = Harness::new() else { return };
    h.put(ARGS, &DomId(7));
    for cmd in [XENMEM_current_reservation, XENMEM_maximum_reservation] {
        assert_eq!(op(&h, cmd), Errno::EPERM.to_ret());
    }
    h.put(ARGS, &GUEST);
    assert_eq!(op(&h, XENMEM_maximum_reservation), 4096);
    assert_eq!(op(&h, XENMEM_maximum_gpfn), 4095);
}

#[test]
fn kvm_pages_in_use_can_be_given_back_without_harm() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(remove(&h, layout::CONSOLE_GFN), Errno::ENOENT.to_ret());
    assert_eq!(remove(&h, BEYOND), Errno::ENOENT.to_ret());
    let page = h.domain().ram.page(FRAME).unwrap();
    let placed = h
        .domain()
        .ports
        .set_vcpu_info(VcpuId(0), std::sync::Arc::new(page), 0);
    assert_eq!(placed, Ok(()));
    assert_eq!(remove(&h, FRAME), 0);
    // The place is still memory, only another page.
    h.domain().upcall.raise(VcpuId(0));
    assert!(!h.domain().ports.upcall_pending(VcpuId(0)));
    assert_eq!(add_shared_info(&h, FRAME), 0);
    assert_eq!(remove(&h, FRAME), 0);
}

#[test]
fn kvm_a_memory_map_is_cut_to_the_room_that_there_is() {
    let Some(h) = Harness::new() else { return };
    let ask = |nr_entries| {
        let arg = XenMemoryMap {
            nr_entries,
            pad: 0,
            buffer: LIST,
        };
        h.put(ARGS, &arg);
        h.put(LIST, &[0xee_u8; 80]);
        assert_eq!(op(&h, XENMEM_memory_map), 0);
        h.get::<XenMemoryMap>(ARGS).nr_entries
    };
    assert_eq!(ask(u32::MAX), 3);
    let first: E820Entry = h.get(LIST);
    assert_eq!((first.addr, first.kind), ([0, 0], 1));
    assert_eq!(u64::from(first.size[0]), layout::acpi_start(MEMORY));
    assert_eq!(h.get::<u8>(LIST + 60), 0xee);
    assert_eq!(ask(1), 1);
    assert_eq!(h.get::<u8>(LIST + 20), 0xee);
    assert_eq!(ask(0), 0);
}

#[test]
fn kvm_unknown_memory_operations_are_counted() {
    let Some(h) = Harness::new() else { return };
    for cmd in [0, 8, 11, 0x3f] {
        assert_eq!(op(&h, cmd), Errno::ENOSYS.to_ret());
    }
    assert_eq!(h.unknown_hypercalls()[&__HYPERVISOR_memory_op.into()], 4);
}
