//! One domain's event channels, guest or system, and what joins two of them.
//!
//! Two kinds of lock. The *control* lock of a domain guards which ports it has; whatever changes a binding holds the control
//! locks of both domains that it concerns, taken in the order of their birth. The lock of a *slot* guards what a send on it
//! does; a sender takes that one alone, for reading, and delivers before it lets go.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_abi::xen::{NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};
use cantle_abi::{DomId, Port, VcpuId};

use crate::EvtchnError;
use crate::endpoint::Endpoint;
use crate::hub::Registry;
use crate::slots::{Binding, PortSet, PortState, Slot, Slots, Status};
use crate::two_level::TwoLevel;

/// A domain. Lives in the registry until it ends, and in its peers' bindings until they are undone.
pub(crate) struct Domain {
    pub(crate) id: DomId,
    /// Unique among all domains that ever were, and rising: tells domains of one number apart, and orders locks.
    pub(crate) born: u64,
    registry: Arc<Registry>,
    slots: Slots,
    control: Mutex<Control>,
    kind: Kind,
    pub(crate) counters: Counters,
}

/// What a domain's events are delivered by.
pub(crate) enum Kind {
    Guest(Guest),
    System,
}

/// A guest's part.
pub(crate) struct Guest {
    pub(crate) abi: TwoLevel,
    /// The port that each virtual interrupt of each vCPU is bound to; 0 for none. Changed under the slot's write lock.
    virqs: Box<[AtomicU32]>,
}

impl Guest {
    pub(crate) fn new(abi: TwoLevel) -> Self {
        let entries = u64::from(abi.vcpus()) * u64::from(NR_VIRQS);
        Self {
            virqs: (0..entries).map(|_| AtomicU32::new(0)).collect(),
            abi,
        }
    }

    fn virq(&self, virq: u32, vcpu: VcpuId) -> Option<&AtomicU32> {
        if virq >= NR_VIRQS || !self.abi.has_vcpu(vcpu) {
            return None;
        }
        self.virqs
            .get(usize::try_from(u64::from(vcpu.0) * u64::from(NR_VIRQS) + u64::from(virq)).ok()?)
    }
}

/// How often things happened.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) sends: AtomicU64,
    pub(crate) virqs: AtomicU64,
    pub(crate) ipis: AtomicU64,
}

/// What the control lock guards.
struct Control {
    /// False from the domain's end on: nothing new is made.
    alive: bool,
    ports: PortSet,
    /// A system domain's ends.
    ends: HashMap<Port, Arc<Endpoint>>,
}

/// The control locks of two domains, or of one where both are the same.
struct Pair<'a> {
    near: MutexGuard<'a, Control>,
    far: Option<MutexGuard<'a, Control>>,
}

impl<'a> Pair<'a> {
    fn lock(near: &'a Domain, far: &'a Domain) -> Self {
        if near.born == far.born {
            return Self {
                near: near.control(),
                far: None,
            };
        }
        // The older first, whoever asks: two that lock each other do not wait for each other.
        let (near, far) = if near.born < far.born {
            let near = near.control();
            (near, far.control())
        } else {
            let far = far.control();
            (near.control(), far)
        };
        Self {
            near,
            far: Some(far),
        }
    }

    fn far(&self) -> &Control {
        self.far.as_deref().unwrap_or(&self.near)
    }
}

/// Per-vCPU virtual interrupts; the others are global, and bound on vCPU 0.
fn is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// The vCPU whose table a virtual interrupt is in: a global one may have been moved to another since.
fn virq_vcpu(virq: u32, vcpu: VcpuId) -> VcpuId {
    if is_global(virq) { VcpuId(0) } else { vcpu }
}

impl Binding {
    /// Signals the other end of a connected port. The caller sees to it that it stays connected.
    fn deliver(&self) {
        match self {
            Self::Guest { peer, port } => {
                if let Some(slot) = peer.slots.get(*port) {
                    peer.deliver(*port, slot);
                }
            }
            Self::System { end } => end.signal(),
            Self::Free | Self::Unbound { .. } | Self::Virq { .. } | Self::Ipi => {}
        }
    }

