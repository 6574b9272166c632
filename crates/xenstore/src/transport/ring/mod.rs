//! The server's side of a guest's xenstore page: two rings of bytes, one each way, and an event channel.
//!
//! The page is the guest's, and everything in it may change or lie. What is read from it is copied out once; an index that
//! is impossible ends this connection, with the reason in the page's `error` field, and nobody else's. A guest may ask for
//! a new connection in the page's `connection` field, whether the old one works or not: it gets one that remembers nothing.
//! A page in which that was asked for before it was connected is the same case.

mod link;
mod page;

use std::fmt;

use cantle_abi::io::xs_wire::{XENSTORE_ERROR_COMM, XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX};
use cantle_abi::ring::RingBroken;
use cantle_abi::{DomId, SharedMemory};

use crate::server::{Closed, ConnId, ConnKind};
use crate::shared::{Shared, Waker};
use link::Link;
use page::Page;

pub(crate) use link::renew;
pub(crate) use page::PageEnd;

/// How often one [`Ring::pump`] goes through the rings, 1024 bytes each way each time.
const ROUNDS: u32 = 16;
/// Bytes that a ring holds, each way.
const RING_SIZE: usize = 1024;

/// What [`Ring::pump`] left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing to do until the guest or the waker signals.
    Idle,
    /// The call's work was used up, and there may be more: call again soon, others first.
    More,
    /// The connection has ended. The page is not touched any more.
    Broken(RingFault),
}

/// Why a ring's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingFault {
    /// The guest moved an index to where it cannot be, or the page is no page.
    #[error(transparent)]
    Index(#[from] RingBroken),
    /// The guest sent what is no message, or the server ended the connection (its domain was released).
    #[error(transparent)]
    Closed(#[from] Closed),
    /// Who served it before is gone, and what was under way with it.
    #[error("the connection was interrupted")]
    Interrupted,
}

impl RingFault {
    /// What the page's `error` field says.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Index(_) => XENSTORE_ERROR_RINGIDX,
            Self::Closed(_) => XENSTORE_ERROR_PROTO,
            Self::Interrupted => XENSTORE_ERROR_COMM,
        }
    }

    /// Whether the guest may have another connection. One whose domain is gone may not.
    pub(crate) fn is_final(self) -> bool {
        self == Self::Closed(Closed::Unknown)
    }
}

/// One guest's ring. Dropping it ends the connection.
pub struct Ring<M> {
    link: Link,
    page: Page<M>,
    /// Bytes taken out of the ring that the server does not want yet.
    held: Vec<u8>,
    fault: Option<RingFault>,
}

/// A ring in parts, for a service that serves it among others.
pub(crate) struct Parts<M> {
    pub(crate) conn: ConnId,
    pub(crate) domid: DomId,
    pub(crate) page: Page<M>,
    pub(crate) held: Vec<u8>,
    pub(crate) fault: Option<RingFault>,
}

impl<M> fmt::Debug for Ring<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("conn", &self.link.conn())
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl<M: SharedMemory> Ring<M> {
    /// Connects a domain's page. `waker` is called when something waits to be written there because of what others did;
    /// call [`pump`](Self::pump) then, once in any case, and when the domain has notified its event channel.
    ///
    /// The page's indices stay as they are.
    #[must_use]
    pub fn connect(store: &Shared, domid: DomId, memory: M, waker: Waker) -> Self {
        let conn = store.connect_as(ConnKind::Ring, domid, false, waker);
        Self::adopt(store, conn, domid, memory)
    }

    /// Goes on with a page whose connection the server has already, after a live update. Its waker is still to be set
    /// ([`Shared::set_waker`]); a service does that itself.
    #[must_use]
    pub fn adopt(store: &Shared, conn: ConnId, domid: DomId, memory: M) -> Self {
        let features = store.with(|server| server.features(domid));
        Self {
            link: Link::new(store.clone(), conn, domid),
            page: Page::new(memory, features),
            held: Vec::new(),
            fault: None,
        }
    }

    /// Bytes that were taken out of the page already and come before those that are in it.
    #[must_use]
    pub fn with_held(mut self, held: Vec<u8>) -> Self {
        self.held = held;
        self
    }

    /// Says in the page that its connection was lost, as it was when whoever served it before ended without a word. The
    /// guest is served again once it has asked for a new connection.
    pub fn interrupt(&mut self) {
        self.give_up(RingFault::Interrupted);
    }

    /// Takes requests out of the page and writes replies and events into it, as far as both allow. Calls `notify` once if
    /// the domain has something to look at: new bytes, new room for its own, or a new connection.
    ///
    /// Bounded: at most 16 KiB each way, and one new connection. A guest that does not read its replies is not listened to,
    /// and costs nothing.
    pub fn pump(&mut self, notify: impl FnOnce()) -> Pumped {
        let mut moved = self.reconnect();
        if let Some(fault) = self.fault {
            return Pumped::Broken(fault);
        }
        for _ in 0..ROUNDS {
            match self.round() {
                Ok(true) => moved = true,
                Ok(false) => {
                    if moved {
                        notify();
                    }
                    return Pumped::Idle;
                }
                Err(fault) => {
                    self.give_up(fault);
                    notify();
                    return Pumped::Broken(fault);
                }
            }
        }
        notify();
        Pumped::More
    }

    /// The server's name for the connection. It is another one after a reconnection.
    #[must_use]
    pub fn conn(&self) -> ConnId {
        self.link.conn()
    }

    pub(crate) fn into_parts(self) -> Parts<M> {
        let domid = self.link.domid();
        Parts {
            conn: self.link.into_conn(),
            domid,
            page: self.page,
            held: self.held,
            fault: self.fault,
        }
    }

    /// Makes a new connection if the guest asks for one; whether it did.
    fn reconnect(&mut self) -> bool {
        if self.fault.is_some_and(RingFault::is_final) || !self.page.wants_reset() {
            return false;
        }
        if !self.link.renew() {
            self.give_up(RingFault::Closed(Closed::Unknown));
            return false;
        }
        self.held = Vec::new();
        self.fault = None;
        self.page.reset();
        true
    }

    /// Moves up to a ring's size each way; whether anything moved.
    fn round(&mut self) -> Result<bool, RingFault> {
        let mut moved = false;
        if self.held.is_empty() {
            let mut bytes = [0; RING_SIZE];
            let taken = self.page.read(&mut bytes)?;
            self.held
                .extend_from_slice(bytes.get(..taken).unwrap_or_default());
            moved |= taken > 0;
        }
        let (held, page) = (&mut self.held, &self.page);
        let written = self.link.with(|server, conn| {
            let taken = server.feed(conn, held)?;
            held.drain(..taken);
            let written = page.write(server.output(conn, RING_SIZE))?;
            server.consume_output(conn, written);
            Ok(written)
        })?;
        Ok(moved || written > 0)
    }

    fn give_up(&mut self, fault: RingFault) {
        tracing::warn!(conn = ?self.conn(), %fault, "xenstore ring given up");
        // What was under way is forgotten now; a new connection stands by for a guest that asks for one.
        self.link.renew();
        self.held = Vec::new();
        self.fault = Some(fault);
        self.page.fail(fault.code());
    }
}
