//! A part of the host that serves guests: its ends of channels are eventfds.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::{DomId, Port, VcpuId};

use crate::domain::Domain;
use crate::endpoint::Endpoint;
use crate::{Channel, EventChannels, EvtchnError, Status};

/// A system domain, in this process. It ends when this and its last channel are dropped.
pub struct SystemDomain(Arc<Owner>);

/// Ends the domain with its last handle.
struct Owner(Arc<Domain>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl SystemDomain {
    pub(crate) fn new(domain: Arc<Domain>) -> Self {
        Self(Arc::new(Owner(domain)))
    }

    /// The domain's number.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.0.0.id
    }

    /// What one of its ports is.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::BadPort`] for a number beyond the limit.
    pub fn status(&self, port: Port) -> Result<Status, EvtchnError> {
        self.0.0.status(port)
    }

    /// `EVTCHNOP_bind_virq`: the channel is signalled when the host raises the global virtual interrupt for this domain (see
    /// [`Hub::set_virq_handler`](crate::Hub::set_virq_handler)). It has no other end: `notify` is refused.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::BadVirq`] for one that is not global, [`EvtchnError::VirqBound`], [`EvtchnError::NoFreePort`].
    pub fn bind_virq(&self, virq: u32) -> Result<Box<dyn Channel>, EvtchnError> {
        self.channel(self.0.0.bind_virq(virq, VcpuId(0))?)
    }

    fn channel(&self, port: Port) -> Result<Box<dyn Channel>, EvtchnError> {
        // Gone where the domain was ended meanwhile.
        let end = self
            .0
            .0
            .endpoint(port)
            .ok_or(EvtchnError::NoDomain(self.id()))?;
        Ok(Box::new(LocalChannel {
            owner: self.0.clone(),
            end,
        }))
    }
}

impl EventChannels for SystemDomain {
    fn bind_interdomain(
        &self,
        remote: DomId,
        remote_port: Port,
    ) -> Result<Box<dyn Channel>, EvtchnError> {
        self.channel(self.0.0.bind_interdomain(remote, remote_port)?)
    }

    fn alloc_unbound(&self, remote: DomId) -> Result<Box<dyn Channel>, EvtchnError> {
        self.channel(self.0.0.alloc_unbound(remote, false)?)
    }
}

impl fmt::Debug for SystemDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemDomain")
            .field("id", &self.id())
            .field("bound_ports", &self.0.0.bound_ports())
            .finish()
    }
}

/// A channel of a system domain in this process.
struct LocalChannel {
    owner: Arc<Owner>,
    end: Arc<Endpoint>,
}

impl Channel for LocalChannel {
    fn port(&self) -> Port {
        self.end.port
    }

    fn notify(&self) -> Result<(), EvtchnError> {
        self.owner.0.send(self.end.port)
    }

    fn eventfd(&self) -> BorrowedFd<'_> {
        self.end.eventfd()
    }

    fn take(&self) -> bool {
        self.end.take()
    }
}

impl Drop for LocalChannel {
    fn drop(&mut self) {
        // Only this closes the port, unless the domain has ended, which makes no new ones: it is no other's by now.
        let _ = self.owner.0.close(self.end.port);
    }
}
