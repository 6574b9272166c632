//! A client in the server's own process.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::io::xs_wire::XsType;
use cantle_abi::{DomId, Errno};

use super::{Client, TxId, WatchEvent};
use crate::server::ConnId;
use crate::shared::Shared;
use crate::wake::Wake;

/// A connection to a [`Shared`] store. Requests are calls; nothing is copied to bytes and back but the payload.
#[derive(Debug)]
pub struct LocalClient {
    store: Shared,
    conn: ConnId,
    wake: Arc<Wake>,
}

impl LocalClient {
    /// Connects for a domain; see [`Shared::client`].
    ///
    /// # Errors
    ///
    /// Where the process may open no more files.
    pub fn new(store: Shared, domid: DomId, privileged: bool) -> io::Result<Self> {
        let wake = Arc::new(Wake::new()?);
        let raise = Arc::clone(&wake);
        let conn = store.connect(domid, privileged, Arc::new(move || raise.raise()));
        Ok(Self { store, conn, wake })
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Shared {
        &self.store
    }
}

impl Client for LocalClient {
    fn request(&self, op: XsType, tx: TxId, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        self.store
            .with(|server| server.request(self.conn, op, tx, payload))
    }

    fn take_event(&self) -> Option<WatchEvent> {
        self.store.with(|server| {
            let event = server.take_event(self.conn);
            // Under the lock, or an event queued just now would lose its signal.
            if !server.has_output(self.conn) {
                self.wake.lower();
            }
            event
        })
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.wake.fd()
    }

    fn is_connected(&self) -> bool {
        self.store.with(|server| server.is_connected(self.conn))
    }
}

impl Drop for LocalClient {
    fn drop(&mut self) {
        self.store.disconnect(self.conn);
    }
}
