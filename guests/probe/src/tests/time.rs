//! Clocks and timers.

use core::sync::atomic::Ordering;

use cantle_abi::sched::{SCHEDOP_block, SCHEDOP_poll, SCHEDOP_yield, SchedPoll};
use cantle_abi::vcpu::{
    RUNSTATE_running, VCPU_SSHOTTMR_future, VCPUOP_get_runstate_info,
    VCPUOP_register_runstate_memory_area, VCPUOP_set_singleshot_timer,
    VCPUOP_stop_singleshot_timer, VcpuRegisterMemoryArea, VcpuRunstateInfo, VcpuSetSingleshotTimer,
};
use cantle_abi::xen::{__HYPERVISOR_sched_op, VIRQ_TIMER};
use cantle_abi::{Errno, Port};
use zerocopy::FromZeros as _;

use crate::report::{Because as _, Outcome, refused};
use crate::{Probe, clock, cpu, ensure, events, fail, hypercall, memory, say};

const MS: u64 = 1_000_000;

/// The clock goes forward, by the TSC's measure, and agrees with itself over an update.
pub(super) fn pvclock(_: &mut Probe) -> Outcome {
    events::prepare()?;
    let Some(info) = clock::info() else {
        fail!("the host keeps no clock");
    };
    ensure!(
        info.tsc_shift.unsigned_abs() < 32,
        "the shift is {}",
        info.tsc_shift
    );
    let mut last = clock::system_time(&info, cpu::tsc());
    let first = last;
    for _ in 0..2_000 {
        let now = clock::now();
        ensure!(now >= last, "the clock went back by {} ns", last - now);
        last = now;
    }
    ensure!(last > first, "the clock stands still");
    // 1 GHz in 2^32 units, to MHz.
    let khz = (1_000_000_u64 << 32) / u64::from(info.tsc_to_system_mul);
    let shift = u32::from(info.tsc_shift.unsigned_abs());
    let khz = if info.tsc_shift < 0 {
        khz << shift
    } else {
        khz >> shift
    };
    ensure!(
        (100_000..20_000_000).contains(&khz),
        "the TSC runs at {khz} kHz"
    );
    say!(
        "probe: pvclock: {} us since the start, TSC at {} MHz",
        last / 1_000,
        khz / 1_000
    );
    Ok(())
}

pub(super) fn wall_clock(_: &mut Probe) -> Outcome {
    events::prepare()?;
    let Some(shared) = events::shared_info() else {
        fail!("no shared info");
    };
    let word = |offset| shared.word32(offset).load(Ordering::Acquire);
    let version = word(3072);
    let (sec, nsec, high) = (word(3076), word(3080), word(3084));
    ensure!(
        version & 1 == 0 && version == word(3072),
        "the wall clock is being written"
    );
    ensure!(nsec < 1_000_000_000, "the wall clock has {nsec} ns");
    let start = u64::from(high) << 32 | u64::from(sec);
    let now = start + (clock::now() + u64::from(nsec)) / 1_000_000_000;
    // 2024 to 2100.
    ensure!(
        (1_700_000_000..4_102_444_800).contains(&now),
        "the wall clock says {now} s since 1970"
    );
    say!("probe: wall-clock: {now}");
    Ok(())
}

pub(super) fn set_timer(at: u64, flags: u32) -> Result<u64, Errno> {
    let mut timer = VcpuSetSingleshotTimer {
        timeout_abs_ns: at,
        flags,
        pad: 0,
    };
    hypercall::vcpu_op(VCPUOP_set_singleshot_timer, 0, &mut timer)
}

fn timer_port() -> Outcome<Port> {
    events::prepare()?;
    let port = events::bind_virq(VIRQ_TIMER, 0).because("bind_virq")?;
    events::unmask(port).because("unmask")?;
    Ok(port)
}

pub(super) fn singleshot(_: &mut Probe) -> Outcome {
    /// `-ETIME`.
    const ETIME: Errno = Errno(62);
    let port = timer_port()?;
    let second = events::bind_virq(VIRQ_TIMER, 0);
    ensure!(second.is_err(), "the timer was bound twice");

    let before = events::count(port);
    let due = clock::now() + 20 * MS;
    set_timer(due, 0).because("set_singleshot_timer")?;
    ensure!(
        clock::wait(2_000, || events::count(port) > before),
        "the timer does not fire"
    );
    let late = clock::now().wrapping_sub(due).cast_signed();
    ensure!(
        late > -1_000_000,
        "the timer fired {} us early",
        -late / 1_000
    );
    say!("probe: singleshot: {} us late", late / 1_000);

    // Once only.
    let before = events::count(port);
    clock::wait(30, || false);
    ensure!(events::count(port) == before, "the timer fired again");

    // Far enough that the stop comes first on a busy machine too.
    set_timer(clock::now() + 200 * MS, 0).because("set_singleshot_timer")?;
    let mut none = [0_u8; 0];
    hypercall::vcpu_op(VCPUOP_stop_singleshot_timer, 0, &mut none)
        .because("stop_singleshot_timer")?;
    clock::wait(220, || false);
    ensure!(events::count(port) == before, "a stopped timer fired");

    // In the past: an error where that was asked for, else at once.
    let past = clock::now().saturating_sub(MS);
    let errno = refused(
        set_timer(past, VCPU_SSHOTTMR_future),
        "a timer in the past that must lie in the future",
    )?;
    ensure!(errno == ETIME, "a timer in the past: {errno}");
    set_timer(past, 0).because("a timer in the past")?;
    ensure!(
        clock::wait(2_000, || events::count(port) > before),
        "a timer in the past does not fire"
    );
    events::close(port).because("close")?;
    Ok(())
}

