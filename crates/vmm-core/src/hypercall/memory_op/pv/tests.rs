use cantle_abi::memory::{
    E820Entry, XENMEM_add_to_physmap, XENMEM_current_reservation, XENMEM_decrease_reservation,
    XENMEM_exchange, XENMEM_increase_reservation, XENMEM_maximum_ram_page, XENMEM_memory_map,
    XENMEM_populate_physmap, XenMemoryMap, XenMemoryReservation,
};
use cantle_abi::xen::{__HYPERVISOR_hvm_op, __HYPERVISOR_memory_op, __HYPERVISOR_xen_version};
use cantle_abi::{DomId, Errno, PAGE_SHIFT};
use cantle_pv_monitor::interface::{DIRECT_MAP, HOST_LOG, HOST_START_VCPU, M2P_BASE};

use super::{MachphysMapping, MachphysMfnList, MemoryExchange};
use crate::pv::PvDomain;
use crate::test_utils::{Harness, MEMORY};

const PAGES: u64 = MEMORY >> PAGE_SHIFT;

fn pv(h: &Harness) -> &PvDomain {
    h.domain().pv.as_ref().unwrap()
}

/// The frame of a page at the start.
fn mfn(h: &Harness, pfn: u64) -> u64 {
    pv(h).frames().mfn(pfn).unwrap()
}

/// Guest-physical addresses of the argument and of a list.
fn places(h: &Harness) -> (u64, u64) {
    (mfn(h, 0x10) << 12, mfn(h, 0x11) << 12)
}

fn op(h: &Harness, cmd: u32) -> i64 {
    h.call(
        0,
        __HYPERVISOR_memory_op,
        &[cmd.into(), DIRECT_MAP + places(h).0],
    )
}

fn list(h: &Harness, frames: &[u64]) -> u64 {
    let at = places(h).1;
    h.put(at, frames);
    DIRECT_MAP + at
}

fn reservation(at: u64, nr_extents: u64, extent_order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: at,
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid: DomId::SELF,
        pad: [0; 3],
    }
}

fn reserve(h: &Harness, cmd: u32, frames: &[u64], order: u32) -> i64 {
    let at = list(h, frames);
    h.put(places(h).0, &reservation(at, frames.len() as u64, order));
    op(h, cmd)
}

/// What the list holds after it.
fn told<const N: usize>(h: &Harness) -> [u64; N] {
    h.get(places(h).1)
}

/// What the machine-to-physical table says of a frame.
fn pfn_of(h: &Harness, mfn: u64) -> u64 {
    h.get(pv(h).m2p() + mfn * 8)
}

fn pages_now(h: &Harness) -> i64 {
    h.put(places(h).0, &DomId::SELF);
    op(h, XENMEM_current_reservation)
}

#[test]
fn kvm_pv_frames_are_given_back_and_others_taken() {
    let Some(h) = Harness::pv() else { return };
    let [a, b, c] = [0x400, 0x401, 0x7ff].map(|pfn| mfn(&h, pfn));
    assert_eq!(pfn_of(&h, a), 0x400);
    assert_eq!(reserve(&h, XENMEM_decrease_reservation, &[a, b, c], 0), 3);
    assert_eq!(pages_now(&h), i64::try_from(PAGES - 3).unwrap());
    assert_eq!([a, b, c].map(|mfn| pfn_of(&h, mfn)), [u64::MAX; 3]);
    // They come back as other pages, and the table says so.
    assert_eq!(
        reserve(&h, XENMEM_populate_physmap, &[0x7ff, 0x400, 0x123], 0),
        3
    );
    let got: [u64; 3] = told(&h);
    let mut sorted = got;
    sorted.sort_unstable();
    assert_eq!(sorted, [a, b, c]);
    assert_eq!(got.map(|mfn| pfn_of(&h, mfn)), [0x7ff, 0x400, 0x123]);
    // There are no more.
    assert_eq!(reserve(&h, XENMEM_populate_physmap, &[0x5], 0), 0);
    assert_eq!(told::<1>(&h), [5]);
}

