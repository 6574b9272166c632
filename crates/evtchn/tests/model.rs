//! Long random sequences of operations over several domains, against a model that is slow and obviously right.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

use std::collections::BTreeMap;

use cantle_abi::xen::{VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_TIMER};
use cantle_abi::{DomId, Errno, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{Abi, Channel, EventChannels, EvtchnError, Hub, SystemDomain};
use proptest::prelude::*;
use std::sync::Arc;

#[path = "model/reference.rs"]
mod reference;

use reference::{Answer, Is, Model};

/// Domains 1 and 2 are guests, 3 is a system domain.
const GUESTS: [u16; 2] = [1, 2];
const SYSTEM: u16 = 3;
const VCPUS: u32 = 2;
const PORTS: u32 = 7;

#[derive(Clone, Debug)]
enum Op {
    Alloc { dom: u16, remote: u16 },
    Bind { dom: u16, remote: u16, port: u32 },
    Virq { dom: u16, virq: u32, vcpu: u32 },
    Ipi { dom: u16, vcpu: u32 },
    Close { dom: u16, port: u32 },
    Send { dom: u16, port: u32 },
    BindVcpu { dom: u16, port: u32, vcpu: u32 },
    Mask { dom: u16, port: u32 },
    Unmask { dom: u16, port: u32 },
    Reset { dom: u16 },
    RaiseVirq { dom: u16, virq: u32, vcpu: u32 },
    Take { dom: u16, vcpu: u32 },
    TakeEnd { port: u32 },
    Renew { dom: u16 },
    Give { dom: u16, remote: u16 },
    InitControl { dom: u16, vcpu: u32 },
    Expand { dom: u16 },
    SetPriority { dom: u16, port: u32, priority: u32 },
    Pirq { dom: u16, pirq: u32 },
    RaisePirq { dom: u16, pirq: u32 },
    Limit { dom: u16, ports: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let dom = || prop_oneof![Just(1u16), Just(2), Just(3)];
    let remote = || prop_oneof![4 => 1u16..=3, 1 => Just(DomId::SELF.0), 1 => Just(9)];
    let port = || 0..PORTS + 2;
    let vcpu = || 0..VCPUS + 1;
    let virq = || {
        prop_oneof![
            Just(VIRQ_TIMER),
            Just(VIRQ_DEBUG),
            Just(VIRQ_CONSOLE),
            Just(24u32)
        ]
    };
    let pirq = || prop_oneof![Just(0u32), Just(255), Just(256)];
    prop_oneof![
        4 => (dom(), remote()).prop_map(|(dom, remote)| Op::Alloc { dom, remote }),
        6 => (dom(), remote(), port()).prop_map(|(dom, remote, port)| Op::Bind { dom, remote, port }),
        2 => (dom(), virq(), vcpu()).prop_map(|(dom, virq, vcpu)| Op::Virq { dom, virq, vcpu }),
        1 => (dom(), vcpu()).prop_map(|(dom, vcpu)| Op::Ipi { dom, vcpu }),
        3 => (dom(), port()).prop_map(|(dom, port)| Op::Close { dom, port }),
        8 => (dom(), port()).prop_map(|(dom, port)| Op::Send { dom, port }),
        2 => (dom(), port(), vcpu()).prop_map(|(dom, port, vcpu)| Op::BindVcpu { dom, port, vcpu }),
        2 => (dom(), 1..PORTS).prop_map(|(dom, port)| Op::Mask { dom, port }),
        2 => (dom(), port()).prop_map(|(dom, port)| Op::Unmask { dom, port }),
        1 => dom().prop_map(|dom| Op::Reset { dom }),
        3 => (dom(), virq(), vcpu()).prop_map(|(dom, virq, vcpu)| Op::RaiseVirq { dom, virq, vcpu }),
        5 => (dom(), 0..VCPUS).prop_map(|(dom, vcpu)| Op::Take { dom, vcpu }),
        3 => port().prop_map(|port| Op::TakeEnd { port }),
        1 => dom().prop_map(|dom| Op::Renew { dom }),
        1 => (dom(), remote()).prop_map(|(dom, remote)| Op::Give { dom, remote }),
        4 => (dom(), vcpu()).prop_map(|(dom, vcpu)| Op::InitControl { dom, vcpu }),
        3 => dom().prop_map(|dom| Op::Expand { dom }),
        2 => (dom(), port(), 0..17u32)
            .prop_map(|(dom, port, priority)| Op::SetPriority { dom, port, priority }),
        1 => (dom(), pirq()).prop_map(|(dom, pirq)| Op::Pirq { dom, pirq }),
        2 => (dom(), pirq()).prop_map(|(dom, pirq)| Op::RaisePirq { dom, pirq }),
        1 => (dom(), 1..PORTS + 3).prop_map(|(dom, ports)| Op::Limit { dom, ports }),
    ]
}

/// The real thing.
struct Real {
    hub: Hub,
    guests: BTreeMap<u16, HeapGuest>,
    system: Arc<SystemDomain>,
    channels: BTreeMap<u32, Box<dyn Channel>>,
}

impl Real {
    fn new() -> Self {
        let hub = Hub::new();
        let guest = |dom| HeapGuest::new(&hub, DomId(dom), VCPUS, PORTS).unwrap();
        Self {
            guests: GUESTS.map(|dom| (dom, guest(dom))).into(),
            system: hub.add_system(DomId(SYSTEM)).unwrap(),
            channels: BTreeMap::new(),
            hub,
        }
    }

    fn keep(&mut self, channel: Result<Box<dyn Channel>, EvtchnError>) -> Answer {
        let channel = channel.map_err(|error| error.errno())?;
        let port = channel.port().0;
        self.channels.insert(port, channel);
        Ok(port)
    }
}

fn port(result: Result<Port, EvtchnError>) -> Answer {
    result.map(|port| port.0).map_err(|error| error.errno())
}

fn unit(result: Result<(), EvtchnError>) -> Answer {
    result.map(|()| 0).map_err(|error| error.errno())
}

fn step(model: &mut Model, real: &mut Real, op: &Op) -> Result<(), TestCaseError> {
    match *op {
        Op::Alloc { dom, remote } => {
            let answer = match real.guests.get(&dom) {
                Some(guest) => port(guest.domain.alloc_unbound(DomId::SELF, DomId(remote))),
                None => real.keep(real.system.alloc_unbound(DomId(remote))),
            };
            prop_assert_eq!(answer, model.alloc(dom, remote, false, &answer));
        }
        Op::Bind {
            dom,
            remote,
            port: at,
        } => {
            let (to, at) = (DomId(remote), Port(at));
            let answer = match real.guests.get(&dom) {
                Some(guest) => port(guest.domain.bind_interdomain(to, at)),
                None => real.keep(real.system.bind_interdomain(to, at)),
            };
            prop_assert_eq!(answer, model.bind(dom, remote, at.0, &answer));
        }
        Op::Close { dom, port } => {
            let answer = match real.guests.get(&dom) {
                Some(guest) => unit(guest.domain.close(Port(port))),
                None => match real.channels.remove(&port) {
                    Some(_channel) => Ok(0),
                    None => Err(Errno::EINVAL),
                },
            };
            prop_assert_eq!(answer, model.close(dom, port));
        }
        Op::Send { dom, port } => {
            let answer = match real.guests.get(&dom) {
                Some(guest) => unit(guest.domain.send(Port(port))),
                None => match real.channels.get(&port) {
                    Some(channel) => unit(channel.notify()),
                    None => Err(Errno::EINVAL),
                },
            };
            prop_assert_eq!(answer, model.send(dom, port));
        }
        Op::TakeEnd { port } => {
            if let Some(channel) = real.channels.get(&port) {
                let taken = model.domain(SYSTEM).pending.remove(&port);
                prop_assert_eq!(channel.take(), taken);
            }
        }
        Op::Renew { dom } => {
            real.hub.remove(DomId(dom));
            if dom == SYSTEM {
                // The old handles are dropped only after the new domain is there: they must not touch it.
                let system = real.hub.add_system(DomId(dom)).unwrap();
                real.channels.clear();
                real.system = system;
            } else {
                let guest = HeapGuest::new(&real.hub, DomId(dom), VCPUS, PORTS).unwrap();
                real.guests.insert(dom, guest);
            }
            model.renew(dom);
        }
        ref of_a_guest => guest_step(model, real, of_a_guest)?,
    }
    Ok(())
}

fn guest_step(model: &mut Model, real: &mut Real, op: &Op) -> Result<(), TestCaseError> {
    let (Op::Virq { dom, .. }
    | Op::Ipi { dom, .. }
    | Op::BindVcpu { dom, .. }
    | Op::Mask { dom, .. }
    | Op::Unmask { dom, .. }
    | Op::Reset { dom }
    | Op::RaiseVirq { dom, .. }
    | Op::Give { dom, .. }
    | Op::InitControl { dom, .. }
    | Op::Expand { dom }
    | Op::SetPriority { dom, .. }
    | Op::Pirq { dom, .. }
    | Op::RaisePirq { dom, .. }
    | Op::Limit { dom, .. }
    | Op::Take { dom, .. }) = *op
    else {
        return Ok(());
    };
    let Some(guest) = real.guests.get(&dom) else {
        return Ok(());
    };
    match *op {
        Op::Virq { virq, vcpu, .. } => {
            let answer = port(guest.domain.bind_virq(virq, VcpuId(vcpu)));
            prop_assert_eq!(answer, model.virq(dom, virq, vcpu, &answer));
        }
        Op::Ipi { vcpu, .. } => {
            let answer = port(guest.domain.bind_ipi(VcpuId(vcpu)));
            prop_assert_eq!(answer, model.ipi(dom, vcpu, &answer));
        }
        Op::BindVcpu { port, vcpu, .. } => {
            let answer = unit(guest.domain.bind_vcpu(Port(port), VcpuId(vcpu)));
            prop_assert_eq!(answer, model.bind_vcpu(dom, port, vcpu));
        }
        Op::Mask { port, .. } => {
            guest.mask(Port(port));
            model.domain(dom).mask(port);
        }
        Op::Unmask { port, .. } => {
            let answer = unit(guest.domain.unmask(Port(port)));
            prop_assert_eq!(answer, model.domain(dom).unmask(port));
        }
        Op::Reset { .. } => {
            guest.domain.reset(DomId::SELF).unwrap();
            guest.forget_fifo();
            model.reset(dom);
        }
        Op::RaiseVirq { virq, vcpu, .. } => {
            let raised = guest.domain.raise_virq(virq, VcpuId(vcpu));
            prop_assert_eq!(raised, model.raise(dom, Is::Virq { virq, vcpu }));
        }
        Op::Take { vcpu, .. } => {
            prop_assert_eq!(guest.take(VcpuId(vcpu)), model.domain(dom).take(vcpu));
        }
        Op::Give { remote, .. } => {
            let answer = port(guest.domain.give_unbound(DomId(remote)));
            prop_assert_eq!(answer, model.alloc(dom, remote, true, &answer));
        }
        Op::InitControl { vcpu, .. } => {
            let answer = guest.init_control(VcpuId(vcpu));
            let answer = answer.map(|()| 0).map_err(|error| error.errno());
            prop_assert_eq!(answer, model.domain(dom).init_control(vcpu));
        }
        Op::Expand { .. } => {
            let answer = guest.expand_array(false);
            let answer = answer.map(|()| 0).map_err(|error| error.errno());
            if guest.domain.abi() == Abi::TwoLevel {
                guest.forget_fifo();
            }
            prop_assert_eq!(answer, model.domain(dom).expand());
        }
        Op::SetPriority { port, priority, .. } if guest.domain.stats().bound_ports > 0 => {
            let answer = guest.domain.set_priority(Port(port), priority);
            let answer = answer.map(|()| 0).map_err(|error| error.errno());
            prop_assert_eq!(answer, model.domain(dom).set_priority(port, priority));
        }
        Op::Pirq { pirq, .. } => {
            let answer = guest.domain.bind_pirq(pirq, 0);
            let answer = answer.map(|port| port.0).map_err(|error| error.errno());
            prop_assert_eq!(answer, model.pirq(dom, pirq, &answer));
        }
        Op::RaisePirq { pirq, .. } => {
            let raised = guest.domain.raise_pirq(pirq).unwrap_or(false);
            prop_assert_eq!(raised, model.raise(dom, Is::Pirq(pirq)));
        }
        Op::Limit { ports, .. } => {
            guest.domain.set_max_ports(ports).unwrap();
            model.domain(dom).limit = ports;
        }
        _ => {}
    }
    Ok(())
}

/// Everything that can be seen from outside is the same.
fn compare(model: &mut Model, real: &Real) -> Result<(), TestCaseError> {
    for (&dom, guest) in &real.guests {
        for port in 1..PORTS + 3 {
            let status = guest.domain.status(DomId::SELF, Port(port));
            prop_assert_eq!(status.map_err(|e| e.errno()), model.status(dom, port));
            let pending = model.domain(dom).pending.contains(&port);
            prop_assert_eq!(guest.domain.is_pending(Port(port)), pending);
            let masked = model.domain(dom).is_masked(port);
            prop_assert_eq!(guest.is_masked(Port(port)), masked);
            let linked = model.domain(dom).fifo.as_ref();
            let linked = linked.is_some_and(|fifo| fifo.linked.contains(&port));
            prop_assert_eq!(guest.is_linked(Port(port)), linked);
        }
        let domain = model.domain(dom);
        let fifo = if domain.fifo.is_some() {
            Abi::Fifo
        } else {
            Abi::TwoLevel
        };
        prop_assert_eq!(guest.domain.abi(), fifo);
        prop_assert_eq!(guest.upcalls.take(), std::mem::take(&mut domain.raised));
        for vcpu in 0..VCPUS {
            let n = vcpu as usize;
            prop_assert_eq!(guest.domain.upcall_pending(VcpuId(vcpu)), domain.upcall[n]);
            prop_assert_eq!(guest.pending_sel(VcpuId(vcpu)) != 0, domain.selected[n]);
        }
        let bound = u32::try_from(domain.ports.len()).unwrap();
        prop_assert_eq!(guest.domain.stats().bound_ports, bound);
    }
    for port in 1..16 {
        let status = real.system.status(Port(port));
        prop_assert_eq!(status.map_err(|e| e.errno()), model.status(SYSTEM, port));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_does_what_the_model_does(ops in prop::collection::vec(op(), 1..300)) {
        let mut model = Model::default();
        let mut real = Real::new();
        for dom in [1, 2, SYSTEM] {
            model.add(dom);
        }
        for op in &ops {
            step(&mut model, &mut real, op)?;
            compare(&mut model, &real)?;
        }
    }
}
