//! A guest at its ring.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cantle_abi::{DomId, SharedMemory};

use super::end::Got;
use crate::transport::ring::{PageEnd, Parts, RingFault};

/// How a service and a guest signal each other.
pub struct RingChannel {
    /// Readable when the guest has signalled: an eventfd. It is waited for by its edges, and never read.
    pub signal: OwnedFd,
    /// Signals the guest. It must not wait for anything.
    pub notify: Box<dyn FnMut() + Send>,
}

impl fmt::Debug for RingChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingChannel")
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}

/// A guest's page and event channel.
pub(super) struct RingEnd {
    page: Box<dyn PageEnd + Send>,
    pub(super) domid: DomId,
    channel: RingChannel,
    /// Why it is dead, until the guest asks for a new connection.
    pub(super) fault: Option<RingFault>,
    /// It was found broken outside of the server's lock; what follows from that is still to be done.
    found: Option<RingFault>,
    /// The guest has something to look at.
    moved: bool,
}

impl fmt::Debug for RingEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingEnd")
            .field("domid", &self.domid)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl RingEnd {
    /// Takes over a ring: its end here, the rest for its place.
    pub(super) fn new<M: SharedMemory + Send + 'static>(
        parts: Parts<M>,
        channel: RingChannel,
    ) -> Self {
        Self {
            page: Box::new(parts.page),
            domid: parts.domid,
            channel,
            fault: parts.fault,
            found: None,
            moved: parts.fault.is_some(),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.channel.signal.as_fd()
    }

    /// Whether the guest asks for a new connection and may have one.
    pub(super) fn wants_reset(&self) -> bool {
        self.page.wants_reset()
    }

    /// Takes what is there. There may be more as long as there was something.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Got {
        if self.page.wants_reset() {
            return Got::Reset;
        }
        if let Some(fault) = self.found.take() {
            return Got::Broken(fault);
        }
        if self.fault.is_some() {
            return Got::Bytes(0, false);
        }
        match self.page.read(buffer) {
            Ok(len) => {
                self.moved |= len > 0;
                Got::Bytes(len, len > 0)
            }
            Err(broken) => Got::Broken(broken.into()),
        }
    }

    /// Writes as much as there is room for.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        match self.page.write(bytes) {
            Ok(len) => {
                self.moved |= len > 0;
                len
            }
            Err(broken) => {
                self.found = Some(broken.into());
                0
            }
        }
    }

    /// Whether it was found broken and nothing was done about it.
    pub(super) fn is_found_broken(&self) -> bool {
        self.found.is_some()
    }

    /// A new connection stands behind it.
    pub(super) fn reset(&mut self) {
        self.fault = None;
        self.found = None;
        self.page.reset();
        self.moved = true;
    }

    pub(super) fn fail(&mut self, fault: RingFault) {
        self.fault = Some(fault);
        self.page.fail(fault.code());
        self.moved = true;
    }

    /// Signals the guest if there is something new for it.
    pub(super) fn notify(&mut self) {
        if core::mem::take(&mut self.moved) {
            (self.channel.notify)();
        }
    }
}
