//! Event channels of the domain with itself, and how they arrive.

pub(super) mod fifo;
pub(super) mod ports;
pub(super) mod queues;

use core::sync::atomic::Ordering;

use cantle_abi::event_channel::{
    EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_unbound,
};
use cantle_abi::{DomId, Errno, Gfn, PAGE_SIZE, Port};

use crate::report::{Because as _, Outcome, refused};
use crate::{Probe, clock, cpu, ensure, events, fail, interrupts, memory};

/// How long a signal may take.
const SOON_MS: u64 = 5_000;

/// A pair of ports connected with each other, unmasked: the unbound one's and the binder's.
fn pair() -> Outcome<(Port, Port)> {
    events::prepare()?;
    let far = events::alloc_unbound(DomId::SELF).because("alloc_unbound")?;
    let near = events::bind_interdomain(DomId::SELF, far).because("bind_interdomain")?;
    // Binding signals the far end in some hosts: nothing of that may be left over.
    for port in [far, near] {
        events::clear(port);
        events::unmask(port).because("unmask")?;
    }
    clock::wait(1, || false);
    Ok((far, near))
}

fn close_both((far, near): (Port, Port)) -> Outcome {
    events::close(near).because("close")?;
    events::close(far).because("close")?;
    Ok(())
}

/// Shared info lies over RAM, then over a hole, and keeps its contents.
pub(super) fn shared_info(_: &mut Probe) -> Outcome {
    let page = memory::page()?;
    page.fill(0, PAGE_SIZE, |_| 0xa5a5_a5a5_a5a5_a5a5);
    events::map_shared_info(page.gfn()).because("mapping shared info over RAM")?;
    let mask = page.word64(2560).load(Ordering::Relaxed);
    ensure!(
        mask != 0xa5a5_a5a5_a5a5_a5a5,
        "the RAM below shows through shared info"
    );
    // The bits of the highest ports: nobody has them.
    let mark = page.word64(2560 + 63 * 8);
    mark.store(0x5a5a_0000_0000_5a5a, Ordering::Relaxed);
    let gfn = Gfn::of_addr(events::SHARED_INFO);
    events::map_shared_info(gfn).because("mapping shared info over a hole")?;
    let Some(there) = memory::Window::outside_image(events::SHARED_INFO, PAGE_SIZE) else {
        fail!("shared info lies in the program");
    };
    let kept = there.word64(2560 + 63 * 8).load(Ordering::Relaxed);
    ensure!(
        kept == 0x5a5a_0000_0000_5a5a,
        "shared info lost its contents: {kept:#x}"
    );
    events::prepare()
}

pub(super) fn loopback(_: &mut Probe) -> Outcome {
    events::prepare()?;
    let far = events::alloc_unbound(DomId::SELF).because("alloc_unbound")?;
    let status = events::status(far).because("status")?;
    ensure!(
        status.status == EVTCHNSTAT_unbound,
        "an unbound port has status {}",
        status.status
    );
    let near = events::bind_interdomain(DomId::SELF, far).because("bind_interdomain")?;
    ensure!(near != far && near.0 != 0, "both ends are port {near}");
    let status = events::status(near).because("status")?;
    ensure!(
        status.status == EVTCHNSTAT_interdomain && Port(status.u1) == far,
        "the bound port has status {}, remote port {}",
        status.status,
        status.u1
    );
    for port in [far, near] {
        events::clear(port);
        events::unmask(port).because("unmask")?;
    }
    for (from, to) in [(near, far), (far, near), (near, far)] {
        let (before, own) = (events::count(to), events::count(from));
        events::send(from).because("send")?;
        ensure!(
            clock::wait(SOON_MS, || events::count(to) > before),
            "a signal from port {from} to {to} does not arrive"
        );
        ensure!(
            events::count(to) == before + 1 && events::count(from) == own,
            "one signal arrived {} times, and {} times at its sender",
            events::count(to) - before,
            events::count(from) - own
        );
    }
    close_both((far, near))
}