#[test]
fn kvm_pv_extents_are_consecutive_and_aligned() {
    let Some(h) = Harness::pv() else { return };
    let first = mfn(&h, 0x800);
    assert_eq!(first % 512, 0);
    assert_eq!(
        reserve(&h, XENMEM_decrease_reservation, &[first, first + 7], 0),
        2
    );
    assert_eq!(reserve(&h, XENMEM_populate_physmap, &[0x800], 1), 0);
    assert_eq!(
        reserve(&h, XENMEM_decrease_reservation, &[first + 1, first + 6], 0),
        2
    );
    assert_eq!(
        reserve(&h, XENMEM_populate_physmap, &[0x900, 0xa00, 0xb00], 1),
        2
    );
    assert_eq!(told::<2>(&h), [first, first + 6]);
    assert_eq!(pfn_of(&h, first + 7), 0xa01);
    // Without pages the frames are known to nobody yet.
    assert_eq!(reserve(&h, XENMEM_decrease_reservation, &[first], 0), 1);
    assert_eq!(reserve(&h, XENMEM_increase_reservation, &[0], 0), 1);
    assert_eq!((told::<1>(&h), pfn_of(&h, first)), ([first], u64::MAX));
}

#[test]
fn kvm_pv_what_is_not_the_guests_stays() {
    let Some(h) = Harness::pv() else { return };
    for mfn in [
        0,
        1,
        mfn(&h, 0) - 1,
        pv(&h).frames().end(),
        0xf_0008,
        u64::MAX,
    ] {
        assert_eq!(
            reserve(&h, XENMEM_decrease_reservation, &[mfn], 0),
            0,
            "{mfn:#x}"
        );
    }
    assert_eq!(pages_now(&h), i64::try_from(PAGES).unwrap());
    assert_eq!(op(&h, XENMEM_add_to_physmap), Errno::EACCES.to_ret());
}

#[test]
fn kvm_pv_the_table_is_where_it_is_said_to_be() {
    let Some(h) = Harness::pv() else { return };
    assert_eq!(op(&h, super::XENMEM_machphys_mapping), 0);
    let mapping: MachphysMapping = h.get(places(&h).0);
    let last = pv(&h).frames().end() - 1;
    assert_eq!((mapping.v_start, mapping.max_mfn), (M2P_BASE, last));
    assert!(mapping.v_end >= M2P_BASE + last * 8);
    assert_eq!(
        op(&h, XENMEM_maximum_ram_page),
        i64::try_from(last).unwrap()
    );
    let at = list(&h, &[0; 4]);
    let wanted = MachphysMfnList {
        max_extents: 4,
        pad0: 0,
        extent_start: at,
        nr_extents: 0,
        pad1: 0,
    };
    h.put(places(&h).0, &wanted);
    assert_eq!(op(&h, super::XENMEM_machphys_mfn_list), 0);
    assert_eq!(h.get::<MachphysMfnList>(places(&h).0).nr_extents, 1);
    assert_eq!(told::<1>(&h)[0] << 12, pv(&h).m2p());
}

#[test]
fn kvm_pv_memory_is_one_piece_to_the_guest() {
    let Some(h) = Harness::pv() else { return };
    let arg = XenMemoryMap {
        nr_entries: 8,
        pad: 0,
        buffer: list(&h, &[0; 8]),
    };
    h.put(places(&h).0, &arg);
    assert_eq!(op(&h, XENMEM_memory_map), 0);
    assert_eq!(h.get::<XenMemoryMap>(places(&h).0).nr_entries, 1);
    let entry: E820Entry = h.get(places(&h).1);
    assert_eq!((entry.addr, entry.kind), ([0, 0], 1));
    assert_eq!(u64::from(entry.size[0]), MEMORY);
}

fn exchange(h: &Harness, taken: (&[u64], u32), given: (&[u64], u32)) -> (i64, u64) {
    let (arg, at) = places(h);
    h.put(at, taken.0);
    h.put(at + 0x800, given.0);
    let op_arg = MemoryExchange {
        taken: reservation(DIRECT_MAP + at, taken.0.len() as u64, taken.1),
        given: reservation(DIRECT_MAP + at + 0x800, given.0.len() as u64, given.1),
        nr_exchanged: 0,
    };
    h.put(arg, &op_arg);
    (
        op(h, XENMEM_exchange),
        h.get::<MemoryExchange>(arg).nr_exchanged,
    )
}

