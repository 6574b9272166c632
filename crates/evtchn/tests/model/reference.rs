//! The model: everything in plain collections, every rule written out once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cantle_abi::xen::VIRQ_CONSOLE;
use cantle_abi::{DomId, Errno, Port, VcpuId};
use cantle_evtchn::{PortState, Status};

use super::{PORTS, SYSTEM, VCPUS};

pub(crate) type Answer = Result<u32, Errno>;

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) domains: BTreeMap<u16, ModelDomain>,
    births: u64,
}

#[derive(Default)]
pub(crate) struct ModelDomain {
    born: u64,
    system: bool,
    pub(crate) limit: u32,
    pub(crate) ports: BTreeMap<u32, ModelPort>,
    masked_2l: BTreeSet<u32>,
    pub(crate) pending: BTreeSet<u32>,
    /// Selected words, by vCPU: with so few ports there is one word.
    pub(crate) selected: [bool; 2],
    pub(crate) upcall: [bool; 2],
    pub(crate) raised: Vec<VcpuId>,
    pub(crate) fifo: Option<ModelFifo>,
}

/// What FIFO adds.
#[derive(Default)]
pub(crate) struct ModelFifo {
    control: [bool; 2],
    /// A vCPU without control block had an event.
    missed: [bool; 2],
    /// The page with the event words of all ports here.
    pub(crate) page: bool,
    extra_pages: u32,
    masked: BTreeSet<u32>,
    /// Events for ports without a word.
    waiting: BTreeSet<u32>,
    pub(crate) linked: BTreeSet<u32>,
    /// By vCPU and priority.
    queues: BTreeMap<(u32, u32), VecDeque<u32>>,
}

#[derive(Clone, Copy)]
pub(crate) struct ModelPort {
    pub(crate) vcpu: u32,
    priority: u32,
    given: bool,
    is: Is,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Is {
    Unbound { remote: u16, born: u64 },
    Connected { remote: u16, port: u32 },
    Virq { virq: u32, vcpu: u32 },
    Pirq(u32),
    Ipi,
}

fn global(virq: u32) -> bool {
    virq == VIRQ_CONSOLE
}

impl Model {
    pub(crate) fn add(&mut self, dom: u16) {
        self.births += 1;
        let system = dom == SYSTEM;
        let domain = ModelDomain {
            born: self.births,
            system,
            limit: if system { 1 << 17 } else { PORTS },
            ..ModelDomain::default()
        };
        self.domains.insert(dom, domain);
    }

    pub(crate) fn domain(&mut self, dom: u16) -> &mut ModelDomain {
        self.domains.get_mut(&dom).expect("always there")
    }

    /// `got` is what the implementation gave: any port will do that is free and on no queue; with the 2-level interface it is
    /// the lowest.
    fn new_port(&mut self, dom: u16, vcpu: u32, is: Is, got: &Answer) -> Answer {
        let domain = self.domain(dom);
        let free = |port: &u32| {
            !domain.ports.contains_key(port)
                && !domain
                    .fifo
                    .as_ref()
                    .is_some_and(|fifo| fifo.linked.contains(port))
        };
        let lowest = (1..domain.limit).find(free).ok_or(Errno::ENOSPC)?;
        let port = match got {
            Ok(port) if domain.fifo.is_some() && *port < domain.limit && free(port) => *port,
            _ => lowest,
        };
        let new = ModelPort {
            vcpu,
            priority: 7,
            given: false,
            is,
        };
        domain.ports.insert(port, new);
        Ok(port)
    }

    pub(crate) fn alloc(&mut self, dom: u16, remote: u16, given: bool, got: &Answer) -> Answer {
        let remote = DomId(remote).resolve(DomId(dom)).0;
        let born = self.domains.get(&remote).ok_or(Errno::ESRCH)?.born;
        let port = self.new_port(dom, 0, Is::Unbound { remote, born }, got)?;
        let new = self.domain(dom).ports.get_mut(&port).expect("just made");
        new.given = given;
        Ok(port)
    }

    pub(crate) fn bind(&mut self, dom: u16, remote: u16, at: u32, got: &Answer) -> Answer {
        let remote = DomId(remote).resolve(DomId(dom)).0;
        let born = self.domain(dom).born;
        let far = self.domains.get(&remote).ok_or(Errno::ESRCH)?;
        let far = far.ports.get(&at).ok_or(Errno::EINVAL)?;
        if far.is != (Is::Unbound { remote: dom, born }) {
            return Err(Errno::EINVAL);
        }
        let port = self.new_port(dom, 0, Is::Connected { remote, port: at }, got)?;
        let far = self.domain(remote).ports.get_mut(&at).unwrap();
        far.is = Is::Connected { remote: dom, port };
        self.domain(dom).deliver(port);
        Ok(port)
    }

