use cantle_abi::VcpuId;
use cantle_abi::xen::{__HYPERVISOR_sched_op, VIRQ_TIMER};

use super::*;
use crate::test_utils::{ARGS, Harness, MEMORY};

/// Where the list of ports is.
const LIST: u64 = ARGS + 0x1000;
/// Well below a wait that nothing ends.
const QUICK: Duration = LONGEST_WAIT;

fn op(h: &Harness, cmd: u32) -> i64 {
    h.call(0, __HYPERVISOR_sched_op, &[cmd.into(), ARGS])
}

fn poll(h: &Harness, ports: &[u32], nr_ports: u32, timeout: u64) -> (i64, Duration) {
    h.put(LIST, ports);
    let arg = SchedPoll {
        ports: LIST,
        nr_ports,
        pad: 0,
        timeout,
    };
    h.put(ARGS, &arg);
    let began = Instant::now();
    let ret = op(h, SCHEDOP_poll);
    (ret, began.elapsed())
}

#[test]
fn kvm_a_poll_ends_at_its_time_and_at_the_latest_soon() {
    let Some(h) = Harness::new() else { return };
    // What domain 0 bound begins pending; this one is the guest's alone.
    let port = h.domain().ports.bind_virq(VIRQ_TIMER, VcpuId(0)).unwrap().0;
    for timeout in [0, u64::MAX, u64::MAX >> 1] {
        let (ret, took) = poll(&h, &[port], 1, timeout);
        assert!(ret == 0 && took >= LONGEST_WAIT, "{timeout}: {took:?}");
    }
    for past in [1, h.domain().system_time_ns()] {
        let (ret, took) = poll(&h, &[port], 1, past);
        assert!(ret == 0 && took < QUICK, "{took:?}");
    }
    assert!(h.domain().ports.raise_virq(VIRQ_TIMER, VcpuId(0)));
    let (ret, took) = poll(&h, &[port], 1, 0);
    assert!(ret == 0 && took < QUICK, "{took:?}");
}

#[test]
fn kvm_xsa_221_a_poll_of_what_is_not_there_fails() {
    let Some(h) = Harness::new() else { return };
    let einval = Errno::EINVAL.to_ret();
    for port in [0, 77, 4096, u32::MAX] {
        assert_eq!(poll(&h, &[port], 1, 1).0, einval, "{port}");
    }
    assert_eq!(poll(&h, &[1; 128], 128, 1).0, 0);
    assert_eq!(poll(&h, &[1; 129], 129, 1).0, einval);
    assert_eq!(poll(&h, &[], u32::MAX, 1).0, einval);
    let nowhere = h.call(0, __HYPERVISOR_sched_op, &[SCHEDOP_poll.into(), MEMORY]);
    assert_eq!(nowhere, Errno::EFAULT.to_ret());
}

#[test]
fn kvm_a_block_ends_when_an_event_comes() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(op(&h, SCHEDOP_yield), 0);
    assert_eq!(op(&h, SCHEDOP_block), 0);
    h.domain().ports.bind_virq(VIRQ_TIMER, VcpuId(0)).unwrap();
    h.domain().ports.raise_virq(VIRQ_TIMER, VcpuId(0));
    let began = Instant::now();
    assert_eq!(op(&h, SCHEDOP_block), 0);
    assert!(began.elapsed() < QUICK);
}

fn ended(shutdown: u32, latched: &[u32]) -> Option<End> {
    let h = Harness::new()?;
    for reason in latched {
        h.put(ARGS, &SchedShutdown { reason: *reason });
        assert_eq!(op(&h, SCHEDOP_shutdown_code), 0);
        assert!(!h.has_ended());
    }
    h.put(ARGS, &SchedShutdown { reason: shutdown });
    assert_eq!(op(&h, SCHEDOP_shutdown), 0);
    Some(h.domain().wait_for_end())
}

#[test]
fn kvm_shutdowns_say_why() {
    let reasons = [
        (SHUTDOWN_poweroff, End::PowerOff),
        (SHUTDOWN_reboot, End::Reboot),
        (SHUTDOWN_suspend, End::Suspend),
    ];
    for (reason, end) in reasons {
        let Some(ended) = ended(reason, &[]) else {
            return;
        };
        assert_eq!(ended, end);
    }
    for reason in [
        SHUTDOWN_crash,
        SHUTDOWN_watchdog,
        SHUTDOWN_soft_reset,
        6,
        u32::MAX,
    ] {
        assert!(matches!(ended(reason, &[]), Some(End::Crash(_))));
    }
}

#[test]
fn kvm_a_latched_shutdown_code_is_the_reason_and_the_first_counts() {
    let latched = [SHUTDOWN_reboot, SHUTDOWN_suspend];
    let Some(ended) = ended(SHUTDOWN_poweroff, &latched) else {
        return;
    };
    assert_eq!(ended, End::Reboot);
}

fn watchdog(h: &Harness, id: u32, timeout: u32) -> i64 {
    h.put(ARGS, &SchedWatchdog { id, timeout });
    op(h, SCHEDOP_watchdog)
}

#[test]
fn kvm_there_are_two_watchdogs() {
    let Some(h) = Harness::new() else { return };
    let einval = Errno::EINVAL.to_ret();
    assert_eq!(watchdog(&h, 1, 10), einval, "there is none yet");
    assert_eq!(watchdog(&h, 0, 0), einval, "one that expires at once");
    assert_eq!(watchdog(&h, 0, 60), 1);
    assert_eq!(watchdog(&h, 0, u32::MAX), 2);
    assert_eq!(watchdog(&h, 0, 60), Errno::ENOSPC.to_ret());
    assert_eq!(watchdog(&h, 3, 60), einval);
    assert_eq!(watchdog(&h, u32::MAX, 60), einval);
    assert_eq!(watchdog(&h, 1, 30), 0);
    assert_eq!(watchdog(&h, 1, 0), 0);
    assert_eq!(watchdog(&h, 1, 0), einval);
    assert_eq!(watchdog(&h, 0, 60), 1);
}

#[test]
fn kvm_unknown_scheduling_operations() {
    let Some(h) = Harness::new() else { return };
    for cmd in [4, 7, 99] {
        assert_eq!(op(&h, cmd), Errno::ENOSYS.to_ret());
    }
}
