//! All domains of a host.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak};

use cantle_abi::event_channel::EVTCHN_FIFO_NR_CHANNELS;
use cantle_abi::xen::NR_VIRQS;
use cantle_abi::{DomId, SharedMemory, VcpuId};

use crate::domain::{Domain, Guest, Kind, is_global};
use crate::guest::{GuestConfig, GuestDomain};
use crate::interface::Interface;
use crate::page::SharedPage;
use crate::system::SystemDomain;
use crate::two_level::TwoLevel;
use crate::vcpus::Vcpus;
use crate::{EvtchnError, Upcall};

/// Ports of a system domain, port 0 included: as many as the FIFO interface has, which bounds what a peer can have us make.
const SYSTEM_PORTS: u32 = 1 << 17;

/// All domains of a host, by number. A clone is the same hub.
///
/// A domain ends with [`remove`](Self::remove), or when its last handle is dropped: for a guest that is the [`GuestDomain`],
/// for a system domain the [`SystemDomain`] and all its channels. Its peers' ports fall back to unbound, for a domain that is
/// no more: a later domain of the same number is a new one, and cannot bind to them.
#[derive(Clone, Default)]
pub struct Hub(Arc<Registry>);

/// Who lives under which number.
#[derive(Default)]
pub(crate) struct Registry {
    domains: RwLock<HashMap<DomId, Arc<Domain>>>,
    births: AtomicU64,
    /// Who is told of each global virtual interrupt.
    virq_handlers: Mutex<HashMap<u32, Weak<Domain>>>,
}

impl Registry {
    pub(crate) fn find(&self, dom: DomId) -> Result<Arc<Domain>, EvtchnError> {
        let domains = self.domains.read().unwrap_or_else(PoisonError::into_inner);
        domains.get(&dom).cloned().ok_or(EvtchnError::NoDomain(dom))
    }

    /// Gives up a domain's number, if it is still its.
    pub(crate) fn forget(&self, domain: &Arc<Domain>) {
        if let Entry::Occupied(entry) = self.write().entry(domain.id)
            && Arc::ptr_eq(entry.get(), domain)
        {
            entry.remove();
        }
    }

    fn virq_handlers(&self) -> MutexGuard<'_, HashMap<u32, Weak<Domain>>> {
        self.virq_handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<DomId, Arc<Domain>>> {
        self.domains.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// A hub without domains.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a guest. `shared_info` begins with its shared info page; `upcall` is told of what becomes pending.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::DomainExists`]; [`EvtchnError::NoDomain`] for a reserved number; [`EvtchnError::BadConfig`] for no vCPUs
    /// or ports, more ports than the FIFO interface has (131,072), or too little shared info.
    pub fn add_guest(
        &self,
        dom: DomId,
        config: GuestConfig,
        shared_info: Arc<dyn SharedMemory + Send + Sync>,
        upcall: Arc<dyn Upcall>,
    ) -> Result<Arc<GuestDomain>, EvtchnError> {
        if config.max_ports == 0 || config.max_ports > EVTCHN_FIFO_NR_CHANNELS {
            return Err(EvtchnError::BadConfig);
        }
        let shared_info = Arc::new(SharedPage::new(shared_info));
        let vcpus = Vcpus::new(config.vcpus, shared_info.clone(), upcall)?;
        let events = Interface::new(vcpus, TwoLevel::new(shared_info));
        let kind = Kind::Guest(Guest::new(events));
        let domain = self.add(dom, config.max_ports, kind)?;
        Ok(Arc::new(GuestDomain::new(domain)))
    }

    /// Adds a system domain: one whose ends of channels are eventfds of this process.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::DomainExists`]; [`EvtchnError::NoDomain`] for a reserved number.
    pub fn add_system(&self, dom: DomId) -> Result<Arc<SystemDomain>, EvtchnError> {
        let domain = self.add(dom, SYSTEM_PORTS, Kind::System)?;
        Ok(Arc::new(SystemDomain::new(domain)))
    }

    /// Ends a domain, if there is one of that number: closes its ports, frees the number. Handles that are left answer
    /// [`EvtchnError::NoDomain`] or [`EvtchnError::BadPort`].
    pub fn remove(&self, dom: DomId) {
        if let Ok(domain) = self.0.find(dom) {
            domain.end();
        }
    }

    /// Has a domain, or nobody, be told of a global virtual interrupt (`XEN_DOMCTL_set_virq_handler`). At first nobody is. It must
    /// bind the interrupt to hear of it. When it ends nobody is told, whoever has its number next.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::BadVirq`] where there is no such global interrupt; [`EvtchnError::NoDomain`].
    pub fn set_virq_handler(&self, virq: u32, dom: Option<DomId>) -> Result<(), EvtchnError> {
        if virq >= NR_VIRQS || !is_global(virq) {
            return Err(EvtchnError::BadVirq(virq));
        }
        let handler = dom.map(|dom| self.0.find(dom)).transpose()?;
        let mut handlers = self.0.virq_handlers();
        match handler {
            Some(handler) => handlers.insert(virq, Arc::downgrade(&handler)),
            None => handlers.remove(&virq),
        };
        Ok(())
    }

    /// Raises a global virtual interrupt for its handler; false where there is none, or it has not bound it.
    pub fn raise_global_virq(&self, virq: u32) -> bool {
        let handler = self.0.virq_handlers().get(&virq).and_then(Weak::upgrade);
        handler.is_some_and(|handler| handler.raise_virq(virq, VcpuId(0)))
    }

    fn add(&self, dom: DomId, ports: u32, kind: Kind) -> Result<Arc<Domain>, EvtchnError> {
        if !dom.is_real() {
            return Err(EvtchnError::NoDomain(dom));
        }
        let mut domains = self.0.write();
        let Entry::Vacant(entry) = domains.entry(dom) else {
            return Err(EvtchnError::DomainExists(dom));
        };
        let born = self.0.births.fetch_add(1, Ordering::Relaxed);
        let domain = Arc::new(Domain::new(dom, born, self.0.clone(), ports, kind));
        entry.insert(domain.clone());
        Ok(domain)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domains = self
            .0
            .domains
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(domains.keys()).finish()
    }
}
