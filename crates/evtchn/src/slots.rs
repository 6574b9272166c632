//! A domain's ports: what each is bound to, and which are free.

use std::mem::size_of;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use cantle_abi::event_channel::{
    EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_unbound, EVTCHNSTAT_virq,
    EvtchnStatus,
};
use cantle_abi::{DomId, Port, VcpuId};

use crate::domain::Domain;
use crate::endpoint::Endpoint;

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
    Ipi,
}

// A connected port costs one slot: two to a cache line at least.
const _: () = assert!(size_of::<Binding>() <= 16 && size_of::<Slot>() <= 40);

/// One port. A sender holds the read lock while it delivers; so a change waits for deliveries under way, and none comes after it.
pub(crate) struct Slot {
    binding: RwLock<Binding>,
    vcpu: AtomicU32,
}

impl Slot {
    fn new() -> Self {
        Self {
            binding: RwLock::new(Binding::Free),
            vcpu: AtomicU32::new(0),
        }
    }

    pub(crate) fn binding(&self) -> RwLockReadGuard<'_, Binding> {
        self.binding.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the binding. The caller holds the domain's control lock. `meanwhile` runs while no sender is on the port.
    pub(crate) fn rebind(&self, new: Binding, meanwhile: impl FnOnce()) {
        let old = {
            let mut binding = self.binding.write().unwrap_or_else(PoisonError::into_inner);
            meanwhile();
            std::mem::replace(&mut *binding, new)
        };
        // A peer that goes with its last channel goes here, outside the lock.
        drop(old);
    }

    /// The vCPU to deliver to. A delivery that races with a change goes to the old or the new one.
    pub(crate) fn vcpu(&self) -> VcpuId {
        VcpuId(self.vcpu.load(Relaxed))
    }

    pub(crate) fn set_vcpu(&self, vcpu: VcpuId) {
        self.vcpu.store(vcpu.0, Relaxed);
    }
}

/// Ports in one allocation.
const BUCKET: u32 = 128;

/// A domain's ports, allocated by the bucket when first used. A lookup takes no lock.
pub(crate) struct Slots {
    buckets: Box<[OnceLock<Box<[Slot]>>]>,
    ports: u32,
}

impl Slots {
    /// Room for ports 0 to `ports - 1`.
    pub(crate) fn new(ports: u32) -> Self {
        Self {
            buckets: (0..ports.div_ceil(BUCKET))
                .map(|_| OnceLock::new())
                .collect(),
            ports,
        }
    }

    /// Whether a port of this number can exist.
    pub(crate) fn in_range(&self, port: Port) -> bool {
        port.0 != 0 && port.0 < self.ports
    }

    /// The port's slot; `None` beyond the range, or where no port of its bucket was ever used.
    pub(crate) fn get(&self, port: Port) -> Option<&Slot> {
        if !self.in_range(port) {
            return None;
        }
        let bucket = self.buckets.get(usize::try_from(port.0 / BUCKET).ok()?)?;
        // Acquires what `make` released: nobody sees a bucket before its slots (XSA-340).
        bucket.get()?.get(usize::try_from(port.0 % BUCKET).ok()?)
    }

    /// The port's slot, its bucket made if need be.
    pub(crate) fn make(&self, port: Port) -> Option<&Slot> {
        let bucket = self.buckets.get(usize::try_from(port.0 / BUCKET).ok()?)?;
        bucket.get_or_init(|| (0..BUCKET).map(|_| Slot::new()).collect());
        self.get(port)
    }
}

/// Which ports are in use: a bit each.
pub(crate) struct PortSet {
    words: Box<[u64]>,
    ports: u32,
    used: u32,
    /// No port below is free.
    hint: u32,
}

impl PortSet {
    /// Ports 1 to `ports - 1` are free.
    pub(crate) fn new(ports: u32) -> Self {
        Self {
            words: (0..ports.div_ceil(64)).map(|_| 0).collect(),
            ports,
            used: 0,
            hint: 1,
        }
    }

    /// Takes the lowest free port, as Xen does.
    pub(crate) fn take(&mut self) -> Option<Port> {
        let first = usize::try_from(self.hint / 64).ok()?;
        for (n, word) in self.words.iter_mut().enumerate().skip(first) {
            let reserved = u64::from(n == 0);
            let free = !(*word | reserved);
            if free == 0 {
                continue;
            }
            let port = u32::try_from(n).ok()? * 64 + free.trailing_zeros();
            if port >= self.ports {
                return None;
            }
            *word |= 1 << (port % 64);
            self.hint = port + 1;
            self.used += 1;
            return Some(Port(port));
        }
        None
    }

    pub(crate) fn release(&mut self, port: Port) {
        let word = usize::try_from(port.0 / 64)
            .ok()
            .and_then(|n| self.words.get_mut(n));
        let bit = 1 << (port.0 % 64);
        if let Some(word) = word
            && *word & bit != 0
        {
            *word &= !bit;
            self.used -= 1;
            self.hint = self.hint.min(port.0);
        }
    }

    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// The ports in use, from the lowest.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Port> {
        (0u32..).zip(self.words.iter()).flat_map(|(n, &word)| {
            (0..64)
                .filter(move |bit| word & (1 << bit) != 0)
                .map(move |bit| Port(n * 64 + bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_taken_from_the_lowest_and_never_0() {
        let mut set = PortSet::new(130);
        for port in 1..130 {
            assert_eq!(set.take(), Some(Port(port)));
        }
        assert_eq!(set.take(), None);
        for port in [129, 64, 3] {
            set.release(Port(port));
        }
        set.release(Port(3));
        assert_eq!(set.used(), 126);
        assert_eq!(set.take(), Some(Port(3)));
        assert_eq!(set.take(), Some(Port(64)));
        assert_eq!(set.take(), Some(Port(129)));
        assert_eq!(set.take(), None);
        assert_eq!(set.iter().last(), Some(Port(129)));
        assert_eq!(set.iter().next(), Some(Port(1)));
    }

    #[test]
    fn slots_are_made_by_the_bucket_and_bounded() {
        let slots = Slots::new(130);
        assert!(slots.get(Port(1)).is_none(), "nothing made yet");
        assert!(slots.make(Port(129)).is_some());
        assert!(slots.get(Port(128)).is_some() && slots.get(Port(1)).is_none());
        for port in [0, 130, 4096, u32::MAX] {
            assert!(slots.make(Port(port)).is_none() && slots.get(Port(port)).is_none());
        }
    }
}
