//! The server's side of a guest's xenstore page: two rings of bytes, one each way, and an event channel.
//!
//! The page is the guest's, and everything in it may change or lie. What is read from it is copied out once; an index that
//! is impossible ends this connection, with the reason in the page's `error` field, and nobody else's.

// UNSAFETY: two 32-bit fields of the page are reached through a raw pointer into memory that the guest writes.
#![expect(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use cantle_abi::io::xs_wire::{
    XENSTORE_ERROR_OFFSET, XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX, XENSTORE_REQ,
    XENSTORE_RSP, XENSTORE_SERVER_FEATURE_ERROR, XENSTORE_SERVER_FEATURES_OFFSET,
};
use cantle_abi::ring::RingBroken;
use cantle_abi::{DomId, SharedMemory};

use crate::server::{Closed, ConnId, ConnKind};
use crate::shared::{Shared, Waker};

/// How often one [`Ring::pump`] goes through the rings, 1024 bytes each way each time.
const ROUNDS: u32 = 16;
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
}

/// One guest's ring. Dropping it ends the connection.
pub struct Ring<M> {
    store: Shared,
    conn: ConnId,
    memory: M,
    /// Bytes taken out of the ring that the server does not want yet.
    held: Vec<u8>,
    fault: Option<RingFault>,
}

impl<M> fmt::Debug for Ring<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("conn", &self.conn)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl<M: SharedMemory> Ring<M> {
    /// Connects a domain's page. `waker` is called when something waits to be written there because of what others did;
    /// call [`pump`](Self::pump) then, and when the domain has notified its event channel.
    #[must_use]
    pub fn connect(store: &Shared, domid: DomId, memory: M, waker: Waker) -> Self {
        let conn = store.connect_as(ConnKind::Ring, domid, false, waker);
        put(
            &memory,
            XENSTORE_SERVER_FEATURES_OFFSET,
            XENSTORE_SERVER_FEATURE_ERROR,
        );
        Self {
            store: store.clone(),
            conn,
            memory,
            held: Vec::with_capacity(RING_SIZE),
            fault: None,
        }
    }

    /// Takes requests out of the page and writes replies and events into it, as far as both allow. Calls `notify` once if
    /// the domain has something to look at: new bytes, or new room for its own.
    ///
    /// Bounded: at most 16 KiB each way. A guest that does not read its replies is not listened to, and costs nothing.
    pub fn pump(&mut self, notify: impl FnOnce()) -> Pumped {
        if let Some(fault) = self.fault {
            return Pumped::Broken(fault);
        }
        let mut moved = false;
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

    /// The server's name for the connection.
    #[must_use]
    pub fn conn(&self) -> ConnId {
        self.conn
    }

    /// Moves up to a ring's size each way; whether anything moved.
    fn round(&mut self) -> Result<bool, RingFault> {
        let mut moved = false;
        if self.held.is_empty() {
            let mut bytes = [0; RING_SIZE];
            let taken = XENSTORE_REQ.read(&self.memory, &mut bytes)?;
            self.held
                .extend_from_slice(bytes.get(..taken).unwrap_or_default());
            moved |= taken > 0;
        }
        let (held, memory, conn) = (&mut self.held, &self.memory, self.conn);
        let written = self.store.with_except(Some(conn), |server| {
            let taken = server.feed(conn, held)?;
            held.drain(..taken);
            let written = XENSTORE_RSP.write(memory, server.output(conn, RING_SIZE))?;
            server.consume_output(conn, written);
            Ok::<_, RingFault>(written)
        })?;
        // Our producer index must be out before the guest's consumer index is read the next time: the guest looks the other
        // way round to decide whether a full ring became free and we are to be told.
        fence(Ordering::SeqCst);
        Ok(moved || written > 0)
    }

    fn give_up(&mut self, fault: RingFault) {
        tracing::warn!(conn = ?self.conn, %fault, "xenstore ring given up");
        let code = match fault {
            RingFault::Index(_) => XENSTORE_ERROR_RINGIDX,
            RingFault::Closed(_) => XENSTORE_ERROR_PROTO,
        };
        put(&self.memory, XENSTORE_ERROR_OFFSET, code);
        self.store.disconnect(self.conn);
        self.held = Vec::new();
        self.fault = Some(fault);
    }
}

impl<M> Drop for Ring<M> {
    fn drop(&mut self) {
        self.store.disconnect(self.conn);
    }
}

/// Sets a field of the page, where the page is long enough to have it.
fn put<M: SharedMemory>(memory: &M, offset: usize, value: u32) {
    if !offset.is_multiple_of(4) || offset + 4 > memory.len() {
        return;
    }
    // SAFETY: inside the memory by the check above, aligned since the memory is (by its trait) and the offset is; an atomic
    // may alias memory that others write, and the memory outlives the borrow.
    let field = unsafe { AtomicU32::from_ptr(memory.as_ptr().add(offset).cast().as_ptr()) };
    // Release: a guest that sees the error sees what was written before it.
    field.store(value, Ordering::Release);
}
