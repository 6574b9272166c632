//! What Xen answers to each operation on a port: its state, its errors, its limits. By either interface.

use core::sync::atomic::Ordering;

use cantle_abi::event_channel::{
    EVTCHN_2L_NR_CHANNELS, EVTCHNOP_reset_cont, EVTCHNSTAT_closed, EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi, EVTCHNSTAT_pirq, EVTCHNSTAT_unbound, EVTCHNSTAT_virq,
};
use cantle_abi::sched::{SCHEDOP_poll, SchedPoll};
use cantle_abi::xen::{__HYPERVISOR_sched_op, VIRQ_DEBUG, VIRQ_DOM_EXC, VIRQ_TIMER};
use cantle_abi::{DomId, Errno, Port};

use super::{SOON_MS, close_both, pair};
use crate::report::{Because as _, Failure, Outcome, refused};
use crate::text::Text;
use crate::{Probe, clock, ensure, events, fail, hypercall, memory};

/// A domain that there is not.
const NOBODY: DomId = DomId(0x7ff3);

/// The error is the one that Xen returns.
fn with(expected: Errno, result: Result<impl Sized, Errno>, what: &str) -> Outcome {
    let errno = refused(result, what)?;
    ensure!(errno == expected, "{what}: {errno}, not {expected}");
    Ok(())
}

/// A port's `EVTCHNOP_status`: state, vCPU and the union's two words.
fn is(port: Port, status: u32, vcpu: u32, union: [u32; 2], what: &str) -> Outcome {
    let said = events::status(port).because(what)?;
    let found = (said.status, said.vcpu.0, [said.u0, said.u1]);
    ensure!(
        found == (status, vcpu, union),
        "{what}: status, vcpu and union are {found:?}, not {:?}",
        (status, vcpu, union)
    );
    Ok(())
}

/// Each state that a port can have, as the host tells it.
pub(crate) fn status(_: &mut Probe) -> Outcome {
    events::prepare()?;
    let own = u32::from(hypercall::domid().0);
    let (far, near) = pair()?;
    is(
        near,
        EVTCHNSTAT_interdomain,
        0,
        [own, far.0],
        "a bound port",
    )?;
    is(far, EVTCHNSTAT_interdomain, 0, [own, near.0], "its far end")?;
    events::close(near).because("close")?;
    is(near, EVTCHNSTAT_closed, 0, [0, 0], "a closed port")?;
    is(
        far,
        EVTCHNSTAT_unbound,
        0,
        [own, 0],
        "a port whose peer has closed",
    )?;
    events::close(far).because("close")?;
    let open = events::alloc_unbound(DomId(0)).because("alloc_unbound for domain 0")?;
    is(open, EVTCHNSTAT_unbound, 0, [0, 0], "a port for domain 0")?;
    // Nobody is at the other end: the signal goes nowhere, and is no error.
    events::send(open).because("a send on an unbound port")?;
    events::close(open).because("close")?;
    let virq = events::bind_virq(VIRQ_DEBUG, 0).because("bind_virq")?;
    is(
        virq,
        EVTCHNSTAT_virq,
        0,
        [VIRQ_DEBUG, 0],
        "a virtual interrupt",
    )?;
    with(
        Errno::EINVAL,
        events::send(virq),
        "a send on a virtual interrupt",
    )?;
    events::close(virq).because("close")?;
    let ipi = events::bind_ipi(0).because("bind_ipi")?;
    is(ipi, EVTCHNSTAT_ipi, 0, [0, 0], "an IPI")?;
    events::close(ipi).because("close")?;
    Ok(())
}

