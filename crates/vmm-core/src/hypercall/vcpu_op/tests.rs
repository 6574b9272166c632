use std::os::fd::BorrowedFd;
use std::time::Duration;

use cantle_abi::xen::{__HYPERVISOR_set_timer_op, __HYPERVISOR_vcpu_op, __HYPERVISOR_vm_assist};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::memory::GuestRam;
use crate::runstate::Meter;
use crate::test_utils::{ARGS, Harness, MEMORY, VCPUS};

fn op(h: &Harness, cmd: u32, vcpu: u32) -> i64 {
    h.call(0, __HYPERVISOR_vcpu_op, &[cmd.into(), vcpu.into(), ARGS])
}

/// Whether vCPU 0's one-shot timer fires within a while.
fn fires(h: &Harness, within: Duration) -> bool {
    let fd: BorrowedFd<'_> = h.domain().timers.descriptors().next().unwrap().0;
    let timeout = Timespec::try_from(within).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) == Ok(1)
}

fn singleshot(h: &Harness, timeout_abs_ns: u64, flags: u32) -> i64 {
    let arg = VcpuSetSingleshotTimer {
        timeout_abs_ns,
        flags,
        pad: 0,
    };
    h.put(ARGS, &arg);
    op(h, VCPUOP_set_singleshot_timer, 0)
}

const SOON: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::ZERO;

#[test]
fn kvm_a_timer_in_the_past_fires_at_once_or_is_an_error() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(singleshot(&h, 0, 0), 0);
    assert!(fires(&h, SOON));
    assert_eq!(singleshot(&h, 1, VCPU_SSHOTTMR_future), ETIME.to_ret());
    let past = h.domain().system_time_ns() - 1;
    assert_eq!(singleshot(&h, past, 0), 0);
    assert!(fires(&h, SOON));
}

#[test]
fn kvm_timers_take_extreme_times() {
    let Some(h) = Harness::new() else { return };
    for far in [u64::MAX, u64::MAX >> 1, (u64::MAX >> 1) + 1] {
        assert_eq!(singleshot(&h, far, VCPU_SSHOTTMR_future), 0);
        assert!(!fires(&h, AT_ONCE));
        let set = h.call(0, __HYPERVISOR_set_timer_op, &[far]);
        assert_eq!(set, 0);
    }
    let in_a_while = h.domain().system_time_ns() + 1_000_000;
    assert_eq!(singleshot(&h, in_a_while, VCPU_SSHOTTMR_future), 0);
    assert!(fires(&h, SOON));
    assert_eq!(op(&h, VCPUOP_stop_singleshot_timer, 0), 0);
    assert!(!fires(&h, AT_ONCE));
}

#[test]
fn kvm_set_timer_op_with_zero_stops() {
    let Some(h) = Harness::new() else { return };
    let set = |at| h.call(0, __HYPERVISOR_set_timer_op, &[at]);
    assert_eq!(set(1), 0);
    assert!(fires(&h, SOON));
    assert_eq!(set(0), 0);
    assert!(!fires(&h, AT_ONCE));
}

#[test]
fn kvm_one_shot_timers_are_the_callers_own() {
    let Some(h) = Harness::new() else { return };
    for cmd in [VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer] {
        assert_eq!(op(&h, cmd, 1), Errno::EINVAL.to_ret());
    }
}

#[test]
fn kvm_periodic_timers_have_a_shortest_period() {
    let Some(h) = Harness::new() else { return };
    for (period_ns, ret) in [
        (0, Errno::EINVAL.to_ret()),
        (SHORTEST_PERIOD - 1, Errno::EINVAL.to_ret()),
        (SHORTEST_PERIOD, 0),
        (u64::MAX, 0),
    ] {
        h.put(ARGS, &VcpuSetPeriodicTimer { period_ns });
        assert_eq!(op(&h, VCPUOP_set_periodic_timer, 3), ret);
    }
    assert_eq!(op(&h, VCPUOP_stop_periodic_timer, 3), 0);
}

#[test]
fn kvm_vcpus_that_are_not_there() {
    let Some(h) = Harness::new() else { return };
    for vcpu in [VCPUS, u32::MAX] {
        for cmd in 0..16 {
            assert_eq!(op(&h, cmd, vcpu), Errno::ENOENT.to_ret());
        }
    }
    assert_eq!(op(&h, VCPUOP_is_up, 0), 1);
    assert_eq!(op(&h, VCPUOP_is_up, 1), 0);
    for cmd in [0, 1, 2, 11, 12, 13, 99] {
        assert_eq!(op(&h, cmd, 0), Errno::ENOSYS.to_ret());
    }
}