    /// The other end of a connected port.
    fn peer(&self) -> Option<(Arc<Domain>, Port)> {
        match self {
            Self::Guest { peer, port } => Some((peer.clone(), *port)),
            Self::System { end } => Some((end.domain.upgrade()?, end.port)),
            Self::Free | Self::Unbound { .. } | Self::Virq { .. } | Self::Ipi => None,
        }
    }
}

impl Domain {
    pub(crate) fn new(
        id: DomId,
        born: u64,
        registry: Arc<Registry>,
        ports: u32,
        kind: Kind,
    ) -> Self {
        Self {
            id,
            born,
            registry,
            slots: Slots::new(ports),
            control: Mutex::new(Control {
                alive: true,
                ports: PortSet::new(ports),
                ends: HashMap::new(),
            }),
            kind,
            counters: Counters::default(),
        }
    }

    pub(crate) fn guest(&self) -> Option<&Guest> {
        match &self.kind {
            Kind::Guest(guest) => Some(guest),
            Kind::System => None,
        }
    }

    pub(crate) fn bound_ports(&self) -> u32 {
        self.control().ports.used()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, port: Port) -> Result<&Slot, EvtchnError> {
        self.slots.get(port).ok_or(EvtchnError::BadPort(port))
    }

    /// Makes an unbound port; a system domain's comes with an endpoint.
    pub(crate) fn alloc_unbound(self: &Arc<Self>, remote: DomId) -> Result<Port, EvtchnError> {
        let remote = remote.resolve(self.id);
        let born = if remote == self.id {
            self.born
        } else {
            self.registry.find(remote)?.born
        };
        let mut control = self.control();
        let (port, slot) = self.take_port(&mut control)?;
        slot.rebind(Binding::Unbound { remote, born }, || ());
        Ok(port)
    }

    /// Connects to a port left unbound for this domain. The local end begins pending.
    pub(crate) fn bind_interdomain(
        self: &Arc<Self>,
        remote: DomId,
        remote_port: Port,
    ) -> Result<Port, EvtchnError> {
        let far = self.registry.find(remote.resolve(self.id))?;
        let mut pair = Pair::lock(self, &far);
        if !pair.far().alive {
            return Err(EvtchnError::NoDomain(remote));
        }
        let far_slot = far.slot(remote_port)?;
        match &*far_slot.binding() {
            Binding::Unbound { remote, born } if *remote == self.id && *born == self.born => {}
            _ => return Err(EvtchnError::BadPort(remote_port)),
        }
        let to_far = far
            .binding_to(remote_port, pair.far())
            .ok_or(EvtchnError::BadPort(remote_port))?;
        let (port, slot) = self.take_port(&mut pair.near)?;
        let Some(to_near) = self.binding_to(port, &pair.near) else {
            self.release_port(&mut pair.near, port, slot);
            return Err(EvtchnError::BadPort(port));
        };
        slot.rebind(to_far, || ());
        far_slot.rebind(to_near.clone(), || ());
        to_near.deliver();
        Ok(port)
    }

    /// Binds a virtual interrupt of a guest.
    pub(crate) fn bind_virq(
        self: &Arc<Self>,
        virq: u32,
        vcpu: VcpuId,
    ) -> Result<Port, EvtchnError> {
        if virq >= NR_VIRQS || (is_global(virq) && vcpu.0 != 0) {
            return Err(EvtchnError::BadVirq(virq));
        }
        let entry = self
            .guest()
            .and_then(|guest| guest.virq(virq, vcpu))
            .ok_or(EvtchnError::NoVcpu(vcpu))?;
        let mut control = self.control();
        if entry.load(SeqCst) != 0 {
            return Err(EvtchnError::VirqBound(virq));
        }
        // Nothing has been changed yet if no port is free (XSA-496).
        let (port, slot) = self.take_port(&mut control)?;
        slot.set_vcpu(vcpu);
        slot.rebind(Binding::Virq { virq }, || entry.store(port.0, SeqCst));
        Ok(port)
    }

    /// Makes a port for signals among a guest's vCPUs.
    pub(crate) fn bind_ipi(self: &Arc<Self>, vcpu: VcpuId) -> Result<Port, EvtchnError> {
        self.check_vcpu(vcpu)?;
        let mut control = self.control();
        let (port, slot) = self.take_port(&mut control)?;
        slot.set_vcpu(vcpu);
        slot.rebind(Binding::Ipi, || ());
        Ok(port)
    }

