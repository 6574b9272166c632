//! Long random sequences of operations over several domains, against a model that is slow and obviously right.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

use std::collections::{BTreeMap, BTreeSet};

use cantle_abi::xen::{VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_TIMER};
use cantle_abi::{DomId, Errno, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{Channel, EventChannels, EvtchnError, Hub, PortState, Status, SystemDomain};
use proptest::prelude::*;
use std::sync::Arc;

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
    ]
}

/// The model: everything in plain collections, every rule written out once.
#[derive(Default)]
struct Model {
    domains: BTreeMap<u16, ModelDomain>,
    births: u64,
}

#[derive(Default)]
struct ModelDomain {
    born: u64,
    system: bool,
    ports: BTreeMap<u32, ModelPort>,
    masked: BTreeSet<u32>,
    pending: BTreeSet<u32>,
    /// Selected words, by vCPU: with so few ports there is one word.
    selected: [bool; 2],
    upcall: [bool; 2],
    raised: Vec<VcpuId>,
}

#[derive(Clone, Copy)]
struct ModelPort {
    vcpu: u32,
    is: Is,
}

#[derive(Clone, Copy, PartialEq)]
enum Is {
    Unbound { remote: u16, born: u64 },
    Connected { remote: u16, port: u32 },
    Virq { virq: u32, vcpu: u32 },
    Ipi,
}

type Answer = Result<u32, Errno>;

fn global(virq: u32) -> bool {
    virq == VIRQ_CONSOLE
}

impl Model {
    fn add(&mut self, dom: u16) {
        self.births += 1;
        let domain = ModelDomain {
            born: self.births,
            system: dom == SYSTEM,
            ..ModelDomain::default()
        };
        self.domains.insert(dom, domain);
    }

    fn domain(&mut self, dom: u16) -> &mut ModelDomain {
        self.domains.get_mut(&dom).expect("always there")
    }

    fn new_port(&mut self, dom: u16, vcpu: u32, is: Is) -> Answer {
        let domain = self.domain(dom);
        let limit = if domain.system { 1 << 17 } else { PORTS };
        let free = (1..limit).find(|port| !domain.ports.contains_key(port));
        let port = free.ok_or(Errno::ENOSPC)?;
        domain.ports.insert(port, ModelPort { vcpu, is });
        Ok(port)
    }

    fn alloc(&mut self, dom: u16, remote: u16) -> Answer {
        let remote = DomId(remote).resolve(DomId(dom)).0;
        let born = self.domains.get(&remote).ok_or(Errno::ESRCH)?.born;
        self.new_port(dom, 0, Is::Unbound { remote, born })
    }

    fn bind(&mut self, dom: u16, remote: u16, remote_port: u32) -> Answer {
        let remote = DomId(remote).resolve(DomId(dom)).0;
        let born = self.domain(dom).born;
        let far = self.domains.get(&remote).ok_or(Errno::ESRCH)?;
        let far = far.ports.get(&remote_port).ok_or(Errno::EINVAL)?;
        if far.is != (Is::Unbound { remote: dom, born }) {
            return Err(Errno::EINVAL);
        }
        let is = Is::Connected {
            remote,
            port: remote_port,
        };
        let port = self.new_port(dom, 0, is)?;
        let far = self.domain(remote).ports.get_mut(&remote_port).unwrap();
        far.is = Is::Connected { remote: dom, port };
        self.deliver(dom, port);
        Ok(port)
    }

    fn virq(&mut self, dom: u16, virq: u32, vcpu: u32) -> Answer {
        if virq >= 24 || (global(virq) && vcpu != 0) {
            return Err(Errno::EINVAL);
        }
        if vcpu >= VCPUS {
            return Err(Errno::ENOENT);
        }
        let is = Is::Virq { virq, vcpu };
        if self.domain(dom).ports.values().any(|port| port.is == is) {
            return Err(Errno::EEXIST);
        }
        self.new_port(dom, vcpu, is)
    }

    fn close(&mut self, dom: u16, port: u32) -> Answer {
        let born = self.domain(dom).born;
        let is = self.domain(dom).ports.get(&port).ok_or(Errno::EINVAL)?.is;
        if let Is::Connected { remote, port } = is {
            let far = self.domain(remote).ports.get_mut(&port).unwrap();
            far.is = Is::Unbound { remote: dom, born };
        }
        let domain = self.domain(dom);
        domain.ports.remove(&port);
        domain.pending.remove(&port);
        Ok(0)
    }

