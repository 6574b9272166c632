//! Signals, and what can be seen of a port.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use cantle_abi::{Port, VcpuId};

use super::{Domain, Sends};
use crate::EvtchnError;
use crate::slots::{Binding, PortState, Slot, Status};

impl Binding {
    /// Signals the other end of a connected port. The caller sees to it that it stays connected.
    #[inline]
    pub(super) fn deliver(&self) {
        match self {
            Self::Guest { peer, port } => {
                if let Some(slot) = peer.slots.get(*port) {
                    peer.deliver(*port, slot);
                }
            }
            Self::System { end } => end.signal(),
            _ => {}
        }
    }

    /// The other end of a connected port.
    pub(super) fn peer(&self) -> Option<(Arc<Domain>, Port)> {
        match self {
            Self::Guest { peer, port } => Some((peer.clone(), *port)),
            Self::System { end } => Some((end.domain.upgrade()?, end.port)),
            _ => None,
        }
    }
}

impl Domain {
    /// Signals the other end. A port that waits for its other end swallows the signal, as in Xen.
    // Inlined into its callers all the way down to the system call, after which a processor predicts no return.
    #[inline]
    pub(crate) fn send(&self, port: Port) -> Result<(), EvtchnError> {
        let slot = self.slot(port)?;
        // Held until the delivery is done: see `Slot`.
        let binding = slot.binding();
        if binding.is_full() {
            slot.settle(&binding, &self.counters);
        }
        match &*binding {
            Binding::Guest { .. } | Binding::System { .. } => {
                self.rate.count();
                binding.deliver();
            }
            Binding::Ipi => self.deliver(port, slot),
            Binding::Unbound { .. } => {}
            Binding::Free
            | Binding::Virq { .. }
            | Binding::SystemVirq { .. }
            | Binding::Pirq { .. } => return Err(EvtchnError::BadPort(port)),
        }
        binding.end_counted();
        Ok(())
    }

    /// How many signals went out, by kind.
    pub(crate) fn sends(&self) -> Sends {
        // Held: no binding changes meanwhile, and nothing is settled but what has filled a slot's count.
        let control = self.control();
        let settled = |counter: &AtomicU64| counter.load(Relaxed);
        let mut sends = Sends {
            sends: settled(&self.counters.sends),
            ipis: settled(&self.counters.ipis),
            dropped: settled(&self.counters.dropped),
        };
        for (_, slot) in self.bound(&control) {
            let sum = match &*slot.binding() {
                Binding::Guest { .. } | Binding::System { .. } => &mut sends.sends,
                Binding::Ipi => &mut sends.ipis,
                Binding::Unbound { .. } => &mut sends.dropped,
                _ => continue,
            };
            *sum += slot.count();
        }
        sends
    }

    /// Raises a virtual interrupt; false where the domain has not bound it.
    pub(crate) fn raise_virq(&self, virq: u32, vcpu: VcpuId) -> bool {
        self.deliver_bound(|| self.virqs.port(virq, vcpu), &self.counters.virqs)
    }

    /// Delivers to the port that an interrupt is bound to, and counts it; false where there is none. The port that `find` gives
    /// changes only under the port's write lock.
    pub(super) fn deliver_bound(&self, find: impl Fn() -> Option<Port>, count: &AtomicU64) -> bool {
        let Some((port, slot)) = find().and_then(|port| Some((port, self.slots.get(port)?))) else {
            return false;
        };
        let binding = slot.binding();
        // Looked at again: now it is certain whose port this is.
        if find() != Some(port) {
            return false;
        }
        count.fetch_add(1, Relaxed);
        match &*binding {
            Binding::SystemVirq { end, .. } => end.signal(),
            _ => self.deliver(port, slot),
        }
        true
    }

    /// Unmasks a guest's port; nothing where it is closed, as in Xen.
    pub(crate) fn unmask(&self, port: Port) -> Result<(), EvtchnError> {
        if !self.in_range(port) {
            return Err(EvtchnError::BadPort(port));
        }
        let (Some(guest), Some(slot)) = (self.guest(), self.slots.get(port)) else {
            return Ok(());
        };
        let binding = slot.binding();
        if !matches!(&*binding, Binding::Free) {
            guest.events.unmask(port, slot);
        }
        Ok(())
    }

    /// Whether a guest's port is pending. Takes no slot's lock: pollers ask while they hold their own.
    pub(crate) fn is_pending(&self, port: Port) -> bool {
        self.guest().is_some_and(|g| g.events.is_pending(port))
    }

    /// What a port is.
    pub(crate) fn status(&self, port: Port) -> Result<Status, EvtchnError> {
        if !self.in_range(port) {
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
            Binding::Virq { virq } | Binding::SystemVirq { virq, .. } => PortState::Virq(*virq),
            Binding::Pirq { pirq } => PortState::Pirq(*pirq),
            Binding::Ipi => PortState::Ipi,
        };
        Ok(Status {
            vcpu: slot.vcpu(),
            state,
        })
    }

    /// Sets a guest's port pending. The caller holds the lock of the slot that sends.
    pub(super) fn deliver(&self, port: Port, slot: &Slot) {
        if let Some(guest) = self.guest() {
            guest.events.set_pending(port, slot);
        }
    }
}
