//! The guest's two rings with the host, xenstore's and the console's: pages, channels and their servers.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cantle_abi::hvm::{
    HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN,
};
use cantle_abi::{DomId, Gfn, Port};
use cantle_evtchn::{Channel, EventChannels, SystemDomain};
use cantle_xenstore::Shared;
use cantle_xenstore::transport::ring::Ring;
use cantle_xenstore::xenbus::toolstack::{self, DomainSpec};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::config::GuestConfig;
use crate::console::{ConsoleOutput, ConsoleRing};
use crate::domain::Domain;
use crate::error::SetupError;
use crate::memory::HeapPage;
use crate::services::Subscriber;
use crate::store::StoreRing;

/// A ring that is connected: its frame, the guest's port and the host's end of it.
struct Connected {
    gfn: Gfn,
    port: Port,
    channel: Box<dyn Channel>,
}

/// Both rings, connected and not served yet.
pub(crate) struct Rings {
    store: Connected,
    console: Connected,
}

impl Rings {
    /// Connects them. `frames` are xenstore's and the console's, which an HVM guest finds in its parameters.
    pub(crate) fn new(
        domain: &Domain,
        dom0: &SystemDomain,
        frames: [Gfn; 2],
    ) -> Result<Self, SetupError> {
        let connect = |pfn, evtchn, gfn: Gfn| {
            let port = domain
                .ports
                .give_unbound(DomId::DOM0)
                .map_err(SetupError::host("event channels"))?;
            let channel = dom0
                .bind_interdomain(domain.domid, port)
                .map_err(SetupError::host("event channels"))?;
            domain.set_param(pfn, gfn.0);
            domain.set_param(evtchn, port.0.into());
            Ok::<_, SetupError>(Connected { gfn, port, channel })
        };
        let [store, console] = frames;
        Ok(Self {
            store: connect(HVM_PARAM_STORE_PFN, HVM_PARAM_STORE_EVTCHN, store)?,
            console: connect(HVM_PARAM_CONSOLE_PFN, HVM_PARAM_CONSOLE_EVTCHN, console)?,
        })
    }

    /// The guest's ports, xenstore's first.
    pub(crate) fn ports(&self) -> [u32; 2] {
        [self.store.port.0, self.console.port.0]
    }

    /// Introduces the guest to xenstore; who serves its ring and the console's.
    pub(crate) fn serve(
        self,
        domain: &Arc<Domain>,
        store: &Shared,
        config: &GuestConfig,
        input: OwnedFd,
        output: Arc<ConsoleOutput>,
    ) -> Result<(Subscriber, Subscriber), SetupError> {
        let toolstack = store
            .client(DomId::DOM0)
            .map_err(SetupError::host("xenstore"))?;
        let spec = DomainSpec {
            domid: domain.domid,
            name: config.name.clone(),
            memory_kib: config.memory >> 10,
            vcpus: config.vcpus,
            store: Some((self.store.gfn, self.store.port)),
            console: Some((self.console.gfn, self.console.port)),
        };
        toolstack::create_domain(&toolstack, &spec).map_err(SetupError::host("xenstore"))?;
        store
            .introduce(domain.domid)
            .map_err(SetupError::host("xenstore"))?;
        let wake =
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(SetupError::host("xenstore"))?;
        let waker = wake.try_clone().map_err(SetupError::host("xenstore"))?;
        let ring = Ring::connect(
            store,
            domain.domid,
            domain.ram.ring(HeapPage::STORE),
            Arc::new(move || drop(waker.write(1))),
        );
        let ended = domain.clone();
        let console = ConsoleRing::new(
            domain.ram.ring(HeapPage::CONSOLE),
            self.console.channel,
            output,
            input,
            move || ended.has_ended(),
        );
        Ok((
            Box::new(StoreRing::new(ring, self.store.channel, wake)),
            Box::new(console),
        ))
    }
}
