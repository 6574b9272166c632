use cantle_abi::xen::{
    __HYPERVISOR_console_io, __HYPERVISOR_memory_op, __HYPERVISOR_multicall,
    __HYPERVISOR_xen_version,
};
use cantle_abi::{Errno, PAGE_SIZE};

use super::{Caller, Paging};
use crate::boot::layout;
use crate::test_utils::{ARGS, Harness, MEMORY};

const PAGE: u64 = PAGE_SIZE as u64;
/// `XENVER_changeset` writes 64 bytes, `XENVER_get_features` reads 8 and writes them.
const CHANGESET: u64 = 4;
const FEATURES: u64 = 6;

fn version(h: &Harness, sub: u64, at: u64) -> i64 {
    h.call(0, __HYPERVISOR_xen_version, &[sub, at])
}

#[test]
fn kvm_programs_make_no_hypercalls() {
    let Some(h) = Harness::new() else { return };
    for cpl in 1..=3 {
        for nr in [0, 12, 17, 29, 63, 64, u64::MAX] {
            let ret = h.call_at(cpl, 0, nr, &[0, ARGS]);
            assert_eq!(ret, Errno::EPERM.to_ret());
        }
    }
}

#[test]
fn kvm_unknown_numbers_are_counted_but_not_without_end() {
    let Some(h) = Harness::new() else { return };
    for nr in [0, 16, 26, 27, 33, 63, 64, 0x1_0000_0011, u64::MAX] {
        for _ in 0..2 {
            assert_eq!(h.call_at(0, 0, nr, &[]), Errno::ENOSYS.to_ret());
        }
        assert_eq!(h.unknown_hypercalls()[&nr], 2);
    }
    for nr in 1000..2000 {
        assert_eq!(h.call_at(0, 0, nr, &[]), Errno::ENOSYS.to_ret());
    }
    assert_eq!(h.unknown_hypercalls().len(), 64);
}

#[test]
fn kvm_only_the_low_half_of_small_arguments_counts() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(version(&h, 0xffff_ffff_0000_0000, 0), 0x4_0011);
}

#[test]
fn kvm_arguments_cross_pages_wherever_these_are() {
    let Some(h) = Harness::new() else { return };
    h.put(Harness::pte(ARGS + PAGE), &(0x90_0000_u64 | 3));
    h.put(0x90_0000, &[0xee_u8; 64]);
    assert_eq!(version(&h, CHANGESET, ARGS + PAGE - 3), 0);
    assert_eq!(&h.get::<[u8; 3]>(ARGS + PAGE - 3), b"una");
    assert_eq!(&h.get::<[u8; 8]>(0x90_0000), b"vailable");
    h.put(Harness::pte(ARGS + PAGE), &0_u64);
    let ret = version(&h, CHANGESET, ARGS + PAGE - 3);
    assert_eq!(ret, Errno::EFAULT.to_ret());
}

#[test]
fn kvm_pages_that_are_read_only_are_read_only() {
    let Some(h) = Harness::new() else { return };
    h.put(ARGS, &0_u64);
    h.put(Harness::pte(ARGS), &(ARGS | 1));
    assert_eq!(version(&h, FEATURES, ARGS), Errno::EFAULT.to_ret());
    assert_eq!(h.get::<u64>(ARGS), 0);
    let read = h.call(0, __HYPERVISOR_console_io, &[0, 8, ARGS]);
    assert_eq!(read, 0);
}

#[test]
fn kvm_pointers_to_nowhere() {
    let Some(h) = Harness::new() else { return };
    let entry = Harness::pte(ARGS);
    // Not present; beyond memory; beyond what there can be.
    for value in [0, ARGS, MEMORY | 3, 0x000f_ffff_ffff_f003, u64::MAX] {
        h.put(entry, &value);
        assert_eq!(version(&h, FEATURES, ARGS), Errno::EFAULT.to_ret());
    }
    for at in [
        MEMORY,
        0x0000_7fff_ffff_ffff,
        0x0000_8000_0000_0000,
        0xffff_8000_0000_0000,
        ARGS | 1 << 48,
        u64::MAX,
    ] {
        assert_eq!(version(&h, FEATURES, at), Errno::EFAULT.to_ret());
        for nr in [__HYPERVISOR_memory_op, __HYPERVISOR_multicall] {
            let ret = h.call(0, nr, &[at, 7]);
            assert!(ret < 0, "{nr} {at:#x}");
        }
    }
}

#[test]
fn kvm_large_pages_and_special_pages_are_memory_too() {
    let Some(h) = Harness::new() else { return };
    let at = layout::CONSOLE_GFN.0 << 12;
    assert_eq!(version(&h, CHANGESET, at), 0);
    assert_eq!(&h.get::<[u8; 4]>(at), b"unav");
    // In the same large page, and nothing.
    let before = (layout::SPECIAL_GFN.0 << 12) - PAGE;
    assert_eq!(version(&h, CHANGESET, before), Errno::EFAULT.to_ret());
}

#[test]
fn kvm_tables_may_be_anywhere_or_in_a_circle() {
    let Some(h) = Harness::new() else { return };
    let paging = |cr3, cr4| Paging {
        cr0: 1 << 31,
        cr3,
        cr4,
        efer: 1 << 10,
    };
    let read = |paging| {
        let caller = Caller::new(h.domain(), cantle_abi::VcpuId(0), paging, 0);
        caller.read::<u64>(0)
    };
    let five_levels = 1 << 12;
    let circle = 0x80_0000;
    h.put(circle, &(circle | 3));
    assert_eq!(read(paging(circle, 0)), Ok(circle | 3));
    assert_eq!(read(paging(circle, five_levels)), Ok(circle | 3));
    for cr3 in [MEMORY, !0xfff, u64::MAX] {
        assert_eq!(read(paging(cr3, 0)), Err(Errno::EFAULT));
        assert_eq!(read(paging(cr3, five_levels)), Err(Errno::EFAULT));
    }
    let unpaged = Paging {
        cr0: 0,
        ..paging(circle, 0)
    };
    assert_eq!(read(unpaged), Err(Errno::EFAULT));
}
