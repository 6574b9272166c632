//! `sched_op`: the end of the guest's run, and waiting.

use std::time::{Duration, Instant};

use cantle_abi::sched::{
    SCHEDOP_block, SCHEDOP_poll, SCHEDOP_shutdown, SCHEDOP_shutdown_code, SCHEDOP_watchdog,
    SCHEDOP_yield, SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_soft_reset,
    SHUTDOWN_suspend, SHUTDOWN_watchdog, SchedPoll, SchedShutdown, SchedWatchdog,
};
use cantle_abi::{DomId, Errno, Port};
use cantle_evtchn::PortState;

use super::{Call, Caller, Served};
use crate::outcome::End;

/// The most ports that one poll may wait for (Xen's limit).
const MOST_PORTS: u32 = 128;
/// The longest that a call waits before it lets the guest look again; a wait may end early by the interface.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let at = call.arg(1);
    match call.arg32(0) {
        SCHEDOP_yield => std::thread::yield_now(),
        // An HVM guest waits by HLT, in the kernel; this one waits for what is pending already or comes soon.
        SCHEDOP_block => wait(caller, &[], Instant::now() + LONGEST_WAIT),
        SCHEDOP_poll => poll(caller, at)?,
        SCHEDOP_shutdown => {
            let op: SchedShutdown = caller.read(at)?;
            let reason = caller.domain().shutdown_reason(op.reason);
            caller.domain().end(end_of(reason));
        }
        SCHEDOP_shutdown_code => {
            let op: SchedShutdown = caller.read(at)?;
            caller.domain().latch_shutdown_code(op.reason);
        }
        SCHEDOP_watchdog => {
            let op: SchedWatchdog = caller.read(at)?;
            return caller
                .domain()
                .timers
                .watchdog(op.id, op.timeout)
                .map(i64::from);
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

fn end_of(reason: u32) -> End {
    match reason {
        SHUTDOWN_poweroff => End::PowerOff,
        SHUTDOWN_reboot => End::Reboot,
        SHUTDOWN_suspend => End::Suspend,
        SHUTDOWN_crash => End::Crash("the guest reported a crash".into()),
        SHUTDOWN_watchdog => End::Crash("the guest's watchdog expired".into()),
        SHUTDOWN_soft_reset => {
            End::Crash("the guest asked for a soft reset, which is not offered".into())
        }
        other => End::Crash(format!("the guest ended for the unknown reason {other}")),
    }
}

fn poll(caller: &Caller<'_>, at: u64) -> Result<(), Errno> {
    let op: SchedPoll = caller.read(at)?;
    if op.nr_ports > MOST_PORTS {
        return Err(Errno::EINVAL);
    }
    let mut ports = Vec::new();
    for index in 0..u64::from(op.nr_ports) {
        let port: Port = caller.read(Caller::element::<u32>(op.ports, index)?)?;
        // XSA-221: a port that is not there is an error, not a wait.
        let status = caller
            .domain()
            .ports
            .status(DomId::SELF, port)
            .map_err(|e| e.errno())?;
        if status.state == PortState::Closed {
            return Err(Errno::EINVAL);
        }
        ports.push(port);
    }
    let longest = match op.timeout {
        0 => LONGEST_WAIT,
        until => Duration::from_nanos(until.saturating_sub(caller.domain().system_time_ns()))
            .min(LONGEST_WAIT),
    };
    wait(caller, &ports, Instant::now() + longest);
    Ok(())
}

/// Waits until one of the ports is pending, the vCPU has an upcall to take, or the time is over.
fn wait(caller: &Caller<'_>, ports: &[Port], until: Instant) {
    let domain = caller.domain();
    let events = &domain.ports;
    let _polling = events.poll();
    domain.upcall.sleepers().sleep(until, || {
        events.upcall_pending(caller.vcpu())
            || ports.iter().any(|port| events.is_pending(*port))
            || domain.has_ended()
    });
}

#[cfg(test)]
mod tests;
