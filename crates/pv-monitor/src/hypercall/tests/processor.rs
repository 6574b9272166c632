use super::*;
use cantle_abi::pv::*;

const FS: u32 = 0xc000_0100;
const GS: u32 = 0xc000_0101;
const KERNEL_GS: u32 = 0xc000_0102;

#[test]
fn the_fpu_can_be_made_to_trap() {
    let mut guest = Guest::new();
    guest.vcpu.cr0 = 0x8005_0033;
    assert_eq!(guest.call(__HYPERVISOR_fpu_taskswitch, [1, 0, 0, 0, 0]), 0);
    assert_eq!(guest.vcpu.cr0, 0x8005_003b);
    assert_eq!(guest.call(__HYPERVISOR_fpu_taskswitch, [0; 5]), 0);
    assert_eq!(guest.vcpu.cr0, 0x8005_0033);
    assert_eq!(
        guest.asked(),
        [Asked::SetTaskSwitched(true), Asked::SetTaskSwitched(false)]
    );
}

#[test]
fn the_programs_gs_is_the_one_that_swapgs_brings() {
    let mut guest = Guest::new();
    guest
        .machine
        .msrs
        .extend([(FS, 0), (GS, 0), (KERNEL_GS, 0)]);
    let base = 0x7fff_1234_5000;
    for (which, msr) in [
        (SEGBASE_FS, FS),
        (SEGBASE_GS_USER, KERNEL_GS),
        (SEGBASE_GS_KERNEL, GS),
    ] {
        let call = guest.call(__HYPERVISOR_set_segment_base, [which, base, 0, 0, 0]);
        assert_eq!(call, 0);
        assert_eq!(guest.asked(), [Asked::WriteMsr(msr, base)]);
        let call = guest.call(__HYPERVISOR_set_segment_base, [which, 1 << 47, 0, 0, 0]);
        assert_eq!(call, error(Errno::EINVAL));
    }
    let call = guest.call(
        __HYPERVISOR_set_segment_base,
        [SEGBASE_GS_USER_SEL, 0x1_002b, 0, 0, 0],
    );
    assert_eq!(call, 0);
    assert_eq!(guest.asked(), [Asked::LoadUserGs(0x2b)]);
    let call = guest.call(__HYPERVISOR_set_segment_base, [4, base, 0, 0, 0]);
    assert_eq!(call, error(Errno::EINVAL));
}

fn set(guest: &mut Guest, register: u64, value: u64) -> i64 {
    guest.call(__HYPERVISOR_set_debugreg, [register, value, 0, 0, 0])
}

fn get(guest: &mut Guest, register: u64) -> i64 {
    guest.call(__HYPERVISOR_get_debugreg, [register, 0, 0, 0, 0])
}

#[test]
fn breakpoints_are_kept_and_set() {
    let mut guest = Guest::new();
    assert_eq!(set(&mut guest, 2, 0x40_1000), 0);
    assert_eq!(set(&mut guest, 7, 0x000f_0010), 0);
    assert_eq!(get(&mut guest, 2), 0x40_1000);
    assert_eq!(get(&mut guest, 7), 0x000f_0410);
    assert_eq!(
        guest.asked(),
        [
            Asked::SetDebug(2, 0x40_1000),
            Asked::SetDebug(7, 0x000f_0410)
        ]
    );
}

#[test]
fn no_breakpoint_is_in_the_monitor() {
    let mut guest = Guest::new();
    for address in [
        crate::interface::MONITOR_BASE,
        crate::interface::M2P_BASE,
        crate::interface::DIRECT_MAP + 0x1000,
        1 << 47,
    ] {
        assert_eq!(set(&mut guest, 0, address), error(Errno::EPERM));
    }
    assert_eq!(set(&mut guest, 0, 0xffff_8880_0000_0000), 0);
}

#[test]
fn reserved_bits_are_what_they_are() {
    let mut guest = Guest::new();
    assert_eq!(set(&mut guest, 6, 0xffff_ffff), 0);
    assert_eq!(get(&mut guest, 6), 0xffff_efff);
    assert_eq!(set(&mut guest, 6, 0), 0);
    assert_eq!(get(&mut guest, 6), 0xffff_0ff0);
    // General detect would trap the monitor's own accesses.
    assert_eq!(set(&mut guest, 7, 1 << 13), 0);
    assert_eq!(get(&mut guest, 7), 0x400);
    for register in [6, 7] {
        assert_eq!(set(&mut guest, register, 1 << 32), error(Errno::EPERM));
    }
    // A breakpoint on ports: only where it is on.
    assert_eq!(set(&mut guest, 7, 2 << 20 | 1 << 2), error(Errno::EPERM));
    assert_eq!(set(&mut guest, 7, 2 << 20), 0);
}

#[test]
fn registers_4_and_5_have_two_meanings() {
    let mut guest = Guest::new();
    set(&mut guest, 5, 1);
    assert_eq!(get(&mut guest, 7), 0x401);
    guest.vcpu.cr4 = 1 << 3;
    assert_eq!(set(&mut guest, 5, 0), error(Errno::ENODEV));
    assert_eq!(get(&mut guest, 4), error(Errno::ENODEV));
    for register in [8, u64::MAX] {
        assert_eq!(set(&mut guest, register, 0), error(Errno::EINVAL));
        assert_eq!(get(&mut guest, register), error(Errno::EINVAL));
    }
}
