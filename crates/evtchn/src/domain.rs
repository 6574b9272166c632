//! One domain's event channels, guest or system, and what joins two of them.
//!
//! Two kinds of lock. The *control* lock of a domain guards which ports it has; whatever changes a binding holds the control
//! locks of both domains that it concerns, taken in the order of their birth. The lock of a *slot* guards what a send on it
//! does; a sender takes that one alone, for reading, and delivers before it lets go.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_abi::event_channel::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS};
use cantle_abi::{DomId, Port, VcpuId};

use crate::EvtchnError;
use crate::endpoint::Endpoint;
use crate::hub::Registry;
use crate::interface::{Abi, Interface};
use crate::ports::PortSet;
use crate::rate::Rate;
use crate::slots::{Binding, Slot, Slots};

mod bind;
mod close;
mod fifo_ops;
mod kernel;
mod pirqs;
mod send;
mod snapshot;
mod virqs;

pub use pirqs::PirqStatus;
pub(crate) use pirqs::Pirqs;
pub(crate) use virqs::{Virqs, is_global};

/// A domain. Lives in the registry until it ends, and in its peers' bindings until they are undone.
pub(crate) struct Domain {
    pub(crate) id: DomId,
    /// Unique among all domains that ever were, and rising: tells domains of one number apart, and orders locks.
    pub(crate) born: u64,
    registry: Arc<Registry>,
    slots: Slots,
    /// Ports that it may have, port 0 included; those beyond stay until they are closed.
    limit: AtomicU32,
    virqs: Virqs,
    pub(crate) rate: Rate,
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
    pub(crate) events: Interface,
    pirqs: Pirqs,
}

impl Guest {
    pub(crate) fn new(events: Interface) -> Self {
        Self {
            pirqs: Pirqs::new(),
            events,
        }
    }
}

/// How often things happened. The slots count sends themselves, and settle them here when their binding changes: see
/// [`Domain::sends`].
#[derive(Default)]
pub(crate) struct Counters {
    sends: AtomicU64,
    ipis: AtomicU64,
    /// Sends that had no other end to go to.
    dropped: AtomicU64,
    pub(crate) virqs: AtomicU64,
    pub(crate) pirqs: AtomicU64,
}

impl Counters {
    /// Where the sends of a port that is so bound belong.
    pub(crate) fn of(&self, binding: &Binding) -> Option<&AtomicU64> {
        match binding {
            Binding::Guest { .. } | Binding::System { .. } => Some(&self.sends),
            Binding::Ipi => Some(&self.ipis),
            Binding::Unbound { .. } => Some(&self.dropped),
            _ => None,
        }
    }
}

/// What a domain has sent.
#[derive(Default)]
pub(crate) struct Sends {
    pub(crate) sends: u64,
    pub(crate) ipis: u64,
    pub(crate) dropped: u64,
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
            slots: Slots::new(),
            limit: AtomicU32::new(ports),
            virqs: Virqs::new(match &kind {
                Kind::Guest(guest) => guest.events.vcpus.count(),
                Kind::System => 1,
            }),
            rate: Rate::new(),
            control: Mutex::new(Control {
                alive: true,
                ports: PortSet::new(EVTCHN_FIFO_NR_CHANNELS),
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

    /// A system domain's end of a port.
    pub(crate) fn endpoint(&self, port: Port) -> Option<Arc<Endpoint>> {
        self.control().ends.get(&port).cloned()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limits the ports there are from now on; those that are open stay.
    pub(crate) fn set_limit(&self, ports: u32) -> Result<(), EvtchnError> {
        if ports == 0 || ports > EVTCHN_FIFO_NR_CHANNELS {
            return Err(EvtchnError::BadConfig);
        }
        // With the lock held: nothing is made by the old limit afterwards.
        let _control = self.control();
        self.limit.store(ports, SeqCst);
        Ok(())
    }

    /// Whether a port of this number can exist, or does.
    fn in_range(&self, port: Port) -> bool {
        let open = |slot: &Slot| !matches!(&*slot.binding(), Binding::Free);
        port.0 != 0 && (port.0 < self.limit.load(SeqCst) || self.slots.get(port).is_some_and(open))
    }

    fn slot(&self, port: Port) -> Result<&Slot, EvtchnError> {
        self.slots.get(port).ok_or(EvtchnError::BadPort(port))
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
            Some(guest) if guest.events.vcpus.has(vcpu) => Ok(()),
            _ => Err(EvtchnError::NoVcpu(vcpu)),
        }
    }

    /// Takes a free port; its slot is free and on vCPU 0. `given`: by the host, for a guest.
    fn take_port<'a>(
        self: &'a Arc<Self>,
        control: &mut Control,
        given: bool,
    ) -> Result<(Port, &'a Slot), EvtchnError> {
        if !control.alive {
            return Err(EvtchnError::NoDomain(self.id));
        }
        let limit = self.limit.load(SeqCst);
        let port = match self.guest() {
            Some(guest) => {
                let limit = match guest.events.abi() {
                    // Beyond that a port has no bit (XSA-342).
                    Abi::TwoLevel => limit.min(EVTCHN_2L_NR_CHANNELS),
                    Abi::Fifo => limit,
                };
                let linked = |port| guest.events.is_linked(port);
                control.ports.take(limit, linked)
            }
            None => control.ports.take(limit, |_| false),
        };
        let port = port.ok_or(EvtchnError::NoFreePort)?;
        if let Kind::System = self.kind {
            match Endpoint::new(self, port) {
                Ok(end) => control.ends.insert(port, Arc::new(end)),
                Err(error) => {
                    control.ports.release(port, false);
                    return Err(error);
                }
            };
        }
        let slot = self.slots.make(port).ok_or(EvtchnError::NoFreePort)?;
        slot.renew(given);
        Ok((port, slot))
    }

    /// Frees a port that no peer sends to any more.
    fn release_port(&self, control: &mut Control, port: Port, slot: &Slot) {
        let binding = slot.binding().clone();
        slot.rebind(Binding::Free, &self.counters, || {
            match (&binding, self.guest()) {
                (Binding::Virq { virq } | Binding::SystemVirq { virq, .. }, _) => {
                    self.virqs.unbind(*virq, slot.vcpu());
                }
                (Binding::Pirq { pirq }, Some(guest)) => guest.pirqs.unbind(*pirq),
                _ => {}
            }
        });
        slot.renew(false);
        let mut linked = false;
        if let Some(guest) = self.guest() {
            // The next owner of the number begins with nothing pending.
            guest.events.clear_pending(port);
            linked = guest.events.is_linked(port);
        }
        control.ends.remove(&port);
        control.ports.release(port, linked);
    }
}