/// A vCPU that blocks is woken by its timer, not before.
pub(super) fn block(_: &mut Probe) -> Outcome {
    let port = timer_port()?;
    events::collect();
    let (before, due) = (events::count(port), clock::now() + 20 * MS);
    set_timer(due, 0).because("set_singleshot_timer")?;
    while events::count(port) == before {
        let numbers = [u64::from(SCHEDOP_block), 0, 0];
        hypercall::numbers(__HYPERVISOR_sched_op, numbers).because("SCHEDOP_block")?;
        events::collect();
        ensure!(clock::now() < due + 2_000 * MS, "the timer does not wake");
    }
    ensure!(clock::now() + MS > due, "the timer woke too early");
    let numbers = [u64::from(SCHEDOP_yield), 0, 0];
    hypercall::numbers(__HYPERVISOR_sched_op, numbers).because("SCHEDOP_yield")?;
    events::close(port).because("close")?;
    Ok(())
}

/// A vCPU that polls masked ports is woken by one of them, or by the time. The interface lets it be woken by anything else too, so that how
/// often is printed and not judged.
pub(super) fn poll(_: &mut Probe) -> Outcome {
    let port = timer_port()?;
    events::mask(port);
    events::clear(port);
    let ports = memory::page()?;
    ports.word32(0).store(port.0, Ordering::Relaxed);
    // Polls until the port is pending or the time has come; how often it took.
    let poll = |until: u64| -> Outcome<u32> {
        for polls in 1.. {
            let mut poll = SchedPoll {
                ports: ports.addr(),
                nr_ports: 1,
                pad: 0,
                timeout: until,
            };
            hypercall::op(__HYPERVISOR_sched_op, SCHEDOP_poll, &mut poll)
                .because("SCHEDOP_poll")?;
            if events::is_pending(port) || clock::now() + MS > until {
                return Ok(polls);
            }
            events::collect();
        }
        Ok(0)
    };
    let until = clock::now() + 10 * MS;
    let by_time = poll(until)?;
    ensure!(!events::is_pending(port), "the port became pending");

    let due = clock::now() + 10 * MS;
    set_timer(due, 0).because("set_singleshot_timer")?;
    let by_port = poll(due + 2_000 * MS)?;
    let now = clock::now();
    ensure!(events::is_pending(port), "polling ended without the port");
    ensure!(
        now + MS > due && now < due + 1_000 * MS,
        "polling ended {} us after the timer",
        now.wrapping_sub(due).cast_signed() / 1_000
    );
    say!("probe: poll: {by_time} polls for the time, {by_port} for the port");
    events::clear(port);
    events::close(port).because("close")?;
    Ok(())
}

pub(super) fn runstate(_: &mut Probe) -> Outcome {
    events::prepare()?;
    let area = memory::page()?;
    let mut register = VcpuRegisterMemoryArea { addr: area.addr() };
    hypercall::vcpu_op(VCPUOP_register_runstate_memory_area, 0, &mut register)
        .because("register_runstate_memory_area")?;
    let kept: VcpuRunstateInfo = area.read(0);
    ensure!(
        kept.state == RUNSTATE_running,
        "this vCPU is in state {}",
        kept.state
    );
    let mut asked = VcpuRunstateInfo::new_zeroed();
    hypercall::vcpu_op(VCPUOP_get_runstate_info, 0, &mut asked).because("get_runstate_info")?;
    ensure!(
        asked.state == RUNSTATE_running,
        "get_runstate_info says {}",
        asked.state
    );
    let sum = |info: &VcpuRunstateInfo| info.time.iter().fold(0, |a: u64, t| a.wrapping_add(*t));
    let first = sum(&asked);
    clock::wait(5, || false);
    hypercall::vcpu_op(VCPUOP_get_runstate_info, 0, &mut asked).because("get_runstate_info")?;
    ensure!(
        sum(&asked) >= first,
        "the times went back from {first} to {} ns",
        sum(&asked)
    );
    Ok(())
}
