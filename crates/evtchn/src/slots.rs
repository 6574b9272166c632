//! A domain's ports: what each is bound to, and where it is delivered.

use std::mem::size_of;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use cantle_abi::event_channel::{
    EVTCHN_FIFO_NR_CHANNELS, EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi,
    EVTCHNSTAT_pirq, EVTCHNSTAT_unbound, EVTCHNSTAT_virq, EvtchnStatus,
};
use cantle_abi::{DomId, Port, VcpuId};

use crate::domain::{Counters, Domain};
use crate::endpoint::Endpoint;
use crate::lock::{Reading, SlotLock};
use crate::place::{Place, Queue};

/// What a port is, as `EVTCHNOP_status` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The vCPU it is delivered to (0 where that means nothing).
    pub vcpu: VcpuId,
    /// What it is bound to.
    pub state: PortState,
}

/// What a port is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Not in use.
    Closed,
    /// Waits for a domain to connect.
    Unbound {
        /// Which one may.
        remote: DomId,
    },
    /// Connected.
    Interdomain {
        /// To which domain.
        remote: DomId,
        /// To which of its ports.
        port: Port,
    },
    /// A virtual interrupt, `VIRQ_*`.
    Virq(u32),
    /// An interrupt of an emulated device.
    Pirq(u32),
    /// For signals among the domain's own vCPUs.
    Ipi,
}

impl Status {
    /// Fills in the call's structure; its `dom` and `port` stay.
    pub fn fill(&self, out: &mut EvtchnStatus) {
        out.vcpu = self.vcpu;
        (out.status, out.u0, out.u1) = match self.state {
            PortState::Closed => (EVTCHNSTAT_closed, 0, 0),
            PortState::Unbound { remote } => (EVTCHNSTAT_unbound, u32::from(remote.0), 0),
            PortState::Interdomain { remote, port } => {
                (EVTCHNSTAT_interdomain, u32::from(remote.0), port.0)
            }
            PortState::Virq(virq) => (EVTCHNSTAT_virq, virq, 0),
            PortState::Pirq(pirq) => (EVTCHNSTAT_pirq, pirq, 0),
            PortState::Ipi => (EVTCHNSTAT_ipi, 0, 0),
        };
    }
}

/// What a send on a port does. Changed with the domain's control lock held; read by senders.
#[derive(Clone)]
pub(crate) enum Binding {
    Free,
    /// `born` tells the remote from an earlier or later domain of its number.
    Unbound {
        remote: DomId,
        born: u64,
    },
    /// To a guest's port.
    Guest {
        peer: Arc<Domain>,
        port: Port,
    },
    /// To a system domain's eventfd.
    System {
        end: Arc<Endpoint>,
    },
    Virq {
        virq: u32,
    },
    /// A virtual interrupt of a system domain, with its eventfd.
    SystemVirq {
        virq: u32,
        end: Arc<Endpoint>,
    },
    Pirq {
        pirq: u32,
    },
    Ipi,
}

// What an idle channel costs the host, beside a bit or two.
const _: () = assert!(size_of::<Binding>() <= 16 && size_of::<Slot>() <= 24);

/// One port. A sender holds the read lock while it delivers; so a change waits for deliveries under way, and none comes after it.
pub(crate) struct Slot(SlotLock<Binding>);

impl Slot {
    fn new() -> Self {
        Self(SlotLock::new(Binding::Free, Place::start().bits()))
    }