    /// Chooses the vCPU that a port is delivered to.
    pub(crate) fn bind_vcpu(&self, port: Port, vcpu: VcpuId) -> Result<(), EvtchnError> {
        self.check_vcpu(vcpu)?;
        let slot = self.slot(port)?;
        let _control = self.control();
        match &*slot.binding() {
            Binding::Virq { virq } if is_global(*virq) => {}
            Binding::Unbound { .. } | Binding::Guest { .. } | Binding::System { .. } => {}
            _ => return Err(EvtchnError::BadPort(port)),
        }
        slot.set_vcpu(vcpu);
        Ok(())
    }

    /// Signals the other end. A port that waits for its other end swallows the signal, as in Xen.
    pub(crate) fn send(&self, port: Port) -> Result<(), EvtchnError> {
        let slot = self.slot(port)?;
        // Held until the delivery is done: see `Slot`.
        let binding = slot.binding();
        match &*binding {
            Binding::Guest { .. } | Binding::System { .. } => {
                self.counters.sends.fetch_add(1, Relaxed);
                binding.deliver();
            }
            Binding::Ipi => {
                self.counters.ipis.fetch_add(1, Relaxed);
                self.deliver(port, slot);
            }
            Binding::Unbound { .. } => {}
            Binding::Free | Binding::Virq { .. } => return Err(EvtchnError::BadPort(port)),
        }
        Ok(())
    }

    /// Raises a virtual interrupt; false where the guest has not bound it.
    pub(crate) fn raise_virq(&self, virq: u32, vcpu: VcpuId) -> bool {
        let vcpu = virq_vcpu(virq, vcpu);
        let Some(entry) = self.guest().and_then(|guest| guest.virq(virq, vcpu)) else {
            return false;
        };
        let port = Port(entry.load(SeqCst));
        let Some(slot) = self.slots.get(port) else {
            return false;
        };
        let _binding = slot.binding();
        // The entry changes only under the slot's write lock: now it is certain whose port this is.
        if entry.load(SeqCst) != port.0 {
            return false;
        }
        self.counters.virqs.fetch_add(1, Relaxed);
        self.deliver(port, slot);
        true
    }

    /// Unmasks a guest's port, whether it is in use or not: the bits are the guest's own.
    pub(crate) fn unmask(&self, port: Port) -> Result<(), EvtchnError> {
        if !self.slots.in_range(port) {
            return Err(EvtchnError::BadPort(port));
        }
        if let Some(guest) = self.guest() {
            let vcpu = self.slots.get(port).map_or(VcpuId(0), Slot::vcpu);
            guest.abi.unmask(port, vcpu);
        }
        Ok(())
    }

    /// What a port is.
    pub(crate) fn status(&self, port: Port) -> Result<Status, EvtchnError> {
        if !self.slots.in_range(port) {
            return Err(EvtchnError::BadPort(port));
        }
        let Some(slot) = self.slots.get(port) else {
            return Ok(Status {
                vcpu: VcpuId(0),
                state: PortState::Closed,
            });
        };
        let binding = slot.binding();
        let state = match &*binding {
            Binding::Free => PortState::Closed,
            Binding::Unbound { remote, .. } => PortState::Unbound { remote: *remote },
            Binding::Guest { peer, port } => PortState::Interdomain {
                remote: peer.id,
                port: *port,
            },
            Binding::System { end } => PortState::Interdomain {
                remote: end.owner,
                port: end.port,
            },
            Binding::Virq { virq } => PortState::Virq(*virq),
            Binding::Ipi => PortState::Ipi,
        };
        Ok(Status {
            vcpu: slot.vcpu(),
            state,
        })
    }

