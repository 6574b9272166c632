//! A guest's channels as plain data, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use cantle_abi::Port;
use cantle_abi::event_channel::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS};
use cantle_abi::xen::NR_VIRQS;

use super::virqs::is_global;
use super::{Control, Domain, Guest};
use crate::fifo::Fifo;
use crate::interface::Abi;
use crate::place::{Place, Queue};
use crate::slots::{Binding, PortState};
use crate::snapshot::{RestoreError, SavedPort, SavedQueue, Snapshot};

impl From<Queue> for SavedQueue {
    fn from(queue: Queue) -> Self {
        Self {
            vcpu: queue.vcpu(),
            priority: queue.priority(),
        }
    }
}

impl Domain {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let control = self.control();
        let mut ports = Vec::new();
        for (port, slot) in self.bound(&control) {
            let place = slot.place();
            if let Ok(status) = self.status(port) {
                ports.push(SavedPort {
                    port,
                    state: status.state,
                    queue: place.queue.into(),
                    last: place.last.into(),
                    waiting: place.waiting,
                    given: place.given,
                });
            }
        }
        let fifo = self.guest().and_then(|guest| guest.events.fifo());
        Snapshot {
            abi: fifo.map_or(Abi::TwoLevel, |_| Abi::Fifo),
            max_ports: self.limit.load(SeqCst),
            ports,
            resting: control.ports.resting().collect(),
            tails: fifo.map(Fifo::tails).unwrap_or_default(),
        }
    }

    /// Makes the ports of a snapshot, in a guest that has none. Connected ports come back unbound for the domain at their other
    /// end, but those that are connected within the domain.
    pub(crate) fn restore(self: &Arc<Self>, saved: &Snapshot) -> Result<(), RestoreError> {
        let guest = self.guest().ok_or(RestoreError::NotNew)?;
        let mut control = self.control();
        if !control.alive || control.ports.used() != 0 || guest.events.fifo().is_some() {
            return Err(RestoreError::NotNew);
        }
        // All is checked before anything is changed.
        check_whole(guest, saved)?;
        let mut bindings = Vec::new();
        let mut interrupts = BTreeSet::new();
        let peers: BTreeMap<Port, PortState> =
            saved.ports.iter().map(|p| (p.port, p.state)).collect();
        for port in &saved.ports {
            let place = self.place(guest, port)?;
            let binding = self.saved_binding(port, &peers)?;
            let interrupt = match binding {
                Binding::Virq { virq } if is_global(virq) => Some((true, virq, 0)),
                Binding::Virq { virq } => Some((true, virq, port.queue.vcpu.0)),
                Binding::Pirq { pirq } => Some((false, pirq, 0)),
                _ => None,
            };
            if interrupt.is_some_and(|interrupt| !interrupts.insert(interrupt)) {
                return Err(RestoreError::BadBinding(port.port));
            }
            bindings.push((port.port, place, binding));
        }

        self.limit.store(saved.max_ports, SeqCst);
        if saved.abi == Abi::Fifo {
            self.withdraw_kernel(&control);
            guest
                .events
                .enter_fifo(Fifo::restored(guest.events.vcpus.count(), &saved.tails));
        }
        for port in &saved.resting {
            control.ports.take_this(*port);
            control.ports.release(*port, true);
        }
        for (port, place, binding) in bindings {
            self.put(guest, &mut control, port, place, binding);
        }
        self.resume_kernel(&control);
        Ok(())
    }

    fn put(
        &self,
        guest: &Guest,
        control: &mut Control,
        port: Port,
        place: Place,
        binding: Binding,
    ) {
        control.ports.take_this(port);
        let Some(slot) = self.slots.make(port) else {
            return;
        };
        slot.set_place(place);
        let kind = binding.clone();
        slot.rebind(binding, &self.counters, || match kind {
            Binding::Virq { virq } => {
                if let Some(entry) = self.virqs.entry(virq, place.queue.vcpu()) {
                    entry.store(port.0, SeqCst);
                }
            }
            Binding::Pirq { pirq } => guest.pirqs.bind(pirq, port),
            _ => {}
        });
    }

    fn place(&self, guest: &Guest, saved: &SavedPort) -> Result<Place, RestoreError> {
        let queue = |queue: SavedQueue| {
            let start = guest.events.vcpus.has(queue.vcpu).then(Place::start)?;
            start.queue.on(queue.vcpu)?.at(queue.priority)
        };
        let bad = RestoreError::BadQueue(saved.port);
        Ok(Place {
            queue: queue(saved.queue).ok_or(bad)?,
            last: queue(saved.last).ok_or(bad)?,
            waiting: saved.waiting,
            given: saved.given,
        })
    }

    fn saved_binding(
        self: &Arc<Self>,
        saved: &SavedPort,
        ports: &BTreeMap<Port, PortState>,
    ) -> Result<Binding, RestoreError> {
        let bad = Err(RestoreError::BadBinding(saved.port));
        let binding = match saved.state {
            PortState::Closed => return bad,
            PortState::Unbound { remote } | PortState::Interdomain { remote, .. }
                if remote != self.id =>
            {
                let far = self.registry.find(remote);
                let far = far.map_err(|_| RestoreError::NoDomain(saved.port, remote))?;
                Binding::Unbound {
                    remote,
                    born: far.born,
                }
            }
            PortState::Unbound { remote } => Binding::Unbound {
                remote,
                born: self.born,
            },
            PortState::Interdomain { remote, port } => {
                let back = PortState::Interdomain {
                    remote,
                    port: saved.port,
                };
                if port == saved.port || ports.get(&port) != Some(&back) {
                    return bad;
                }
                Binding::Guest {
                    peer: self.clone(),
                    port,
                }
            }
            PortState::Virq(virq) if virq < NR_VIRQS => Binding::Virq { virq },
            PortState::Virq(_) => return bad,
            PortState::Pirq(pirq) if self.pirq_status(pirq).is_ok() => Binding::Pirq { pirq },
            PortState::Pirq(_) => return bad,
            PortState::Ipi => Binding::Ipi,
        };
        Ok(binding)
    }
}

/// What can be said of the whole: numbers of ports, each there once, and the queues.
fn check_whole(guest: &Guest, saved: &Snapshot) -> Result<(), RestoreError> {
    if saved.max_ports == 0 || saved.max_ports > EVTCHN_FIFO_NR_CHANNELS {
        return Err(RestoreError::BadLimit(saved.max_ports));
    }
    let (most, queues) = match saved.abi {
        Abi::TwoLevel => (EVTCHN_2L_NR_CHANNELS, 0),
        Abi::Fifo => (EVTCHN_FIFO_NR_CHANNELS, guest.events.vcpus.count()),
    };
    let mut seen = BTreeSet::new();
    let ports = saved.ports.iter().map(|saved| saved.port);
    for port in ports.chain(saved.resting.iter().copied()) {
        if port.0 == 0 || port.0 >= most || !seen.insert(port) {
            return Err(RestoreError::BadPort(port));
        }
    }
    let few = u32::try_from(saved.tails.len()).is_ok_and(|len| len <= queues);
    let ends = |port: &u32| *port < EVTCHN_FIFO_NR_CHANNELS;
    if !few || !saved.tails.iter().flatten().all(ends) {
        return Err(RestoreError::BadTails);
    }
    Ok(())
}
