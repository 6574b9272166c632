//! Runs that measure the host (`bench=…`), not test it.

use core::hint::black_box;

use cantle_abi::DomId;
use cantle_abi::sched::{SCHEDOP_shutdown, SCHEDOP_yield, SHUTDOWN_poweroff, SchedShutdown};
use cantle_abi::xen::__HYPERVISOR_sched_op;

use crate::report::{Because as _, Outcome};
use crate::start::Start;
use crate::{Probe, clock, cpu, events, fail, hypercall, say};

/// `bench=first-instruction`: before anything else is set up, a byte to the port that `bench-port=` names, or else a shutdown.
pub(crate) fn before_anything(start: &Start) {
    if start.option("bench") != Some("first-instruction") {
        return;
    }
    if let Some(port) = start.number("bench-port") {
        cpu::out8(u16::try_from(port).unwrap_or(0xf4), 0x42);
    }
    hypercall::detect();
    hypercall::use_instruction();
    if start.option("hypercall") != Some("direct") && hypercall::use_page().is_err() {
        cpu::stop();
    }
    let mut shutdown = SchedShutdown {
        reason: SHUTDOWN_poweroff,
    };
    let _ = hypercall::op(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &mut shutdown);
    cpu::stop();
}

/// The others: `bench=evtchn-loop`, `hypercall-loop`, `clock-loop`, each `bench-count=` times.
pub(crate) fn run(probe: &mut Probe) {
    let Some(name) = probe.start.option("bench") else {
        return;
    };
    let count = probe.start.number("bench-count").unwrap_or(10_000).max(1);
    let outcome = match name {
        "evtchn-loop" => evtchn_loop(count),
        "hypercall-loop" => timed(count, || {
            hypercall::numbers(__HYPERVISOR_sched_op, [u64::from(SCHEDOP_yield), 0, 0])
                .because("yield")
                .map(|_| ())
        }),
        "clock-loop" => timed(count, || {
            black_box(clock::now());
            Ok(())
        }),
        other => {
            say!("probe: bench {other}: unknown");
            return;
        }
    };
    match outcome {
        Ok(ns) => say!(
            "probe: bench {name}: {count} in {ns} ns, {} ns each",
            ns / count
        ),
        Err(why) => say!("probe: bench {name}: {why}"),
    }
}

fn timed(count: u64, mut each: impl FnMut() -> Outcome) -> Outcome<u64> {
    let from = clock::now();
    for _ in 0..count {
        each()?;
    }
    Ok(clock::now() - from)
}

/// Signals through a channel to itself, each taken before the next.
fn evtchn_loop(count: u64) -> Outcome<u64> {
    events::prepare()?;
    let far = events::alloc_unbound(DomId::SELF).because("alloc_unbound")?;
    let near = events::bind_interdomain(DomId::SELF, far).because("bind_interdomain")?;
    events::unmask(far).because("unmask")?;
    let ns = timed(count, || {
        let before = events::count(far);
        events::send(near).because("send")?;
        events::collect();
        if events::count(far) == before && !clock::wait(1_000, || events::count(far) != before) {
            fail!("a signal did not arrive");
        }
        Ok(())
    })?;
    events::close(near).because("close")?;
    events::close(far).because("close")?;
    Ok(ns)
}
