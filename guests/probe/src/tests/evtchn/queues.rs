//! The FIFO interface's queues: what is on them, in which order it is taken, and on which vCPU.

use core::sync::atomic::Ordering;

use cantle_abi::Port;
use cantle_abi::xen::VIRQ_TIMER;

use super::SOON_MS;
use super::fifo::ready;
use crate::events::fifo::{LINK, LINKED, MASKED, PENDING, bits, head, place_control, word};
use crate::report::{Because as _, Failure, Outcome};
use crate::text::Text;
use crate::{Probe, clock, cpu, ensure, events, smp};

/// The priority that ports begin with.
const DEFAULT: usize = 7;

/// IPIs to a vCPU, unmasked.
fn ipis<const N: usize>(vcpu: u32) -> Outcome<[Port; N]> {
    let mut ports = [Port(0); N];
    for port in &mut ports {
        *port = events::bind_ipi(vcpu).because("bind_ipi")?;
        events::clear(*port);
        events::unmask(*port).because("unmask")?;
    }
    clock::wait(1, || false);
    Ok(ports)
}

fn close(ports: &[Port]) -> Outcome {
    for port in ports {
        events::mask(*port);
        events::close(*port).because("close")?;
    }
    Ok(())
}

/// Sends in this order with nothing taken in between, and returns the order in which they are taken.
fn taken<const N: usize>(ports: [Port; N]) -> Outcome<[u32; N]> {
    cpu::without_interrupts(|| -> Outcome<_> {
        events::collect();
        let before = events::all();
        for port in ports {
            events::send(port).because("send")?;
        }
        events::collect();
        Ok(events::after(before))
    })
}

/// Ports of one priority are taken in the order in which they were signalled, and the chain in memory says so.
pub(crate) fn order(_: &mut Probe) -> Outcome {
    ready()?;
    let [a, b, c] = ipis(0)?;
    cpu::without_interrupts(|| -> Outcome<_> {
        events::collect();
        let before = events::all();
        for port in [b, a, c, b, a] {
            events::send(port).because("send")?;
        }
        let first = head(0, DEFAULT);
        ensure!(first == b.0, "the queue begins with port {first}, not {b}");
        for (port, next) in [(b, a), (a, c), (c, Port(0))] {
            let (word, due) = (bits(port), PENDING | LINKED | next.0);
            ensure!(word == due, "port {port}'s word is {word:#x}, not {due:#x}");
        }
        events::collect();
        let taken: [u32; 4] = events::after(before);
        ensure!(
            taken == [b.0, a.0, c.0, 0],
            "sent as {b}, {a}, {c}, {b}, {a}, taken as {taken:?}"
        );
        for port in [a, b, c] {
            ensure!(
                bits(port) == 0,
                "a port that was taken is {:#x}",
                bits(port)
            );
        }
        Ok(())
    })?;
    // The queue begins anew after it was empty, and goes on where it was not.
    for ports in [[c, b, a], [a, b, c]] {
        let order = taken(ports)?;
        ensure!(
            order == ports.map(|port| port.0),
            "sent as {ports:?}, taken as {order:?}"
        );
    }
    close(&[a, b, c])
}

/// A higher priority is taken first, whenever it was signalled; among equals the first comes first.
pub(crate) fn priority(_: &mut Probe) -> Outcome {
    ready()?;
    let [low, usual, high, highest, other] = ipis(0)?;
    for (port, priority) in [(low, 15), (high, 1), (highest, 0)] {
        events::set_priority(port, priority).because("set_priority")?;
    }
    let order = taken([low, usual, high, other, highest])?;
    let due = [highest, high, usual, other, low].map(|port| port.0);
    ensure!(order == due, "the order is {order:?}, not {due:?}");

    // A new priority counts from the next signal on: what is on a queue stays there.
    let order = cpu::without_interrupts(|| -> Outcome<_> {
        let before = events::all();
        events::send(low).because("send")?;
        events::set_priority(low, 0).because("set_priority")?;
        events::send(usual).because("send")?;
        events::collect();
        Ok(events::after(before))
    })?;
    let due = [usual.0, low.0];
    ensure!(order == due, "moved while queued: {order:?}, not {due:?}");
    let order = taken([usual, low])?;
    let due = [low.0, usual.0];
    ensure!(order == due, "after the move: {order:?}, not {due:?}");
    close(&[low, usual, high, highest, other])
}

