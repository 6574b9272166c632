//! Event channel calls of two guests and a system domain, while the guests write over their shared info and `vcpu_info`.

use std::sync::Arc;

use arbitrary::Arbitrary;
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Port, VcpuId};
use cantle_evtchn::test_utils::Recorder;
use cantle_evtchn::{Channel, EventChannels, GuestConfig, GuestDomain, Hub, SystemDomain};

use crate::input::{self, Odd};
use crate::scribble;

#[derive(Arbitrary, Debug)]
struct Action {
    guest: bool,
    call: Call,
}

#[derive(Arbitrary, Debug)]
enum Call {
    AllocUnbound(Dom, Dom),
    BindInterdomain(Dom, Odd),
    BindVirq(Odd, Odd),
    BindIpi(Odd),
    Close(Odd),
    Send(Odd),
    Status(Dom, Odd),
    BindVcpu(Odd, Odd),
    Unmask(Odd),
    Reset(Dom),
    RaiseVirq(Odd, Odd),
    PlaceVcpuInfo(Odd, Odd),
    Poll(Odd),
    Look(Odd),
    /// The guest writes to its shared info, or to the page with its `vcpu_info`.
    Scribble(bool, Odd, u64),
    SystemAlloc(Dom),
    SystemBind(Dom, Odd),
    Notify(u8),
    Take(u8),
    Drop(u8),
    /// The guest ends and another one of its number begins.
    Replace,
    Remove(Dom),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Dom {
    Host,
    First,
    Second,
    Myself,
    Other(u16),
}

impl From<Dom> for DomId {
    fn from(dom: Dom) -> Self {
        match dom {
            Dom::Host => Self(0),
            Dom::First => Self(1),
            Dom::Second => Self(2),
            Dom::Myself => Self::SELF,
            Dom::Other(number) => Self(number),
        }
    }
}

const VCPUS: u32 = 3;
const PORTS: u32 = 96;

struct Guest {
    domain: Arc<GuestDomain>,
    shared_info: Arc<HeapPages>,
    vcpu_info: Arc<HeapPages>,
}

impl Guest {
    fn new(hub: &Hub, dom: DomId) -> Option<Self> {
        let shared_info = Arc::new(HeapPages::new(1));
        let config = GuestConfig {
            vcpus: VCPUS,
            max_ports: PORTS,
        };
        let upcalls = Arc::new(Recorder::default());
        let domain = hub.add_guest(dom, config, shared_info.clone(), upcalls);
        Some(Self {
            domain: domain.ok()?,
            shared_info,
            vcpu_info: Arc::new(HeapPages::new(1)),
        })
    }
}

/// Runs one input.
///
/// # Panics
///
/// Where a guest gets more ports than it may have, or a port that it closed stays open.
pub fn run(data: &[u8]) {
    let hub = Hub::new();
    let (Ok(host), Some(first), Some(second)) = (
        hub.add_system(DomId(0)),
        Guest::new(&hub, DomId(1)),
        Guest::new(&hub, DomId(2)),
    ) else {
        panic!("an empty hub takes three domains");
    };
    let mut guests = [first, second];
    let mut channels = Vec::new();
    for action in input::actions::<Action>(data) {
        let n = usize::from(action.guest);
        if let Call::Replace = action.call {
            let dom = guests[n].domain.id();
            hub.remove(dom);
            if let Some(guest) = Guest::new(&hub, dom) {
                guests[n] = guest;
            }
            continue;
        }
        let guest = &guests[n];
        if !on_system(&hub, &host, &mut channels, &action.call) {
            on_guest(guest, &action.call);
        }
        let bound = guest.domain.stats().bound_ports;
        assert!(bound < PORTS, "{bound} ports of {PORTS}");
    }
    for guest in &guests {
        let reset = guest.domain.reset(DomId::SELF);
        assert!(reset.is_ok(), "a guest may always reset itself");
        assert_eq!(guest.domain.stats().bound_ports, 0, "after a reset");
    }
}

/// Whether the call was the system domain's.
fn on_system(
    hub: &Hub,
    host: &SystemDomain,
    channels: &mut Vec<Box<dyn Channel>>,
    call: &Call,
) -> bool {
    match call {
        Call::SystemAlloc(remote) => channels.extend(host.alloc_unbound((*remote).into())),
        Call::SystemBind(remote, port) => {
            channels.extend(host.bind_interdomain((*remote).into(), Port(port.word())));
        }
        Call::Notify(n) => {
            if let Some(channel) = pick(channels, *n) {
                let _ = channel.notify();
            }
        }
        Call::Take(n) => {
            if let Some(channel) = pick(channels, *n) {
                channel.take();
            }
        }
        Call::Drop(n) if !channels.is_empty() => {
            channels.swap_remove(usize::from(*n) % channels.len());
        }
        Call::Remove(dom) => hub.remove((*dom).into()),
        _ => return false,
    }
    true
}

fn pick(channels: &[Box<dyn Channel>], n: u8) -> Option<&dyn Channel> {
    let index = usize::from(n).checked_rem(channels.len())?;
    channels.get(index).map(|channel| &**channel)
}

fn on_guest(guest: &Guest, call: &Call) {
    let domain = &guest.domain;
    let (port, vcpu) = (|odd: &Odd| Port(odd.word()), |odd: &Odd| VcpuId(odd.word()));
    match call {
        Call::AllocUnbound(dom, remote) => {
            let _ = domain.alloc_unbound((*dom).into(), (*remote).into());
        }
        Call::BindInterdomain(remote, at) => {
            let _ = domain.bind_interdomain((*remote).into(), port(at));
        }
        Call::BindVirq(virq, on) => {
            let _ = domain.bind_virq(virq.word(), vcpu(on));
        }
        Call::BindIpi(on) => {
            let _ = domain.bind_ipi(vcpu(on));
        }
        Call::Close(at) => {
            let _ = domain.close(port(at));
            assert!(domain.close(port(at)).is_err(), "{at:?} is closed twice");
        }
        Call::Send(at) => {
            let _ = domain.send(port(at));
        }
        Call::Status(dom, at) => {
            let _ = domain.status((*dom).into(), port(at));
        }
        Call::BindVcpu(at, on) => {
            let _ = domain.bind_vcpu(port(at), vcpu(on));
        }
        Call::Unmask(at) => {
            let _ = domain.unmask(port(at));
        }
        Call::Reset(dom) => {
            let _ = domain.reset((*dom).into());
        }
        Call::RaiseVirq(virq, on) => {
            let _ = domain.raise_virq(virq.word(), vcpu(on));
        }
        Call::PlaceVcpuInfo(on, at) => {
            let offset = usize::try_from(at.0).unwrap_or(usize::MAX);
            let _ = domain.set_vcpu_info(vcpu(on), guest.vcpu_info.clone(), offset);
        }
        Call::Poll(at) => {
            let _guard = domain.poll();
            let _ = domain.is_pending(port(at));
            let _ = domain.send(port(at));
        }
        Call::Look(at) => {
            let _ = domain.is_pending(port(at));
            let _ = domain.upcall_pending(vcpu(at));
        }
        Call::Scribble(info, at, value) => {
            let page = if *info {
                &guest.vcpu_info
            } else {
                &guest.shared_info
            };
            scribble::write(page, usize::from(at.half()), &value.to_le_bytes());
        }
        // The system domain's.
        Call::SystemAlloc(_)
        | Call::SystemBind(..)
        | Call::Notify(_)
        | Call::Take(_)
        | Call::Drop(_)
        | Call::Remove(_)
        | Call::Replace => {}
    }
}