    pub(crate) fn binding(&self) -> Reading<'_, Binding> {
        self.0.read()
    }

    /// Changes the binding. The caller holds the domain's control lock, and `counters` are the domain's. `meanwhile` runs while no
    /// sender is on the port.
    pub(crate) fn rebind(&self, new: Binding, counters: &Counters, meanwhile: impl FnOnce()) {
        let old = self.0.replace(new, |old| {
            self.settle(old, counters);
            meanwhile();
        });
        // A peer that goes with its last channel goes here, outside the lock.
        drop(old);
    }

    /// Adds the sends that the slot has counted to the domain's figures. The caller holds the slot's lock; `binding` is its.
    pub(crate) fn settle(&self, binding: &Binding, counters: &Counters) {
        let sends = self.0.take_count();
        if let Some(counter) = counters.of(binding) {
            // Relaxed: a figure that nothing depends on.
            counter.fetch_add(sends, Relaxed);
        }
    }

    /// Sends that the slot has counted and the domain's figures do not have yet.
    pub(crate) fn count(&self) -> u64 {
        self.0.count()
    }

    /// Where to deliver. A delivery that races with a change goes to the old or the new place.
    pub(crate) fn place(&self) -> Place {
        Place::of(self.0.beside())
    }

    /// The vCPU to deliver to.
    pub(crate) fn vcpu(&self) -> VcpuId {
        self.place().queue.vcpu()
    }

    pub(crate) fn set_queue(&self, queue: Queue) {
        self.change(|place| Place { queue, ..place });
    }

    /// The port is put on a queue; the caller holds the locks of that one's vCPU and of the last one's.
    pub(crate) fn set_last(&self, last: Queue) {
        self.change(|place| Place { last, ..place });
    }

    /// For a port that comes back from a snapshot.
    pub(crate) fn set_place(&self, place: Place) {
        self.change(|_| place);
    }

    /// Remembers, or forgets, that an event waits for its event word; returns whether one did.
    pub(crate) fn set_waiting(&self, waiting: bool) -> bool {
        self.change(|place| Place { waiting, ..place }).waiting
    }

    /// For a port's next owner. Where it is on a queue stays.
    pub(crate) fn renew(&self, given: bool) {
        self.change(|place| Place {
            last: place.last,
            given,
            ..Place::start()
        });
    }

    fn change(&self, change: impl Fn(Place) -> Place) -> Place {
        let old = self.0.change_beside(|bits| change(Place::of(bits)).bits());
        Place::of(old)
    }
}

/// Ports in one allocation.
const BUCKET: usize = 128;
const BUCKETS: usize = EVTCHN_FIFO_NR_CHANNELS as usize / BUCKET;

/// A domain's ports, allocated by the bucket when first used. A lookup takes no lock.
pub(crate) struct Slots(Box<[OnceLock<Box<[Slot; BUCKET]>>]>);

impl Slots {
    /// Room for all ports that there can be.
    pub(crate) fn new() -> Self {
        Self((0..BUCKETS).map(|_| OnceLock::new()).collect())
    }

    /// The port's slot; `None` beyond the range, for port 0, or where no port of its bucket was ever used.
    pub(crate) fn get(&self, port: Port) -> Option<&Slot> {
        let port = usize::try_from(port.0).ok().filter(|port| *port != 0)?;
        // Acquires what `make` released: nobody sees a bucket before its slots (XSA-340).
        self.0.get(port / BUCKET)?.get()?.get(port % BUCKET)
    }

    /// The port's slot, its bucket made if need be.
    pub(crate) fn make(&self, port: Port) -> Option<&Slot> {
        let bucket = self.0.get(usize::try_from(port.0).ok()? / BUCKET)?;
        bucket.get_or_init(|| Box::new(std::array::from_fn(|_| Slot::new())));
        self.get(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_made_by_the_bucket_and_bounded() {
        let slots = Slots::new();
        assert!(slots.get(Port(1)).is_none(), "nothing made yet");
        assert!(slots.make(Port(129)).is_some());
        assert!(slots.get(Port(128)).is_some() && slots.get(Port(1)).is_none());
        assert!(slots.make(Port(EVTCHN_FIFO_NR_CHANNELS - 1)).is_some());
        for port in [0, EVTCHN_FIFO_NR_CHANNELS, u32::MAX] {
            assert!(slots.make(Port(port)).is_none() && slots.get(Port(port)).is_none());
        }
    }
}