    pub(crate) fn virq(&mut self, dom: u16, virq: u32, vcpu: u32, got: &Answer) -> Answer {
        if virq >= 24 || (global(virq) && vcpu != 0) {
            return Err(Errno::EINVAL);
        }
        if vcpu >= VCPUS {
            return Err(Errno::ENOENT);
        }
        self.new_interrupt(dom, vcpu, Is::Virq { virq, vcpu }, got)
    }

    pub(crate) fn pirq(&mut self, dom: u16, pirq: u32, got: &Answer) -> Answer {
        if pirq >= 256 {
            return Err(Errno::EINVAL);
        }
        self.new_interrupt(dom, 0, Is::Pirq(pirq), got)
    }

    fn new_interrupt(&mut self, dom: u16, vcpu: u32, is: Is, got: &Answer) -> Answer {
        if self.domain(dom).ports.values().any(|port| port.is == is) {
            return Err(Errno::EEXIST);
        }
        self.new_port(dom, vcpu, is, got)
    }

    pub(crate) fn ipi(&mut self, dom: u16, vcpu: u32, got: &Answer) -> Answer {
        if vcpu >= VCPUS {
            return Err(Errno::ENOENT);
        }
        self.new_port(dom, vcpu, Is::Ipi, got)
    }

    pub(crate) fn close(&mut self, dom: u16, port: u32) -> Answer {
        let born = self.domain(dom).born;
        let is = self.domain(dom).ports.get(&port).ok_or(Errno::EINVAL)?.is;
        if let Is::Connected { remote, port } = is {
            let far = self.domain(remote).ports.get_mut(&port).unwrap();
            far.is = Is::Unbound { remote: dom, born };
        }
        let domain = self.domain(dom);
        domain.ports.remove(&port);
        domain.pending.remove(&port);
        if let Some(fifo) = &mut domain.fifo {
            fifo.waiting.remove(&port);
        }
        Ok(0)
    }

    pub(crate) fn reset(&mut self, dom: u16) {
        let ports: Vec<u32> = self.domain(dom).ports.keys().copied().collect();
        for port in ports {
            self.close(dom, port).unwrap();
        }
        self.domain(dom).fifo = None;
    }

    pub(crate) fn send(&mut self, dom: u16, port: u32) -> Answer {
        match self.domain(dom).ports.get(&port).map(|port| port.is) {
            Some(Is::Connected { remote, port }) => self.domain(remote).deliver(port),
            Some(Is::Ipi) => self.domain(dom).deliver(port),
            Some(Is::Unbound { .. }) => {}
            Some(Is::Virq { .. } | Is::Pirq(_)) | None => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    pub(crate) fn bind_vcpu(&mut self, dom: u16, number: u32, vcpu: u32) -> Answer {
        if vcpu >= VCPUS {
            return Err(Errno::ENOENT);
        }
        let port = self.domain(dom).ports.get_mut(&number);
        let port = port.ok_or(Errno::EINVAL)?;
        match port.is {
            Is::Ipi => return Err(Errno::EINVAL),
            Is::Virq { virq, .. } if !global(virq) => return Err(Errno::EINVAL),
            _ => port.vcpu = vcpu,
        }
        self.domain(dom).relink(number);
        Ok(0)
    }

    pub(crate) fn raise(&mut self, dom: u16, is: Is) -> bool {
        let is = match is {
            Is::Virq { virq, .. } if global(virq) => Is::Virq { virq, vcpu: 0 },
            is => is,
        };
        let domain = self.domain(dom);
        let port = domain.ports.iter().find(|(_, port)| port.is == is);
        let Some((&port, _)) = port else { return false };
        domain.deliver(port);
        true
    }

    pub(crate) fn renew(&mut self, dom: u16) {
        self.reset(dom);
        self.add(dom);
    }

    pub(crate) fn status(&mut self, dom: u16, number: u32) -> Result<Status, Errno> {
        let domain = self.domain(dom);
        if !domain.valid(number) {
            return Err(Errno::EINVAL);
        }
        let port = domain.ports.get(&number);
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
            Some(Is::Pirq(pirq)) => PortState::Pirq(pirq),
            Some(Is::Ipi) => PortState::Ipi,
        };
        Ok(Status {
            vcpu: VcpuId(port.map_or(0, |port| port.vcpu)),
            state,
        })
    }
}

impl ModelDomain {
    fn valid(&self, port: u32) -> bool {
        port != 0 && (port < self.limit || self.ports.contains_key(&port))
    }

    pub(crate) fn is_masked(&self, port: u32) -> bool {
        match &self.fifo {
            Some(fifo) => fifo.masked.contains(&port),
            None => self.masked_2l.contains(&port),
        }
    }

    pub(crate) fn mask(&mut self, port: u32) {
        match &mut self.fifo {
            Some(fifo) if fifo.page => fifo.masked.insert(port),
            Some(_) => false,
            None => self.masked_2l.insert(port),
        };
    }