/// A masked port is pending and on no queue; one that is masked on its queue is passed over; unmasking brings either back.
pub(crate) fn mask(_: &mut Probe) -> Outcome {
    ready()?;
    let [a, b] = ipis(0)?;
    events::mask(a);
    let order = taken([a, b])?;
    ensure!(order == [b.0, 0], "with {a} masked, taken: {order:?}");
    ensure!(
        bits(a) == PENDING | MASKED,
        "a masked port's word is {:#x}",
        bits(a)
    );
    let before = events::count(a);
    events::unmask(a).because("unmask")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(a) == before + 1),
        "unmasking does not bring it"
    );
    let order: [u32; 2] = cpu::without_interrupts(|| -> Outcome<_> {
        let before = events::all();
        events::send(a).because("send")?;
        events::send(b).because("send")?;
        events::mask(a);
        events::collect();
        Ok(events::after(before))
    })?;
    ensure!(order == [b.0, 0], "masked on its queue: taken {order:?}");
    ensure!(
        bits(a) == PENDING | MASKED,
        "a port passed over has the word {:#x}",
        bits(a)
    );
    let before = events::count(a);
    events::unmask(a).because("unmask")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(a) == before + 1),
        "unmasking does not bring what was passed over"
    );
    close(&[a, b])
}

/// Words that the guest itself has spoilt harm nobody, and once it has emptied them what is signalled arrives.
pub(crate) fn spoilt(_: &mut Probe) -> Outcome {
    ready()?;
    let ports: [Port; 3] = ipis(0)?;
    let [a, b, c] = ports;
    let write = |port, bits| {
        if let Some(word) = word(port) {
            word.store(bits, Ordering::Release);
        }
    };
    // A ring of itself, a link out of range, no longer pending, everything, nothing.
    for wrong in [
        PENDING | LINKED | a.0,
        PENDING | LINKED | LINK,
        LINKED,
        u32::MAX,
        0,
    ] {
        cpu::without_interrupts(|| -> Outcome {
            events::collect();
            for port in ports {
                events::send(port).because("send")?;
                write(port, wrong);
            }
            for port in ports {
                events::send(port).because("send")?;
                write(port, 0);
            }
            events::collect();
            Ok(())
        })?;
        let order = taken([c, a, b])?;
        ensure!(
            order == [c, a, b].map(|port| port.0),
            "after the word {wrong:#x}, taken: {order:?}"
        );
    }
    close(&ports)
}

/// The timer's interrupt, at the highest priority as Linux has it.
pub(crate) fn timer(_: &mut Probe) -> Outcome {
    ready()?;
    let port = events::bind_virq(VIRQ_TIMER, 0).because("bind_virq")?;
    events::set_priority(port, 0).because("set_priority")?;
    events::unmask(port).because("unmask")?;
    for round in 1..=3 {
        let before = events::count(port);
        let due = clock::now() + 10_000_000;
        crate::tests::time::set_timer(due, 0).because("set_singleshot_timer")?;
        ensure!(
            clock::wait(SOON_MS, || events::count(port) == before + 1),
            "timer {round} does not fire"
        );
        ensure!(clock::now() + 1_000_000 > due, "timer {round} fired early");
    }
    close(&[port])
}

/// Each other vCPU has queues of its own; an event for one that has no control block waits for it.
pub(crate) fn vcpus(_: &mut Probe) -> Outcome {
    ready()?;
    if smp::up() == 0 {
        let what = format_args!("no other vCPU was started");
        return Err(Failure::Absent(Text::format(what)));
    }
    let [port] = ipis(1)?;
    let before = events::count(port);
    events::send(port).because("send")?;
    if place_control(1).is_ok() {
        // It came later than the event.
        ensure!(
            clock::wait(SOON_MS, || events::count(port) == before + 1),
            "what waited for vCPU 1's control block does not arrive"
        );
    }
    for vcpu in 2..=smp::up() {
        // Those that joined under FIFO have theirs.
        let _ = place_control(vcpu);
    }
    for vcpu in 1..=smp::up() {
        let [port, second] = ipis(vcpu)?;
        for round in 0..20 {
            for port in [port, second] {
                let before = events::count(port);
                events::send(port).because("send")?;
                ensure!(
                    clock::wait(SOON_MS, || events::count(port) == before + 1),
                    "event {round} does not reach vCPU {vcpu}"
                );
                let by = events::seen_by(port);
                ensure!(by == vcpu, "vCPU {by} took what is vCPU {vcpu}'s");
            }
        }
        close(&[port, second])?;
    }
    close(&[port])
}
