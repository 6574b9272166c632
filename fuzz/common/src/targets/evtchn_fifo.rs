//! A guest that uses the FIFO interface in every wrong way, while a thread of its own writes over its event words, control blocks
//! and shared info; beside it a guest that keeps the rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arbitrary::Arbitrary;
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Port, VcpuId};
use cantle_evtchn::test_utils::{HeapGuest, Recorder};
use cantle_evtchn::{
    Abi, Channel, EventChannels, GuestConfig, GuestDomain, Hub, RateLimit, Snapshot, SystemDomain,
};

use crate::input::{self, Odd};
use crate::scribble;

#[derive(Arbitrary, Debug)]
enum Call {
    InitControl(u8, u8, Odd),
    ExpandArray(u8),
    SetPriority(Odd, u8),
    BindIpi(u8),
    BindVcpu(Odd, u8),
    BindPirq(Odd),
    RaisePirq(Odd),
    Line(Odd, bool),
    Eoi(Odd),
    Alloc(bool),
    Send(Odd),
    Unmask(Odd),
    Close(Odd),
    Reset,
    MaxPorts(Odd),
    Rate(Option<(u32, u32)>),
    HostBind(Odd),
    Notify(u8),
    Drop(u8),
    /// The guest writes to one of its pages.
    Scribble(u8, u16, u64),
    /// The domain is saved, the copy broken in one place, and restored elsewhere.
    Restore(Odd, u8, Odd),
}

const HOST: DomId = DomId(0);
const HOSTILE: DomId = DomId(1);
const GOOD: DomId = DomId(2);
const VCPUS: u32 = 2;
const V0: VcpuId = VcpuId(0);

/// The hostile guest's pages: shared info first, then whatever it uses them for.
struct Pages([Arc<HeapPages>; 5]);

impl Pages {
    fn get(&self, n: u8) -> Arc<HeapPages> {
        self.0[usize::from(n) % self.0.len()].clone()
    }
}

fn config() -> GuestConfig {
    GuestConfig {
        vcpus: VCPUS,
        max_ports: 1 << 17,
    }
}

/// Runs one input.
///
/// # Panics
///
/// Where the guest that keeps the rules loses an event, or a restored domain has other ports than its snapshot.
pub fn run(data: &[u8]) {
    let hub = Hub::new();
    let pages = Pages(std::array::from_fn(|_| Arc::new(HeapPages::new(1))));
    let upcalls = Arc::new(Recorder::default());
    let (Ok(host), Ok(guest), Ok(good)) = (
        hub.add_system(HOST),
        hub.add_guest(HOSTILE, config(), pages.get(0), upcalls),
        HeapGuest::new(&hub, GOOD, 1, 4096),
    ) else {
        panic!("an empty hub takes three domains");
    };
    let started = good.start_fifo();
    let port = good.domain.bind_ipi(V0).unwrap_or(Port(0));
    assert!(started.is_ok() && port.0 != 0, "the good guest starts");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scribbler = scope.spawn(|| scribble_over(&pages, data, &stop));
        let mut channels = Vec::new();
        for call in input::actions::<Call>(data) {
            on_guest(&guest, &pages, &call);
            on_host(&host, &guest, &mut channels, &call);
            let sent = good.domain.send(port);
            assert!(sent.is_ok() && good.take(V0) == [port], "an event is lost");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(scribbler.join().is_ok());
    });
    let reset = guest.reset(DomId::SELF);
    assert!(reset.is_ok(), "a guest may always reset itself");
    assert_eq!((guest.stats().bound_ports, guest.abi()), (0, Abi::TwoLevel));
}

/// Writes the input's own words all over the guest's pages until it is told to stop.
fn scribble_over(pages: &Pages, data: &[u8], stop: &AtomicBool) {
    let words = data.chunks_exact(4).cycle();
    for (n, word) in words.enumerate().take(1 << 20) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let [page, low, high, value] = [0, 1, 2, 3].map(|n| word.get(n).copied().unwrap_or(0));
        let at = usize::from(u16::from_le_bytes([low, high])) + n % 64;
        scribble::write(&*pages.get(page), at, &[value]);
    }
}

/// Whatever a call answers, it may.
fn ignore<T>(_answer: T) {}