/// The error of each wrong call.
pub(crate) fn errors(_: &mut Probe) -> Outcome {
    events::prepare()?;
    use events::{alloc_unbound, bind_interdomain, bind_ipi, bind_vcpu, bind_virq, close, send};
    for port in [0, 4000, 131_072, u32::MAX].map(Port) {
        with(Errno::EINVAL, send(port), "send, no such port")?;
        with(Errno::EINVAL, close(port), "close, no such port")?;
        with(Errno::EINVAL, bind_vcpu(port, 0), "bind_vcpu, no such port")?;
        let bound = bind_interdomain(DomId::SELF, port);
        with(Errno::EINVAL, bound, "bind_interdomain, no such port")?;
    }
    with(
        Errno::ESRCH,
        alloc_unbound(NOBODY),
        "alloc_unbound for nobody",
    )?;
    let bound = bind_interdomain(NOBODY, Port(1));
    with(Errno::ESRCH, bound, "bind_interdomain with nobody")?;
    let foreign = events::alloc_unbound_for(DomId(0), DomId::SELF);
    with(Errno::EPERM, foreign, "alloc_unbound of domain 0's")?;
    with(
        Errno::EPERM,
        events::status_of(DomId(0), Port(1)),
        "status of domain 0's",
    )?;
    with(Errno::EPERM, events::reset(DomId(0)), "reset of domain 0")?;
    with(Errno::EINVAL, bind_virq(24, 0), "virtual interrupt 24")?;
    with(
        Errno::EINVAL,
        bind_virq(VIRQ_DOM_EXC, 1),
        "a global one of vCPU 1",
    )?;
    with(
        Errno::ENOENT,
        bind_virq(VIRQ_TIMER, 5000),
        "a timer of vCPU 5000",
    )?;
    with(Errno::ENOENT, bind_ipi(5000), "an IPI to vCPU 5000")?;

    let virq = bind_virq(VIRQ_DEBUG, 0).because("bind_virq")?;
    with(Errno::EEXIST, bind_virq(VIRQ_DEBUG, 0), "binding it twice")?;
    with(
        Errno::EINVAL,
        bind_vcpu(virq, 0),
        "moving a vCPU's own interrupt",
    )?;
    close(virq).because("close")?;
    let ipi = bind_ipi(0).because("bind_ipi")?;
    with(Errno::EINVAL, bind_vcpu(ipi, 0), "moving an IPI")?;
    with(
        Errno::EINVAL,
        bind_interdomain(DomId::SELF, ipi),
        "binding to an IPI",
    )?;
    close(ipi).because("close")?;

    let not_ours = alloc_unbound(DomId(0)).because("alloc_unbound")?;
    with(
        Errno::ENOENT,
        bind_vcpu(not_ours, 5000),
        "moving to vCPU 5000",
    )?;
    let bound = bind_interdomain(DomId::SELF, not_ours);
    with(Errno::EINVAL, bound, "binding to a port for another domain")?;
    close(not_ours).because("close")?;
    with(Errno::EINVAL, close(not_ours), "closing twice")?;

    match events::bind_pirq(16) {
        Ok(pirq) => pirq_errors(pirq)?,
        // A host without such devices does not have the call either.
        Err(errno) => ensure!(errno == Errno::ENOSYS, "bind_pirq: {errno}"),
    }
    // Xen's own, and what comes after the last one.
    refused(events::unknown(EVTCHNOP_reset_cont), "reset_cont")?;
    with(Errno::ENOSYS, events::unknown(15), "operation 15")?;
    with(Errno::ENOSYS, events::unknown(u32::MAX), "operation 2^32-1")
}

/// A device's interrupt, bound to this port.
fn pirq_errors(port: Port) -> Outcome {
    is(port, EVTCHNSTAT_pirq, 0, [16, 0], "interrupt 16")?;
    with(Errno::EEXIST, events::bind_pirq(16), "binding it twice")?;
    with(Errno::EINVAL, events::send(port), "a send on it")?;
    events::bind_vcpu(port, 0).because("moving it")?;
    events::close(port).because("close")?;
    let again = events::bind_pirq(16).because("binding it after that")?;
    events::close(again).because("close")?;
    for pirq in [5000, u32::MAX] {
        with(
            Errno::EINVAL,
            events::bind_pirq(pirq),
            "an interrupt that there is not",
        )?;
    }
    Ok(())
}

/// Two-level only: 4095 ports and no more; closing one makes room for one.
pub(crate) fn limit(_: &mut Probe) -> Outcome {
    events::prepare()?;
    if events::fifo::in_use() {
        return Err(Failure::Absent(Text::format(format_args!(
            "the limit is the FIFO interface's"
        ))));
    }
    let before = events::all();
    let mut opened = [Port(0); EVTCHN_2L_NR_CHANNELS as usize];
    let mut count = 0;
    let errno = loop {
        match (events::alloc_unbound(DomId::SELF), opened.get_mut(count)) {
            (Ok(port), Some(slot)) => *slot = port,
            (Ok(port), None) => fail!("port {port} is the {count}th"),
            (Err(errno), _) => break errno,
        }
        count += 1;
    };
    ensure!(errno == Errno::ENOSPC, "with {count} ports open: {errno}");
    let ours = opened.get(..count).unwrap_or_default();
    let highest = ours.iter().max().map_or(0, |port| port.0);
    ensure!(
        highest == EVTCHN_2L_NR_CHANNELS - 1,
        "the highest of {count} ports is {highest}"
    );
    let full = events::bind_ipi(0);
    ensure!(full.is_err(), "an IPI was bound beyond the limit");
    // The last one works, and its number is free again after that.
    let last = Port(highest);
    events::close(last).because("close")?;
    let ipi = events::bind_ipi(0).because("an IPI in its place")?;
    ensure!(ipi == last, "the free port is {last}, the new one {ipi}");
    events::unmask(ipi).because("unmask")?;
    let seen = events::count(ipi);
    events::send(ipi).because("send")?;
    let came = clock::wait(SOON_MS, || events::count(ipi) == seen + 1);
    for port in ours {
        events::close(*port).because("close")?;
    }
    ensure!(came, "port {ipi} does not signal");
    ensure!(events::all() >= before, "the count of events went back");
    Ok(())
}