fn place_info(h: &Harness, vcpu: u32, mfn: u64, offset: u32) -> i64 {
    let arg = VcpuRegisterVcpuInfo {
        mfn,
        offset,
        rsvd: 0,
    };
    h.put(ARGS, &arg);
    op(h, VCPUOP_register_vcpu_info, vcpu)
}

#[test]
fn kvm_vcpu_info_is_placed_once_within_a_page_of_memory() {
    let Some(h) = Harness::new() else { return };
    let einval = Errno::EINVAL.to_ret();
    for (mfn, offset) in [
        (0x800, 4),
        (0x800, 4096 - 56),
        (0x800, u32::MAX),
        (0x800, u32::MAX - 7),
        (MEMORY >> 12, 0),
        (u64::MAX, 0),
        (u64::MAX >> 12, 0),
    ] {
        assert_eq!(place_info(&h, 0, mfn, offset), einval, "{mfn:#x} {offset}");
    }
    assert_eq!(place_info(&h, 0, 0x800, 4096 - 64), 0);
    assert_eq!(h.get::<u8>(0x80_0fc0), 1, "everything is pending");
    let again = place_info(&h, 0, 0x801, 0);
    assert_eq!(again, Errno::EBUSY.to_ret(), "it is placed once");
    assert_eq!(
        place_info(&h, 3, 0x800, 0),
        0,
        "others lie in the same page"
    );
}

/// Brings vCPU 0's run state up to date, as its thread does.
fn refresh(h: &Harness) {
    let ram: &GuestRam = h.ram();
    Meter::start(VcpuId(0)).refresh(&h.domain().runstates, ram, || 0x77);
}

fn register(h: &Harness, addr: u64) -> i64 {
    h.put(ARGS, &VcpuRegisterMemoryArea { addr });
    op(h, VCPUOP_register_runstate_memory_area, 0)
}

#[test]
fn kvm_a_run_state_may_lie_across_two_pages() {
    let Some(h) = Harness::new() else { return };
    // One after the other for the guest, far apart in its memory.
    let (first, second) = (0x80_0000, 0x90_0000);
    h.put(Harness::pte(first + 0x1000), &(second | 3_u64));
    for into in [1, 8, 15, 16, 47] {
        h.put(first + 0x1000 - into, &[0_u8; 48]);
        h.put(second, &[0_u8; 48]);
        assert_eq!(register(&h, first + 0x1000 - into), 0);
        refresh(&h);
        let bytes: Vec<u8> = (0..48)
            .map(|n| {
                let at = if n < into {
                    first + 0x1000 - into + n
                } else {
                    second + n - into
                };
                h.get(at)
            })
            .collect();
        assert_eq!(bytes[8..16], 0x77_u64.to_le_bytes(), "{into}");
        h.put(first + 0x1000, &[0_u8; 48]);
    }
    // What is unmapped later was translated before.
    h.put(Harness::pte(first), &0_u64);
    refresh(&h);
    assert_eq!(register(&h, first), Errno::EFAULT.to_ret());
}

#[test]
fn kvm_a_run_state_needs_memory_that_can_be_written() {
    let Some(h) = Harness::new() else { return };
    h.put(Harness::pte(0x80_1000), &(0x80_1000_u64 | 1));
    for addr in [0x80_1000, 0x80_0ff0, MEMORY, u64::MAX, u64::MAX - 20] {
        assert_eq!(register(&h, addr), Errno::EFAULT.to_ret(), "{addr:#x}");
    }
    // Mapped, but to no memory: it is lost, and nothing else.
    h.put(Harness::pte(0x80_1000), &(MEMORY | 3));
    assert_eq!(register(&h, 0x80_1000), 0);
    refresh(&h);
    assert_eq!(op(&h, VCPUOP_get_runstate_info, 0), 0);
    let info: VcpuRunstateInfo = h.get(ARGS);
    assert_eq!((info.state, info.state_entry_time), (0, 0x77));
}

#[test]
fn kvm_vm_assist_knows_the_update_flag() {
    let Some(h) = Harness::new() else { return };
    let assist = |cmd, kind| h.call(0, __HYPERVISOR_vm_assist, &[cmd, kind]);
    let flag = VMASST_TYPE_RUNSTATE_UPDATE_FLAG.into();
    assert_eq!(assist(0, flag), 0);
    assert_eq!(assist(1, flag), 0);
    assert_eq!(assist(2, flag), Errno::EINVAL.to_ret());
    assert_eq!(assist(0, 4), Errno::EINVAL.to_ret());
}
