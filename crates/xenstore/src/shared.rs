//! A server that several threads use.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use cantle_abi::{DomId, Errno};

use crate::client::LocalClient;
use crate::server::{ConnId, ConnKind, Server};

/// Called when something waits for a connection. It may only leave a signal: it is called from whatever thread changed the
/// store, and must not call the store itself.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A [`Server`] behind a lock, for everybody in this process who has to do with it. Clones are the same store.
///
/// One party's request can queue something for another: a back end writes its state, and a guest's watch fires. Each
/// connection therefore has a [`Waker`], called after the lock is released.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Inner>>);

struct Inner {
    server: Server,
    wakers: HashMap<ConnId, Waker>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new(Server::new())
    }
}

impl Shared {
    /// Shares a server.
    #[must_use]
    pub fn new(server: Server) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            server,
            wakers: HashMap::new(),
        })))
    }

    /// Does something with the server, and wakes those for whom it left something.
    pub fn with<R>(&self, act: impl FnOnce(&mut Server) -> R) -> R {
        self.with_except(None, act)
    }

    /// As [`with`](Self::with), without waking `own`: whoever is about to look anyway.
    pub(crate) fn with_except<R>(
        &self,
        own: Option<ConnId>,
        act: impl FnOnce(&mut Server) -> R,
    ) -> R {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut inner.server);
        let ready = inner.server.take_ready();
        let wakers: Vec<Waker> = ready
            .iter()
            .filter(|conn| Some(**conn) != own)
            .filter_map(|conn| inner.wakers.get(conn).map(Arc::clone))
            .collect();
        drop(inner);
        for wake in wakers {
            wake();
        }
        result
    }

    /// A new connection from within this process, and its waker.
    pub fn connect(&self, domid: DomId, privileged: bool, waker: Waker) -> ConnId {
        self.connect_as(ConnKind::InProcess, domid, privileged, waker)
    }

    /// A new connection of a kind, and its waker: see [`Server::connect_as`].
    pub fn connect_as(
        &self,
        kind: ConnKind,
        domid: DomId,
        privileged: bool,
        waker: Waker,
    ) -> ConnId {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let conn = inner.server.connect_as(kind, domid, privileged);
        inner.wakers.insert(conn, waker);
        conn
    }

    /// Ends a connection; its waker is called no more once this has returned, but for calls that have begun.
    pub fn disconnect(&self, conn: ConnId) {
        self.with(|server| server.disconnect(conn));
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.wakers.remove(&conn);
    }

    /// A client for a domain in this process. Domain 0 is privileged.
    ///
    /// # Errors
    ///
    /// Where the process may open no more files.
    pub fn client(&self, domid: DomId) -> io::Result<LocalClient> {
        LocalClient::new(self.clone(), domid, domid == DomId::DOM0)
    }

    /// Makes a domain known: see [`Server::introduce`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn introduce(&self, domid: DomId) -> Result<bool, Errno> {
        self.with(|server| server.introduce(domid))
    }

    /// A domain is gone: see [`Server::release`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(&self, domid: DomId) -> Result<(), Errno> {
        self.with(|server| server.release(domid))
    }
}