fn on_guest(guest: &GuestDomain, pages: &Pages, call: &Call) {
    let (port, vcpu) = (|odd: &Odd| Port(odd.word()), |n: &u8| VcpuId((*n).into()));
    match call {
        Call::InitControl(on, page, offset) => {
            let offset = usize::try_from(offset.0).unwrap_or(usize::MAX);
            let _ = guest.init_control(vcpu(on), pages.get(*page), offset);
        }
        Call::ExpandArray(page) => ignore(guest.expand_array(pages.get(*page))),
        Call::SetPriority(at, priority) => {
            ignore(guest.set_priority(port(at), (*priority).into()));
        }
        Call::BindIpi(on) => ignore(guest.bind_ipi(vcpu(on))),
        Call::BindVcpu(at, on) => ignore(guest.bind_vcpu(port(at), vcpu(on))),
        Call::BindPirq(pirq) => ignore(guest.bind_pirq(pirq.word(), pirq.word())),
        Call::RaisePirq(pirq) => ignore(guest.raise_pirq(pirq.word())),
        Call::Line(pirq, asserted) => ignore(guest.set_pirq_line(pirq.word(), *asserted)),
        Call::Eoi(pirq) => ignore(guest.eoi(pirq.word())),
        Call::Alloc(given) if *given => ignore(guest.give_unbound(HOST)),
        Call::Alloc(_) => ignore(guest.alloc_unbound(DomId::SELF, HOST)),
        Call::Send(at) => {
            let _ = guest.send(port(at));
            let _ = (guest.is_pending(port(at)), guest.throttled());
        }
        Call::Unmask(at) => ignore(guest.unmask(port(at))),
        Call::Close(at) => {
            let _ = guest.close(port(at));
            assert!(guest.close(port(at)).is_err(), "{at:?} is closed twice");
        }
        Call::Reset => assert!(guest.reset(DomId::SELF).is_ok()),
        Call::MaxPorts(ports) => ignore(guest.set_max_ports(ports.word())),
        Call::Rate(limit) => {
            guest.set_rate_limit(limit.map(|(per_second, burst)| RateLimit { per_second, burst }));
        }
        Call::Scribble(page, at, value) => {
            scribble::write(&*pages.get(*page), usize::from(*at), &value.to_le_bytes());
        }
        Call::Restore(at, field, value) => restore(guest.snapshot(), *at, *field, *value),
        Call::HostBind(_) | Call::Notify(_) | Call::Drop(_) => {}
    }
}

fn on_host(
    host: &SystemDomain,
    guest: &GuestDomain,
    channels: &mut Vec<Box<dyn Channel>>,
    call: &Call,
) {
    match call {
        Call::HostBind(at) => {
            channels.extend(host.bind_interdomain(guest.id(), Port(at.word())));
        }
        Call::Notify(n) if !channels.is_empty() => {
            let _ = channels[usize::from(*n) % channels.len()].notify();
        }
        Call::Drop(n) if !channels.is_empty() => {
            channels.swap_remove(usize::from(*n) % channels.len());
        }
        _ => {}
    }
}

/// Breaks a snapshot in one place and restores it in another hub: as a whole or not at all.
fn restore(mut saved: Snapshot, at: Odd, field: u8, value: Odd) {
    let count = saved.ports.len().max(1);
    let number = value.word();
    if let Some(port) = saved.ports.get_mut(usize::from(at.half()) % count) {
        match field % 8 {
            0 => port.port = Port(number),
            1 => port.queue.vcpu = VcpuId(number),
            2 => port.queue.priority = number,
            3 => port.last.vcpu = VcpuId(number),
            4 => port.last.priority = number,
            5 => port.waiting = !port.waiting,
            6 => saved.max_ports = number,
            _ => {}
        }
    }
    match field >> 4 {
        1 => saved.tails.push([number; 16]),
        2 => saved
            .tails
            .iter_mut()
            .flatten()
            .for_each(|tail| *tail = number),
        3 => saved.resting.push(Port(number)),
        4 => saved.abi = Abi::TwoLevel,
        _ => {}
    }
    let hub = Hub::new();
    let pages = Arc::new(HeapPages::new(1));
    let _host = hub.add_system(HOST);
    let Ok(guest) = hub.add_guest(HOSTILE, config(), pages.clone(), Arc::new(())) else {
        panic!("an empty hub takes a guest");
    };
    let expected = match guest.restore(&saved) {
        Ok(()) => saved.ports.len(),
        Err(_) => 0,
    };
    assert_eq!(guest.stats().bound_ports as usize, expected);
    if guest.abi() == Abi::Fifo {
        let _ = guest.expand_array(pages.clone());
        let _ = guest.init_control(V0, pages, 0);
        for port in &saved.ports {
            let _ = guest.send(port.port);
        }
    }
}