/// A masked port becomes pending and no more; unmasking delivers it, once.
pub(super) fn mask(_: &mut Probe) -> Outcome {
    let (far, near) = pair()?;
    ensure!(!events::mask(far), "the port was masked");
    let before = events::count(far);
    events::send(near).because("send")?;
    events::send(near).because("send")?;
    ensure!(
        clock::wait(SOON_MS, || events::is_pending(far)),
        "a masked port does not become pending"
    );
    clock::wait(5, || false);
    ensure!(events::count(far) == before, "a masked port was delivered");
    events::unmask(far).because("unmask")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(far) > before),
        "unmasking does not deliver what is pending"
    );
    clock::wait(5, || false);
    ensure!(
        events::count(far) == before + 1,
        "two signals to a masked port arrived {} times",
        events::count(far) - before
    );
    close_both((far, near))
}

/// Closing one end leaves the other unbound, to be bound again.
pub(super) fn close(_: &mut Probe) -> Outcome {
    let (far, near) = pair()?;
    events::close(near).because("close")?;
    let status = events::status(near).because("status of a closed port")?;
    ensure!(
        status.status == EVTCHNSTAT_closed,
        "a closed port has status {}",
        status.status
    );
    let status = events::status(far).because("status")?;
    ensure!(
        status.status == EVTCHNSTAT_unbound,
        "the other end of a closed port has status {}",
        status.status
    );
    let again = events::bind_interdomain(DomId::SELF, far).because("binding again")?;
    let second = events::bind_interdomain(DomId::SELF, far);
    ensure!(second.is_err(), "a bound port was bound again");
    close_both((far, again))?;
    let errno = refused(events::close(far), "closing a closed port")?;
    ensure!(errno == Errno::EINVAL, "closing a closed port: {errno}");
    Ok(())
}

pub(super) fn bad_ports(_: &mut Probe) -> Outcome {
    events::prepare()?;
    for port in [0, 4095, 4096, 131_072, 0x8000_0000, u32::MAX].map(Port) {
        refused(events::send(port), "sending to a port that is not there")?;
        refused(events::close(port), "closing a port that is not there")?;
        refused(
            events::bind_vcpu(port, 0),
            "moving a port that is not there",
        )?;
        refused(
            events::bind_interdomain(DomId::SELF, port),
            "binding to a port that is not there",
        )?;
    }
    for port in [131_072, 0x8000_0000, u32::MAX].map(Port) {
        refused(events::status(port), "the status of a port out of range")?;
        refused(events::unmask(port), "unmasking a port out of range")?;
    }
    refused(events::bind_virq(24, 0), "virtual interrupt 24")?;
    refused(events::bind_virq(u32::MAX, 0), "virtual interrupt 2^32-1")?;
    refused(events::bind_virq(0, 5_000), "a timer of vCPU 5000")?;
    refused(events::bind_ipi(5_000), "an IPI to vCPU 5000")?;
    refused(
        events::bind_interdomain(DomId(0x7ff3), Port(1)),
        "binding to a domain that cannot be",
    )?;
    Ok(())
}

pub(super) fn ipi(_: &mut Probe) -> Outcome {
    events::prepare()?;
    let port = events::bind_ipi(0).because("bind_ipi")?;
    events::unmask(port).because("unmask")?;
    let status = events::status(port).because("status")?;
    ensure!(
        status.status == EVTCHNSTAT_ipi,
        "an IPI has status {}",
        status.status
    );
    // The number may have been another port's before.
    let before = events::count(port);
    for round in 1..=3 {
        events::send(port).because("send")?;
        ensure!(
            clock::wait(SOON_MS, || events::count(port) == before + round),
            "IPI {round} does not arrive"
        );
    }
    events::close(port).because("close")?;
    Ok(())
}

/// A signal comes as an interrupt by the vCPU's own vector, and ends a sleep.
pub(super) fn upcall(_: &mut Probe) -> Outcome {
    let (far, near) = pair()?;
    events::enable_upcalls(0)?;
    for _ in 0..3 {
        let upcalls = interrupts::UPCALLS.load(Ordering::Relaxed);
        let before = events::count(far);
        events::send(near).because("send")?;
        // Nothing is collected here: only the handler can do it.
        let end = clock::now() + SOON_MS * 1_000_000;
        while interrupts::UPCALLS.load(Ordering::Relaxed) == upcalls && clock::now() < end {
            cpu::pause();
        }
        ensure!(
            interrupts::UPCALLS.load(Ordering::Relaxed) > upcalls,
            "a signal does not interrupt"
        );
        ensure!(
            events::count(far) == before + 1,
            "the interrupt's handler finds {} events",
            events::count(far) - before
        );
    }
    close_both((far, near))
}