    pub(crate) fn unmask(&mut self, port: u32) -> Answer {
        if !self.valid(port) {
            return Err(Errno::EINVAL);
        }
        let Some(vcpu) = self.ports.get(&port).map(|port| port.vcpu) else {
            return Ok(0);
        };
        if let Some(fifo) = &mut self.fifo {
            fifo.masked.remove(&port);
            self.relink(port);
        } else if self.masked_2l.remove(&port) && self.pending.contains(&port) {
            self.select(vcpu);
        }
        Ok(0)
    }

    fn deliver(&mut self, port: u32) {
        let vcpu = self.ports[&port].vcpu;
        if let Some(fifo) = &mut self.fifo {
            if fifo.page {
                self.pending.insert(port);
                self.relink(port);
            } else {
                fifo.waiting.insert(port);
            }
        } else {
            let new = self.pending.insert(port);
            if new && !self.system && !self.masked_2l.contains(&port) {
                self.select(vcpu);
            }
        }
    }

    /// FIFO: what is pending, not masked and on no queue goes on one, if its vCPU has any.
    fn relink(&mut self, port: u32) {
        let (Some(fifo), Some(is)) = (&mut self.fifo, self.ports.get(&port)) else {
            return;
        };
        let ready = self.pending.contains(&port) && !fifo.masked.contains(&port);
        if !ready || fifo.linked.contains(&port) {
            return;
        }
        let n = is.vcpu as usize;
        if !fifo.control[n] {
            fifo.missed[n] = true;
            return;
        }
        fifo.linked.insert(port);
        let queue = fifo.queues.entry((is.vcpu, is.priority)).or_default();
        queue.push_back(port);
        if queue.len() == 1 {
            self.tell(n);
        }
    }

    pub(crate) fn init_control(&mut self, vcpu: u32) -> Answer {
        let n = vcpu as usize;
        if vcpu >= VCPUS {
            return Err(Errno::ENOENT);
        }
        let ports: Vec<u32> = self.ports.keys().copied().collect();
        let Some(fifo) = &mut self.fifo else {
            if self.ports.values().any(|port| !port.given) {
                return Err(Errno::EBUSY);
            }
            let mut fifo = ModelFifo::default();
            fifo.control[n] = true;
            fifo.waiting = std::mem::take(&mut self.pending);
            self.fifo = Some(fifo);
            return Ok(0);
        };
        if std::mem::replace(&mut fifo.control[n], true) {
            return Err(Errno::EINVAL);
        }
        if std::mem::take(&mut fifo.missed[n]) {
            ports.into_iter().for_each(|port| self.relink(port));
        }
        Ok(0)
    }

    pub(crate) fn expand(&mut self) -> Answer {
        let fifo = self.fifo.as_mut().ok_or(Errno::EOPNOTSUPP)?;
        if std::mem::replace(&mut fifo.page, true) {
            if fifo.extra_pages == 127 {
                return Err(Errno::ENOSPC);
            }
            fifo.extra_pages += 1;
        }
        for port in std::mem::take(&mut fifo.waiting) {
            self.deliver(port);
        }
        Ok(0)
    }

    pub(crate) fn set_priority(&mut self, port: u32, priority: u32) -> Answer {
        // The first bucket of ports is there as soon as one port has been made; tests keep within it.
        if port == 0 {
            return Err(Errno::EINVAL);
        }
        if self.fifo.is_none() {
            return Err(Errno::ENOSYS);
        }
        let is = self.ports.get_mut(&port).ok_or(Errno::EACCES)?;
        if priority > 15 {
            return Err(Errno::EINVAL);
        }
        is.priority = priority;
        self.relink(port);
        Ok(0)
    }

    pub(crate) fn take(&mut self, vcpu: u32) -> Vec<Port> {
        let n = vcpu as usize;
        self.upcall[n] = false;
        let mut taken = Vec::new();
        if let Some(fifo) = &mut self.fifo {
            for priority in 0..16 {
                for port in fifo.queues.remove(&(vcpu, priority)).unwrap_or_default() {
                    fifo.linked.remove(&port);
                    if !fifo.masked.contains(&port) && self.pending.remove(&port) {
                        taken.push(Port(port));
                    }
                }
            }
        } else if std::mem::take(&mut self.selected[n]) {
            let ports: Vec<u32> = self.pending.difference(&self.masked_2l).copied().collect();
            for port in ports {
                self.pending.remove(&port);
                taken.push(Port(port));
            }
        }
        taken
    }

    fn select(&mut self, vcpu: u32) {
        let n = vcpu as usize;
        if !std::mem::replace(&mut self.selected[n], true) {
            self.tell(n);
        }
    }

    fn tell(&mut self, vcpu: usize) {
        if !std::mem::replace(&mut self.upcall[vcpu], true) {
            self.raised.push(VcpuId(u32::try_from(vcpu).unwrap()));
        }
    }
}
