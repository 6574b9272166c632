//! What a back end runs on: event channels as a process sees them.
//!
//! A back end holds `dyn EventChannels` and needs not know whether the other end is in the same process, behind the host's
//! broker, or on a real Xen (`/dev/xen/evtchn`).

use std::os::fd::BorrowedFd;

use cantle_abi::{DomId, Port};

use crate::EvtchnError;

/// A system domain's way to make event channels. Implemented in process by [`SystemDomain`](crate::SystemDomain), and on a
/// real Xen host by `EvtchnDevice` (feature `xen-device`).
pub trait EventChannels: Send + Sync {
    /// Connects to a port that `remote` left unbound for this domain (`EVTCHNOP_bind_interdomain`).
    ///
    /// The channel begins signalled, as Xen's does: work may have come before the connection.
    ///
    /// # Errors
    ///
    /// [`EvtchnError`]: no such domain, no such port, not unbound, or left unbound for somebody else.
    fn bind_interdomain(
        &self,
        remote: DomId,
        remote_port: Port,
    ) -> Result<Box<dyn Channel>, EvtchnError>;

    /// Makes a port that `remote` may bind to (`EVTCHNOP_alloc_unbound`).
    ///
    /// # Errors
    ///
    /// [`EvtchnError`]: no such domain, or no port is free.
    fn alloc_unbound(&self, remote: DomId) -> Result<Box<dyn Channel>, EvtchnError>;
}

/// This domain's end of one channel. Dropping it closes the end (`EVTCHNOP_close`); the other end becomes unbound.
pub trait Channel: Send + Sync {
    /// The local port, as it would be written in xenstore.
    fn port(&self) -> Port;

    /// Signals the other end (`EVTCHNOP_send`).
    ///
    /// A signal on a channel whose other end is not there (not yet, or no more) is swallowed, as Xen does: the other side's
    /// going is told by xenstore, not by its channel.
    ///
    /// # Errors
    ///
    /// [`EvtchnError`] where this end is gone: the domain that owns it has ended.
    fn notify(&self) -> Result<(), EvtchnError>;

    /// Readable while the other end has signalled and [`take`](Self::take) has not been called since.
    ///
    /// To be polled, never read or written: only `take` may consume a signal, since signals that find one waiting
    /// do not touch the descriptor again.
    fn eventfd(&self) -> BorrowedFd<'_>;

    /// Consumes a signal, if there is one: true where there was. Never blocks. Signals in between count as one.
    ///
    /// What the other end wrote before any of these signals is visible afterwards: take first, then look for work.
    fn take(&self) -> bool;
}