    /// Closes a port; a peer's end becomes unbound. Tries again only where another thread has meanwhile changed the port.
    pub(crate) fn close(&self, port: Port) -> Result<(), EvtchnError> {
        let slot = self.slot(port)?;
        loop {
            let peer = slot.binding().peer();
            let mut pair = match &peer {
                Some((far, _)) => Pair::lock(self, far),
                None => Pair {
                    near: self.control(),
                    far: None,
                },
            };
            // Looked at again with the locks held: the peer may be another now.
            let binding = slot.binding().clone();
            let same = match (&peer, &binding.peer()) {
                (None, None) => true,
                (Some((a, p)), Some((b, q))) => Arc::ptr_eq(a, b) && p == q,
                _ => false,
            };
            if !same {
                continue;
            }
            if matches!(binding, Binding::Free) {
                return Err(EvtchnError::BadPort(port));
            }
            if let Some((far, far_port)) = &peer
                && let Some(far_slot) = far.slots.get(*far_port)
            {
                // First, so that nobody sends here any more when the port is freed.
                let unbound = Binding::Unbound {
                    remote: self.id,
                    born: self.born,
                };
                far_slot.rebind(unbound, || ());
            }
            self.release_port(&mut pair.near, port, slot);
            return Ok(());
        }
    }

    /// Closes all ports there are, one by one (nobody else waits for more than one, XSA-344). Ports made meanwhile stay.
    pub(crate) fn reset(&self) {
        let ports: Vec<Port> = self.control().ports.iter().collect();
        for port in ports {
            // Another thread may have closed it meanwhile (XSA-343): then there is nothing to do.
            let _ = self.close(port);
        }
    }

    /// Ends the domain: no new ports, all closed, its number free for another.
    pub(crate) fn end(self: &Arc<Self>) {
        self.registry.forget(self);
        self.control().alive = false;
        self.reset();
    }

    /// A system domain's end of a port.
    pub(crate) fn endpoint(&self, port: Port) -> Option<Arc<Endpoint>> {
        self.control().ends.get(&port).cloned()
    }

    /// Sets a guest's port pending. The caller holds the lock of the slot that sends.
    fn deliver(&self, port: Port, slot: &Slot) {
        if let Some(guest) = self.guest() {
            guest.abi.set_pending(port, slot.vcpu());
        }
    }

    /// A binding that sends to this domain's `port`.
    fn binding_to(self: &Arc<Self>, port: Port, control: &Control) -> Option<Binding> {
        match &self.kind {
            Kind::Guest(_) => Some(Binding::Guest {
                peer: self.clone(),
                port,
            }),
            Kind::System => Some(Binding::System {
                end: control.ends.get(&port)?.clone(),
            }),
        }
    }

    fn check_vcpu(&self, vcpu: VcpuId) -> Result<(), EvtchnError> {
        match self.guest() {
            Some(guest) if guest.abi.has_vcpu(vcpu) => Ok(()),
            _ => Err(EvtchnError::NoVcpu(vcpu)),
        }
    }

    /// Takes a free port; its slot is free and on vCPU 0.
    fn take_port<'a>(
        self: &'a Arc<Self>,
        control: &mut Control,
    ) -> Result<(Port, &'a Slot), EvtchnError> {
        if !control.alive {
            return Err(EvtchnError::NoDomain(self.id));
        }
        let port = control.ports.take().ok_or(EvtchnError::NoFreePort)?;
        if let Kind::System = self.kind {
            match Endpoint::new(self, port) {
                Ok(end) => control.ends.insert(port, Arc::new(end)),
                Err(error) => {
                    control.ports.release(port);
                    return Err(error);
                }
            };
        }
        let slot = self.slots.make(port).ok_or(EvtchnError::NoFreePort)?;
        Ok((port, slot))
    }

    /// Frees a port that no peer sends to any more.
    fn release_port(&self, control: &mut Control, port: Port, slot: &Slot) {
        let binding = slot.binding().clone();
        slot.rebind(Binding::Free, || {
            if let (Binding::Virq { virq }, Some(guest)) = (&binding, self.guest())
                && let Some(entry) = guest.virq(*virq, virq_vcpu(*virq, slot.vcpu()))
            {
                entry.store(0, SeqCst);
            }
        });
        slot.set_vcpu(VcpuId(0));
        if let Some(guest) = self.guest() {
            // The next owner of the number begins with nothing pending.
            guest.abi.clear_pending(port);
        }
        control.ends.remove(&port);
        control.ports.release(port);
    }
}