/// Sent twice and more, seen once; what comes while it is looked at comes again.
pub(crate) fn once(_: &mut Probe) -> Outcome {
    let (far, near) = pair()?;
    let before = events::count(far);
    crate::cpu::without_interrupts(|| -> Outcome<_> {
        for _ in 0..5 {
            events::send(near).because("send")?;
        }
        ensure!(events::is_pending(far), "the port is not pending");
        events::collect();
        ensure!(!events::is_pending(far), "the port stays pending");
        Ok(())
    })?;
    clock::wait(5, || false);
    ensure!(
        events::count(far) == before + 1,
        "five signals before the first look arrived {} times",
        events::count(far) - before
    );
    events::send(near).because("send")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(far) == before + 2),
        "a signal after that does not arrive"
    );
    // Cleared while masked: nothing is left to deliver.
    events::mask(far);
    events::send(near).because("send")?;
    events::clear(far);
    events::unmask(far).because("unmask")?;
    clock::wait(5, || false);
    ensure!(
        events::count(far) == before + 2,
        "what was cleared arrived all the same"
    );
    close_both((far, near))
}

/// Polling ends at once for a port that is pending, also among others, and refuses what it cannot.
pub(crate) fn poll(_: &mut Probe) -> Outcome {
    let (far, near) = pair()?;
    events::mask(far);
    let ports = memory::page()?;
    let poll = |count: u32, timeout: u64| {
        let mut poll = SchedPoll {
            ports: ports.addr(),
            nr_ports: count,
            pad: 0,
            timeout,
        };
        hypercall::op(__HYPERVISOR_sched_op, SCHEDOP_poll, &mut poll)
    };
    ports.word32(0).store(near.0, Ordering::Relaxed);
    ports.word32(4).store(far.0, Ordering::Relaxed);
    events::send(near).because("send")?;
    let from = clock::now();
    poll(2, from + 4_000_000_000).because("polling a pending port")?;
    let took = (clock::now() - from) / 1_000_000;
    ensure!(took < 2_000, "polling a pending port took {took} ms");
    ensure!(events::is_pending(far), "polling has taken the event");
    with(Errno::EINVAL, poll(129, 1), "polling 129 ports")?;
    ports.word32(0).store(u32::MAX, Ordering::Relaxed);
    with(Errno::EINVAL, poll(1, 1), "polling port 2^32-1")?;
    events::clear(far);
    close_both((far, near))
}

/// A port that moves to a vCPU that there is not stays; to the one it is on, it works on.
pub(crate) fn bind_vcpu(_: &mut Probe) -> Outcome {
    let (far, near) = pair()?;
    with(
        Errno::ENOENT,
        events::bind_vcpu(far, 16),
        "moving to vCPU 16",
    )?;
    events::bind_vcpu(far, 0).because("bind_vcpu")?;
    let before = events::count(far);
    events::send(near).because("send")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(far) == before + 1),
        "a signal does not arrive after bind_vcpu"
    );
    if crate::smp::up() != 0 {
        events::bind_vcpu(far, 1).because("bind_vcpu to vCPU 1")?;
        let own = hypercall::domid().0.into();
        is(
            far,
            EVTCHNSTAT_interdomain,
            1,
            [own, near.0],
            "a moved port",
        )?;
        events::send(near).because("send")?;
        ensure!(
            clock::wait(SOON_MS, || events::count(far) == before + 2),
            "a signal does not arrive at vCPU 1"
        );
        let by = events::seen_by(far);
        ensure!(
            by == 1 || !events::fifo::in_use(),
            "vCPU {by} took what is vCPU 1's"
        );
    }
    close_both((far, near))
}