    fn send(&mut self, dom: u16, port: u32) -> Answer {
        match self.domain(dom).ports.get(&port).map(|port| port.is) {
            Some(Is::Connected { remote, port }) => self.deliver(remote, port),
            Some(Is::Ipi) => self.deliver(dom, port),
            Some(Is::Unbound { .. }) => {}
            Some(Is::Virq { .. }) | None => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    fn bind_vcpu(&mut self, dom: u16, port: u32, vcpu: u32) -> Answer {
        if vcpu >= VCPUS {
            return Err(Errno::ENOENT);
        }
        let port = self.domain(dom).ports.get_mut(&port);
        let port = port.ok_or(Errno::EINVAL)?;
        match port.is {
            Is::Ipi => return Err(Errno::EINVAL),
            Is::Virq { virq, .. } if !global(virq) => return Err(Errno::EINVAL),
            _ => port.vcpu = vcpu,
        }
        Ok(0)
    }

    fn unmask(&mut self, dom: u16, port: u32) -> Answer {
        if port == 0 || port >= PORTS {
            return Err(Errno::EINVAL);
        }
        let domain = self.domain(dom);
        let Some(vcpu) = domain.ports.get(&port).map(|port| port.vcpu) else {
            return Ok(0);
        };
        if domain.masked.remove(&port) && domain.pending.contains(&port) {
            domain.select(vcpu);
        }
        Ok(0)
    }

    fn raise_virq(&mut self, dom: u16, virq: u32, vcpu: u32) -> bool {
        let vcpu = if global(virq) { 0 } else { vcpu };
        let is = Is::Virq { virq, vcpu };
        let port = self
            .domain(dom)
            .ports
            .iter()
            .find(|(_, port)| port.is == is);
        let Some((&port, _)) = port else { return false };
        self.deliver(dom, port);
        true
    }

    fn deliver(&mut self, dom: u16, port: u32) {
        let domain = self.domain(dom);
        let vcpu = domain.ports[&port].vcpu;
        let new = domain.pending.insert(port);
        if new && !domain.system && !domain.masked.contains(&port) {
            domain.select(vcpu);
        }
    }

    fn take(&mut self, dom: u16, vcpu: u32) -> Vec<Port> {
        let domain = self.domain(dom);
        let vcpu = vcpu as usize;
        domain.upcall[vcpu] = false;
        if !std::mem::take(&mut domain.selected[vcpu]) {
            return Vec::new();
        }
        let taken: Vec<u32> = domain.pending.difference(&domain.masked).copied().collect();
        for port in &taken {
            domain.pending.remove(port);
        }
        taken.into_iter().map(Port).collect()
    }

    fn renew(&mut self, dom: u16) {
        let ports: Vec<u32> = self.domain(dom).ports.keys().copied().collect();
        for port in ports {
            self.close(dom, port).unwrap();
        }
        self.add(dom);
    }

    fn status(&mut self, dom: u16, port: u32) -> Status {
        let port = self.domain(dom).ports.get(&port);
        let state = match port.map(|port| port.is) {
            None => PortState::Closed,
            Some(Is::Unbound { remote, .. }) => PortState::Unbound {
                remote: DomId(remote),
            },
            Some(Is::Connected { remote, port }) => PortState::Interdomain {
                remote: DomId(remote),
                port: Port(port),
            },
            Some(Is::Virq { virq, .. }) => PortState::Virq(virq),
            Some(Is::Ipi) => PortState::Ipi,
        };
        Status {
            vcpu: VcpuId(port.map_or(0, |port| port.vcpu)),
            state,
        }
    }
}

impl ModelDomain {
    fn select(&mut self, vcpu: u32) {
        let n = vcpu as usize;
        if !std::mem::replace(&mut self.selected[n], true)
            && !std::mem::replace(&mut self.upcall[n], true)
        {
            self.raised.push(VcpuId(vcpu));
        }
    }
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
            prop_assert_eq!(answer, model.alloc(dom, remote));
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
            prop_assert_eq!(answer, model.bind(dom, remote, at.0));
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
            prop_assert_eq!(answer, model.virq(dom, virq, vcpu));
        }
        Op::Ipi { vcpu, .. } => {
            let expected = if vcpu < VCPUS {
                model.new_port(dom, vcpu, Is::Ipi)
            } else {
                Err(Errno::ENOENT)
            };
            prop_assert_eq!(port(guest.domain.bind_ipi(VcpuId(vcpu))), expected);
        }
        Op::BindVcpu { port, vcpu, .. } => {
            let answer = unit(guest.domain.bind_vcpu(Port(port), VcpuId(vcpu)));
            prop_assert_eq!(answer, model.bind_vcpu(dom, port, vcpu));
        }
        Op::Mask { port, .. } => {
            guest.mask(Port(port));
            model.domain(dom).masked.insert(port);
        }
        Op::Unmask { port, .. } => {
            let answer = unit(guest.domain.unmask(Port(port)));
            prop_assert_eq!(answer, model.unmask(dom, port));
        }
        Op::Reset { .. } => {
            guest.domain.reset(DomId::SELF).unwrap();
            for port in 1..PORTS {
                let _ = model.close(dom, port);
            }
        }
        Op::RaiseVirq { virq, vcpu, .. } => {
            let raised = guest.domain.raise_virq(virq, VcpuId(vcpu));
            prop_assert_eq!(raised, model.raise_virq(dom, virq, vcpu));
        }
        Op::Take { vcpu, .. } => {
            prop_assert_eq!(guest.take(VcpuId(vcpu)), model.take(dom, vcpu));
        }
        _ => {}
    }
    Ok(())
}

/// Everything that can be seen from outside is the same.
fn compare(model: &mut Model, real: &Real) -> Result<(), TestCaseError> {
    for (&dom, guest) in &real.guests {
        for port in 1..PORTS {
            let status = guest.domain.status(DomId::SELF, Port(port)).unwrap();
            prop_assert_eq!(status, model.status(dom, port));
            let pending = model.domain(dom).pending.contains(&port);
            prop_assert_eq!(guest.domain.is_pending(Port(port)), pending);
            let masked = model.domain(dom).masked.contains(&port);
            prop_assert_eq!(guest.is_masked(Port(port)), masked);
        }
        let domain = model.domain(dom);
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
        let status = real.system.status(Port(port)).unwrap();
        prop_assert_eq!(status, model.status(SYSTEM, port));
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