#[test]
fn kvm_pv_frames_that_are_consecutive_already_serve_as_those() {
    let Some(h) = Harness::pv() else { return };
    let first = mfn(&h, 0x800);
    let four: Vec<u64> = (first..first + 4).collect();
    assert_eq!(exchange(&h, (&four, 0), (&[0x900], 2)), (0, 4));
    assert_eq!(h.get::<u64>(places(&h).1 + 0x800), first);
    assert_eq!(pfn_of(&h, first + 3), 0x903);
    // And back.
    assert_eq!(
        exchange(&h, (&[first], 2), (&[0x800, 0x801, 0x802, 0x803], 0)),
        (0, 1)
    );
    assert_eq!(h.get::<[u64; 4]>(places(&h).1 + 0x800), four[..]);
    assert_eq!(pfn_of(&h, first + 3), 0x803);
    // Not in a row, not aligned, not the guest's, not as many: nothing is exchanged.
    let nothing = |errno: Errno| (errno.to_ret(), 0);
    let mixed = [first, first + 2, first + 1, first + 3];
    assert_eq!(exchange(&h, (&mixed, 0), (&[1], 2)), nothing(Errno::ENOMEM));
    let shifted: Vec<u64> = (first + 1..first + 5).collect();
    assert_eq!(
        exchange(&h, (&shifted, 0), (&[1], 2)),
        nothing(Errno::ENOMEM)
    );
    assert_eq!(exchange(&h, (&[1], 0), (&[1], 0)), nothing(Errno::EINVAL));
    assert_eq!(exchange(&h, (&four, 0), (&[1], 1)), nothing(Errno::EINVAL));
    assert_eq!(exchange(&h, (&four, 10), (&[1], 2)), nothing(Errno::EPERM));
}

#[test]
fn kvm_pv_the_monitors_calls_are_its_alone() {
    let Some(h) = Harness::pv() else { return };
    assert_eq!(h.call_at(0, 0, HOST_START_VCPU, &[1]), 0);
    assert_eq!(
        h.call_at(0, 0, HOST_START_VCPU, &[1]),
        Errno::EEXIST.to_ret()
    );
    assert_eq!(
        h.call_at(0, 0, HOST_START_VCPU, &[4]),
        Errno::ENOENT.to_ret()
    );
    assert_eq!(
        h.call_at(0, 0, HOST_START_VCPU, &[u64::MAX]),
        Errno::ENOENT.to_ret()
    );
    let log = |bytes| h.call_at(0, 0, HOST_LOG, &[DIRECT_MAP + places(&h).0, bytes]);
    assert_eq!((log(4096), log(4097)), (0, Errno::E2BIG.to_ret()));
    assert!(h.unknown_hypercalls().is_empty());
    for cpl in 1..=3 {
        assert_eq!(
            h.call_at(cpl, 0, HOST_START_VCPU, &[2]),
            Errno::EPERM.to_ret()
        );
    }
    let Some(h) = Harness::new() else { return };
    assert_eq!(
        h.call_at(0, 0, HOST_START_VCPU, &[1]),
        Errno::ENOSYS.to_ret()
    );
}

#[test]
fn kvm_pv_guests_are_told_that_they_are() {
    let Some(h) = Harness::pv() else { return };
    let ask = |sub: u64| {
        h.call(
            0,
            __HYPERVISOR_xen_version,
            &[sub, DIRECT_MAP + places(&h).0],
        )
    };
    // Capabilities, the platform's parameters, features.
    assert_eq!(ask(3), 0);
    assert_eq!(&h.get::<[u8; 15]>(places(&h).0), b"xen-3.0-x86_64 ");
    assert_eq!(ask(5), 0);
    assert_eq!(h.get::<u64>(places(&h).0), M2P_BASE);
    h.put(places(&h).0, &0_u64);
    assert_eq!(ask(6), 0);
    let features = h.get::<[u32; 2]>(places(&h).0)[1];
    assert_eq!(
        (features >> 2 & 1, features >> 5 & 1),
        (0, 1),
        "not translated"
    );
    let hvm = h.call(0, __HYPERVISOR_hvm_op, &[1, DIRECT_MAP + places(&h).0]);
    assert_eq!(hvm, Errno::ENOSYS.to_ret());
}
