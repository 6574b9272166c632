use super::*;
use crate::hardware::{Flush, VcpuSet};
use crate::interface::MONITOR_BASE;
use crate::test_utils::VCPUS;
use cantle_abi::mmu::*;

const ENTRY: u64 = 0x6_4067;

fn update(guest: &mut Guest, address: u64, entry: u64, flags: u64) -> i64 {
    guest.call(
        __HYPERVISOR_update_va_mapping,
        [address, entry, flags, 0, 0],
    )
}

#[test]
fn the_entry_of_an_address_is_written() {
    let mut guest = Guest::new();
    let slot = guest.machine.map(0xffff_8880_0012_3000, 110);
    assert_eq!(update(&mut guest, 0xffff_8880_0012_3456, ENTRY, 0), 0);
    assert_eq!(guest.word(slot), ENTRY);
    assert_eq!(guest.asked(), []);
}

#[test]
fn flushes_are_done_where_the_flags_say() {
    let mut guest = Guest::new();
    guest.put(PAGE + 0x1000, &[0xff_u8, 0xff, 0xff, 0xff]);
    let all = VcpuSet::all(VCPUS);
    let bitmap = PAGE + 0x1000;
    for (flags, wanted) in [
        (UVMF_TLB_FLUSH, (VcpuSet::of(0), Flush::All)),
        (UVMF_INVLPG, (VcpuSet::of(0), Flush::Page(PAGE))),
        (UVMF_TLB_FLUSH | UVMF_ALL, (all, Flush::All)),
        (UVMF_INVLPG | UVMF_ALL, (all, Flush::Page(PAGE))),
        // The fourth byte has bits of vCPUs that there are not.
        (UVMF_TLB_FLUSH | bitmap, (all, Flush::All)),
    ] {
        assert_eq!(update(&mut guest, PAGE, PAGE_MFN << 12 | 0x63, flags), 0);
        assert_eq!(guest.asked(), [Asked::Flush(wanted.0, wanted.1)]);
    }
}

/// XSA-80: what was asked to be flushed is flushed before the call returns, of whichever vCPU asks.
#[test]
fn xsa_80_the_bitmap_names_other_vcpus() {
    let mut guest = Guest::new();
    guest.vcpu.id = 3;
    guest.put(PAGE + 0x1000, &0b10_0001_u64);
    let flags = UVMF_TLB_FLUSH | (PAGE + 0x1000);
    assert_eq!(update(&mut guest, PAGE, PAGE_MFN << 12 | 0x63, flags), 0);
    assert_eq!(
        guest.asked(),
        [Asked::Flush(VcpuSet(0b10_0001), Flush::All)]
    );
}

#[test]
fn nothing_is_written_where_an_argument_is_bad() {
    let mut guest = Guest::new();
    let slot = guest.machine.map(PAGE, PAGE_MFN);
    let before = guest.word(slot);
    for (address, entry, flags, errno) in [
        (PAGE, 0x1067, 0, Errno::EINVAL),
        (PAGE, ENTRY, 3, Errno::EINVAL),
        (PAGE, ENTRY, UVMF_TLB_FLUSH | NOWHERE, Errno::EFAULT),
        (NOWHERE, ENTRY, 0, Errno::EINVAL),
        (1 << 47, ENTRY, 0, Errno::EINVAL),
        (MONITOR_BASE, ENTRY, 0, Errno::EINVAL),
    ] {
        assert_eq!(update(&mut guest, address, entry, flags), error(errno));
        assert_eq!(guest.word(slot), before);
    }
    assert_eq!(guest.asked(), []);
}

#[test]
fn a_walk_does_not_follow_entries_out_of_the_guests_memory() {
    let mut guest = Guest::new();
    let address = 0x100_0000_0000;
    let top = (guest.vcpu.kernel_l4 << 12) + 2 * 8;
    // A guest can write its tables by itself: no call has checked this one.
    for entry in [
        1 << 12 | 0x67,
        200 << 12 | 0x67,
        0xff_ffff << 12 | 0x67,
        110 << 12 | 0xe7,
    ] {
        guest.machine.put(top, &[entry]);
        assert_eq!(update(&mut guest, address, ENTRY, 0), error(Errno::EINVAL));
    }
}

#[test]
fn a_large_page_has_no_level_1_entry() {
    let mut guest = Guest::new();
    let address = 0x100_0000_0000;
    let slot = guest.machine.map(address, 110);
    assert_eq!(update(&mut guest, address, ENTRY, 0), 0);
    // The level-2 entry as one of a large page, of which its table would be the first frame.
    let level_2 = (guest.machine.free_frame() - 2) << 12;
    let entry = guest.word(level_2);
    assert_eq!(entry >> 12, slot >> 12);
    guest.machine.put(level_2, &[entry | 0x80]);
    assert_eq!(update(&mut guest, address, ENTRY, 0), error(Errno::EINVAL));
}

#[test]
fn of_another_domain_nothing_is_mapped() {
    let mut guest = Guest::new();
    let call = |guest: &mut Guest, domain| {
        guest.call(
            __HYPERVISOR_update_va_mapping_otherdomain,
            [PAGE, ENTRY, 0, domain, 0],
        )
    };
    assert_eq!(call(&mut guest, SELF), 0);
    assert_eq!(call(&mut guest, 0), error(Errno::ESRCH));
    assert_eq!(call(&mut guest, 0x7ff1), error(Errno::ESRCH));
}
